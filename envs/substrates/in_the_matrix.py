"""Matrix games in the matrix: what one has collected is the strategy that one plays against whomever one meets.

After Melting Pot's *_in_the_matrix__arena and *_in_the_matrix__repeated (Leibo et al. 2021; Agapiou et al. 2022), first
played as running with scissors by Vezhnevets et al. (2020). The maps are this suite's own, with the sizes and the
numbers of resources of Melting Pot's.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, Player, at_least, at_most, one_of, random_player
from marl_suite.envs.grid import spawning
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.cells import Plane, look_up, spread
from marl_suite.envs.grid.state import Events, GridParams, GridState, entered_sites
from marl_suite.envs.grid.world import GridWorld
from marl_suite.envs.spaces import Box, Space
from marl_suite.envs.substrates.in_the_matrix_games import DAMAGED, GAMES, INTACT, Game, own_map
from marl_suite.envs.substrates.in_the_matrix_meetings import is_ready, pair_up, shares
from marl_suite.envs.substrates.in_the_matrix_players import ENOUGH, MOST, UNIT, collector

HEALTH = 3  # steps of being hit that a resource does not survive


class MatrixState(GridState):
    """See `GridState`; sites are numbered in reading order."""

    kind: jax.Array  # int32 [S], the class of each site's resource, fixed during an episode
    live: jax.Array  # bool [S], whether the resource is there
    damage: jax.Array  # int32 [S], by how many beams it was hit
    rest: jax.Array  # int32 [S], steps before it can grow back once it is gone
    inventory: jax.Array  # int32 [N, K], one more than was collected of each class since the last interaction
    partner: jax.Array  # int32 [N], with whom an agent interacts, -1 for nobody
    row: jax.Array  # bool [N], whether it does so, or did so last, as the row player


class MatrixParams(GridParams):
    """Melting Pot's numbers, for arenas; rates are per step."""

    payoffs: np.ndarray = dataclasses.field(
        default_factory=lambda: np.array([[[3, 0], [5, 1]], [[3, 5], [0, 1]]], np.float32)
    )  # float32 [2, K, K], to the row and to the column player, when these play classes k and l
    interact_cooldown: int = 2  # [], steps
    freeze: int = 16  # [], steps from an interaction to its payoffs
    timeout: int = 50  # [], steps that both stay out after that
    regrowth: float = 0.04  # [], of each missing resource without an agent on it
    regrowth_delay: int = 10  # [], steps before that
    refill: bool = False  # [], whether all resources come back when everybody is out


