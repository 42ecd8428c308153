"""Social metrics against worked examples and plain Python loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.metrics import social


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def loop_equality(returns):
    if min(returns) < 0 or sum(returns) <= 0:
        return float("nan")
    gaps = sum(abs(a - b) for a in returns for b in returns)
    return 1 - gaps / (2 * len(returns) * sum(returns))


def loop_sustainability(rewards, mask):
    averages = []
    for agent in range(rewards.shape[1]):
        times = [t + 1 for t in range(len(rewards)) if mask[t] and rewards[t, agent] > 0]
        if times:
            averages.append(sum(times) / len(times))
    return sum(averages) / len(averages) if averages else float("nan")


def test_the_utilitarian_return_sums_over_agents():
    assert social.utilitarian_return(jnp.array([[1.0, 2.0, -4.0], [0.0, 5.0, 1.0]])).tolist() == [-1.0, 6.0]


@pytest.mark.parametrize(
    ("returns", "expected"),
    [([1, 2], 5 / 6), ([10, 0], 0.5), ([1, 0, 0, 0], 0.25), ([3, 3, 3], 1.0), ([7], 1.0)],
)
def test_equality_of_worked_examples(returns, expected):
    assert social.equality(jnp.array(returns, jnp.float32)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("returns", [[2.0, -1.0], [0.0, 0.0], [-1.0, -1.0]])
def test_equality_is_undefined_for_negative_or_zero_returns(returns):
    assert jnp.isnan(social.equality(jnp.array(returns)))


def test_equality_agrees_with_a_loop_under_jit_and_vmap(rng):
    returns = rng.normal(1.0, 1.0, (50, 4)).astype(np.float32)
    expected = [loop_equality(row) for row in returns.tolist()]
    assert 0 < np.isnan(expected).sum() < 50  # both branches are met
    for function in (social.equality, jax.jit(social.equality), jax.vmap(social.equality)):
        np.testing.assert_allclose(function(returns), expected, atol=1e-5)


def test_sustainability_of_steady_use_is_the_middle_of_the_episode():
    assert social.sustainability(jnp.ones((5, 3))) == 3.0  # (1 + 2 + 3 + 4 + 5) / 5


def test_sustainability_leaves_out_agents_that_never_collect():
    rewards = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [2.0, 0.0]])
    assert social.sustainability(rewards) == 3.0  # agent 0 collects at steps 2 and 4
    assert jnp.isnan(social.sustainability(jnp.zeros((4, 2))))


def test_sustainability_ignores_masked_steps():
    rewards = jnp.ones((6, 2))
    assert social.sustainability(rewards, jnp.arange(6) < 3) == 2.0
    assert jnp.isnan(social.sustainability(rewards, jnp.zeros(6, bool)))


def test_sustainability_agrees_with_a_loop_and_with_its_step_by_step_form(rng):
    rewards = rng.normal(-0.5, 1.0, (8, 30, 3)).astype(np.float32)
    rewards[:, :, 2] = -1.0  # the last agent never collects
    masks = np.arange(30) < rng.integers(1, 31, (8, 1))
    expected = [loop_sustainability(r, m) for r, m in zip(rewards, masks, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(social.sustainability))(rewards, masks), expected, rtol=1e-6)

    def body(times, step):
        return times.update(*step), None

    scanned = jax.lax.scan(body, social.CollectionTimes.start(3), (jnp.arange(1, 31), rewards[0]))[0]
    assert scanned.result() == pytest.approx(loop_sustainability(rewards[0], [True] * 30), rel=1e-6)


def test_peace_is_the_fraction_of_agent_steps_not_timed_out():
    assert social.peace(jnp.array([5, 0]), 10) == 0.75
    assert social.peace(jnp.array([10, 10]), 10) == 0.0
    assert social.peace(jnp.zeros(3), 7) == 1.0
    batch = social.peace(jnp.array([[4, 0], [4, 4]]), jnp.array([8, 4]))
    assert batch.tolist() == [0.75, 0.0]


def test_the_cooperation_rate_counts_choices_only():
    cooperation = jnp.array([[1, 0], [1, 1], [0, 0]])
    assert social.cooperation_rate(cooperation) == 0.5
    assert social.cooperation_rate(cooperation, jnp.array([True, True, False])) == 0.75
    choices = jnp.array([[True, False], [False, False], [True, True]])
    assert social.cooperation_rate(cooperation, choices) == pytest.approx(1 / 3)
    assert jnp.isnan(social.cooperation_rate(cooperation, jnp.zeros(3, bool)))


def test_the_cooperation_rate_agrees_with_a_loop_under_jit_and_vmap(rng):
    cooperation = rng.integers(0, 2, (5, 20, 3)).astype(np.float32)
    masks = rng.integers(0, 2, (5, 20)).astype(bool)
    rate = jax.jit(jax.vmap(social.cooperation_rate))
    for given, rows, mask in zip(rate(cooperation, masks), cooperation, masks, strict=True):
        chosen = [value for row, kept in zip(rows, mask, strict=True) if kept for value in row]
        assert given == pytest.approx(sum(chosen) / len(chosen), abs=1e-6)
