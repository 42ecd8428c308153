"""Territory: walls that pay whoever claims them, beams that claim, and beams that destroy and kill.

After Melting Pot's territory__open and territory__rooms (Leibo et al. 2021; Agapiou et al. 2022). The maps are this
suite's own, with the sizes and the numbers of cells of Melting Pot's.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, at_most, one_of, random_player
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.beams import Beam, footprint
from marl_suite.envs.grid.cells import Plane, flat, random_order, seen_from, spread
from marl_suite.envs.grid.movement import BASE_ACTIONS, TURN_LEFT, TURN_RIGHT
from marl_suite.envs.grid.state import Events
from marl_suite.envs.grid.two_hits import TwoHitsParams, TwoHitsState, TwoHitsWorld
from marl_suite.envs.grid.views import OTHER

ZAP, CLAIM = len(BASE_ACTIONS), len(BASE_ACTIONS) + 1
INTACT, DAMAGED, DESTROYED = 2, 1, 0
OWN, OWN_DRY, OTHERS, OTHERS_DRY = range(1, 5)


class TerritoryState(TwoHitsState):
    """See `TwoHitsState`; resource walls are numbered in reading order."""

    health: jax.Array  # int32 [S], 2 intact, 1 damaged, 0 destroyed
    mending: jax.Array  # int32 [S], steps until a damaged wall can heal
    owner: jax.Array  # int32 [S], 1 + the index of who claimed it, 0 for nobody
    drying: jax.Array  # int32 [S], steps until a claimed wall can pay


class TerritoryParams(TwoHitsParams):
    """Melting Pot's numbers; probabilities are per step."""

    zap_cooldown: int = 4  # [], steps
    zap_timeout: int = 1_000_000  # [], steps: for good
    claim_cooldown: int = 0  # [], steps
    wall_reward: float = 1.0  # [], to its owner, each time that a wall pays
    pay_probability: float = 0.01  # [], that a dry wall does
    drying: int = 25  # [], steps from a claim until the wall can pay
    mending_delay: int = 15  # [], steps from damage until a wall can heal
    mending_probability: float = 0.1  # [], that it then does


