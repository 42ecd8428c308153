"""The donor game: the recipient gets twice what the donor gives, and a record of who gave goes round."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.commons.donor_game_values import ROLES
from marl_suite.envs.environment import (
    Environment,
    Metrics,
    Player,
    PyTree,
    at_least,
    at_most,
    one_of,
    per_episode,
    random_player,
)
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, Discrete

BEST_IMAGE = 5
"""Image scores lie between -5 and 5 (Nowak and Sigmund, 1998)."""
DONOR, IMAGE, LAST_IMAGE, RECORD = 2, 4, 5, 6
"""Where an observation tells whether one donates, and of the recipient: image, that of whom it last met, record."""


class DonorGameState(struct.PyTreeNode):
    """Wealth, who meets whom, and what is known of each agent. Agents sit around a ring and meet a neighbour."""

    wealth: jax.Array  # float32 [N], units of the resource
    place: jax.Array  # int32 [N], on the ring; those at even places donate in even rounds, to the next place
    partner: jax.Array  # int32 [N], whom each agent meets in the coming round
    image: jax.Array  # float32 [N], image score, -5 .. 5
    last_image: jax.Array  # float32 [N], the image, at the time, of the recipient that each agent last donated to
    known: jax.Array  # float32 [N, M], 1 where there is an entry of the record
    record: jax.Array  # float32 [N, M], latest first: share of wealth given, negative where it was spent on punishing
    time: jax.Array  # int32 [], rounds played


class DonorGameParams(struct.PyTreeNode):
    """The numbers of the donor game."""

    endowment: float = 10.0  # [], units that each agent starts with
    multiplier: float = 2.0  # [], units received per unit given
    punishment_factor: float = 2.0  # [], units destroyed per unit spent on punishing
    good_share: float = 0.5  # [], the least share given that raises an image; any other lowers it
    rounds: int = 12  # [], of a generation


@dataclasses.dataclass(frozen=True)
class DonorGame(Environment):
    """Donor game: a gift brings its recipient twice what it costs, but only one's reputation can bring it back.

    Source: Nowak and Sigmund (1998), Evolution of indirect reciprocity by image scoring, Nature 393; Vallinder and
    Hughes (2024), Cultural evolution of cooperation among LLM agents, arXiv 2412.10270, for the numbers.

    Rules: everyone starts a generation of `rounds` = 12 with `endowment` = 10. In each round half of the N = 12 agents
    donate, each to one of the other half: a donor with wealth w gives x = f w, its recipient gets `multiplier` x = 2 x.
    With `punishment` a donor may spend x on destroying `punishment_factor` x of its recipient's wealth, down to 0.

    * `roles="alternating"`: two halves, drawn at the start, take turns. All sit around a ring in which the halves
      alternate, and each donor gives to the next on the ring. Places within the halves are drawn anew before every
      two rounds, so that within these two nobody returns what it got.
    * `roles="random"`: the whole ring is drawn anew before every round. Much less is at stake: when all give all,
      mean wealth ends at 1297 instead of 30720 (`donor_game_values.mean_final_wealth`).

    A donor sees, with `reputation`, its recipient's wealth, image score, record, and the image of the one whom that
    recipient last donated to (was its stinginess deserved?). The score starts at 0, rises by 1 with a gift of at least
    `good_share` = 1/2 and falls by 1 else, between -5 and 5. The record has `memory` = 3 entries: with
    `record="chain"`, the share that the recipient last gave, the one that its recipient then had last given, and so on;
    with `record="own"`, the last shares of the recipient itself. `reputation=False` shows zeros instead.
    Terminates after `rounds`, which all know: wealth at that time is what a generation is judged by.

    Free riding among constant givers pays up to a share of 0.74 (`lone_free_rider_wealth`: 510 against 394 among
    those who give half). Where more is given, a hoarder stops the flow that feeds it: 24662 against 30720 among those
    who give all, so that this pair's Schelling diagram shows fear without greed, and give_half's both.

    Shapes: action int32; a < L = `num_levels` (5) gives the share a / (L - 1), L - 1 + p spends p / (L - 1) on
    punishing; a recipient can only do 0, and whatever else it does counts as 0. Observation float32 [6 + 2 M], in
    [-1, 1]: share of rounds gone, log(1 + own wealth / endowment) relative to its bound, whether one donates; then of
    the recipient, and 0 for those who do not donate: wealth on the same scale, image / 5, image / 5 of the one it last
    donated to, which entries of the record there are, and these (0 .. 1 given, negative for punishing). Reward
    float32 [N]: change of own wealth in units. Metrics: "donation" and "punishment" (with `punishment`), the shares of
    their wealth that the round's donors gave and spent; of the whole generation "final_wealth" (mean) and
    "final_equality" (1 - Gini; NaN-free: 0 when nobody has anything).

    Deviations: shares come in levels, agents are not told apart by name, and the image score is Nowak and Sigmund's
    (Vallinder and Hughes show wealth and the chain only). A public copy of their code swaps roles in every round but
    the seventh, since it plays six rounds and then the same with roles exchanged: all giving all ends with 15360.

    Raises:
        InputError: for an odd number of agents or fewer than 4, fewer than two levels, a memory below 1, or unknown
            roles or record.
    """

    name: str = "donor_game"
    num_agents: int = 12
    num_levels: int = 5
    memory: int = 3
    roles: str = "alternating"
    record: str = "chain"
    reputation: bool = True
    punishment: bool = False

    mixed_motive: ClassVar[bool] = True
    masks_actions: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "free_rider"
    cooperator: ClassVar[str | None] = "give_all"
    defector: ClassVar[str | None] = "free_rider"
    definitions: ClassVar[Mapping[str, str]] = {
        "give_all": "gives all it has whenever it donates",
        "give_half": "gives half of what it has, or the next higher level",
        "free_rider": "never gives anything",
        "image_scorer": "gives all to those whose image score is not negative, and nothing to others",
        "punisher": "as image_scorer, but spends a quarter, or the next higher level, on punishing the others",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 4)
        if self.num_agents % 2:
            raise InputError(
                f"{self.name}: num_agents must be even, got {self.num_agents}; closest: {self.num_agents + 1}"
            )
        at_least(f"{self.name}: num_levels", self.num_levels, 2)
        at_least(f"{self.name}: memory", self.memory, 1)
        one_of(f"{self.name}: roles", self.roles, ROLES)
        one_of(f"{self.name}: record", self.record, ("chain", "own"))

    @property
    def default_params(self) -> DonorGameParams:
        return DonorGameParams()

    def check_params(self, params: DonorGameParams) -> None:
        at_least(f"{self.name}: parameter endowment", params.endowment, 1e-3)
        at_least(f"{self.name}: parameter multiplier", params.multiplier, 0)
        at_least(f"{self.name}: parameter punishment_factor", params.punishment_factor, 0)
        at_least(f"{self.name}: parameter good_share", params.good_share, 0)
        at_most(f"{self.name}: parameter good_share", params.good_share, 1)
        at_least(f"{self.name}: parameter rounds", params.rounds, 1)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(-1, 1, (RECORD + 2 * self.memory,))

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete((1 + self.punishment) * (self.num_levels - 1) + 1)

    def action_mask(self, state: DonorGameState, params: PyTree = None) -> jax.Array:
        is_nothing = np.arange(self.action_space().n) == 0
        return self.donates(state)[:, None] | is_nothing

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: DonorGameParams) -> DonorGameState:
        place = _shuffled(key, jnp.zeros(self.num_agents, jnp.int32), groups=1)
        nothing, no_record = jnp.zeros(self.num_agents), jnp.zeros((self.num_agents, self.memory))
        return DonorGameState(
            wealth=jnp.full(self.num_agents, params.endowment, jnp.float32),
            place=place,
            partner=_partner(place, jnp.int32(0)),
            image=nothing,
            last_image=nothing,
            known=no_record,
            record=no_record,
            time=jnp.int32(0),
        )

    def donates(self, state: DonorGameState) -> jax.Array:
        """bool [N]: who donates in the coming round; the others receive."""
        return (state.place + state.time) % 2 == 0

    def shares(self, state: DonorGameState, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """float32 [N] twice: the shares of their wealth that agents give and spend on punishing, 0 for recipients."""
        level = jnp.where(self.donates(state), actions, 0).astype(jnp.float32)
        top = self.num_levels - 1
        return jnp.where(level <= top, level, 0) / top, jnp.maximum(level - top, 0) / top

    def transition(
        self, key: jax.Array, state: DonorGameState, actions: jax.Array, params: DonorGameParams
    ) -> tuple[DonorGameState, jax.Array, jax.Array, Metrics]:
        donates = self.donates(state)
        given, spent = self.shares(state, actions)
        effect = state.wealth * (params.multiplier * given - params.punishment_factor * spent)
        wealth = jnp.maximum(state.wealth * (1 - given - spent) + effect[state.partner], 0)
        known, record = self._records(state, given - spent)
        image = jnp.clip(state.image + jnp.where(given >= params.good_share, 1, -1), -BEST_IMAGE, BEST_IMAGE)
        time = state.time + 1
        place = self._next_places(key, state.place, time)
        after = DonorGameState(
            wealth=wealth,
            place=place,
            partner=_partner(place, time),
            image=jnp.where(donates, image, state.image),
            last_image=jnp.where(donates, state.image[state.partner], state.last_image),
            known=jnp.where(donates[:, None], known, state.known),
            record=jnp.where(donates[:, None], record, state.record),
            time=time,
        )
        over = time >= params.rounds
        return after, wealth - state.wealth, over, self._metrics(given, spent, wealth, over)

    def _records(self, state: DonorGameState, share: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What donors' `known` and `record` become when they have given (or, negative, spent) `share` [N]."""
        whose = state.partner if self.record == "chain" else np.arange(self.num_agents)
        known, record = (x[whose, :-1] for x in (state.known, state.record))
        return jnp.concatenate([jnp.ones_like(share)[:, None], known], 1), jnp.concatenate([share[:, None], record], 1)

    def _next_places(self, key: jax.Array, place: jax.Array, time: jax.Array) -> jax.Array:
        """Where agents sit in round `time`."""
        if self.roles == "random":
            return _shuffled(key, jnp.zeros_like(place), groups=1)
        return jnp.where(time % 2 == 0, _shuffled(key, place % 2, groups=2), place)

    def _metrics(self, given: jax.Array, spent: jax.Array, wealth: jax.Array, over: jax.Array) -> Metrics:
        half, total = self.num_agents / 2, wealth.sum()
        differences = jnp.abs(wealth[:, None] - wealth).sum()
        gini = differences / (2 * self.num_agents * jnp.maximum(total, 1e-30))
        last = over.astype(jnp.float32)
        metrics = {
            "donation": given.sum() / half,
            "final_wealth": last * total / self.num_agents,
            "final_equality": last * (total > 0) * (1 - gini),
            "episodes": last,
        }
        return metrics | ({"punishment": spent.sum() / half} if self.punishment else {})

    def derived_metrics(self, means: Metrics) -> Metrics:
        return per_episode(means, "final_wealth", "final_equality")

    def is_truncated(self, state: DonorGameState, params: DonorGameParams) -> jax.Array:
        """Never: a generation ends by the rules."""
        return jnp.zeros((), bool)

    # ------------------------------------------------------------------ views
    def observe(self, state: DonorGameState, params: DonorGameParams) -> jax.Array:
        # Nobody can own more than endowment (1 + multiplier)^rounds.
        bound = (params.rounds + 1) * jnp.log(jnp.maximum(1 + params.multiplier, 2.0))
        wealth = jnp.minimum(jnp.log1p(state.wealth / params.endowment) / bound, 1)
        donates = self.donates(state)
        clock = jnp.full(self.num_agents, state.time / params.rounds, jnp.float32)
        own = jnp.stack([clock, wealth, donates.astype(jnp.float32)], 1)
        facts = jnp.stack([wealth, state.image / BEST_IMAGE, state.last_image / BEST_IMAGE], 1)
        card = jnp.concatenate([facts, state.known, state.record], 1)
        if not self.reputation:
            return jnp.concatenate([own, jnp.zeros_like(card)], 1)
        return jnp.concatenate([own, jnp.where(donates[:, None], card[state.partner], 0)], 1)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random`, constant givers, and those who look at the recipient's image; `punisher` where it may punish."""
        top = self.num_levels - 1
        rules = {"give_all": (top,) * 3, "give_half": (-(-top // 2),) * 3, "free_rider": (0,) * 3}
        rules["image_scorer"] = (0, top, top)
        if self.punishment:
            rules["punisher"] = (top + -(-top // 4), top, top)
        chosen = {name: _by_image(levels) for name, levels in rules.items()}
        anything = random_player(self)
        return {"random": lambda observation, key: _if_donor(observation, anything(observation, key))} | chosen


def act_by_image(strategy: jax.Array | np.ndarray, observation: jax.Array, key: jax.Array) -> jax.Array:
    """The action of a donor by its recipient's image: strategy int [3] has one for a bad, a blank and a good one.

    Without reputation every image is blank.
    """
    del key
    bad, blank, good = strategy
    image = observation[IMAGE]
    return _if_donor(observation, jnp.where(image < 0, bad, jnp.where(image > 0, good, blank)))


def _by_image(strategy: tuple[int, ...]) -> Player:
    return lambda observation, key: act_by_image(np.asarray(strategy, np.int32), observation, key)


def _if_donor(observation: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.where(observation[DONOR] > 0, action, 0).astype(jnp.int32)


# ---------------------------------------------------------------------- the ring
def _shuffled(key: jax.Array, group: jax.Array, groups: int) -> jax.Array:
    """int32 [N]: fresh places for agents of `group` int32 [N]; group g sits at places g, g + groups, ..."""
    num_agents = np.uint32(len(group))
    draws = (jax.random.bits(key, group.shape) >> 1) // num_agents * num_agents + np.arange(len(group), dtype=np.uint32)
    # All draws differ, since their remainders do, so that no two agents share a place.
    before = (draws[None, :] < draws[:, None]) & (group[None, :] == group[:, None])
    return groups * before.sum(1, dtype=jnp.int32) + group


def _partner(place: jax.Array, time: jax.Array) -> jax.Array:
    """int32 [N]: whom each agent meets in round `time`: a donor the next on the ring, a recipient the one before."""
    num_agents = len(place)
    neighbour = (place + jnp.where((place + time) % 2 == 0, 1, -1)) % num_agents
    meets = neighbour[:, None] == place[None, :]
    return jnp.sum(meets * np.arange(num_agents, dtype=np.int32), 1, dtype=jnp.int32)
