"""DiCE and Loaded DiCE against exact derivatives: every way that a short game can go, weighted by its chance."""

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import make
from marl_suite.games.repeated import finite_horizon_value, memory_one_from_logits
from marl_suite.learning.dice import (
    dice_objective,
    episode_discounts,
    episode_sums,
    loaded_dice,
    magic_box,
    num_episodes,
)
from marl_suite.learning.returns import discounted_sums

GAMMA, ROUNDS, START = 0.7, 2, 4
PAYOFFS = make("prisoners_dilemma").default_params.payoffs
LOGITS = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
BASELINE = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
"""Any function of what an agent sees will do as a baseline."""

JOINT = np.array(list(itertools.product([0, 1], repeat=2 * ROUNDS)))
ACTION = JOINT.reshape(-1, ROUNDS, 2).transpose(1, 0, 2)  # [T, E, N], all 16 ways to play
SEEN = np.concatenate([np.full((1, len(JOINT), 2), START), 2 * ACTION[:-1] + ACTION[:-1, :, ::-1]])  # [T, E, N]
REWARD = PAYOFFS[np.arange(2), ACTION[..., :1], ACTION[..., 1:]]  # [T, E, N]
RESET = np.arange(ROUNDS)[:, None] == np.zeros((1, len(JOINT)))
TO_GO = np.asarray(discounted_sums(REWARD, np.full_like(REWARD, GAMMA)))
VALUE = BASELINE[np.arange(2), SEEN]


def log_probs(logits: jax.Array) -> jax.Array:
    """[T, E, N] of what was played."""
    return jax.nn.log_sigmoid((1 - 2 * ACTION) * logits[np.arange(2), SEEN])


def expectation(sums: Callable, logits: jax.Array) -> jax.Array:
    """[N]: the mean over plays of `sums(log_prob)` [E, N], each weighted by its chance, which is held fixed."""
    log_prob = log_probs(logits)
    chance = jnp.exp(jax.lax.stop_gradient(log_prob).sum((0, 2)))
    return (chance[:, None] * sums(log_prob)).sum(0)


def exact(logits: jax.Array) -> jax.Array:
    return finite_horizon_value(memory_one_from_logits(logits), PAYOFFS, GAMMA, ROUNDS)


ESTIMATORS = {
    "dice": lambda log_prob: dice_objective(log_prob, REWARD, RESET, GAMMA),
    "dice with a baseline": lambda log_prob: dice_objective(log_prob, REWARD, RESET, GAMMA, VALUE),
    "loaded": lambda log_prob: loaded_dice(log_prob, TO_GO, RESET, GAMMA),
    "loaded with a baseline": lambda log_prob: loaded_dice(log_prob, TO_GO - VALUE, RESET, GAMMA),
}


def own_log_probs_only(log_prob: jax.Array) -> jax.Array:
    sums = [dice_objective(log_prob[..., [i]], REWARD[..., [i]], RESET, GAMMA) for i in range(2)]
    return jnp.concatenate(sums, axis=-1)


def without_the_current_step(log_prob: jax.Array) -> jax.Array:
    step = log_prob.sum(-1)
    box = magic_box(episode_sums(step, RESET) - step)
    return (episode_discounts(RESET, GAMMA)[..., None] * box[..., None] * REWARD).sum(0)


MISTAKES = {
    "own log-probabilities only": own_log_probs_only,
    "without the current step": without_the_current_step,
    "without the discount": lambda log_prob: dice_objective(log_prob, REWARD, RESET, 1.0),
    "loaded without the discount": lambda log_prob: loaded_dice(log_prob, TO_GO, RESET, 1.0),
    "a baseline with the credit of the past": lambda log_prob: (
        dice_objective(log_prob, REWARD, RESET, GAMMA)
        + ((1 - magic_box(episode_sums(log_prob.sum(-1), RESET)))[..., None] * VALUE).sum(0)
    ),
}


