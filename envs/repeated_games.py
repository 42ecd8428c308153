"""What repeated games share: one simultaneous choice, made once or over and over.

Every agent sees the last joint action in the first person and nothing older, so a policy of these games is a
memory-one strategy; `marl_suite.games.repeated` gives the exact value of any such pair.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, at_most
from marl_suite.envs.spaces import Discrete

NOT_YET = -1
"""The last action of an agent that has not acted."""


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


def look_up(table: tuple[int, ...]) -> Player:
    """The player that answers the one-hot observation `k` with `table[k]`."""
    actions = np.asarray(table, np.float32)
    return lambda observation, key: jnp.sum(observation * actions).astype(jnp.int32)
