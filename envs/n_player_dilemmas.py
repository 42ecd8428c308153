"""Dilemmas of n players that are one simultaneous choice, played once or over and over."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, one_of, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.repeated_games import NOT_YET, RepeatedGame, RepeatedGameState
from marl_suite.envs.spaces import Box


class NPlayerDilemma(RepeatedGame):
    """A game whose payoffs depend on who acts only through own action and how many others chose each action.

    Action 0 cooperates fully, the last one not at all. Observation float32 [1 + 2 A]: a flag for the start
    (all else is then zero), own last action (one-hot), and the share of the others that played each action.
    """

    num_actions = 2
    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "always_defect"
    cooperator: ClassVar[str | None] = "always_cooperate"
    defector: ClassVar[str | None] = "always_defect"
    definitions: ClassVar[Mapping[str, str]] = {
        "always_cooperate": "gives all it can in every step",
        "always_defect": "never gives anything",
        "conditional_cooperator": "gives all at first, then what the others gave on average",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (1 + 2 * self.num_actions,))

    def observe(self, state: RepeatedGameState, params: PyTree) -> jax.Array:
        shown = jax.nn.one_hot(state.last_actions - NOT_YET, 1 + self.num_actions)  # [N, 1 + A]
        of_others = (1 - np.eye(self.num_agents, dtype=np.float32)) / (self.num_agents - 1)
        # A product, because XLA's CPU backend would recount the others for every element of the result.
        shares = jnp.matmul(of_others, shown[:, 1:], precision="highest")
        return jnp.concatenate([shown, shares], axis=1)

    def contribution(self, actions: jax.Array) -> jax.Array:
        """float32 [N]: how much of what it could give each agent gives, 0 .. 1."""
        return 1 - actions.astype(jnp.float32) / (self.num_actions - 1)

    def metrics(self, actions: jax.Array, params: PyTree) -> Metrics:
        return {"cooperation": self.contribution(actions)}

    @property
    def players(self) -> Mapping[str, Player]:
        """`random`, the two constants, and `conditional_cooperator`.

        The last cooperates first and then gives what the others gave on average, rounded to the nearest
        level, ties towards giving (after Fischbacher, Gaechter and Fehr, 2001, who found half of people to
        play so).
        """
        levels = np.arange(self.num_actions, dtype=np.float32)

        def conditional_cooperator(observation: jax.Array, key: jax.Array) -> jax.Array:
            mean = jnp.sum(observation[1 + self.num_actions :] * levels)
            return jnp.ceil(mean - 0.5 - 1e-4).astype(jnp.int32)  # the margin keeps ties ties in float32

        return {
            "random": random_player(self),
            "always_cooperate": lambda observation, key: jnp.zeros((), jnp.int32),
            "always_defect": lambda observation, key: jnp.full((), self.num_actions - 1, jnp.int32),
            "conditional_cooperator": conditional_cooperator,
        }


class PublicGoodsParams(struct.PyTreeNode):
    """The numbers of the linear public goods game."""

    endowment: float  # float []: e, what an agent can give per step
    multiplication_factor: float  # float []: r, what the pot grows by before it is shared
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class PublicGoods(NPlayerDilemma):
    """Linear public goods game: giving costs the giver more than it gets back, yet all gain when all give.

    Source: Isaac and Walker (1988), Group size effects in public goods provision; Ledyard (1995), A survey.

    Rules: agent i keeps what it does not give and gets an equal share of the pot, e - x_i + (r / N) sum_j
    x_j, in units of the endowment e = 1. With r = 2 and N = 5 each unit given returns 0.4 to its giver; the
    game is a dilemma where 1 / N < r / N < 1. Action a gives x = e (1 - a / (num_levels - 1)): 0 all, the
    last one nothing. Truncated after `max_steps` (50); a one-shot game terminates after its only step.

    Shapes: action int32, 0 .. L - 1 for L = `num_levels` (2). Observation float32 [1 + 2 L]: start flag, own
    last action one-hot, share of the others per action. Reward float32 [N]. Metric "cooperation" [N]: share
    contributed.

    Deviations: none in the payoffs, which are material and never scaled by N. Laboratory groups choose among
    many levels; two are the default here because equilibria are then counted by hand.

    Raises:
        InputError: for fewer than two agents or levels.
    """

    name: str = "public_goods"
    num_agents: int = 5
    num_levels: int = 2
    one_shot: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(f"{self.name}: num_levels", self.num_levels, 2)
        object.__setattr__(self, "num_actions", self.num_levels)

    @property
    def default_params(self) -> PublicGoodsParams:
        return PublicGoodsParams(endowment=1.0, multiplication_factor=2.0, max_steps=self.default_steps)

    def check_params(self, params: PublicGoodsParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: parameter endowment", params.endowment, 0)
        at_least(f"{self.name}: parameter multiplication_factor", params.multiplication_factor, 0)

    def payoff(self, actions: jax.Array, params: PublicGoodsParams) -> jax.Array:
        given = params.endowment * self.contribution(actions)
        return params.endowment - given + params.multiplication_factor * jnp.mean(given)


def _linear_dilemma(num_agents: int) -> np.ndarray:
    """[N + 1, 2]: cooperating costs 1 and gives the others 2 in equal parts."""
    defectors = np.arange(num_agents + 1)
    cooperator = 2 * (num_agents - defectors - 1) / (num_agents - 1) - 1
    defector = 2 * (num_agents - defectors) / (num_agents - 1)
    cooperator[-1] = defector[0] = 0  # no such agent
    return np.stack([cooperator, defector], axis=1).astype(np.float32)


_THREE_PLAYER_DILEMMAS: Mapping[str, np.ndarray] = {
    "pax": np.array([[4, 0], [2, 5], [0, 3], [0, 1]], np.float32),
    "magic": np.array([[2, 0], [0, 4], [0, 2], [0, 1]], np.float32),
}


class NPlayerPrisonersDilemmaParams(struct.PyTreeNode):
    """The numbers of an n-player prisoner's dilemma."""

    payoffs: np.ndarray  # float32 [N + 1, 2]: [d] is what a cooperator and a defector get when d agents defect
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class NPlayerPrisonersDilemma(NPlayerDilemma):
    """N-player prisoner's dilemma: each does better by defecting, and all do worse when all defect.

    Source: Schelling (1973), Hockey helmets, concealed weapons, and daylight saving; Hamburger (1973),
    N-person prisoner's dilemma. Presets from Pax (Willi et al., 2023) and MAgIC (Xu et al., 2023).

    Rules: an agent's payoff depends on its own action and on the number d of agents, itself included, that
    defect. By `payoffs`, (cooperator's, defector's) for d = 0, 1, ...:

    * "linear", the default, any N: a cooperator pays 1 to give the others 2, in equal parts, so that it
      gets 2 (N - d - 1) / (N - 1) - 1 and a defector 2 (N - d) / (N - 1). All cooperate: 1 each; all defect: 0.
    * "pax", N = 3: (4, -), (2, 5), (0, 3), (-, 1).
    * "magic", N = 3: (2, -), (0, 4), (0, 2), (-, 1).

    The entries marked - (nobody is there to get them) are 0 and never read. Truncated after `max_steps` (50);
    a one-shot game terminates after its only step.

    Shapes: action int32, 0 cooperates and 1 defects. Observation float32 [5]: start flag, own last action
    one-hot, share of the others per action. Reward float32 [N], in the table's units. Metric "cooperation"
    [N].

    Deviations: Pax shows every agent who of the others defected; here only how many, which is all that
    payoffs depend on, and which keeps the observation's size free of N.

    Raises:
        InputError: for fewer than two agents, an unknown preset, or one made for another number of agents.
    """

    name: str = "n_player_prisoners_dilemma"
    num_agents: int = 3
    payoffs: str = "linear"
    one_shot: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "payoffs", self.payoffs or "linear")
        one_of(f"{self.name}: payoffs", self.payoffs, ("linear", *_THREE_PLAYER_DILEMMAS))
        if self.payoffs in _THREE_PLAYER_DILEMMAS and self.num_agents != 3:
            raise InputError(
                f"{self.name}: payoffs {self.payoffs!r} need num_agents 3, got {self.num_agents}; closest: 'linear'"
            )

    @property
    def default_params(self) -> NPlayerPrisonersDilemmaParams:
        preset = _THREE_PLAYER_DILEMMAS.get(self.payoffs)
        payoffs = _linear_dilemma(self.num_agents) if preset is None else preset.copy()
        return NPlayerPrisonersDilemmaParams(payoffs=payoffs, max_steps=self.default_steps)

    def payoff(self, actions: jax.Array, params: NPlayerPrisonersDilemmaParams) -> jax.Array:
        cooperator, defector = jnp.asarray(params.payoffs)[jnp.sum(actions)]
        return jnp.where(actions == 0, cooperator, defector)


