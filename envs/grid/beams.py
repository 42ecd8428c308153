"""Beams: which cells they cross, whom and what they hit, and how long they take to recharge.

A beam of length L and radius R has Melting Pot's shape (Leibo et al. 2021): a ray over the cells 1 .. L ahead and, for
r = 1 .. R on either side, a ray that begins beside the shooter and covers the L - r + 1 cells 0 .. L - r ahead, that is
L + sum_r 2 (L - r + 1) cells. Each ray ends at the first cell that stops it, which is hit as well; where the first cell
of a side ray stops it, the rays further out on that side are stopped too. Nothing passes the border of the map.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.grid.cells import Plane, extent, flat, look_up, seen_from


@dataclasses.dataclass(frozen=True)
class Beam:
    """A kind of beam; its action is called as it is, and its cooldown is the parameter `<name>_cooldown`."""

    name: str
    length: int
    radius: int
    stops_at_agents: bool = True


class Footprint(NamedTuple):
    """The K cells of a beam, seen from its shooter."""

    forward: np.ndarray  # int32 [K], cells ahead
    right: np.ndarray  # int32 [K], cells to the right, negative for left
    passes: np.ndarray  # bool [K, K], row k: the cells that the beam passes on its way to cell k


class Shot(NamedTuple):
    """What one kind of beam did in a step."""

    fired: jax.Array  # bool [N], who shot
    cells: jax.Array  # int32 [N, K], flat cells of the footprint, H * W beyond the map
    reached: jax.Array  # bool [N, K], which of them the beam hit


@functools.lru_cache
def footprint(length: int, radius: int) -> Footprint:
    """The shape of a beam."""
    before: dict[tuple[int, int], tuple[int, int] | None] = {}  # each cell, (ahead, right), and the one before it
    for ahead in range(1, length + 1):
        before[ahead, 0] = (ahead - 1, 0) if ahead > 1 else None
    for side in (-1, 1):
        for r in range(1, radius + 1):
            before[0, side * r] = (0, side * (r - 1)) if r > 1 else None
            before.update({(ahead, side * r): (ahead - 1, side * r) for ahead in range(1, length - r + 1)})
    cells = list(before)
    passes = np.zeros((len(cells), len(cells)), bool)
    for k, cell in enumerate(cells):
        on_the_way = before[cell]
        while on_the_way is not None:
            passes[k, cells.index(on_the_way)] = True
            on_the_way = before[on_the_way]
    forward, right = np.array(cells, np.int32).T
    return Footprint(forward, right, passes)


def shoot(
    beam: Beam, fired: jax.Array, position: jax.Array, heading: jax.Array, present: jax.Array, stops: Plane
) -> Shot:
    """Fires all beams of one kind at once.

    Args:
        beam: the kind.
        fired: bool [N], who shoots.
        position: int32 [N, 2].
        heading: int32 [N].
        present: bool [N], who can stop a beam.
        stops: bool [H, W], cells whose contents, other than agents, stop this beam.
    """
    seen, shape = footprint(beam.length, beam.radius), extent(stops)
    cells = flat(*seen_from(position, heading, seen.forward, seen.right), shape)
    stopped = look_up(stops, cells, beyond=True)
    if beam.stops_at_agents:
        stopped = stopped | _standing_on(cells, position, present, shape).any(axis=-1)
    reached = ~jnp.any(stopped[:, None, :] & seen.passes, axis=-1)
    return Shot(fired, cells, reached & (cells < stops.size) & fired[:, None])


def _standing_on(cells: jax.Array, position: jax.Array, present: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """bool [N, K, N]: who stands on which of `cells` [N, K]."""
    places = jnp.where(present, flat(position[:, 0], position[:, 1], shape), -1)
    return cells[:, :, None] == places


def agents_hit(shot: Shot, position: jax.Array, present: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """bool [N, N]: whom, second, each agent, first, hit."""
    return jnp.any(_standing_on(shot.cells, position, present, shape) & shot.reached[:, :, None], axis=1)


def cells_hit(shot: Shot, plane: Plane) -> jax.Array:
    """bool [N, K]: which cells of each agent's footprint were hit and hold a thing, bool [H, W]."""
    return shot.reached & look_up(plane, shot.cells, beyond=False)


def crossed(shot: Shot, shape: tuple[int, int]) -> jax.Array:
    """bool [H, W]: the cells that some beam hit."""
    beyond = shape[0] * shape[1]
    hit = jnp.ravel(jnp.where(shot.reached, shot.cells, beyond))
    return jnp.zeros(beyond, bool).at[hit].set(True, mode="drop").reshape(shape)


def drawn(shots: list[Shot], shape: tuple[int, int]) -> jax.Array:
    """uint8 [H, W]: 1 + the place in `shots` of the kind of beam that hit a cell, the last of several; 0 for none."""
    beyond = shape[0] * shape[1]
    hit = jnp.concatenate([jnp.ravel(jnp.where(shot.reached, shot.cells, beyond)) for shot in shots])
    kinds = np.repeat(np.arange(1, len(shots) + 1, dtype=np.uint8), [shot.cells.size for shot in shots])
    return jnp.zeros(beyond, jnp.uint8).at[hit].max(kinds, mode="drop").reshape(shape)


# ---------------------------------------------------------------------- recharging
def pull_trigger(timer: jax.Array, wants: jax.Array, cooldown: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Who of those that want to fire can, and the timers after that.

    A timer that is not at zero counts down instead of firing, as Melting Pot's do, so that a beam with cooldown c fires
    every c + 1 steps at most. (Where the count comes before the test, the period is c: ask for c - 1.)

    Args:
        timer: int32 [N], steps left.
        wants: bool [N].
        cooldown: [], whole steps.

    Returns:
        fired, bool [N], and the timers, int32 [N].
    """
    fired = wants & (timer == 0)
    return fired, jnp.where(fired, jnp.asarray(cooldown, jnp.int32), jnp.maximum(timer - 1, 0))


def readiness(timer: jax.Array, cooldown: jax.Array | int) -> jax.Array:
    """float32: 1 - timer / cooldown, which is 1 where the next trigger fires, and nowhere else."""
    remaining = timer / jnp.maximum(jnp.asarray(cooldown, jnp.float32), 1)
    return jnp.where(timer == 0, 1.0, jnp.maximum(1 - remaining, 0.0))  # exact at both ends, however it is rounded
