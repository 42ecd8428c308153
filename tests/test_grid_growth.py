"""Rare draws: the rate of every site, independence between sites, and both ways of drawing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs.grid.growth import geometric, num_gaps, rare_draws

SITES = 50


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw(count, sites, usual, most):
    """float32 [count, sites]."""
    keys = jax.random.split(jax.random.key(1), count)
    return jax.vmap(lambda key: rare_draws(key, sites, most, usual))(keys)


def near(frequency, probability, count):
    """Whether frequencies lie within their 99.99 % intervals, 3.9 standard deviations."""
    return np.all(abs(frequency - probability) < 3.9 * np.sqrt(probability * (1 - probability) / count))


@pytest.mark.parametrize("most", [0.004, 0.02, 0.5])  # gaps alone; gaps and plain draws; nearly only plain draws
def test_every_site_and_every_pair_of_sites_has_its_rate(most):
    count = 100_000
    draws = np.asarray(draw(count, SITES, 0.2, most))
    yes = (draws < most).astype(np.float32)
    assert np.all((draws < most) | (draws == 1))
    assert near(yes.mean(axis=0), most, count) and near(yes.mean(), most, count * SITES)
    both = yes.T @ yes / count
    for apart in (1, 2, 5, 20, 49):
        pairs = np.diagonal(both, apart)
        assert near(pairs.mean(), most**2, count * len(pairs))
    together = yes.sum(axis=1)  # binomial
    for number in range(3):
        chance = (1 - most) ** (SITES - number) * most**number * [1, SITES, SITES * (SITES - 1) / 2][number]
        assert near((together == number).mean(), chance, count)


def test_values_below_the_bound_are_uniform_and_so_serve_every_smaller_probability():
    count, most = 100_000, 0.02
    draws = np.asarray(draw(count, SITES, 0.2, most))
    for share in (0.1, 0.3, 0.7, 1):
        assert near((draws < share * most).mean(), share * most, count * SITES)
    smaller = most * np.linspace(0, 1, SITES)  # another probability for each site
    frequency = (draws < smaller).mean(axis=0)
    assert near(frequency[1:], smaller[1:], count) and frequency[0] == 0


def test_certain_and_impossible_things():
    assert np.all(np.asarray(draw(100, SITES, 0.2, 1.0)) < 1)
    assert np.all(np.asarray(draw(100, SITES, 0.2, 0.0)) == 1)


def test_draws_do_not_depend_on_what_else_is_in_the_batch():
    keys = jax.random.split(jax.random.key(3), 200)
    most = jnp.linspace(0, 1, 200)
    together = jax.jit(jax.vmap(lambda key, most: rare_draws(key, SITES, most, 0.2)))(keys, most)
    alone = jax.jit(lambda key, most: rare_draws(key, SITES, most, 0.2))
    for i in (0, 1, 5, 60, 199):
        np.testing.assert_array_equal(together[i], alone(keys[i], most[i]))


@pytest.mark.parametrize("probability", [5e-6, 8e-5, 0.0005, 0.3, 1.0])
def test_gaps_are_geometric_to_a_tenth_of_a_percent(probability):
    gaps = jax.jit(lambda bits: geometric(bits, jnp.float32(probability), 538))

    def share(most):
        """The share of the 2^32 possible bits that give at most `most`, by bisection."""
        low, high = -1, 2**32 - 1
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if gaps(jnp.uint32(middle)) <= most else (low, middle)
        return (low + 1) / 2**32

    for most in (0, 1, 40, 537):
        expected = -np.expm1((most + 1) * np.log1p(-probability)) if probability < 1 else 1
        assert share(most) == pytest.approx(expected, rel=0.001)
    single = share(300) - share(299)  # one late site alone
    if probability < 0.01:
        assert single == pytest.approx(probability * (1 - probability) ** 300, rel=0.01)


@pytest.mark.parametrize("usual", [0.05, 0.15, 1.0, 5.0])
def test_there_are_as_many_gaps_as_the_usual_rate_needs(usual):
    events = np.random.default_rng(0).poisson(usual, 10_000_000)
    count = num_gaps(usual, 538)
    assert (events >= count).sum() <= 30 and (events >= count - 1).sum() >= 3
    assert num_gaps(1e6, 538) == 538
