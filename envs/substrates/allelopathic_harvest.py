"""Allelopathic Harvest: berries ripen the faster the more of their colour there are, and somebody has to plant them.

After Melting Pot's allelopathic_harvest__open (Leibo et al. 2021; Agapiou et al. 2022), the game of Koester et al.
(2020). The map is this suite's own, with the size and the numbers of cells of Melting Pot's.
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
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.cells import Plane, look_up, spread
from marl_suite.envs.grid.growth import rare_draws
from marl_suite.envs.grid.movement import BASE_ACTIONS, NOOP, TURN_LEFT, TURN_RIGHT
from marl_suite.envs.grid.state import Events
from marl_suite.envs.grid.two_hits import TwoHitsParams, TwoHitsState, TwoHitsWorld, taken_out
from marl_suite.envs.spaces import Box, Space

COLOURS = ("red", "green", "blue")
PLANT = len(BASE_ACTIONS) + 1  # red, then the others
REACH = 3


class AllelopathicState(TwoHitsState):
    """See `TwoHitsState`; berries are numbered in reading order."""

    colour: jax.Array  # int32 [S], 0 red, 1 green, 2 blue
    ripe: jax.Array  # bool [S]
    unripe: jax.Array  # int32 [S], steps until a berry can ripen
    favourite: jax.Array  # int32 [N], the colour that each agent likes best


class AllelopathicParams(TwoHitsParams):
    """Melting Pot's numbers; probabilities are per step."""

    max_steps: int = 2000  # []
    min_steps: int = 2000  # []
    zap_cooldown: int = 4  # [], steps
    zap_timeout: int = 25  # [], steps
    plant_cooldown: int = 2  # [], steps, of all three planting beams together
    penalty: float = 10.0  # [], of who is zapped out
    ripening: float = 5e-6  # [], probability that a berry ripens, per berry of its colour
    ripening_delay: int = 10  # [], steps from being eaten or planted until a berry can ripen
    berry_reward: float = 1.0  # [], to who eats one
    favourite_reward: float = 2.0  # [], to who eats one of its favourite colour
    favourites: np.ndarray = dataclasses.field(
        default_factory=lambda: np.repeat(np.array([0, 1], np.int32), 8)
    )  # int32 [N], the colour that each agent likes best: 0 red, 1 green, 2 blue


