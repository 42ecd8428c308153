"""Cells, headings and directions.

Positions are int32 (row, column) with row 0 at the north and column 0 at the west. A flat cell number is
row * W + column, and H * W stands for everywhere beyond the map. Headings are 0 north, 1 east, 2 south, 3 west.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

NORTH, EAST, SOUTH, WEST = range(4)
HEADING_MARKS = "^>v<"

Plane: TypeAlias = jax.Array | np.ndarray
"""One value per cell, [H, W]: a constant of the map or a part of the state."""


def extent(plane: Plane) -> tuple[int, int]:
    """(H, W) of a plane."""
    height, width = plane.shape
    return height, width


def ahead_of(heading: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The change of (row, column) that one cell ahead is, int32 and of `heading`'s shape each."""
    rows = (heading == SOUTH).astype(jnp.int32) - (heading == NORTH)
    columns = (heading == EAST).astype(jnp.int32) - (heading == WEST)
    return rows, columns


def seen_from(
    position: jax.Array, heading: jax.Array, forward: Plane | jax.Array, right: Plane | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where on the map the cells are that lie `forward` ahead of and `right` beside agents.

    Args:
        position: int32 [N, 2].
        heading: int32 [N].
        forward: int32 [K], negative for behind.
        right: int32 [K], negative for left.

    Returns:
        rows and columns, int32 [N, K] each.
    """
    rows, columns = (part[:, None] for part in ahead_of(heading))
    return position[:, :1] + forward * rows + right * columns, position[:, 1:] + forward * columns - right * rows


def flat(rows: jax.Array, columns: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Flat cell numbers of `rows` and `columns`; H * W beyond a map of `shape`."""
    height, width = shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return jnp.where(inside, rows * width + columns, height * width)


def look_up(plane: Plane, cells: jax.Array | np.ndarray, beyond: bool | int) -> jax.Array:
    """The values of `plane` [H, W] at flat `cells`, and `beyond` for those beyond the map."""
    values = jnp.ravel(jnp.asarray(plane))
    values = jnp.append(values, jnp.asarray(beyond, values.dtype))
    return values.at[cells].get(mode="promise_in_bounds")


def spread(values: jax.Array, numbers: np.ndarray, elsewhere: bool | int = False) -> jax.Array:
    """[H, W]: the values, [S], of sites, at their cells, which `numbers` gives as `Grid.numbered` does."""
    return jnp.append(values, jnp.asarray(elsewhere, values.dtype)).at[numbers].get(mode="promise_in_bounds")


def random_order(key: jax.Array, count: int) -> jax.Array:
    """int32 [count]: the turn of each of `count` things in a uniformly random order."""
    draws = jax.random.uniform(key, (count,))
    first_of_equals = np.tri(count, k=-1, dtype=bool)  # equal draws: the lower index goes first
    before = (draws < draws[:, None]) | ((draws == draws[:, None]) & first_of_equals)
    return before.sum(axis=1, dtype=jnp.int32)
