"""Matrix games and n-player dilemmas: one simultaneous choice, played once or over and over.

Every agent sees the last joint action in the first person and nothing older, so a policy of these games is a
memory-one strategy; `marl_suite.games.repeated` gives the exact value of any such pair. `TwoStepGame`, in which a
choice leads to a matrix, stands apart.

Where the payoffs come from:

* lola: Foerster et al. (2018), Learning with Opponent-Learning Awareness, and its released games.
* melting_pot: Agapiou et al. (2022), Melting Pot 2.0, the matrices of its "in the matrix" substrates.
* pax: Willi et al. (2023), Pax, the tables of its matrix and tensor games.
* contribution: Zhao et al. (2022), Proximal LOLA: each pays 1 into a pot that grows by 1.33 and is shared.
* m_fos: Lu et al. (2022), Model-Free Opponent Shaping.
* magic: Xu et al. (2023), MAgIC, its three-player prisoner's dilemma.
* climbing and penalty: Claus and Boutilier (1998), The dynamics of reinforcement learning in cooperative multiagent
  systems, as repeated by Papoudakis et al. (2021), Benchmarking multi-agent deep RL algorithms in cooperative tasks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, at_most, one_of, random_player
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.spaces import Box, Discrete

NOT_YET = -1
"""The last action of an agent that has not acted."""

STRATEGIES: Mapping[str, tuple[int, ...]] = {
    "always_cooperate": (0, 0, 0, 0, 0),
    "always_defect": (1, 1, 1, 1, 1),
    "tit_for_tat": (0, 1, 0, 1, 0),
    "grim_trigger": (0, 1, 1, 1, 0),
}
"""Memory-one strategies of a dilemma: the action (0 cooperates) after CC, CD, DC, DD (own first) and at the
start.

`grim_trigger` cannot see past the last step: it cooperates at the start and after mutual cooperation only.
"""


# ---------------------------------------------------------------------- what all of these games share
class RepeatedGameState(struct.PyTreeNode):
    """The last joint action and the clock."""

    last_actions: jax.Array  # int32 [N], NOT_YET at the start
    time: jax.Array  # int32 [], steps taken


class RepeatedGame(Environment):
    """A simultaneous choice, made once (`one_shot`) or until the clock runs out, with a memory of one step.

    A subclass adds `num_actions`, `default_params`, `observation_space`, `payoff`, `observe` and `metrics`.
    """

    num_actions: int
    one_shot: bool
    repetitions: int = 50  # default number of steps

    def payoff(self, actions: jax.Array, params: PyTree) -> jax.Array:
        """Material payoff float32 [N] of one joint action int32 [N]."""
        raise NotImplementedError

    def metrics(self, actions: jax.Array, params: PyTree) -> Metrics:
        """What one joint action says about the play: float32 [N] each."""
        raise NotImplementedError

    @property
    def default_steps(self) -> int:
        """The default `max_steps`: `repetitions`, or 1 for a one-shot game."""
        return 1 if self.one_shot else self.repetitions

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(self.num_actions)

    def initial_state(self, key: jax.Array, params: PyTree) -> RepeatedGameState:
        del key, params  # the start is always the same
        return RepeatedGameState(
            last_actions=jnp.full(self.num_agents, NOT_YET, jnp.int32), time=jnp.zeros((), jnp.int32)
        )

    def transition(
        self, key: jax.Array, state: RepeatedGameState, actions: jax.Array, params: PyTree
    ) -> tuple[RepeatedGameState, jax.Array, jax.Array, Metrics]:
        del key  # the rules are deterministic
        actions = actions.astype(jnp.int32)
        reward = self.payoff(actions, params).astype(jnp.float32)
        state = RepeatedGameState(last_actions=actions, time=state.time + 1)
        return state, reward, jnp.asarray(self.one_shot), self.metrics(actions, params)

    def is_truncated(self, state: RepeatedGameState, params: PyTree) -> jax.Array:
        """The clock of a repeated game; a one-shot game ends by its rules instead."""
        return jnp.zeros((), bool) if self.one_shot else super().is_truncated(state, params)

    def check_params(self, params: PyTree) -> None:
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)
        if self.one_shot:
            at_most(f"{self.name}: parameter max_steps of a one_shot game", params.max_steps, 1)


# ---------------------------------------------------------------------- two-player tables
Table: TypeAlias = np.ndarray | Callable[[int], np.ndarray]
"""Payoffs [2, A, A], or how to make them for a number of actions."""


def _zero_sum(row: Any) -> np.ndarray:
    """[2, A, A] from the first player's [A, A]; the second loses what the first wins."""
    row = np.asarray(row, np.float32)
    return np.stack([row, -row])