@dataclasses.dataclass(frozen=True)
class AllelopathicHarvest(TwoHitsWorld):
    """No dilemma between scripted players: one colour ripens fastest, and planting it pays who plants, too.

    Measured with `red_planter` as cooperator and `eater` as defector, mean return of 1,000 steps in twelve episodes or
    more: 52.0 +- .8 of sixteen planters, 53 +- 4 of one eater among fifteen of them, 16.7 +- .4 of sixteen eaters and
    24.5 +- 1.8 of one planter among fifteen. So there is neither fear nor, beyond the error, greed: the few shots that
    planting takes are soon repaid. What is hard is to agree on a colour: sixteen who plant their favourites have 25.1
    +- .7. Koester et al. (2020) found with learning agents that they fail to start, and leave planting to others.

    Rules (Melting Pot's numbers): 116 berries of each of three colours are unripe at first. An unripe berry ripens with
    a probability per step of 5e-6 times the number of berries of its colour, ripe or not, also under an agent: .00058
    at first, and .00174 in a monoculture. A ripe one is eaten by stepping on it, for a reward of 2 if it has the
    agent's favourite colour, else of 1, and is unripe again. The favourite of the first half of the agents is red, of
    the second half green. Three planting beams of length 3 and radius 0, one per colour, end at the first berry or
    agent. An unripe berry then takes the beam's colour. Together they fire every 3 steps. A berry that was eaten or
    changed its colour cannot ripen for 10 steps. The zapping beam has length 3 and radius 1, passes berries and fires
    every 5 steps. It freezes whom it hits for 25 steps and, at a second hit within 50, takes it out for 25 and costs it
    10. Of those who plant in the same place at once, a random one does. Episodes have 2,000 steps.

    Attributes:
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "R", "G" and "B" are berries,
            and "P" all other cells, on which agents start and return. All can be walked on.

    Observation: a dict of `view`, uint8 [11, 11, 6] of planes (tile: 1 floor, 2 wall, 3 to 5 unripe red, green and blue
    berry, 6 to 8 ripe ones; beam: 1 zap, 2 to 4 red, green and blue; agent; frozen; marked; favourite: 1 red, 2 green,
    3 blue), see `marl_suite.envs.grid.views`; `ready`, float32 [4], of all beams; and `favourite`, float32 [3], one's
    own, one-hot. Actions: seven moves, "zap", "red", "green" and "blue". Reward: berries less penalties [N]. Metrics:
    `red`, `green` and `blue`, how many berries there are, `ripe`, of all colours, `monoculture`, the share of the
    commonest, `eaten` [N], `favourites_eaten` [N], `planted` [N], berries that each changed, `zaps` [N] and `timed_out`
    [N]. Global state: see `GridWorld`, marks, favourites, and per berry its colour, one-hot, whether it is ripe and 1 /
    (1 + steps until it can ripen).

    Deviations: what is seen of agents is their favourite colour and not, as in Melting Pot, the colour that they last
    planted. See also `marl_suite.envs.grid.world`.
    """

    name: str = "allelopathic_harvest"
    num_agents: int = 16

    exploiter: ClassVar[str | None] = "eater"
    cooperator: ClassVar[str | None] = "red_planter"
    defector: ClassVar[str | None] = "eater"
    definitions: ClassVar[Mapping[str, str]] = {
        "red_planter": "plants red wherever it can, else eats ripe berries; never zaps",
        "favourite_planter": "plants its favourite colour wherever it can, else eats ripe berries; never zaps",
        "eater": "eats ripe berries; never plants, never zaps",
    }
    legend: ClassVar[Mapping[str, str]] = {
        **TwoHitsWorld.legend,
        "R": "red berry",
        "G": "green berry",
        "B": "blue berry",
    }
    tiles: ClassVar[Mapping[str, str]] = {
        **TwoHitsWorld.tiles,
        **{f"unripe {colour}": colour[0] for colour in COLOURS},
        **{f"ripe {colour}": colour[0].upper() for colour in COLOURS},
    }
    colours: ClassVar[Mapping[str, str]] = {
        **TwoHitsWorld.colours,
        "unripe red": "#e8b4b8",
        "unripe green": "#bfe0c2",
        "unripe blue": "#b3cde3",
        "ripe red": "#b2182b",
        "ripe green": "#1b9e4b",
        "ripe blue": "#2166ac",
        "zap": "#f2b705",
        "red": "#d6604d",
        "green": "#5aae61",
        "blue": "#4393c3",
    }
    beams: ClassVar[tuple[Beam, ...]] = (
        Beam("zap", length=3, radius=1),
        *(Beam(colour, length=REACH, radius=0) for colour in COLOURS),
    )

    def check_map(self) -> None:
        super().check_map()
        self.grid.require("RGB", 1, "a berry")

    @property
    def own_map(self) -> str:
        return _MAP

    @property
    def default_params(self) -> AllelopathicParams:
        likes_green = np.arange(self.num_agents) >= self.num_agents / 2
        return AllelopathicParams(favourites=likes_green.astype(np.int32))

    def check_params(self, params: AllelopathicParams) -> None:
        super().check_params(params)
        for name in ("plant_cooldown", "ripening", "ripening_delay", "favourites"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)
        at_most(f"{self.name}: favourites", params.favourites, len(COLOURS) - 1)
        at_most(f"{self.name}: ripening times the number of berries", params.ripening * len(self.sites), 1)

    def cooldown(self, beam: Beam, params: AllelopathicParams) -> jax.Array | int:
        return params.zap_cooldown if beam.name == "zap" else params.plant_cooldown

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "eater": partial(eater, self),
            "red_planter": partial(planter, self, 0),
            "favourite_planter": partial(planter, self, None),
        }

    @property
    def sites(self) -> np.ndarray:
        """int32 [S]: the flat cells of berries."""
        return self.grid.sites("RGB")

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: AllelopathicParams) -> AllelopathicState:
        symbols = np.array(list("".join(self.grid.lines)))[self.sites]
        nothing = jnp.zeros(self.num_agents, jnp.int32)
        return AllelopathicState(
            **base,
            marked=nothing,
            colour=jnp.asarray(np.select([symbols == "R", symbols == "G"], [0, 1], 2), jnp.int32),
            ripe=jnp.zeros(len(symbols), bool),
            unripe=jnp.full(len(symbols), params.ripening_delay, jnp.int32),
            favourite=jnp.asarray(params.favourites, jnp.int32),
        )

    def stops(self, beam: Beam, state: AllelopathicState) -> Plane:
        return self.grid.plane("#") if beam.name == "zap" else self.grid.plane("#RGB")

    def strike(self, state: AllelopathicState, hits: dict[str, jax.Array], params: Any) -> AllelopathicState:
        """The planting beams recharge together."""
        zap, planting = state.timers[:, :1], state.timers[:, 1:].max(axis=1, keepdims=True)
        timers = jnp.concatenate([zap, jnp.broadcast_to(planting, state.timers[:, 1:].shape)], axis=1)
        return super().strike(state.replace(timers=timers), hits, params)

    def rules(
        self, key: jax.Array, state: AllelopathicState, events: Events, params: AllelopathicParams
    ) -> tuple[AllelopathicState, jax.Array, Metrics]:
        plant_key, ripen_key = jax.random.split(key)
        count = len(self.sites)
        entered = jnp.where(events.entered < 0, self.grid.num_cells, events.entered)
        site = look_up(self.grid.numbered("RGB"), entered, beyond=count)  # [N], S for none
        eats = jnp.append(state.ripe, False)[site]
        tasty = eats & (jnp.append(state.colour, -1)[site] == state.favourite)
        eaten = jnp.zeros(count, bool).at[jnp.where(eats, site, count)].set(True, mode="drop")
        ripe = state.ripe & ~eaten

        plants, planted, new = self._plant(plant_key, state.replace(ripe=ripe), events)
        colour = jnp.where(planted, new, state.colour)
        unripe = jnp.where(eaten | planted, params.ripening_delay, jnp.maximum(state.unripe - 1, 0))
        counts = jnp.stack([(colour == c).sum(dtype=jnp.float32) for c in range(len(COLOURS))])
        rates = params.ripening * counts
        draws = rare_draws(ripen_key, count, most=rates.max(), usual=AllelopathicParams.ripening * count**2)
        ripe = ripe | ((unripe == 0) & (draws < _by_colour(colour, rates)))

        reward = jnp.where(tasty, params.favourite_reward, jnp.where(eats, params.berry_reward, 0.0))
        metrics = {
            **{name: counts[c] for c, name in enumerate(COLOURS)},
            "ripe": ripe.sum(dtype=jnp.float32),
            "monoculture": counts.max() / count,
            "eaten": eats.astype(jnp.float32),
            "favourites_eaten": tasty.astype(jnp.float32),
            "planted": plants.astype(jnp.float32),
        }
        state = state.replace(colour=colour, ripe=ripe, unripe=unripe)
        return state, reward - params.penalty * taken_out(state, events), metrics

    def _plant(
        self, key: jax.Array, state: AllelopathicState, events: Events
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Who changes a berry, bool [N]; which are changed, bool [S]; and to which colours, int32 [S]."""
        shots, count = [events.shots[colour] for colour in COLOURS], len(self.sites)
        fired = jnp.stack([shot.fired for shot in shots])  # [3, N], one at most for each agent
        colour = jnp.argmax(fired, axis=0).astype(jnp.int32)
        reached = shots[0].reached | shots[1].reached | shots[2].reached
        site = jnp.where(reached, look_up(self.grid.numbered("RGB"), shots[0].cells, beyond=count), count)
        site = site.min(axis=1)  # a beam ends at the first berry
        changes = ~jnp.append(state.ripe, True)[site] & (jnp.append(state.colour, -1)[site] != colour)
        bids = 1 + colour + len(COLOURS) * (jax.random.bits(key, colour.shape) >> 8).astype(jnp.int32)
        highest = jnp.zeros(count + 1, jnp.int32).at[jnp.where(changes, site, count)].max(bids)
        wins = changes & (highest[site] == bids)
        return wins, highest[:-1] > 0, (highest[:-1] - 1) % len(COLOURS)

    # ------------------------------------------------------------------ what is seen
    def tile_plane(self, state: AllelopathicState) -> Plane:
        berries = (self.tile("unripe red") + state.colour + len(COLOURS) * state.ripe).astype(jnp.uint8)
        tiles = spread(berries, self.grid.numbered("RGB"), elsewhere=self.tile("floor"))
        return jnp.where(self.grid.plane("#"), np.uint8(self.tile("wall")), tiles)

    def mark_limits(self) -> dict[str, int]:
        return {**super().mark_limits(), "favourite": len(COLOURS)}

    def marks(self, state: AllelopathicState) -> dict[str, jax.Array]:
        return {**super().marks(state), "favourite": 1 + state.favourite}

    def extra_spaces(self) -> dict[str, Space]:
        return {**super().extra_spaces(), "favourite": Box(0, 1, (len(COLOURS),))}

    def extras(self, state: AllelopathicState, params: Any) -> dict[str, jax.Array]:
        return {**super().extras(state, params), "favourite": jax.nn.one_hot(state.favourite, len(COLOURS))}

    def state_features(self, state: AllelopathicState, params: Any) -> list[jax.Array]:
        favourites, colours = (jax.nn.one_hot(kinds, len(COLOURS)) for kinds in (state.favourite, state.colour))
        return [*super().state_features(state, params), favourites, colours, state.ripe, 1 / (1 + state.unripe)]


def _by_colour(colour: jax.Array, values: jax.Array) -> jax.Array:
    """[S]: the value of each berry's colour, of three."""
    return jnp.where(colour == 0, values[0], jnp.where(colour == 1, values[1], values[2]))


# ---------------------------------------------------------------------- scripted players
def eater(env: AllelopathicHarvest, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest ripe berry in view, and looks around without any. It plants nothing and never zaps."""
    walk_key, explore_key = jax.random.split(key)
    tiles = env.seen(observation, "tile")
    clear = (tiles > 0) & (tiles != env.tile("wall")) & (env.seen(observation, "agent") == 0)
    step, found = scripted.walk(walk_key, env.window, (tiles >= env.tile("ripe red")) & clear, clear)
    return jnp.where(found, step, scripted.explore(explore_key, env.window, clear))


def planter(env: AllelopathicHarvest, colour: int | None, observation: PyTree, key: jax.Array) -> jax.Array:
    """Plants a colour, its favourite if None, wherever a shot would, and turns to berries beside it; else an eater."""
    target = jnp.argmax(observation["favourite"]) if colour is None else colour
    tiles, agents = env.seen(observation, "tile"), env.seen(observation, "agent")
    first = env.tile("unripe red")
    wrong = (tiles >= first) & (tiles < env.tile("ripe red")) & (tiles != first + target)
    stops = (tiles >= env.tile("wall")) | (agents > 0)
    row, column = env.window.home
    ahead = _first_is(wrong[row - REACH : row, column][::-1], stops[row - REACH : row, column][::-1])
    left = _first_is(wrong[row, column - REACH : column][::-1], stops[row, column - REACH : column][::-1])
    right = _first_is(*(plane[row, column + 1 : column + 1 + REACH] for plane in (wrong, stops)))
    action = eater(env, observation, key)
    eating = jnp.any(tiles >= env.tile("ripe red"))
    turn = jnp.where(left, TURN_LEFT, TURN_RIGHT)
    action = jnp.where((left | right) & ~ahead & ~eating, turn, action)
    ready = observation["ready"][1 + target] == 1
    return jnp.where(ahead, jnp.where(ready, PLANT + target, jnp.where(eating, action, NOOP)), action)


def _first_is(wanted: jax.Array, stops: jax.Array) -> jax.Array:
    """Scalar bool: whether the first cell of a ray that stops a beam is `wanted`, bool [K] both, nearest first."""
    return wanted[jnp.argmax(stops)] & stops.any()


# ---------------------------------------------------------------------- map
_MAP = """
    RPPPGRPBPPRPRPPBPRPPPRPPPPPPB
    PBPPRPBGPBPPPPPPRPPPBPBGPPRPP
    GPPBPPGPPBPPPPPPPPRPPPPRGPPPR
    PRBBPGGPPPBRPPGPPGPPRPPGPPPGR
    PRPPPPPPPPRPGPRBPPGPBPPPGRPPP
    PPPPPRPPBPBGPRPRPPPPPRPPRPPPP
    PPPRGPRBPBPGPPPBGBPGPPPRPPPGG
    PBRGBPPRPRPPPBRBPRPGPRPPGGPPP
    PRPPPPPPPPPPBRRPBPPBBPPPRPBGP
    PRGGPPPRRRPPPPBPPGPGPBGPPBBRB
    RPGPPRPRGPPBBBGPPGGRPGPRPPPGR
    PPPPRPPPBPPPBRPPPPBPPPRPPPPGB
    PPBBRBPGRGBPRPPBGPGPPRPGPGBPR
    PPPBPPRRBBRPGGPPPPPPBPPBPGGRG
    PGGPPPPPRPRPPPPPPGBRPRBPRPPPP
    GBPPGPPRRPGPPBPPPRPBPPRPPPPPR
    GPBGPPPPBRPPRGRPBGPPPBPPBGBGR
    PPPPPBBPPBGRRPBPPPPGBPPPGGGPP
    PBPPPPPPPGGPPGBGPPPGPPRPPPBPB
    PBPPPPPBPGPPBGPPPRBPPGRPBPPGP
    PPPPRPPRPPPPRPBPRGPPPGPPGPPPP
    BGRBPPPBPPPPPPRGRPBPPPPPBRPPP
    RPBPPRRPBRPGPGBPPPPGPPGPBGPGP
    PBPRGPRPGPBPGPPPRPRPPPPRPPPBB
    PPPGPRBPGPPGPGPPRPPGBPPPPGPBB
    GGPPRGPRPPPBPPRRGPBPBPBPRPGPG
    GBPRPPRGBRPPPPBPPGPPGPBBPRPPP
    RPPBPGGPBPPBPPPPPPPPPPPPPPPPR
    RPGBBPPPGPPPPBPRGRBPGPPPRPGGP
    PBPPPPPGRPBPPPPBRPPPBPPPPPPPP
"""
