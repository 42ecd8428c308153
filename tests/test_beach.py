"""The beach problem: rewards by hand, its best loads and equilibria by enumeration, and its scripted players."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.markets.beach import Beach, best_load, is_equilibrium, optimal_loads, section_worth

ENV = Beach(num_agents=12, num_sections=3)
STEP = jax.jit(lambda state, actions, params: ENV.step_env(jax.random.key(0), state, actions, params))
FULL = Beach()
STARTS = jax.jit(jax.vmap(FULL.initial_state, (0, None)))(jax.random.split(jax.random.key(0), 300), FULL.default_params)
LEFT, STAY, RIGHT = 0, 1, 2


def state_of(env, sections, first):
    """The state in which agents lie in `sections`; `first` are truth values."""
    sections, first = jnp.asarray(sections, jnp.int32), jnp.asarray(first, bool)
    return env.initial_state(jax.random.key(0), env.default_params).replace(
        sections=sections, first=first, loads=env._count(sections, first)[1]
    )


def rewards_by_hand(sections, first, num_sections, capacity, weight=0.0, team=0.0):
    """One step's rewards in plain Python, from where everybody lies after moving."""
    worth, mixture = [], []
    for section in range(num_sections):
        types = [kind for place, kind in zip(sections, first, strict=True) if place == section]
        worth.append(len(types) * math.exp(-len(types) / capacity))
        mixture.append(min(sum(types), len(types) - sum(types)) / len(types) if types else 0)
    whole = sum(worth) + weight * sum(mixture) / num_sections
    own = [worth[section] + weight * mixture[section] for section in sections]
    return [(1 - team) * x + team * whole for x in own], sum(worth), sum(mixture) / num_sections


# ---------------------------------------------------------------------- rules
@pytest.mark.parametrize(("weight", "team"), [(0.0, 0.0), (2.0, 0.0), (0.5, 1.0), (1.0, 0.25)])
def test_random_walks_are_paid_as_the_rules_say(weight, team):
    params = ENV.make_params(capacity=3.0, mixture_weight=weight, team=team)
    state, random = ENV.initial_state(jax.random.key(3), params), np.random.default_rng(0)
    sections, first = np.array(state.sections), np.array(state.first)
    for _ in range(15):
        actions = random.integers(0, 3, 12)
        _, state, reward, terminated, _, info = STEP(state, jnp.asarray(actions), params)
        sections = np.array([min(max(s + a - 1, 0), 2) for s, a in zip(sections, actions, strict=True)])
        np.testing.assert_array_equal(state.sections, sections)
        wanted, worth, mixture = rewards_by_hand(sections.tolist(), first.tolist(), 3, 3.0, weight, team)
        np.testing.assert_allclose(reward, wanted, rtol=1e-5)
        crowded = sum(n for n in np.bincount(sections) if n > 3) / 12
        metrics = {name: float(value) for name, value in info["metrics"].items()}
        assert metrics == pytest.approx({"beach_worth": worth, "beach_mixture": mixture, "crowded": crowded}, rel=1e-5)
        assert not terminated and np.array_equal(state.first, first)


def test_beyond_the_ends_there_is_nothing():
    state = state_of(ENV, [0] * 6 + [2] * 6, [True] * 12)
    left, right = jnp.full(12, LEFT), jnp.full(12, RIGHT)
    assert STEP(state, left, ENV.default_params)[1].sections.tolist() == [0] * 6 + [1] * 6
    assert STEP(state, right, ENV.default_params)[1].sections.tolist() == [1] * 6 + [2] * 6


def test_agents_see_their_type_their_section_and_the_whole_beach():
    state = state_of(ENV, [0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2], [True, False, False] + [True] * 6 + [False] * 3)
    observation = np.asarray(ENV.observe(state, ENV.make_params(capacity=3.0)))
    common = [3 / 12, 0, 9 / 12, 1 / 3, 0, 6 / 9, 3 / 12]
    np.testing.assert_allclose(observation[0], [1, 1, 0, 0, *common], rtol=1e-6)
    np.testing.assert_allclose(observation[11], [0, 0, 0, 1, *common], rtol=1e-6)
    np.testing.assert_allclose(ENV.global_state(state, ENV.make_params(capacity=3.0)), common, rtol=1e-6)


