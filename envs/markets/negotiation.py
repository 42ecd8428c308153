"""Items to split between two agents that value them differently: both claim at once, and a step is a whole round."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, one_of, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, MultiDiscrete

SPLITS = ("divide_when_above", "proportion")


def shares(claims: Any, most: int, split: str = "divide_when_above") -> Any:
    """What part of every item each agent gets, for claims [N, ...] of numpy or jax.

    p_i / max(sum_j p_j, most): claims that fit are met in full and the rest is lost, others are cut in
    proportion. Under "proportion" p_i / (sum_j p_j + 1e-8): only what nobody claims is lost (Duque et
    al. 2025, exchange game).
    """
    total = claims.sum(axis=0)
    return claims / (total + 1e-8 if split == "proportion" else total.clip(most))


def fair_claims(mine: Any, theirs: Any, most: int) -> Any:
    """int [...]: everything of what is worth more to me, half of what is worth the same to both, nothing else."""
    return (mine > theirs) * most + (mine == theirs) * -(-most // 2)


def greedy_claims(mine: Any, theirs: Any, most: int) -> Any:
    """int [...]: everything."""
    del theirs
    return most + 0 * (mine > 0)


RULES = {"cooperate": fair_claims, "defect": greedy_claims}


def expected_rewards(
    first: str, second: str, split: str = "divide_when_above", low: float = 1.0, high: float = 5.0, most: int = 5
) -> np.ndarray:
    """float64 [2]: exact mean reward per round of two of the `RULES` in the default `Negotiation` of three items.

    The mean over all eight draws: a PD with T .55 > R .50 > P .30 > S .25 for the default numbers.
    """
    draws = np.array(list(itertools.product((low, high), repeat=3)))
    values = np.stack([draws, low + high - draws])  # [N, draws, items]
    claims = np.stack([RULES[rule](values[i], values[1 - i], most) for i, rule in enumerate((first, second))])
    return (shares(claims, most, split) * values).sum(axis=-1).mean(axis=-1) / (3 * high)


def welfare_optimum(utilities: Any, pool: Any) -> Any:
    """The most that both can get together: sum_k q_k max_i u_ik, from utilities [N, K] and units [K]."""
    return (pool * utilities.max(axis=0)).sum(axis=-1)


def two_of_three(chance: jax.Array) -> jax.Array:
    """int32 [2]: two different numbers of 0, 1, 2, each of the six pairs as likely for a uniform `chance`."""
    pair = jnp.floor(chance * 6).astype(jnp.int32)
    return jnp.stack([pair // 2, (pair // 2 + 1 + pair % 2) % 3])


class ItemSplitState(struct.PyTreeNode):
    """The items of this round, and what was claimed in the last."""

    utilities: jax.Array  # float32 [N, K], points per unit
    pool: jax.Array  # int32 [K], units
    proposals: jax.Array  # int32 [N, K], last round's claims, 0 at the start
    last_utilities: jax.Array  # float32 [N, K], last round's, 0 at the start
    time: jax.Array  # int32 [], rounds played


class ItemSplitParams(struct.PyTreeNode):
    """What items are worth, in points per unit."""

    low_utility: float  # float []
    high_utility: float  # float []
    max_steps: int  # int [], rounds


class ItemSplit(Environment):
    """K items are split by simultaneous claims 0 .. `most` per item, with all utilities in plain sight.

    A subclass adds `draw` and `default_params`, and may scale rewards by `reward_scale`.
    """

    num_items: int
    most: int  # the largest claim
    split: str
    show_last_utilities: bool
    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "always_defect"
    cooperator: ClassVar[str | None] = "always_cooperate"
    defector: ClassVar[str | None] = "always_defect"
    definitions: ClassVar[Mapping[str, str]] = {
        "always_cooperate": "claims all of what it values more, half of what both value alike, and nothing else",
        "always_defect": "claims all of everything",
        "tit_for_tat": "cooperates, but claims all of everything after a round in which the other claimed too much",
    }

    def draw(self, key: jax.Array, params: PyTree) -> tuple[jax.Array, jax.Array]:
        """The items of a round: utilities float32 [N, K] and units int32 [K]."""
        raise NotImplementedError

    def reward_scale(self, params: PyTree) -> Any:
        """What points are divided by."""
        return 1.0

    def __post_init__(self) -> None:
        if self.num_agents != 2:
            raise InputError(f"{self.name} is a game of 2 agents, got num_agents={self.num_agents}; use 2")

    def check_params(self, params: PyTree) -> None:
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)
        at_least(f"{self.name}: parameter low_utility", params.low_utility, 0)
        at_least(f"{self.name}: parameter high_utility", params.high_utility, 1)
        gap = params.high_utility - params.low_utility
        at_least(f"{self.name}: parameter high_utility minus low_utility", gap, 0)

    def action_space(self, params: PyTree = None) -> MultiDiscrete:
        return MultiDiscrete((self.most + 1,) * self.num_items)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, ((7 if self.show_last_utilities else 5) * self.num_items,))

    def initial_state(self, key: jax.Array, params: PyTree) -> ItemSplitState:
        utilities, pool = self.draw(key, params)
        nothing = jnp.zeros(utilities.shape, jnp.int32)
        return ItemSplitState(utilities, pool, nothing, jnp.zeros(utilities.shape), jnp.zeros((), jnp.int32))

    def transition(
        self, key: jax.Array, state: ItemSplitState, actions: jax.Array, params: PyTree
    ) -> tuple[ItemSplitState, jax.Array, jax.Array, Metrics]:
        worth = state.utilities
        units = shares(actions, self.most, self.split) * state.pool
        points = (units * worth).sum(axis=1)
        metrics = {
            "welfare_ratio": points.sum() / welfare_optimum(worth, state.pool),
            "units_to_higher": (units * (worth > worth[::-1])).sum(),
            "units_contested": (state.pool * (worth[0] != worth[1])).sum().astype(jnp.float32),
        }
        utilities, pool = self.draw(key, params)
        state = ItemSplitState(utilities, pool, actions.astype(jnp.int32), worth, state.time + 1)
        return state, points / self.reward_scale(params), jnp.zeros((), bool), metrics

    def observe(self, state: ItemSplitState, params: PyTree) -> jax.Array:
        pool = jnp.broadcast_to(state.pool / self.most, state.utilities.shape)
        worth, claimed = state.utilities / params.high_utility, state.proposals / self.most
        parts = [pool, worth, claimed, worth[::-1], claimed[::-1]]
        if self.show_last_utilities:
            last = state.last_utilities / params.high_utility
            parts += [last, last[::-1]]
        return jnp.concatenate(parts, axis=1)

    def derived_metrics(self, means: Metrics) -> Metrics:
        """`welfare_ratio`, and `to_higher_utility`: the part of contested units that went to who values them more."""
        ratio = means["units_to_higher"] / means["units_contested"]
        return {"welfare_ratio": means["welfare_ratio"], "to_higher_utility": ratio}

    # ------------------------------------------------------------------ scripted players
    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "always_cooperate": lambda observation, key: self._claim(observation, False),
            "always_defect": lambda observation, key: self._claim(observation, True),
            "tit_for_tat": lambda observation, key: self._claim(observation, self._was_robbed(observation)),
        }

    def _claim(self, observation: jax.Array, greedy: jax.Array | bool) -> jax.Array:
        _, mine, _, theirs, *_ = observation.reshape(-1, self.num_items)
        fair, all_of_it = (rule(mine, theirs, self.most) for rule in (fair_claims, greedy_claims))
        return jnp.where(greedy, all_of_it, fair).astype(jnp.int32)

    def _was_robbed(self, observation: jax.Array) -> jax.Array:
        """Whether the other claimed more than its due in the last round, as far as the observation tells.

        Where it does not show the last utilities, a cooperator's own claims do: two fair ones never exceed an item by
        more than the odd unit. Only after greedy claims of my own, which tell nothing, must it be guessed: who claims
        all of everything is greedy.
        """
        _, _, mine, _, theirs, *last = observation.reshape(-1, self.num_items)
        mine, theirs = jnp.round(mine * self.most), jnp.round(theirs * self.most)
        if self.show_last_utilities:
            return jnp.any(theirs > fair_claims(last[1], last[0], self.most) * (theirs > 0))
        overlap = jnp.any(mine + theirs > self.most + self.most % 2)
        return jnp.where(jnp.all(mine == self.most), jnp.all(theirs == self.most), overlap)


SAMPLINGS = ("high_contrast", "uniform", "high_contrast_no_sampling")


@dataclasses.dataclass(frozen=True)
class Negotiation(ItemSplit):
    """Exchange game: leaving items to who values them more is best for both, and claiming everything best for oneself.

    Source: Duque et al. (2025), Advantage Alignment Algorithms, negotiation game, and the exchange game of its code
    (2024); after Cao et al. (2018), Emergent communication through negotiation.

    Rules: each round both see K = 3 items and what these are worth to either, and claim p in 0 .. 5 of each item at
    once. Agent i gets the share p_i / max(p_0 + p_1, 5) of an item (`split` "divide_when_above"; "proportion" is
    p_i / (p_0 + p_1 + 1e-8)), and the reward sum_k share x units x utility / (5 K). Utilities are drawn anew every
    round, by `sampling`:

    * "high_contrast": one unit of each item; to agent 0 it is worth 1 or 5 points by a fair coin, to agent 1 6 minus
      that. Rewards per round: both cooperate .50, both defect .30, a defector .55 against a cooperator's .25.
    * "uniform": whole numbers 1 .. 5, for both agents' utilities and the units of each item.
    * "high_contrast_no_sampling": utilities 5, 5, 1 and 1, 1, 5 in every round.

    Truncated after `max_steps` (50) rounds.

    Shapes: action int32 [3], claims 0 .. 5. Observation float32 [15], five rows of K numbers, each 0 .. 1: units / 5,
    own utilities / 5, own last claims / 5, the other's utilities / 5, its last claims / 5; with `show_last_utilities`
    two rows more, own and the other's utilities of the last round. Reward float32 [N], 0 .. 1 per unit of each item.
    Metrics: "welfare_ratio", both rewards together as part of the most that was possible, and "to_higher_utility", the
    part of unequally valued units that went to who values them more.

    Deviations: observations are scaled. Where both value an item alike the cooperator claims half of it (3 of 5, of
    which either gets half), for which the source tosses coins. The source's debugging preset with utilities of 10 is
    left out. A recurrent policy remembers old utilities; `show_last_utilities` shows them to one without memory.

    Raises:
        InputError: for other than two agents, no items, no claims, or an unknown sampling or split.
    """

    name: str = "negotiation"
    num_agents: int = 2
    sampling: str = "high_contrast"
    split: str = "divide_when_above"
    num_items: int = 3
    most: int = 5
    show_last_utilities: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(f"{self.name}: sampling", self.sampling, SAMPLINGS)
        one_of(f"{self.name}: split", self.split, SPLITS)
        at_least(f"{self.name}: num_items", self.num_items, 1)
        at_least(f"{self.name}: most", self.most, 1)

    @property
    def default_params(self) -> ItemSplitParams:
        return ItemSplitParams(low_utility=1.0, high_utility=5.0, max_steps=50)

    def reward_scale(self, params: ItemSplitParams) -> Any:
        return params.high_utility * self.num_items

    def draw(self, key: jax.Array, params: ItemSplitParams) -> tuple[jax.Array, jax.Array]:
        low, high, items = params.low_utility, params.high_utility, self.num_items
        if self.sampling == "uniform":
            chance = jax.random.uniform(key, (3, items))
            utilities = low + jnp.floor(chance[:2] * (high - low + 1))
            return utilities, 1 + jnp.floor(chance[2] * self.most).astype(jnp.int32)
        fixed = self.sampling == "high_contrast_no_sampling"
        coin = 2 * np.arange(items) < items if fixed else jax.random.uniform(key, (items,)) < 0.5
        utilities = jnp.where(jnp.stack([coin, ~coin]), high, low).astype(jnp.float32)
        return utilities, jnp.ones(items, jnp.int32)


@dataclasses.dataclass(frozen=True)
class SplitNoPress(ItemSplit):
    """Split without messages: claiming everything is best for oneself, but both gain when all goes to who needs it.

    Source: Piche et al. (2025), Learning Robust Social Strategies with Large Language Models, no-press negotiation.

    Rules: each round 10 units of each of three items are split. A unit is worth 1 or 10 points; both agents' values add
    up to the same and differ in at least one item, which leaves 12 pairs of values, each as likely; all can see them.
    Both claim s in 0 .. 10 units of every item at once and get 10 s_i / max(10, s_0 + s_1). The best for both together
    is 255 points per round on average (127.5 each), and both claiming everything gets 165 (82.5 each). Truncated after
    `max_steps` (10) rounds.

    Shapes: action int32 [3], claims 0 .. 10. Observation float32 [21], seven rows of 3 numbers, each 0 .. 1: units /
    10, own values / 10, own last claims / 10, the other's values / 10, its last claims / 10, own and the other's values
    of the last round / 10. Reward float32 [N], points. Metrics: those of `Negotiation`.

    Deviations: none known in the rules; the source's agents are told all earlier rounds, here the last one.

    Raises:
        InputError: for other than two agents.
    """

    name: str = "split_no_press"
    num_agents: int = 2

    num_items = 3
    most = 10
    split = "divide_when_above"
    show_last_utilities = True

    @property
    def default_params(self) -> ItemSplitParams:
        return ItemSplitParams(low_utility=1.0, high_utility=10.0, max_steps=10)

    def draw(self, key: jax.Array, params: ItemSplitParams) -> tuple[jax.Array, jax.Array]:
        """One item of three is either the only one of high value or the only one of low value, another for each."""
        chance = jax.random.uniform(key, (2,))
        chosen = two_of_three(chance[0])[:, None] == np.arange(self.num_items)
        utilities = jnp.where(chosen ^ (chance[1] < 0.5), params.high_utility, params.low_utility)
        return utilities.astype(jnp.float32), jnp.full(self.num_items, self.most, jnp.int32)
