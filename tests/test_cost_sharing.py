"""The airport game: payments by hand, its solutions by enumeration, and what scripted players make of it."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from marl_suite.envs import InputError, make
from marl_suite.envs.markets.cost_sharing import CostSharing, in_core, nucleolus, shapley_value
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

ENV = CostSharing()
FULL = ENV.num_levels - 1
NEEDS = np.array([1.0, 2.0, 3.0])
SOME_NEEDS = [NEEDS, np.array([7.0, 2.0, 2.0, 5.0]), np.array([4.0, 4.0]), np.array([0.5, 3.0, 1.0, 3.0, 0.25])]


@jax.jit
def step(state, actions, params):
    return ENV.step_env(jax.random.key(0), state, actions, params)


def start(params=None, seed=0):
    return ENV.initial_state(jax.random.key(seed), ENV.default_params if params is None else params)


def coalitions(agents):
    return [s for size in range(1, len(agents) + 1) for s in itertools.combinations(agents, size)]


# ---------------------------------------------------------------------- solutions
@pytest.mark.parametrize(
    ("needs", "expected"),
    [((1, 2, 3), (1 / 3, 5 / 6, 11 / 6)), ((50, 100, 150), (50 / 3, 125 / 3, 275 / 3)), ((2, 2), (1, 1))],
)
def test_published_shapley_values(needs, expected):
    np.testing.assert_allclose(shapley_value(np.array(needs, float)), expected, rtol=1e-12)


@pytest.mark.parametrize("needs", SOME_NEEDS)
def test_shapley_values_are_mean_marginal_costs_over_all_orders_of_arrival(needs):
    orders = list(itertools.permutations(range(len(needs))))
    total = np.zeros(len(needs))
    for order in orders:
        built = 0.0
        for agent in order:
            total[agent] += max(needs[agent] - built, 0)
            built = max(built, needs[agent])
    np.testing.assert_allclose(shapley_value(needs), total / len(orders), rtol=1e-12)
    np.testing.assert_allclose(shapley_value(jnp.asarray(needs)), total / len(orders), rtol=1e-5)


def nucleolus_by_linear_programs(needs):
    """Makes the least excess as large as can be, fixes the coalitions that decide it, and goes on with the rest."""
    agents = range(len(needs))
    free, equal, least = [s for s in coalitions(agents) if len(s) < len(needs)], [], []
    row = lambda s, slack: [float(i in s) for i in agents] + [slack]  # noqa: E731
    while True:
        cost = [max(needs[list(s)]) for s in free]
        result = linprog(
            [0.0] * len(needs) + [-1.0],
            A_ub=[row(s, 1.0) for s in free],
            b_ub=cost,
            A_eq=[row(agents, 0.0), *(row(s, 0.0) for s in equal)],
            b_eq=[max(needs), *least],
            bounds=[(None, None)] * (len(needs) + 1),
        )
        tight = [s for s, price in zip(free, result.ineqlin.marginals, strict=True) if abs(price) > 1e-9]
        equal, least = equal + tight, [*least, *(max(needs[list(s)]) - result.x[-1] for s in tight)]
        free = [s for s in free if s not in tight]
        if not free or np.linalg.matrix_rank([row(agents, 0.0), *(row(s, 0.0) for s in equal)]) == len(needs):
            return result.x[:-1]


@pytest.mark.parametrize("needs", SOME_NEEDS)
def test_the_nucleolus_is_that_of_successive_linear_programs(needs):
    np.testing.assert_allclose(nucleolus(needs), nucleolus_by_linear_programs(needs), atol=1e-7)


def test_the_nucleolus_of_one_two_three_spares_the_smallest_less_than_the_shapley_value_does():
    np.testing.assert_allclose(nucleolus(NEEDS), [0.5, 0.75, 1.75], rtol=1e-12)


@pytest.mark.parametrize("needs", SOME_NEEDS)
def test_the_core_is_that_of_all_coalitions(needs):
    random = np.random.default_rng(0)
    inside = {True: 0, False: 0}
    transfers = random.normal(0, 1, (400, len(needs))) * np.repeat(needs.max() * np.array([0.05, 0.5]), 200)[:, None]
    candidates = nucleolus(needs) + transfers - transfers.mean(axis=1, keepdims=True)
    for payments in [shapley_value(needs), nucleolus(needs), *candidates]:
        objects = any(payments[list(s)].sum() > needs[list(s)].max() + 1e-9 for s in coalitions(range(len(needs))))
        assert in_core(payments, needs) == (not objects)
        inside[not objects] += 1
    assert min(inside.values()) > 5
    assert in_core(shapley_value(needs), needs) and in_core(nucleolus(needs), needs)


@pytest.mark.parametrize("payments", [(0, 0, 2.9), (1.1, 0, 1.9), (1, 1.1, 0.9), (-0.1, 1, 2.1), (0.5, 1, 1.6)])
def test_what_bears_too_little_or_too_much_or_burdens_a_coalition_is_outside_the_core(payments):
    assert not in_core(np.array(payments), NEEDS)


# ---------------------------------------------------------------------- rules
def savings_by_hand(offers, needs, rebate=0.0):
    """One step in plain Python: savings and whether offers covered the cost."""
    cost = max(needs)
    shares = [offer * cost / FULL for offer in offers]
    if sum(offers) < FULL:
        return [0.0] * len(needs), False
    surplus = sum(shares) - cost
    return [n - (s - rebate * surplus * s / sum(shares)) for n, s in zip(needs, shares, strict=True)], True


@pytest.mark.parametrize("rebate", [0.0, 0.5, 1.0])
def test_random_offers_save_what_the_rules_say(rebate):
    params = ENV.make_params(needs=[7.0, 2.0, 5.0], rebate=rebate)
    needs, fair = [7.0, 2.0, 5.0], shapley_value(np.array([7.0, 2.0, 5.0]))
    random, state, agreements = np.random.default_rng(1), start(params), 0
    for offers in random.integers(0, 13, (60, 3)):
        _, state, reward, terminated, _, info = step(state, jnp.asarray(offers), params)
        savings, agreed = savings_by_hand(offers.tolist(), needs, rebate)
        np.testing.assert_allclose(reward, savings, atol=1e-5)
        metrics = info["metrics"]
        off = sum(abs(n - s - f) for n, s, f in zip(needs, savings, fair, strict=True)) / (2 * 7) if agreed else 0
        wanted = {"agreement": float(agreed), "efficiency": sum(savings) / (2 + 5), "shapley_distance": off}
        assert {name: float(x) for name, x in metrics.items()} == pytest.approx(wanted, abs=1e-5)
        assert not terminated
        agreements += agreed
    assert 10 < agreements < 50


def test_rounding_never_undoes_an_exact_cover():
    for levels, num_agents in ((2, 3), (11, 3), (19, 7), (50, 4), (101, 3)):
        env = CostSharing(num_levels=levels, num_agents=num_agents)
        splits = np.random.default_rng(0).multinomial(levels - 1, np.ones(num_agents) / num_agents, 200)
        params, needs = env.default_params, jnp.asarray(env.default_params.needs) * 0.7
        covers = jax.vmap(lambda offers: env.payments(offers, needs, params)[0])  # noqa: B023
        assert covers(jnp.asarray(splits)).all()
        short = splits - np.eye(num_agents, dtype=int)[splits.argmax(axis=1)]
        assert not covers(jnp.asarray(short)).any()


def test_nash_equilibria_cover_exactly_and_charge_nobody_beyond_its_need():
    """Every joint offer of seven levels, in multiples of half the smallest need, against every change of one offer."""
    env = CostSharing(num_levels=7)
    every = np.array(list(itertools.product(range(7), repeat=3)))
    needs = jnp.asarray(NEEDS, jnp.float32)
    paid = np.asarray(jax.vmap(lambda offers: env.payments(offers, needs, env.default_params)[1])(jnp.asarray(every)))
    payments = paid.reshape(7, 7, 7, 3)
    best = [payments[..., i] <= payments[..., i].min(axis=i, keepdims=True) + 1e-6 for i in range(3)]
    covered = every.sum(axis=1).reshape(7, 7, 7) >= 6
    fair = (every.sum(axis=1) == 6) & np.all(every * 0.5 <= NEEDS + 1e-9, axis=1)
    np.testing.assert_array_equal(np.all(best, axis=0) & covered, fair.reshape(7, 7, 7))
    assert np.all(best, axis=0)[0, 0, 0] and not covered[0, 0, 0]  # that all offer nothing is one too


def test_the_shapley_value_of_the_defaults_is_a_joint_offer():
    np.testing.assert_allclose(shapley_value(NEEDS) / 3 * FULL, [2, 5, 11], rtol=1e-12)


def test_what_agents_see_is_their_own_need_and_offer_first():
    observation, state = ENV.reset(jax.random.key(0))
    thirds = np.array([1, 2, 3]) / 3
    for i in range(3):
        np.testing.assert_allclose(observation[i], [1, *np.roll(thirds, -i), 0, 0, 0], rtol=1e-6)
    observation, *_ = step(state, jnp.array([2, 5, 18]), ENV.default_params)
    for i in range(3):
        offers = np.roll([2 / 18, 5 / 18, 1], -i)
        np.testing.assert_allclose(observation[i], [0, *np.roll(thirds, -i), *offers], rtol=1e-6)


def test_drawn_needs_hold_for_an_episode_and_lie_between_the_least_and_the_greatest():
    env = make("cost_sharing", needs="drawn")
    params = env.make_params(needs=[2.0, 4.0, 6.0])
    states = jax.jit(jax.vmap(env.initial_state, (0, None)))(jax.random.split(jax.random.key(0), 2000), params)
    assert states.needs.min() >= 2 and states.needs.max() <= 6
    np.testing.assert_allclose(states.needs.mean(axis=0), 4, atol=3.3 * np.sqrt(16 / 12 / 2000))
    np.testing.assert_allclose(states.shapley[7], shapley_value(np.asarray(states.needs[7])), rtol=1e-5)
    first = jax.tree.map(lambda x: x[0], states)
    _, after, *_ = env.step_env(jax.random.key(1), first, jnp.array([9, 9, 9]), params)
    np.testing.assert_array_equal(after.needs, first.needs)


def test_a_negotiation_ends_with_agreement_only_where_it_is_asked_to():
    env = make("cost_sharing", until_agreement=True)
    outcome = jax.jit(lambda offers: env.step_env(jax.random.key(0), start(), offers, env.default_params)[3:5])
    assert tuple(map(bool, outcome(jnp.array([1, 5, 12])))) == (True, False)
    assert tuple(map(bool, outcome(jnp.array([1, 5, 11])))) == (False, False)
    assert not step(start(), jnp.array([1, 5, 12]), ENV.default_params)[3]


# ---------------------------------------------------------------------- players
def play_by_name(*names, steps=1):
    """Metrics and savings of every step, by the game's own players."""
    params, state = ENV.default_params, start()
    observation, told = ENV.observe(state, params), []
    for _ in range(steps):
        key = jax.random.key(0)
        offers = jnp.stack([ENV.players[name](observation[i], key) for i, name in enumerate(names)])
        observation, state, reward, *_, info = step(state, offers, params)
        told.append((offers.tolist(), np.asarray(reward), info["metrics"]))
    return told


