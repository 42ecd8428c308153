"""Gift Refinements: tokens multiply when they are given away, and nobody has to give back.

After Melting Pot's gift_refinements (Agapiou et al. 2022), a trust game (Berg, Dickhaut and McCabe 1995) on a map. The
map is that of `coop_mining`, as Melting Pot's two share one too.
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
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.cells import Plane, flat, look_up
from marl_suite.envs.grid.growth import rare_draws
from marl_suite.envs.grid.movement import BASE_ACTIONS, NOOP
from marl_suite.envs.grid.state import Events, GridParams, GridState
from marl_suite.envs.grid.views import OTHER
from marl_suite.envs.grid.world import GridWorld
from marl_suite.envs.spaces import Box, Space
from marl_suite.envs.substrates.coop_mining import MAP

GIVE, CONSUME = len(BASE_ACTIONS), len(BASE_ACTIONS) + 1
TIERS = 3
REACH = 5
"""Length of the gift beam, in cells."""


class GiftState(GridState):
    """See `GridState`."""

    board: jax.Array  # uint8 [H, W], the number of the tile in each cell
    inventory: jax.Array  # int32 [N, 3], tokens held: raw, refined and twice refined


class GiftParams(GridParams):
    """Melting Pot's numbers. Its episodes: max_steps=5000, min_steps=1000 and end_probability=.2."""

    gift_cooldown: int = 3  # [], steps from one gift to the next that is possible
    token_growth: float = 0.0002  # [], that a token appears on an empty cell, per step
    gift_multiplier: int = 5  # [], tokens that one becomes when it is given
    capacity: int = 15  # [], tokens of each tier that an agent can hold
    token_reward: float = 1.0  # [], for each token consumed, of any tier


