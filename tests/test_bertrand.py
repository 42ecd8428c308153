"""Price competition with logit demand, against closed forms, root finders and a plain Python market."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from marl_suite.envs import InputError, make
from marl_suite.envs.markets import bertrand
from marl_suite.envs.markets.bertrand import Bertrand
from marl_suite.envs.markets.oligopoly import collusion_index, critical_discount
from marl_suite.envs.repeated_games import RepeatedGameState
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

DUOPOLY = Bertrand()
PARAMS = DUOPOLY.default_params
MARKET = (2.0, 1.0, 0.25, 0.0)  # quality, cost, differentiation, outside
OTHER_MARKETS = [(2.0, 1.0, 0.25, 0.0), (1.0, 1.4, 0.5, 0.3), (5.0, 0.0, 0.1, -1.0), (0.0, 2.0, 0.2, 0.0)]


def profit_of(own, others, quality, cost, differentiation, outside) -> float:
    """One firm's profit, by plain Python."""
    weights = [math.exp((quality - price) / differentiation) for price in (own, *others)]
    return (own - cost) * weights[0] / (sum(weights) + math.exp(outside / differentiation))


def root_of(function, low, high, args) -> Any:
    return brentq(function, low, high, args, xtol=1e-14)


def share_of(own, others, *market) -> float:
    return profit_of(own, others, *market) / (own - market[1])


# ---------------------------------------------------------------------- closed forms
def test_the_known_numbers_of_the_duopoly():
    nash, monopoly = bertrand.nash_price(2, *MARKET), bertrand.monopoly_price(2, *MARKET)
    deviation = bertrand.best_response_price(np.array([monopoly]), *MARKET)
    profits = [profit_of(nash, [nash], *MARKET), profit_of(monopoly, [monopoly], *MARKET)]
    shares = [share_of(nash, [nash], *MARKET), share_of(monopoly, [monopoly], *MARKET)]
    np.testing.assert_allclose([nash, monopoly, deviation], [1.472927, 1.924981, 1.661694], atol=1e-6)
    np.testing.assert_allclose(profits, [0.222927, 0.337490], atol=1e-6)
    np.testing.assert_allclose(shares, [0.471377, 0.364862], atol=1e-6)
    np.testing.assert_allclose(bertrand.logit_demand(np.array([nash, nash]), 2.0, 0.25, 0.0), shares[0], atol=1e-9)
    gain = profit_of(deviation, [monopoly], *MARKET)
    np.testing.assert_allclose(gain, 0.411695, atol=1e-6)
    np.testing.assert_allclose(critical_discount(gain, profits[1], profits[0]), 0.39310, atol=5e-6)


@pytest.mark.parametrize("market", OTHER_MARKETS)
@pytest.mark.parametrize("num_firms", [2, 3, 10])
def test_equilibrium_and_monopoly_solve_their_first_order_conditions(num_firms, market):
    _, cost, differentiation, _ = market

    def condition(price, sold):
        """1 - (p - c) (1 - q) / mu, with all firms at `price`; q of one firm, or `sold` of all."""
        q = share_of(price, [price] * (num_firms - 1), *market)
        return 1 - (price - cost) * (1 - sold * q) / differentiation

    least, most = cost + differentiation, cost + 100 * differentiation
    nash, monopoly = (root_of(condition, least * (1 + 1e-15), most, (sold,)) for sold in (1, num_firms))
    np.testing.assert_allclose(bertrand.nash_price(num_firms, *market), nash, rtol=1e-12)
    np.testing.assert_allclose(bertrand.monopoly_price(num_firms, *market), monopoly, rtol=1e-12)
    profit = profit_of(nash, [nash] * (num_firms - 1), *market)
    np.testing.assert_allclose(bertrand.symmetric_profit(num_firms, nash, *market), profit, rtol=1e-12)


@pytest.mark.parametrize("market", OTHER_MARKETS)
def test_no_price_earns_more_than_the_best_response(market):
    quality, cost, differentiation, _ = market
    for others in ([cost + differentiation], [cost, quality + 1.0], [cost + 0.2, cost + 0.4, cost + 3.0]):
        best = bertrand.best_response_price(np.array(others), *market)
        found: Any = minimize_scalar(
            lambda price: -profit_of(price, others, *market),  # noqa: B023
            bounds=(cost, cost + 40 * differentiation),
            method="bounded",
            options={"xatol": 1e-9},
        )
        np.testing.assert_allclose(best, found.x, atol=1e-6)


