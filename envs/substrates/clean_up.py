"""Clean Up: apples grow only while somebody keeps the river clean, and whoever cleans does not eat.

After Melting Pot's clean_up (Leibo et al. 2021; Agapiou et al. 2022), first played by Hughes et al. (2018). The map is
this suite's own, with the size and the numbers of cells of Melting Pot's.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, at_most, random_player
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.beams import Beam, cells_hit, crossed, footprint
from marl_suite.envs.grid.cells import Plane, look_up, spread
from marl_suite.envs.grid.movement import BASE_ACTIONS, NOOP
from marl_suite.envs.grid.state import Events, GridState, ZapParams, entered_sites
from marl_suite.envs.grid.world import GridWorld

CLEAN = len(BASE_ACTIONS) + 1


class CleanUpState(GridState):
    """See `GridState`; sites are numbered in reading order."""

    apples: jax.Array  # bool [S], whether the apple of each site is there
    dirt: jax.Array  # bool [D], which cells of the river are dirty


class CleanUpParams(ZapParams):
    """Melting Pot's numbers; rates and probabilities are per step."""

    zap_cooldown: int = 10  # [], steps
    zap_timeout: int = 50  # [], steps
    clean_cooldown: int = 2  # [], steps
    apple_growth: float = 0.05  # [], of each bare site, beside a clean river
    depletion: float = 0.4  # [], share of dirty cells from which on nothing grows
    restoration: float = 0.0  # [], share of dirty cells up to which all grows
    dirt_probability: float = 0.5  # [], that one clean cell of the river turns dirty
    dirt_delay: int = 50  # [], steps before the first does
    apple_reward: float = 1.0  # [], to who eats one


