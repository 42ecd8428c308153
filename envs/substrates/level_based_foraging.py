"""Level-based foraging: food that only agents of enough strength together can load. The cooperative control.

The game of Albrecht and Ramamoorthy (2013) in the form of Christianos et al. (2020), "Shared experience actor-critic",
and Papoudakis et al. (2021), whose "Foraging-8x8-2p-2f-coop" is the default here.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, at_least, at_most, random_player
from marl_suite.envs.spaces import Box, Discrete

ACTIONS = ("none", "north", "south", "west", "east", "load")
NONE, NORTH, SOUTH, WEST, EAST, LOAD = range(len(ACTIONS))
_STEPS = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)], np.int32)  # rows and columns, by action


class ForagingState(struct.PyTreeNode):
    """Positions are rows and columns."""

    position: jax.Array  # int32 [N, 2]
    level: jax.Array  # int32 [N], of each agent
    food: jax.Array  # int32 [F, 2], where it lies
    food_level: jax.Array  # int32 [F], 0 once it was loaded
    total: jax.Array  # int32 [], of all food at the start
    time: jax.Array  # int32 [], steps taken


class ForagingParams(struct.PyTreeNode):
    """Rewards in shares of all food."""

    penalty: float = 0.0  # [], for each attempt to load food that is too heavy
    max_steps: int = 50  # []


@dataclasses.dataclass(frozen=True)
class LevelBasedForaging(Environment):
    """No dilemma: whoever loads food shares it with those whose help it takes, and they all want the same.

    Rules: agents have a random level from 1 to `max_level`, food one from 1 to the sum of the three lowest levels of
    agents, and if `cooperative` just that sum, so that it takes all agents where these are two or three. They act at
    once. A step onto food or over the border fails. Of agents that would arrive on the same cell, with one that stays
    counted in, all stay where they were. Food is loaded, and gone, when the levels of the agents beside it (not
    diagonally) that load in this step sum to its level or more; it pays them the share that its level has of all food,
    in proportion to their levels, so that an episode's rewards sum to 1. Agents start on random cells, food on random
    others, neither at the border nor next to other food, diagonally or two cells away in a line; what finds no such
    place is left out. The game ends when no food is left; the clock cuts it after 50 steps.

    Attributes:
        size: of the square field, in cells.
        num_food: F.
        cooperative: whether food is as heavy as it can be.
        max_level: of agents.
        sight: how many cells agents see in each direction; all when 0.

    Observation: float32 [3 F + 3 N], (row, column, level) of the food that one sees, in reading order, then of oneself,
    then of the other agents that one sees, by index; (-1, -1, 0) for those missing. Rows and columns count from the
    north-western corner of what one sees. Actions: none, north, south, west, east, load. Reward: shares of all food
    [N]. Metrics: `food`, how many are left, `loaded` [N], food that each had a part in, and `attempts` [N] to load.

    Deviations: in the original an agent can step onto the cell of another that is held up, and near the north and west
    border agents are seen from further away than food; there the clock ends the game. Apart from these, thousands of
    steps of the package lbforaging 2.0.0, version 3 of the game, were the same.

    Raises:
        InputError: for a setting below 1, or a field whose inner cells agents can cover.
    """

    name: str = "level_based_foraging"
    num_agents: int = 2
    size: int = 8
    num_food: int = 2
    cooperative: bool = True
    max_level: int = 2
    sight: int = 0

    definitions: ClassVar[Mapping[str, str]] = {
        "forager": "goes to the food nearest to itself and loads it",
        "team_forager": "goes to the food nearest to all agents together and loads it",
    }

    def __post_init__(self) -> None:
        for setting, least in (("num_agents", 1), ("size", 3), ("num_food", 1), ("max_level", 1), ("sight", 0)):
            at_least(f"{self.name}: {setting}", getattr(self, setting), least)
        at_most(f"{self.name}: num_agents", self.num_agents, (self.size - 2) ** 2 - 1)

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each action is called."""
        return ACTIONS

    @property
    def default_params(self) -> ForagingParams:
        return ForagingParams()

    def check_params(self, params: ForagingParams) -> None:
        at_least(f"{self.name}: penalty", params.penalty, 0)
        at_least(f"{self.name}: max_steps", params.max_steps, 1)

    def observation_space(self, params: ForagingParams | None = None) -> Box:
        levels = [min(self.num_agents, 3) * self.max_level] * self.num_food + [self.max_level] * self.num_agents
        high = np.array([(self.size - 1, self.size - 1, level) for level in levels])
        low = np.broadcast_to((-1, -1, 0), high.shape)
        return Box(low.ravel(), high.ravel(), (high.size,))

    def action_space(self, params: ForagingParams | None = None) -> Discrete:
        return Discrete(len(ACTIONS))

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "forager": partial(forager, self, False),
            "team_forager": partial(forager, self, True),
        }

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: ForagingParams) -> ForagingState:
        agent_key, food_key, level_key, heavy_key = jax.random.split(key, 4)
        position, free = self._place(agent_key, self.num_agents, jnp.ones((self.size, self.size), bool), apart=False)
        border = np.pad(np.ones((self.size - 2, self.size - 2), bool), 1)
        food, placed = self._place(food_key, self.num_food, free & border, apart=True)
        level = jax.random.randint(level_key, (self.num_agents,), 1, self.max_level + 1)
        most = jnp.sort(level)[:3].sum()
        least = most if self.cooperative else 1
        food_level = jax.random.randint(heavy_key, (self.num_food,), least, most + 1) * placed
        return ForagingState(position, level, food, food_level, food_level.sum(), jnp.zeros((), jnp.int32))

    def _place(self, key: jax.Array, count: int, free: jax.Array, apart: bool) -> tuple[jax.Array, jax.Array]:
        """Uniformly random cells of those that are `free`, bool [H, W], one after the other: int32 [count, 2].

        Without `apart` also what is free afterwards; with it, no two are near each other, and the second value, bool
        [count], says which of them found a place.
        """
        rows, columns = np.indices(free.shape)
        draws, cells, found = jax.random.uniform(key, (count,)), [], []
        for draw in draws:
            number = jnp.cumsum(free.ravel()).reshape(free.shape)
            chosen = free & (number == 1 + jnp.floor(draw * number[-1, -1]).astype(jnp.int32))
            cell = jnp.array([jnp.sum(chosen * rows), jnp.sum(chosen * columns)], jnp.int32)
            away = jnp.abs(rows - cell[0]), jnp.abs(columns - cell[1])
            near = (jnp.maximum(*away) <= 1) | (jnp.minimum(*away) == 0) & (jnp.maximum(*away) == 2)
            free = free & ~(near if apart else chosen)
            cells.append(cell)
            found.append(chosen.any())
        return jnp.stack(cells), jnp.stack(found) if apart else free

    def transition(
        self, key: jax.Array, state: ForagingState, actions: jax.Array, params: ForagingParams
    ) -> tuple[ForagingState, jax.Array, jax.Array, Metrics]:
        state = state.replace(position=self.moved(state, actions), time=state.time + 1)
        away = jnp.abs(state.position[:, None] - state.food).sum(axis=-1)  # [N, F]
        loads = (actions == LOAD)[:, None] & (away == 1) & (state.food_level > 0)
        strength = jnp.sum(loads * state.level[:, None], axis=0)
        loaded = loads & (strength >= state.food_level)
        shares = state.level[:, None] * state.food_level / (jnp.maximum(strength, 1) * state.total)
        reward = jnp.sum(jnp.where(loaded, shares, 0.0) - params.penalty * (loads & ~loaded), axis=1)
        state = state.replace(food_level=jnp.where(loaded.any(axis=0), 0, state.food_level))
        metrics = {
            "food": jnp.sum(state.food_level > 0, dtype=jnp.float32),
            "loaded": loaded.sum(axis=1, dtype=jnp.float32),
            "attempts": loads.any(axis=1).astype(jnp.float32),
        }
        return state, reward, ~jnp.any(state.food_level > 0), metrics

    def moved(self, state: ForagingState, actions: jax.Array) -> jax.Array:
        """int32 [N, 2]: where agents are after their steps."""
        aim = state.position + jnp.asarray(_STEPS)[actions]
        inside = jnp.all((aim >= 0) & (aim < self.size), axis=-1)
        on_food = jnp.any(jnp.all(aim[:, None] == state.food, axis=-1) & (state.food_level > 0), axis=1)
        goal = jnp.where((inside & ~on_food)[:, None], aim, state.position)
        others = ~np.eye(self.num_agents, dtype=bool)
        for _ in range(self.num_agents):  # whoever is held up may hold up the next
            contested = jnp.any(jnp.all(goal[:, None] == goal, axis=-1) & others, axis=1)
            goal = jnp.where(contested[:, None], state.position, goal)
        return goal

    def observe(self, state: ForagingState, params: ForagingParams) -> jax.Array:
        reach = self.sight or self.size
        origin = jnp.maximum(state.position - reach, 0)  # [N, 2]

        def seen(things: jax.Array, level: jax.Array) -> tuple[jax.Array, jax.Array]:
            """float32 [N, M, 3] and bool [N, M], of things at int32 [M, 2] with levels [M], and who sees them."""
            near = jnp.all(jnp.abs(things - state.position[:, None]) <= reach, axis=-1) & (level > 0)
            levels = jnp.broadcast_to(level[:, None], (*near.shape, 1))
            what = jnp.concatenate([things - origin[:, None], levels], axis=-1)
            return what.astype(jnp.float32), near

        food = _in_order(*seen(state.food, state.food_level), state.food[:, 0] * self.size + state.food[:, 1])
        agents = jnp.arange(self.num_agents)
        self_first = jnp.where(np.eye(self.num_agents, dtype=bool), -1, agents)
        everyone = _in_order(*seen(state.position, state.level), self_first)
        return jnp.concatenate([food, everyone], axis=1).reshape(self.num_agents, -1)


