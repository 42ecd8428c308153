"""Two-player matrix games; `marl_suite.envs.matrix_tables` has their payoffs and where these come from."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, one_of, random_player
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.matrix_tables import GAMES
from marl_suite.envs.repeated_games import NOT_YET, RepeatedGame, RepeatedGameState, look_up
from marl_suite.envs.spaces import Box

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

    Sources: see `marl_suite.envs.matrix_tables`. The "standard" stag hunt is this suite's: both equilibria are strict,
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

    definitions: ClassVar[Mapping[str, str]] = {
        "always_cooperate": "always plays action 0, the cooperative one",
        "always_defect": "always plays action 1",
        "tit_for_tat": "starts with action 0, then does what the other just did",
        "grim_trigger": "plays action 0 at the start and after mutual cooperation only",
    }

    def __post_init__(self) -> None:
        if self.name not in GAMES:
            raise unknown_name("matrix game", self.name, GAMES)
        game = GAMES[self.name]
        num_actions = self.num_actions or game.size
        payoffs = self.payoffs or next(iter(game.presets))
        if self.num_agents != 2:
            raise InputError(f"{self.name}: num_agents must be 2, got {self.num_agents}")
        if game.actions and num_actions != game.size:
            raise InputError(f"{self.name}: num_actions must be {game.size}, got {num_actions}")
        at_least(f"{self.name}: num_actions", num_actions, 2)
        one_of(f"{self.name}: payoffs", payoffs, tuple(game.presets))
        # Resolved here, so that equal games compare equal. The last five belong to the game, not to the class.
        resolved = {
            "num_actions": num_actions,
            "payoffs": payoffs,
            "mixed_motive": game.is_dilemma,
            "exploiter": "always_defect" if game.is_dilemma else None,
            "cooperator": "always_cooperate" if game.is_dilemma else None,
            "defector": "always_defect" if game.is_dilemma else None,
            "repetitions": game.repetitions,
        }
        for field, value in resolved.items():
            object.__setattr__(self, field, value)

    @property
    def summary(self) -> str:
        return GAMES[self.name].summary

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each action is called."""
        return GAMES[self.name].actions or tuple(f"action_{a}" for a in range(self.num_actions))

    @property
    def default_params(self) -> MatrixGameParams:
        table = GAMES[self.name].presets[self.payoffs]
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
        return GAMES[self.name].metrics(actions, self.action_names, jnp.asarray(params.payoffs))

    @property
    def players(self) -> Mapping[str, Player]:
        """`random`; `STRATEGIES` in dilemmas; a constant player per named action elsewhere."""
        game = GAMES[self.name]
        num_observations = self.num_actions**2 + 1
        constants = {f"always_{name}": (a,) * num_observations for a, name in enumerate(game.actions)}
        tables = STRATEGIES if game.is_dilemma else constants
        return {"random": random_player(self)} | {name: look_up(table) for name, table in tables.items()}