@dataclasses.dataclass(frozen=True)
class CleanUp(GridWorld):
    """Social dilemma: the apples that all may eat grow only as long as somebody leaves them to clean the river.

    Rules (Melting Pot's numbers): of the river's 147 cells that can be dirty, 79 are at first, and from step 51 on one
    of the clean ones, drawn uniformly, turns dirty with probability .5 per step. With f the share of dirty cells, each
    bare one of the 122 apple sites grows an apple with probability .05 min(1, (.4 - f) / .4) per step and with none
    from f = .4 on, also under an agent, which must come anew to eat it. No apples are there at first, as f is .54. An
    apple is eaten by stepping on it, for a reward of 1. Beams have length 3 and radius 1. Each ray of the cleaning beam
    removes the first dirt it meets, at most three a shot, and passes agents; it fires every 3 steps. The zapping beam
    pays nothing, fires every 11 steps and times out whom it hits for 50.

    Attributes:
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "~" is clean and "D" dirty
            river, "-" a stream that stays clean, "A" an apple site and "P" a spawn cell. All can be walked on.

    Observation: a dict of `view`, uint8 [11, 11, 3] of planes (tile: 1 floor, 2 wall, 3 river, 4 dirt, 5 bare site, 6
    apple; beam: 1 zap, 2 clean; agent), see `marl_suite.envs.grid.views`, and `ready`, float32 [2], of both beams.
    Actions: seven moves, "zap" and "clean". Reward: apples [N]. Metrics: `apples`, how many are there, `dirt`, f,
    `eaten` [N], `cleaned` [N], the dirt that each removed (also counted for both when two did at once), `clean_shots`
    [N], `zaps` [N] and `timed_out` [N]. Global state: see `GridWorld`, and `apples` [S] and `dirt` [D].

    Greed without fear, by scripted players in 1,000 steps: seven `cleaner` players eat 369 apples each, a lone `eater`
    beside six of them 523; without cleaners nobody eats anything, and nor does a lone cleaner.

    Deviations: bare sites look different from the floor. See also `marl_suite.envs.grid.world`.
    """

    name: str = "clean_up"
    num_agents: int = 7

    exploiter: ClassVar[str | None] = "eater"
    cooperator: ClassVar[str | None] = "cleaner"
    defector: ClassVar[str | None] = "eater"
    definitions: ClassVar[Mapping[str, str]] = {
        "cleaner": "cleans while it sees dirt, else goes to the nearest apple in view; never zaps",
        "eater": "goes to the nearest apple in view, else looks around; never cleans, never zaps",
    }
    legend: ClassVar[Mapping[str, str]] = {
        **GridWorld.legend,
        "~": "river",
        "D": "dirty river",
        "-": "stream",
        "A": "apple site",
    }
    tiles: ClassVar[Mapping[str, str]] = {**GridWorld.tiles, "river": "~", "dirt": "D", "bare": ",", "apple": "A"}
    colours: ClassVar[Mapping[str, str]] = {
        **GridWorld.colours,
        "river": "#8fc1e3",
        "dirt": "#8a7a2f",
        "bare": "#cfd9b4",
        "apple": "#c8352b",
        "zap": "#f2b705",
        "clean": "#3fd0c9",
    }
    shapes: ClassVar[Mapping[str, str]] = {"dirt": "disc on river", "apple": "disc on bare"}
    beams: ClassVar[tuple[Beam, ...]] = (
        Beam("zap", length=3, radius=1),
        Beam("clean", length=3, radius=1, stops_at_agents=False),
    )

    @property
    def own_map(self) -> str:
        return _MAP

    def check_map(self) -> None:
        super().check_map()
        self.grid.require("A", 1, "an apple site")
        self.grid.require("~D", 1, "river")

    @property
    def default_params(self) -> CleanUpParams:
        return CleanUpParams()

    def socialjax_params(self) -> CleanUpParams:
        """The numbers of SocialJax (Guo et al. 2025): beams that need no rest, the shortest time-out, where SocialJax
        moves whom it hits at once, and growth that stops at 66.8 dirty cells rather than 58.8, because there the 20
        cells of the stream count as clean ones."""
        return CleanUpParams(zap_cooldown=0, zap_timeout=1, clean_cooldown=0, depletion=0.4 * 167 / 147)

    def check_params(self, params: CleanUpParams) -> None:
        super().check_params(params)
        for name in ("apple_growth", "depletion", "restoration", "dirt_probability"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)
        for name in ("apple_growth", "dirt_probability"):
            at_most(f"{self.name}: {name}", getattr(params, name), 1)
        span = params.depletion - params.restoration
        at_least(f"{self.name}: depletion minus restoration", span, 0.001)

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "cleaner": partial(clean_up_player, self, True),
            "eater": partial(clean_up_player, self, False),
        }

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: CleanUpParams) -> CleanUpState:
        apples = jnp.zeros(len(self.grid.sites("A")), bool)
        dirt = np.isin(self.grid.sites("~D"), self.grid.sites("D"))
        return CleanUpState(**base, apples=apples, dirt=jnp.asarray(dirt))

    def tile_plane(self, state: CleanUpState) -> Plane:
        grid = self.grid
        kinds = {"wall": grid.plane("#"), "river": grid.plane("~D-"), "bare": grid.plane("A")}
        ground = np.select(list(kinds.values()), [self.tile(kind) for kind in kinds], self.tile("floor"))
        tiles = jnp.where(spread(state.apples, grid.numbered("A")), self.tile("apple"), ground)
        return jnp.where(self.dirt_plane(state), self.tile("dirt"), tiles)

    def dirt_plane(self, state: CleanUpState) -> jax.Array:
        """bool [H, W]: where there is dirt."""
        return spread(state.dirt, self.grid.numbered("~D"))

    def stops(self, beam: Beam, state: CleanUpState) -> Plane:
        walls = self.solid(state)
        return walls | self.dirt_plane(state) if beam.name == "clean" else walls

    def rules(
        self, key: jax.Array, state: CleanUpState, events: Events, params: CleanUpParams
    ) -> tuple[CleanUpState, jax.Array, Metrics]:
        grow_key, dirt_key = jax.random.split(key)
        sites, shot = self.grid.sites("A"), events.shots["clean"]
        eats = entered_sites(events, sites) & state.apples
        removed = cells_hit(shot, self.dirt_plane(state))
        washed = look_up(crossed(shot, self.grid.shape), self.grid.sites("~D"), beyond=False)
        dirt = state.dirt & ~washed
        grows = jax.random.uniform(grow_key, sites.shape) < self.growth(dirt, params)
        apples = (state.apples & ~eats.any(axis=0)) | grows
        dirt = dirt | (self._new_dirt(dirt_key, dirt, params) & (state.time > params.dirt_delay))
        eaten = eats.sum(axis=1, dtype=jnp.float32)
        metrics = {
            "apples": apples.sum(dtype=jnp.float32),
            "dirt": dirt.mean(dtype=jnp.float32),
            "eaten": eaten,
            "cleaned": removed.sum(axis=1, dtype=jnp.float32),
            "clean_shots": shot.fired.astype(jnp.float32),
        }
        return state.replace(apples=apples, dirt=dirt), params.apple_reward * eaten, metrics

    def growth(self, dirt: jax.Array, params: CleanUpParams) -> jax.Array:
        """float32 []: with what probability a bare site grows an apple beside a river with `dirt`, bool [D]."""
        share = dirt.mean(dtype=jnp.float32)
        return params.apple_growth * jnp.clip(
            (params.depletion - share) / (params.depletion - params.restoration), 0, 1
        )

    def _new_dirt(self, key: jax.Array, dirt: jax.Array, params: CleanUpParams) -> jax.Array:
        """bool [D]: with `dirt_probability` one cell that is not among `dirt`, each of them as likely; else none."""
        draw, where = jax.random.uniform(key, (2,))
        clean = ~dirt
        up_to = np.triu(np.ones((len(dirt), len(dirt)), np.float32))
        count = clean.astype(jnp.float32) @ up_to  # a running sum; a product is faster on CPUs, and as exact
        chosen = clean & (count == 1 + jnp.floor(where * count[-1]))
        return chosen & (draw < params.dirt_probability)

    def state_features(self, state: CleanUpState, params: Any) -> list[jax.Array]:
        return [state.apples, state.dirt]


