"""GovSim's commons: known answers of fixed policies, exact allocation, and what its published code gets wrong."""

from collections import defaultdict
from fractions import Fraction
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from marl_suite.baselines import registry
from marl_suite.envs import InputError, make
from marl_suite.envs.commons.govsim import GovSimState
from marl_suite.envs.commons.shared_stock import lottery, month_of_chance, proportional, regrown, sustainable_harvest
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict
from marl_suite.training import Fit

N = 5


# ---------------------------------------------------------------------- the game again, in plain Python
def planned(policies, horizon=12):
    """Demands [T, N] of policies (stock, month) -> units as long as they fit into the stock."""
    stock, rows = 100, []
    for month in range(1, horizon + 1):
        rows.append([policy(stock, month) for policy in policies])
        left = stock - min(stock, sum(rows[-1]))
        stock = min(100, 2 * left)
    return np.array(rows)


def adaptive(stock, month):
    return stock // 2 // N


def always(units):
    return lambda stock, month: units


def replayed(demands, catches, horizon):
    """What an episode with these catches has to be: months, stocks left, totals, breaches, and whether it collapsed."""
    stock, lefts, totals, breaches = 100, [], [0] * N, [0] * N
    for demand, catch in zip(demands, catches, strict=True):
        assert all(0 <= got <= asked for got, asked in zip(catch, demand, strict=True))
        assert sum(catch) == min(stock, sum(demand))
        threshold = stock // 2 // N
        totals = [total + got for total, got in zip(totals, catch, strict=True)]
        breaches = [count + (got > threshold) for count, got in zip(breaches, catch, strict=True)]
        lefts.append(stock - sum(catch))
        if lefts[-1] < 5 or len(lefts) == horizon:
            break
        stock = min(100, 2 * lefts[-1])
    return len(lefts), lefts, totals, breaches, lefts[-1] < 5


LANES = 1000
"""Every batch has this many lanes, so that one program plays all of them."""


def player_of(env):
    """A function of demands [E, T, N], in levels of the action: what each month brings, as if no episode ended."""
    players = [(name, player) for name, player in env.players.items() if name != "random"]

    def play(key, plan, params):
        reset_key, step_key, player_key = jax.random.split(key, 3)

        def month(state, inputs):
            number, demand = inputs
            seen = env.observe(state, params)
            asks = {f"ask {name}": jax.vmap(player, (0, None))(seen, player_key) for name, player in players}
            key = jax.random.fold_in(step_key, number)
            _, after, reward, terminated, truncated, info = env.step_env(key, state, demand, params)
            shown = {"observation": seen, "catch": after.catch, "stock": after.stock, "reward": reward} | asks
            return after, shown | {"over": terminated, "cut": truncated, **info["metrics"]}

        _, state = env.reset_env(reset_key, params)
        return jax.lax.scan(month, state, (jnp.arange(len(plan)), plan))[1]

    played = jax.jit(jax.vmap(play, (0, 0, None)))

    def run(plans, seed=0, **params):
        keys = jax.random.split(jax.random.key(seed), LANES)
        padded = np.resize(np.array(plans, np.int32), (LANES, *np.shape(plans)[1:]))
        months = played(keys, padded, env.make_params(**params))
        return jax.tree.map(lambda x: np.asarray(x)[: len(plans)], months)

    return run


LAKE: Any = make("fishery")
OPEN_EYED: Any = make("fishery", horizon="known", newcomer=True, universalization=True, num_levels=21)


@pytest.fixture(scope="module")
def lake():
    return player_of(LAKE)


@pytest.fixture(scope="module")
def newcomers_lake():
    return player_of(OPEN_EYED)


def first_end(months, lane=0):
    return int(np.argmax((months["over"] | months["cut"])[lane])) + 1