def test_the_best_response_to_nash_is_nash():
    for market in OTHER_MARKETS:
        nash = bertrand.nash_price(3, *market)
        np.testing.assert_allclose(bertrand.best_response_price(np.array([nash, nash]), *market), nash, rtol=1e-12)


def test_traced_prices_are_exact_to_the_rounding_of_single_precision():
    qualities = np.linspace(-5, 60, 300)  # (a - c) / mu from -24 to 236
    for solve in (bertrand.nash_price, bertrand.monopoly_price):
        exact = solve(2, qualities, 1.0, 0.25, 0.0)
        traced = jax.jit(lambda quality: solve(2, quality, 1.0, 0.25, 0.0, jnp))(jnp.float32(qualities))  # noqa: B023
        np.testing.assert_allclose(traced, exact, rtol=5e-7)


def test_the_collusion_index_is_zero_in_equilibrium_and_one_in_collusion():
    np.testing.assert_allclose(collusion_index(np.array([2.0, 3.0, 2.5, 1.0]), 2.0, 3.0), [0, 1, 0.5, -1])


# ---------------------------------------------------------------------- the grid
def test_the_grid_reaches_a_tenth_beyond_nash_and_monopoly():
    prices = DUOPOLY.prices()
    assert prices.shape == (15,)
    np.testing.assert_allclose(prices[[0, -1]], [1.427721, 1.970186], atol=1e-6)
    np.testing.assert_allclose(np.diff(prices), 0.038748, atol=1e-6)


def test_the_discretised_game_has_two_symmetric_equilibria_so_competitive_is_not_zero():
    prices, table = DUOPOLY.prices(), np.asarray(jax.jit(DUOPOLY.stage_payoffs)())
    payoffs = np.array([[profit_of(own, [other], *MARKET) for other in prices] for own in prices])
    np.testing.assert_allclose(table[0], payoffs, rtol=1e-5)
    np.testing.assert_array_equal(table[1], table[0].T)
    best = payoffs >= payoffs.max(axis=0)
    assert [tuple(pair) for pair in np.argwhere(best & best.T)] == [(1, 1), (2, 2)]
    nash, collusive = (
        bertrand.symmetric_profit(2, price, *MARKET)
        for price in (bertrand.nash_price(2, *MARKET), bertrand.monopoly_price(2, *MARKET))
    )
    index = collusion_index(payoffs.diagonal(), nash, collusive)
    np.testing.assert_allclose(index[[1, 2]], [-0.024, 0.117], atol=5e-4)


def test_payoffs_are_known_beforehand_only_where_the_last_joint_action_is_an_index():
    trio = Bertrand(num_agents=3, num_prices=4)
    assert jax.eval_shape(trio.stage_payoffs).shape == (3, 4, 4, 4)
    assert Bertrand(num_agents=4).stage_payoffs() is None
    assert Bertrand(one_shot=True).stage_payoffs() is None


# ---------------------------------------------------------------------- play
def played(env, params, num_steps, seed=0):
    """A random play: actions [T, N], the observation before the first step, and what `step` returned."""
    actions = np.random.default_rng(seed).integers(0, env.num_prices, (num_steps, env.num_agents)).astype(np.int32)

    def step(state, actions):
        observation, state, *rest = env.step(jax.random.key(0), state, actions, params)
        return state, (observation, *rest)

    def run(actions):
        observation, state = env.reset(jax.random.key(0), params)
        return observation, jax.lax.scan(step, state, actions)[1]

    first, (observation, reward, terminated, truncated, info) = jax.jit(run)(actions)
    return actions, first, observation, reward, terminated, truncated, info


@pytest.fixture(scope="module", params=[(2, 15), (3, 5), (4, 15)], ids=["2 firms", "3 firms", "4 firms, in a box"])
def play(request):
    num_firms, num_prices = request.param
    env = Bertrand(num_agents=num_firms, num_prices=num_prices)
    params = env.make_params(quality=1.8, cost=0.9, differentiation=0.3, outside=0.2, grid_margin=0.2, max_steps=7)
    return env, params, played(env, params, 20)


