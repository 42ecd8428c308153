"""Commons Harvest: apples that grow back the faster the more of them are left around.

After Melting Pot's commons_harvest__open, __closed and __partnership (Leibo et al. 2021; Agapiou et al. 2022), the
descendants of the harvest game of Perolat et al. (2017). The maps are this suite's own, with the sizes, numbers of
cells and patches of Melting Pot's: four discs of 13 apples and two corners of 6, further apart than growth reaches.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, at_most, one_of, random_player
from marl_suite.envs.grid import scripted, spawning
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.cells import random_order, spread
from marl_suite.envs.grid.neighbours import adjacency, count_neighbours, disc
from marl_suite.envs.grid.state import Events, GridState, ZapParams, entered_sites
from marl_suite.envs.grid.world import GridWorld

NEIGHBOURS = disc(2)  # the 12 cells whose apples make one grow


class HarvestState(GridState):
    """See `GridState`."""

    apples: jax.Array  # bool [S], by site in reading order, whether its apple is there


class HarvestParams(ZapParams):
    """Rates per step; the defaults are those of the open variant."""

    regrowth: np.ndarray = dataclasses.field(
        default_factory=lambda: np.array([0, 0.0025, 0.005, 0.025], np.float32)
    )  # float32 [4], with 0, 1, 2 and at least 3 live neighbours
    apple_reward: float = 1.0  # [], to who eats one


@dataclasses.dataclass(frozen=True)
class CommonsHarvest(GridWorld):
    """Social dilemma: apples eaten pay at once, apples left make their patch grow, and a bare patch is dead for ever.

    Rules (Melting Pot's numbers): an apple is eaten by stepping on it, for a reward of 1. Each bare site regrows by
    itself with a probability per step of 0, r1, r2 or r3 with 0, 1, 2 or at least 3 live apples within a radius of 2,
    also under an agent, which must come anew to eat it. The zapping beam pays nothing and times out whom it hits.

    ===========  ====  ====  ==========================  =======================================================
    variant      r1    beam  cooldown, time-out          map, 18 x 24 cells with 64 apples
    ===========  ====  ====  ==========================  =======================================================
    open         .0025 3, 1  2 and 4 steps               one field; two start inside it, the others on its edges
    closed       .001  4, 1  1 and 100 steps             two chambers behind one door each, which one can defend
    partnership  .001  4, 1  1 and 100 steps             one room with two doors, which two can defend
    ===========  ====  ====  ==========================  =======================================================

    r2 = .005 and r3 = .025 everywhere; beams are given as (length, radius).

    Fear without greed, by scripted players in 1,000 steps of the open field: seven `sustainable` ones eat 83 apples
    each and seven `greedy` ones 9.6; a lone `sustainable` one eats 4.8, and a lone `greedy` one only 36, since it ruins
    the field for itself as well. On the other maps all sparing and all greedy are as far apart.

    Attributes:
        variant: "open", "closed" or "partnership".
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "A" is an apple, "P" a spawn
            cell, and "Q" a cell on which an agent may start but not come back.

    Observation: a dict of `view`, uint8 [11, 11, 3] of planes (tile: 1 floor, 2 wall, 3 bare site, 4 apple; beam;
    agent), see `marl_suite.envs.grid.views`, and `ready`, float32 [1]. Actions: seven moves and "zap". Reward: apples
    [N]. Metrics: `apples`, how many are left, `eaten` [N], `zaps` [N], how many others each timed out, and `timed_out`
    [N]. Global state: see `GridWorld`, and `apples` [S].

    Deviations: which agents start inside the field is drawn anew for each episode, so that agents are exchangeable;
    bare sites look different from the floor; the cells of the partnership map on which Melting Pot punishes agents of
    one role are plain floor. See also `marl_suite.envs.grid.world`.
    """

    name: str = "commons_harvest_open"
    num_agents: int = 7
    variant: str = "open"

    exploiter: ClassVar[str | None] = "greedy"
    cooperator: ClassVar[str | None] = "sustainable"
    defector: ClassVar[str | None] = "greedy"
    definitions: ClassVar[Mapping[str, str]] = {
        "sustainable": "eats the nearest apple in view that has at least 3 live neighbours; never zaps",
        "greedy": "eats the nearest apple in view; never zaps",
    }
    legend: ClassVar[Mapping[str, str]] = {**GridWorld.legend, "A": "apple", "Q": "first cell inside"}
    tiles: ClassVar[Mapping[str, str]] = {"floor": ".", "wall": "#", "bare": ",", "apple": "A"}
    shapes: ClassVar[Mapping[str, str]] = {"apple": "disc on bare"}
    colours: ClassVar[Mapping[str, str]] = {
        **GridWorld.colours,
        "bare": "#cfd9b4",
        "apple": "#c8352b",
        "zap": "#f2b705",
    }

    def __post_init__(self) -> None:
        one_of(f"{self.name}: variant", self.variant, tuple(_MAPS))
        super().__post_init__()

    def check_map(self) -> None:
        super().check_map()
        self.grid.require("A", 1, "an apple")

    @property
    def own_map(self) -> str:
        return _MAPS[self.variant]

    @property
    def beams(self) -> tuple[Beam, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (Beam("zap", length=3 if self.variant == "open" else 4, radius=1),)

    @property
    def default_params(self) -> HarvestParams:
        if self.variant == "open":
            return HarvestParams(zap_cooldown=2, zap_timeout=4)
        regrowth = np.array([0, 0.001, 0.005, 0.025], np.float32)
        return HarvestParams(regrowth=regrowth, zap_cooldown=1, zap_timeout=100)

    def socialjax_params(self) -> HarvestParams:
        """The numbers of SocialJax (Guo et al. 2025): r1 = .001 on every map, a beam that needs no rest, and the
        shortest time-out, where SocialJax moves whom it hits at once."""
        regrowth = np.array([0, 0.001, 0.005, 0.025], np.float32)
        return self.default_params.replace(regrowth=regrowth, zap_cooldown=0, zap_timeout=1)

    def check_params(self, params: HarvestParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: regrowth", params.regrowth, 0)
        at_most(f"{self.name}: regrowth", params.regrowth, 1)

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "greedy": partial(harvest_player, self, 0),
            "sustainable": partial(harvest_player, self, SPARING),
        }

    # ------------------------------------------------------------------ rules
    def start_positions(self, key: jax.Array) -> jax.Array:
        """As many random agents as there are "Q" cells start on them, the others on "P" cells."""
        order_key, inside_key, outside_key = jax.random.split(key, 3)
        shape, inner = self.grid.shape, self.grid.sites("Q")
        inside = random_order(order_key, self.num_agents) < len(inner)
        outer, _ = spawning.place(outside_key, self.spawns, np.zeros(len(self.spawns), bool), ~inside, shape)
        if len(inner) == 0:
            return outer
        inner, _ = spawning.place(inside_key, inner, np.zeros(len(inner), bool), inside, shape)
        return jnp.where(inside[:, None], inner, outer)

    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: HarvestParams) -> HarvestState:
        return HarvestState(**base, apples=jnp.ones(len(self.grid.sites("A")), bool))

    def tile_plane(self, state: HarvestState) -> jax.Array:
        sites = jnp.where(state.apples, self.tile("apple"), self.tile("bare"))
        tiles = spread(sites, self.grid.numbered("A"), elsewhere=self.tile("floor"))
        return jnp.where(self.grid.plane("#"), self.tile("wall"), tiles)

    def rules(
        self, key: jax.Array, state: HarvestState, events: Events, params: HarvestParams
    ) -> tuple[HarvestState, jax.Array, Metrics]:
        sites = self.grid.sites("A")
        eats = entered_sites(events, sites) & state.apples
        left = state.apples & ~eats.any(axis=0)
        grows = jax.random.uniform(key, sites.shape) < self.growth(left, params)
        eaten = eats.sum(axis=1, dtype=jnp.float32)
        state = state.replace(apples=left | grows)
        return state, params.apple_reward * eaten, {"apples": state.apples.sum(dtype=jnp.float32), "eaten": eaten}

    def growth(self, apples: jax.Array, params: HarvestParams) -> jax.Array:
        """float32 [S]: with what probability each site grows an apple beside the live `apples`, bool [S]."""
        links = adjacency(self.grid.sites("A"), self.grid.shape, NEIGHBOURS)
        neighbours = (apples.astype(jnp.float32) @ links).astype(jnp.int32)
        return jnp.asarray(params.regrowth)[jnp.minimum(neighbours, 3)]

    def state_features(self, state: HarvestState, params: Any) -> list[jax.Array]:
        return [state.apples]


# ---------------------------------------------------------------------- scripted players
SPARING = 3
"""How many live neighbours an apple must have for the sustainable player to eat it: growth is then as fast as ever."""


def harvest_player(env: CommonsHarvest, spare: int, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest apple in view that has at least `spare` live neighbours in view, around all others.

    With `spare` 0 it eats everything. Without such an apple in view it looks around. It never zaps.
    """
    walk_key, explore_key = jax.random.split(key)
    tiles = env.seen(observation, "tile")
    apples = tiles == env.tile("apple")
    ripe = apples & (count_neighbours(apples, NEIGHBOURS) >= spare)
    floor = (tiles == env.tile("floor")) | (tiles == env.tile("bare"))
    clear = (floor | ripe) & (env.seen(observation, "agent") == 0)
    step, found = scripted.walk(walk_key, env.window, ripe & clear, clear)
    return jnp.where(found, step, scripted.explore(explore_key, env.window, clear))


# ---------------------------------------------------------------------- maps
_MAPS = {
    "open": """
        ########################
        #PPPPPPPPPPPPPPPPPP.AAA#
        #P...................AA#
        #P....A...............A#
        #P...AAA.......A......P#
        #P..AAAAA.....AAA.....P#
        #P...AAA.....AAAAA....P#
        #P....A.......AAA.....P#
        #P.........Q...A......P#
        #P......A...Q.........P#
        #P.....AAA.......A....P#
        #P....AAAAA.....AAA...P#
        #P.....AAA.....AAAAA..P#
        #P......A.......AAA...P#
        #A...............A....P#
        #AA...................P#
        #AAA.PPPPPPPPPPPPPPPPPP#
        ########################
    """,
    "closed": """
        ########################
        #AAA....A..##..A....AAA#
        #AA....AAA.##.AAA....AA#
        #A....AAAAA##AAAAA....A#
        #......AAA.##.AAA......#
        #.......A..##..A.......#
        #..A.......##.......A..#
        #.AAA......##......AAA.#
        #AAAAA.....##.....AAAAA#
        #.AAA......##......AAA.#
        #..A.......##.......A..#
        ##########.##.##########
        #..........##..........#
        #.####################.#
        #PPPPPPPPPPPPPPPPPPPPPP#
        #PPPP##PPPP##PPPP##PPPP#
        #PPPPPPPPPPPPPPPPPPPPPP#
        ########################
    """,
    "partnership": """
        ########################
        #AAA....A..##..A....AAA#
        #AA....AAA....AAA....AA#
        #A....AAAAA..AAAAA....A#
        #......AAA....AAA......#
        #.......A......A.......#
        #..A................A..#
        #.AAA..............AAA.#
        #AAAAA............AAAAA#
        #.AAA......##......AAA.#
        #..A.......##.......A..#
        ##########.##.##########
        #..........##..........#
        #.####################.#
        #PPPPPPPPPPPPPPPPPPPPPP#
        #PPPP##PPPP##PPPP##PPPP#
        #PPPPPPPPPPPPPPPPPPPPPP#
        ########################
    """,
}
