"""The threshold public goods game: payoffs by hand, and its equilibria by polynomials, enumeration and dynamics."""

import itertools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.commons.threshold_public_goods import (
    ThresholdPublicGoods,
    gain_from_contributing,
    pure_equilibria,
    symmetric_equilibria,
)
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

ENV = ThresholdPublicGoods()
PAYOFF = jax.jit(
    jax.vmap(lambda actions, params: (ENV.payoff(actions, params), ENV.metrics(actions, params)), (0, None))
)
EVERY_PLAY = np.array(list(itertools.product((0, 1), repeat=5)))
GAMES = [  # N, k, b, c, refund
    (5, 3, 1.0, 0.2, 0.0),
    (5, 3, 1.0, 0.2, 0.5),
    (5, 3, 1.0, 0.2, 1.0),
    (5, 1, 1.0, 0.3, 0.0),
    (4, 4, 2.0, 0.5, 0.0),
    (4, 4, 2.0, 0.5, 1.0),
    (6, 2, 1.0, 0.9, 0.3),
    (3, 2, 1.0, 1.5, 0.0),
]


def payoffs_by_hand(gives, threshold, benefit, cost, refund=0.0):
    """One play in plain Python; `gives` is a list of truth values."""
    enough = sum(gives) >= threshold
    back = 0 if enough else refund * cost
    return [(benefit if enough else 0) + (back - cost if giver else 0) for giver in gives]


def gain_polynomial(num_agents, threshold, benefit, cost, refund=0.0):
    """g by powers of x, lowest first: the binomial formula multiplied out."""
    x, total = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([0])
    for others in range(num_agents):
        company = [True] * others + [False] * (num_agents - 1 - others)
        gain = [payoffs_by_hand([own, *company], threshold, benefit, cost, refund)[0] for own in (True, False)]
        chance = comb(num_agents - 1, others) * x**others * (1 - x) ** (num_agents - 1 - others)
        total = total + (gain[0] - gain[1]) * chance
    return total


# ---------------------------------------------------------------------- rules
@pytest.mark.parametrize("refund", [0.0, 0.25, 1.0])
def test_every_play_pays_what_the_rules_say(refund):
    params = ENV.make_params(benefit=1.5, cost=0.4, threshold=2, refund=refund)
    paid, metrics = PAYOFF(EVERY_PLAY, params)
    by_hand = [payoffs_by_hand((play == 0).tolist(), 2, 1.5, 0.4, refund) for play in EVERY_PLAY]
    np.testing.assert_allclose(paid, by_hand, atol=1e-6)
    np.testing.assert_array_equal(metrics["cooperation"], EVERY_PLAY == 0)
    np.testing.assert_array_equal(metrics["provided"], (EVERY_PLAY == 0).sum(axis=1) >= 2)