@dataclasses.dataclass(frozen=True)
class Territory(TwoHitsWorld):
    """Social dilemma: whoever takes others' walls has more than its share, and all have less where everybody does.

    It is not taken for one elsewhere (Guo et al. 2025 could not show it for their version). Measured with `settler` as
    cooperator and `raider` as defector, mean return of 1,000 steps in twelve episodes or more: in the rooms 190 of nine
    settlers, 244 of one raider among eight of them, 105 of nine raiders, and 136 +- 10 of one settler among eight; in
    the open 85, 592, 43 +- 11 and 84 +- 41. So there is greed on both maps and fear on neither. In the open, where
    raiders shoot each other, it is not shown that a settler fares worse among raiders than among settlers: its return
    is a lottery.

    Rules (Melting Pot's numbers): resource walls block the way. Whoever faces one from the next cell at the end of its
    step claims it, and so does the claiming beam, which has length 2 and radius 0, passes resource walls and agents and
    fires in every step. From 25 steps after its claim by its owner, a wall is dry and pays it 1 with probability .01
    per step. The zapping beam has length 2 and radius 1 and fires every 5 steps. A wall is damaged by its first hit,
    destroyed for good by its second, which lets the beam pass, and then floor; 15 steps after a hit, a damaged one
    heals with probability .1 per step. An agent that is hit is frozen for 25 steps, and at another hit within 50 it is
    out for the rest of the episode, and its walls are nobody's. Of those who claim a wall at once, beams go before
    touches, and a random one of them gets it.

    ===========  ======================================================================================
    variant      map
    ===========  ======================================================================================
    open         23 x 39 cells with 88 resource walls, strewn over three quarters of one field
    rooms        21 x 21 cells, nine rooms of 5 x 5 cells, one for each agent, behind 20 resource walls
    ===========  ======================================================================================

    Attributes:
        variant: "open" or "rooms".
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "R" is a resource wall and "#"
            one that nobody can claim.

    Observation: a dict of `view`, uint8 [11, 11, 6] of planes (tile: 1 floor, 2 wall, 3 resource wall, 4 damaged one;
    beam: 1 zap, 2 claim; claim: 0 nobody's, 1 one's own, 2 one's own and dry, 3 another's, 4 another's and dry; agent;
    frozen; marked), see `marl_suite.envs.grid.views`, and `ready`, float32 [2], of both beams. Actions: seven moves,
    "zap" and "claim". Reward: what walls pay [N]. Metrics: `claimed` [N], walls that are each agent's, `dry` [N], those
    that can pay, `intact` and `destroyed`, walls, `zaps` [N] and `timed_out` [N]. Global state: see `GridWorld`, marks,
    and per wall its health, who owns it, one-hot, and how dry it is.

    Deviations: whose a wall is that is not one's own is not seen, as other agents look alike, too; a wall is dry as
    soon as it can pay, not once it has; the map of rooms ends at its border instead of going on at the opposite one.
    See also `marl_suite.envs.grid.world`.
    """

    name: str = "territory_open"
    num_agents: int = 9
    variant: str = "open"

    exploiter: ClassVar[str | None] = "raider"
    cooperator: ClassVar[str | None] = "settler"
    defector: ClassVar[str | None] = "raider"
    definitions: ClassVar[Mapping[str, str]] = {
        "settler": "claims the nearest wall in view that is nobody's; never zaps",
        "raider": "claims the nearest wall in view that is not its own, and zaps whom it can hit",
    }
    legend: ClassVar[Mapping[str, str]] = {**TwoHitsWorld.legend, "R": "resource wall"}
    tiles: ClassVar[Mapping[str, str]] = {**TwoHitsWorld.tiles, "resource": "R", "damaged": "r"}
    colours: ClassVar[Mapping[str, str]] = {
        **TwoHitsWorld.colours,
        "resource": "#9a9a9a",
        "damaged": "#6b4a3a",
        "zap": "#f2b705",
        "claim": "#56b4e9",
    }
    shapes: ClassVar[Mapping[str, str]] = {"resource": "square", "damaged": "square"}
    beams: ClassVar[tuple[Beam, ...]] = (
        Beam("zap", length=2, radius=1),
        Beam("claim", length=2, radius=0, stops_at_agents=False),
    )

    def __post_init__(self) -> None:
        one_of(f"{self.name}: variant", self.variant, tuple(_MAPS))
        super().__post_init__()

    def check_map(self) -> None:
        super().check_map()
        self.grid.require("R", 1, "a resource wall")

    @property
    def own_map(self) -> str:
        return _MAPS[self.variant]

    @property
    def default_params(self) -> TerritoryParams:
        return TerritoryParams()

    def socialjax_params(self) -> TerritoryParams:
        """The numbers of SocialJax (Guo et al. 2025), as far as its rules agree: a dry wall pays .01 in every step, and
        it is dry after 100. (There agents that are zapped are only moved.)"""
        return TerritoryParams(zap_cooldown=0, wall_reward=0.01, pay_probability=1.0, drying=100)

    def check_params(self, params: TerritoryParams) -> None:
        super().check_params(params)
        for name in ("pay_probability", "mending_probability"):
            at_most(f"{self.name}: {name}", getattr(params, name), 1)
        for name in ("pay_probability", "mending_probability", "drying", "mending_delay"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "settler": partial(territory_player, self, False),
            "raider": partial(territory_player, self, True),
        }

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: TerritoryParams) -> TerritoryState:
        nothing = jnp.zeros(len(self.grid.sites("R")), jnp.int32)
        return TerritoryState(
            **base,
            marked=jnp.zeros(self.num_agents, jnp.int32),
            health=nothing + INTACT,
            mending=nothing,
            owner=nothing,
            drying=nothing,
        )

    def health_plane(self, state: TerritoryState) -> jax.Array:
        """uint8 [H, W]: the health of resource walls, 0 elsewhere."""
        return spread(state.health.astype(jnp.uint8), self.grid.numbered("R"))

    def solid(self, state: TerritoryState) -> Plane:
        return self.grid.plane("#") | (self.health_plane(state) > DESTROYED)

    def stops(self, beam: Beam, state: TerritoryState) -> Plane:
        walls = self.grid.plane("#")
        return walls | (self.health_plane(state) == INTACT) if beam.name == "zap" else walls

    def rules(
        self, key: jax.Array, state: TerritoryState, events: Events, params: TerritoryParams
    ) -> tuple[TerritoryState, jax.Array, Metrics]:
        order_key, chance_key = jax.random.split(key)
        sites = self.grid.sites("R")
        zap = events.shots["zap"]
        hit = jnp.where(zap.reached, zap.cells, self.grid.num_cells)
        hits = jnp.zeros(self.grid.num_cells, jnp.int32).at[jnp.ravel(hit)].add(1, mode="drop")[sites]
        health = jnp.maximum(state.health - hits, DESTROYED)
        # One draw per wall is enough: it pays on one side of the interval and heals on the other.
        draws = jax.random.uniform(chance_key, sites.shape)
        mending = jnp.where(hits > 0, params.mending_delay, jnp.maximum(state.mending - 1, 0))
        heals = (health == DAMAGED) & (hits == 0) & (mending == 0) & (draws >= 1 - params.mending_probability)
        health = jnp.where(heals, INTACT, health)

        claimant = self._claimants(order_key, state, events)[sites]
        changes = (claimant > 0) & (claimant != state.owner)
        owner = jnp.where(changes, claimant, state.owner)
        present = jnp.append(state.timeout == 0, False)[owner - 1]  # of the owner; nobody is never present
        owner = jnp.where(present & (health > DESTROYED), owner, 0)
        drying = jnp.where(changes, params.drying, jnp.maximum(state.drying - 1, 0))
        state = state.replace(health=health, mending=mending, owner=owner, drying=drying)
        dry = self.dry(state)
        mine = owner == 1 + np.arange(self.num_agents)[:, None]  # [N, S]
        pays = mine & (dry & (draws < params.pay_probability))
        metrics = {
            "claimed": mine.sum(axis=1, dtype=jnp.float32),
            "dry": (mine & dry).sum(axis=1, dtype=jnp.float32),
            "intact": (health == INTACT).sum(dtype=jnp.float32),
            "destroyed": (health == DESTROYED).sum(dtype=jnp.float32),
        }
        return state, params.wall_reward * pays.sum(axis=1, dtype=jnp.float32), metrics

    def dry(self, state: TerritoryState) -> jax.Array:
        """bool [S]: which walls can pay."""
        return (state.owner > 0) & (state.drying == 0)

    def _claimants(self, key: jax.Array, state: TerritoryState, events: Events) -> jax.Array:
        """int32 [H * W]: 1 + the index of the agent whose claim of a cell prevails in this step, 0 without any."""
        present, shape, num_agents = state.timeout == 0, self.grid.shape, self.num_agents
        touched = flat(*seen_from(state.position, state.heading, np.ones(1, int), np.zeros(1, int)), shape)
        touched = jnp.where(present[:, None], touched, self.grid.num_cells)
        beam = events.shots["claim"]
        shot = jnp.where(beam.reached, beam.cells, self.grid.num_cells)
        order = random_order(key, num_agents)
        rank = jnp.stack(
            [order, num_agents + order, num_agents + order], axis=-1
        )  # [N, 3]: a touch, two cells of a beam
        bids = (rank * num_agents + np.arange(num_agents)[:, None]) + 1
        cells = jnp.ravel(jnp.concatenate([touched, shot], axis=-1))
        highest = jnp.zeros(self.grid.num_cells, jnp.int32).at[cells].max(jnp.ravel(bids), mode="drop")
        return jnp.where(highest > 0, (highest - 1) % num_agents + 1, 0)

    # ------------------------------------------------------------------ what is seen
    def plane_limits(self) -> dict[str, int]:
        return {**super().plane_limits(), "claim": OTHERS_DRY}

    def tile_plane(self, state: TerritoryState) -> Plane:
        ground = np.where(self.grid.plane("#"), np.uint8(self.tile("wall")), np.uint8(self.tile("floor")))
        health = self.health_plane(state)
        tiles = jnp.where(health == INTACT, np.uint8(self.tile("resource")), ground)
        return jnp.where(health == DAMAGED, np.uint8(self.tile("damaged")), tiles)

    def planes(self, state: TerritoryState) -> dict[str, Plane]:
        """A claim is drawn as twice its owner, and 1 more where the wall is dry; `observe` makes that relative."""
        claims = (2 * state.owner + self.dry(state)).astype(jnp.uint8)
        return {**super().planes(state), "claim": spread(claims, self.grid.numbered("R"))}

    def observe(self, state: TerritoryState, params: TerritoryParams) -> dict[str, jax.Array]:
        # Relative to each viewer, owners cost one pass over the views; a plane per viewer would cost N over the map.
        observation = super().observe(state, params)
        view, plane = observation["view"], list(self.view_limits).index("claim")
        owner, dry = view[..., plane] >> 1, view[..., plane] & 1
        own = owner == 1 + np.arange(self.num_agents, dtype=np.uint8)[:, None, None]
        claim = jnp.where(owner > 0, jnp.where(own, np.uint8(OWN), np.uint8(OTHERS)) + dry, np.uint8(0))
        view = jnp.concatenate([view[..., :plane], claim[..., None], view[..., plane + 1 :]], axis=-1)
        return observation | {"view": view}

    def owners(self, state: TerritoryState) -> Plane:
        return spread(state.owner.astype(jnp.uint8), self.grid.numbered("R"))

    def state_features(self, state: TerritoryState, params: Any) -> list[jax.Array]:
        owners = jax.nn.one_hot(state.owner - 1, self.num_agents)
        features = [state.health / INTACT, owners, jnp.where(state.owner > 0, 1 / (1 + state.drying), 0)]
        return [*super().state_features(state, params), *features]


