"""Trust and Split: rounds of talk and claims by a plain loop, payoffs by enumeration of hands."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.markets.trust_and_split import TrustAndSplitState, beats, expected_payoffs, round_payoffs
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

STEPS, LANES = 30, 48
STARTS = [(a, b, first) for a in range(3) for b in range(3) if a != b for first in (0, 1)]
HONEST, GREEDY, LIAR, T, R = "honest", "greedy", "liar", "tit_for_tat", "random"
ENV: Any = make("trust_and_split")


def start_of(hands, first) -> Any:
    held, none, who, zero = map(
        jnp.asarray, (np.array(hands, np.int32), np.full(2, -1, np.int32), np.int32(first), np.int32(0))
    )
    return TrustAndSplitState(held, none, who, zero, none, none, none, zero)


@functools.cache
def program(num_symbols):
    """One compiled play [lanes, steps] of any players in either seat; the random one's actions are given."""
    env = make("trust_and_split", num_symbols=num_symbols)
    params = env.default_params
    unused = jax.random.key(0)

    def play(state, which, keys, noise):
        def turn(state, given):
            key, anything = given
            view, mask = env.observe(state, params), env.action_mask(state, params)
            names = (HONEST, GREEDY, LIAR, T)
            choices = [anything, *(jax.vmap(env.players[name], (0, None))(view, unused) for name in names)]
            actions = jnp.stack(choices)[which, np.arange(2)]
            _, later, reward, _, _, info = env.step_env(key, state, actions, params)
            return later, (view, mask, state, actions, reward, info["metrics"])

        return jax.lax.scan(turn, state, (keys, noise))[1]

    return jax.jit(jax.vmap(play))


@functools.cache
def played(first, second, num_symbols=3):
    """Observations, masks, states, actions, rewards and metrics [lanes, steps, ...]; lanes begin with all `STARTS`."""
    lanes = [start_of(STARTS[i % len(STARTS)][:2], STARTS[i % len(STARTS)][2]) for i in range(LANES)]
    states = jax.tree.map(lambda *x: np.stack(x), *lanes)
    which = np.tile([[R, HONEST, GREEDY, LIAR, T].index(name) for name in (first, second)], (LANES, 1))
    noise = np.random.default_rng(3).integers(0, 11, (LANES, STEPS, 2), np.int32)
    keys = jax.random.split(jax.random.key(1), (LANES, STEPS))
    return jax.tree.map(np.asarray, program(num_symbols)(states, which, keys, noise))


# ---------------------------------------------------------------------- rules
WINS = {(1, 0), (2, 1), (0, 2)}


def one_hot(value, size):
    return [float(value == i) for i in range(size)]


def plain_view(me, k, hands, messages, first, phase, last):
    other = 1 - me
    view = [*one_hot(phase, 3), float(first == me), *one_hot(hands[me], 3)]
    view += one_hot(messages[me], k) + one_hot(messages[other], k)
    if last is None:
        return view + [0.0] * (9 + 2 * k)
    old_hands, old_messages, old_claims = last
    view += [1.0, *one_hot(old_hands[me], 3), *one_hot(old_hands[other], 3)]
    view += one_hot(old_messages[me], k) + one_hot(old_messages[other], k)
    return [*view, old_claims[me] / 10, old_claims[other] / 10]


@pytest.mark.parametrize("num_symbols", [3, 5])
def test_random_play_with_forbidden_actions_follows_a_plain_loop(num_symbols):
    k = num_symbols
    views, masks, states, actions, rewards, metrics = played(R, R, k)
    for lane in range(0, LANES, 5):
        messages, last, first = [None, None], None, int(states.first[lane, 0])
        for t in range(STEPS):
            phase, hands, acts = t % 3, states.hands[lane, t].tolist(), actions[lane, t].tolist()
            for me in (0, 1):
                expected = plain_view(me, k, hands, messages, first, phase, last)
                np.testing.assert_allclose(views[lane, t, me], expected, rtol=1e-6)
                count = 11 if phase == 2 else k if me == (first, 1 - first)[phase] else 1
                np.testing.assert_array_equal(masks[lane, t, me], np.arange(11) < count)
            if phase < 2:
                speaker = (first, 1 - first)[phase]
                messages[speaker] = acts[speaker] % k
                assert not rewards[lane, t].any() and not any(m[lane, t].any() for m in metrics.values())
                continue
            values = [10 if (hands[i], hands[1 - i]) in WINS else 1 for i in (0, 1)]
            coins = [10 * s / max(10, sum(acts)) for s in acts]
            paid = [v * c for v, c in zip(values, coins, strict=True)]
            np.testing.assert_allclose(rewards[lane, t], paid, rtol=1e-6)
            np.testing.assert_allclose(metrics["efficiency"][lane, t], sum(paid) / 100, rtol=1e-6)
            np.testing.assert_allclose(metrics["to_winner"][lane, t], coins[values.index(10)] / 10, rtol=1e-6)
            np.testing.assert_array_equal(metrics["honesty"][lane, t], [messages[i] == hands[i] for i in (0, 1)])
            np.testing.assert_array_equal(metrics["claims"][lane, t], acts)
            assert metrics["rounds"][lane, t] == 1
            last, messages, first = (hands, messages, acts), [None, None], 1 - first