# ---------------------------------------------------------------------- scripted players
def clean_up_player(env: CleanUp, cleans: bool, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest apple in view, and looks around when there is none. It never zaps.

    One that `cleans` turns to dirt in view first: it shoots when a shot would hit some, else walks towards it.
    """
    walk_key, dirt_key, explore_key = jax.random.split(key, 3)
    tiles = env.seen(observation, "tile")
    apples, dirt = tiles == env.tile("apple"), tiles == env.tile("dirt")
    clear = (tiles > 0) & (tiles != env.tile("wall")) & (env.seen(observation, "agent") == 0)
    step, found = scripted.walk(walk_key, env.window, apples & clear, clear)
    action = jnp.where(found, step, scripted.explore(explore_key, env.window, clear))
    if not cleans:
        return action
    step, found = scripted.walk(dirt_key, env.window, dirt & clear, clear)
    action = jnp.where(found, step, action)
    shape, (row, column) = footprint(env.beams[1].length, env.beams[1].radius), env.window.home
    aimed = scripted.any_at(dirt, row - shape.forward, column + shape.right)
    ready = observation["ready"][1] == 1
    return jnp.where(aimed, jnp.where(ready, CLEAN, NOOP), action)


# ---------------------------------------------------------------------- map
_MAP = """
    ##############################
    #DD~~~~~DDDDDD~~~~~DDDDDD~~~~#
    #~~~~DDDDDD~~~~~DDDDDD~~~~~DD#
    #~DDDDDD~~~~~DDDDDD~~~~~DDDDD#
    #DDDD~~~~~DDDDDD~~~~~DDDDDD~~#
    #..~~~~DDDDDD~~~~~DDDDDD~~~..#
    #........D~~~~~DDDDD.........#
    #.............--.............#
    #.............--.............#
    #..P...P...P..--..P...P...P..#
    #.............--.............#
    #.P..P...P..P.--....P...P..P.#
    #.............--.............#
    #..P...P...P..--..P...P...P..#
    #.............--.............#
    #.A.A.A.A.A.A.--.A.A.A.A.A.A.#
    #AAAAAAAAAAAAA--AAAAAAAAAAAAA#
    #AAAAAAAAAAAAAAAAAAAAAAAAAAAA#
    #AAAAAAAAAAAAAAAAAAAAAAAAAAAA#
    #AAAAAAAAAAAAAAAAAAAAAAAAAAAA#
    ##############################
"""
