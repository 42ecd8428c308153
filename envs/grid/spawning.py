"""Where agents appear: at the start of an episode, and after a time-out."""

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import any_in_batch
from marl_suite.envs.grid.cells import flat

MANY = 100
"""With more cells than this, agents try a few instead of drawing for each cell."""
TRIES = 4


def occupied(spawns: np.ndarray, position: jax.Array, present: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """bool [M]: which of the flat cells `spawns`, int32 [M], an agent stands on."""
    places = jnp.where(present, flat(position[:, 0], position[:, 1], shape), -1)
    return jnp.any(places[:, None] == spawns, axis=0)


def place(
    key: jax.Array, spawns: np.ndarray, taken: jax.Array | np.ndarray, waiting: jax.Array, shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Distinct, uniformly random free cells for those who wait.

    When there are fewer free cells than agents that wait, those with the lowest indices get one.

    Args:
        key: used up.
        spawns: int32 [M], flat cells.
        taken: bool [M], which of them are not free.
        waiting: bool [N].
        shape: (H, W).

    Returns:
        position int32 [N, 2], any where nothing was found, and placed, bool [N].
    """
    if len(spawns) > MANY:
        return _place_by_trial(key, spawns, taken, waiting, shape)
    return _place_by_priority(key, spawns, taken, waiting, shape)


def _place_by_trial(
    key: jax.Array, spawns: np.ndarray, taken: jax.Array | np.ndarray, waiting: jax.Array, shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """`place` with a few tries for each agent, of which the first free cell counts: among many cells, one is free.

    Where an agent finds none or two find the same, all are placed anew. As tries prefer no cell, that does not matter
    for the distribution.
    """
    try_key, again_key = jax.random.split(key)
    tries = (jax.random.bits(try_key, (TRIES, len(waiting))) % len(spawns)).astype(jnp.int32)
    free = ~jnp.asarray(taken).at[tries].get(mode="promise_in_bounds")
    site = tries[0]
    for i in range(1, TRIES):
        site = jnp.where(free[:i].any(axis=0), site, tries[i])
    same = (site[:, None] == site) & waiting[:, None] & waiting & ~np.eye(len(waiting), dtype=bool)
    failed = jnp.any(waiting & ~free.any(axis=0)) | same.any()
    cells = jnp.where(waiting, jnp.asarray(spawns).at[site].get(mode="promise_in_bounds"), -1)
    found = jnp.stack(jnp.divmod(cells, shape[1]), axis=-1), waiting

    def anew(found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        again = _place_by_priority(again_key, spawns, taken, waiting, shape)
        return jax.tree.map(lambda new, old: jnp.where(failed, new, old), again, found)

    return jax.lax.cond(any_in_batch(failed), anew, lambda found: found, found)


def _place_by_priority(
    key: jax.Array, spawns: np.ndarray, taken: jax.Array | np.ndarray, waiting: jax.Array, shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """`place` in the order of one draw per cell."""
    priority = jnp.where(taken, -1.0, jax.random.uniform(key, spawns.shape))

    # On CPUs a loop over agents takes a quarter of the time that ranking all cells takes.
    def give(agent: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The cell of highest priority to `agent`, if it waits."""
        priority, cells = carry
        highest = priority.max()
        best = (priority == highest) & (highest >= 0) & waiting[agent]
        cell = jnp.max(jnp.where(best, spawns, -1))
        return jnp.where(best, -1.0, priority), cells.at[agent].set(cell)

    nowhere = jnp.full(waiting.shape, -1, jnp.int32)
    _, cells = jax.lax.fori_loop(0, len(waiting), give, (priority, nowhere))
    return jnp.stack(jnp.divmod(cells, shape[1]), axis=-1), cells >= 0


def random_headings(key: jax.Array, num_agents: int) -> jax.Array:
    """int32 [N], uniform over the four."""
    return (jax.random.bits(key, (num_agents,)) % 4).astype(jnp.int32)