@pytest.fixture(scope="module")
def derivatives() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Values [N], gradients [N, 2, 5] and Hessians [N, 2, 5, 2, 5] of everything above, in one program."""

    def of(function: Callable) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits = jnp.asarray(LOGITS)
        return function(logits), jax.jacrev(function)(logits), jax.hessian(function)(logits)

    def of_all() -> dict:
        found = {name: of(partial(expectation, sums)) for name, sums in (ESTIMATORS | MISTAKES).items()}
        return found | {"exact": of(exact)}

    return jax.tree.map(np.asarray, jax.jit(of_all)())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_first_second_and_mixed_derivatives_are_those_of_the_exact_value(name, derivatives):
    for found, exactly in zip(derivatives[name][1:], derivatives["exact"][1:], strict=True):
        np.testing.assert_allclose(found, exactly, atol=1e-5)
    assert np.abs(derivatives["exact"][2][:, 0, :, 1]).max() > 0.05, "the mixed block is what shaping needs"


@pytest.mark.parametrize("name", MISTAKES)
def test_the_known_mistakes_are_seen_in_the_derivatives(name, derivatives):
    assert np.abs(derivatives[name][2] - derivatives["exact"][2]).max() > 0.02


def test_the_own_gradient_alone_does_not_show_that_the_others_log_probabilities_are_missing(derivatives):
    _, first, second = derivatives["own log-probabilities only"]
    for agent in range(2):
        np.testing.assert_allclose(first[agent, agent], derivatives["exact"][1][agent, agent], atol=1e-5)
        np.testing.assert_allclose(second[agent, agent, :, 1 - agent], 0, atol=1e-6)


@pytest.mark.parametrize("name", ["dice", "dice with a baseline"])
def test_the_value_of_dice_is_the_discounted_return(name, derivatives):
    np.testing.assert_allclose(derivatives[name][0], derivatives["exact"][0], rtol=1e-5)


def test_the_magic_box_is_one_and_its_derivatives_are_those_of_a_likelihood_ratio():
    box = lambda x: magic_box(jnp.sin(x))  # noqa: E731
    x = 0.7
    assert box(x) == 1
    np.testing.assert_allclose(jax.grad(box)(x), np.cos(x), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(jax.grad(box))(x), np.cos(x) ** 2 - np.sin(x), rtol=1e-5)


def test_sums_and_discounts_begin_anew_with_each_episode_and_with_the_first_row():
    rng = np.random.default_rng(2)
    x, reset = rng.normal(size=(9, 4)).astype(np.float32), rng.random((9, 4)) < 0.3
    reset[0] = [True, False, False, True]
    sums, discounts, starts = np.zeros_like(x), np.zeros_like(x), 0
    for e in range(4):
        for t in range(9):
            begins = t == 0 or reset[t, e]
            starts += begins
            sums[t, e] = x[t, e] + (0 if begins else sums[t - 1, e])
            discounts[t, e] = 1 if begins else GAMMA * discounts[t - 1, e]
    np.testing.assert_allclose(jax.jit(episode_sums)(x, reset), sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(episode_discounts(jnp.asarray(reset), GAMMA), discounts, rtol=1e-5)
    assert num_episodes(jnp.asarray(reset)) == starts


@pytest.mark.parametrize("name", ["dice", "loaded"])
def test_two_episodes_in_a_row_are_worth_two_environments(name):
    objective, credit = (dice_objective, REWARD) if name == "dice" else (loaded_dice, TO_GO)

    def twice(logits: jax.Array) -> jax.Array:
        """Each play, and the reverse order's play right after it."""
        rows = [np.concatenate([x, x[:, ::-1]]) for x in (credit, RESET)]
        log_prob = jnp.concatenate([log_probs(logits), log_probs(logits)[:, ::-1]])
        return objective(log_prob, rows[0], rows[1], GAMMA).sum(0)

    def once(logits: jax.Array) -> jax.Array:
        return 2 * objective(log_probs(logits), credit, RESET, GAMMA).sum(0)

    hessians = jax.jit(lambda x: (jax.hessian(twice)(x), jax.hessian(once)(x)))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(*hessians, rtol=1e-4, atol=1e-4)
