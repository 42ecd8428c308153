"""Steps and turns on hand-drawn situations, and their fairness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs.grid.cells import EAST, NORTH, SOUTH, WEST, random_order
from marl_suite.envs.grid.movement import (
    BACKWARD,
    FORWARD,
    NOOP,
    STEP_LEFT,
    STEP_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    aimed_at,
    move,
    turned,
)

DRAWS = 10_000
SOLID = np.zeros((4, 5), bool)
SOLID[3] = True  # the last row is wall


@jax.jit
def moves(position, heading, actions, present):
    """`DRAWS` times the same step: positions [D, N, 2] and moved [D, N]."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.vmap(move, (0, None, None, None, None, None))(keys, position, heading, actions, present, SOLID)


def step(position, heading, actions, present=None):
    position = np.asarray(position, np.int32)
    present = np.ones(len(position), bool) if present is None else np.asarray(present)
    arrays = (np.asarray(heading, np.int32), np.asarray(actions, np.int32), present)
    return map(np.asarray, moves(position, *arrays))


def share(event, expected, spread=4):
    """Whether the frequency of `event` [D] agrees with a probability, within `spread` standard errors."""
    return abs(event.mean() - expected) < spread * np.sqrt(expected * (1 - expected) / len(event))


def test_steps_are_relative_to_the_heading():
    expected = {  # heading: where forward, right, backward and left lead from (1, 1)
        NORTH: [(0, 1), (1, 2), (2, 1), (1, 0)],
        EAST: [(1, 2), (2, 1), (1, 0), (0, 1)],
        SOUTH: [(2, 1), (1, 0), (0, 1), (1, 2)],
        WEST: [(1, 0), (0, 1), (1, 2), (2, 1)],
    }
    for heading, cells in expected.items():
        actions = jnp.array([FORWARD, STEP_RIGHT, BACKWARD, STEP_LEFT])
        aim = aimed_at(jnp.ones((4, 2), jnp.int32), jnp.full(4, heading), actions)
        assert [tuple(cell) for cell in aim.tolist()] == cells


def test_turns_change_the_heading_only():
    heading = jnp.arange(4)
    assert turned(heading, jnp.full(4, TURN_RIGHT)).tolist() == [1, 2, 3, 0]
    assert turned(heading, jnp.full(4, TURN_LEFT)).tolist() == [3, 0, 1, 2]
    for action in (NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, 7, 8):
        assert turned(heading, jnp.full(4, action)).tolist() == [0, 1, 2, 3]
    for action in (NOOP, TURN_LEFT, TURN_RIGHT, 7, 8):
        assert aimed_at(jnp.zeros((4, 2), jnp.int32), heading, jnp.full(4, action)).tolist() == [[0, 0]] * 4


def test_walls_and_the_border_stop():
    position, moved = step([(0, 2), (2, 0), (2, 4)], [NORTH, SOUTH, EAST], [FORWARD] * 3)
    assert not moved.any() and np.all(position == [(0, 2), (2, 0), (2, 4)])
    position, moved = step([(1, 0), (1, 4), (0, 0)], [WEST, NORTH, WEST], [FORWARD, STEP_RIGHT, STEP_RIGHT])
    assert not moved.any()


def test_of_three_contenders_for_a_cell_each_wins_a_third():
    position, moved = step([(1, 0), (1, 2), (0, 1)], [EAST, WEST, SOUTH], [FORWARD] * 3)
    assert np.all(moved.sum(axis=1) == 1)
    assert np.all(position[moved] == (1, 1))
    assert all(share(moved[:, i], 1 / 3) for i in range(3))


def test_two_agents_never_swap():
    _, moved = step([(1, 1), (1, 2), (2, 4)], [EAST, WEST, NORTH], [FORWARD, FORWARD, NOOP])
    assert not moved.any()


def test_a_stayer_is_never_displaced():
    position, moved = step([(1, 1), (1, 2), (1, 3)], [EAST, NORTH, WEST], [FORWARD, NOOP, FORWARD])
    assert not moved.any() and np.all(position[:, 1] == (1, 2))


def test_a_follower_enters_only_if_its_leader_went_first():
    _, moved = step([(1, 1), (1, 2), (2, 4)], [EAST, EAST, NORTH], [FORWARD, FORWARD, NOOP])
    assert moved[:, 1].all() and share(moved[:, 0], 1 / 2)
    # A train of three moves as one in one of the six orders; the second car moves in half of them.
    _, moved = step([(1, 0), (1, 1), (1, 2)], [EAST] * 3, [FORWARD] * 3)
    assert moved[:, 2].all() and share(moved[:, 1], 1 / 2) and share(moved[:, 0], 1 / 6)


def test_a_ring_does_not_rotate():
    _, moved = step([(0, 0), (0, 1), (1, 1), (1, 0)], [EAST, SOUTH, WEST, NORTH], [FORWARD] * 4)
    assert not moved.any()


def test_those_who_are_out_neither_move_nor_block():
    position, moved = step([(1, 1), (1, 2), (2, 2)], [EAST, WEST, NORTH], [FORWARD] * 3, [True, False, False])
    assert np.all(moved == [True, False, False]) and np.all(position[:, 0] == (1, 2))


def test_the_order_is_uniform_over_permutations():
    keys = jax.random.split(jax.random.key(1), 12_000)
    orders = np.asarray(jax.vmap(lambda key: random_order(key, 3))(keys))
    assert np.all(np.sort(orders, axis=1) == np.arange(3))
    counts = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 20.5  # chi-squared with 5 degrees of freedom, p = .001


@pytest.mark.parametrize("seed", range(3))
def test_a_step_equals_pushing_one_by_one(seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        cells = rng.choice(15, 6, replace=False)
        position = np.stack(np.divmod(cells, 5), axis=-1).astype(np.int32)
        heading, actions = rng.integers(0, 4, 6), rng.integers(0, 7, 6)
        key = jax.random.key(int(rng.integers(1 << 30)))
        place, look, act = (jnp.asarray(part) for part in (position, heading, actions))
        after, moved = move(key, place, look, act, jnp.ones(6, bool), SOLID)
        expected = [tuple(cell) for cell in position.tolist()]
        offsets = {FORWARD: 0, STEP_RIGHT: 1, BACKWARD: 2, STEP_LEFT: 3}
        for i in np.argsort(random_order(key, 6)):
            if int(actions[i]) not in offsets:
                continue
            row, column = [(-1, 0), (0, 1), (1, 0), (0, -1)][(heading[i] + offsets[int(actions[i])]) % 4]
            goal = (expected[i][0] + row, expected[i][1] + column)
            if 0 <= goal[0] < 3 and 0 <= goal[1] < 5 and goal not in expected:
                expected[i] = goal
        assert [tuple(cell) for cell in after.tolist()] == expected
        assert moved.tolist() == [tuple(a) != b for a, b in zip(position.tolist(), expected, strict=True)]