def test_a_random_play_pays_what_a_plain_market_pays(play):
    env, _, (actions, _, _, reward, _, _, info) = play
    market = (1.8, 0.9, 0.3, 0.2)
    nash, monopoly = bertrand.nash_price(env.num_agents, *market), bertrand.monopoly_price(env.num_agents, *market)
    reach = 0.2 * (monopoly - nash)
    grid = np.linspace(nash - reach, monopoly + reach, env.num_prices)
    ends = [profit_of(price, [price] * (env.num_agents - 1), *market) for price in (nash, monopoly)]
    for t, levels in enumerate(actions):
        prices = [grid[level] for level in levels]
        wanted = [profit_of(p, prices[:i] + prices[i + 1 :], *market) for i, p in enumerate(prices)]
        index = [(profit - ends[0]) / (ends[1] - ends[0]) for profit in wanted]
        np.testing.assert_allclose(reward[t], wanted, rtol=2e-5)
        np.testing.assert_allclose(info["metrics"]["price"][t], prices, rtol=1e-6)
        np.testing.assert_allclose(info["metrics"]["profit"][t], wanted, rtol=2e-5)
        np.testing.assert_allclose(info["metrics"]["collusion_index"][t], index, atol=1e-3)


def test_every_firm_sees_all_last_prices_its_own_first(play):
    env, _, (actions, first, _, _, _, _, info) = play
    for i in range(env.num_agents):
        for t, levels in enumerate(actions):
            seen = np.roll(levels, -i)  # own, then those of the next firms
            shown = info["final_observation"][t][i]
            if env.shows_index:
                digits = "".join(np.base_repr(level, env.num_prices) for level in seen)
                assert int(shown) == int(digits, env.num_prices)
            else:
                np.testing.assert_allclose(shown, [0, *seen / 14], rtol=1e-6)
            started, decoded = env.shown(shown)
            assert not started
            np.testing.assert_array_equal(decoded, seen)
    start = env.num_prices**env.num_agents if env.shows_index else [1] + [0] * env.num_agents
    np.testing.assert_array_equal(first, [start] * env.num_agents)
    assert bool(env.shown(first[0])[0])


def test_the_clock_truncates_and_the_memory_starts_anew(play):
    _, _, (_, first, observation, _, terminated, truncated, _) = play
    assert not np.any(terminated)
    np.testing.assert_array_equal(np.flatnonzero(truncated), [6, 13])
    np.testing.assert_array_equal(observation[6], first)
    assert not np.array_equal(observation[5], first)


def test_the_global_state_holds_levels_between_zero_and_one():
    state = RepeatedGameState(last_actions=jnp.array([14, 7]), time=jnp.int32(3))
    np.testing.assert_allclose(DUOPOLY.global_state(state), [0, 1, 0.5])
    np.testing.assert_allclose(DUOPOLY.global_state(DUOPOLY.initial_state(jax.random.key(0), PARAMS)), [1, 0, 0])


def test_numbers_are_traced_and_move_the_grid():
    params = PARAMS.replace(differentiation=jnp.array([0.25, 0.4]))
    axes = jax.tree.map(lambda _: None, PARAMS).replace(differentiation=0)
    lanes = jax.jit(jax.vmap(lambda params: DUOPOLY.set_prices(jnp.array([0, 14]), params), (axes,)))(params)
    wanted = [DUOPOLY.prices(DUOPOLY.make_params(differentiation=mu))[[0, 14]] for mu in (0.25, 0.4)]
    np.testing.assert_allclose(lanes, wanted, rtol=1e-6)
    assert abs(wanted[0][1] - wanted[1][1]) > 0.1


def test_almost_equal_products_overflow_nothing():
    levels = jnp.array([[3, 11], [13, 13]])
    play = jax.jit(jax.vmap(DUOPOLY.metrics, (0, None)))(levels, PARAMS.replace(differentiation=0.005))
    assert all(np.all(np.isfinite(values)) for values in play.values()) and np.all(play["profit"] >= 0)
    np.testing.assert_allclose(play["collusion_index"][1], 0.942, atol=0.002)  # 1 at the monopoly price itself


def test_a_one_shot_market_terminates():
    env = Bertrand(one_shot=True)
    state = env.initial_state(jax.random.key(0), env.default_params)
    _, _, terminated, _ = jax.jit(env.transition)(jax.random.key(0), state, jnp.array([1, 1]), env.default_params)
    assert bool(terminated)


# ---------------------------------------------------------------------- scripted players
@functools.partial(jax.jit, static_argnums=0)
def all_answers(env, observations):
    """int32 [B] of every scripted player."""
    key = jax.random.key(0)
    return {name: jax.vmap(lambda seen: act(seen, key))(observations) for name, act in env.players.items()}  # noqa: B023


