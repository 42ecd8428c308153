"""Views against cutting and turning the whole map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs.grid.views import Window, egocentric

SHAPE = (7, 10)
WINDOWS = [Window(9, 1, 5), Window(3, 1, 2), Window(2, 0, 1), Window(1, 4, 3), Window(0, 0, 0)]


def reference(planes, marks, position, heading, present, window):
    """Draws each viewer's world on a wide canvas, turns it until the viewer looks north, and cuts."""
    margin = 12
    views = []
    for viewer in range(len(position)):
        depth = planes.shape[-1] + 1 + marks.shape[1]
        world = np.zeros((*SHAPE, depth), np.uint8)
        world[..., : planes.shape[-1]] = planes
        for i in np.flatnonzero(present):
            code = 1 if i == viewer else 2 + (heading[i] - heading[viewer]) % 4
            world[tuple(position[i])][planes.shape[-1] :] = [code, *marks[i]]
        canvas = np.zeros((SHAPE[0] + 2 * margin, SHAPE[1] + 2 * margin, depth), np.uint8)
        canvas[margin:-margin, margin:-margin] = world
        row, column = position[viewer] + margin
        around = canvas[row - 10 : row + 11, column - 10 : column + 11]  # the viewer in the middle, at (10, 10)
        around = np.rot90(around, heading[viewer])  # counter-clockwise: east becomes up after one turn
        rows = slice(10 - window.ahead, 11 + window.behind)
        view = around[rows, 10 - window.sides : 11 + window.sides]
        views.append(view * present[viewer])
    return np.stack(views)


def random_world(seed, num_agents=5, num_planes=2, num_marks=0):
    rng = np.random.default_rng(seed)
    cells = rng.choice(SHAPE[0] * SHAPE[1], num_agents, replace=False)
    return (
        rng.integers(1, 9, (*SHAPE, num_planes)).astype(np.uint8),
        rng.integers(1, 9, (num_agents, num_marks)).astype(np.uint8),
        np.stack(np.divmod(cells, SHAPE[1]), axis=-1).astype(np.int32),
        rng.integers(0, 4, num_agents),
        rng.random(num_agents) < 0.8,
    )


@pytest.mark.parametrize("window", WINDOWS)
def test_views_are_the_world_turned_and_cut(window):
    worlds = [random_world(seed, num_marks=1) for seed in range(60)]
    batch = [jnp.asarray(np.stack(parts)) for parts in zip(*worlds, strict=True)]
    seen = jax.jit(jax.vmap(lambda *world: egocentric(*world, window=window)))(*batch)
    assert seen.dtype == np.uint8 and seen.shape[2:4] == window.shape
    np.testing.assert_array_equal(seen, np.stack([reference(*world, window) for world in worlds]))


@pytest.mark.parametrize("window", [WINDOWS[0], WINDOWS[3]])
def test_turning_the_whole_world_by_a_quarter_changes_no_view(window):
    see = jax.jit(lambda *world: egocentric(*world, window=window))
    for seed in range(10):
        planes, marks, position, heading, present = random_world(seed, num_marks=1)
        to_the_right = np.stack([position[:, 1], SHAPE[0] - 1 - position[:, 0]], axis=-1)
        turned = np.rot90(planes, -1), marks, to_the_right, (heading + 1) % 4, present
        before, after = see(planes, marks, position, heading, present), see(*turned)
        np.testing.assert_array_equal(after, before)


def test_the_default_window_is_eleven_by_eleven_with_oneself_at_row_nine():
    assert WINDOWS[0].shape == (11, 11) and WINDOWS[0].home == (9, 5)
    assert WINDOWS[1].shape == (5, 5) and WINDOWS[1].home == (3, 2)


@pytest.mark.parametrize("heading", range(4))
def test_one_agent_ahead_that_looks_to_the_right(heading):
    ahead = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])[heading]
    position = np.array([[3, 4], [3, 4] + 2 * ahead])
    view = egocentric(
        jnp.ones((*SHAPE, 1), jnp.uint8),
        jnp.zeros((2, 0), jnp.uint8),
        jnp.asarray(position),
        jnp.array([heading, (heading + 1) % 4]),
        jnp.ones(2, bool),
        Window(3, 1, 2),
    )[0]
    assert view[3, 2].tolist() == [1, 1] and view[1, 2].tolist() == [1, 3]
    assert int((view[..., 1] > 0).sum()) == 2


def test_beyond_the_map_all_is_zero_and_those_out_see_nothing_and_are_not_seen():
    planes, marks, _, heading, _ = map(jnp.asarray, random_world(0, num_agents=2))
    position = jnp.array([[0, 0], [0, 1]])
    both = egocentric(planes, marks, position, heading * 0, jnp.ones(2, bool), Window(3, 1, 2))
    assert not both[0, :3].any() and not both[0, :, :2].any() and both[0, 3, 2:, 0].all()
    one = egocentric(planes, marks, position, heading * 0, jnp.array([True, False]), Window(3, 1, 2))
    assert not one[1].any() and int((one[0][..., 2] > 0).sum()) == 1