# ---------------------------------------------------------------------- scripted players
def territory_player(env: Territory, raids: bool, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest wall in view that is nobody's and faces it, which claims it; looks around without any.

    One that `raids` takes to others' walls as well, and zaps whom it can hit. No one zaps walls.
    """
    walk_key, explore_key = jax.random.split(key)
    tiles, claim = env.seen(observation, "tile"), env.seen(observation, "claim")
    wall = (tiles == env.tile("resource")) | (tiles == env.tile("damaged"))
    wanted = wall & ((claim == 0) | (raids & (claim >= OTHERS)))
    others = env.seen(observation, "agent") >= OTHER
    clear = ((tiles == env.tile("floor")) | wanted) & ~others
    step, found = scripted.walk(walk_key, env.window, wanted, clear)
    action = jnp.where(found, step, scripted.explore(explore_key, env.window, clear & ~wall))
    # A wall beside it needs a turn, and one behind another a beam, as steps lead nowhere there.
    row, column = env.window.home
    action = jnp.where(wanted[row, column - 1], TURN_LEFT, action)
    action = jnp.where(wanted[row, column + 1] | wanted[row + 1, column], TURN_RIGHT, action)
    action = jnp.where(wanted[row - 2 : row, column].any(), CLAIM, action)
    shape = footprint(env.beams[0].length, env.beams[0].radius)
    aimed = scripted.any_at(others, row - shape.forward, column + shape.right)
    return jnp.where(raids & aimed & (observation["ready"][0] == 1), ZAP, action)


# ---------------------------------------------------------------------- maps
_ROOM = ["#RRRRR#", "R.....R", "R.....R", "R..P..R", "R.....R", "R.....R", "#RRRRR#"]
_MAPS = {
    "open": """
        #######################################
        #.....................................#
        #..................RR...RR............#
        #.RRRRRR...RR.........................#
        #..........................RRRR.......#
        #..RR.......RRR.......................#
        #..RR..........................R......#
        #..RR.....RR...........RR..RRR.R...R..#
        #.........RR...RR......RR......R...R..#
        #.R.......RR...........RR.R....R......#
        #.R.......RR......RRRR.RR.R...........#
        #.R.......RR...R.......RR.....RRRR....#
        #.R............R...RR..RR.RR.......R..#
        #......RR..........RR..RR..........R..#
        #......................RR.............#
        #.....................................#
        #.....................................#
        #.......P.....P.....P.....P.....P.....#
        #....P.....P.....P.....P.....P.....P..#
        #.....P.....P.....P.....P.....P.....P.#
        #..P.....P.....P.....P.....P.....P....#
        #.....................................#
        #######################################
    """,
    "rooms": "\n".join([3 * line for line in _ROOM] * 3),
}