@dataclasses.dataclass(frozen=True)
class GiftRefinements(GridWorld):
    """Social dilemma: a token given away becomes five in another's hands, and only their gifts bring any back.

    Rules (Melting Pot's numbers): there are no tokens at first. On each of the 538 empty cells that are no spawn cells
    and have no agent on them one appears with probability .0002 per step. Who steps on a token holds it, as a raw one.
    The gift beam is a line of 5 cells, ends at the first agent or wall and fires every 3 steps. The agent that it hits
    gets one token of the highest tier that the giver holds; a raw one becomes five refined ones, a refined one five
    twice refined ones, and a twice refined one stays one. Nobody holds more than 15 tokens of a tier; what is more is
    lost. "consume" turns all that one held before the step into a reward of 1 per token, whatever its tier. A raw
    token is so worth 1 to who consumes it and 25 to a group that gives it twice.

    Fear and greed: over 1,000 steps six `giver` players earn 117 points each, six `consumer` ones 12, a lone `giver` 0
    and a lone `consumer` 145 beside five givers. Returns vary from nothing to hundreds, so that it takes some seventy
    episodes for each number of givers to tell that the last is more than 117.

    Attributes:
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "." is a cell on which tokens
            appear and "P" a spawn cell, without tokens.

    Observation: a dict of `view`, uint8 [11, 11, 3] of planes (tile: 1 floor, 2 wall, 3 token, 4 spawn cell; beam;
    agent), see `marl_suite.envs.grid.views`; `ready`, float32 [1]; and `inventory`, float32 [3], one's own tokens of
    each tier as shares of the capacity. What others hold is not seen. Actions: seven moves, "gift" and "consume".
    Reward: tokens consumed [N]. Metrics: `tokens`, how many lie there; [N] each: `collected`, `gifts` that reached
    somebody, `received` tokens, and tokens consumed, `consumed_raw`, `consumed_refined` and `consumed_twice_refined`.
    Global state: see `GridWorld`, where tokens lie, [H, W], and inventories as shares.

    Deviations: all gifts of a step are made at once, of what agents held before; the spawn cells look different from
    the floor. See also `marl_suite.envs.grid.world`.
    """

    name: str = "gift_refinements"
    num_agents: int = 6

    exploiter: ClassVar[str | None] = "consumer"
    cooperator: ClassVar[str | None] = "giver"
    defector: ClassVar[str | None] = "consumer"
    definitions: ClassVar[Mapping[str, str]] = {
        "giver": "gives raw and refined tokens to the nearest agent and consumes once it holds twice refined ones",
        "consumer": "consumes what it finds and what it is given at once",
    }
    times_out: ClassVar[bool] = False
    legend: ClassVar[Mapping[str, str]] = {"#": "wall", ".": "token cell", "P": "spawn cell"}
    tiles: ClassVar[Mapping[str, str]] = {**GridWorld.tiles, "token": "T", "spawn": ","}
    colours: ClassVar[Mapping[str, str]] = {
        **GridWorld.colours,
        "token": "#d98e04",
        "spawn": "#d3cbbb",
        "gift": "#e58fb1",
    }
    beams: ClassVar[tuple[Beam, ...]] = (Beam("gift", length=REACH, radius=0),)

    @property
    def own_map(self) -> str:
        return MAP

    def check_map(self) -> None:
        super().check_map()
        self.grid.require(".", 1, "one for tokens")

    @property
    def action_names(self) -> tuple[str, ...]:
        return (*super().action_names, "consume")

    @property
    def default_params(self) -> GiftParams:
        return GiftParams()

    def socialjax_params(self) -> GiftParams:
        """The numbers of SocialJax (Guo et al. 2025): three for one, and a beam that needs no rest."""
        return GiftParams(gift_multiplier=3, gift_cooldown=1)

    def check_params(self, params: GiftParams) -> None:
        super().check_params(params)
        for name, least in {"gift_cooldown": 1, "token_growth": 0, "gift_multiplier": 0, "capacity": 1}.items():
            at_least(f"{self.name}: {name}", getattr(params, name), least)
        at_most(f"{self.name}: token_growth", params.token_growth, 1)

    def cooldown(self, beam: Beam, params: GiftParams) -> jax.Array | int:
        return params.gift_cooldown - 1

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "giver": partial(giver, self),
            "consumer": partial(consumer, self),
        }

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: GiftParams) -> GiftState:
        kinds = {"wall": self.grid.plane("#"), "spawn": self.grid.plane("P")}
        board = np.select(list(kinds.values()), [self.tile(kind) for kind in kinds], self.tile("floor"))
        inventory = jnp.zeros((self.num_agents, TIERS), jnp.int32)
        return GiftState(**base, board=jnp.asarray(board, jnp.uint8), inventory=inventory)

    def tile_plane(self, state: GiftState) -> Plane:
        return state.board

    def rules(
        self, key: jax.Array, state: GiftState, events: Events, params: GiftParams
    ) -> tuple[GiftState, jax.Array, Metrics]:
        capacity = jnp.asarray(params.capacity, jnp.int32)
        consumed = jnp.where((events.actions == CONSUME)[:, None], state.inventory, 0)
        board, picks = self._pick(state, events)
        raw = np.eye(TIERS, dtype=np.int32)[0]
        held = jnp.minimum(state.inventory - consumed + picks[:, None] * raw, capacity)
        given, sent = gifts(held, events.hits["gift"].any(axis=1), params.gift_multiplier)
        kept = held - given
        received = (events.hits["gift"][:, :, None] * sent[:, None]).sum(axis=0)
        inventory = jnp.minimum(kept + received, capacity)
        board = self._grow(key, board, state.position, params)
        metrics = {
            "tokens": jnp.sum(board == self.tile("token"), dtype=jnp.float32),
            "collected": picks.astype(jnp.float32),
            "gifts": given.sum(axis=1, dtype=jnp.float32),
            "received": (inventory - kept).sum(axis=1, dtype=jnp.float32),
            "consumed_raw": consumed[:, 0].astype(jnp.float32),
            "consumed_refined": consumed[:, 1].astype(jnp.float32),
            "consumed_twice_refined": consumed[:, 2].astype(jnp.float32),
        }
        reward = params.token_reward * consumed.sum(axis=1, dtype=jnp.float32)
        return state.replace(board=board, inventory=inventory), reward, metrics

    def _pick(self, state: GiftState, events: Events) -> tuple[jax.Array, jax.Array]:
        """The board without the tokens that were stepped on, and by whom, bool [N]."""
        nowhere = self.grid.num_cells
        entered = jnp.where(events.entered < 0, nowhere, events.entered)
        picks = look_up(state.board, entered, beyond=0) == self.tile("token")
        cells = jnp.where(picks, entered, nowhere)
        board = jnp.ravel(state.board).at[cells].set(np.uint8(self.tile("floor")), mode="drop")
        return board.reshape(self.grid.shape), picks

    def _grow(self, key: jax.Array, board: jax.Array, position: jax.Array, params: GiftParams) -> jax.Array:
        """uint8 [H, W]: `board` with new tokens, none of them under agents."""
        usual = GiftParams().token_growth * self.grid.num_cells
        draws = rare_draws(key, self.grid.num_cells, params.token_growth, usual)
        draws = draws.at[flat(position[:, 0], position[:, 1], self.grid.shape)].set(1.0)
        grows = (draws.reshape(self.grid.shape) < params.token_growth) & (board == self.tile("floor"))
        return jnp.where(grows, np.uint8(self.tile("token")), board)

    def extra_spaces(self) -> dict[str, Space]:
        return {**super().extra_spaces(), "inventory": Box(0, 1, (TIERS,))}

    def extras(self, state: GiftState, params: GiftParams) -> dict[str, jax.Array]:
        return {**super().extras(state, params), "inventory": self._shares(state, params)}

    def _shares(self, state: GiftState, params: GiftParams) -> jax.Array:
        """float32 [N, 3]: inventories as shares of the capacity."""
        return state.inventory / jnp.asarray(params.capacity, jnp.float32)

    def state_features(self, state: GiftState, params: GiftParams) -> list[jax.Array]:
        return [state.board == self.tile("token"), self._shares(state, params)]


