"""Externality Mushrooms: what one eats feeds oneself, everybody or everybody else, and sows what grows next.

After Melting Pot's externality_mushrooms__dense (Agapiou et al. 2022). The map is this suite's own, with the size and
the numbers of cells of Melting Pot's.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, PyTree, any_in_batch, at_least, at_most, random_player
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.beams import Beam, cells_hit
from marl_suite.envs.grid.cells import Plane, flat, look_up
from marl_suite.envs.grid.state import Events
from marl_suite.envs.grid.two_hits import TwoHitsParams, TwoHitsState, TwoHitsWorld, taken_out

COLOURS = ("red", "green", "blue", "orange")
RED, GREEN, BLUE, ORANGE = range(1, 1 + len(COLOURS))  # 0 is no mushroom
MOST_SPORES = 3
FEW = 16
"""Mushrooms that grow in one step but for exceptions, which cost more time."""
NEVER = 10_000_000


def _per_colour(dtype: type, *values: Any) -> Any:
    return dataclasses.field(default_factory=lambda: np.array(values, dtype))


class MushroomsState(TwoHitsState):
    """See `TwoHitsState`."""

    mushrooms: jax.Array  # uint8 [H, W], the colour of what grows in a cell, 0 for nothing
    spoils: jax.Array  # int32 [H, W], when it does, in steps taken; any where nothing grows


class MushroomsParams(TwoHitsParams):
    """Melting Pot's numbers; arrays of four are by colour: red, green, blue, orange."""

    zap_cooldown: int = 3  # [], steps
    zap_timeout: int = 50  # [], steps
    total_reward: np.ndarray = _per_colour(np.float32, 1, 2, 3, -1)  # float32 [4], of all who are paid together
    digestion: np.ndarray = _per_colour(np.int32, 0, 10, 15, 15)  # int32 [4], steps that the eater is frozen
    freshness: np.ndarray = _per_colour(np.int32, 200, 100, 75, NEVER)  # int32 [4], steps until it spoils
    spores: np.ndarray = _per_colour(np.int32, 3, 3, 3, 1)  # int32 [4], released when it is eaten, 3 at most
    sprouting: np.ndarray = _per_colour(
        np.float32, [0.25, 0, 0, 0], [0.25, 0.4, 0, 0], [0.25, 0.4, 0.6, 0], [0, 0, 0, 1]
    )  # float32 [4, 4], with what probability one spore of the first grows the second
    blight: float = 0.25  # [], probability with which an orange one that is eaten destroys each red one


