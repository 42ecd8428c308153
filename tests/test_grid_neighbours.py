"""Counting live neighbours, against a plain loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs.grid.neighbours import adjacency, count_neighbours, disc


def counted(plane, radius):
    """The number of set cells within `radius` of each cell, itself left out."""
    height, width = plane.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    near = lambda a, b: 0 < (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= radius**2  # noqa: E731
    return np.array([sum(plane[b] for b in cells if near(a, b)) for a in cells]).reshape(height, width)


def test_discs_have_the_sizes_of_gauss_circle_problem():
    assert [len(disc(radius)) for radius in (1, 2, 3, 1.5)] == [4, 12, 28, 8]


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_shifted_sums_and_the_matrix_of_sites_count_as_a_loop_does(radius):
    rng = np.random.default_rng(radius)
    plane = rng.random((6, 9)) < 0.4
    expected = counted(plane, radius)
    np.testing.assert_array_equal(count_neighbours(jnp.asarray(plane), disc(radius)), expected)
    sites = np.flatnonzero(rng.random(54) < 0.5)
    on_sites = np.zeros(54, bool)
    on_sites[sites] = plane.ravel()[sites]
    alive = plane.ravel()[sites].astype(np.float32)
    np.testing.assert_array_equal(
        alive @ adjacency(sites, (6, 9), disc(radius)), counted(on_sites.reshape(6, 9), radius).ravel()[sites]
    )