def _symmetric(row: Any) -> np.ndarray:
    """[2, A, A] from the first player's [A, A]; the second has the same game seen from its side."""
    row = np.asarray(row, np.float32)
    return np.stack([row, row.T])


def _common(payoffs: Any) -> np.ndarray:
    """[2, A, A] from [A, A]: both players get the cell."""
    return np.stack([np.asarray(payoffs, np.float32)] * 2)


def _dilemma(cc: float, cd: float, dc: float, dd: float) -> np.ndarray:
    """[2, 2, 2] from what a player gets for its own and the other's cooperation (c) or defection (d)."""
    return _symmetric([[cc, cd], [dc, dd]])


def _cyclic(stake: float) -> np.ndarray:
    """[2, 3, 3] in which each action beats the one before it, for `stake`."""
    return _zero_sum(stake * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]))


_BACH_STRAVINSKY = np.array([[[3, 0], [0, 2]], [[2, 0], [0, 3]]], np.float32)


MetricsOfPlay: TypeAlias = Callable[[jax.Array, tuple[str, ...], jax.Array], Metrics]
"""From a joint action int32 [2], the names of the actions and the payoffs float32 [2, A, A]."""


def _frequencies(*names: str) -> MetricsOfPlay:
    """Who played action 0, 1, ... under these names, or under the actions' own where none are given."""

    def metrics(actions: jax.Array, action_names: tuple[str, ...], payoffs: jax.Array) -> Metrics:
        return {name: (actions == a).astype(jnp.float32) for a, name in enumerate(names or action_names)}

    return metrics


def _coordination(actions: jax.Array, action_names: tuple[str, ...], payoffs: jax.Array) -> Metrics:
    return {"coordination": jnp.broadcast_to(actions[0] == actions[1], (2,)).astype(jnp.float32)}


def _optimality(actions: jax.Array, action_names: tuple[str, ...], payoffs: jax.Array) -> Metrics:
    """Who got the most that its table has, and who played what."""
    best = payoffs[:, actions[0], actions[1]] == payoffs.max(axis=(1, 2))
    return {"optimal": best.astype(jnp.float32)} | _frequencies()(actions, action_names, payoffs)


class _Game(NamedTuple):
    summary: str  # the game in one sentence
    actions: tuple[str, ...]  # their names; empty where their number is free
    presets: Mapping[str, Table]  # the first is the default
    metrics: MetricsOfPlay
    size: int  # the default number of actions
    is_dilemma: bool = False
    repetitions: int = RepeatedGame.repetitions


