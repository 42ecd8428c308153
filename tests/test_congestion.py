"""The congestion game: equilibria, optima, tolls and the potential against enumeration, and its memory."""

import csv
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from marl_suite.baselines.ppo import IPPO
from marl_suite.benchmarks import congestion as benchmark
from marl_suite.envs import InputError, make
from marl_suite.envs.markets.congestion import (
    NETWORKS,
    Congestion,
    Network,
    marginal_cost_tolls,
    price_of_anarchy,
    rosenthal_potential,
    social_optimum,
    user_equilibrium,
)
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict
from marl_suite.training import Fit

ENV = Congestion()
PAY = jax.jit(lambda state, routes, params: ENV.step_env(jax.random.key(0), state, routes, params)[1:])
START = ENV.initial_state(jax.random.key(0), ENV.default_params)
BRAESS, PIGOU = NETWORKS["braess"], NETWORKS["pigou"]


def times_by_hand(network, routes, num_agents):
    """Travel time and full toll of each driver, in plain Python."""
    on_link = [0] * len(network.slope)
    for route in routes:
        for link in network.routes[route]:
            on_link[link] += 1
    delays = [slope * count / num_agents for slope, count in zip(network.slope, on_link, strict=True)]
    time = [sum(network.constant[link] + delays[link] for link in network.routes[r]) for r in routes]
    return time, [sum(delays[link] for link in network.routes[r]) for r in routes]


def all_loads(num_agents, num_routes):
    """Every way to put drivers on routes, as tuples of counts."""
    if num_routes == 1:
        return [(num_agents,)]
    return [(n, *rest) for n in range(num_agents + 1) for rest in all_loads(num_agents - n, num_routes - 1)]


def costs_of(network, loads, num_agents, toll=0.0):
    """What a driver on each route pays, and would pay after joining it from route r: [R], [R, R] with r first."""
    incidence, constant, slope = network.incidence, np.array(network.constant), np.array(network.slope) * (1 + toll)
    cost = lambda counts: incidence @ (constant + slope * (np.asarray(counts, float) @ incidence) / num_agents)  # noqa: E731
    moves = np.eye(len(loads))
    joined = [[cost(loads - moves[r] + moves[s])[s] for s in range(len(loads))] for r in range(len(loads))]
    return cost(loads), np.array(joined)


def is_equilibrium(network, loads, num_agents, toll=0.0):
    now, joined = costs_of(network, loads, num_agents, toll)
    return all(now[r] <= joined[r].min() + 1e-9 for r in range(len(loads)) if loads[r])


def random_network(seed):
    random = np.random.default_rng(seed)
    num_links, num_routes = random.integers(3, 7), random.integers(2, 5)
    routes = tuple(tuple(np.flatnonzero(row).tolist()) for row in random.random((num_routes, num_links)) < 0.5)
    numbers = random.integers(0, 5, (2, num_links)).astype(float)
    return Network(tuple(numbers[0]), tuple(numbers[1]), tuple(route or (0,) for route in routes))


# ---------------------------------------------------------------------- rules
@pytest.mark.parametrize("toll", [0.0, 0.5, 1.0])
def test_random_routes_take_and_charge_what_the_rules_say(toll):
    params, state, random = ENV.make_params(toll=toll), START, np.random.default_rng(0)
    for _ in range(20):
        routes = random.integers(0, 3, 20)
        state, reward, terminated, _, info = PAY(state, jnp.asarray(routes), params)
        time, full_toll = map(np.array, times_by_hand(BRAESS, routes.tolist(), 20))
        np.testing.assert_allclose(reward, -time - toll * full_toll, rtol=1e-5)
        metrics = {name: float(value) for name, value in info["metrics"].items()}
        wanted = {f"on_route_{r}": float(np.mean(routes == r)) for r in range(3)}
        wanted |= {"travel_time": time.mean(), "toll_paid": toll * full_toll.mean()}
        assert metrics == pytest.approx(wanted, rel=1e-5) and not terminated
        np.testing.assert_array_equal(state.loads, np.bincount(routes, minlength=3))


def test_numbers_of_the_source_hold_for_any_number_of_drivers():
    for num_agents in (2, 20, 4200):
        env = Congestion(num_agents=num_agents)
        params = env.default_params
        time = lambda *loads: np.asarray(env.times_and_tolls(jnp.array(loads), params)[0])  # noqa: B023, E731
        half = num_agents // 2
        np.testing.assert_allclose(time(0, 0, num_agents), [20, 20, 20], rtol=1e-6)
        np.testing.assert_allclose(time(half, half, 0), [15, 15, 10], rtol=1e-6)


