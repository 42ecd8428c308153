"""Exact values of memory-one policies against closed forms, plain numpy and the games as they are played."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.games import repeated
from marl_suite.games.repeated import memory_one, memory_one_from_logits

# Compiled once per shape, which makes these tests quick; one test below compares with uncompiled values.
average_value = jax.jit(repeated.average_value)
discounted_value = jax.jit(repeated.discounted_value)
finite_horizon_value = jax.jit(repeated.finite_horizon_value, static_argnums=3)
joint_transition = jax.jit(repeated.joint_transition)

DILEMMA = np.array([[[-1, -3], [0, -2]], [[-1, 0], [-3, -2]]], np.float32)
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], np.float32)
DISCOUNT = 0.96


def series_value(policies, payoffs, discount, num_steps):
    """sum_t gamma^t E[r_t] by walking over every joint action with Python loops, in float64."""
    policies, payoffs = np.asarray(policies, float), np.asarray(payoffs, float)
    num_players, _, num_actions = policies.shape
    joint_actions = list(itertools.product(range(num_actions), repeat=num_players))

    def probability(action, last):
        product = 1.0
        for i in range(num_players):
            row = -1
            if last is not None:
                row = 0
                for other in range(num_players):
                    row = row * num_actions + last[(i + other) % num_players]
            product *= policies[i, row, action[i]]
        return product

    start = np.array([probability(action, None) for action in joint_actions])
    matrix = np.array([[probability(action, last) for action in joint_actions] for last in joint_actions])
    stage = np.array([[payoffs[(i, *action)] for action in joint_actions] for i in range(num_players)])
    total, weight = np.zeros(num_players), start
    for t in range(num_steps):
        total += discount**t * stage @ weight
        weight = weight @ matrix
    return total


def random_policies(random, num_players, num_actions):
    rows = random.dirichlet(np.full(num_actions, 0.5), (num_players, num_actions**num_players + 1))
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("random", "random", (-1.5, -1.5)),
        ("always_cooperate", "always_cooperate", (-1, -1)),
        ("always_defect", "always_defect", (-2, -2)),
        ("tit_for_tat", "tit_for_tat", (-1, -1)),
        ("grim_trigger", "tit_for_tat", (-1, -1)),
        ("tit_for_tat", "always_defect", (-2.04, -1.92)),  # 0.04 (-3) + 0.96 (-2), 0.04 (0) + 0.96 (-2)
        ("always_defect", "tit_for_tat", (-1.92, -2.04)),
        ("grim_trigger", "always_defect", (-2.04, -1.92)),
    ],
)
def test_average_values_of_named_strategies(first, second, expected):
    value = average_value(memory_one(first, second), DILEMMA, DISCOUNT)
    np.testing.assert_allclose(value, expected, atol=1e-4)


def test_discounted_values_are_the_payoff_times_25():
    values = [
        discounted_value(memory_one(*pair), DILEMMA, DISCOUNT)
        for pair in (
            ("always_cooperate", "always_cooperate"),
            ("always_defect", "always_defect"),
            ("always_defect", "always_cooperate"),
        )
    ]
    np.testing.assert_allclose(values, [(-25, -25), (-50, -50), (0, -75)], atol=1e-3)


@pytest.mark.parametrize(("num_steps", "expected"), [(1, -1), (100, -24.578), (150, -24.945)])
def test_finite_horizon_value_of_cooperation_is_the_geometric_sum(num_steps, expected):
    policies = memory_one("always_cooperate", "always_cooperate")
    value = finite_horizon_value(policies, DILEMMA, DISCOUNT, num_steps)
    np.testing.assert_allclose(value, expected, atol=1e-3)


def test_an_undiscounted_finite_horizon_counts_every_step_alike():
    value = finite_horizon_value(memory_one("tit_for_tat", "always_defect"), DILEMMA, 1, num_steps=10)
    np.testing.assert_allclose(value, [-3 - 9 * 2, 0 - 9 * 2], atol=1e-4)


def test_uniform_play_of_matching_pennies_is_worth_nothing():
    value = discounted_value(memory_one_from_logits(jnp.zeros((2, 5))), PENNIES, 0.9)
    np.testing.assert_allclose(value, [0, 0], atol=1e-6)


def test_logits_are_those_of_cooperating_from_ones_own_perspective():
    # Player 0 cooperates only after CD (it cooperated, the other did not), player 1 always defects: hence C first
    # (start logit), then C for ever. Read from player 1's side the same state would be DC and it would defect.
    large = 40.0
    logits = jnp.array([[-large, large, -large, -large, large], [-large] * 5])
    value = average_value(memory_one_from_logits(logits), DILEMMA, DISCOUNT)
    np.testing.assert_allclose(value, [-3, 0], atol=1e-4)
    mirrored = average_value(memory_one_from_logits(logits[::-1]), DILEMMA, DISCOUNT)
    np.testing.assert_allclose(mirrored, [0, -3], atol=1e-4)


@pytest.mark.parametrize(("num_players", "num_actions"), [(2, 2), (2, 3), (3, 2), (4, 2)])
def test_values_equal_the_power_series(num_players, num_actions):
    random = np.random.default_rng(0)
    policies = random_policies(random, num_players, num_actions)
    payoffs = random.normal(size=(num_players, *(num_actions,) * num_players)).astype(np.float32)
    exact = series_value(policies, payoffs, 0.9, num_steps=250)
    np.testing.assert_allclose(discounted_value(policies, payoffs, 0.9), exact, atol=2e-4)
    some = series_value(policies, payoffs, 0.9, num_steps=7)
    np.testing.assert_allclose(finite_horizon_value(policies, payoffs, 0.9, 7), some, atol=1e-4)


def test_joint_transitions_are_distributions_over_joint_actions():
    start, transition = joint_transition(random_policies(np.random.default_rng(0), 3, 2))
    assert start.shape == (8,) and transition.shape == (8, 8)
    np.testing.assert_allclose(start.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(transition.sum(axis=1), np.ones(8), rtol=1e-5)


def test_gradient_equals_finite_differences_of_the_power_series():
    logits = np.random.default_rng(3).normal(size=(2, 5))

    def series(logits):
        cooperate = 1 / (1 + np.exp(-logits))
        return series_value(np.stack([cooperate, 1 - cooperate], axis=-1), DILEMMA, 0.9, num_steps=250)

    step, expected = 1e-5, np.zeros((2, 2, 5))
    for player, row in itertools.product(range(2), range(5)):
        bump = np.zeros((2, 5))
        bump[player, row] = step
        expected[:, player, row] = (series(logits + bump) - series(logits - bump)) / (2 * step)
    jacobian = jax.jit(jax.jacobian(lambda x: discounted_value(memory_one_from_logits(x), DILEMMA, 0.9)))
    np.testing.assert_allclose(jacobian(jnp.asarray(logits, jnp.float32)), expected, atol=2e-4)


def test_values_are_the_same_jitted_vmapped_and_op_by_op():
    policies = random_policies(np.random.default_rng(4), 2, 2)
    batched = jax.vmap(discounted_value, in_axes=(0, None, None))(policies[None], DILEMMA, DISCOUNT)
    with jax.disable_jit():
        single = repeated.discounted_value(policies, DILEMMA, DISCOUNT)
    np.testing.assert_allclose(batched[0], single, rtol=1e-4)
    np.testing.assert_allclose(discounted_value(policies, DILEMMA, DISCOUNT), single, rtol=1e-4)


def test_discounts_and_payoffs_can_be_swept_by_vmap():
    policies = memory_one("tit_for_tat", "always_defect")
    discounts = np.array([0.0, 0.5, 0.9], np.float32)
    values = jax.vmap(discounted_value, in_axes=(None, None, 0))(policies, DILEMMA, discounts)
    np.testing.assert_allclose(values[:, 0], -3 - 2 * discounts / (1 - discounts), rtol=1e-5)


def test_exact_values_agree_with_the_environment_as_it_is_played():
    num_policies, num_episodes, num_steps = 20, 4000, 150
    theta_key, play_key = jax.random.split(jax.random.key(7))
    logits = jax.random.normal(theta_key, (num_policies, 2, 5))
    env = make("prisoners_dilemma")
    params = env.make_params(max_steps=10 * num_steps)

    def episode_returns(key, logits):
        """Discounted returns [episodes, 2] of one pair of policies."""

        def step(carry, inputs):
            observation, state, total = carry
            key, discount = inputs
            action_key, step_key = jax.random.split(key)
            cooperate = jnp.einsum("eik,ik->ei", observation, jax.nn.sigmoid(logits))
            actions = (jax.random.uniform(action_key, cooperate.shape) >= cooperate).astype(jnp.int32)
            vector_step = jax.vmap(env.step, in_axes=(None, 0, 0, None))  # the rules draw nothing: one key for all
            observation, state, reward, *_ = vector_step(step_key, state, actions, params)
            return (observation, state, total + discount * reward), None

        reset_key, steps_key = jax.random.split(key)
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_episodes, *x.shape)), env.reset(reset_key, params))
        inputs = jax.random.split(steps_key, num_steps), DISCOUNT ** jnp.arange(num_steps)
        return jax.lax.scan(step, (*start, jnp.zeros((num_episodes, 2))), inputs)[0][2]

    returns = jax.jit(jax.vmap(episode_returns))(jax.random.split(play_key, num_policies), logits)
    policies = memory_one_from_logits(logits)
    exact = jax.vmap(lambda x: finite_horizon_value(x, DILEMMA, DISCOUNT, num_steps))(policies)
    infinite = jax.vmap(lambda x: discounted_value(x, DILEMMA, DISCOUNT))(policies)
    error = np.std(returns, axis=1) / np.sqrt(num_episodes)
    assert np.max(error) < 0.2  # so that four of them mean something beside values of 25 to 50
    np.testing.assert_array_less(np.abs(np.mean(returns, axis=1) - exact), 4 * error)
    tail = 3 * DISCOUNT**num_steps / (1 - DISCOUNT)  # the most that the steps not played can be worth
    np.testing.assert_array_less(np.abs(np.mean(returns, axis=1) - infinite), 4 * error + tail)


def test_an_unknown_strategy_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'tit_for_tat'"):
        memory_one("tit_for_tot")


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError):
        joint_transition(jnp.ones((2, 4, 2)) / 2)  # no row for the start
    with pytest.raises(AssertionError):
        discounted_value(memory_one("random", "random"), np.zeros((2, 3, 3)), DISCOUNT)
