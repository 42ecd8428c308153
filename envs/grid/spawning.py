"""Where agents appear: at the start of an episode, and after a time-out."""

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.grid.cells import flat


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