# ---------------------------------------------------------------------- known answers
MAKING_DO = [adaptive] * 4
KNOWN = {  # policies, months, catch of the first agent and of the last, efficiency, over-usage, equality
    "all 10": ([always(10)] * N, 12, 120, 120, 1.0, 0.0),
    "all adaptive": ([adaptive] * N, 12, 120, 120, 1.0, 0.0),
    "all 100": ([always(100)] * N, 1, None, None, 100 / 600, 1.0),
    "all 11": ([always(11)] * N, 4, None, None, 195 / 600, 1.0),
    "all 12": ([always(12)] * N, 3, None, None, 160 / 600, 1.0),
    "a 20 among adaptive": ([always(20), *MAKING_DO], 4, 80, 26, 184 / 600, 0.2),
    "an 11 among adaptive": ([always(11), *MAKING_DO], 12, 132, 114, 588 / 600, 0.2),
    "a 12 among adaptive": ([always(12), *MAKING_DO], 12, 144, 109, 580 / 600, 0.2),
    "a 13 among adaptive": ([always(13), *MAKING_DO], 10, 130, 63, 382 / 600, 0.2),
    "a double among adaptive": ([lambda h, month: 2 * adaptive(h, month), *MAKING_DO], 12, 110, 55, 330 / 600, 0.2),
}


@pytest.mark.parametrize("row", KNOWN)
def test_fixed_policies_get_their_known_answers(lake, row):
    policies, length, first, last, efficiency, over_usage = KNOWN[row]
    months = lake([planned(policies)])
    end = first_end(months)
    at = {name: value[0, end - 1] for name, value in months.items()}
    assert end == length and at["survived"] == at["survived_published"] == (length == 12)
    assert at["efficiency"] == pytest.approx(efficiency, abs=1e-6)
    if first is None:  # the last units are drawn by lot, which the sum does not know
        assert at["gain"].sum() == pytest.approx(600 * efficiency)
    else:
        assert list(at["gain"]) == [first, last, last, last, last]
        assert at["over_usage"].mean() == pytest.approx(over_usage)


def test_greedy_stocks_shrink_as_known(lake):
    elevens, twelves = (lake([planned([always(units)] * N)])["left"][0] for units in (11, 12))
    assert list(elevens[:4]) == [45, 35, 15, 0] and list(twelves[:3]) == [40, 20, 0]


def test_twelve_is_the_best_constant_demand_among_adaptive_players(lake):
    months = lake([planned([always(units), *MAKING_DO]) for units in range(101)])
    gains = [months["gain"][units, first_end(months, units) - 1, 0] for units in range(14)]
    assert int(np.argmax(gains)) == 12 and gains[12] == 144
    most = [months["gain"][units, first_end(months, units) - 1, 0] for units in range(14, 101)]
    assert max(most) < 144


def test_random_play_follows_the_rules_as_written_in_plain_python(lake):
    rng = np.random.default_rng(0)
    plans = rng.integers(0, rng.integers(5, 40, (200, 1, 1)), (200, 12, N))
    months = lake(plans, seed=1)
    lengths = set()
    for lane, plan in enumerate(plans):
        length, lefts, totals, breaches, collapsed = replayed(plan, months["catch"][lane], 12)
        end = first_end(months, lane)
        at = {name: value[lane, end - 1] for name, value in months.items()}
        lengths.add(length)
        assert end == length and list(months["left"][lane, :end]) == lefts
        assert at["over"] == collapsed and at["cut"] == (not collapsed)
        np.testing.assert_array_equal(months["reward"][lane, :end], months["catch"][lane, :end])
        assert list(at["gain"]) == totals and at["survived"] == (not collapsed)
        assert at["survived_published"] == (length == 12)
        assert at["efficiency"] == pytest.approx(1 - max(0, 600 - sum(totals)) / 600, abs=1e-6)
        unequal = sum(abs(a - b) for a in totals for b in totals)
        assert at["equality"] == pytest.approx(1 - unequal / (2 * N * max(sum(totals), 1)), abs=1e-5)
        np.testing.assert_allclose(at["over_usage"], np.array(breaches) / length, rtol=1e-6)
        for name in ("episodes", "survived", "survived_published", "gain", "efficiency", "equality", "over_usage"):
            assert not months[name][lane, : end - 1].any(), "episodes are summed up at their end only"
    assert len(lengths) > 5 and {1, 12} < lengths


