"""`GridWorld`: agents that move and fire beams on a map, and hooks for the rules of a substrate.

A step has the phases of Melting Pot (Leibo et al. 2021), in its order: agents move, beams fire, agents return from
their time-outs, then the substrate's own rules act. Its conventions hold too: actions are relative to the agent's
heading, views are turned so that ahead is up, and whoever is zapped is out for some steps, sees a blank view and comes
back at a random free spawn cell with a random heading.

To write a substrate, give a state that extends `GridState`, parameters that extend `GridParams`, a map, `legend`,
`tiles`, `beams`, and the hooks `begin`, `tile_plane` and `rules`; override others where its rules differ.

Deviations from Melting Pot: all beams of a step fire at once instead of one after another, so two agents can zap each
other; chance may end an episode from step `min_steps` + 100 on, one step later than there, and by default never does.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics, at_least, at_most
from marl_suite.envs.grid import spawning
from marl_suite.envs.grid.beams import Beam, Shot, agents_hit, drawn, pull_trigger, shoot
from marl_suite.envs.grid.board import Board
from marl_suite.envs.grid.cells import Plane, flat
from marl_suite.envs.grid.movement import BASE_ACTIONS, NOOP, move, turned
from marl_suite.envs.grid.state import Events, GridState

CHECK_EVERY = 100
"""Steps between two throws of the dice that may end an episode."""


@dataclasses.dataclass(frozen=True)
class GridWorld(Board):
    """A substrate without rules; see the module docstring.

    Attributes:
        num_agents: N.
        map: lines of symbols of the `legend`; the substrate's own map when empty.
        view_ahead: how many cells views reach ahead, and likewise
        view_behind: behind, and
        view_sides: to either side. The agent itself is at (view_ahead, view_sides) of its view.

    Raises:
        InputError: for a map that cannot be read, or with fewer spawn cells than agents.
    """

    mixed_motive: ClassVar[bool] = True
    times_out: ClassVar[bool] = True
    """Whether beams can take agents out of play; without beams nothing does."""

    # ------------------------------------------------------------------ what a substrate gives
    def begin(self, key: jax.Array, base: dict[str, jax.Array], params: Any) -> Any:
        """The first state, from the fields of `GridState`."""
        raise NotImplementedError

    def rules(self, key: jax.Array, state: Any, events: Events, params: Any) -> tuple[Any, jax.Array, Metrics]:
        """The substrate's phase, the last: state, reward float32 [N] and metrics."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what it may change
    def solid(self, state: Any) -> Plane:
        """bool [H, W]: cells that nobody can enter; the walls."""
        return self.grid.plane("#")

    def stops(self, beam: Beam, state: Any) -> Plane:
        """bool [H, W]: cells whose contents stop a kind of beam, beside agents; the solid ones."""
        return self.solid(state)

    def start_positions(self, key: jax.Array) -> jax.Array:
        """int32 [N, 2], distinct: random spawn cells."""
        everybody = jnp.ones(self.num_agents, bool)
        nothing = np.zeros(len(self.spawns), bool)
        return spawning.place(key, self.spawns, nothing, everybody, self.grid.shape)[0]

    @property
    def spawns(self) -> np.ndarray:
        """int32 [M]: flat cells to which agents return."""
        return self.grid.sites("P")

    def strike(self, state: Any, hits: dict[str, jax.Array], params: Any) -> Any:
        """The state after agents were hit, bool [N, N] by whom, first, and by the beam's name: "zap" times out."""
        if "zap" not in hits:
            return state
        return state.replace(timeout=jnp.where(hits["zap"].any(axis=0), params.zap_timeout, state.timeout))

    def state_features(self, state: Any, params: Any) -> list[jax.Array]:
        """Float arrays of any shape, which complete `global_state`."""
        return []

    def terminated(self, state: Any, params: Any) -> jax.Array:
        """Scalar bool: whether the game is over by its rules, not by the clock."""
        return jnp.zeros((), bool)

    # ------------------------------------------------------------------ episodes
    def check_params(self, params: Any) -> None:
        at_least(f"{self.name}: max_steps", params.max_steps, 1)
        at_least(f"{self.name}: min_steps", params.min_steps, 0)
        at_least(f"{self.name}: end_probability", params.end_probability, 0)
        at_most(f"{self.name}: end_probability", params.end_probability, 1)
        for name in [f"{beam.name}_cooldown" for beam in self.beams] + ["zap_timeout"]:
            at_least(f"{self.name}: {name}", getattr(params, name, 0), 0)

    def initial_state(self, key: jax.Array, params: Any) -> Any:
        place_key, heading_key, end_key, begin_key = jax.random.split(key, 4)
        base = GridState(
            position=self.start_positions(place_key),
            heading=spawning.random_headings(heading_key, self.num_agents),
            timers=jnp.zeros((self.num_agents, len(self.beams)), jnp.int32),
            timeout=jnp.zeros(self.num_agents, jnp.int32),
            frozen=jnp.zeros(self.num_agents, jnp.int32),
            beam=jnp.zeros(self.grid.shape, jnp.uint8),
            time=jnp.zeros((), jnp.int32),
            end=random_end(end_key, params.min_steps, params.end_probability),
        )
        return self.begin(
            begin_key, {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}, params
        )

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        return (state.time >= params.max_steps) | (state.time >= state.end)

    def transition(
        self, key: jax.Array, state: Any, actions: jax.Array, params: Any
    ) -> tuple[Any, jax.Array, jax.Array, Metrics]:
        move_key, place_key, heading_key, rules_key = jax.random.split(key, 4)
        actions = jnp.where(self.able(state), actions, NOOP)
        absent = state.timeout  # those hit in this step stay where they are until the next
        position, moved = move(move_key, state.position, state.heading, actions, absent == 0, self.solid(state))
        entered = jnp.where(moved, flat(position[:, 0], position[:, 1], self.grid.shape), -1)
        heading, frozen = turned(state.heading, actions), jnp.maximum(state.frozen - 1, 0)
        state = state.replace(position=position, heading=heading, frozen=frozen)
        shots, hits = {}, {}
        if self.beams:
            state, shots, hits = self._fire(state, actions, params)
        if self.beams and self.times_out:
            state = self._return(place_key, heading_key, state, absent)
        state = state.replace(time=state.time + 1)
        state, reward, metrics = self.rules(rules_key, state, Events(actions, entered, shots, hits), params)
        if "zap" in hits:
            zaps = hits["zap"].sum(axis=1, dtype=jnp.float32)
            metrics = metrics | {"zaps": zaps, "timed_out": (state.timeout > 0).astype(jnp.float32)}
        return state, reward, self.terminated(state, params), metrics

    def _fire(self, state: Any, actions: jax.Array, params: Any) -> tuple[Any, dict[str, Shot], dict[str, jax.Array]]:
        """All beams at once: the state, who shot where, and who hit whom."""
        present, shape = state.timeout == 0, self.grid.shape
        shots, hits, timers = {}, {}, []
        for i, beam in enumerate(self.beams):
            wants = actions == len(BASE_ACTIONS) + i
            fired, timer = pull_trigger(state.timers[:, i], wants, self.cooldown(beam, params))
            shot = shoot(beam, fired, state.position, state.heading, present, self.stops(beam, state))
            shots[beam.name], hits[beam.name] = shot, agents_hit(shot, state.position, present, shape)
            timers.append(timer)
        state = state.replace(timers=jnp.stack(timers, axis=-1), beam=drawn(list(shots.values()), shape))
        return self.strike(state, hits, params), shots, hits

    def _return(self, place_key: jax.Array, heading_key: jax.Array, state: Any, absent: jax.Array) -> Any:
        """Counts the time-outs `absent`, int32 [N], down; those at their end come back, if there is room."""
        taken = spawning.occupied(self.spawns, state.position, state.timeout == 0, self.grid.shape)
        position, placed = spawning.place(place_key, self.spawns, taken, absent == 1, self.grid.shape)
        waiting = jnp.where(placed, 0, jnp.maximum(absent - 1, 1))
        return state.replace(
            position=jnp.where(placed[:, None], position, state.position),
            heading=jnp.where(placed, spawning.random_headings(heading_key, self.num_agents), state.heading),
            timeout=jnp.where(absent > 0, waiting, state.timeout),
        )

    def global_state(self, state: Any, params: Any = None) -> jax.Array:
        """float32 [S]: per agent its place in 0 .. 1, its heading one-hot, 1 / (1 + time-out), 1 / (1 + steps frozen)
        where agents freeze, and readiness; the share of the clock that has passed; and the substrate's
        `state_features`. Beams that just fired are left out."""
        params = self.default_params if params is None else params
        extent = np.maximum(np.array(self.grid.shape) - 1, 1)
        parts = [
            state.position / extent,
            jax.nn.one_hot(state.heading, 4),
            1 / (1 + state.timeout),
            *([1 / (1 + state.frozen)] if self.freezes else []),
            *([self.readiness(state, params)] if self.beams else []),
            state.time / params.max_steps,
            *self.state_features(state, params),
        ]
        return jnp.concatenate([jnp.ravel(part).astype(jnp.float32) for part in parts])


def random_end(key: jax.Array, min_steps: jax.Array | int, probability: jax.Array | float) -> jax.Array:
    """int32 []: the step at which an episode ends that is stopped with `probability` every 100 steps after `min_steps`.

    Its mean is min_steps + 100 / probability. Without a chance to end it is the largest int32.
    """
    never = np.iinfo(np.int32).max
    draw = jax.random.uniform(key, minval=np.finfo(np.float32).tiny)
    intervals = 1 + jnp.floor(jnp.log(draw) / jnp.log1p(-jnp.asarray(probability, jnp.float32)))
    intervals = jnp.minimum(intervals, 1e6).astype(jnp.int32)
    return jnp.where(jnp.asarray(probability) > 0, min_steps + CHECK_EVERY * intervals, never)
