"""Coop Mining: iron that anybody can mine alone, and gold that takes two.

After Melting Pot's coop_mining (Agapiou et al. 2022). The map is this suite's own, with the size and the numbers of
cells of Melting Pot's.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, at_most, random_player
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.beams import Beam, cells_hit
from marl_suite.envs.grid.cells import Plane, flat, look_up, random_order
from marl_suite.envs.grid.growth import rare_draws
from marl_suite.envs.grid.movement import BASE_ACTIONS, NOOP
from marl_suite.envs.grid.state import Events, GridParams, GridState
from marl_suite.envs.grid.world import GridWorld
from marl_suite.envs.spaces import Box, Space

MINE = len(BASE_ACTIONS)
REACH = 3
"""Length of the mining beam, in cells."""


class MiningState(GridState):
    """See `GridState`."""

    board: jax.Array  # uint8 [H, W], the number of the tile in each cell, without what claims change
    claim: jax.Array  # int32 [N], the flat cell of the gold that each agent hit last
    claim_left: jax.Array  # int32 [N], steps in which somebody else's hit on it still counts


class MiningParams(GridParams):
    """Melting Pot's numbers. Its episodes: max_steps=5000, min_steps=1000 and end_probability=.2."""

    mine_cooldown: int = 3  # [], steps from one shot to the next that is possible
    iron_growth: float = 0.0002  # [], of iron on each empty cell, per step
    gold_growth: float = 0.00008  # [], of gold
    mining_window: int = 3  # [], steps within which two hits mine gold: 1 for hits in the same step only
    iron_reward: float = 1.0  # [], to who mines iron
    gold_reward: float = 8.0  # [], to each of the two who mine gold