def _in_order(things: jax.Array, seen: jax.Array, order: jax.Array) -> jax.Array:
    """float32 [N, M, 3]: of `things`, [N, M, 3], those that are `seen`, bool [N, M], by `order`, [M] or [N, M]; then
    (-1, -1, 0) for each that is missing."""
    num_things = seen.shape[1]
    order = jnp.where(seen, order, np.iinfo(np.int32).max)
    place = jnp.sum(order[:, None, :] < order[:, :, None], axis=-1)  # among those seen
    here = (place[:, None, :] == np.arange(num_things)[:, None]) & seen[:, None, :]  # [N, place, thing]
    moved = jnp.where(here[..., None], things[:, None], 0.0).sum(axis=2)
    return jnp.where(here.any(axis=2)[..., None], moved, np.array([-1, -1, 0], np.float32))


# ---------------------------------------------------------------------- scripted players
def forager(env: LevelBasedForaging, together: bool, observation: jax.Array, key: jax.Array) -> jax.Array:
    """Goes to the nearest food that it sees, around other food and agents, and loads; random steps without any.

    Near to itself, or if `together` near to all agents that it sees, by the sum of their distances.
    """
    things = observation.reshape(-1, 3)
    there = things[:, 2] > 0
    food, agents = things[: env.num_food, :2], things[env.num_food :, :2]
    own = agents[0]
    far = 4.0 * env.size * env.num_agents
    distance = jnp.abs(food[:, None] - agents).sum(axis=-1)  # [F, N]
    weights = there[env.num_food :] if together else np.arange(env.num_agents) == 0
    cost = jnp.where(there[: env.num_food], jnp.sum(distance * weights, axis=1), far)
    target = food[jnp.argmin(cost)]
    aim = own + _STEPS[NORTH : EAST + 1]  # [4, 2]
    taken = jnp.any(jnp.all(aim[:, None] == things[:, :2], axis=-1) & there, axis=1)
    way = jnp.where(cost.min() < far, jnp.abs(aim - target).sum(axis=-1), 0.0) + far * taken
    step = NORTH + jnp.argmin(way + jax.random.uniform(key, (4,)))
    beside = (jnp.abs(own - target).sum() == 1) & (cost.min() < far)
    return jnp.where(beside, LOAD, step).astype(jnp.int32)
