"""What the oligopolies share: firms that set one number each, again and again, and see what all set last."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import PyTree, at_least
from marl_suite.envs.graphs import in_turn
from marl_suite.envs.repeated_games import NOT_YET, RepeatedGame, RepeatedGameState
from marl_suite.envs.spaces import Box, Discrete, Space

MOST_STATES = 4096
"""Up to so many joint actions they are shown as one index; beyond, where tables are hopeless, one by one."""


def collusion_index(profit: Any, nash_profit: Any, collusive_profit: Any) -> Any:
    """Delta, the share of what collusion could add to a firm's profit that the firm gets.

    Delta = (profit - nash_profit) / (collusive_profit - nash_profit): 0 in the one-shot Nash equilibrium, 1 when all
    set what maximises their joint profit (Calvano et al., 2020, Artificial intelligence, algorithmic pricing, and
    collusion, section II). Arrays or scalars, of numpy or jax; profits per firm and step. Below 0 it is worse than
    Nash, and whoever exploits the others may have more than 1.
    """
    return (profit - nash_profit) / (collusive_profit - nash_profit)


def critical_discount(deviation_profit: Any, collusive_profit: Any, nash_profit: Any) -> Any:
    """The least discount at which a grim trigger holds collusion together (Friedman, 1971).

    Colluding for ever is worth pi_C / (1 - delta), deviating once pi_D + delta pi_N / (1 - delta): the first is no
    less from delta = (pi_D - pi_C) / (pi_D - pi_N) on.
    """
    return (deviation_profit - collusive_profit) / (deviation_profit - nash_profit)


class Oligopoly(RepeatedGame):
    """A market of `num_agents` firms that each choose a level of a grid; a subclass says what it means and pays.

    Observation: the last joint action in the first person (own level, then those of the next firms, cyclically), as
    in `marl_suite.games.repeated`. As `Discrete(A**N + 1)`, own level the most significant digit and the last value
    the start; where A**N > `MOST_STATES` as float32 [1 + N]: a start flag and the levels / (A - 1), 0 at the start.
    """

    repetitions = 1000
    mixed_motive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)

    @property
    def num_states(self) -> int:
        """A**N, the number of joint actions and index of the start."""
        return self.num_actions**self.num_agents

    @property
    def shows_index(self) -> bool:
        """Whether observations are `Discrete`."""
        return self.num_states <= MOST_STATES

    @property
    def digits(self) -> np.ndarray:
        """int [N]: what a step of own level, of the next firm's, ... adds to the index of a joint action."""
        return self.num_actions ** np.arange(self.num_agents - 1, -1, -1)

    def observation_space(self, params: PyTree = None) -> Space:
        return Discrete(self.num_states + 1) if self.shows_index else Box(0, 1, (1 + self.num_agents,))

    def observe(self, state: RepeatedGameState, params: PyTree) -> jax.Array:
        start = state.last_actions[0] == NOT_YET
        if self.shows_index:
            weights = np.stack([np.roll(self.digits, i) for i in range(self.num_agents)])  # [i, j] of firm j for firm i
            index = jnp.sum(weights * state.last_actions, axis=1, dtype=jnp.int32)
            return jnp.where(start, self.num_states, index)
        levels = jnp.where(start, 0, state.last_actions) / (self.num_actions - 1)
        return jnp.concatenate([jnp.full((self.num_agents, 1), start), in_turn(levels)], axis=1)

    def global_state(self, state: RepeatedGameState, params: PyTree = None) -> jax.Array:
        """float32 [1 + N]: a start flag and the last levels / (A - 1), 0 at the start."""
        start = state.last_actions[0] == NOT_YET
        levels = jnp.where(start, 0, state.last_actions) / (self.num_actions - 1)
        return jnp.concatenate([start[None], levels])

    def stage_payoffs(self, params: PyTree = None) -> jax.Array | None:
        """As the contract has it; None also where observations are no index."""
        if self.one_shot or not self.shows_index:
            return None
        params = self.default_params if params is None else params
        shape = (self.num_actions,) * self.num_agents
        joint = np.indices(shape).reshape(self.num_agents, -1).T  # [S, N]
        payoffs = jax.jit(jax.vmap(lambda actions: self.payoff(actions, params)))(joint)
        return payoffs.T.reshape(self.num_agents, *shape).astype(jnp.float32)

    def shown(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What players read in an observation: whether it is the start, and else the levels int32 [N], own first."""
        if self.shows_index:
            return observation == self.num_states, observation // self.digits % self.num_actions
        return observation[0] > 0.5, jnp.round(observation[1:] * (self.num_actions - 1)).astype(jnp.int32)