def test_a_forbidden_message_is_read_modulo_the_symbols_and_the_silent_agent_is_not_heard():
    _, _, states, actions, *_ = played(R, R)
    talk = [t for t in range(STEPS - 1) if t % 3 < 2]
    assert (actions[:, talk] >= 3).mean() > 0.5
    assert set(np.unique(states.messages)) == {-1, 0, 1, 2}
    heard = (states.messages[:, 1:] >= 0).sum(axis=-1)
    np.testing.assert_array_equal(heard, np.tile([1, 2, 0], 10)[None, : STEPS - 1].repeat(LANES, axis=0))


def test_hands_always_differ_all_six_pairs_are_as_likely_and_stay_for_the_round():
    states = played(R, R)[2]
    hands = states.hands.reshape(LANES, 10, 3, 2)
    assert np.all(hands[..., 0] != hands[..., 1]) and np.all(hands == hands[:, :, :1])
    pairs, counts = np.unique(hands[:, 1:, 0].reshape(-1, 2), axis=0, return_counts=True)
    expected = LANES * 9 / 6
    assert len(pairs) == 6 and ((counts - expected) ** 2 / expected).sum() < 20  # chi-squared of 5


def test_the_first_speaker_is_drawn_and_then_alternates():
    starts = jax.jit(jax.vmap(lambda key: ENV.initial_state(key, ENV.default_params)))
    state = starts(jax.random.split(jax.random.key(5), 600))
    assert abs(np.mean(state.first) - 0.5) < 0.1
    assert abs(np.corrcoef(state.first, state.hands[:, 0])[0, 1]) < 0.15
    firsts = played(R, R)[2].first[:, ::3]
    np.testing.assert_array_equal(firsts[:, 1:], 1 - firsts[:, :-1])


def test_a_hand_is_secret_until_the_round_is_over():
    params = ENV.default_params
    views = [np.asarray(ENV.observe(start_of((0, other), 0), params)) for other in (1, 2)]
    np.testing.assert_array_equal(views[0][0], views[1][0])
    assert not np.array_equal(views[0][1], views[1][1])
    talked = [start_of((0, 1), 0).replace(last_hands=np.array([0, other])) for other in (1, 2)]
    shown = [np.asarray(ENV.observe(state, params)) for state in talked]
    assert not np.array_equal(shown[0][0], shown[1][0])


def test_the_last_claims_are_paid_and_the_clock_truncates():
    state = start_of((0, 1), 0).replace(phase=np.int32(2), time=np.int32(29), messages=np.array([0, 1], np.int32))
    _, after, reward, terminated, truncated, _ = jax.jit(ENV.step)(jax.random.key(0), state, np.array([10, 10]))
    assert truncated and not terminated and after.time == 0 and np.all(np.asarray(after.last_claims) == -1)
    np.testing.assert_allclose(reward, [5, 50])


# ---------------------------------------------------------------------- closed forms
def test_each_hand_beats_one_and_loses_to_one():
    assert {(a, b) for a in range(3) for b in range(3) if beats(a, b)} == WINS


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (((10, 0), (10, 0)), (50, 50)),
        (((10, 10), (10, 10)), (27.5, 27.5)),
        (((10, 0), (10, 10)), (25, 52.5)),
        (((10, 10), (10, 0)), (52.5, 25)),
    ],
)
def test_claims_by_hand_pay_the_known_numbers(pair, expected):
    np.testing.assert_allclose(expected_payoffs(*pair), expected, rtol=1e-12)


def test_claiming_ten_dominates_in_a_single_round():
    claims = np.array(list(itertools.product(range(11), repeat=2))).T
    for value in (1, 10):
        mine = round_payoffs(np.array([[value], [1]]), claims)[0].reshape(11, 11)
        assert np.all(mine[10] > mine[:10])
    assert round_payoffs(np.array([10, 1]), np.array([10, 10])).tolist() == [50, 5]
    best = round_payoffs(np.array([[10], [1]]), claims).sum(axis=0)
    assert best.max() == 100 and claims[:, best.argmax()].tolist() == [10, 0]


# ---------------------------------------------------------------------- scripted players
FIRST_ROUND = slice(0, 3)


