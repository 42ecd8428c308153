"""Start and return cells: distinct, free and uniform."""

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.grid.spawning import MANY, occupied, place, random_headings

SHAPE = (3, 4)
SPAWNS = np.array([1, 4, 6, 7, 11], np.int32)
DRAWS = 6_000


@jax.jit
def places(taken, waiting):
    """`DRAWS` placings: flat cells [D, N] and placed [D, N]."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    position, placed = jax.vmap(lambda key: place(key, SPAWNS, taken, waiting, SHAPE))(keys)
    return position[..., 0] * SHAPE[1] + position[..., 1], placed


@jax.jit
def places_among_many(taken, waiting):
    """The same on a map of more cells than are drawn for one by one."""
    keys = jax.random.split(jax.random.key(1), DRAWS)
    cells = np.arange(MANY + 20, dtype=np.int32) + 5
    position, placed = jax.vmap(lambda key: place(key, cells, taken, waiting, (16, 10)))(keys)
    return position[..., 0] * 10 + position[..., 1], placed


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


def test_among_many_cells_places_are_uniform_too_however_few_are_free():
    cells = np.arange(MANY + 20) + 5
    for free in (np.arange(MANY + 20) % 40 == 7, np.arange(MANY + 20) % 20 != 3):  # 3 and 114 of them
        found, placed = places_among_many(jnp.asarray(~free), jnp.array([True, False, True]))
        found, placed = np.asarray(found), np.asarray(placed)
        assert np.all(placed == [True, False, True]) and np.all(found[:, 0] != found[:, 2])
        assert np.isin(found[:, [0, 2]], cells[free]).all()
        for agent in (0, 2):
            counts = np.bincount(found[:, agent], minlength=cells[-1] + 1)[cells[free]]
            freedom = free.sum() - 1
            assert chi_squared(counts) < freedom + 3.3 * np.sqrt(2 * freedom) + 7  # above the quantile of .999
    pairs = np.unique(np.sort(found[:, [0, 2]], axis=1), axis=0)
    assert len(pairs) > 3_000  # of 6,441; one that depends on the other would have 114
    _, placed = places_among_many(jnp.asarray(np.arange(MANY + 20) > 0), jnp.array([True, True, True]))
    assert np.all(np.asarray(placed) == [True, False, False])


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
