"""Appropriation from a common-pool resource: the laboratory's numbers, exhaustive search, and a plain loop."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compiled

from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import InputError, make
from marl_suite.envs.commons import appropriation
from marl_suite.envs.commons.appropriation import Appropriation, AppropriationParams
from marl_suite.envs.commons.sanctioned_appropriation import SanctionedAppropriation
from marl_suite.envs.commons.sanctions import deterring_points
from marl_suite.envs.repeated_games import RepeatedGameState
from marl_suite.games.schelling import Diagram, verdict
from marl_suite.training import Fit

GAME, SANCTIONED = Appropriation(), SanctionedAppropriation()
NUMBERS = AppropriationParams()


def played(env, seats, **params):
    """Payoffs [T, N], actions [T, N] and mean metrics of one episode with these players."""
    (step, act), params = compiled(env), env.make_params(**params)
    observation, state = env.reset(jax.random.key(0), params)
    payoffs, actions, metrics, done = [], [], [], False
    while not done:
        choices = {name: np.asarray(choice) for name, choice in act(observation).items()}
        actions.append([choices[name][i] for i, name in enumerate(seats)])
        outcome = step(jax.random.key(0), state, jnp.asarray(actions[-1]), params)
        observation, state, payoff, terminated, truncated, info = outcome
        done = bool(terminated | truncated)
        payoffs.append(payoff)
        metrics.append(info["metrics"])
    means = {name: np.mean([m[name] for m in metrics], axis=0) for name in metrics[0]}
    return np.array(payoffs, float), np.array(actions), env.derived_metrics(means)


def one_step(env, actions):
    """Payoffs [N], terminated and truncated of a first step."""
    state = env.reset(jax.random.key(0))[1]
    outcome = compiled(env)[0](jax.random.key(0), state, actions, env.default_params)
    return outcome[2], bool(outcome[3]), bool(outcome[4])


# ---------------------------------------------------------------------- closed forms
@pytest.mark.parametrize(
    ("endowment", "at_nash", "at_optimum", "response", "best"),
    [(25, 141, 165.5, 20.25, 227.515625), (10, 66, 90.5, 10, 126.25)],
)
def test_the_laboratorys_numbers(endowment, at_nash, at_optimum, response, best):
    params = NUMBERS.replace(endowment=float(endowment))

    def exactly(value):
        return pytest.approx(value, rel=0, abs=1e-9)

    assert appropriation.nash_investment(8, params) == exactly(8)
    assert appropriation.optimal_investment(8, params) == exactly(4.5)
    assert appropriation.best_response(7 * 4.5, params) == exactly(response)
    assert appropriation.payoffs(np.full(8, 8.0), params)[0] == exactly(at_nash)
    assert appropriation.payoffs(np.full(8, 4.5), params)[0] == exactly(at_optimum)
    profile = np.array([response] + [4.5] * 7)
    assert appropriation.payoffs(profile, params)[0] == exactly(best)
    assert appropriation.deviation_gain(8, params) == exactly(best - at_optimum)
    rents = appropriation.rents(np.array([36.0, 64.0, 72.0]), params)
    np.testing.assert_allclose(rents, [324, 128, 0], atol=1e-9)
    assert rents[1] / rents[0] == pytest.approx(0.395, abs=1e-4)


@pytest.mark.parametrize(
    ("n", "changes"),
    [
        (8, {}),
        (2, {"endowment": 20.0}),  # both the equilibrium's 24 and the best answers exceed the endowment
        (5, {"outside_return": 1.0, "linear_return": 7.0, "quadratic_loss": 0.1}),
        (3, {"endowment": 2.0, "quadratic_loss": 0.01}),  # all invest everything, which is best for all too
    ],
)
def test_closed_forms_agree_with_a_search_over_a_fine_grid(n, changes):
    params = NUMBERS.replace(**changes)
    w, a, b, e = params.outside_return, params.linear_return, params.quadratic_loss, params.endowment
    grid = np.linspace(0, e, 20_001)

    def earns(x, others):  # as the source writes it, for x > 0
        total = x + others
        return w * (e - x) + x / total * (a * total - b * total**2)

    nash, optimum = appropriation.nash_investment(n, params), appropriation.optimal_investment(n, params)

    def nearly(value):
        return pytest.approx(float(value), rel=0, abs=e / 10_000)

    assert grid[np.argmax(earns(grid + 1e-12, (n - 1) * nash))] == nearly(nash)
    assert grid[np.argmax(earns(grid + 1e-12, (n - 1) * (grid + 1e-12)))] == nearly(optimum)
    for others in (0.1, optimum * (n - 1), e * (n - 1)):
        response = appropriation.best_response(others, params)
        assert grid[np.argmax(earns(grid + 1e-12, others))] == nearly(response)
    profile = np.linspace(0.1, 1, n) * e
    wanted = [earns(x, profile.sum() - x) for x in profile]
    np.testing.assert_allclose(appropriation.payoffs(profile, params), wanted, rtol=1e-12)
    assert appropriation.payoffs(np.zeros(n), params).tolist() == [w * e] * n


@functools.cache
def _own_and_common():
    """float [L, L]: what an agent earns with each own level, where the seven others share each level."""

    def earns(own, common):
        return GAME.payoff(jnp.full(8, common).at[0].set(own), NUMBERS)[0]

    levels = jnp.arange(51)
    return np.asarray(jax.jit(jax.vmap(jax.vmap(earns, (None, 0)), (0, None)))(levels, levels), float)


def test_every_level_against_every_common_level_of_the_others():
    earned, tokens = _own_and_common(), np.arange(51) / 2
    np.testing.assert_allclose(earned.max(axis=0)[9], 227.5, rtol=1e-6)  # to 4.5 each
    ties = np.flatnonzero(earned[:, 9] > 227.5 - 1e-3)
    assert tokens[ties].tolist() == [20, 20.5]
    responses = appropriation.best_response(7 * tokens, NUMBERS)
    for level, response in enumerate(responses):
        best = tokens[earned[:, level] > earned[:, level].max() - 1e-3]
        assert np.abs(best - response).max() <= 0.25 + 1e-9  # the nearest half tokens, both where they tie
    fixed = [level for level in range(51) if earned[level, level] > earned[:, level].max() - 1e-3]
    assert tokens[fixed].tolist() == [8] and earned[16, 16] == pytest.approx(141, rel=1e-6)
    together = np.diagonal(earned)
    assert tokens[together.argmax()] == 4.5 and together.max() == pytest.approx(165.5, rel=1e-6)


def test_with_two_agents_and_whole_tokens_ties_add_only_neighbours_to_the_equilibrium():
    tokens = np.arange(26.0)
    profiles = np.stack(np.meshgrid(tokens, tokens, indexing="ij"), axis=-1)
    first, second = np.moveaxis(appropriation.payoffs(profiles, NUMBERS), -1, 0)
    stable = (first == first.max(axis=0)) & (second == second.max(axis=1, keepdims=True))
    assert appropriation.nash_investment(2, NUMBERS) == pytest.approx(24)
    assert profiles[stable].tolist() == [[23, 25], [24, 24], [25, 23]]


# ---------------------------------------------------------------------- rules
def test_random_play_equals_a_plain_loop_over_the_rules():
    changes = dict(endowment=10.0, outside_return=4.0, linear_return=20.0, quadratic_loss=0.5, max_steps=6)
    params, step, rng = GAME.make_params(**changes), compiled(GAME)[0], np.random.default_rng(0)
    observation, state = GAME.reset(jax.random.key(0), params)
    last = [0.0] * 8
    fair = 16 / 0.5 / (2 * 8 * 10)
    for t in range(6):
        wanted = [[t == 0, last[i], (sum(last) - last[i]) / 7, fair] for i in range(8)]
        np.testing.assert_allclose(observation, np.array(wanted, float), atol=1e-6)
        actions = rng.integers(0, 51, 8)
        observation, state, payoff, terminated, truncated, info = step(jax.random.key(t), state, actions, params)
        last = [a / 50 for a in actions]
        x = [10 * share for share in last]
        pot = 20 * sum(x) - 0.5 * sum(x) ** 2
        np.testing.assert_allclose(payoff, [4 * (10 - y) + y / sum(x) * pot for y in x], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(info["metrics"]["investment"], x, rtol=1e-5, atol=1e-6)
        efficiency = (pot - 4 * sum(x)) / (20 * 16 - 0.5 * 16**2 - 4 * 16)
        np.testing.assert_allclose(info["metrics"]["rent_efficiency"], efficiency, rtol=1e-4)
        assert (bool(terminated), bool(truncated)) == (False, t == 5)


def test_where_nobody_invests_everybody_keeps_the_outside_return():
    payoff, _, _ = one_step(GAME, np.zeros(8, int))
    np.testing.assert_allclose(payoff, 125)


def test_a_one_shot_game_terminates_after_its_only_step():
    env = make("appropriation", one_shot=True)
    assert one_step(env, np.zeros(8, int))[1:] == (True, False)
    assert one_step(GAME, np.zeros(8, int))[1:] == (False, False)
    with pytest.raises(InputError, match="max_steps of a one_shot game must be at most 1"):
        env.make_params(max_steps=2)


# ---------------------------------------------------------------------- players
def test_players_invest_what_the_closed_forms_say_whatever_the_parameters():
    act, observe = compiled(GAME)[1], jax.jit(GAME.observe)
    for changes in ({}, {"endowment": 10.0}, {"linear_return": 11.0}, {"endowment": 5.0}, {"endowment": 2.0}):
        params = NUMBERS.replace(**changes)
        step = params.endowment / 50
        for level in (0, 7, 30, 50):
            state = RepeatedGameState(last_actions=jnp.full(8, level), time=jnp.int32(1))
            chosen = {name: float(a[0]) * step for name, a in act(observe(state, params)).items()}
            nash, fair = appropriation.nash_investment(8, params), appropriation.optimal_investment(8, params)
            wanted = {
                "fair": fair,
                "nash": nash,
                "greedy": float(appropriation.best_response(7 * level * step, params)),
                "conditional": min(max(level * step, fair), nash),
            }
            for name, amount in wanted.items():
                assert abs(chosen[name] - amount) <= step / 2 + 1e-4, (changes, level, name)


def test_a_lone_greedy_player_takes_most_and_many_of_them_cycle():
    payoffs, actions, _ = played(GAME, ["greedy"] + ["fair"] * 7)
    np.testing.assert_allclose(payoffs[0, 0], 190, rtol=1e-6)  # 8 at first
    np.testing.assert_allclose(payoffs[1:, 0], 227.5, rtol=1e-6)  # 20, the lesser of two that tie, ever after
    assert set(actions[1:, 0]) == {40}
    _, actions, _ = played(GAME, ["greedy"] * 8)
    assert set(actions.ravel()) == {16}  # at the equilibrium everybody stays
    _, actions, _ = played(GAME, ["greedy"] * 5 + ["fair"] * 3)
    assert [a.tolist() for a in actions[-4:, 0]] == [0, 50, 0, 50] or actions[-4:, 0].tolist() == [50, 0, 50, 0]


def test_conditional_players_stay_fair_among_themselves_and_go_no_further_than_the_equilibrium():
    _, actions, metrics = played(GAME, ["conditional"] * 8)
    assert set(actions.ravel()) == {9} and metrics["rent_efficiency"] == pytest.approx(1, abs=1e-5)
    _, actions, metrics = played(GAME, ["conditional"] * 7 + ["greedy"])
    assert actions[0, 0] == 9 and set(actions[-5:].ravel()) == {16}
    _, _, metrics = played(GAME, ["nash"] * 8)
    assert metrics["rent_efficiency"] == pytest.approx(128 / 324, rel=1e-5)
    np.testing.assert_allclose(metrics["investment"], 8, rtol=1e-6)


def diagram(env, cooperator, defector):
    """Payoffs of a round of each number of cooperators, by players that play every round alike."""
    mixes = [[cooperator] * k + [defector] * (8 - k) for k in range(9)]
    rounds, steps = 2, 2 if env is GAME else 4
    earned = np.array([played(env, mix, max_steps=steps)[0].sum(axis=0) for mix in mixes]) / rounds
    cooperators, defectors = earned[:, 0].copy(), earned[:, 7].copy()
    cooperators[0] = defectors[8] = np.nan
    return Diagram(np.repeat(cooperators[:, None], 2, 1), np.repeat(defectors[:, None], 2, 1))


def by_hand(k, x):
    total = 4.5 * k + 8 * (8 - k)
    return 5 * (25 - x) + x * (23 - 0.25 * total)


def test_the_equilibriums_appetite_is_a_dilemma_of_fear_and_greed():
    drawn = diagram(GAME, GAME.cooperator, GAME.defector)
    np.testing.assert_allclose(drawn.cooperators[1:, 0], [by_hand(k, 4.5) for k in range(1, 9)], rtol=1e-5)
    np.testing.assert_allclose(drawn.defectors[:-1, 0], [by_hand(k, 8) for k in range(8)], rtol=1e-5)
    np.testing.assert_allclose(drawn.cooperators[[1, 8], 0], [137.9375, 165.5], rtol=1e-5)
    np.testing.assert_allclose(drawn.defectors[[0, 7], 0], [141, 190], rtol=1e-5)
    assert str(verdict(drawn)) == "a social dilemma of fear and greed" and drawn.equilibria() == [0]


# ---------------------------------------------------------------------- sanctions
def test_without_fines_sanctions_change_nothing_and_enforcers_take_the_greed_away():
    _, actions, _ = played(SANCTIONED, ["fair", "nash", "greedy", "conditional"] * 2, max_steps=6)
    assert actions[::2].all() and not actions[1::2].any()
    drawn = diagram(SANCTIONED, SANCTIONED.cooperator, SANCTIONED.defector)
    np.testing.assert_allclose(drawn.cooperators[1:, 0], [by_hand(k, 4.5) for k in range(1, 9)], rtol=1e-5)
    assert str(verdict(drawn)) == "a social dilemma of fear and greed"
    enforced = diagram(SANCTIONED, "enforcer", "nash")
    paid = [by_hand(k, 4.5) - 20 * (k < 8) for k in range(1, 9)]
    np.testing.assert_allclose(enforced.cooperators[1:, 0], paid, rtol=1e-5)
    np.testing.assert_allclose(enforced.defectors[7, 0], 190 - 7 * 80, rtol=1e-5)
    np.testing.assert_allclose(enforced.defectors[0, 0], 141, rtol=1e-5)
    assert str(verdict(enforced)) == "a social dilemma of fear"


def test_the_fines_that_take_what_the_best_deviation_gains():
    gain = appropriation.deviation_gain(8, NUMBERS)
    assert gain == pytest.approx(62.015625, abs=1e-9)
    assert [deterring_points(gain, fine) for fine in (80, 62.015625, 62, 40, 20, 10)] == [1, 1, 2, 2, 4, 7]
    seats = ["enforcer"] + ["fair"] * 6 + ["greedy"]
    deterred, *_ = played(SANCTIONED, seats, max_steps=6)
    tempted, *_ = played(SANCTIONED, seats, fine=40, fee=20, max_steps=6)  # 1 : 2, one fine is not enough
    rounds = deterred.reshape(3, 2, 8).sum(axis=1), tempted.reshape(3, 2, 8).sum(axis=1)
    np.testing.assert_allclose(rounds[0][-1, 7], 227.5 - 80, rtol=1e-5)
    np.testing.assert_allclose(rounds[1][-1, 7], 227.5 - 40, rtol=1e-5)
    assert rounds[0][-1, 7] < 165.5 < rounds[1][-1, 7]


def test_metrics_of_sanctions_are_shown_per_round():
    _, _, metrics = played(SANCTIONED, ["enforcer"] * 7 + ["nash"], max_steps=6)
    rents = 39.5 * (23 - 0.25 * 39.5 - 5)
    np.testing.assert_allclose(metrics["rent_efficiency"], rents / 324, rtol=1e-5)
    np.testing.assert_allclose(metrics["sanction_losses"], 7 * (20 + 80) / 324, rtol=1e-5)
    np.testing.assert_allclose(metrics["net_rent_efficiency"], (rents - 700) / 324, rtol=1e-5)
    np.testing.assert_allclose(metrics["points"], [1] * 7 + [0], rtol=1e-6)
    np.testing.assert_allclose(metrics["investment"], [4.5] * 7 + [8], rtol=1e-6)
    assert "rounds" not in metrics


def test_sanctioned_random_play_equals_a_plain_loop_over_the_rules():
    env = SanctionedAppropriation(num_agents=5, num_levels=4, known_end=True)
    params = env.make_params(max_steps=12, fee=3.0, fine=7.0)
    step, rng = jax.jit(env.step_env), np.random.default_rng(2)
    observation, state = env.reset(jax.random.key(0), params)
    last, fines = [0.0] * 5, [0] * 5
    for t in range(12):
        second = t % 2 == 1
        for i, seen in enumerate(np.asarray(observation)):
            mean, others = (sum(last) - last[i]) / 4, [last[(i + j) % 5] for j in range(1, 5)]
            wanted = [t == 0, last[i], mean, 72 / 250, second, 1 - t / 12, *others, fines[i] / 4]
            np.testing.assert_allclose(seen, np.array(wanted, float), atol=1e-6)
        if t < 2:
            assert env.action_mask(state, params).tolist() == [[True] * 4 + [second]] * 5
        actions = rng.integers(0, 5, 5)  # in the first stage 4 is forbidden: it invests everything
        observation, state, payoff, terminated, truncated, _ = step(jax.random.key(t), state, actions, params)
        if second:
            targets = [(i + a) % 5 if a else None for i, a in enumerate(actions.tolist())]
            fines = [targets.count(i) for i in range(5)]
            wanted_payoff = [-3.0 * (targets[i] is not None) - 7.0 * fines[i] for i in range(5)]
        else:
            last = [min(a, 3) / 3 for a in actions.tolist()]
            total = 25 * sum(last)
            wanted_payoff = [5 * 25 * (1 - y) + 25 * y * (23 - 0.25 * total) for y in last]
        np.testing.assert_allclose(payoff, wanted_payoff, rtol=1e-5, atol=1e-3)
        assert (bool(terminated), bool(truncated)) == (t == 11, False)


def test_a_forbidden_action_fines_nobody():
    _, state = SANCTIONED.reset(jax.random.key(0))
    state = state.replace(sanctioning=jnp.asarray(True), choices=jnp.full(8, 9))
    actions = jnp.asarray([8, 9, 20, 50, 8, 30, 40, 0])  # with eight agents 1 .. 7 name another
    _, state, reward, *_ = compiled(SANCTIONED)[0](jax.random.key(0), state, actions, SANCTIONED.default_params)
    assert not reward.any() and not state.received.any() and set(state.choices.tolist()) == {9}


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("name", "settings"),
    itertools.product(("appropriation", "appropriation_with_sanctions"), ({"num_agents": 1}, {"num_levels": 1})),
)
def test_bad_settings_are_refused(name, settings):
    (setting,) = settings
    with pytest.raises(InputError, match=f"^{name}: {setting} must be at least 2, got 1"):
        make(name, **settings)


@pytest.mark.parametrize("env", [GAME, SANCTIONED])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"endowment": 0}, "endowment must be above 0, got 0"),
        ({"quadratic_loss": 0}, "quadratic_loss must be above 0, got 0"),
        ({"linear_return": 5}, "linear_return must be above 5.0, got 5"),
        ({"outside_return": -1}, "outside_return must be at least 0, got -1"),
        ({"max_steps": 0}, "max_steps must be at least"),
    ],
)
def test_parameters_without_a_rent_are_refused(env, params, message):
    with pytest.raises(InputError, match=message):
        env.make_params(**params)


def test_a_round_with_sanctions_takes_two_steps():
    with pytest.raises(InputError, match="max_steps must be even, 2 a round, got 9; closest: 8"):
        SANCTIONED.make_params(max_steps=9)
    with pytest.raises(InputError, match="fine must be at least 0"):
        SANCTIONED.make_params(fine=-1)


# ---------------------------------------------------------------------- learning
@pytest.mark.slow
def test_individuals_learn_the_investment_of_the_equilibrium():
    config = IPPO(hidden_sizes=(32,), num_envs=32, rollout_length=20, minibatches=1, lr=3e-3)
    *_, chunk = Fit(GAME, config, range(2), 1.2e5, chunks=3)
    investment = chunk.logs["metrics"]["investment"].mean(-1)
    assert np.all(np.abs(investment - 8) < 0.5), investment