def first_round_means(first, second):
    """Mean payoffs [N] and honesty [N] of the first round, over all hands and first speakers."""
    *_, rewards, metrics = played(first, second)
    starts = slice(0, len(STARTS))
    return rewards[starts, FIRST_ROUND].sum(axis=1).mean(axis=0), metrics["honesty"][starts, 2].mean(axis=0)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((HONEST, HONEST), (50, 50)),
        ((GREEDY, GREEDY), (27.5, 27.5)),
        ((HONEST, GREEDY), (25, 52.5)),
        # The liar earns 55 when it answers and 52.5 when it speaks first; the honest 0 and 25.
        ((HONEST, LIAR), (12.5, 53.75)),
        ((T, HONEST), (50, 50)),
        ((T, GREEDY), (25, 52.5)),
    ],
)
def test_scripted_pairs_earn_the_known_numbers_in_the_first_round(pair, expected):
    np.testing.assert_allclose(first_round_means(*pair)[0], expected, rtol=1e-6)


def test_only_the_liar_lies_and_only_when_it_knows_better():
    np.testing.assert_allclose(first_round_means(HONEST, LIAR)[1], (1, 0.75))  # half of what it answers is true
    np.testing.assert_allclose(first_round_means(GREEDY, T)[1], (1, 1))
    _, _, states, *_ = played(HONEST, LIAR)
    answers = (states.first == 0) & (states.phase == 2)
    assert np.all(beats(states.messages[answers][:, 1], states.messages[answers][:, 0]))


def test_who_hears_its_own_hand_or_no_hand_claims_half():
    state = start_of((0, 1), 0).replace(phase=np.int32(2))
    env = make("trust_and_split", num_symbols=5)
    for heard, claim in ((0, 5), (1, 0), (2, 10), (3, 5), (4, 5)):
        view = env.observe(state.replace(messages=np.array([0, heard], np.int32)), env.default_params)
        assert env.players[HONEST](view[0], jax.random.key(0)) == claim


def test_scripted_players_choose_what_the_mask_allows():
    for pair in ((HONEST, LIAR), (GREEDY, T)):
        _, masks, _, actions, *_ = played(*pair)
        assert np.take_along_axis(masks, actions[..., None], axis=-1).all()
    keys = jax.random.split(jax.random.key(2), 300)
    views, masks = (x[0, :3] for x in played(R, R)[:2])
    chosen = jax.jit(jax.vmap(jax.vmap(ENV.players[R], (None, 0)), (0, None)))(views.reshape(6, -1), keys)
    for actions, mask in zip(np.asarray(chosen), masks.reshape(6, -1), strict=True):
        assert set(actions) == set(np.flatnonzero(mask))


def test_tit_for_tat_claims_all_after_a_round_whose_loser_claimed_more_than_half():
    for other in (HONEST, GREEDY, LIAR, R):
        _, _, states, actions, *_ = played(T, other)
        hands, claims, messages = states.hands[:, 2::3], actions[:, 2::3], states.messages[:, 2::3]
        for lane, t in itertools.product(range(0, LANES, 5), range(10)):
            mine, heard = hands[lane, t, 0], messages[lane, t, 1]
            fair = 5 if heard == mine else 10 if (mine, heard) in WINS else 0
            loser = 0 if t == 0 or (hands[lane, t - 1, 1], hands[lane, t - 1, 0]) in WINS else 1
            punishes = t > 0 and claims[lane, t - 1, loser] > 5
            assert claims[lane, t, 0] == (10 if punishes else fair)
    np.testing.assert_array_equal(played(T, T)[3], played(HONEST, HONEST)[3])


def test_it_is_a_social_dilemma_of_fear_and_greed():
    result = verdict(schelling.play(ENV, ENV.default_params, (HONEST, GREEDY), episodes=1000))
    assert str(result) == "a social dilemma of fear and greed"


def test_metrics_are_per_round():
    for pair, expected in (((HONEST, HONEST), (1, 1)), ((GREEDY, GREEDY), (0.55, 0.5))):
        derived = ENV.derived_metrics(jax.tree.map(lambda x: x.mean(axis=(0, 1)), played(*pair)[5]))
        assert "rounds" not in derived and np.all(derived["honesty"] == 1)
        np.testing.assert_allclose([derived["efficiency"], derived["to_winner"]], expected, rtol=1e-6)


# ---------------------------------------------------------------------- the contract
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_agents": 3}, "game of 2 agents, got num_agents=3; use 2"),
        ({"num_symbols": 2}, "num_symbols must be at least 3, got 2"),
        ({"num_symbols": 12}, "num_symbols must be at most 11, got 12"),
        ({"coins": 1}, "coins must be at least 2, got 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        make("trust_and_split", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"loser_value": -1}, "loser_value must be at least 0"),
        ({"winner_value": 0.5}, "winner_value minus loser_value must be at least 0"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(InputError, match=message):
        ENV.make_params(**params)