def test_the_observation_shows_what_it_says(lake):
    plan = planned([always(units) for units in (3, 5, 7, 11, 13)])
    seen = lake([plan])["observation"][0] * 100
    np.testing.assert_allclose(seen[0], [[100, 100, 100, 0, 0, 0, 0, 0, 0, 0, 0]] * N, atol=1e-4)
    np.testing.assert_allclose(seen[1][0], [0, 100, 100, 0, 0, 0, 3, 5, 7, 11, 13], atol=1e-4)
    np.testing.assert_allclose(seen[1][3], [0, 100, 100, 0, 0, 0, 11, 13, 3, 5, 7], atol=1e-4)
    # 39 units a month leave 61, 61, ... of 100: the stock is full every month.
    np.testing.assert_allclose(seen[-1][0, 1], 100, atol=1e-4)


def test_players_ask_for_what_their_definitions_say(lake):
    months = lake([planned([always(units) for units in (12, 14, 10, 9, 11)])])
    stocks = [100, *months["stock"][0]]
    assert stocks[:4] == [100, 88, 64, 16]
    for month in range(4):
        for name, units in {
            "sustainable": stocks[month] // 10,
            "overharvester": 12,
            "equal_share": 20,
            "greedy": 100,
            "last_month": stocks[month] // 10,
        }.items():
            assert list(months[f"ask {name}"][0, month]) == [units] * N, name
    # Others' means: 44 / 4, 42 / 4, 46 / 4, 47 / 4, 45 / 4, rounded down.
    assert list(months["ask imitator"][0, 0]) == [10] * N and list(months["ask imitator"][0, 1]) == [11, 10, 11, 11, 11]


# ---------------------------------------------------------------------- pitfalls
def test_pitfall_1_taking_everything_in_the_end_is_survival_by_the_published_rule_only(lake):
    plans = [planned([lambda h, month: 20 if month == 12 else 10] * N), planned([always(10)] * N)]
    months = lake(plans)
    loophole, steady = ({name: value[lane, 11] for name, value in months.items()} for lane in (0, 1))
    assert first_end(months, 0) == first_end(months, 1) == 12
    assert list(loophole["gain"]) == [130] * N and loophole["efficiency"] == 1 and loophole["left"] == 0
    assert loophole["survived_published"] == 1 and loophole["survived"] == 0
    assert loophole["over"] and not loophole["cut"], "a collapse in the last month is one"
    assert steady["survived_published"] == steady["survived"] == 1 and list(steady["gain"]) == [120] * N


def test_pitfall_1_one_agent_that_takes_all_in_the_last_month_catches_170(lake):
    # It gets its 10 as all do, and the other 50 by the lottery or not: asking first is no part of the game.
    plan = planned([always(10)] * N)
    plan[-1, 0] = 60
    assert list(lake([plan])["gain"][0, 11]) == [170, 120, 120, 120, 120]


def test_pitfall_1_a_hidden_horizon_shows_no_time_and_cuts_a_known_one_shows_it_and_terminates(lake, newcomers_lake):
    hidden = lake([planned([always(10)] * N)])
    assert not hidden["observation"][..., 3].any()
    assert hidden["cut"][0, 11] and not hidden["over"].any() and not hidden["cut"][0, :11].any()
    steady = np.full((15, N), 2)  # 10 units each, in steps of five
    known = newcomers_lake([steady])
    np.testing.assert_allclose(known["observation"][0, :, 0, 3], 1 / np.arange(15, 0, -1), rtol=1e-6)
    assert known["over"][0, 14] and not known["cut"].any() and not known["over"][0, :14].any()
    exploit = known["ask last_month"][0]
    assert list(exploit[:, 0]) == [2] * 14 + [20], "12 at first, in steps of five; 100 in the end"
    assert OPEN_EYED.exploiter == "last_month" and LAKE.exploiter == "overharvester"


def test_pitfall_2_the_threshold_counts_the_newcomer_once_there_unless_as_published(newcomers_lake):
    present = newcomers_lake([np.full((15, N), 2)])
    assert list(present["demand"][0, :, 4]) == [0] * 3 + [10] * 12, "nobody sits there for three months"
    assert list(np.round(100 * present["observation"][0, :, 0, 2])) == [80] * 3 + [100] * 12
    told = np.round(100 * present["observation"][0, :, 0, 5])
    assert list(told) == [12] * 3 + [10] * 12 and np.all(present["observation"][..., 4] == 1)
    breaches = present["over_usage"][0, 14]
    assert list(breaches) == [0] * N

    published: Any = make("fishery", newcomer=True, universalization=True, threshold="published")
    nothing = jnp.zeros(N, jnp.int32)
    state = GovSimState(jnp.int32(100), nothing, nothing, nothing, time=jnp.arange(15), end=jnp.int32(99))
    assert list(published.told_threshold(state, published.default_params)) == [10] + [12] * 14