def test_payoffs_of_the_defaults_and_the_best_total_by_hand():
    paid = np.asarray(PAYOFF(EVERY_PLAY, ENV.default_params)[0])
    by_play = {"".join(map(str, play)): row for play, row in zip(EVERY_PLAY, paid, strict=True)}
    np.testing.assert_allclose(by_play["00011"], [0.8, 0.8, 0.8, 1, 1], atol=1e-6)
    np.testing.assert_allclose(by_play["00111"], [-0.2, -0.2, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(by_play["00000"], [0.8] * 5, atol=1e-6)
    np.testing.assert_allclose(by_play["11111"], [0] * 5, atol=1e-6)
    assert paid.sum(axis=1).max() == pytest.approx(5 - 3 * 0.2)


def test_an_episode_lasts_as_long_as_the_clock_and_a_one_shot_game_one_step():
    repeated = ENV.initial_state(jax.random.key(0), None).replace(time=jnp.int32(49))
    *_, terminated, truncated, _ = ENV.step_env(jax.random.key(1), repeated, jnp.zeros(5, int), ENV.default_params)
    assert truncated and not terminated
    once = make("threshold_public_goods", one_shot=True)
    *_, terminated, truncated, _ = once.step_env(
        jax.random.key(1), repeated.replace(time=jnp.int32(0)), jnp.zeros(5, int), once.default_params
    )
    assert terminated and not truncated


# ---------------------------------------------------------------------- equilibria
def test_published_mixed_equilibria_and_their_stability():
    none, low, high = symmetric_equilibria(5, 3, 1.0, 0.2)
    # 6 x^2 (1 - x)^2 = 0.2, so x (1 - x) = sqrt(1 / 30)
    spread = np.sqrt(1 - 4 * np.sqrt(1 / 30))
    assert none == (0.0, True)
    assert low.probability == pytest.approx((1 - spread) / 2, abs=1e-12) and not low.stable
    assert high.probability == pytest.approx((1 + spread) / 2, abs=1e-12) and high.stable
    assert (round(low.probability, 5), round(high.probability, 5)) == (0.24034, 0.75966)


@pytest.mark.parametrize(("num_agents", "expected"), [(2, 0.7), (5, 0.2599), (10, 0.1252)])
def test_a_threshold_of_one_is_the_volunteers_dilemma(num_agents, expected):
    (equilibrium,) = symmetric_equilibria(num_agents, 1, 1.0, 0.3)
    assert equilibrium.stable and equilibrium.probability == pytest.approx(1 - 0.3 ** (1 / (num_agents - 1)), abs=1e-12)
    assert equilibrium.probability == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("game", GAMES)
def test_mixed_equilibria_are_the_roots_of_the_multiplied_out_polynomial(game):
    polynomial = gain_polynomial(*game)
    roots = polynomial.roots()
    inner = np.sort(roots[(abs(roots.imag) < 1e-9) & (roots.real > 1e-6) & (roots.real < 1 - 1e-6)].real)
    found = [e for e in symmetric_equilibria(*game) if 0 < e.probability < 1]
    np.testing.assert_allclose([e.probability for e in found], inner, atol=1e-8)
    for equilibrium in found:
        assert equilibrium.stable == (polynomial.deriv()(equilibrium.probability) < 0)
    for x in (0.0, 0.3, 1.0):
        assert gain_from_contributing(x, *game) == pytest.approx(polynomial(x), abs=1e-12)


@pytest.mark.parametrize("game", GAMES)
def test_replicator_dynamics_end_in_the_stable_equilibria_only(game):
    x, polynomial = np.linspace(0.12, 0.99, 25), gain_polynomial(*game)
    for _ in range(8_000):
        x = x + 0.1 * x * (1 - x) * polynomial(x)
    stable = np.array([e.probability for e in symmetric_equilibria(*game) if e.stable])
    distance = abs(x[:, None] - stable)
    assert distance.min(axis=1).max() < 0.02 and set(distance.argmin(axis=1)) == set(range(len(stable)))


@pytest.mark.parametrize("game", GAMES)
def test_pure_equilibria_are_those_of_enumeration(game):
    num_agents = game[0]
    stable = set()
    for gives in itertools.product((True, False), repeat=num_agents):
        now = payoffs_by_hand(gives, *game[1:])
        switched = [[*gives[:i], not gives[i], *gives[i + 1 :]] for i in range(num_agents)]
        if all(payoffs_by_hand(switched[i], *game[1:])[i] <= now[i] + 1e-12 for i in range(num_agents)):
            stable.add(sum(gives))
    assert pure_equilibria(*game) == sorted(stable)


def test_a_cost_above_its_highest_expected_return_leaves_no_mixed_equilibrium():
    highest = 6 / 16  # of 6 x^2 (1 - x)^2, at x = 1 / 2
    assert len(symmetric_equilibria(5, 3, 1.0, highest - 1e-6)) == 3
    assert symmetric_equilibria(5, 3, 1.0, highest + 1e-6) == [(0.0, True)]
    assert pure_equilibria(5, 3, 1.0, highest + 1e-6) == [0, 3]


def test_a_full_refund_takes_the_fear_away_and_leaves_the_greed():
    none, high = symmetric_equilibria(5, 3, 1.0, 0.2, refund=1.0)
    assert none == (0.0, False) and high.stable and high.probability > 0.75967


def test_equilibria_of_many_agents_are_as_exact_as_those_of_few():
    low, high = symmetric_equilibria(200, 100, 1.0, 0.001)[1:]
    for equilibrium in (low, high):
        assert gain_from_contributing(equilibrium.probability, 200, 100, 1.0, 0.001) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------- players, parameters
def test_all_or_none_is_a_dilemma_of_fear_and_greed_with_none_and_three_as_equilibria():
    diagram = schelling.play(ENV, ENV.make_params(max_steps=10), ("always_cooperate", "always_defect"), episodes=2)
    enough = np.arange(6) >= 3
    np.testing.assert_allclose(diagram.cooperators[1:, 0], 10 * (enough[1:] - 0.2), rtol=1e-5)
    np.testing.assert_allclose(diagram.defectors[:-1, 0], 10.0 * enough[:-1])
    assert str(verdict(diagram)) == "a social dilemma of fear and greed" and diagram.equilibria() == [0, 3]


def test_a_full_refund_leaves_a_dilemma_of_greed_alone():
    params = ENV.make_params(max_steps=10, refund=1.0)
    diagram = schelling.play(ENV, params, ("always_cooperate", "always_defect"), episodes=2)
    assert str(verdict(diagram)) == "a social dilemma of greed"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 6}, "threshold must be at most 5, got 6"),
        ({"threshold": 0}, "threshold must be at least 1, got 0"),
        ({"cost": -0.1}, "cost must be at least 0, got -0.1"),
        ({"refund": 1.5}, "refund must be at most 1, got 1.5"),
        ({"refund": -0.5}, "refund must be at least 0, got -0.5"),
    ],
)
def test_numbers_outside_the_game_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ENV.make_params(**wrong)


@pytest.mark.parametrize(
    ("game", "message"),
    [((5, 6, 1.0, 0.2), "threshold must be a whole number from 1 to 5, got 6"), ((5, 3, 1.0, 0.0), "cost must be")],
)
def test_equilibria_of_impossible_games_are_refused(game, message):
    with pytest.raises(InputError, match=message):
        symmetric_equilibria(*game)


def test_two_agents_need_both_by_default():
    assert make("threshold_public_goods", num_agents=2).default_params.threshold == 2