_GAMES: Mapping[str, _Game] = {
    "prisoners_dilemma": _Game(
        "Defection pays whatever the other does, yet both prefer mutual cooperation.",
        ("cooperate", "defect"),
        {
            "lola": _dilemma(-1, -3, 0, -2),
            "melting_pot": _dilemma(3, 0, 5, 1),
            "contribution": _dilemma(0.33, -0.335, 0.665, 0),
            "pax": _dilemma(2, 0, 3, 1),
        },
        _frequencies("cooperation"),
        size=2,
        is_dilemma=True,
    ),
    "stag_hunt": _Game(
        "The best joint outcome needs trust; hare is safe.",
        ("stag", "hare"),
        {
            "standard": _dilemma(4, 0, 3, 2),  # strict equilibria; hare is the safer one
            "melting_pot": _dilemma(4, 0, 2, 2),
            "pax": _dilemma(4, 1, 3, 2),
        },
        _frequencies("cooperation"),
        size=2,
        is_dilemma=True,
    ),
    "chicken": _Game(
        "Each wants the other to yield, and both lose most when nobody does.",
        ("swerve", "straight"),
        {
            "melting_pot": _dilemma(3, 2, 5, 0),
            "pax": _dilemma(0, -1, 1, -2),
            "m_fos": _dilemma(0, -1, 1, -100),
        },
        _frequencies("cooperation"),
        size=2,
        is_dilemma=True,
    ),
    "bach_stravinsky": _Game(
        "Both want to meet, each at its own favourite place.",
        ("bach", "stravinsky"),
        {"melting_pot": _BACH_STRAVINSKY, "pax": _BACH_STRAVINSKY},  # the two sources agree
        _frequencies("bach"),
        size=2,
    ),
    "matching_pennies": _Game(
        "One wins by matching, the other by differing: zero-sum.",
        ("heads", "tails"),
        {"lola": _zero_sum([[1, -1], [-1, 1]])},
        _frequencies("heads"),
        size=2,
    ),
    "rock_paper_scissors": _Game(
        "Each action beats another: zero-sum and cyclic.",
        ("rock", "paper", "scissors"),
        {"standard": _cyclic(1), "melting_pot": _cyclic(10)},
        _frequencies("rock", "paper", "scissors"),
        size=3,
    ),
    "pure_coordination": _Game(
        "Two players gain by choosing the same, whatever it is.",
        (),
        {
            "melting_pot": lambda size: _symmetric(np.eye(size)),
            "rationalizable": lambda size: _symmetric(np.diag(np.arange(1, size + 1))),
        },
        _coordination,
        size=3,
    ),
    "climbing": _Game(
        "Common payoff: beside the best pair lie the heaviest losses, and safer pairs pay less.",
        ("action_0", "action_1", "action_2"),
        {"standard": _common([[11, -30, 0], [-30, 7, 0], [0, 6, 5]])},
        _optimality,
        size=3,
        repetitions=25,
    ),
    "penalty": _Game(
        "Common payoff: two best pairs, a penalty for mixing them up, and a safe pair that pays less.",
        ("action_0", "action_1", "action_2"),
        {f"k_{k}": _common([[k, 0, 10], [0, 2, 0], [10, 0, k]]) for k in (-100, -75, -50, -25, 0)},
        _optimality,
        size=3,
        repetitions=25,
    ),
    "matrix_game": _Game(
        "Any two-player matrix game; its payoffs are a parameter.",
        (),
        {"zeros": lambda size: np.zeros((2, size, size), np.float32)},
        _frequencies(),
        size=2,
    ),
}


