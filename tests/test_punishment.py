"""Public goods with punishment, against enumeration, sums by hand and a plain loop over the rules."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compiled

from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import InputError, make
from marl_suite.envs.commons.punishment import PublicGoodsWithPunishment, PunishmentParams, free_riding_gain
from marl_suite.envs.commons.sanctions import deterring_points, points_received
from marl_suite.envs.graphs import in_turn
from marl_suite.envs.n_player_dilemmas import PublicGoods
from marl_suite.games.schelling import Diagram, verdict
from marl_suite.training import Fit

GAME = PublicGoodsWithPunishment()
NUMBERS = PunishmentParams()


def played(seats, params=NUMBERS, env=GAME):
    """Payoffs [T, N], contributions as shares [T / 2, N] and mean metrics of one episode with these players."""
    step, act = compiled(env)
    observation, state = env.reset(jax.random.key(0), params)
    payoffs, given, metrics, done = [], [], [], False
    while not done:
        choices = act(observation)
        actions = jnp.stack([choices[name][i] for i, name in enumerate(seats)])
        assert not (actions[:, 0] if state.sanctioning else actions[:, 1:]).any()  # no more than the mask allows
        observation, state, payoff, terminated, truncated, info = step(jax.random.key(0), state, actions, params)
        done = bool(terminated | truncated)
        payoffs.append(payoff)
        metrics.append(info["metrics"])
        given += [observation[:, 1]] if state.sanctioning else []
    means = {name: np.mean([m[name] for m in metrics], axis=0) for name in metrics[0]}
    return np.array(payoffs, float), np.array(given), env.derived_metrics(means)


def after(levels, points, params=NUMBERS, env=GAME):
    """Payoffs of one round from levels [N] and points [N, N - 1], as the game adds them up."""
    step, _ = compiled(env)
    levels, points = np.asarray(levels), np.asarray(points)
    _, state = env.reset(jax.random.key(0), params)
    nothing = np.zeros_like(points)
    _, state, first, *_ = step(jax.random.key(0), state, np.column_stack([levels, nothing]), params)
    _, _, second, *_ = step(jax.random.key(0), state, np.column_stack([np.zeros_like(levels), points]), params)
    return np.asarray(first, float), np.asarray(second, float)


# ---------------------------------------------------------------------- known answers
def test_pitfall_7_magics_public_good_is_no_dilemma_and_becomes_one_when_the_pot_only_doubles():
    env = PublicGoods(num_agents=3, one_shot=True)
    payoff = jax.jit(jax.vmap(env.payoff, (0, None)))
    profiles = jnp.asarray([[0] * k + [1] * (3 - k) for k in range(4)])

    def diagram(factor):
        params = env.make_params(multiplication_factor=factor)
        earned = np.array(payoff(profiles, params), float)
        cooperators, defectors = earned[:, 0], earned[:, 2]
        cooperators[0] = defectors[3] = np.nan
        return Diagram(np.repeat(cooperators[:, None], 2, 1), np.repeat(defectors[:, None], 2, 1))

    magic, doubled = diagram(3.5), diagram(2.0)
    gains = [magic.gap(others).mean for others in range(3)]
    np.testing.assert_allclose(gains, 1 - 3.5 / 3, rtol=1e-5)  # -0.167: each unit given returns 1.167
    assert verdict(magic).dilemma is False and magic.equilibria() == [3]
    assert verdict(doubled).dilemma is True and doubled.equilibria() == [0]
    assert str(verdict(doubled)) == "a social dilemma of fear and greed"


def test_free_riding_gains_twelve_and_four_points_take_all_of_it():
    assert free_riding_gain(4, NUMBERS) == pytest.approx(12, abs=1e-9)
    assert deterring_points(free_riding_gain(4, NUMBERS), NUMBERS.fine) == 4
    assert [deterring_points(12, fine) for fine in (12.1, 12, 6, 5, 1)] == [1, 1, 2, 3, 12]
    everybody, nobody_fined = after([0, 0, 0, 0], np.zeros((4, 3), int))
    np.testing.assert_allclose(everybody + nobody_fined, 32, rtol=1e-6)
    earned = []
    for number in range(7):
        points = np.zeros((4, 3), int)
        points[[0, 1, 2], [2, 1, 0]] = [number // 3 + (number % 3 > i) for i in range(3)]  # all against agent 3
        first, second = after([0, 0, 0, 20], points)
        earned.append(first[3] + second[3])
    np.testing.assert_allclose(earned, 44 - 3 * np.arange(7), rtol=1e-6)
    assert [bool(e > 32 + 1e-4) for e in earned] == [True] * 4 + [False] * 3  # with four it neither gains nor loses


def best_replies(payoffs, agent):
    """Which joint actions are a best reply of `agent`: bool [A, ..., A] from its payoffs, of the same shape."""
    return payoffs >= payoffs.max(axis=agent, keepdims=True) - 1e-4


def equilibria(payoffs):
    """Pure Nash equilibria as index tuples, from payoffs [N, A, ..., A]."""
    stable = np.all([best_replies(p, i) for i, p in enumerate(payoffs)], axis=0)
    return [tuple(int(a) for a in cell) for cell in np.argwhere(stable)]


SMALL = PublicGoodsWithPunishment(num_agents=3, num_levels=3, max_points=1)


@functools.cache
def _every_round():
    """Of the small game, payoffs of every joint choice [27, N] and of every sanction after each [27, 64, N]."""
    levels = np.array(list(itertools.product(range(3), repeat=3)))  # [27, N]
    points = np.array(list(itertools.product(range(2), repeat=6))).reshape(64, 3, 2)

    def play(params):
        def one(levels):
            state = SMALL.initial_state(jax.random.key(0), params)
            actions = jnp.concatenate([levels[:, None], jnp.zeros((3, 2), jnp.int32)], axis=1)
            state, first, *_ = SMALL.transition(jax.random.key(0), state, actions, params)
            sanctions = jnp.concatenate([jnp.zeros((64, 3, 1), jnp.int32), jnp.asarray(points)], axis=2)
            second = jax.vmap(lambda a: SMALL.transition(jax.random.key(0), state, a, params)[1])(sanctions)
            return first, second

        return jax.vmap(one)(jnp.asarray(levels))

    return jax.jit(play)


def by_backward_induction(params):
    """Equilibria of every second stage, each a set of points [64], and of the first stage that foresees them."""
    first, second = (np.asarray(x, float) for x in _every_round()(params))
    stages = np.moveaxis(second, -1, 1).reshape(27, 3, 4, 4, 4)  # an agent's two points are one of four actions
    last = [equilibria(stage) for stage in stages]
    if any(found != [(0, 0, 0)] for found in last):
        return last, None
    total = (first + second[:, 0]).T.reshape(3, 3, 3, 3)
    return last, equilibria(total)


def test_nobody_punishes_and_nobody_gives_in_the_only_subgame_perfect_equilibrium():
    params = NUMBERS.replace(multiplication_factor=1.5)
    last, first = by_backward_induction(params)
    assert last == [[(0, 0, 0)]] * 27  # whatever was given, nobody punishes
    assert first == [(2, 2, 2)]  # the last of three levels gives nothing
    assert by_backward_induction(params.replace(multiplication_factor=3.3))[1] == [(0, 0, 0)]  # r / N > 1: all give
    assert len(by_backward_induction(params.replace(fee=0.0))[0][0]) == 64  # free points are anybody's guess


# ---------------------------------------------------------------------- rules
def test_the_others_come_in_turn_from_oneself_and_points_reach_whom_they_are_for():
    rng = np.random.default_rng(0)
    for count in (2, 5):
        values, points = rng.normal(size=count), rng.integers(0, 9, (count, count - 1))
        turn = [[values[(i + j) % count] for j in range(1, count)] for i in range(count)]
        np.testing.assert_array_equal(in_turn(jnp.asarray(values, jnp.float32))[:, 1:], np.asarray(turn, np.float32))
        received = np.zeros(count, int)
        for i, j in itertools.product(range(count), range(count - 1)):
            received[(i + 1 + j) % count] += points[i, j]
        np.testing.assert_array_equal(points_received(jnp.asarray(points)), received)


def test_random_play_equals_a_plain_loop_over_the_rules():
    env = PublicGoodsWithPunishment(num_levels=5, max_points=9, known_end=False)
    params = env.make_params(multiplication_factor=1.8, fee=1.5, fine=2.5, endowment=10, max_steps=16)
    rng, step = np.random.default_rng(1), jax.jit(env.step_env)
    observation, state = env.reset(jax.random.key(0), params)
    given, received, earned, seen_floor = [0.0] * 4, [0] * 4, [0.0] * 4, False
    for t in range(16):
        second = t % 2 == 1
        actions = np.column_stack([rng.integers(0, 5, 4), rng.integers(0, 10, (4, 3))])  # forbidden parts included
        wanted = [
            [t == 0, given[i], second, 0] + [given[(i + j) % 4] for j in (1, 2, 3)] + [received[i] / 27]
            for i in range(4)
        ]
        np.testing.assert_allclose(observation, np.array(wanted, float), atol=1e-6)
        observation, state, payoff, terminated, truncated, info = step(jax.random.key(t), state, actions, params)
        if not second:
            given = [1 - a[0] / 4 for a in actions]
            earned = [10 * (1 - given[i]) + 1.8 / 4 * 10 * sum(given) for i in range(4)]
            wanted_payoff, dealt, antisocial = earned, [0] * 4, [0] * 4
        else:
            dealt = [int(a[1:].sum()) for a in actions]
            received = [0] * 4
            for i, j in itertools.product(range(4), range(3)):
                received[(i + 1 + j) % 4] += int(actions[i][1 + j])
            seen_floor |= any(2.5 * received[i] > earned[i] for i in range(4))
            wanted_payoff = [-1.5 * dealt[i] - min(2.5 * received[i], earned[i]) for i in range(4)]
            antisocial = [
                sum(int(actions[i][1 + j]) for j in range(3) if given[(i + 1 + j) % 4] >= given[i]) for i in range(4)
            ]
        np.testing.assert_allclose(payoff, wanted_payoff, rtol=1e-5, atol=1e-5)
        metrics = {"cooperation": [0] * 4 if second else given, "points": dealt, "antisocial_points": antisocial}
        for name, value in (metrics | {"rounds": float(second)}).items():
            np.testing.assert_allclose(info["metrics"][name], value, atol=1e-6, err_msg=name)
        assert (bool(terminated), bool(truncated)) == (False, t == 15)
    assert seen_floor


def test_fines_take_no_more_than_was_earned_but_giving_points_always_costs():
    points = np.zeros((4, 3), int)
    points[[0, 1, 2], [2, 1, 0]] = 10  # thirty points, worth 90, against agent 3
    first, second = after([0, 0, 0, 20], points)
    np.testing.assert_allclose(first, [24, 24, 24, 44], rtol=1e-6)
    np.testing.assert_allclose(second, [-10, -10, -10, -44], rtol=1e-6)
    points[0] = 10
    first, second = after([0, 20, 20, 20], points)
    assert first[0] + second[0] == pytest.approx(8 - 30, abs=1e-4)  # below zero, by its own choice


def test_each_stage_allows_its_own_part_of_an_action_alone():
    _, state = GAME.reset(jax.random.key(0))
    for sanctioning in (False, True):
        mask = np.asarray(GAME.action_mask(state.replace(sanctioning=jnp.asarray(sanctioning))))
        assert mask.shape == (4, 21 + 3 * 11)
        levels, points = mask[:, :21], mask[:, 21:].reshape(4, 3, 11)
        free, held = (points, levels[:, None]) if sanctioning else (levels, points)
        assert free.all() and held[..., 0].all() and not held[..., 1:].any()


def test_the_players_see_the_end_coming_and_there_the_game_terminates():
    step, act = compiled(GAME)
    observation, state = GAME.reset(jax.random.key(0))
    left, ends = [], []
    for _ in range(12):
        left.append(float(observation[0, 3]))
        actions = act(observation)["contributor"]
        observation, state, _, terminated, truncated, _ = step(jax.random.key(0), state, actions, NUMBERS)
        ends.append((bool(terminated), bool(truncated)))
    np.testing.assert_allclose(left, np.arange(12, 0, -1) / 12, rtol=1e-6)
    assert ends == [(False, False)] * 11 + [(True, False)]


# ---------------------------------------------------------------------- players
def test_a_free_rider_earns_most_where_nobody_punishes_and_least_among_punishers():
    unpunished, *_ = played(["contributor"] * 3 + ["free_rider"])
    np.testing.assert_allclose(unpunished.sum(axis=0) / 6, [24, 24, 24, 44], rtol=1e-6)
    punished, _, metrics = played(["altruistic_punisher"] * 3 + ["free_rider"])
    np.testing.assert_allclose(punished.sum(axis=0) / 6, [21, 21, 21, 17], rtol=1e-6)
    np.testing.assert_allclose(metrics["points"], [3, 3, 3, 0], rtol=1e-6)  # per round
    np.testing.assert_allclose(metrics["cooperation"], [1, 1, 1, 0], atol=1e-6)
    assert set(metrics) == {"points", "cooperation", "antisocial_points"} and not metrics["antisocial_points"].any()
    freeloaders, *_ = played(["altruistic_punisher", "contributor", "contributor", "free_rider"])
    np.testing.assert_allclose(freeloaders.sum(axis=0) / 6, [21, 24, 24, 35], rtol=1e-6)  # punishing is altruistic


def test_punishers_make_any_shortfall_pay_less_than_giving_and_less_than_they_keep_themselves():
    view = np.tile(np.array([0, 1, 1, 0.5, 1, 1, 0, 0], np.float32), (21, 1))
    view[:, 6] = 1 - np.arange(21) / 20  # what the third of the others gave
    punish = jax.jit(jax.vmap(GAME.players["altruistic_punisher"], (0, None)))
    points = np.asarray(punish(jnp.asarray(view), jax.random.key(0)))
    assert not points[:, :3].any()
    missing = np.arange(21)
    assert points[:, 3].tolist() == [-(-3 * m // 20) for m in missing]
    assert (0.6 * missing - 9 * points[:, 3])[1:].max() < 0  # against giving all, where three punish
    assert (missing - 9 * points[:, 3] + points[:, 3])[1:].max() < 0  # against each of the three


def test_the_deterred_give_once_they_are_punished_and_conditional_cooperators_follow_the_mean():
    payoffs, given, _ = played(["altruistic_punisher"] * 3 + ["deterred_free_rider"])
    assert given[:, 3].tolist() == [0, 1, 1, 1, 1, 1] and payoffs[:, 3].sum() == pytest.approx(17 + 5 * 32, abs=1e-3)
    payoffs, given, _ = played(["contributor"] * 3 + ["deterred_free_rider"])
    assert not given[:, 3].any() and payoffs[:, 3].sum() == pytest.approx(6 * 44, abs=1e-3)
    _, given, _ = played(["conditional_cooperator"] * 2 + ["contributor", "free_rider"])
    # Of levels of a twentieth: the others' mean in the last round, rounded towards giving.
    wanted = [1.0]
    for _ in range(5):
        wanted.append(np.floor((wanted[-1] + 1) / 3 * 20 + 0.5) / 20)
    np.testing.assert_allclose(given[:, 0], wanted, atol=1e-6)


def diagram(cooperator, defector):
    totals = np.array([played([cooperator] * k + [defector] * (4 - k))[0].sum(axis=0) for k in range(5)])
    cooperators, defectors = totals[:, 0].copy(), totals[:, 3].copy()
    cooperators[0] = defectors[4] = np.nan
    return Diagram(np.repeat(cooperators[:, None], 2, 1), np.repeat(defectors[:, None], 2, 1))


def test_punishing_takes_the_greed_out_of_the_dilemma_and_leaves_the_fear():
    plain = diagram(GAME.cooperator, GAME.defector)
    np.testing.assert_allclose(plain.cooperators[1:, 0] / 6, [8, 16, 24, 32], rtol=1e-5)
    np.testing.assert_allclose(plain.defectors[:-1, 0] / 6, [20, 28, 36, 44], rtol=1e-5)
    assert str(verdict(plain)) == "a social dilemma of fear and greed" and plain.equilibria() == [0]
    punishing = diagram("altruistic_punisher", "free_rider")
    np.testing.assert_allclose(punishing.cooperators[1:, 0] / 6, [-1, 10, 21, 32], rtol=1e-5)
    np.testing.assert_allclose(punishing.defectors[:-1, 0] / 6, [20, 19, 18, 17], rtol=1e-5)
    assert str(verdict(punishing)) == "a social dilemma of fear" and punishing.equilibria() == [0, 4]


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_agents": 1}, "num_agents must be at least 2, got 1"),
        ({"num_levels": 1}, "num_levels must be at least 2, got 1"),
        ({"max_points": 0}, "max_points must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make("public_goods_with_punishment", **settings)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_steps": 7}, "max_steps must be even, 2 a round, got 7; closest: 6"),
        ({"max_steps": 0}, "max_steps must be at least 2, got 0"),
        ({"fee": -1}, "fee must be at least 0"),
        ({"fine": -1}, "fine must be at least 0"),
        ({"endowment": -1}, "endowment must be at least 0"),
        ({"multiplication_factor": -1}, "multiplication_factor must be at least 0"),
    ],
)
def test_parameters_outside_the_domain_are_refused(params, message):
    with pytest.raises(InputError, match=message):
        GAME.make_params(**params)


# ---------------------------------------------------------------------- learning
@pytest.mark.slow
def test_individuals_end_up_neither_giving_nor_punishing():
    config = IPPO(hidden_sizes=(32,), num_envs=32, rollout_length=24, minibatches=1, lr=3e-3)
    *_, chunk = Fit(GAME, config, range(2), 1.2e5, chunks=3)
    metrics = jax.vmap(GAME.derived_metrics)(chunk.logs["metrics"])
    assert np.all(metrics["cooperation"].mean(-1) < 0.1) and np.all(metrics["points"].mean(-1) < 0.6), metrics
