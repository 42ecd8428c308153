"""How many neighbours live: what density-dependent growth asks for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Offsets = tuple[tuple[int, int], ...]


@functools.lru_cache
def disc(radius: float) -> Offsets:
    """The (row, column) offsets with 0 < row^2 + column^2 <= radius^2: 12 of them for radius 2."""
    reach = range(-int(radius), int(radius) + 1)
    return tuple((i, j) for i in reach for j in reach if 0 < i * i + j * j <= radius * radius)


def count_neighbours(plane: jax.Array, offsets: Offsets) -> jax.Array:
    """int32 [H, W]: at how many of `offsets` from each cell `plane`, bool [H, W], is set; none beyond the map."""
    height, width = plane.shape
    reach = max(max(abs(i), abs(j)) for i, j in offsets)
    padded = jnp.pad(plane.astype(jnp.int32), reach)
    shifted = [padded[reach + i : reach + i + height, reach + j : reach + j + width] for i, j in offsets]
    return functools.reduce(jnp.add, shifted)


def adjacency(sites: np.ndarray, shape: tuple[int, int], offsets: Offsets) -> np.ndarray:
    """float32 [S, S]: 1 where the second site lies at one of `offsets` from the first.

    `alive @ adjacency(...)` for alive float32 [S] counts as `count_neighbours` does, but at the sites only: where sites
    are few this is one small matrix product, some twenty times faster than shifting whole planes. The counts are small
    whole numbers, which every matrix unit computes exactly.

    Args:
        sites: int32 [S], flat cells.
        shape: (H, W).
        offsets: symmetric, with each (i, j) also (-i, -j).
    """
    rows, columns = np.divmod(sites, shape[1])
    apart = np.stack([rows[:, None] - rows, columns[:, None] - columns], axis=-1)
    return np.any([np.all(apart == offset, axis=-1) for offset in offsets], axis=0).astype(np.float32)