def test_the_newcomers_over_usage_is_that_of_its_own_months(newcomers_lake):
    plan = np.full((15, N), 1)
    plan[:6, 4] = 4  # 20 units; ignored for three months, over the threshold of 10 in the next three
    months = newcomers_lake([plan])
    np.testing.assert_allclose(months["over_usage"][0, 14], [0, 0, 0, 0, 3 / 12], rtol=1e-6)
    assert list(months["gain"][0, 14]) == [75, 75, 75, 75, 60 + 45]


@pytest.fixture(scope="module")
def diagrams():
    pairs = ("sustainable", "overharvester"), ("sustainable", "equal_share")
    return {pair[1]: schelling.play(LAKE, LAKE.default_params, pair, episodes=100) for pair in pairs}


def test_pitfall_4_a_constant_twenty_makes_an_assurance_game(diagrams):
    gaps = [diagrams["equal_share"].gap(others) for others in range(N)]
    wanted = [8.067, 10.525, 14.672, 14, -40]
    assert [gap.mean for gap in gaps] == pytest.approx(wanted, abs=0.1)
    result = verdict(diagrams["equal_share"])
    assert result.dilemma and result.fear.positive and result.greed.positive is False
    assert diagrams["equal_share"].equilibria() == [0, 5]


def test_pitfall_4_a_constant_twelve_shows_fear_and_greed(diagrams):
    assert schelling.the_two(LAKE) == ("sustainable", "overharvester")
    diagram = diagrams["overharvester"]
    assert [diagram.gap(others).mean for others in range(N)] == pytest.approx([9, 7, 8, -39, 24], abs=0.1)
    assert str(verdict(diagram)) == "a social dilemma of fear and greed" and diagram.equilibria() == [0, 4]
    ends = diagram.cooperators[5], diagram.defectors[4], diagram.cooperators[4], diagram.cooperators[1]
    assert [returns.mean() for returns in ends] == [120, 144, 109, 23] and diagram.defectors[0].mean() == 32


# ---------------------------------------------------------------------- who gets what
def by_lottery(stock, demands):
    """The exact distribution of what unit by unit, each to a random agent that wants one, amounts to."""
    now = {(0,) * len(demands): 1.0}
    for _ in range(min(stock, sum(demands))):
        then = defaultdict(float)
        for catch, probability in now.items():
            seekers = [i for i, (got, asked) in enumerate(zip(catch, demands, strict=True)) if got < asked]
            for i in seekers:
                then[(*catch[:i], catch[i] + 1, *catch[i + 1 :])] += probability / len(seekers)
        now = then
    return now


