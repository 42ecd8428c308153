"""Quantity competition, against its closed forms and a plain Python market."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.markets import cournot
from marl_suite.envs.markets.cournot import Cournot
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

DUOPOLY = Cournot()
MARKET = (100.0, 1.0, 10.0)  # intercept, slope, cost


def profits_of(quantities, intercept=100.0, slope=1.0, cost=10.0) -> list[float]:
    """Everybody's profit, by plain Python."""
    price = max(0.0, intercept - slope * sum(quantities))
    return [(price - cost) * quantity for quantity in quantities]


# ---------------------------------------------------------------------- closed forms
@pytest.mark.parametrize(
    ("firms", "nash", "price", "profit", "collusive"),
    [(2, 30, 40, 900, 1012.5), (3, 22.5, 32.5, 506.25, 675), (5, 15, 25, 225, 405)],
)
def test_the_known_numbers_and_that_all_of_them_are_on_the_grid(firms, nash, price, profit, collusive):
    env = Cournot(num_agents=firms)
    params, grid = env.default_params, np.arange(31) * 1.5
    share = cournot.collusive_quantity(firms, *MARKET)
    np.testing.assert_allclose(cournot.nash_quantity(firms, *MARKET), nash, rtol=1e-12)
    np.testing.assert_allclose([profits_of([nash] * firms)[0], profits_of([share] * firms)[0]], [profit, collusive])
    np.testing.assert_allclose(100 - firms * nash, price)
    np.testing.assert_allclose(env.quantities(np.arange(31), params), grid)
    levels = np.searchsorted(grid, [nash, share])
    np.testing.assert_allclose(grid[levels], [nash, share])
    told = jax.jit(jax.vmap(lambda actions: env.metrics(actions, params)))(np.tile(levels[:, None], firms))
    np.testing.assert_allclose(told["price"], [price, 55])
    np.testing.assert_allclose(told["profit"], np.tile([[profit], [collusive]], firms), rtol=1e-6)
    np.testing.assert_allclose(told["collusion_index"], np.tile([[0], [1]], firms), atol=1e-6)


def test_no_quantity_earns_more_than_the_best_response():
    grid = np.linspace(0, 60, 60_001)
    for rivals in (0.0, 22.5, 30.0, 71.0, 95.0):
        best = cournot.best_response_quantity(rivals, *MARKET)
        np.testing.assert_allclose(best, grid[((100 - rivals - grid - 10) * grid).argmax()], atol=1e-3)
    np.testing.assert_allclose(cournot.best_response_quantity(4 * 15.0, *MARKET), 15)  # Nash of five


