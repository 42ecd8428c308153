"""The static side of a grid world: its map, what agents can do, and what they see of a state."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Environment, at_least
from marl_suite.envs.grid import views
from marl_suite.envs.grid.beams import Beam, readiness
from marl_suite.envs.grid.cells import HEADING_MARKS, Plane
from marl_suite.envs.grid.maps import Grid, read_map
from marl_suite.envs.grid.movement import BASE_ACTIONS
from marl_suite.envs.spaces import Box, Dict, Discrete, Space


@dataclasses.dataclass(frozen=True)
class Board(Environment):
    """What a grid world is before anything moves; see `marl_suite.envs.grid.world`."""

    name: str
    num_agents: int
    map: str = ""
    view_ahead: int = 9
    view_behind: int = 1
    view_sides: int = 5

    legend: ClassVar[Mapping[str, str]] = {"#": "wall", ".": "floor", "P": "spawn cell"}
    """What each symbol of a map stands for."""
    tiles: ClassVar[Mapping[str, str]] = {"floor": ".", "wall": "#"}
    """What views tell apart, and how a text frame draws it. The i-th entry has number i + 1; 0 is beyond the map."""
    beams: ClassVar[tuple[Beam, ...]] = ()
    """In the order of their actions."""
    colours: ClassVar[Mapping[str, str]] = {"floor": "#ece6da", "wall": "#55504a"}
    """How pictures paint each tile, "#rrggbb"; a beam of a substrate, by its name, has an entry too, and "agent 0" and
    so on may have one, where agents differ in colour."""
    shapes: ClassVar[Mapping[str, str]] = {}
    """How pictures draw a tile: "square", which fills its cell, "disc" or "diamond", which lie on the first tile, or,
    as "disc on water", on another. Where none is given, tiles whose symbol is a letter are discs and others squares."""
    freezes: ClassVar[bool] = False
    """Whether agents can be frozen, which views then show."""

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 1)
        for side in ("view_ahead", "view_behind", "view_sides"):
            at_least(f"{self.name}: {side}", getattr(self, side), 0)
        self.check_map()

    def check_map(self) -> None:
        """Raises `InputError` for a map on which the game cannot be played."""
        self.grid.require("P", self.num_agents, "one to spawn on for each agent")

    # ------------------------------------------------------------------ what there is
    @property
    def own_map(self) -> str:
        """The map's text where none is given."""
        raise NotImplementedError

    @property
    def grid(self) -> Grid:
        """The map."""
        return read_map(f"{self.name}: map", self.map or self.own_map, "".join(self.legend))

    @property
    def window(self) -> views.Window:
        """How far views reach."""
        return views.Window(self.view_ahead, self.view_behind, self.view_sides)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The seven base actions and one per beam."""
        return BASE_ACTIONS + tuple(beam.name for beam in self.beams)

    def action_space(self, params: Any = None) -> Discrete:
        return Discrete(len(self.action_names))

    def tile(self, name: str) -> int:
        """The number of a tile."""
        return 1 + list(self.tiles).index(name)

    # ------------------------------------------------------------------ what is seen
    def able(self, state: Any) -> jax.Array:
        """bool [N]: who can act; those in play who are not frozen."""
        return (state.timeout == 0) & (state.frozen == 0)

    def tile_plane(self, state: Any) -> Plane:
        """uint8 [H, W]: the number of the tile in each cell."""
        raise NotImplementedError

    def plane_limits(self) -> dict[str, int]:
        """The highest value of each of `planes`."""
        beams = {"beam": len(self.beams)} if self.beams else {}
        return {"tile": len(self.tiles), **beams}

    def planes(self, state: Any) -> dict[str, Plane]:
        """What there is to see in each cell, uint8 [H, W] each."""
        beams = {"beam": state.beam} if self.beams else {}
        return {"tile": self.tile_plane(state), **beams}

    def mark_limits(self) -> dict[str, int]:
        """The highest value of each of `marks`."""
        return {"frozen": 1} if self.freezes else {}

    def marks(self, state: Any) -> dict[str, jax.Array]:
        """What there is to see of an agent beside its heading, uint8 [N] each."""
        return {"frozen": state.frozen > 0} if self.freezes else {}

    def extra_spaces(self) -> dict[str, Space]:
        """The space of each of `extras`, for one agent."""
        return {"ready": Box(0, 1, (len(self.beams),))} if self.beams else {}

    def extras(self, state: Any, params: Any) -> dict[str, jax.Array]:
        """What agents know beside their view, [N, ...] each: "ready", how far each of their beams has recharged."""
        return {"ready": self.readiness(state, params)} if self.beams else {}

    def readiness(self, state: Any, params: Any) -> jax.Array:
        """float32 [N, B]: 1 where a beam fires when asked to; 0 for those who cannot act."""
        cooldowns = jnp.stack([jnp.asarray(self.cooldown(beam, params)) for beam in self.beams])
        return jnp.where(self.able(state)[:, None], readiness(state.timers, cooldowns), 0.0)

    def cooldown(self, beam: Beam, params: Any) -> jax.Array | int:
        """The parameter that says how long a kind of beam recharges."""
        return getattr(params, f"{beam.name}_cooldown")

    @property
    def view_limits(self) -> dict[str, int]:
        """The planes of a view, in order, with their highest values."""
        return self.plane_limits() | {"agent": views.OTHER + 3} | self.mark_limits()

    def seen(self, observation: dict[str, jax.Array], plane: str) -> jax.Array:
        """uint8 [..., height, width]: one plane of a view, by its name in `view_limits`."""
        return observation["view"][..., list(self.view_limits).index(plane)]

    def observation_space(self, params: Any = None) -> Dict:
        limits = list(self.view_limits.values())
        view = Box(0, np.array(limits), (*self.window.shape, len(limits)), np.uint8)
        return Dict({"view": view, **self.extra_spaces()})

    def observe(self, state: Any, params: Any) -> dict[str, jax.Array]:
        planes = jnp.stack([jnp.asarray(plane, jnp.uint8) for plane in self.planes(state).values()], axis=-1)
        marks = [jnp.asarray(mark, jnp.uint8) for mark in self.marks(state).values()]
        marks = jnp.stack(marks, axis=-1) if marks else jnp.zeros((self.num_agents, 0), jnp.uint8)
        present = state.timeout == 0
        view = views.egocentric(planes, marks, state.position, state.heading, present, self.window)
        return {"view": view, **self.extras(state, params)}

    def owners(self, state: Any) -> Plane:
        """uint8 [H, W]: 1 + the agent that owns a cell, which pictures frame in its colour; 0 for nobody."""
        return np.zeros(self.grid.shape, np.uint8)

    def frame(self, state: Any) -> str:
        """One state as text: the map, with an arrow for each agent in play, and a line per agent."""
        symbols = np.array([" ", *self.tiles.values()])
        picture = symbols[np.asarray(self.tile_plane(state))]
        agents = []
        for i, (row, column) in enumerate(np.asarray(state.position)):
            arrow, timeout = HEADING_MARKS[int(state.heading[i])], int(state.timeout[i])
            if timeout == 0:
                picture[row, column] = arrow
            where = f"out for {timeout}" if timeout else f"{arrow} at {row},{column}"
            frozen = f", frozen for {int(state.frozen[i])}" if self.freezes else ""
            agents.append(f"agent {i} {where}{frozen}, recharging {np.asarray(state.timers[i]).tolist()}")
        return "\n".join([f"step {int(state.time)}", *map("".join, picture), *agents])