def gifts(held: jax.Array, gives: jax.Array, multiplier: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """What those lose who give, and what others get from them, int32 [N, 3] each.

    Args:
        held: int32 [N, 3], tokens of each tier.
        gives: bool [N], whether there is somebody to give to.
        multiplier: [], how many tokens of the next tier one becomes.
    """
    has = held > 0
    none_higher = jnp.stack([~has[:, 1] & ~has[:, 2], ~has[:, 2], jnp.ones_like(gives)], axis=1)
    given = (has & none_higher & gives[:, None]).astype(jnp.int32)
    many = jnp.asarray(multiplier, jnp.int32) * given
    sent = jnp.stack([jnp.zeros_like(many[:, 0]), many[:, 0], many[:, 1] + given[:, 2]], axis=1)
    return given, sent


# ---------------------------------------------------------------------- scripted players
def consumer(env: GiftRefinements, observation: PyTree, key: jax.Array) -> jax.Array:
    """Consumes what it holds, and gathers tokens while it holds nothing."""
    return jnp.where(observation["inventory"].any(), CONSUME, _gather(env, observation, key))


def giver(env: GiftRefinements, observation: PyTree, key: jax.Array) -> jax.Array:
    """Consumes once it holds twice refined tokens; else gives what it holds to the nearest agent that its beam can
    reach or that it can walk to, waiting until the beam is ready; else gathers tokens."""
    walk_key, gather_key = jax.random.split(key)
    tiles, others, clear = _ground(env, observation)
    aims = scripted.aims(others, others | (tiles == 0) | (tiles == env.tile("wall")), REACH)
    step, found = scripted.walk(walk_key, env.window, aims & clear, clear)
    aimed = aims[env.window.home]
    give = jnp.where(aimed, jnp.where(observation["ready"][0] == 1, GIVE, NOOP), step)
    gives = observation["inventory"].any() & (aimed | found)
    action = jnp.where(gives, give, _gather(env, observation, gather_key))
    return jnp.where(observation["inventory"][TIERS - 1] > 0, CONSUME, action)


def _gather(env: GiftRefinements, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest token in view; without any stays beside others, from whom gifts may come, or finds some."""
    walk_key, join_key, explore_key = jax.random.split(key, 3)
    tiles, others, clear = _ground(env, observation)
    join, found = scripted.walk(join_key, env.window, others, clear | others)
    row, column = env.window.home
    beside = scripted.any_at(others, row + np.array([-1, 1, 0, 0]), column + np.array([0, 0, -1, 1]))
    join = jnp.where(beside, NOOP, join)
    action = jnp.where(found, join, scripted.explore(explore_key, env.window, clear))
    step, found = scripted.walk(walk_key, env.window, (tiles == env.tile("token")) & clear, clear)
    return jnp.where(found, step, action)


def _ground(env: GiftRefinements, observation: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The tiles in view, and bool, where others stand and which cells can be entered."""
    tiles, agents = env.seen(observation, "tile"), env.seen(observation, "agent")
    return tiles, agents >= OTHER, (tiles > 0) & (tiles != env.tile("wall")) & (agents == 0)