def by_share(stock, demands):
    """The exact distribution of floors of proportional shares, and lots among those rounded down."""
    total = sum(demands)
    if total <= stock:
        return {tuple(demands): 1.0}
    floors = tuple(asked * stock // total for asked in demands)
    rounded = [asked * stock % total > 0 for asked in demands]
    now = {floors: 1.0}
    for _ in range(stock - sum(floors)):
        then = defaultdict(float)
        for catch, probability in now.items():
            weights = [(a - got) * low for a, got, low in zip(demands, catch, rounded, strict=True)]
            for i, weight in enumerate(weights):
                if weight:
                    then[(*catch[:i], catch[i] + 1, *catch[i + 1 :])] += probability * weight / sum(weights)
        now = then
    return now


def agrees(drawn, exact):
    """Whether a sample [K, N] passes the chi-square test of an exact distribution at 99.9 %, rare values pooled."""
    assert {tuple(map(int, row)) for row in np.unique(drawn, axis=0)} <= set(exact)
    counts = {row: 0 for row in exact}
    for row, count in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        counts[tuple(map(int, row))] = int(count)
    pairs = sorted((len(drawn) * probability, counts[row]) for row, probability in exact.items())
    rare = [pair for pair in pairs if pair[0] < 10]
    usual = [pair for pair in pairs if pair[0] >= 10]
    if rare:
        pooled = tuple(map(sum, zip(*rare, strict=True)))
        usual = (
            [*usual, pooled] if pooled[0] >= 10 else [tuple(map(sum, zip(usual[0], pooled, strict=True))), *usual[1:]]
        )
    expected, found = np.array(usual).T
    if len(expected) == 1:
        return True
    statistic = ((found - expected) ** 2 / expected).sum()
    return statistic < stats.chi2.ppf(0.999, len(expected) - 1)


DRAWS = 20_000
SCARCE = [(4, (1, 3, 5)), (7, (9, 9, 9)), (33, (100, 2, 1)), (12, (5, 0, 30)), (10, (20, 9, 3)), (10, (10, 5, 5))]
AMPLE = [(9, (1, 3, 5)), (100, (30, 30, 39)), (5, (0, 0, 0))]


def drawn(rule, cases):
    keys = jax.random.split(jax.random.key(3), (len(cases), DRAWS))
    stocks, demands = (jnp.asarray(np.array(part), jnp.int32) for part in zip(*cases, strict=True))
    sample = jax.jit(jax.vmap(jax.vmap(rule, (0, None, None))))
    return dict(zip(cases, np.asarray(sample(keys, stocks, demands)), strict=True))


@pytest.mark.parametrize(("rule", "law"), [(lottery, by_lottery), (proportional, by_share)])
def test_allocations_have_their_exact_distribution(rule, law):
    samples = drawn(rule, SCARCE + AMPLE)
    for (stock, demands), sample in samples.items():
        assert agrees(sample, law(stock, demands)), (stock, demands)
    for stock, demands in AMPLE:
        assert np.all(samples[stock, demands] == demands)
    case = (10, (20, 9, 3))
    tilted = {row: p * (1.1 if row[1] > row[2] + 1 else 1) for row, p in law(*case).items()}
    assert not agrees(samples[case], {row: p / sum(tilted.values()) for row, p in tilted.items()}), "a blind test"


def test_the_lottery_of_a_hundred_units_is_multinomial_and_equality_follows(lake):
    months = lake(np.full((LANES, 12, N), 100), seed=5)
    catch = months["catch"][:, 0]
    assert np.all(catch.sum(axis=1) == 100)
    # Each agent's catch is binomial(100, 1/5).
    counts = np.bincount(catch[:, 2], minlength=101)
    expected = LANES * stats.binom.pmf(np.arange(101), 100, 0.2)
    low, high = 13, 28
    groups = [slice(0, low), *(slice(i, i + 1) for i in range(low, high)), slice(high, None)]
    statistic = sum((counts[g].sum() - expected[g].sum()) ** 2 / expected[g].sum() for g in groups)
    assert statistic < stats.chi2.ppf(0.999, len(groups) - 1)
    # E |X_1 - X_2|: their sum is binomial(100, 2/5), and X_1 is binomial(sum, 1/2) given it.
    gap = sum(
        stats.binom.pmf(s, 100, 0.4) * sum(comb(s, k) / 2**s * abs(2 * k - s) for k in range(s + 1)) for s in range(101)
    )
    equality = months["equality"][:, 0]
    assert equality.mean() == pytest.approx(1 - 20 * gap / (2 * N * 100), abs=4 * equality.std() / np.sqrt(LANES))
    assert np.all(months["survived_published"][:, 0] == 0) and np.all(months["over"][:, 0])


# ---------------------------------------------------------------------- closed forms, settings, parameters
@pytest.mark.parametrize("growth", [1.1, 1.25, 1.3, 2.0, 3.0])
def test_the_sustainable_harvest_is_the_largest_after_which_the_stock_comes_back(growth):
    factor = Fraction(str(growth))
    stocks = list(range(101))
    for stock, units in zip(stocks, np.asarray(sustainable_harvest(np.array(stocks), growth)), strict=True):
        assert units == max(x for x in range(stock + 1) if min(100, factor * (stock - x) // 1) >= stock)
    np.testing.assert_array_equal(regrown(np.array(stocks), 100, growth), [min(100, int(factor * h)) for h in stocks])


def test_chance_ends_a_hidden_horizon_geometrically():
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.jit(jax.vmap(month_of_chance, (0, None)))
    months = np.asarray(draw(keys, 0.25))
    assert months.min() == 1 and np.mean(months) == pytest.approx(4, abs=4 * np.sqrt(12 / 20_000))
    assert np.mean(months == 1) == pytest.approx(0.25, abs=4 * np.sqrt(0.1875 / 20_000))
    assert np.all(draw(keys, 0.0) > 1e9) and np.all(draw(keys, 1.0) == 1)


def test_an_episode_that_chance_ends_is_cut_and_survived(lake):
    months = lake([planned([always(10)] * N)], end_probability=1.0)
    assert months["cut"][0, 0] and not months["over"][0, 0] and months["survived"][0, 0] == 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"collapse_threshold": -1}, "collapse_threshold must be at least 0"),
        ({"capacity": 101}, "capacity must be at most 100"),
        ({"initial_stock": 0}, "initial_stock must be at least 1"),
        ({"growth": 0.5}, "growth must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"end_probability": 1.5}, "end_probability of a hidden horizon must be at most 1"),
        ({"arrival": 3}, "arrival without a newcomer must be at most 0"),
    ],
)
def test_parameters_outside_the_game_are_refused(params, message):
    with pytest.raises(InputError, match=message):
        LAKE.make_params(**params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allocation": "lotery"}, "closest: 'lottery'"),
        ({"horizon": "unknown"}, "closest: 'known'"),
        ({"threshold": "publish"}, "closest: 'published'"),
        ({"num_levels": 20}, "closest: 21"),
        ({"num_agents": 1}, "num_agents must be at least 2"),
    ],
)
def test_settings_outside_the_game_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make("fishery", **settings)


