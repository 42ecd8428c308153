"""Finding ways in a view: what scripted players, who know nothing but their own observation, are made of."""

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.grid.movement import BACKWARD, FORWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT
from marl_suite.envs.grid.views import Window

_STEPS = np.array([FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT], np.int32)


def distances(goals: jax.Array, passable: jax.Array) -> jax.Array:
    """int32 [h, w]: steps from each cell to the nearest of `goals`, bool [h, w], over `passable` cells, bool [h, w].

    Height times width where no way of at most height plus width steps is known.
    """
    height, width = goals.shape
    far = height * width

    def flood(_: int, steps: jax.Array) -> jax.Array:
        around = jnp.pad(steps, 1, constant_values=far)
        sides = jnp.minimum(around[1:-1, :-2], around[1:-1, 2:])
        nearest = jnp.minimum(jnp.minimum(around[:-2, 1:-1], around[2:, 1:-1]), sides)
        return jnp.where(goals, 0, jnp.where(passable, jnp.minimum(nearest + 1, far), far))

    return jax.lax.fori_loop(0, height + width, flood, jnp.where(goals, 0, far))


def walk(key: jax.Array, window: Window, goals: jax.Array, passable: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first step, int32 [], of a shortest way to a goal, ties broken uniformly, and whether there is a way."""
    far = goals.size
    around = jnp.pad(distances(goals, passable), 1, constant_values=far)
    row, column = window.home[0] + 1, window.home[1] + 1
    steps = jnp.stack(
        [around[row - 1, column], around[row + 1, column], around[row, column - 1], around[row, column + 1]]
    )
    best = jnp.argmin(steps + jax.random.uniform(key, (4,)))
    return jnp.asarray(_STEPS)[best], steps.min() < far


def explore(key: jax.Array, window: Window, passable: jax.Array, straight: float = 0.9) -> jax.Array:
    """int32 []: ahead with probability `straight` while the way is clear, else a turn to a random side."""
    row, column = window.home
    clear = passable[row - 1, column] if row > 0 else jnp.zeros((), bool)
    go, side = jax.random.uniform(key, (2,))
    turn = jnp.where(side < 0.5, TURN_LEFT, TURN_RIGHT)
    return jnp.where(clear & (go < straight), FORWARD, turn).astype(jnp.int32)


def any_at(plane: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Scalar bool: whether `plane`, bool [h, w], is set at one of the cells that lie in it."""
    height, width = plane.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return jnp.any(plane[rows[inside], columns[inside]])


def aims(targets: jax.Array, stops: jax.Array, length: int) -> jax.Array:
    """bool [h, w]: the cells from which a straight beam of some `length` reaches one of `targets`, bool [h, w].

    It flies ahead, as the viewer looks, and ends at the first cell that `stops`, bool [h, w], it; what is beyond it is
    not reached.
    """
    nothing = jnp.zeros_like(targets[:1])
    reached, behind = jnp.zeros_like(targets), targets
    for _ in range(length):
        behind = jnp.concatenate([nothing, behind[:-1]])
        reached = reached | behind
        behind = behind & ~stops
    return reached
