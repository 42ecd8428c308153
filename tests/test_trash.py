"""Taking out the trash: the published rules, which ask for almost nothing, and the repaired ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.experiments import schelling
from marl_suite.games.schelling import verdict

N, LANES = 5, 64
REPAIRED: Any = make("trash")
PUBLISHED: Any = make("trash", rules="published")


def player_of(env):
    """A function of offers [E, T, N]: what each month brings, as if no episode ended."""

    def play(key, plan, params):
        players = [(name, player) for name, player in env.players.items() if name != "random"]

        def month(carry, offers):
            state, key = carry
            key, step_key, player_key = jax.random.split(key, 3)
            seen = env.observe(state, params)
            asks = {f"ask {name}": jax.vmap(player, (0, None))(seen, player_key) for name, player in players}
            _, after, reward, terminated, truncated, info = env.step_env(step_key, state, offers, params)
            shown = {"stock": after.stock, "out": after.catch, "reward": reward, "seen": seen}
            return (after, key), shown | asks | {"over": terminated, "cut": truncated, **info["metrics"]}

        return jax.lax.scan(month, (env.reset_env(key, params)[1], jax.random.fold_in(key, 1)), plan)[1]

    played = jax.jit(jax.vmap(play, (0, 0, None)))

    def run(plans, **params):
        keys = jax.random.split(jax.random.key(0), LANES)
        padded = np.resize(np.array(plans, np.int32), (LANES, 12, N))
        months = played(keys, padded, env.make_params(**params))
        return jax.tree.map(lambda x: np.asarray(x)[: len(plans)], months)

    return run


@pytest.fixture(scope="module")
def repaired():
    return player_of(REPAIRED)


@pytest.fixture(scope="module")
def published():
    return player_of(PUBLISHED)


def first_end(months, lane=0):
    return int(np.argmax((months["over"] | months["cut"])[lane])) + 1


def each(*offers):
    return np.tile(offers, (12, 1))


# ---------------------------------------------------------------------- pitfall 3: what survival asks for
def test_pitfall_3_by_the_published_rules_one_volunteer_of_five_units_a_month_is_enough(published):
    months = published([each(5, 0, 0, 0, 0), each(4, 0, 0, 0, 0), each(10, 10, 10, 10, 10)])
    assert [first_end(months, lane) for lane in range(3)] == [12, 1, 12]
    assert list(months["survived"][0]) == [0] * 11 + [1] and not months["survived"][1].any()
    assert months["gain"][0, 11].sum() == 60, "sixty units of work in all"
    assert list(months["gain"][2, 11]) == [120] * N, "what agents are told to do costs each of them twice that"
    assert list(months["stock"][0]) == [100] * 12, "capped"


def test_pitfall_3_by_the_repaired_rules_fifty_units_a_month_are_needed(repaired):
    months = repaired([each(5, 0, 0, 0, 0), each(10, 10, 10, 10, 9), each(10, 10, 10, 10, 10), each(50, 0, 0, 0, 0)])
    assert [first_end(months, lane) for lane in range(4)] == [1, 1, 12, 12]
    assert list(months["stock"][2]) == [100] * 12 and months["gain"][2, 11].sum() == 600
    assert list(months["reward"][2].sum(axis=0)) == [120] * N, "as in the fishery"
    assert list(months["reward"][3].sum(axis=0)) == [240 - 600, 240, 240, 240, 240]
    assert list(months["reward"][1, 0]) == [-10, -10, -10, -10, -9], "a month in which the house is lost is worth 0"


def test_work_ahead_of_need_lasts_in_the_repaired_rules_only_as_long_as_the_inflow_takes(repaired):
    plan = np.zeros((12, N), int)
    plan[0] = 20  # all of it: 0 left, 50, then 100 and, without work, 150
    months = repaired([plan])
    assert list(months["stock"][0, :3]) == [50, 100, 150] and first_end(months) == 3
    assert months["efficiency"][0, 2] == pytest.approx(100 / 600)


def test_by_the_published_rules_nobody_gains_by_saving_the_house(published, repaired):
    idle, busy = each(0, 0, 0, 0, 0), each(10, 10, 10, 10, 10)
    for run, better in ((published, 0), (repaired, 1)):
        months = run([idle, busy])
        returns = [months["reward"][lane, : first_end(months, lane)].sum() for lane in (0, 1)]
        assert int(np.argmax(returns)) == better
    paid = published([busy], month_value=20.0)
    assert list(paid["reward"][0].sum(axis=0)) == [120] * N


# ---------------------------------------------------------------------- the rest of the rules
@pytest.mark.parametrize("rules", ["repaired", "published"])
def test_random_play_follows_the_rules_as_written_in_plain_python(rules, repaired, published):
    rng = np.random.default_rng(1)
    plans = rng.integers(0, rng.integers(4, 60, (LANES, 1, 1)), (LANES, 12, N))
    plans[0] = 0
    months = {"repaired": repaired, "published": published}[rules](plans)
    lengths = set()
    for lane, plan in enumerate(plans):
        stock, done, totals, shirked = 100, 0, np.zeros(N, int), np.zeros(N, int)
        lost = False
        for month in range(12):
            out = months["out"][lane, month]
            assert np.all(out <= plan[month]) and out.sum() == min(stock, plan[month].sum())
            asked = 10 if rules == "published" else -(-max(stock - 50, 0) // N)
            totals, shirked, left = totals + out, shirked + (out < asked), stock - out.sum()
            lost = left > 95 if rules == "published" else left + 50 > 100
            value = 20 if rules == "repaired" and not lost else 0
            assert list(months["reward"][lane, month]) == list(value - out)
            stock, done = min(100, left + 50) if rules == "published" else left + 50, month + 1
            assert months["stock"][lane, month] == stock
            if lost:
                break
        lengths.add(done)
        at = {name: value[lane, done - 1] for name, value in months.items()}
        assert first_end(months, lane) == done and at["over"] == lost and at["survived"] == (not lost)
        assert list(at["gain"]) == list(totals) and at["survived_published"] == (done == 12)
        assert at["efficiency"] == pytest.approx(1 - max(0, 600 - totals.sum()) / 600, abs=1e-6)
        np.testing.assert_allclose(at["shirking"], shirked / done, rtol=1e-6)
    assert {1, 12} <= lengths


def test_players_take_out_their_shares_of_what_must_go(repaired, published):
    months = repaired([each(15, 10, 10, 10, 10)])
    assert list(months["stock"][0, :2]) == [95, 90]
    for month, asks in enumerate([(13, 10, 50, 0), (12, 9, 45, 0), (10, 8, 40, 0)]):
        names = ("conscientious", "fair", "volunteer", "shirker")
        assert [months[f"ask {name}"][0, month, 0] for name in names] == list(asks)
    assert published([each(5, 0, 0, 0, 0)])["ask volunteer"][0, 3, 2] == 5
    coarse: Any = make("trash", num_levels=11)
    state = coarse.initial_state(jax.random.key(0), coarse.default_params)
    seen = coarse.observe(state, coarse.default_params)[0]
    assert coarse.players["conscientious"](seen, jax.random.key(1)) == 2, "13 units, rounded up to 20"


def test_a_diagram_shows_fear_and_greed():
    assert schelling.the_two(REPAIRED) == ("conscientious", "shirker")
    diagram = schelling.play(REPAIRED, REPAIRED.default_params, ("conscientious", "shirker"), episodes=4)
    assert str(verdict(diagram)) == "a social dilemma of fear and greed"
    ends = diagram.cooperators[5], diagram.defectors[4], diagram.cooperators[4], diagram.cooperators[1]
    assert [returns.mean() for returns in ends] == [118, 240, 90, -13] and diagram.defectors[0].mean() == 0
    assert diagram.equilibria() == [0, 4]


def test_the_told_threshold_is_ten_each_at_first():
    for rules, later in (("repaired", 0), ("published", 10)):
        env: Any = make("trash", rules=rules, universalization=True)
        state = env.initial_state(jax.random.key(0), env.default_params)
        told = [env.told_threshold(state.replace(stock=jnp.int32(units)), env.default_params) for units in (100, 50)]
        assert told == [10, later]


@pytest.mark.parametrize("params", [{"limit": 101}, {"inflow": -1}, {"initial_stock": 200}, {"max_steps": 0}])
def test_parameters_outside_the_game_are_refused(params):
    with pytest.raises(InputError, match=next(iter(params))):
        REPAIRED.make_params(**params)


def test_unknown_rules_are_refused():
    with pytest.raises(InputError, match="closest: 'repaired'"):
        make("trash", rules="repair")
