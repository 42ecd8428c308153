"""Coins: two agents gather coins in two colours, and taking one of the other's colour costs the other.

After Melting Pot's coins (Leibo et al. 2021; Agapiou et al. 2022), the coin game of Lerer and Peysakhovich (2017) on a
board of random size.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, at_most, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.cells import look_up
from marl_suite.envs.grid.growth import rare_draws
from marl_suite.envs.grid.state import Events, GridParams, GridState
from marl_suite.envs.grid.world import GridWorld
from marl_suite.envs.spaces import Box, Space

SHORTEST, LONGEST = 10, 15
"""The sides of a board, in cells."""


class CoinsState(GridState):
    """See `GridState`."""

    board: jax.Array  # uint8 [H, W], the number of the tile in each cell
    mismatched: jax.Array  # bool [N], who took a coin of the other's colour in the last step


class CoinsParams(GridParams):
    """Melting Pot's numbers. Its episodes: max_steps=5000, min_steps=300 and end_probability=.05."""

    coin_probability: float = 0.0005  # [], that a coin appears on an empty cell, per step
    own_reward: float = 1.0  # [], to who takes a coin of its own colour
    other_reward: float = 1.0  # [], to who takes a coin of the other's colour
    mismatch_penalty: float = -2.0  # [], to the other then