def answers(env, player, observations) -> list[int]:
    return all_answers(env, observations)[player].tolist()


def test_what_the_scripted_players_do():
    observations = jnp.array([15 * 4 + 9, 15 * 9 + 4, 15 * 14 + 0, 15 * 3 + 1, 225])  # own, other; the start
    assert answers(DUOPOLY, "monopoly", observations) == [13] * 5
    assert answers(DUOPOLY, "competitive", observations) == [1] * 5
    assert answers(DUOPOLY, "price_matcher", observations) == [9, 4, 0, 1, 13]
    assert answers(DUOPOLY, "undercutter", observations) == [8, 3, 1, 1, 12]
    assert answers(DUOPOLY, "best_response", observations)[-1] == 6  # 1.660206, of the best 1.661694


def test_with_several_rivals_the_cheapest_counts():
    env = Bertrand(num_agents=4)
    observations = jnp.array([[0, 1, 9, 5, 7], [0, 9, 14, 14, 3], [1, 0, 0, 0, 0]], jnp.float32) / jnp.array(
        [1, 14, 14, 14, 14], jnp.float32
    )
    assert answers(env, "price_matcher", observations) == [5, 3, 13]
    assert answers(env, "undercutter", observations) == [4, 2, 12]


def test_the_best_response_is_the_best_of_the_grid_in_every_state():
    prices = DUOPOLY.prices()
    payoffs = np.array([[profit_of(own, [other], *MARKET) for other in prices] for own in prices])
    chosen = np.array(answers(DUOPOLY, "best_response", jnp.arange(226)))
    np.testing.assert_array_equal(chosen[:225].reshape(15, 15), np.tile(payoffs.argmax(axis=0), (15, 1)))
    assert chosen[225] == payoffs[:, 13].argmax()


def test_competitive_and_monopoly_are_the_closest_prices_of_any_grid():
    for num_prices in (2, 5, 15, 40):
        env = Bertrand(num_prices=num_prices)
        wanted = [bertrand.nash_price(2, *MARKET), bertrand.monopoly_price(2, *MARKET)]
        closest = tuple(int(np.abs(env.prices() - price).argmin()) for price in wanted)
        assert env.levels == closest


def test_it_is_a_social_dilemma_of_fear_and_greed_between_monopoly_and_competitive_prices():
    assert (DUOPOLY.cooperator, DUOPOLY.defector) == ("monopoly", "competitive")
    diagram = schelling.play(DUOPOLY, DUOPOLY.make_params(max_steps=10), schelling.the_two(DUOPOLY), episodes=2)
    low, high = DUOPOLY.prices()[[1, 13]]
    found = verdict(diagram)
    both, alone = profit_of(high, [high], *MARKET), profit_of(high, [low], *MARKET)
    none, tempted = profit_of(low, [low], *MARKET), profit_of(low, [high], *MARKET)
    gains = [10 * (both - none), 10 * (both - alone), 10 * (none - alone), 10 * (tempted - both)]
    np.testing.assert_allclose([gain.mean for gain in found], gains, rtol=1e-4)
    assert found.dilemma and found.fear.positive and found.greed.positive
    assert diagram.equilibria() == [0]


def test_the_exploiter_takes_more_from_monopolists_than_any_other_player():
    prices, monopoly = DUOPOLY.prices(), 13
    after_monopoly = 15 * 6 + monopoly
    gain = {
        name: profit_of(prices[answers(DUOPOLY, name, jnp.arange(226))[after_monopoly]], [prices[monopoly]], *MARKET)
        for name in DUOPOLY.definitions
    }
    assert max(gain, key=lambda name: gain[name]) == DUOPOLY.exploiter
    assert set(DUOPOLY.definitions) | {"random"} == set(DUOPOLY.players)


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"differentiation": 0.0}, "differentiation must be above 0, such as 0.01, got 0.0"),
        ({"cost": -1.0}, "cost must be at least 0, got -1"),
        ({"grid_margin": -0.1}, "grid_margin must be at least 0, got -0.1"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_numbers_outside_the_game_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        DUOPOLY.make_params(**changed)


def test_it_is_made_by_name_and_not_for_too_few_firms_or_prices():
    assert make("bertrand_pricing") == DUOPOLY
    with pytest.raises(InputError, match="num_agents must be at least 2, got 1"):
        Bertrand(num_agents=1)
    with pytest.raises(InputError, match="num_prices must be at least 2, got 1"):
        Bertrand(num_prices=1)
