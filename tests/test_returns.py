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


# ---------------------------------------------------------------------- groups
@pytest.mark.parametrize("group_size", [2, 3, 6])
def test_what_is_left_of_a_value_is_its_distance_from_the_mean_of_the_others_in_its_group(group_size):
    x = np.random.default_rng(0).normal(2.0, 1.0, (T, E, 2)).astype(np.float32)
    found = np.asarray(returns.leave_one_out(jnp.asarray(x), group_size))
    wanted = np.zeros(x.shape)
    for k in range(E):
        first = k - k % group_size
        others = [x[:, m] for m in range(first, first + group_size) if m != k]
        wanted[:, k] = x[:, k] - sum(others) / (group_size - 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    grouped = x.reshape(T, -1, group_size, 2)
    scaled = group_size / (group_size - 1) * (grouped - grouped.mean(2, keepdims=True))
    np.testing.assert_allclose(found.reshape(grouped.shape), scaled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reshape(grouped.shape).sum(2), 0, atol=1e-5)


def test_groups_may_lie_on_any_axis():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(T, E, 2)))
    swapped = returns.leave_one_out(jnp.moveaxis(x, 1, -1), 3, axis=-1)
    np.testing.assert_allclose(jnp.moveaxis(swapped, -1, 1), returns.leave_one_out(x, 3), rtol=1e-6)
    first = returns.leave_one_out(jnp.moveaxis(x, 1, 0), 3, axis=0)
    np.testing.assert_allclose(jnp.moveaxis(first, 0, 1), returns.leave_one_out(x, 3), rtol=1e-6)


def test_a_value_alone_in_its_group_is_left_as_it_is():
    x = np.random.default_rng(2).normal(size=(T, E)).astype(np.float32)
    np.testing.assert_array_equal(returns.leave_one_out(jnp.asarray(x), 1), x)


def test_what_a_group_has_in_common_leaves_nothing_behind():
    x = np.random.default_rng(3).normal(size=(T, E)).astype(np.float32)
    common = np.repeat(np.random.default_rng(4).normal(0, 10, (T, E // 3)), 3, axis=1).astype(np.float32)
    plain, shifted = (returns.leave_one_out(jnp.asarray(y), 3) for y in (x, x + common))
    np.testing.assert_allclose(shifted, plain, atol=1e-4)
