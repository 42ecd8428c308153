"""The exchange game and the split without messages: rules by a plain loop, payoffs by enumeration of all draws."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.markets.negotiation import expected_rewards, shares, welfare_optimum
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

ROUNDS, LANES = 40, 32
DEFAULT = ("negotiation", ())
UNIFORM = ("negotiation", (("sampling", "uniform"), ("split", "proportion"), ("show_last_utilities", True)))
NO_PRESS = ("split_no_press", ())
GAMES = [DEFAULT, UNIFORM, NO_PRESS]
C, D, T, R = "always_cooperate", "always_defect", "tit_for_tat", "random"


@functools.cache
def env_of(game) -> Any:
    return make(game[0], **dict(game[1]))


@functools.cache
def program(game):
    """One compiled play [lanes, rounds] of any players in either seat; the random one's claims are given."""
    env = env_of(game)
    params = env.default_params
    unused = jax.random.key(0)

    def play(which, keys, noise):
        def turn(carry, given):
            observation, state = carry
            key, claims = given
            choices = [claims, *(jax.vmap(env.players[name], (0, None))(observation, unused) for name in (C, D, T))]
            actions = jnp.stack(choices)[which, np.arange(2)]
            after, later, reward, _, _, info = env.step_env(key, state, actions, params)
            return (after, later), (observation, state, actions, reward, info["metrics"])

        return jax.lax.scan(turn, env.reset(keys[0], params), (keys[1:], noise))[1]

    return jax.jit(jax.vmap(play))


@functools.cache
def played(game, first, second):
    """Observations, states, actions, rewards and metrics [lanes, rounds, ...] of a pair of players."""
    which = np.tile([[R, C, D, T].index(name) for name in (first, second)], (LANES, 1))
    keys = jax.random.split(jax.random.key(1), (LANES, 1 + ROUNDS))
    noise = np.random.default_rng(2).integers(0, env_of(game).most + 1, (LANES, ROUNDS, 2, 3), np.int32)
    return jax.tree.map(np.asarray, program(game)(which, keys, noise))


def rewards_by_hand(utilities, pool, claims, most, split, scale):
    totals = [0.0, 0.0]
    for k, units in enumerate(pool):
        asked = claims[0][k] + claims[1][k]
        for i in (0, 1):
            if split == "proportion":
                share = claims[i][k] / asked if asked else 0.0
            else:
                share = claims[i][k] / asked if asked > most else claims[i][k] / most
            totals[i] += share * units * utilities[i][k] / scale
    return totals


# ---------------------------------------------------------------------- rules
@pytest.mark.parametrize("game", GAMES)
def test_random_rounds_pay_and_show_what_a_plain_loop_says(game):
    env = env_of(game)
    params = env.default_params
    scale = 1 if game is NO_PRESS else 15
    observations, states, actions, rewards, metrics = played(game, R, R)
    for lane, t in itertools.product(range(0, LANES, 4), range(ROUNDS)):
        worth, pool = states.utilities[lane, t].tolist(), states.pool[lane, t].tolist()
        claims = actions[lane, t].tolist()
        by_hand = rewards_by_hand(worth, pool, claims, env.most, env.split, scale)
        np.testing.assert_allclose(rewards[lane, t], by_hand, rtol=1e-5, atol=1e-6)
        best = sum(units * max(a, b) for units, a, b in zip(pool, *worth, strict=True)) / scale
        np.testing.assert_allclose(metrics["welfare_ratio"][lane, t], sum(by_hand) / best, rtol=1e-5)
        contested = [k for k in range(3) if worth[0][k] != worth[1][k]]
        assert metrics["units_contested"][lane, t] == sum(pool[k] for k in contested)
        good = sum(
            rewards_by_hand(np.eye(3)[[k, k]], pool, claims, env.most, env.split, 1)[worth[1][k] > worth[0][k]]
            for k in contested
        )
        np.testing.assert_allclose(metrics["units_to_higher"][lane, t], good, rtol=1e-5, atol=1e-6)
        last = actions[lane, t - 1] if t else np.zeros((2, 3))
        before = states.utilities[lane, t - 1] if t else np.zeros((2, 3))
        for me, other in ((0, 1), (1, 0)):
            rows = [np.array(pool) / env.most]
            rows += [worth[me] / np.array(params.high_utility), last[me] / env.most]
            rows += [worth[other] / np.array(params.high_utility), last[other] / env.most]
            if game is not DEFAULT:
                rows += [before[me] / params.high_utility, before[other] / params.high_utility]
            np.testing.assert_allclose(observations[lane, t, me], np.concatenate(rows), rtol=1e-6)
    np.testing.assert_array_equal(states.time[0], np.arange(ROUNDS))