def test_a_known_horizon_cannot_come_by_chance():
    with pytest.raises(InputError, match="known horizon must be at most 0"):
        OPEN_EYED.make_params(end_probability=0.1)


def test_three_names_are_one_game_with_units_of_their_own():
    texts = [make(name).summary for name in ("fishery", "pasture", "pollution")]
    assert len(set(texts)) == 3 and len({text.split(".")[0] for text in texts}) == 1
    for text, word in zip(texts, ("fish", "grass", "water"), strict=True):
        assert word in text and "\n" not in text
    assert make("pasture").default_params == LAKE.default_params and type(make("pollution")) is type(LAKE)


def test_tables_show_episodes_by_the_published_formulas():
    means = {"episodes": 0.25, "survived": 0.125, "survived_published": 0.25, "gain": np.full(N, 10.0), "left": 50.0}
    means |= {"efficiency": 0.2, "equality": 0.24, "over_usage": np.full(N, 0.05), "demand": np.full(N, 9.0)}
    table = LAKE.derived_metrics(means)
    assert table["survival_time"] == 4 and table["survived"] == 0.5 and table["survived_published"] == 1
    assert table["efficiency"] == pytest.approx(0.8) and table["left"] == 50 and list(table["gain"]) == [40] * N


# ---------------------------------------------------------------------- learning
def trained(view):
    """What five seeds of IPPO do in the last tenth of their training, and in the first: the table's metrics, [S]."""
    settings: dict[str, Any] = {"num_envs": 64, "rollout_length": 24, "minibatches": 2, "hidden_sizes": (32,)}
    settings |= {"share_parameters": True, "lr": 5e-3, "gamma": 0.98, "entropy_coefficient": 2e-3}
    env = make("fishery", num_levels=21)
    fit = Fit(env, registry.configuration("ippo", reward_view=view, **settings), range(5), 2e5, chunks=10)
    tables = [env.derived_metrics(chunk.logs["metrics"]) for chunk in fit]
    return tables[0], tables[-1]


@pytest.mark.slow
def test_ippo_ruins_the_stock_for_its_own_reward():
    _, last = trained("individual")
    assert np.all(last["survival_time"] < 1.5) and np.all(last["efficiency"] < 0.2)
    assert np.all(last["demand"].mean(axis=-1) > 55), "a random agent asks for 50"


@pytest.mark.slow
def test_ippo_sustains_the_stock_for_the_teams_reward():
    first, last = trained("team")
    assert np.all(first["survival_time"] < 4) and np.all(first["efficiency"] < 0.4)
    assert np.all(last["survival_time"] > 11.5) and np.all(last["efficiency"] > 0.9)
    assert np.all(last["survived"] > 0.9)