class MatrixGameParams(struct.PyTreeNode):
    """The numbers of a two-player game."""

    payoffs: np.ndarray  # float32 [2, A, A]: [i, a0, a1] is what agent i gets when the agents play a0 and a1
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class MatrixGame(RepeatedGame):
    """Two-player matrix games, repeated or one-shot: what is best for one may be bad for both.

    `name` picks the game, `payoffs` one of its published tables (the first is the default). Payoffs of the
    symmetric games are the row player's for CC, CD, DC, DD, own action first:

    * prisoners_dilemma: defection pays whatever the other does, yet both prefer mutual cooperation. "lola"
      -1, -3, 0, -2; "melting_pot" 3, 0, 5, 1; "contribution" 0.33, -0.335, 0.665, 0; "pax" 2, 0, 3, 1.
    * stag_hunt: the best joint outcome needs trust. "standard" 4, 0, 3, 2; "melting_pot" 4, 0, 2, 2; "pax" 4,
      1, 3, 2.
    * chicken: each wants the other to yield, and both lose most when nobody does. "melting_pot" 3, 2, 5, 0;
      "pax" 0, -1, 1, -2; "m_fos" 0, -1, 1, -100.
    * bach_stravinsky: both want to meet, each at its favourite place. Payoffs (3, 2) at bach, (2, 3) at
      stravinsky, else 0.
    * matching_pennies: agent 0 wins 1 from agent 1 when they match and loses 1 when not.
    * rock_paper_scissors: zero-sum and cyclic. Stake 1 ("standard") or 10 ("melting_pot").
    * pure_coordination: 1 for meeting ("melting_pot"), or a + 1 for meeting at action a ("rationalizable");
      any `num_actions`, 3 by default.
    * climbing: both get [[11, -30, 0], [-30, 7, 0], [0, 6, 5]][a0][a1].
    * penalty: both get [[k, 0, 10], [0, 2, 0], [10, 0, k]][a0][a1]. "k_-100", the default, "k_-75", "k_-50", "k_-25"
      and "k_0".
    * matrix_game: any payoffs, given as the parameter `payoffs`; zeros and two actions by default.

    Sources: see the module's docstring. The "standard" stag hunt is this suite's: both equilibria are strict,
    and hare risk-dominates, as in Skyrms (2004), The Stag Hunt.

    Rules: both act at once; reward[i] = payoffs[i, a0, a1], in the table's units. A repeated game is
    truncated after `max_steps` (50; 25 in climbing and penalty); a one-shot game terminates after its only step.

    Shapes: action int32, 0 .. A - 1, where 0 cooperates (stag, swerve, bach, heads, rock). Observation
    float32 [A * A + 1], one-hot: own * A + other of the last joint action, the last index at the start.
    Reward float32 [2]. Metrics float32 [2]: "cooperation" in dilemmas; "bach"; "heads"; "rock", "paper" and
    "scissors"; "coordination" (both played the same); "action_0", ... for matrix_game, climbing and penalty; in these
    two also "optimal" (the highest payoff there is).

    Deviations: LOLA's own games show both agents the index 2 * a0 + a1; here each reads its own action first,
    so that one strategy means the same for either. Pax tells the end of an inner episode by a start symbol
    without ending the episode; here it is an episode. Horizons differ between sources (100 to 200 steps), 50
    is in no table. In climbing and penalty Papoudakis et al. show a constant; here the last joint action shows. Their
    penalty table, used here, is that of Claus and Boutilier with one agent's actions in reverse, who have 10 on the
    diagonal. Neither has a default k.

    Raises:
        InputError: for an unknown name or preset, another number of agents than two, or a number of actions
            that the game does not have.
    """

    name: str = "matrix_game"
    num_agents: int = 2
    num_actions: int = 0  # 0: the game's own
    payoffs: str = ""  # "": the game's default preset
    one_shot: bool = False

    def __post_init__(self) -> None:
        if self.name not in _GAMES:
            raise unknown_name("matrix game", self.name, _GAMES)
        game = _GAMES[self.name]
        num_actions = self.num_actions or game.size
        payoffs = self.payoffs or next(iter(game.presets))
        if self.num_agents != 2:
            raise InputError(f"{self.name}: num_agents must be 2, got {self.num_agents}")
        if game.actions and num_actions != game.size:
            raise InputError(f"{self.name}: num_actions must be {game.size}, got {num_actions}")
        at_least(f"{self.name}: num_actions", num_actions, 2)
        one_of(f"{self.name}: payoffs", payoffs, tuple(game.presets))
        # Resolved here, so that equal games compare equal. The last three belong to the game, not to the class.
        resolved = {
            "num_actions": num_actions,
            "payoffs": payoffs,
            "mixed_motive": game.is_dilemma,
            "exploiter": "always_defect" if game.is_dilemma else None,
            "repetitions": game.repetitions,
        }
        for field, value in resolved.items():
            object.__setattr__(self, field, value)

    @property
    def summary(self) -> str:
        return _GAMES[self.name].summary

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each action is called."""
        return _GAMES[self.name].actions or tuple(f"action_{a}" for a in range(self.num_actions))

    @property
    def default_params(self) -> MatrixGameParams:
        table = _GAMES[self.name].presets[self.payoffs]
        payoffs = table(self.num_actions) if callable(table) else table.copy()
        return MatrixGameParams(payoffs=payoffs, max_steps=self.default_steps)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (self.num_actions**2 + 1,))

    def payoff(self, actions: jax.Array, params: MatrixGameParams) -> jax.Array:
        return jnp.asarray(params.payoffs)[:, actions[0], actions[1]]

    def stage_payoffs(self, params: MatrixGameParams | None = None) -> jax.Array | None:
        payoffs = self.default_params.payoffs if params is None else params.payoffs
        return None if self.one_shot else jnp.asarray(payoffs, jnp.float32)

    def observe(self, state: RepeatedGameState, params: PyTree) -> jax.Array:
        own, other = state.last_actions, state.last_actions[::-1]
        start = self.num_actions**2
        index = jnp.where(own == NOT_YET, start, own * self.num_actions + other)
        return jax.nn.one_hot(index, start + 1)

    def metrics(self, actions: jax.Array, params: MatrixGameParams) -> Metrics:
        return _GAMES[self.name].metrics(actions, self.action_names, jnp.asarray(params.payoffs))

    @property
    def players(self) -> Mapping[str, Player]:
        """`random`; `STRATEGIES` in dilemmas; a constant player per named action elsewhere."""
        game = _GAMES[self.name]
        num_observations = self.num_actions**2 + 1
        constants = {f"always_{name}": (a,) * num_observations for a, name in enumerate(game.actions)}
        tables = STRATEGIES if game.is_dilemma else constants
        return {"random": random_player(self)} | {name: _look_up(table) for name, table in tables.items()}


def _look_up(table: tuple[int, ...]) -> Player:
    """The player that answers the one-hot observation `k` with `table[k]`."""
    actions = np.asarray(table, np.float32)
    return lambda observation, key: jnp.sum(observation * actions).astype(jnp.int32)


# ---------------------------------------------------------------------- a choice between two tables
class TwoStepState(struct.PyTreeNode):
    """Where the game stands."""

    stage: jax.Array  # int32 [], 0 at the start, then 1 for matrix 2A or 2 for matrix 2B


class TwoStepParams(struct.PyTreeNode):
    """The numbers of the two-step game."""

    payoffs: np.ndarray  # float32 [2, 2, 2]: [m, a0, a1] is what both get in matrix m, 2A or 2B


@dataclasses.dataclass(frozen=True)
class TwoStepGame(Environment):
    """Common payoff in two steps: the first agent picks a matrix, a safe one or one that pays coordination more.

    Source: Rashid et al. (2018), QMIX, section 5, and its longer form (2020), JMLR 21.

    Rules: in step 1 agent 0's action picks the matrix, 0 for 2A and 1 for 2B; agent 1's does nothing and nobody is
    paid. In step 2 both get the cell of the matrix, 7 everywhere in 2A and [[0, 1], [1, 8]] in 2B, and the game
    terminates; it has no clock. The best return is 8, the safe one 7.

    Shapes: action int32, 0 or 1. Observation float32 [3], one-hot, and the same for both: start, 2A, 2B; it stays at
    the matrix when the game is over. The global state is that one-hot, once. Reward float32 [2]. Metrics, scalar:
    "risky" (2B was picked) and "optimal" (both got the highest payoff there is), shares of episodes.

    Deviations: none.

    Raises:
        InputError: for another number of agents than two.
    """

    name: str = "two_step"
    num_agents: int = 2

    def __post_init__(self) -> None:
        if self.num_agents != 2:
            raise InputError(f"{self.name}: num_agents must be 2, got {self.num_agents}")

    @property
    def default_params(self) -> TwoStepParams:
        return TwoStepParams(payoffs=np.array([[[7, 7], [7, 7]], [[0, 1], [1, 8]]], np.float32))

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (3,))

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(2)

    def initial_state(self, key: jax.Array, params: PyTree) -> TwoStepState:
        return TwoStepState(stage=jnp.zeros((), jnp.int32))

    def transition(
        self, key: jax.Array, state: TwoStepState, actions: jax.Array, params: TwoStepParams
    ) -> tuple[TwoStepState, jax.Array, jax.Array, Metrics]:
        del key  # the rules are deterministic
        payoffs = jnp.asarray(params.payoffs, jnp.float32)
        terminated = state.stage > 0
        cell = payoffs[state.stage - 1, actions[0], actions[1]]  # of no meaning in step 1
        stage = jnp.where(terminated, state.stage, 1 + actions[0].astype(jnp.int32))
        optimal = terminated & (cell == payoffs.max())
        metrics = {"risky": (stage == 2).astype(jnp.float32), "optimal": optimal.astype(jnp.float32)}
        reward = jnp.broadcast_to(jnp.where(terminated, cell, 0), (2,))
        return TwoStepState(stage=stage), reward, terminated, metrics

    def is_truncated(self, state: TwoStepState, params: PyTree) -> jax.Array:
        return jnp.zeros((), bool)

    def observe(self, state: TwoStepState, params: PyTree) -> jax.Array:
        return jnp.tile(self.global_state(state), (2, 1))

    def global_state(self, state: TwoStepState, params: PyTree = None) -> jax.Array:
        return jax.nn.one_hot(state.stage, 3)

    def derived_metrics(self, means: Metrics) -> Metrics:
        """Means per step become shares of episodes: "optimal" counts one of the two steps, "risky" both."""
        return means | {"optimal": 2 * means["optimal"]}

    @property
    def players(self) -> Mapping[str, Player]:
        """`random`; `safe` and `risky` always play 0 and 1, so that a pair of them gets 7 or 8."""
        return {"random": random_player(self), "safe": _look_up((0, 0, 0)), "risky": _look_up((1, 1, 1))}


# ---------------------------------------------------------------------- n players
class NPlayerDilemma(RepeatedGame):
    """A game whose payoffs depend on who acts only through own action and how many others chose each action.

    Action 0 cooperates fully, the last one not at all. Observation float32 [1 + 2 A]: a flag for the start
    (all else is then zero), own last action (one-hot), and the share of the others that played each action.
    """

    num_actions = 2
    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "always_defect"

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