@dataclasses.dataclass(frozen=True)
class InTheMatrix(GridWorld):
    """Matrix games between those who meet, each playing what it has collected: a social dilemma, or not, by the game.

    Rules (Melting Pot's numbers): every agent has one resource of each of K classes. It collects another by stepping on
    it, and is ready from the first on. When an agent's beam hits another and both are ready they interact: the shooter
    is the row and the other the column player. Both are frozen and cannot be challenged for 16 steps. Then the row
    player gets x A y' and the column player x B y', where x and y are their shares of each class, their inventories are
    one of each again, and they are out for a while. An agent has one interaction at a time: of those that a step's
    beams make possible, that of the first agent in a random order of all comes first, with the first in that order of
    those it hit, then the next one that is left. The beam has length 3 and radius 1, fires every 3 steps, and is
    stopped by walls, agents and resources. A resource is gone after the third step in which beams hit it, and lets
    these pass. What is collected or destroyed grows back, after a delay, with a probability per step, but not under an
    agent. The class of some sites is fixed, that of the others drawn for each episode.

    ========  ==  =======  =====  ===  ============================  ===============================================
    variant   N   map      views  out  growth                        sites of each class, and of a drawn one
    ========  ==  =======  =====  ===  ============================  ===============================================
    arena     8   24 x 25  11x11  50   .04 after 10 steps            13, 13, 10 (stag hunt 23, 40, 12; with three
                                                                     classes 12, 12, 12, 8)
    repeated  2   15 x 23  5x5    5    .02 after 10 steps (running   12, 12, 12 (stag hunt 10, 25, 12; with three
                                       with scissors 15), and of     classes 6, 6, 6, 15)
                                       all when both are out
    ========  ==  =======  =====  ===  ============================  ===============================================

    Games: `marl_suite.envs.substrates.in_the_matrix_games` has their A and B, which is the transpose of A but in
    bach_stravinsky. There agents 0, 2, ... are row players, the others column players, whoever shoots, and two of a
    kind cannot interact.

    Dilemmas, by returns of scripted players in arenas, 1,000 steps, k cooperators (Rc) and 8 - k defectors (Rd): in the
    prisoner's dilemma fear and greed, Rc(8) = 23, Rd(0) = 12, Rc(1) = 6, Rd(7) = 39; in the stag hunt fear alone, 29,
    18, 6 and 21; in chicken greed alone, 25, 9, 19 and 38. None in the other games.

    Attributes:
        game: one of these.
        variant: "arena" or "repeated".
        num_agents, map, view_ahead, view_behind, view_sides: see `GridWorld`. In maps, "A", "B" and "C" are resources
            of the first, second and third class, "?" those of any, and "P" is a spawn cell.

    Observation: a dict of `view`, uint8 [11, 11, 5] of planes (tile: 1 floor, 2 wall, 3 bare site, then each class
    intact and each class damaged; beam; agent; frozen; ready; in bach_stravinsky also role, 1 row and 2 column), see
    `marl_suite.envs.grid.views`, `ready`, float32 [1], of the beam, `inventory`, float32 [K], in tens and at most 10,
    and `interaction`, float32 [2, K], one's own and the other's while an interaction lasts, else 0. Actions: seven
    moves and "interact". Reward: payoffs [N]. Metrics: `interactions` [N], those that begin; `cooperation` [N], in
    dilemmas, elsewhere `first_class` [N], the share of the first class in one's inventory then (NaN without any);
    `collected_<class>` [N]; `destroyed` [N], also counted for both when two did at once; `resources`, how many are
    there. Global state: see `GridWorld`, and of each site its class one-hot, whether its resource is there, damage / 3
    and 1 / (1 + delay left), then inventories as observed, partners one-hot, and who is the row player.

    Deviations: damaged resources and bare sites look different from whole ones and the floor; both inventories show as
    long as an interaction lasts, to its two players, there for one step, and later as a colour to all; an agent that
    hit somebody who is not ready can still interact in that step; beams recharge while agents are frozen or out; beams
    that hit a resource in the same step count once; one that grows back is whole. See `marl_suite.envs.grid.world`.

    Raises:
        InputError: for an unknown game or variant, fewer than two agents, or a map without resources of some class.
    """

    name: str = "prisoners_dilemma_in_the_matrix_arena"
    num_agents: int = 8
    game: str = "prisoners_dilemma"
    variant: str = "arena"

    freezes: ClassVar[bool] = True
    beams: ClassVar[tuple[Beam, ...]] = (Beam("interact", length=3, radius=1),)

    def __post_init__(self) -> None:
        one_of(f"{self.name}: game", self.game, GAMES)
        one_of(f"{self.name}: variant", self.variant, ("arena", "repeated"))
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        for name, value in self._facts_of_the_game().items():
            object.__setattr__(self, name, value)
        super().__post_init__()

    def _facts_of_the_game(self) -> dict[str, Any]:
        """What other worlds have as class variables."""
        classes, collectors = self.classes, self.matrix_game.players
        damaged = [f"damaged {name}" for name in classes]
        symbols = dict(zip(classes, "ABC", strict=False)) | dict(zip(damaged, "abc", strict=False))
        paint = dict(zip(classes, INTACT, strict=False)) | dict(zip(damaged, DAMAGED, strict=False))
        first, second = collectors[:2] if self.matrix_game.is_dilemma else (None, None)
        return {
            "mixed_motive": self.matrix_game.is_dilemma,
            "cooperator": first,
            "defector": second,
            "exploiter": second,
            "definitions": {
                player: f"collects {ENOUGH - 1} of {name!r}, then challenges whoever is ready"
                for player, name in zip(collectors, classes, strict=True)
            },
            "legend": {**GridWorld.legend, **dict(zip("ABC", classes, strict=False)), "?": "any class"},
            "tiles": {**GridWorld.tiles, "bare": ",", **symbols},
            "colours": {**GridWorld.colours, "bare": "#cfd9b4", "interact": "#f0e442", **paint},
        }

    def check_map(self) -> None:
        super().check_map()
        for symbol, name in zip("ABC", self.classes, strict=False):
            self.grid.require(f"{symbol}?", 1, f"a resource of class {name!r}")

    # ------------------------------------------------------------------ what is played
    @property
    def matrix_game(self) -> Game:
        """The matrix game."""
        return GAMES[self.game]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self.matrix_game.classes

    @property
    def summary(self) -> str:
        return self.matrix_game.summary

    @property
    def own_map(self) -> str:
        return own_map(self.game, self.variant)

    @property
    def default_params(self) -> MatrixParams:
        payoffs = np.array([self.matrix_game.row, self.matrix_game.column], np.float32)
        if self.variant == "arena":
            return MatrixParams(payoffs=payoffs)
        delay = 15 if self.game == "running_with_scissors" else 10
        return MatrixParams(payoffs=payoffs, timeout=5, regrowth=0.02, regrowth_delay=delay, refill=True)

    def check_params(self, params: MatrixParams) -> None:
        super().check_params(params)
        for name in ("freeze", "timeout", "regrowth", "regrowth_delay"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)
        at_most(f"{self.name}: regrowth", params.regrowth, 1)

    @property
    def players(self) -> Mapping[str, Player]:
        collectors = {name: partial(collector, self, k) for k, name in enumerate(self.matrix_game.players)}
        return {"random": random_player(self), **collectors}

    # ------------------------------------------------------------------ what is seen
    def tile_plane(self, state: MatrixState) -> Plane:
        damaged = jnp.where(state.damage > 0, len(self.classes), 0)
        sites = jnp.where(state.live, self.tile(self.classes[0]) + state.kind + damaged, self.tile("bare"))
        ground = np.where(self.grid.plane("#"), self.tile("wall"), self.tile("floor")).astype(np.uint8).ravel()
        # A few writes into a constant: a look-up for every cell made the step an eighth slower on CPUs.
        tiles = jnp.asarray(ground).at[self._sites].set(sites.astype(jnp.uint8), unique_indices=True)
        return tiles.reshape(self.grid.shape)

    def mark_limits(self) -> dict[str, int]:
        role = {"role": 2} if self.matrix_game.has_roles else {}
        return {**super().mark_limits(), "ready": 1, **role}

    def marks(self, state: MatrixState) -> dict[str, jax.Array]:
        role = {"role": jnp.where(self._rows, 1, 2)} if self.matrix_game.has_roles else {}
        return {**super().marks(state), "ready": is_ready(state.inventory), **role}

    def extra_spaces(self) -> dict[str, Space]:
        most, size = MOST / UNIT, len(self.classes)
        return {**super().extra_spaces(), "inventory": Box(0, most, (size,)), "interaction": Box(0, most, (2, size))}

    def extras(self, state: MatrixState, params: Any) -> dict[str, jax.Array]:
        inventory = jnp.minimum(state.inventory, MOST) / UNIT
        both = jnp.stack([inventory, inventory[state.partner]], axis=1)
        interaction = jnp.where((state.partner >= 0)[:, None, None], both, 0.0)
        return {**super().extras(state, params), "inventory": inventory, "interaction": interaction}

    def state_features(self, state: MatrixState, params: Any) -> list[jax.Array]:
        return [
            jax.nn.one_hot(state.kind, len(self.classes)),
            state.live,
            state.damage / HEALTH,
            1 / (1 + state.rest),
            jnp.minimum(state.inventory, MOST) / UNIT,
            jax.nn.one_hot(state.partner, self.num_agents),
            state.row,
        ]

    @property
    def _sites(self) -> np.ndarray:
        """int32 [S], flat cells."""
        return self.grid.sites("ABC?")

    @property
    def _sites_at(self) -> np.ndarray:
        """int32 [H, W], the site in each cell, S for none."""
        return self.grid.numbered("ABC?")

    @property
    def _rows(self) -> np.ndarray:
        """bool [N], who is a row player in games with roles."""
        return np.arange(self.num_agents) % 2 == 0

    # ------------------------------------------------------------------ rules
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: MatrixParams) -> MatrixState:
        sites, symbols = self._sites, "".join(self.grid.lines)
        fixed = np.array(["ABC?".index(symbols[site]) for site in sites], np.int32)
        drawn = jax.random.randint(key, sites.shape, 0, len(self.classes))
        return MatrixState(
            **base,
            kind=jnp.where(fixed == 3, drawn, fixed),
            live=jnp.ones(len(sites), bool),
            damage=jnp.zeros(len(sites), jnp.int32),
            rest=jnp.full(len(sites), params.regrowth_delay, jnp.int32),
            inventory=jnp.ones((self.num_agents, len(self.classes)), jnp.int32),
            partner=jnp.full(self.num_agents, -1, jnp.int32),
            row=jnp.zeros(self.num_agents, bool),
        )

    def stops(self, beam: Beam, state: MatrixState) -> Plane:
        whole = state.live & (state.damage < HEALTH - 1)
        return self.solid(state) | spread(whole, self._sites_at)

    def rules(
        self, key: jax.Array, state: MatrixState, events: Events, params: MatrixParams
    ) -> tuple[MatrixState, jax.Array, Metrics]:
        pair_key, grow_key = jax.random.split(key)
        before, eats = state.live, entered_sites(events, self._sites) & state.live
        collected = jnp.stack([(eats & (state.kind == k)).sum(1, jnp.int32) for k in range(len(self.classes))], -1)
        state = state.replace(live=before & ~eats.any(axis=0), inventory=state.inventory + collected)
        state, destroyed = self._destroy(state, events)
        state, begun = self._meet(pair_key, state, events.hits["interact"], params)
        first = jnp.where(begun, shares(state.inventory)[:, 0], 0.0)
        state, reward = self._part(state, params)
        state = self._grow(grow_key, state, before, params)
        names = [f"collected_{name}" for name in self.classes]
        metrics = {
            "interactions": begun.astype(jnp.float32),
            "first_class": first,
            **dict(zip(names, collected.T.astype(jnp.float32), strict=True)),
            "destroyed": destroyed,
            "resources": state.live.sum(dtype=jnp.float32),
        }
        return state, reward, metrics

    def _destroy(self, state: MatrixState, events: Events) -> tuple[MatrixState, jax.Array]:
        """The state after beams hit resources, and how many each agent destroyed, float32 [N]."""
        shot, num_sites = events.shots["interact"], len(self._sites)
        struck = state.live & (look_up(state.beam, self._sites, beyond=0) > 0)
        last = jnp.append(struck & (state.damage == HEALTH - 1), False)
        aimed_at = look_up(self._sites_at, shot.cells, beyond=num_sites)
        destroyed = (shot.reached & last[aimed_at]).sum(axis=1, dtype=jnp.float32)
        damage = state.damage + struck
        return state.replace(damage=damage, live=state.live & (damage < HEALTH)), destroyed

    def _meet(
        self, key: jax.Array, state: MatrixState, hits: jax.Array, params: MatrixParams
    ) -> tuple[MatrixState, jax.Array]:
        """The state after interactions began, and whose did, bool [N]; `hits`, bool [N, N], by whom, first."""
        willing = is_ready(state.inventory) & (state.partner < 0)
        possible = hits & willing[:, None] & willing
        if self.matrix_game.has_roles:
            possible = possible & (self._rows[:, None] != self._rows)
        pairs = pair_up(key, possible)
        together = pairs | pairs.T
        begun = together.any(axis=1)
        other = jnp.sum(jnp.where(together, np.arange(self.num_agents), 0), axis=1)
        row = self._rows if self.matrix_game.has_roles else pairs.any(axis=1)
        state = state.replace(
            partner=jnp.where(begun, other, state.partner),
            row=jnp.where(begun, row, state.row),
            frozen=jnp.where(begun, params.freeze, state.frozen),
        )
        return state, begun

    def _part(self, state: MatrixState, params: MatrixParams) -> tuple[MatrixState, jax.Array]:
        """The state after interactions came to their end, and what these pay, float32 [N]."""
        ends = (state.partner >= 0) & (state.frozen == 0)
        own = shares(state.inventory)
        others = own[state.partner]
        to_row, to_column = jnp.asarray(params.payoffs, jnp.float32)
        payoffs = jnp.where(state.row[:, None, None], to_row, to_column.T)
        # Not a matrix product, which accelerators round.
        reward = jnp.where(ends, (own[:, :, None] * payoffs * others[:, None, :]).sum(axis=(1, 2)), 0.0)
        state = state.replace(
            inventory=jnp.where(ends[:, None], 1, state.inventory),
            partner=jnp.where(ends, -1, state.partner),
            timeout=jnp.where(ends, params.timeout, state.timeout),
        )
        return state, reward

    def _grow(self, key: jax.Array, state: MatrixState, before: jax.Array, params: MatrixParams) -> MatrixState:
        """The state after resources grew on those sites that had none `before` this step, bool [S], either."""
        present = state.timeout == 0
        rest = jnp.where(before, params.regrowth_delay, jnp.maximum(state.rest - 1, 0))
        free = ~spawning.occupied(self._sites, state.position, present, self.grid.shape)
        grows = ~before & (rest == 0) & free & (jax.random.uniform(key, rest.shape) < params.regrowth)
        grows = grows | (jnp.asarray(params.refill) & ~present.any())
        return state.replace(live=state.live | grows, rest=rest, damage=jnp.where(state.live, state.damage, 0))

    def derived_metrics(self, means: Metrics) -> Metrics:
        """`first_class`, called `cooperation` in dilemmas, per interaction instead of per step."""
        means = dict(means)
        share = means.pop("first_class") / means["interactions"]
        return {"cooperation" if self.mixed_motive else "first_class": share, **means}