@pytest.mark.parametrize("at_end", [False, True])
def test_rewards_of_all_steps_or_of_the_last_alone(at_end):
    params = ENV.make_params(paid_at_end=at_end, max_steps=3)
    state, paid = ENV.initial_state(jax.random.key(1), params), []
    for _ in range(3):
        _, state, reward, *_ = STEP(state, jnp.full(12, STAY), params)
        paid.append(bool(np.all(reward > 0)))
        assert np.all(reward > 0) or not np.any(reward)
    assert paid == ([False, False, True] if at_end else [True] * 3)


def test_starts_are_uniform_and_types_have_their_shares():
    sections, first = np.asarray(STARTS.sections), np.asarray(STARTS.first)
    counts = np.bincount(sections.ravel(), minlength=6) / sections.size
    np.testing.assert_allclose(counts, 1 / 6, atol=4 * np.sqrt(5 / 36 / sections.size))
    assert abs(first.mean() - 0.3) < 4 * np.sqrt(0.21 / first.size)
    assert abs(first[sections == 0].mean() - 0.3) < 4 * np.sqrt(0.21 / (sections == 0).sum()), "independent of places"
    np.testing.assert_array_equal(STARTS.loads[5].sum(axis=0), np.bincount(sections[5], minlength=6))
    np.testing.assert_array_equal(STARTS.loads[5][0], np.bincount(sections[5], weights=first[5], minlength=6))


# ---------------------------------------------------------------------- known answers
def test_published_worth_of_a_full_section():
    assert (
        section_worth(7, 7) == pytest.approx(7 / math.e, rel=1e-12) and round(float(section_worth(7, 7)), 4) == 2.5752
    )
    assert best_load(7) == 7


@pytest.mark.parametrize("capacity", [0.4, 1.0, 2.5, 6.7, 20.0])
def test_the_best_load_is_that_of_all_loads(capacity):
    loads = np.arange(1, 100)
    assert best_load(capacity) == loads[section_worth(loads, capacity).argmax()]


def test_the_default_beach_is_worth_most_when_one_section_takes_the_excess():
    loads, worth = optimal_loads(100, 6, 7)
    assert loads.tolist() == [7, 7, 7, 7, 7, 65]
    assert worth == pytest.approx(5 * 7 / math.e + 65 * math.exp(-65 / 7), rel=1e-12) and round(worth, 4) == 12.8818


@pytest.mark.parametrize("case", [(10, 3, 7.0), (12, 3, 2.0), (15, 4, 3.5), (4, 2, 1.0), (3, 4, 2.0), (9, 1, 2.0)])
def test_best_loads_are_those_of_enumeration(case):
    num_agents, num_sections, capacity = case
    every = [x for x in itertools.product(range(num_agents + 1), repeat=num_sections) if sum(x) == num_agents]
    best = max(sum(n * math.exp(-n / capacity) for n in x) for x in every)
    loads, worth = optimal_loads(*case)
    assert worth == pytest.approx(best, rel=1e-12) and loads.sum() == num_agents
    assert section_worth(loads, capacity).sum() == pytest.approx(worth, rel=1e-12)


def test_of_all_loads_of_a_crowded_beach_only_the_most_even_are_equilibria():
    every = [np.array(x) for x in itertools.product(range(31), repeat=3) if sum(x) == 30]
    equilibria = {tuple(sorted(x.tolist())) for x in every if is_equilibrium(x, 4.0)}
    assert equilibria == {(10, 10, 10)}


def test_selfish_agents_lose_the_beach_three_tenths_of_its_worth_and_yet_earn_more():
    even, best = np.array([16, 16, 17, 17, 17, 17]), np.array([7] * 5 + [65])
    assert is_equilibrium(even, 7) and not is_equilibrium(best, 7)
    worth = section_worth(even, 7)
    assert round(float(worth.sum()), 4) == 9.2495
    assert round(float(even @ worth) / 100, 3) == 1.54
    assert round(float(best @ section_worth(best, 7)) / 100, 3) == 0.905