@dataclasses.dataclass(frozen=True)
class ExternalityMushrooms(TwoHitsWorld):
    """Social dilemma: mushrooms that pay the others make all kinds grow, those that pay the eater die out.

    Measured with k of five agents as `blue_picker` and the others as `red_picker`, mean return of 1,000 steps in twelve
    episodes, with standard errors below 3 %, but for the last: 161 for k = 5; 124 and 525 (blue, red) for 4; 85 and 318
    for 3; 41 and 134 for 2; 15 and 44 for 1; 3 for 0. So there is greed, 525 > 161, and no fear, as who picks blue
    alone still has 15 > 3: it also eats the green ones that grow.

    Rules (Melting Pot's numbers), with N agents; a mushroom is eaten by stepping on it:

    ======  ==================================  =========  ======  ======  ========================================
    colour  pays                                digestion  spoils  spores  each grows, by a draw per colour,
    ======  ==================================  =========  ======  ======  ========================================
    red     1 to the eater                      0 steps    200     3       red .25
    green   2 / N to everybody                  10         100     3       red .25, green .4
    blue    3 / (N - 1) to everybody else       15         75      3       red .25, green .4, blue .6
    orange  -1 / N to everybody                 15         never   1       orange 1, and each red one dies with .25
    ======  ==================================  =========  ======  ======  ========================================

    While it digests, the eater is frozen. What grows appears in a cell drawn uniformly from all that had no mushroom
    when the step began, and is lost if an agent stands there. The zapping beam has length 3 and radius 1, fires every 4
    steps and destroys the mushrooms that it crosses. It freezes whom it hits for 25 steps and, at a second hit within
    50, takes it out for 50, in which it is paid nothing.

    Attributes:
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "R", "G", "B" and "O" are the
            first mushrooms, and "P" all other cells, on which agents start and return. Mushrooms grow on all of these.

    Observation: a dict of `view`, uint8 [11, 11, 5] of planes (tile: 1 floor, 2 wall, 3 red, 4 green, 5 blue, 6 orange;
    beam; agent; frozen; marked), see `marl_suite.envs.grid.views`, and `ready`, float32 [1]. Actions: seven moves and
    "zap". Reward: see above, [N]. Metrics, for each colour: `red`, how many grow, and `red_eaten` [N], by whom;
    `destroyed` [N], mushrooms that each zapped, `zaps` [N] and `timed_out` [N]. Global state: see `GridWorld`, marks,
    and per cell of the map one number per colour, from 0 without it to 1 as long as it is fresh.

    Deviations: of two mushrooms that grow in the same cell in one step, the last colour of the table stays. See also
    `marl_suite.envs.grid.world`.
    """

    name: str = "externality_mushrooms"
    num_agents: int = 5

    exploiter: ClassVar[str | None] = "red_picker"
    cooperator: ClassVar[str | None] = "blue_picker"
    defector: ClassVar[str | None] = "red_picker"
    definitions: ClassVar[Mapping[str, str]] = {
        "blue_picker": "goes to the nearest blue mushroom in view, else green, else red; never zaps",
        "green_picker": "goes to the nearest green mushroom in view, else red; never zaps",
        "red_picker": "eats red mushrooms only; never zaps",
    }
    legend: ClassVar[Mapping[str, str]] = {
        **TwoHitsWorld.legend,
        "R": "red mushroom",
        "G": "green mushroom",
        "B": "blue mushroom",
        "O": "orange mushroom",
    }
    tiles: ClassVar[Mapping[str, str]] = {**TwoHitsWorld.tiles, "red": "R", "green": "G", "blue": "B", "orange": "O"}
    colours: ClassVar[Mapping[str, str]] = {
        **TwoHitsWorld.colours,
        "red": "#b2182b",
        "green": "#5aae61",
        "blue": "#2166ac",
        "orange": "#f4a000",
        "zap": "#f7e26b",
    }
    beams: ClassVar[tuple[Beam, ...]] = (Beam("zap", length=3, radius=1),)

    @property
    def own_map(self) -> str:
        return _MAP

    @property
    def default_params(self) -> MushroomsParams:
        return MushroomsParams()

    def socialjax_params(self) -> MushroomsParams:
        """The numbers of SocialJax (Guo et al. 2025), as far as its rules agree: digestion of 10, 15, 20 and 0 steps,
        two spores a mushroom, nothing spoils, orange costs everybody .2 and destroys nothing. (There no colour grows
        beyond 6, and a zap only moves whom it hits.)"""
        return MushroomsParams(
            zap_cooldown=0,
            total_reward=np.array([1, 2, 3, -0.2 * self.num_agents], np.float32),
            digestion=np.array([10, 15, 20, 0], np.int32),
            freshness=np.full(4, NEVER, np.int32),
            spores=np.array([2, 2, 2, 1], np.int32),
            blight=0.0,
        )

    def check_params(self, params: MushroomsParams) -> None:
        super().check_params(params)
        for name in ("digestion", "spores", "sprouting", "blight"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)
        for name in ("sprouting", "blight"):
            at_most(f"{self.name}: {name}", getattr(params, name), 1)
        at_least(f"{self.name}: freshness", params.freshness, 1)
        at_most(f"{self.name}: spores", params.spores, MOST_SPORES)

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "blue_picker": partial(picker, self, ("blue", "green", "red")),
            "green_picker": partial(picker, self, ("green", "red")),
            "red_picker": partial(picker, self, ("red",)),
        }

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: MushroomsParams) -> MushroomsState:
        mushrooms = jnp.asarray(sum(np.uint8(c) * self.grid.plane(s) for c, s in enumerate("RGBO", start=1)))
        spoils = _by_colour(mushrooms, params.freshness)
        return MushroomsState(**base, marked=jnp.zeros(self.num_agents, jnp.int32), mushrooms=mushrooms, spoils=spoils)

    def tile_plane(self, state: MushroomsState) -> Plane:
        ground = np.where(self.grid.plane("#"), np.uint8(self.tile("wall")), np.uint8(self.tile("floor")))
        return jnp.where(state.mushrooms > 0, state.mushrooms + np.uint8(self.tile("red") - 1), ground)

    def rules(
        self, key: jax.Array, state: MushroomsState, events: Events, params: MushroomsParams
    ) -> tuple[MushroomsState, jax.Array, Metrics]:
        sow_key, blight_key = jax.random.split(key)
        before = state.mushrooms
        colour = look_up(before, jnp.where(events.entered < 0, self.grid.num_cells, events.entered), beyond=0)
        eats = colour[:, None] == np.arange(RED, ORANGE + 1)  # [N, 4]
        destroyed = cells_hit(events.shots["zap"], before > 0)
        left = jnp.where(self._trodden(events.entered) | (state.beam > 0), 0, before)
        oranges = eats[:, ORANGE - 1].sum(dtype=jnp.float32)
        left = jnp.where((left == RED) & self._blighted(blight_key, oranges, params), 0, left)
        left = jnp.where(state.time >= state.spoils, 0, left)
        grown = self._sow(sow_key, eats, before == 0, state, params)
        spoils = jnp.where(grown > 0, state.time + _by_colour(grown, params.freshness), state.spoils)
        mushrooms = jnp.where(grown > 0, grown, left)
        digests = jnp.sum(jnp.where(eats, params.digestion, 0), axis=1)
        paid = (state.timeout == 0) | taken_out(state, events)
        metrics = {
            **{name: (mushrooms == c).sum(dtype=jnp.float32) for c, name in enumerate(COLOURS, start=1)},
            **{f"{name}_eaten": eats[:, c].astype(jnp.float32) for c, name in enumerate(COLOURS)},
            "destroyed": destroyed.sum(axis=1, dtype=jnp.float32),
        }
        frozen = jnp.where(state.timeout == 0, jnp.maximum(state.frozen, digests), 0)
        state = state.replace(mushrooms=mushrooms, spoils=spoils, frozen=frozen)
        return state, jnp.where(paid, self.payments(eats, params), 0), metrics

    def payments(self, eats: jax.Array, params: MushroomsParams) -> jax.Array:
        """float32 [N]: what agents in play are paid when each `eats`, bool [N, 4], a colour."""
        own = eats.astype(jnp.float32)
        everybody = own.sum(axis=0)
        everybody_else = (everybody - own)[:, BLUE - 1] / max(self.num_agents - 1, 1)
        shares = jnp.asarray(params.total_reward) * everybody / self.num_agents
        red, _, blue, _ = params.total_reward
        return red * own[:, RED - 1] + shares[GREEN - 1] + blue * everybody_else + shares[ORANGE - 1]

    def _trodden(self, entered: jax.Array) -> jax.Array:
        """bool [H, W]: the cells that agents stepped on."""
        cells = jnp.where(entered < 0, self.grid.num_cells, entered)
        return jnp.zeros(self.grid.num_cells, bool).at[cells].set(True, mode="drop").reshape(self.grid.shape)

    def _blighted(self, key: jax.Array, oranges: jax.Array, params: MushroomsParams) -> jax.Array:
        """bool [H, W]: where a red mushroom dies of the orange ones that are eaten."""
        words = jax.random.bits(key, (self.grid.num_cells // 2 + 1,))  # two draws each, which are fine enough
        draws = jnp.ravel(jax.lax.bitcast_convert_type(words, jnp.uint16))[: self.grid.num_cells]
        dies = 1 - (1 - jnp.asarray(params.blight, jnp.float32)) ** oranges
        return draws.reshape(self.grid.shape) < jnp.round(dies * 2**16).astype(jnp.int32)

    def _sow(
        self, key: jax.Array, eats: jax.Array, waiting: jax.Array, state: MushroomsState, params: MushroomsParams
    ) -> jax.Array:
        """uint8 [H, W]: what grows of the spores of what each agent `eats`, bool [N, 4], in `waiting` cells."""
        spore_key, cell_key, more_key = jax.random.split(key, 3)
        chance = jnp.sum(jnp.where(eats[..., None], params.sprouting, 0), axis=1)  # [N, 4], as each eats one at most
        spores = jnp.sum(jnp.where(eats, params.spores, 0), axis=1)
        chance = jnp.where(np.arange(MOST_SPORES)[:, None] < spores, chance.T[:, None], 0).reshape(len(COLOURS), -1)
        grow = jax.random.uniform(spore_key, chance.shape) < chance  # [4, 3 N]: short rows would take twice the time
        upto = jnp.cumsum(grow.sum(axis=1, dtype=jnp.int32))  # [4], how many grow of the colours up to each
        count = _running_count(waiting & self.grid.plane("PRGBO"))
        few, most = min(FEW, grow.size), grow.size
        draws = jax.random.uniform(cell_key, (few,))

        def place(draws: jax.Array) -> jax.Array:
            """Grows them in this order, each where its draw says."""
            turn = np.arange(len(draws))
            colour = RED + jnp.sum(turn[:, None] >= upto[:-1], axis=1, dtype=jnp.uint8)
            cells = jnp.searchsorted(count, 1 + jnp.floor(draws * count[-1]))
            cells = jnp.where(turn < upto[-1], cells, self.grid.num_cells)
            return jnp.zeros(self.grid.num_cells, jnp.uint8).at[cells].max(colour, mode="drop")

        def place_all() -> jax.Array:
            return place(jnp.concatenate([draws, jax.random.uniform(more_key, (most - few,))]))

        grown = jax.lax.cond(any_in_batch(upto[-1] > few), place_all, lambda: place(draws))
        rows, columns = state.position.T
        standing = jnp.where(state.timeout == 0, flat(rows, columns, self.grid.shape), self.grid.num_cells)
        return grown.at[standing].set(0, mode="drop").reshape(self.grid.shape)

    def state_features(self, state: MushroomsState, params: Any) -> list[jax.Array]:
        fresh = jnp.minimum(
            (state.spoils - state.time) / jnp.maximum(_by_colour(state.mushrooms, params.freshness), 1), 1
        )
        planes = [jnp.where(state.mushrooms == c, fresh, 0) for c in range(RED, ORANGE + 1)]
        return [*super().state_features(state, params), *planes]


def _by_colour(mushrooms: jax.Array, values: Any) -> jax.Array:
    """[H, W]: the value of each cell's colour, 0 where nothing grows."""
    return jnp.select([mushrooms == c for c in range(RED, ORANGE + 1)], [values[i] for i in range(len(COLOURS))], 0)


def _running_count(plane: jax.Array) -> jax.Array:
    """float32 [H * W]: how many cells are set up to each, in reading order. (A sixth of the time of `jnp.cumsum`.)"""
    height, width = plane.shape
    along = plane.astype(jnp.float32) @ np.tri(width, dtype=np.float32).T
    return jnp.ravel(along + (np.tri(height, k=-1, dtype=np.float32) @ along[:, -1])[:, None])


# ---------------------------------------------------------------------- scripted players
def picker(env: ExternalityMushrooms, wanted: tuple[str, ...], observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest mushroom of the first of the `wanted` colours that is in view, around all others.

    Without any in view it looks around. It never zaps.
    """
    walk_key, explore_key = jax.random.split(key)
    tiles = env.seen(observation, "tile")
    goals = jnp.zeros(tiles.shape, bool)
    for colour in reversed(wanted):
        there = tiles == env.tile(colour)
        goals = jnp.where(there.any(), there, goals)
    clear = ((tiles == env.tile("floor")) | goals) & (env.seen(observation, "agent") == 0)
    step, found = scripted.walk(walk_key, env.window, goals & clear, clear)
    return jnp.where(found, step, scripted.explore(explore_key, env.window, clear))


# ---------------------------------------------------------------------- map
_MAP = """
    #######################
    #######################
    #PPPPPPPPPPPPPPPPPPPPP#
    #PPPRPPPPPPPPPPPPPPGPP#
    #PPPPPPPPPGPPPPPPPPPPP#
    #PPPPPPPPPPPPPPRPPPPPP#
    #PPPPPBPPPPPPPPPPPPPPP#
    #PPPPPPPPPPPOPPPPPPBPP#
    #PGPPPPPPPPPPPPPPPPPPP#
    #PPPPPPPPBPPPPPPPPPPPP#
    #PPPPPPPPPPPPPPPRPPPPP#
    #PPPPPPPPPPPPPPPPPPPPP#
    #PPPPPPPPPPPPPPPPPPPPP#
    #######################
"""