def test_drivers_see_their_last_route_all_loads_and_what_each_route_took_with_its_toll():
    params = ENV.make_params(toll=0.5)
    assert not np.asarray(ENV.observe(START, params)).any()
    routes = np.array([0] * 5 + [1] * 3 + [2] * 12)
    state, *_ = PAY(START, jnp.asarray(routes), params)
    observation = np.asarray(ENV.observe(state, params))
    np.testing.assert_array_equal(observation[:, :3], np.eye(3)[routes])
    np.testing.assert_allclose(observation[:, 3:6], np.tile([5 / 20, 3 / 20, 12 / 20], (20, 1)), rtol=1e-6)
    first, last = 10 * 17 / 20, 10 * 15 / 20  # on links 1-2 and 3-4, where zigzagging drivers are counted too
    time, full_toll = np.array([first + 10, last + 10, first + last]), np.array([first, last, first + last])
    np.testing.assert_allclose(observation[0, 6:], (time + 0.5 * full_toll) / (2 * 15), rtol=1e-6)
    np.testing.assert_allclose(ENV.global_state(state, params), observation[7, 3:], rtol=1e-6)


# ---------------------------------------------------------------------- equilibrium, optimum, tolls
def test_published_flows_of_braess_and_pigou():
    equilibrium, optimum = user_equilibrium(BRAESS), social_optimum(BRAESS)
    np.testing.assert_allclose(equilibrium.shares, [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(optimum.shares, [0.5, 0.5, 0], atol=1e-9)
    assert equilibrium.mean_time == pytest.approx(20, abs=1e-9) and optimum.mean_time == pytest.approx(15, abs=1e-9)
    assert user_equilibrium(PIGOU).mean_time == pytest.approx(1, abs=1e-9)
    assert social_optimum(PIGOU).mean_time == pytest.approx(0.75, abs=1e-9)
    assert price_of_anarchy(BRAESS) == pytest.approx(4 / 3, abs=1e-9)
    assert price_of_anarchy(PIGOU) == pytest.approx(4 / 3, abs=1e-9)


def test_without_the_added_road_everybody_is_faster():
    closed = NETWORKS["braess_closed"]
    assert user_equilibrium(closed).mean_time == pytest.approx(15, abs=1e-9)
    assert price_of_anarchy(closed) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_flows_of_random_networks_are_those_of_a_convex_program(seed):
    network = random_network(seed)
    incidence, constant, slope = network.incidence, np.array(network.constant), np.array(network.slope)
    count = len(incidence)

    def least(factor):
        """The least sum over links of constant f + factor slope f^2."""
        value = lambda shares: constant @ (shares @ incidence) + factor * slope @ (shares @ incidence) ** 2  # noqa: E731
        simplex = {"type": "eq", "fun": lambda shares: shares.sum() - 1}
        return minimize(value, np.full(count, 1 / count), bounds=[(0, 1)] * count, constraints=simplex, tol=1e-12).fun

    equilibrium, optimum = user_equilibrium(network), social_optimum(network)
    on_link = equilibrium.shares @ incidence
    assert constant @ on_link + slope @ on_link**2 / 2 == pytest.approx(least(0.5), abs=1e-6)
    assert optimum.mean_time == pytest.approx(least(1.0), abs=1e-6)
    used = equilibrium.shares > 1e-9
    assert np.ptp(equilibrium.times[used]) < 1e-9 and equilibrium.times.min() > equilibrium.times[used].max() - 1e-9
    assert optimum.mean_time > 0 and 1 - 1e-9 <= price_of_anarchy(network) <= 4 / 3 + 1e-9
    assert min(equilibrium.shares.min(), optimum.shares.min()) >= 0


@pytest.mark.parametrize("name", ["braess", "pigou"])
def test_whole_drivers_behave_as_flows_do(name):
    """All loads of twelve drivers: the worst equilibrium takes what the flow takes, the best load the optimum."""
    network = NETWORKS[name]
    loads = [np.array(x) for x in all_loads(12, len(network.routes))]
    mean = lambda x: float(x @ costs_of(network, x, 12)[0]) / 12  # noqa: E731
    assert max(mean(x) for x in loads if is_equilibrium(network, x, 12)) == pytest.approx(
        user_equilibrium(network).mean_time
    )
    best = min(loads, key=mean)
    np.testing.assert_allclose(best / 12, social_optimum(network).shares, atol=1e-9)
    assert not is_equilibrium(network, best, 12) and is_equilibrium(network, best, 12, toll=1.0)


@pytest.mark.parametrize("name", ["braess", "pigou"])
def test_marginal_cost_tolls_restore_the_optimum(name):
    network = NETWORKS[name]
    optimum = social_optimum(network)
    tolls = marginal_cost_tolls(network, optimum.shares)
    charged = Network(tuple(np.array(network.constant) + tolls), network.slope, network.routes)
    np.testing.assert_allclose(user_equilibrium(charged).shares, optimum.shares, atol=1e-9)
    wanted = {"braess": [5, 0, 0, 5, 0], "pigou": [0.5, 0]}[name]
    np.testing.assert_allclose(tolls, wanted, atol=1e-9)


def test_half_the_toll_brings_drivers_part_of_the_way():
    # Pigou: the first road costs 1.5 f, the second 1; so 2 / 3 take the first.
    flow = user_equilibrium(PIGOU, toll=0.5)
    np.testing.assert_allclose(flow.shares, [2 / 3, 1 / 3], atol=1e-9)
    assert flow.mean_time == pytest.approx(4 / 9 + 1 / 3, abs=1e-9)


# ---------------------------------------------------------------------- the potential
@pytest.mark.parametrize("toll", [0.0, 0.7])
def test_the_potential_is_rosenthals_sum_and_changes_by_what_the_mover_gains(toll):
    random, params = np.random.default_rng(2), ENV.make_params(toll=toll)
    for _ in range(25):
        routes = random.integers(0, 3, 20)
        moved = routes.copy()
        moved[7] = (routes[7] + random.integers(1, 3)) % 3
        before, after = (np.bincount(x, minlength=3) for x in (routes, moved))
        gain = float(PAY(START, jnp.asarray(moved), params)[1][7] - PAY(START, jnp.asarray(routes), params)[1][7])
        fall = rosenthal_potential(BRAESS, before, toll) - rosenthal_potential(BRAESS, after, toll)
        assert fall == pytest.approx(gain, abs=1e-4)
        on_link = before @ BRAESS.incidence
        by_hand = sum(
            BRAESS.constant[link] + BRAESS.slope[link] * (1 + toll) * k / 20
            for link in range(5)
            for k in range(1, int(on_link[link]) + 1)
        )
        assert rosenthal_potential(BRAESS, before, toll) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("network", [BRAESS, PIGOU, random_network(3), random_network(5)])
@pytest.mark.parametrize("toll", [0.0, 1.0])
def test_better_responses_lower_the_potential_at_every_move_until_an_equilibrium(network, toll):
    random, num_agents = np.random.default_rng(4), 15
    for _ in range(5):
        loads = random.multinomial(num_agents, np.ones(len(network.routes)) / len(network.routes))
        for _ in range(2000):
            now, joined = costs_of(network, loads, num_agents, toll)
            better = np.argwhere((joined < now[:, None] - 1e-9) & (loads[:, None] > 0))
            if not len(better):
                break
            source, target = better[random.integers(len(better))]
            before = rosenthal_potential(network, loads, toll)
            loads = loads - np.eye(len(loads), dtype=int)[source] + np.eye(len(loads), dtype=int)[target]
            after = rosenthal_potential(network, loads, toll)
            assert before - after == pytest.approx(now[source] - joined[source, target], abs=1e-9) and after < before
        assert is_equilibrium(network, loads, num_agents, toll)


# ---------------------------------------------------------------------- players
def diagram_of(network):
    env = make("congestion", num_agents=10, network=network)
    pair = ("system_optimal", "user_equilibrium")
    return schelling.play(env, env.make_params(max_steps=40), pair, episodes=12)


def test_zigzagging_is_greed_without_fear():
    diagram = diagram_of("braess")
    np.testing.assert_allclose(diagram.defectors[0], -40 * 20, rtol=1e-5)
    np.testing.assert_allclose(diagram.cooperators[1], -40 * 20, rtol=1e-5)  # a detour alone is no slower
    np.testing.assert_allclose(diagram.cooperators[10].mean(), -40 * 15, rtol=0.005)
    # one zigzags among nine: with 1 + n and 10 - n on its links for any n
    np.testing.assert_allclose(diagram.defectors[9], -40 * 11, rtol=1e-5)
    assert str(verdict(diagram)) == "a social dilemma of greed"


@jax.jit
def times_of_better_responses(params, keys):
    """Mean travel time in each step, float32 [T], when all drivers play better responses."""
    player = jax.vmap(ENV.players["better_response"])

    def step(carry, key):
        state, observation = carry
        act_key, env_key = jax.random.split(key)
        routes = player(observation, jax.random.split(act_key, 20))
        observation, state, *_, info = ENV.step_env(env_key, state, routes, params)
        return (state, observation), info["metrics"]["travel_time"]

    return jax.lax.scan(step, (START, ENV.observe(START, params)), keys)[1]


@pytest.mark.parametrize(("toll", "expected"), [(0.0, 20.0), (1.0, 15.0)])
def test_better_responses_are_played_into_the_equilibrium_and_by_full_tolls_into_the_optimum(toll, expected):
    times = times_of_better_responses(ENV.make_params(toll=toll), jax.random.split(jax.random.key(0), 400))
    assert np.mean(times[200:]) == pytest.approx(expected, rel=0.03) and np.ptp(times[:5]) > 0


def test_those_who_aim_at_the_optimum_reach_it_exactly_and_stay():
    env = Congestion()
    player = jax.jit(jax.vmap(env.players["system_optimal"]))
    shares = []
    for n in (6, 10):  # too few and just enough on the first route
        routes = jnp.asarray([0] * n + [1] * (20 - n))
        state, *_ = PAY(START, routes, env.default_params)
        chosen = player(env.observe(state, env.default_params), jax.random.split(jax.random.key(0), 20))
        assert np.all(chosen[:n] == 0), "nobody leaves a route that has room"
        shares.append(float(np.mean(chosen[n:] == 0)))
    assert shares[1] == 0 and 0 < shares[0] < 0.7  # four of fourteen are wanted


# ---------------------------------------------------------------------- size
def compiled_bytes(num_agents):
    env = Congestion(num_agents=num_agents)
    _, state = jax.eval_shape(env.reset, jax.random.key(0))
    routes = jax.ShapeDtypeStruct((num_agents,), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    memory: Any = jax.jit(lambda *x: env.step(*x)).lower(key, state, routes).compile().memory_analysis()
    return memory.argument_size_in_bytes, memory.output_size_in_bytes + memory.temp_size_in_bytes


def test_memory_is_linear_in_drivers():
    """Per driver: two int32 in; out an observation of nine float32 twice, its reward and payoff, its last route."""
    (few_in, few_out), (many_in, many_out) = compiled_bytes(1_000), compiled_bytes(101_000)
    # the next state does not depend on the last routes, so the compiler may leave them out of the arguments
    assert 4 <= (many_in - few_in) / 100_000 <= 8
    assert (many_out - few_out) / 100_000 == pytest.approx(2 * 9 * 4 + 2 * 4 + 4, rel=0.1)


def test_the_benchmark_times_and_counts_bytes_of_each_size():
    rows = benchmark.measure((50,), repeats=2, network="pigou")
    assert [row.num_agents for row in rows] == [50]
    for row in rows:
        assert 0 < row.call_min <= row.call_median <= row.call_max
        assert 0 < row.scan_min <= row.scan_median <= row.scan_max
        assert row.output_bytes >= row.num_agents * 2 * 6 * 4
    lines = list(csv.DictReader(io.StringIO(benchmark.to_csv(rows))))
    assert [line["num_agents"] for line in lines] == ["50"] and float(lines[0]["call_min"]) > 0
    table = [line for line in benchmark.report(rows).splitlines() if line.startswith("|")]
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_agents": 1}, "num_agents must be at least 2, got 1"),
        ({"network": "braes"}, "closest: 'braess'"),
        ({"network": Network((1.0,), (1.0, 0.0), ((0,),))}, "a constant for each of its 2 slopes"),
        ({"network": Network((1.0,), (1.0,), ())}, "needs routes of at least one link"),
        ({"network": Network((1.0,), (1.0,), ((0,), (1,)))}, "numbered 0 to 0, got 1"),
    ],
)
def test_settings_outside_the_game_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        make("congestion", **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"toll": -0.5}, "toll must be at least 0, got -0.5"),
        ({"slope": [1.0, -1.0, 0.0, 0.0, 0.0]}, "slope must be at least 0"),
        ({"constant": [1.0, 1.0]}, r"constant must have shape \(5,\)"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_numbers_outside_the_game_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ENV.make_params(**wrong)


def test_a_network_of_ones_own_is_played_like_the_presets():
    env = make("congestion", network=Network((1.0, 2.0), (4.0, 3.0), ((0,), (1,), (0, 1))), num_agents=4)
    state = env.initial_state(jax.random.key(0), env.default_params)
    routes = jnp.array([0, 1, 2, 2])
    _, reward, *_ = jax.jit(env.transition)(jax.random.key(0), state, routes, env.default_params)
    np.testing.assert_allclose(reward, [-4, -4.25, -8.25, -8.25], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("toll", "expected"), [(0.0, 20.0), (1.0, 15.0)])
def test_independent_learners_drive_into_the_equilibrium_and_with_tolls_into_the_optimum(toll, expected):
    env = Congestion(num_agents=10)
    config = IPPO(num_envs=32, rollout_length=50, share_parameters=True, lr=3e-3, gamma=0.0)
    fit = Fit(env, config, (0,), 320_000, env.make_params(toll=toll), chunks=2)
    last = list(fit)[-1].logs["metrics"]["travel_time"]
    assert np.mean(last[..., -20:]) == pytest.approx(expected, abs=0.2)