def test_the_discretised_duopoly_has_three_equilibria_of_one_price():
    table = np.asarray(jax.jit(DUOPOLY.stage_payoffs)())
    grid = np.arange(31) * 1.5
    wanted = np.array([[profits_of([own, other])[0] for other in grid] for own in grid])
    np.testing.assert_allclose(table[0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(table[1], table[0].T)
    best = wanted >= wanted.max(axis=0)
    equilibria = [(grid[i], grid[j]) for i, j in np.argwhere(best & best.T)]
    assert equilibria == [(28.5, 31.5), (30, 30), (31.5, 28.5)]


def test_no_firm_has_reason_to_sell_more_than_the_grid_holds():
    assert cournot.best_response_quantity(0.0, *MARKET) == DUOPOLY.default_params.max_quantity


# ---------------------------------------------------------------------- play
@pytest.fixture(scope="module", params=[2, 3], ids=["2 firms, an index", "3 firms, in a box"])
def play(request):
    """A random play of 20 steps in episodes of 7, in a market where the price often reaches its floor."""
    env = Cournot(num_agents=request.param, num_levels=21)
    params = env.make_params(intercept=50.0, slope=0.8, cost=4.0, max_quantity=40.0, max_steps=7)
    actions = np.random.default_rng(0).integers(0, 21, (20, env.num_agents)).astype(np.int32)

    def run(actions):
        observation, state = env.reset(jax.random.key(0), params)

        def step(state, actions):
            observation, state, *rest = env.step(jax.random.key(0), state, actions, params)
            return state, (observation, *rest)

        return observation, jax.lax.scan(step, state, actions)[1]

    return env, actions, *jax.jit(run)(actions)


def test_a_random_play_pays_what_a_plain_market_pays(play):
    env, actions, _, (_, reward, _, _, info) = play
    firms, floors = env.num_agents, 0
    nash = 0.8 * (46 / (0.8 * (firms + 1))) ** 2
    collusive = 46**2 / (4 * 0.8 * firms)
    for t, levels in enumerate(actions):
        quantities = [2.0 * level for level in levels]
        wanted = profits_of(quantities, 50.0, 0.8, 4.0)
        price = 50 - 0.8 * sum(quantities)
        floors += price < 0
        np.testing.assert_allclose(reward[t], wanted, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(info["metrics"]["profit"][t], wanted, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(info["metrics"]["price"][t], max(price, 0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(info["metrics"]["quantity"][t], quantities)
        index = [(profit - nash) / (collusive - nash) for profit in wanted]
        np.testing.assert_allclose(info["metrics"]["collusion_index"][t], index, rtol=1e-4, atol=1e-4)
    assert floors >= 2


def test_every_firm_sees_all_last_quantities_its_own_first(play):
    env, actions, first, (observation, _, terminated, truncated, info) = play
    for i, (t, levels) in itertools.product(range(env.num_agents), enumerate(actions)):
        seen, shown = np.roll(levels, -i), info["final_observation"][t][i]
        wanted = 21 * seen[0] + seen[1] if env.shows_index else [0, *seen / 20]
        np.testing.assert_allclose(shown, wanted, rtol=1e-6)
    np.testing.assert_array_equal(first, [21**2 if env.shows_index else [1, 0, 0, 0]] * env.num_agents)
    assert not np.any(terminated)
    np.testing.assert_array_equal(np.flatnonzero(truncated), [6, 13])
    np.testing.assert_array_equal(observation[6], first)


def test_the_price_has_a_floor_and_what_is_sold_there_still_costs():
    five = Cournot(num_agents=5)
    np.testing.assert_allclose(five.payoff(jnp.full(5, 30), five.default_params), -450)  # 45 units at 10 each
    assert float(five.price(jnp.full(5, 30), five.default_params)) == 0


def test_numbers_are_traced():
    params = DUOPOLY.default_params.replace(cost=jnp.array([10.0, 40.0]))
    axes = jax.tree.map(lambda _: None, DUOPOLY.default_params).replace(cost=0)
    lanes = jax.jit(jax.vmap(lambda params: DUOPOLY.payoff(jnp.array([20, 20]), params), (axes,)))(params)
    np.testing.assert_allclose(lanes, [[900, 900], [0, 0]])


# ---------------------------------------------------------------------- scripted players
@functools.partial(jax.jit, static_argnums=0)
def answers(env, observations):
    """int32 [B] of every scripted player."""
    key = jax.random.key(0)
    return {name: jax.vmap(lambda seen: act(seen, key))(observations) for name, act in env.players.items()}  # noqa: B023


def test_what_the_scripted_players_do():
    states = [(15, 20), (20, 15), (30, 0), (5, 30), (30, 30), (0, 0), (30, 29)]
    chosen = answers(DUOPOLY, jnp.array([31 * own + other for own, other in states] + [31**2]))
    assert chosen["collusive"].tolist() == [15] * 8
    assert chosen["nash"].tolist() == [20] * 8
    # (90 - rival) / 2 in steps of 1.5, ties towards less; at the start against 22.5.
    assert chosen["best_response"].tolist() == [20, 22, 30, 15, 15, 30, 15, 22]
    # Who sells most earns most while the price covers the cost of 10: not at 45 and 45, where all earn nothing.
    assert chosen["imitate"].tolist() == [20, 20, 30, 30, 30, 0, 30, 15]


def test_above_cost_whoever_sold_most_is_imitated_and_below_it_whoever_sold_least():
    env = Cournot(num_agents=3)
    levels = np.array([[10, 20, 25], [30, 20, 15]])  # 82.5 units at 17.5; 97.5 at 2.5
    observations = np.concatenate([np.zeros((2, 1)), levels / 30], axis=1).astype(np.float32)
    assert answers(env, observations)["imitate"].tolist() == [25, 15]
    for row, best in zip(levels, (25, 15), strict=True):
        assert row[np.argmax(profits_of(1.5 * row))] == best


def test_best_responses_on_the_grid_are_the_best_of_the_grid():
    grid = np.arange(31) * 1.5
    payoffs = np.array([[profits_of([own, other])[0] for other in grid] for own in grid])
    chosen = np.asarray(answers(DUOPOLY, jnp.arange(31**2))["best_response"]).reshape(31, 31)
    np.testing.assert_array_equal(chosen, np.tile(payoffs.argmax(axis=0), (31, 1)))  # argmax: ties towards less


def test_it_is_a_social_dilemma_of_fear_and_greed_between_collusion_and_nash():
    diagram = schelling.play(DUOPOLY, DUOPOLY.make_params(max_steps=1), schelling.the_two(DUOPOLY), episodes=2)
    found = verdict(diagram)
    # Both 22.5: 1012.5. Both 30: 900. 22.5 beside 30: 843.75 and 1125.
    gains = [112.5, 168.75, 56.25, 112.5]
    np.testing.assert_allclose([gain.mean for gain in found], gains)
    assert found.dilemma and diagram.equilibria() == [0]


def test_the_exploiter_takes_more_from_the_collusive_than_any_other_player():
    observation = 31 * 22 + 15
    gain = {
        name: profits_of([1.5 * int(chosen[observation]), 22.5])[0]
        for name, chosen in answers(DUOPOLY, jnp.arange(31**2)).items()
        if name != "random"
    }
    assert max(gain, key=lambda name: gain[name]) == DUOPOLY.exploiter
    assert set(gain) == set(DUOPOLY.definitions)


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slope": 0.0}, "slope must be above 0, such as 1, got 0.0"),
        ({"max_quantity": -3.0}, "max_quantity must be above 0, such as 1, got -3.0"),
        ({"cost": -1.0}, "cost must be at least 0, got -1"),
        ({"intercept": 10.0}, "intercept must be above the cost, 10.0, got 10.0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_numbers_outside_the_game_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        DUOPOLY.make_params(**changed)


def test_it_is_made_by_name_and_not_for_too_few_firms_or_levels():
    assert make("cournot") == DUOPOLY
    with pytest.raises(InputError, match="num_agents must be at least 2, got 1"):
        Cournot(num_agents=1)
    with pytest.raises(InputError, match="num_levels must be at least 2, got 1"):
        Cournot(num_levels=1)