@dataclasses.dataclass(frozen=True)
class CoopMining(GridWorld):
    """Social dilemma: gold pays each of two miners eightfold, but only one of them is paid nothing while it waits.

    Rules (Melting Pot's numbers): there is no ore at first. On each of the 538 empty cells that are no spawn cells and
    have no agent on them, iron appears with probability .0002 and gold with .00008 per step. Agents walk over ore. The
    mining beam is a line of 3 cells, which passes agents and ends at the first ore or wall; it fires every 3 steps. One
    hit mines iron and pays 1. Gold is mined by the hits of two agents not more than 2 steps apart, and pays 8 to each;
    till then it is claimed by who hit it first, whose further hits prolong the claim. When several hit the same ore in
    one step, they do so in a random order, and whoever comes too late gets nothing.

    Fear, no greed, as in a stag hunt: over 1,000 steps six `gold_miner` players earn 128 points each and six
    `iron_miner` ones 18. A single `gold_miner` earns 1 and two 4 each, but a single `iron_miner` only 36.

    Attributes:
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "." is a cell on which ore
            appears and "P" a spawn cell, without ore.

    Observation: a dict of `view`, uint8 [11, 11, 3] of planes (tile: 1 floor, 2 wall, 3 iron, 4 gold, 5 claimed gold, 6
    spawn cell; beam; agent), see `marl_suite.envs.grid.views`; `ready`, float32 [1]; and `claim`, float32 [1], the
    share of the time after one's own hit that is left for another's, 0 without a claim. Gold looks claimed as long as
    another's hit in the next step mines it. Actions: seven moves and "mine". Reward: points [N]. Metrics: `iron` and
    `gold`, how many cells hold it, `mined_iron` [N] and `mined_gold` [N], how often each was paid, and `shots` [N].
    Global state: see `GridWorld`, and where iron, gold and claimed gold are, [H, W] each, and what is left of claims.

    Deviations: a hit on another gold ends the claim on the one before, which in Melting Pot takes a beam that fires
    more often than here; who comes too late is stopped by the ore nevertheless; the spawn cells look different from the
    floor. See also `marl_suite.envs.grid.world`.
    """

    name: str = "coop_mining"
    num_agents: int = 6

    exploiter: ClassVar[str | None] = "iron_miner"
    cooperator: ClassVar[str | None] = "gold_miner"
    defector: ClassVar[str | None] = "iron_miner"
    definitions: ClassVar[Mapping[str, str]] = {
        "gold_miner": "mines the gold in view, above all claimed one, until somebody helps, and iron without gold",
        "iron_miner": "mines iron only",
    }
    times_out: ClassVar[bool] = False
    legend: ClassVar[Mapping[str, str]] = {"#": "wall", ".": "ore cell", "P": "spawn cell"}
    tiles: ClassVar[Mapping[str, str]] = {
        **GridWorld.tiles,
        "iron": "I",
        "gold": "G",
        "claimed": "C",
        "spawn": ",",
    }
    colours: ClassVar[Mapping[str, str]] = {
        **GridWorld.colours,
        "iron": "#7a8a99",
        "gold": "#e0a800",
        "claimed": "#fff3a0",
        "spawn": "#d3cbbb",
        "mine": "#e58fb1",
    }
    beams: ClassVar[tuple[Beam, ...]] = (Beam("mine", length=REACH, radius=0, stops_at_agents=False),)

    @property
    def own_map(self) -> str:
        return MAP

    def check_map(self) -> None:
        super().check_map()
        self.grid.require(".", 1, "one for ore")

    @property
    def default_params(self) -> MiningParams:
        return MiningParams()

    def socialjax_params(self) -> MiningParams:
        """The numbers of SocialJax (Guo et al. 2025): a beam that needs no rest. (Its gold pays the second miner only,
        by mistake, which no number here can do.)"""
        return MiningParams(mine_cooldown=1)

    def check_params(self, params: MiningParams) -> None:
        super().check_params(params)
        for name in ("mine_cooldown", "mining_window"):
            at_least(f"{self.name}: {name}", getattr(params, name), 1)
        for name in ("iron_growth", "gold_growth"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)
        at_most(f"{self.name}: iron_growth plus gold_growth", params.iron_growth + params.gold_growth, 1)

    def cooldown(self, beam: Beam, params: MiningParams) -> jax.Array | int:
        return params.mine_cooldown - 1

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "gold_miner": partial(gold_miner, self),
            "iron_miner": partial(iron_miner, self),
        }

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: MiningParams) -> MiningState:
        kinds = {"wall": self.grid.plane("#"), "spawn": self.grid.plane("P")}
        board = np.select(list(kinds.values()), [self.tile(kind) for kind in kinds], self.tile("floor"))
        nothing = jnp.zeros(self.num_agents, jnp.int32)
        return MiningState(**base, board=jnp.asarray(board, jnp.uint8), claim=nothing, claim_left=nothing)

    def ore(self, state: MiningState) -> jax.Array:
        """bool [H, W]: where there is any."""
        return (state.board == self.tile("iron")) | (state.board == self.tile("gold"))

    def tile_plane(self, state: MiningState) -> Plane:
        cells = jnp.where(state.claim_left > 0, state.claim, self.grid.num_cells)
        tiles = jnp.ravel(state.board).at[cells].set(np.uint8(self.tile("claimed")), mode="drop")
        return tiles.reshape(self.grid.shape)

    def stops(self, beam: Beam, state: MiningState) -> Plane:
        return self.solid(state) | self.ore(state)

    def rules(
        self, key: jax.Array, state: MiningState, events: Events, params: MiningParams
    ) -> tuple[MiningState, jax.Array, Metrics]:
        order_key, grow_key = jax.random.split(key)
        shot = events.shots["mine"]
        targets = jnp.max(jnp.where(cells_hit(shot, self.ore(state)), shot.cells, -1), axis=1)
        state, mined_iron, mined_gold = self._mine(order_key, state, targets, params)
        state = state.replace(board=self._grow(grow_key, state, params))
        metrics = {
            "iron": jnp.sum(state.board == self.tile("iron"), dtype=jnp.float32),
            "gold": jnp.sum(state.board == self.tile("gold"), dtype=jnp.float32),
            "mined_iron": mined_iron.astype(jnp.float32),
            "mined_gold": mined_gold.astype(jnp.float32),
            "shots": shot.fired.astype(jnp.float32),
        }
        return state, params.iron_reward * mined_iron + params.gold_reward * mined_gold, metrics

    def _mine(
        self, key: jax.Array, state: MiningState, targets: jax.Array, params: MiningParams
    ) -> tuple[MiningState, jax.Array, jax.Array]:
        """The state after hits on the ore in `targets`, int32 [N], flat cells, -1 for none, and how often each agent
        is paid for iron, bool [N], and for gold, int32 [N]."""
        nowhere = self.grid.num_cells
        kind = look_up(state.board, jnp.where(targets < 0, nowhere, targets), beyond=0)
        iron, gold = kind == self.tile("iron"), kind == self.tile("gold")
        turns = random_order(key, self.num_agents)
        same = targets == targets[:, None]  # of those who hit ore; first the one who is looked at, then others
        sooner = same & (turns < turns[:, None])
        holds = (state.claim == targets[:, None]) & (state.claim_left > 0) & gold[:, None]

        first = iron & ~sooner.any(axis=1)
        earlier = holds | sooner  # who made a difference to that gold before
        second = gold & (earlier.sum(axis=1) == 1) & ~jnp.diagonal(holds)
        mined_gold = second + (earlier & second[:, None]).sum(axis=0)

        gone = jnp.where(first | second, targets, nowhere)
        board = jnp.ravel(state.board).at[gone].set(np.uint8(self.tile("floor")), mode="drop")
        claims = gold & ~(same & second).any(axis=1)
        lost = (holds & second[:, None]).any(axis=0)
        left = jnp.where(lost, 0, jnp.maximum(state.claim_left - 1, 0))
        state = state.replace(
            board=board.reshape(self.grid.shape),
            claim=jnp.where(claims, targets, state.claim),
            claim_left=jnp.where(claims, jnp.asarray(params.mining_window, jnp.int32) - 1, left),
        )
        return state, first, mined_gold

    def _grow(self, key: jax.Array, state: MiningState, params: MiningParams) -> jax.Array:
        """uint8 [H, W]: the board with new ore."""
        usual = (MiningParams().iron_growth + MiningParams().gold_growth) * self.grid.num_cells
        either = params.iron_growth + params.gold_growth
        draws = rare_draws(key, self.grid.num_cells, either, usual)
        draws = draws.at[flat(state.position[:, 0], state.position[:, 1], self.grid.shape)].set(1.0)
        draws = draws.reshape(self.grid.shape)
        new = jnp.where(draws < params.iron_growth, self.tile("iron"), self.tile("gold"))
        return jnp.where((draws < either) & (state.board == self.tile("floor")), new, state.board).astype(jnp.uint8)

    def extra_spaces(self) -> dict[str, Space]:
        return {**super().extra_spaces(), "claim": Box(0, 1, (1,))}

    def extras(self, state: MiningState, params: MiningParams) -> dict[str, jax.Array]:
        return {**super().extras(state, params), "claim": self._claim(state, params)[:, None]}

    def _claim(self, state: MiningState, params: MiningParams) -> jax.Array:
        """float32 [N]: the share of the time for another's hit that is left."""
        return state.claim_left / jnp.maximum(jnp.asarray(params.mining_window, jnp.float32) - 1, 1)

    def state_features(self, state: MiningState, params: MiningParams) -> list[jax.Array]:
        tiles = self.tile_plane(state)
        return [*(tiles == self.tile(kind) for kind in ("iron", "gold", "claimed")), self._claim(state, params)]