def drawn(utilities, pool):
    """Every draw and how often it came, from states [lanes, rounds]."""
    rows = np.concatenate([utilities.reshape(-1, 6), pool.reshape(-1, 3)], axis=1)
    return np.unique(rows, axis=0, return_counts=True)


def assert_alike(counts, kinds):
    expected = counts.sum() / kinds
    assert len(counts) == kinds and ((counts - expected) ** 2 / expected).sum() < kinds + 4 * np.sqrt(2 * kinds) + 4


def test_high_contrast_draws_all_eight_opposed_utilities_anew_every_round():
    _, states, *_ = played(DEFAULT, R, R)
    draws, counts = drawn(states.utilities, states.pool)
    assert_alike(counts, 8)
    np.testing.assert_array_equal(draws[:, :3] + draws[:, 3:6], 6)
    assert set(draws[:, :3].ravel()) == {1, 5} and np.all(draws[:, 6:] == 1)
    same = np.all(states.utilities[:, 1:] == states.utilities[:, :-1], axis=(2, 3)).mean()
    assert abs(same - 1 / 8) < 0.04


def test_uniform_utilities_and_units_are_independent_whole_numbers_from_one_to_five():
    _, states, *_ = played(UNIFORM, R, R)
    for values in (states.utilities[..., 0, :], states.utilities[..., 1, :], states.pool):
        assert_alike(np.unique(values, return_counts=True)[1], 5)
    both = np.unique(states.utilities.swapaxes(2, 3).reshape(-1, 2), axis=0, return_counts=True)[1]
    assert_alike(both, 25)


def test_the_fixed_preset_draws_five_five_one_against_one_one_five():
    env: Any = make("negotiation", sampling="high_contrast_no_sampling")
    for seed in (0, 1):
        utilities, pool = env.draw(jax.random.key(seed), env.default_params)
        np.testing.assert_array_equal(utilities, [[5, 5, 1], [1, 1, 5]])
        np.testing.assert_array_equal(pool, [1, 1, 1])


def test_the_split_without_messages_draws_twelve_pairs_of_equal_totals_and_some_conflict():
    values = [v for v in itertools.product((1, 10), repeat=3)]
    admissible = {(*a, *b) for a in values for b in values if sum(a) == sum(b) and a != b}
    assert len(admissible) == 12
    _, states, *_ = played(NO_PRESS, R, R)
    draws, counts = drawn(states.utilities, states.pool)
    assert {tuple(draw[:6]) for draw in draws} == admissible and np.all(draws[:, 6:] == 10)
    assert_alike(counts, 12)


