"""An environment: a game as pure functions, with everything that fixes a shape as a field and all numbers as params."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.envs.environment import Environment, Player, PyTree, at_least, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, Discrete


class Params(struct.PyTreeNode):
    bonus: float = 2.0  # float []: R, what the lower claim gets and the higher one pays
    max_steps: int = 10  # int []: claims made in an episode


class State(struct.PyTreeNode):
    claims: jax.Array  # float32 [2], the last claims as shares of the range, 0 .. 1; -1 at the start
    time: jax.Array  # int32 [], steps taken


@dataclasses.dataclass(frozen=True)
class TravellersDilemma(Environment):
    """Traveller's dilemma: claiming a little less than the other pays, until both claim next to nothing.

    Source: Basu (1994), The traveler's dilemma: paradoxes of rationality in game theory, AER 84; repeated as in Capra,
    Goeree, Gomez and Holt (1999). Both claim whole numbers from `lowest` to `highest` and get the lower claim, plus R
    for whoever claimed less, minus R for whoever claimed more. For R > 1 the best answer to c is c - 1, so that both
    claiming the lowest is the only equilibrium. Truncated after `max_steps`.

    Shapes: action int32 (0 claims `lowest`); observation float32 [2], own and the other's last claim as shares of the
    range, -1 at the start; reward float32 [2], in money. Metric "claim" [2]. Deviations: the same two meet all episode.
    """

    num_agents: int = 2
    lowest: int = 2
    highest: int = 100
    name: str = "travellers_dilemma"
    mixed_motive: ClassVar[bool] = True
    cooperator: ClassVar[str | None] = "honest"
    defector: ClassVar[str | None] = "cautious"
    exploiter: ClassVar[str | None] = "undercutter"

    def __post_init__(self) -> None:
        at_least(f"{self.name}: highest", self.highest, self.lowest + 1)
        if self.num_agents != 2:
            raise InputError(f"{self.name}: num_agents must be 2, got {self.num_agents}")

    @property
    def default_params(self) -> Params:
        return Params()

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(-1, 1, (2,))

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(self.highest - self.lowest + 1)

    def initial_state(self, key: jax.Array, params: PyTree) -> State:
        return State(claims=jnp.full(2, -1, jnp.float32), time=jnp.int32(0))

    def transition(self, key: jax.Array, state: State, actions: jax.Array, params: PyTree):
        claims = (self.lowest + actions).astype(jnp.float32)
        reward = claims.min() + params.bonus * jnp.sign(claims[::-1] - claims)
        shares = (claims - self.lowest) / (self.highest - self.lowest)
        return State(shares, state.time + 1), reward, jnp.zeros((), bool), {"claim": claims}

    def observe(self, state: State, params: PyTree) -> jax.Array:
        return jnp.stack([state.claims, state.claims[::-1]], axis=1)

    @property
    def players(self) -> Mapping[str, Player]:
        actions = {"cautious": 0, "honest": self.highest - self.lowest, "undercutter": self.highest - self.lowest - 1}
        constant = {name: lambda observation, key, a=a: jnp.int32(a) for name, a in actions.items()}
        return constant | {"random": random_player(self)}