# ---------------------------------------------------------------------- scripted players
def iron_miner(env: CoopMining, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to where its beam reaches the nearest iron in view and mines it; without any it looks around."""
    walk_key, explore_key = jax.random.split(key)
    tiles, clear = _ground(env, observation)
    step, found = _go_and_mine(env, walk_key, observation, tiles == env.tile("iron"))
    return jnp.where(found, step, scripted.explore(explore_key, env.window, clear))


def gold_miner(env: CoopMining, observation: PyTree, key: jax.Array) -> jax.Array:
    """Helps others with their claimed gold in view, else mines the nearest gold until somebody helps, else iron.

    One who has a claim itself leaves it for another's only now and then, so that not both of two go to the other's.
    """
    help_key, leave_key, gold_key, iron_key = jax.random.split(key, 4)
    tiles, _ = _ground(env, observation)
    claimed = tiles == env.tile("claimed")
    has_claim = observation["claim"][0] > 0
    row, column = env.window.home
    own = jnp.zeros_like(claimed).at[max(row - REACH, 0) : row, column].set(has_claim)
    step, found = _go_and_mine(env, gold_key, observation, claimed | (tiles == env.tile("gold")))
    action = jnp.where(found, step, iron_miner(env, observation, iron_key))
    step, found = _go_and_mine(env, help_key, observation, claimed & ~own)
    leaves = ~has_claim | (jax.random.uniform(leave_key) < LEAVING)
    return jnp.where(found & leaves, step, action)


LEAVING = 0.1
"""With what probability per step a gold miner gives up its own claim to help with another's."""


def _ground(env: CoopMining, observation: PyTree) -> tuple[jax.Array, jax.Array]:
    """The tiles in view, and bool, which cells can be entered."""
    tiles = env.seen(observation, "tile")
    return tiles, (tiles > 0) & (tiles != env.tile("wall")) & (env.seen(observation, "agent") == 0)


def _go_and_mine(
    env: CoopMining, key: jax.Array, observation: PyTree, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The action that brings a shot at the nearest of `targets`, bool [h, w], closer, and whether there is one."""
    tiles, clear = _ground(env, observation)
    solid = [env.tile(kind) for kind in ("wall", "iron", "gold", "claimed")]
    aims = scripted.aims(targets, jnp.isin(tiles, np.array([0, *solid])), REACH)
    step, found = scripted.walk(key, env.window, aims & clear, clear)
    shoot = jnp.where(observation["ready"][0] == 1, MINE, NOOP)
    aimed = aims[env.window.home]
    return jnp.where(aimed, shoot, step), aimed | found


# ---------------------------------------------------------------------- map
MAP = """
    ###########################
    #...........#.............#
    #.P.........#...........P.#
    #.......P...#.............#
    #...........#..###...#....#
    #...#####..........P.#....#
    #....................#....#
    #....P...............#....#
    #........#...........#.P..#
    #...#....#..P.#####.......#
    #...#....#................#
    #...#....#................#
    #........#.......P....#####
    #....P.......#.......P....#
    #####....P.......#........#
    #................#....#...#
    #................#....#...#
    #.......#####.P..#....#...#
    #..P.#...........#........#
    #....#...............P....#
    #....#....................#
    #....#.P..........#####...#
    #....#...###..#...........#
    #.............#...P.......#
    #.P...........#.........P.#
    #.............#...........#
    ###########################
"""
