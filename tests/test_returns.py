"""Returns and advantages against plain Python loops, under every mix of termination and truncation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.learning import returns

T, E, GAMMA, LAMBDA = 9, 6, 0.9, 0.7
Rows = dict[str, Any]  # arrays [T, E], by the names of the arguments
MIXES = ("random", "all_terminated", "all_truncated", "neither")


def batch(mix: str) -> Rows:
    """Random rewards and values, [T, E] each, with episode ends as `mix` says."""
    rng = np.random.default_rng(MIXES.index(mix))
    terminated = rng.random((T, E)) < 0.25 if mix == "random" else np.full((T, E), mix == "all_terminated")
    truncated = rng.random((T, E)) < 0.25 if mix == "random" else np.full((T, E), mix == "all_truncated")
    r_t, v_tm1, v_t = rng.normal(size=(3, T, E)).astype(np.float32)
    return {
        "r_t": r_t,
        "discount_t": (GAMMA * (1 - terminated)).astype(np.float32),
        "v_tm1": v_tm1,
        "v_t": v_t,
        "cut_t": terminated | truncated,
    }


def gae(x: Rows, lambda_: float) -> jax.Array:
    return returns.generalised_advantages(x["r_t"], x["discount_t"], x["v_tm1"], x["v_t"], x["cut_t"], lambda_)


def targets(x: Rows, lambda_: float) -> jax.Array:
    return returns.lambda_returns(x["r_t"], x["discount_t"], x["v_t"], x["cut_t"], lambda_)


fast_gae, fast_targets, fast_sums = (jax.jit(f) for f in (gae, targets, returns.discounted_sums))


def gae_by_definition(x: Rows, lambda_: float) -> np.ndarray:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, up to the first row after which the episode or the batch ends."""
    advantages = np.zeros((T, E))
    for t in range(T):
        for e in range(E):
            weight = 1.0
            for k in range(t, T):
                delta = x["r_t"][k, e] + x["discount_t"][k, e] * x["v_t"][k, e] - x["v_tm1"][k, e]
                advantages[t, e] += weight * delta
                if x["cut_t"][k, e]:
                    break
                weight *= GAMMA * lambda_
    return advantages


def lambda_return_by_definition(x: Rows, lambda_: float) -> np.ndarray:
    """The lambda-weighted mixture of all n-step returns up to the end of the episode or of the batch."""
    result = np.zeros((T, E))
    for t in range(T):
        for e in range(E):
            rewards, weight, n = 0.0, 1.0, 0
            while True:
                k = t + n
                rewards += GAMMA**n * x["r_t"][k, e]
                n_step = rewards + GAMMA**n * x["discount_t"][k, e] * x["v_t"][k, e]
                if x["cut_t"][k, e] or k == T - 1:
                    result[t, e] += weight * n_step
                    break
                result[t, e] += weight * (1 - lambda_) * n_step
                weight, n = weight * lambda_, n + 1
    return result


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("lambda_", [0.0, LAMBDA, 1.0])
def test_advantages_are_the_weighted_sum_of_errors_within_the_episode(mix, lambda_):
    x = batch(mix)
    np.testing.assert_allclose(fast_gae(x, lambda_), gae_by_definition(x, lambda_), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("lambda_", [0.0, LAMBDA, 1.0])
def test_lambda_returns_mix_the_n_step_returns_within_the_episode(mix, lambda_):
    x = batch(mix)
    np.testing.assert_allclose(fast_targets(x, lambda_), lambda_return_by_definition(x, lambda_), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
def test_lambda_zero_gives_one_step_targets_whatever_ends(mix):
    x = batch(mix)
    np.testing.assert_allclose(fast_targets(x, 0.0), x["r_t"] + x["discount_t"] * x["v_t"], rtol=1e-6)


def test_lambda_one_without_ends_is_the_discounted_return_bootstrapped_at_the_last_row():
    x = batch("neither")
    wanted = np.zeros((T, E))
    for t in range(T):
        wanted[t] = sum(GAMMA ** (k - t) * x["r_t"][k] for k in range(t, T)) + GAMMA ** (T - t) * x["v_t"][-1]
    np.testing.assert_allclose(fast_targets(x, 1.0), wanted, rtol=1e-5, atol=1e-5)


def test_a_terminal_state_is_worth_nothing_and_a_truncated_one_its_value():
    ended, cut = batch("all_terminated"), batch("all_truncated")
    np.testing.assert_allclose(fast_targets(ended, LAMBDA), ended["r_t"])
    np.testing.assert_allclose(fast_targets(cut, LAMBDA), cut["r_t"] + np.float32(GAMMA) * cut["v_t"], rtol=1e-6)


@pytest.mark.parametrize("mix", MIXES)
def test_advantage_plus_value_is_the_lambda_return_when_values_agree(mix):
    x = batch(mix)
    # The identity needs v_t of a row to be v_tm1 of the next wherever the two rows are one episode.
    follows = ~x["cut_t"][:-1]
    x["v_t"][:-1] = np.where(follows, x["v_tm1"][1:], x["v_t"][:-1])
    np.testing.assert_allclose(fast_gae(x, LAMBDA) + x["v_tm1"], fast_targets(x, LAMBDA), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
def test_discounted_sums_stop_at_terminations_and_add_nothing_after_the_last_row(mix):
    x = batch(mix)
    wanted = np.zeros((T, E))
    for t in range(T):
        weight = np.ones(E)
        for k in range(t, T):
            wanted[t] += weight * x["r_t"][k]
            weight = weight * x["discount_t"][k]
    np.testing.assert_allclose(fast_sums(x["r_t"], x["discount_t"]), wanted, rtol=1e-5, atol=1e-5)


def every_return(x: Rows) -> tuple[jax.Array, ...]:
    return gae(x, LAMBDA), targets(x, LAMBDA), returns.discounted_sums(x["r_t"], x["discount_t"])


def test_eager_jitted_vmapped_and_uncompiled_results_agree():
    x = jax.tree.map(jnp.asarray, batch("random"))
    eager = every_return(x)
    with jax.disable_jit():
        uncompiled = every_return(x)
    variants = {
        "jitted": jax.jit(every_return)(x),
        "vmapped over environments": jax.vmap(every_return, in_axes=1, out_axes=1)(x),
        "uncompiled": uncompiled,
    }
    for name, variant in variants.items():
        for a, b in zip(eager, variant, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def test_arrays_of_different_shapes_are_refused():
    x = batch("random") | {"discount_t": np.ones((T, 1), np.float32)}
    with pytest.raises(AssertionError):
        gae(x, LAMBDA)


def test_normalised_values_have_mean_zero_and_unit_deviation_on_the_given_axes_only():
    x = np.random.default_rng(0).normal(3.0, 1.0, (50, 4, 2)) * np.array([1.0, 1000.0])
    y = np.asarray(returns.normalise(jnp.asarray(x), axis=(0, 1)))
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std((0, 1)), 1, rtol=1e-4)
    np.testing.assert_array_equal(np.isfinite(returns.normalise(jnp.ones(3))), True)  # no spread is no division by 0