class VolunteersDilemmaParams(struct.PyTreeNode):
    """The numbers of the volunteer's dilemma."""

    benefit: float  # float []: b, what everyone gets when somebody volunteers
    cost: float  # float []: c, what each volunteer pays
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class VolunteersDilemma(NPlayerDilemma):
    """Volunteer's dilemma: one volunteer is enough for all, and everyone would rather it were somebody else.

    Source: Diekmann (1985), Volunteer's dilemma, Journal of Conflict Resolution 29.

    Rules: everyone gets b = 1 if at least one agent volunteers; each volunteer pays c = 0.3. For 0 < c < b
    one volunteer is a Nash equilibrium; in the symmetric one each volunteers with probability
    1 - (c / b)^(1 / (N - 1)), 0.2599 for N = 5. Truncated after `max_steps` (50); a one-shot game terminates
    after its only step.

    Shapes: action int32, 0 volunteers and 1 does not. Observation float32 [5]: start flag, own last action
    one-hot, share of the others per action. Reward float32 [N], in units of b. Metric "cooperation" [N]: who
    volunteered.

    Deviations: none; the source plays it once, which is `one_shot`.

    Raises:
        InputError: for fewer than two agents.
    """

    name: str = "volunteers_dilemma"
    num_agents: int = 5
    one_shot: bool = False

    @property
    def default_params(self) -> VolunteersDilemmaParams:
        return VolunteersDilemmaParams(benefit=1.0, cost=0.3, max_steps=self.default_steps)

    def check_params(self, params: VolunteersDilemmaParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: parameter cost", params.cost, 0)

    def payoff(self, actions: jax.Array, params: VolunteersDilemmaParams) -> jax.Array:
        volunteers = actions == 0
        return params.benefit * jnp.any(volunteers) - params.cost * volunteers