def test_claims_of_nothing_divide_nothing_by_zero():
    nothing = np.zeros((2, 3), int)
    for split in ("divide_when_above", "proportion"):
        for claims in (nothing, jnp.asarray(nothing)):
            np.testing.assert_array_equal(shares(claims, 5, split), 0)
    one_sided = np.array([[2, 5, 0], [0, 0, 0]])
    np.testing.assert_allclose(shares(one_sided, 5), [[0.4, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(shares(one_sided, 5, "proportion"), [[1, 1, 0], [0, 0, 0]])


def test_the_reward_of_the_last_round_counts_and_the_clock_truncates():
    env = env_of(DEFAULT)
    params = env.make_params(max_steps=2)
    _, state = env.reset(jax.random.key(0), params)
    state = state.replace(time=jnp.int32(1))
    actions = jnp.full((2, 3), 5, jnp.int32)
    _, after, reward, terminated, truncated, info = jax.jit(env.step)(jax.random.key(1), state, actions, params)
    assert truncated and not terminated and after.time == 0
    assert reward.sum() == pytest.approx(0.6) and np.all(after.proposals == 0)
    assert np.any(info["final_observation"][:, 6:9] == 1)


# ---------------------------------------------------------------------- closed forms
@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("cooperate", "cooperate"), (0.5, 0.5)),
        (("defect", "defect"), (0.3, 0.3)),
        (("defect", "cooperate"), (0.55, 0.25)),
        (("cooperate", "defect"), (0.25, 0.55)),
    ],
)
@pytest.mark.parametrize("split", ["divide_when_above", "proportion"])
def test_the_exchange_game_is_a_prisoners_dilemma_of_known_numbers(pair, expected, split):
    tolerance = 1e-12 if split == "divide_when_above" else 1e-8  # what keeps its quotient from 0 / 0
    np.testing.assert_allclose(expected_rewards(*pair, split=split), expected, rtol=tolerance)
    names = {"cooperate": C, "defect": D}
    total = np.zeros(2)
    for values in itertools.product((1, 5), repeat=3):
        worth = [list(values), [6 - v for v in values]]
        claims = [
            [5 if names[rule] == D or worth[i][k] > worth[1 - i][k] else 0 for k in range(3)]
            for i, rule in enumerate(pair)
        ]
        total += np.array(rewards_by_hand(worth, [1, 1, 1], claims, 5, split, 15)) / 8
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_claiming_five_dominates_strictly_where_unclaimed_parts_are_lost_and_weakly_in_proportion():
    claims = np.array(list(itertools.product(range(6), repeat=2))).T
    above = shares(claims, 5)[0].reshape(6, 6)  # [mine, other's]
    assert np.all(above[5] > above[:5])
    proportion = shares(claims, 5, "proportion")[0].reshape(6, 6)
    assert np.all(proportion[5] >= proportion[:5] - 1e-8) and np.all(proportion[5, 1:] > proportion[:5, 1:])
    assert proportion[1, 0] == pytest.approx(proportion[5, 0])


@pytest.mark.parametrize("game", [DEFAULT, NO_PRESS])
def test_cooperators_reach_the_welfare_optimum_of_every_draw_and_no_claims_beat_it(game):
    env = env_of(game)
    _, states, _, _, metrics = played(game, C, C)
    np.testing.assert_allclose(metrics["welfare_ratio"], 1, rtol=1e-6)
    claims = np.array(list(itertools.product(range(env.most + 1), repeat=2))).T  # [N, claims]
    part = shares(claims, env.most)
    draws = drawn(states.utilities, states.pool)[0]
    for draw in draws:
        worth, pool = draw[:6].reshape(2, 3), draw[6:]
        best = sum(units * (part * worth[:, [k]]).sum(axis=0).max() for k, units in enumerate(pool))
        assert welfare_optimum(worth, pool) == pytest.approx(best)
    optima = [welfare_optimum(draw[:6].reshape(2, 3), draw[6:]) for draw in draws]
    assert np.mean(optima) == pytest.approx(255 if game is NO_PRESS else 15)


def means_by_draw(game, first, second):
    """Mean rewards [N] with every draw weighted alike, from what was played."""
    _, states, _, rewards, _ = played(game, first, second)
    draws = np.concatenate([states.utilities.reshape(-1, 6), states.pool.reshape(-1, 3)], axis=1)
    _, where = np.unique(draws, axis=0, return_inverse=True)
    rewards = rewards.reshape(-1, 2)
    return np.mean([rewards[where == i].mean(axis=0) for i in range(where.max() + 1)], axis=0)