# ---------------------------------------------------------------------- players
@pytest.fixture(scope="module")
def final_loads():
    """Loads [S] after 60 steps of each player alone with its like, from five starts."""
    params = FULL.make_params(max_steps=1000)

    def play(name, state, key):
        player = jax.vmap(FULL.players[name])

        def step(state, key):
            actions = player(FULL.observe(state, params), jax.random.split(key, 100))
            return FULL.transition(key, state, actions, params)[0], None

        return jax.lax.scan(step, state, jax.random.split(key, 60))[0].loads.sum(axis=0)

    starts, keys = jax.tree.map(lambda x: x[:5], STARTS), jax.random.split(jax.random.key(1), 5)
    names = [name for name in FULL.players if name != "random"]
    with jax.debug_key_reuse(False):  # transitions ignore their key
        loads = jax.jit(lambda: {name: jax.vmap(lambda s, k: play(name, s, k))(starts, keys) for name in names})()  # noqa: B023
    return jax.tree.map(np.asarray, loads)


def test_those_who_sacrifice_reach_the_best_loads_exactly(final_loads):
    np.testing.assert_array_equal(final_loads["sacrifice"], np.tile([7, 7, 7, 7, 7, 65], (5, 1)))


def test_those_who_stay_stay(final_loads):
    np.testing.assert_array_equal(final_loads["stay"], STARTS.loads[:5].sum(axis=1))


def test_the_crowding_averse_and_opportunists_spread(final_loads):
    for name in ("crowding_averse", "opportunist"):
        worth = section_worth(final_loads[name].astype(float), 7).sum(axis=1)
        assert np.all(worth < 10.5) and final_loads[name].max() < 35, name


def test_one_opportunist_earns_more_than_the_ninety_nine_who_sacrifice():
    state = state_of(FULL, np.repeat(np.arange(6), [7] * 5 + [65]), [True] * 100)
    observation = FULL.observe(state, FULL.default_params)[-1]
    draw = jax.jit(jax.vmap(FULL.players["opportunist"], (None, 0)))
    actions = np.asarray(draw(observation, jax.random.split(jax.random.key(0), 500)))
    assert set(actions.tolist()) == {LEFT, STAY} and abs(np.mean(actions == LEFT) - 0.2) < 4 * 0.4 / np.sqrt(500)
    assert section_worth(8, 7) > 2.55 > 100 * section_worth(65, 7)


# ---------------------------------------------------------------------- size, bad input
def test_memory_is_linear_in_agents():
    """Per agent: out an observation of twenty float32 twice, its reward and payoff, its section and its type."""

    def bytes_of(num_agents):
        env = Beach(num_agents=num_agents)
        shapes = jax.eval_shape(lambda: (jax.random.key(0), env.reset(jax.random.key(0))[1]))
        actions = jax.ShapeDtypeStruct((num_agents,), np.int32)
        step = jax.jit(lambda key, state, actions: env.step_env(key, state, actions, env.default_params))
        memory: Any = step.lower(*shapes, actions).compile().memory_analysis()
        return memory.output_size_in_bytes + memory.temp_size_in_bytes

    per_agent = (bytes_of(51_000) - bytes_of(1_000)) / 50_000
    assert per_agent < 1.6 * (2 * 20 * 4 + 2 * 4 + 4 + 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": 0.0}, "capacity must be positive, got 0.0"),
        ({"first_type": 1.5}, "first_type must be at most 1, got 1.5"),
        ({"team": -0.5}, "team must be at least 0, got -0.5"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_numbers_outside_the_game_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        FULL.make_params(**wrong)


@pytest.mark.parametrize("wrong", [{"num_agents": 1}, {"num_sections": 1}])
def test_settings_outside_the_game_are_refused(wrong):
    with pytest.raises(InputError, match="must be at least 2, got 1"):
        make("beach", **wrong)
