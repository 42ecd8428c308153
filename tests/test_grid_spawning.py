"""Start and return cells: distinct, free and uniform."""

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.grid.spawning import occupied, place, random_headings

SHAPE = (3, 4)
SPAWNS = np.array([1, 4, 6, 7, 11], np.int32)
DRAWS = 6_000


@jax.jit
def places(taken, waiting):
    """`DRAWS` placings: flat cells [D, N] and placed [D, N]."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    position, placed = jax.vmap(lambda key: place(key, SPAWNS, taken, waiting, SHAPE))(keys)
    return position[..., 0] * SHAPE[1] + position[..., 1], placed


def draw(taken, waiting):
    return map(np.asarray, places(jnp.asarray(taken), jnp.asarray(waiting)))


def chi_squared(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()


def test_pairs_of_those_who_wait_are_uniform_over_distinct_free_cells():
    cells, placed = draw([False, True, False, False, False], [True, False, True])
    assert np.all(placed == [True, False, True])
    pairs, counts = np.unique(cells[:, [0, 2]], axis=0, return_counts=True)
    free = (1, 6, 7, 11)
    assert {tuple(pair) for pair in pairs.tolist()} == {(a, b) for a in free for b in free if a != b}
    assert chi_squared(counts) < 31.3  # 11 degrees of freedom, p = .001


def test_all_agents_get_distinct_cells_when_there_are_just_enough():
    cells, placed = draw([True, False, True, False, False], [True, True, True])
    assert placed.all() and np.all(np.sort(cells, axis=1) == [4, 7, 11])


def test_those_for_whom_there_is_no_room_wait():
    _, placed = draw([True, True, False, True, False], [True, True, True])
    assert np.all(placed == [True, True, False])
    _, placed = draw([True] * 5, [True, False, True])
    assert not placed.any()


def test_cells_are_taken_by_those_present_only():
    position = jnp.array([[1, 0], [2, 3], [0, 0]])
    taken = occupied(SPAWNS, position, jnp.array([True, False, True]), SHAPE)
    assert taken.tolist() == [False, True, False, False, False]


def test_headings_are_uniform_over_all_four():
    counts = np.bincount(np.asarray(random_headings(jax.random.key(3), 8_000)), minlength=4)
    assert len(counts) == 4 and chi_squared(counts) < 16.3  # 3 degrees of freedom, p = .001
