"""The Gordon-Schaefer fishery: its closed forms, that play settles where they say, and what its players earn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import make
from marl_suite.envs.commons.harvest_dynamics import (
    maximum_economic_yield,
    maximum_sustainable_yield,
    open_access,
    steady_state,
    symmetric_nash,
)
from marl_suite.envs.errors import InputError
from marl_suite.games.schelling import Diagram, verdict

ENV = make("harvest_dynamics")
PARAMS = ENV.default_params
PLAYERS = list(ENV.players)
STEPS = 300


def _play(actions, seats, params):
    """Records [T] of an episode in which seats [N] are numbers of players, or -1 for the given actions [T, N]."""

    def step(carry, actions):
        observation, state = carry
        choices = [jax.vmap(ENV.players[name], (0, None))(observation, jax.random.key(0)) for name in PLAYERS]
        chosen = jnp.stack([*choices, actions])[seats, jnp.arange(ENV.num_agents)]
        observation, state, reward, terminated, truncated, info = ENV.step_env(jax.random.key(0), state, chosen, params)
        return (observation, state), info["metrics"] | {
            "reward": reward,
            "over": jnp.stack([terminated, truncated]),
            "observation": observation,
        }

    return jax.lax.scan(step, ENV.reset(jax.random.key(0), params), actions)[1]


_jitted = jax.jit(_play)


def play(seats=None, actions: Any = 0.0, **numbers):
    where = np.full(4, -1) if seats is None else np.array([PLAYERS.index(name) for name in seats])
    actions = np.broadcast_to(np.asarray(actions, np.float32), (STEPS, 4))
    return jax.tree.map(np.asarray, _jitted(actions, where, ENV.make_params(**numbers)))


# ---------------------------------------------------------------------- closed forms
def test_steady_states_are_those_of_fisheries_economics():
    np.testing.assert_allclose(open_access(PARAMS), (25 / 3, 0.5, 0.0375, 0.0), atol=1e-12)
    np.testing.assert_allclose(maximum_economic_yield(PARAMS), (25 / 6, 0.75, 0.028125, 1.875), atol=1e-12)
    np.testing.assert_allclose(maximum_sustainable_yield(PARAMS)[:3], (25 / 3, 0.5, 0.0375), atol=1e-12)
    efforts = np.linspace(0, 50 / 3, 100_001)
    settled = steady_state(efforts, PARAMS)
    np.testing.assert_allclose(efforts[np.argmax(settled.rent)], maximum_economic_yield(PARAMS).effort, atol=2e-4)
    np.testing.assert_allclose(efforts[np.argmax(settled.harvest)], maximum_sustainable_yield(PARAMS).effort, atol=2e-4)


def test_pitfall_10_open_access_is_where_the_rent_is_gone():
    access = open_access(PARAMS)
    np.testing.assert_allclose(access.stock, PARAMS.effort_cost / (PARAMS.price * PARAMS.catchability), atol=1e-12)
    mistaken = PARAMS.capacity * (1 - PARAMS.growth / (PARAMS.catchability * PARAMS.price))
    effort = PARAMS.growth / PARAMS.catchability * (1 - mistaken / PARAMS.capacity)  # that settles at 0.917
    assert abs(access.rent) < 1e-9 and steady_state(effort, PARAMS).rent > 1 and round(mistaken, 3) == 0.917
    settled = play(actions=access.effort / (4 * PARAMS.max_effort))
    np.testing.assert_allclose(settled["stock"][-1], access.stock, atol=1e-5)
    np.testing.assert_allclose(settled["reward"][-1], 0, atol=1e-4)


@pytest.mark.parametrize("agents", [1, 2, 4, 50])
def test_at_the_static_equilibrium_no_other_constant_effort_pays_more(agents):
    total = symmetric_nash(PARAMS, agents).effort
    own, others = total / agents, total * (agents - 1) / agents
    efforts = np.append(np.linspace(0, 8, 8001), own)
    stock = steady_state(others + efforts, PARAMS).stock
    earns = efforts * (PARAMS.price * PARAMS.catchability * stock - PARAMS.effort_cost)
    assert earns.max() <= earns[-1] + 1e-12
    assert maximum_economic_yield(PARAMS).effort <= total < open_access(PARAMS).effort


def test_one_fisher_takes_the_economic_yield_and_two_take_a_third_more():
    np.testing.assert_allclose(symmetric_nash(PARAMS, 1), maximum_economic_yield(PARAMS), atol=1e-12)
    np.testing.assert_allclose(symmetric_nash(PARAMS, 2)[:2], (50 / 9, 2 / 3), atol=1e-12)
    np.testing.assert_allclose(symmetric_nash(PARAMS, 10**7).stock, open_access(PARAMS).stock, atol=1e-6)


@pytest.mark.parametrize("law", [maximum_economic_yield, lambda params: symmetric_nash(params, 4), open_access])
@pytest.mark.parametrize("numbers", [{}, {"growth": 0.3, "effort_cost": 0.6, "capacity": 2.0, "max_effort": 15.0}])
def test_constant_efforts_settle_at_the_closed_forms(law, numbers):
    params = ENV.make_params(**numbers)
    expected = law(params)
    shares = np.array([0.1, 0.2, 0.3, 0.4]) * expected.effort / params.max_effort  # not all alike
    assert shares.max() <= 1
    record = play(actions=shares, **numbers)
    np.testing.assert_allclose(record["stock"][-1], expected.stock, rtol=1e-5)
    np.testing.assert_allclose(record["harvest"][-1], expected.harvest, rtol=1e-4)
    np.testing.assert_allclose(record["reward"][-1], expected.rent * np.array([0.1, 0.2, 0.3, 0.4]), atol=1e-3)
    best = maximum_economic_yield(params).rent
    np.testing.assert_allclose(record["efficiency"][-1], expected.rent / best, atol=1e-4)


# ---------------------------------------------------------------------- rules
@pytest.mark.parametrize("numbers", [{}, {"catchability": 0.3, "effort_cost": 1.0}])
def test_random_play_follows_a_loop_in_double_precision(numbers):
    params = ENV.make_params(**numbers)
    actions = np.random.default_rng(1).uniform(-0.1, 0.6, (STEPS, 4)).astype(np.float32)
    actions[40:] = actions[40:] * (np.random.default_rng(2).random((STEPS - 40, 1)) < 0.5)
    record = play(actions=actions, **numbers)
    stock, emptied = 0.5, 0
    for t in range(STEPS):
        effort = [min(1.0, max(0.0, float(a))) * params.max_effort for a in actions[t]]
        grown = stock + params.growth * stock * (1 - stock / params.capacity)
        harvest = min(params.catchability * sum(effort) * stock, grown)
        emptied += harvest == grown > 0
        for i in range(4):
            share = effort[i] / sum(effort) if sum(effort) else 0.0
            earned = params.price * share * harvest - params.effort_cost * effort[i]
            np.testing.assert_allclose(record["reward"][t, i], earned, rtol=1e-3, atol=1e-4)
        stock = grown - harvest
        np.testing.assert_allclose(record["stock"][t], stock, rtol=1e-4, atol=1e-6)
    assert (emptied > 0) == bool(numbers)
    assert record["over"][:-1].any() == record["over"][-1, 0] == np.False_ and record["over"][-1, 1]


def test_fishers_see_stock_last_efforts_and_the_advice():
    record = play(actions=[0.1, 0.2, 0.3, 0.8])
    np.testing.assert_allclose(record["observation"][0, :, 0], record["stock"][0])
    np.testing.assert_allclose(record["observation"][0, :, 1], [0.1, 0.2, 0.3, 0.8])
    np.testing.assert_allclose(record["observation"][0, :, 2], [1.3 / 3, 0.4, 1.1 / 3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(record["observation"][0, :, 3:], [[0.25, 0.75]] * 4, rtol=1e-6)


# ---------------------------------------------------------------------- players
def test_players_do_what_is_said_of_them():
    scarce, plenty = (jnp.array([stock, 0.0, 0.0, 0.25, 0.75]) for stock in (0.6, 0.8))
    poor = scarce.at[0].set(0.45)

    def efforts(name):
        return [float(ENV.players[name](observation, jax.random.key(0))) for observation in (poor, scarce, plenty)]

    assert efforts("fair") == [0.25] * 3 and efforts("open_access") == [0.5] * 3
    np.testing.assert_allclose(efforts("nash"), 0.4)
    assert efforts("greedy") == [0, 1, 1] and efforts("threshold") == [0, 0, 1]
    record = play(["nash"] * 4)
    np.testing.assert_allclose(record["stock"][-1], symmetric_nash(PARAMS, 4).stock, atol=1e-5)


def diagram(cooperator, defector):
    cooperators, defectors = np.full((5, 2), np.nan), np.full((5, 2), np.nan)
    for k in range(5):
        returns = play([cooperator] * k + [defector] * (4 - k))["reward"].astype(float).sum(axis=0)
        cooperators[k] = returns[:k].mean() if k else np.nan
        defectors[k] = returns[k:].mean() if k < 4 else np.nan
    return Diagram(cooperators, defectors)


def test_fishing_as_at_the_equilibrium_is_a_dilemma_of_fear_and_greed():
    result = diagram(ENV.cooperator, ENV.defector)
    np.testing.assert_allclose(result.cooperators[[1, 4], 0], [74.3, 135.5], atol=0.05)
    np.testing.assert_allclose(result.defectors[[0, 3], 0], [86.3, 184.1], atol=0.05)
    assert str(verdict(result)) == "a social dilemma of fear and greed" and result.equilibria() == [0]


def test_against_full_open_access_fishing_less_is_better_for_oneself():
    result = diagram("fair", "open_access")
    assert result.gap(0).high < 0 < result.gap(3).low and result.equilibria() == [2]
    among_fair = {
        name: diagram("fair", name).defectors[3, 0] for name in ("nash", "open_access", "greedy", "threshold")
    }
    assert max(among_fair, key=lambda name: among_fair[name]) == ENV.exploiter


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"growth": 1.5}, "growth must be at most 1, got 1.5"),
        ({"price": 0}, "price must be at least"),
        ({"initial_stock": 2}, "initial_stock must be at most 1"),
        ({"effort_cost": 1.8}, r"effort_cost must be below .* 1.8, .* got 1.8"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_numbers_that_make_no_game_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        ENV.make_params(**numbers)


def test_a_lone_fisher_is_no_game():
    with pytest.raises(InputError, match="num_agents must be at least 2, got 1"):
        make("harvest_dynamics", num_agents=1)