def test_all_shapley_share_by_the_shapley_value_at_once():
    ((offers, savings, metrics),) = play_by_name("shapley", "shapley", "shapley")
    assert offers == [2, 5, 11]
    np.testing.assert_allclose(savings, NEEDS - shapley_value(NEEDS), atol=1e-5)
    assert metrics["shapley_distance"] == pytest.approx(0, abs=1e-6) and metrics["efficiency"] == pytest.approx(1)


def test_equal_parts_leave_the_smallest_agent_nothing():
    ((offers, savings, metrics),) = play_by_name("egalitarian", "egalitarian", "egalitarian")
    assert offers == [6, 6, 6]
    np.testing.assert_allclose(savings, [0, 1, 2], atol=1e-5)
    assert metrics["shapley_distance"] == pytest.approx((2 / 3 + 1 / 6 + 5 / 6) / 2 / 3, abs=1e-5)


def test_those_who_concede_end_up_paying_for_the_stingy():
    told = play_by_name("conceding", "conceding", "stingy", steps=4)
    assert [offers for offers, *_ in told] == [[2, 5, 0], [6, 11, 0], [6, 12, 0], [6, 12, 0]]
    np.testing.assert_allclose(told[1][1], [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(told[3][1], [0, 0, 3], atol=1e-5)


def test_the_stingy_never_agree_and_the_random_offer_every_level():
    assert all(not metrics["agreement"] for *_, metrics in play_by_name("stingy", "stingy", "stingy", steps=2))
    keys = jax.random.split(jax.random.key(0), 400)
    assert set(jax.vmap(ENV.players["random"], (None, 0))(jnp.zeros(7), keys).tolist()) == set(range(19))


def test_conceding_and_being_stingy_are_a_dilemma_of_greed():
    diagram = schelling.play(ENV, ENV.make_params(max_steps=20), ("conceding", "stingy"), episodes=60)
    assert str(verdict(diagram)) == "a social dilemma of greed" and not {3} & set(diagram.equilibria())
    np.testing.assert_allclose(diagram.cooperators[3], 20 * 3 / 3, rtol=1e-4)  # all save 3 in sum
    np.testing.assert_allclose(diagram.defectors[0], 0, atol=1e-4)
    np.testing.assert_allclose(diagram.cooperators[1], 0, atol=1e-3)  # the lone one pays all its need, if it can


def test_tables_show_the_distance_from_the_shapley_value_per_agreement():
    means: Any = {"agreement": 0.5, "efficiency": 0.4, "shapley_distance": 0.1}
    assert ENV.derived_metrics(means) == {"agreement": 0.5, "efficiency": 0.4, "shapley_distance": 0.2}


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"needs": [1.0, 0.0, 3.0]}, r"needs must be positive, got \[1.0, 0.0, 3.0\]"),
        ({"needs": [1.0, 2.0]}, r"needs must have shape \(3,\)"),
        ({"rebate": 1.2}, "rebate must be at most 1, got 1.2"),
        ({"rebate": -0.2}, "rebate must be at least 0, got -0.2"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_numbers_outside_the_game_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ENV.make_params(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_agents": 1}, "num_agents must be at least 2, got 1"),
        ({"num_levels": 1}, "num_levels must be at least 2, got 1"),
        ({"needs": "fixd"}, "closest: 'fixed'"),
    ],
)
def test_settings_outside_the_game_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        make("cost_sharing", **wrong)
