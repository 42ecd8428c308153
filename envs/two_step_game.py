"""The two-step game, in which a choice leads to a matrix."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.repeated_games import look_up
from marl_suite.envs.spaces import Box, Discrete


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
        return {"random": random_player(self), "safe": look_up((0, 0, 0)), "risky": look_up((1, 1, 1))}