@pytest.mark.parametrize(
    ("game", "pair", "expected"),
    [
        (DEFAULT, (C, C), (0.5, 0.5)),
        (DEFAULT, (D, D), (0.3, 0.3)),
        (DEFAULT, (D, C), (0.55, 0.25)),
        (NO_PRESS, (C, C), (127.5, 127.5)),
        (NO_PRESS, (D, D), (82.5, 82.5)),
        (NO_PRESS, (D, C), (141 + 2 / 3, 68 + 1 / 3)),
    ],
)
def test_scripted_pairs_earn_the_known_numbers_over_all_draws(game, pair, expected):
    np.testing.assert_allclose(means_by_draw(game, *pair), expected, rtol=1e-5)


# ---------------------------------------------------------------------- scripted players
@pytest.mark.parametrize("game", GAMES)
def test_players_claim_what_they_are_said_to(game):
    half = {5: 3, 10: 5}[env_of(game).most]
    most = env_of(game).most
    _, states, actions, *_ = played(game, C, D)
    mine, theirs = states.utilities[..., 0, :], states.utilities[..., 1, :]
    np.testing.assert_array_equal(actions[..., 1, :], most)
    np.testing.assert_array_equal(actions[..., 0, :], np.where(mine > theirs, most, np.where(mine == theirs, half, 0)))
    assert np.any(mine == theirs) == (game is not DEFAULT)


@pytest.mark.parametrize("game", GAMES)
def test_tit_for_tat_cooperates_with_cooperators_for_ever_and_answers_greed_from_the_second_round(game):
    for other in (T, C):
        np.testing.assert_array_equal(played(game, T, other)[2], played(game, C, C)[2])
    actions = played(game, T, D)[2][..., 0, :]
    fair = played(game, C, D)[2][..., 0, :]
    np.testing.assert_array_equal(actions[:, 0], fair[:, 0])
    states = played(game, T, D)[1]
    if game is DEFAULT:  # only claims that my own fair ones leave room for look fair
        due = np.all(states.utilities[:, 0, 1] == 5, axis=-1)
        np.testing.assert_array_equal(np.all(actions[:, 1:] == 5, axis=(1, 2)), ~due | np.all(fair[:, 1] == 5, axis=-1))
        return
    due = np.all(states.utilities[..., 1, :] > states.utilities[..., 0, :], axis=-1)[:, :-1]
    greedy = np.all(actions[:, 1:] == env_of(game).most, axis=-1)
    assert np.all(greedy[~due]) and np.all(actions[:, 1:][due] == fair[:, 1:][due])


def test_the_exchange_game_is_a_social_dilemma_of_fear_and_greed():
    env = env_of(DEFAULT)
    result = verdict(schelling.play(env, env.default_params, (C, D), episodes=32))
    assert str(result) == "a social dilemma of fear and greed"


def test_metrics_tell_cooperation_from_greed():
    env = env_of(DEFAULT)
    for pair, expected in (((C, C), (1, 1)), ((D, D), (0.6, 0.5)), ((D, C), (0.8, 0.75))):
        means = jax.tree.map(np.mean, played(DEFAULT, *pair)[4])
        derived = env.derived_metrics(means)
        np.testing.assert_allclose([derived["welfare_ratio"], derived["to_higher_utility"]], expected, atol=0.02)


# ---------------------------------------------------------------------- the contract
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("negotiation", {"num_agents": 3}, "game of 2 agents, got num_agents=3; use 2"),
        ("negotiation", {"sampling": "high_contrasts"}, "closest: 'high_contrast'"),
        ("negotiation", {"split": "proportional"}, "closest: 'proportion'"),
        ("negotiation", {"num_items": 0}, "num_items must be at least 1"),
        ("negotiation", {"most": 0}, "most must be at least 1"),
        ("split_no_press", {"num_agents": 1}, "game of 2 agents"),
        ("split_no_press", {"most": 3}, "unknown setting of split_no_press 'most'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(name, settings, message):
    with pytest.raises(InputError, match=message) as error:
        make(name, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"low_utility": -1}, "low_utility must be at least 0"),
        ({"high_utility": 0.5}, "high_utility must be at least 1"),
        ({"low_utility": 7}, "high_utility minus low_utility must be at least 0, got -2"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(InputError, match=message):
        make("negotiation").make_params(**params)