@dataclasses.dataclass(frozen=True)
class Coins(GridWorld):
    """Social dilemma: any coin is worth a point to its taker, but one of the other's colour costs the other two.

    Rules (Melting Pot's numbers): agent 0 is red, agent 1 blue. The sides of the board are drawn for each episode,
    uniformly from 10 .. 15 cells; the agents start one cell off two opposite corners, at random which. The board is
    empty at first. On every empty cell other than these two a coin appears with probability .0005 per step, red or blue
    with the same chance, also under an agent, which must come anew to take it. A coin is taken by stepping on it: 1 to
    who takes it, whatever its colour, and -2 to the other agent where it is of that one's colour.

    Fear and greed: over 1,000 steps two `own_colour` players earn 37 points each and two `any_colour` ones 0; of a
    mixed pair, `any_colour` earns 55 and `own_colour` -16.

    Attributes:
        num_agents: 2.
        map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "." is a cell on which coins appear and "P"
            one to start on, without coins; the size of the board is then the map's.

    Observation: a dict of `view`, uint8 [11, 11, 2] of planes (tile: 1 floor, 2 wall, 3 red coin, 4 blue coin, 5 first
    cell; agent), see `marl_suite.envs.grid.views`; `colour`, float32 [2], one's own one-hot, as tiles are the same for
    both; and `partner_mismatched`, float32 [1], whether the other took a coin of one's own colour in the last step.
    Actions: seven moves. Reward: points [N]. Metrics: `coins`, how many are there, `own_coins` [N] and `other_coins`
    [N] taken of either colour. Global state: see `GridWorld`, and where walls, red and blue coins are, [H, W] each, and
    who mismatched [N].

    Deviations: the cells without coins look different from the floor. See also `marl_suite.envs.grid.world`.

    Raises:
        InputError: for other than two agents.
    """

    name: str = "coins"
    num_agents: int = 2

    exploiter: ClassVar[str | None] = "any_colour"
    cooperator: ClassVar[str | None] = "own_colour"
    defector: ClassVar[str | None] = "any_colour"
    legend: ClassVar[Mapping[str, str]] = {"#": "wall", ".": "coin cell", "P": "first cell"}
    tiles: ClassVar[Mapping[str, str]] = {**GridWorld.tiles, "red": "R", "blue": "B", "first": ","}
    colours: ClassVar[Mapping[str, str]] = {
        **GridWorld.colours,
        "red": "#d55e00",
        "blue": "#0072b2",
        "first": "#d3cbbb",
        "agent 0": "#d55e00",
        "agent 1": "#0072b2",
    }

    definitions: ClassVar[Mapping[str, str]] = {
        "own_colour": "takes coins of its own colour only",
        "any_colour": "takes the nearest coin, whosever colour it has",
    }

    def __post_init__(self) -> None:
        if self.num_agents != 2:
            raise InputError(f"{self.name} is a game of 2 agents, got num_agents={self.num_agents}; use 2")
        super().__post_init__()

    @property
    def own_map(self) -> str:
        return _MAP

    @property
    def default_params(self) -> CoinsParams:
        return CoinsParams()

    def socialjax_params(self) -> CoinsParams:
        """The numbers of SocialJax (Guo et al. 2025): both colours are drawn on their own, so twice as many coins."""
        return CoinsParams(coin_probability=1 - (1 - 0.0005) ** 2)

    def check_params(self, params: CoinsParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: coin_probability", params.coin_probability, 0)
        at_most(f"{self.name}: coin_probability", params.coin_probability, 1)

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "own_colour": partial(coins_player, self, False),
            "any_colour": partial(coins_player, self, True),
        }

    def derived_metrics(self, means: Metrics) -> Metrics:
        """The means, and `own_coin_share` [N], own ones among the coins that each agent took (NaN for none)."""
        return {**means, "own_coin_share": means["own_coins"] / (means["own_coins"] + means["other_coins"])}

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: CoinsParams) -> CoinsState:
        nobody = jnp.zeros(self.num_agents, bool)
        wall, first, floor = self.tile("wall"), self.tile("first"), self.tile("floor")
        own = np.select([self.grid.plane("#"), self.grid.plane("P")], [wall, first], floor).astype(np.uint8)
        if self.map:
            return CoinsState(**base, board=jnp.asarray(own), mismatched=nobody)
        sides = jax.random.randint(key, (2,), SHORTEST, LONGEST + 1)
        rows, columns = np.indices(self.grid.shape)
        outside = (rows > sides[0]) | (columns > sides[1])
        far = (rows == sides[0] - 1) & (columns == sides[1] - 1)
        near = (rows == 2) & (columns == 2)
        board = jnp.where(outside | (own == wall), wall, jnp.where(near | far, first, floor)).astype(jnp.uint8)
        position = jnp.minimum(base["position"], sides - 1)  # from the far corner of the largest board
        return CoinsState(**base | {"position": position}, board=board, mismatched=nobody)

    def solid(self, state: CoinsState) -> jax.Array:
        return state.board == self.tile("wall")

    def tile_plane(self, state: CoinsState) -> jax.Array:
        return state.board

    def rules(
        self, key: jax.Array, state: CoinsState, events: Events, params: CoinsParams
    ) -> tuple[CoinsState, jax.Array, Metrics]:
        red, blue, floor = self.tile("red"), self.tile("blue"), self.tile("floor")
        found = look_up(state.board, jnp.where(events.entered < 0, self.grid.num_cells, events.entered), beyond=0)
        own, other = found == np.array([red, blue]), found == np.array([blue, red])
        reward = params.own_reward * own + params.other_reward * other + params.mismatch_penalty * other[::-1]

        cells = np.arange(self.grid.num_cells).reshape(self.grid.shape)
        taken = jnp.any(cells == jnp.where(own | other, events.entered, -1)[:, None, None], axis=0)
        board = jnp.where(taken, floor, state.board)
        draws = rare_draws(key, cells.size, params.coin_probability, CoinsParams().coin_probability * LONGEST**2)
        draws = draws.reshape(cells.shape)
        coin = jnp.where(draws < params.coin_probability / 2, red, blue)
        board = jnp.where((draws < params.coin_probability) & (board == floor), coin, board).astype(jnp.uint8)
        metrics = {
            "coins": jnp.sum((board == red) | (board == blue), dtype=jnp.float32),
            "own_coins": own.astype(jnp.float32),
            "other_coins": other.astype(jnp.float32),
        }
        return state.replace(board=board, mismatched=other), reward.astype(jnp.float32), metrics

    def extra_spaces(self) -> dict[str, Space]:
        return {"colour": Box(0, 1, (2,)), "partner_mismatched": Box(0, 1, (1,))}

    def extras(self, state: CoinsState, params: Any) -> dict[str, jax.Array]:
        partner = state.mismatched[::-1, None].astype(jnp.float32)
        return {"colour": jnp.eye(2), "partner_mismatched": partner}

    def state_features(self, state: CoinsState, params: Any) -> list[jax.Array]:
        return [*(state.board == self.tile(kind) for kind in ("wall", "red", "blue")), state.mismatched]


# ---------------------------------------------------------------------- scripted players
def coins_player(env: Coins, any_colour: bool, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest coin in view, and looks around when there is none.

    Unless it takes `any_colour` it does so for its own colour only and walks around the other's coins.
    """
    walk_key, explore_key = jax.random.split(key)
    tiles = env.seen(observation, "tile")
    coins = (tiles == env.tile("red")) | (tiles == env.tile("blue"))
    own = tiles == jnp.where(observation["colour"][0] == 1, env.tile("red"), env.tile("blue"))
    wanted = coins if any_colour else own
    floor = (tiles == env.tile("floor")) | (tiles == env.tile("first"))
    clear = (floor | wanted) & (env.seen(observation, "agent") == 0)
    step, found = scripted.walk(walk_key, env.window, wanted & clear, clear)
    return jnp.where(found, step, scripted.explore(explore_key, env.window, clear))


# ---------------------------------------------------------------------- map
_MAP = """
    #################
    #...............#
    #.P.............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #...............#
    #.............P.#
    #...............#
    #################
"""
