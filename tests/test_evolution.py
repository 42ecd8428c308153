"""Cultural evolution: who survives and who is copied, known answers in the donor game, and the evolution of giving."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError
from marl_suite.envs.commons.donor_game import RECORD, DonorGame, act_by_image
from marl_suite.envs.commons.donor_game_values import mean_final_wealth
from marl_suite.evolution import evolve, redraw, succeed

SEEDS, POPULATIONS, N, GENERATIONS = 5, 16, 12, 80


@functools.cache
def program():
    """(strategies [E, N, 3], key, mutation rate, whether reputations are seen) -> 80 generations of 80 populations."""
    env = DonorGame()

    def run(population, key, rate, seen):
        def policy(strategy, observation, key):  # as with reputation=False, without another compilation
            return act_by_image(strategy, jnp.where((jnp.arange(RECORD + 6) < 3) | seen, observation, 0), key)

        return evolve(env, env.default_params, policy, population, key, GENERATIONS, redraw(5, rate))

    return jax.jit(run)


def history(population, seen=True, rate=0.0, seed=0):
    """The history of populations that all begin with the levels `population` [N, 3]."""
    start = jnp.broadcast_to(jnp.asarray(population, jnp.int32), (SEEDS * POPULATIONS, N, 3))
    return jax.tree.map(np.asarray, program()(start, jax.random.key(seed), rate, seen))


def by_seed(x):
    """[G, E] as [5, G, 16]: groups of populations that share nothing but the numbers of the game."""
    return np.moveaxis(x.reshape(len(x), SEEDS, POPULATIONS), 1, 0)


# ---------------------------------------------------------------------- succession
@functools.cache
def successions():
    """fitness [8] -> 400 successions of eight agents, four of whom survive: names 0 .. 7, copies' names 100 higher."""
    strategies = {"name": jnp.arange(8), "table": jnp.arange(16).reshape(8, 2)}

    def mutate(key, strategies):
        return {"name": strategies["name"] + 100, "table": strategies["table"]}

    keys = jax.random.split(jax.random.key(0), 400)
    return jax.jit(lambda fitness: jax.vmap(lambda key: succeed(key, strategies, fitness, 4, mutate))(keys))


def test_the_richest_survive_as_they_are_and_newcomers_are_mutated_copies_of_survivors():
    following = successions()(jnp.asarray([3.0, 8.0, 1.0, 7.0, 5.0, 2.0, 6.0, 4.0]))
    names = np.asarray(following["name"])
    assert (names[:, :4] == [1, 3, 6, 4]).all()
    counts = np.bincount(names[:, 4:].ravel(), minlength=108)[100:]  # 1600 draws from four survivors
    assert counts.sum() == 1600 and set(np.flatnonzero(counts)) == {1, 3, 4, 6}
    assert abs(counts[[1, 3, 4, 6]] - 400).max() < 70  # four standard errors
    np.testing.assert_array_equal(following["table"][..., 1], 2 * (names % 100) + 1)


def test_ties_are_broken_at_random():
    names = np.asarray(successions()(jnp.ones(8))["name"])
    assert abs(np.bincount(names[:, :4].ravel(), minlength=8) - 200).max() < 40


def test_redraw_changes_as_many_numbers_as_its_rate_says():
    before = jnp.full(8000, 9)
    assert (redraw(4, 0.0)(jax.random.key(0), before) == 9).all()
    values = np.asarray(redraw(4, 0.25)(jax.random.key(0), before))
    counts = np.bincount(values, minlength=10) / 8000
    np.testing.assert_allclose(counts, [1 / 16] * 4 + [0] * 5 + [3 / 4], atol=0.02)


# ---------------------------------------------------------------------- generations
def test_equal_givers_have_the_known_wealth_in_every_generation():
    """Half of wealth each time: 393.90625 in every generation, whoever survives."""
    told = history(np.full((N, 3), 2))
    np.testing.assert_allclose(told.metrics["donation"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(told.metrics["final_wealth"], mean_final_wealth(0.5), rtol=1e-6)
    np.testing.assert_allclose(told.returns.mean(2) + 10, mean_final_wealth(0.5), rtol=1e-5)
    assert (told.strategies == 2).all()


def test_the_next_generation_holds_the_richer_half_and_its_copies():
    start = np.stack([np.full(N, 1), np.full(N, 2), np.arange(N)], axis=1)  # the last number is a name, never played
    told = history(start, seen=False)
    names = told.strategies[..., 2]
    for g in range(3):
        order = np.argsort(-told.returns[g], axis=1)
        rich = np.take_along_axis(names[g], order[:, :6], 1)
        values = np.take_along_axis(told.returns[g], order, 1)
        clear = values[:, 5] > values[:, 6]  # no tie at the border
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(np.sort(names[g + 1][clear, :6]), np.sort(rich[clear]))
        assert all(set(new) <= set(old) for new, old in zip(names[g + 1][clear, 6:], rich[clear], strict=True))
    assert (np.ptp(names[-1], axis=1) == 0).mean() > 0.9  # without mutation one ancestor is left


def test_image_scorers_outlive_a_free_rider_and_those_who_give_to_all_do_not():
    """One of twelve agents never gives; among the others, who give half, it is left to starve or fed."""
    mutant = np.zeros((1, 3), int)
    scorers = history(np.concatenate([np.tile([0, 2, 2], (N - 1, 1)), mutant]))
    assert (scorers.returns[0, :, -1] <= 20).all() and scorers.metrics["donation"][10:].min() > 0.45
    givers = history(np.concatenate([np.full((N - 1, 3), 2), mutant]))
    assert givers.returns[0, :, -1].mean() > 200 and np.median(givers.metrics["donation"][-1]) == 0


# ---------------------------------------------------------------------- what evolves
def test_giving_evolves_from_free_riders_where_images_are_known_and_does_not_where_they_are_not():
    """All begin as free riders and newcomers redraw one level in five. Share of wealth given in the last 20 of 80
    generations, in five groups of sixteen populations, with and without reputation, all else equal."""
    known, unknown = (by_seed(history(np.zeros((N, 3)), seen, 0.2).metrics["donation"]) for seen in (True, False))
    assert (known[:, 0] == 0).all() and (unknown[:, 0] == 0).all()
    early, late = known[:, :10].mean((1, 2)), known[:, -20:].mean((1, 2))
    assert (late > 0.2).all() and (late > 2 * early).all()
    assert (unknown[:, -20:].mean((1, 2)) < 0.08).all()


def test_what_does_not_make_sense_is_refused_in_one_line():
    env, population = DonorGame(), jnp.zeros((2, 12, 3), jnp.int32)

    def start(population=population, generations=1, selection=0.5):
        return evolve(
            env, env.default_params, act_by_image, population, jax.random.key(0), generations, redraw(5, 0.1), selection
        )

    with pytest.raises(InputError, match="generations must be at least 1, got 0"):
        start(generations=0)
    for selection in (0.0, 1.5):
        with pytest.raises(
            InputError, match=f"selection must lie above 0 and not above 1, such as 0.5, got {selection}"
        ):
            start(selection=selection)
    with pytest.raises(AssertionError):
        start(population=jnp.zeros((2, 11, 3), jnp.int32))
