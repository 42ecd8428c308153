"""Clean Up: its map, its river, its apples, its beams and the dilemma between its scripted players."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import BACKWARD, FORWARD, NOOP

ENV: Any = make("clean_up")
ZAP, CLEAN = 7, 8
STILL = np.zeros(7, np.int32)


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


@partial(jax.jit, static_argnums=1)
def many_steps(state, draws, params):
    """The states after `draws` times the same step without actions."""
    keys = jax.random.split(jax.random.key(0), draws)
    return jax.vmap(lambda key: ENV.step_env(key, state, jnp.asarray(STILL), params)[1])(keys)


def state_of(places=(), **changes):
    """A first state with agents 0, 1, ... at `places`, all looking north, and the others on row 8."""
    _, state = ENV.reset(jax.random.key(0))
    position = [*places, *[(8, column) for column in range(2, 9 - len(places))]]
    changes = {"position": np.array(position, np.int32), "heading": np.zeros(7, np.int32)} | changes
    return state.replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def dirt_at(*cells):
    """bool [D], dirt at these cells only."""
    sites = [tuple(cell) for cell in np.argwhere(ENV.grid.plane("~D")).tolist()]
    assert set(cells) <= set(sites)
    return np.array([site in cells for site in sites])


def share(frequency, probability, draws):
    return abs(frequency - probability) < 4 * np.sqrt(probability * (1 - probability) / draws)


# ---------------------------------------------------------------------- the map
def test_the_map_has_melting_pots_numbers_of_cells():
    counts = collections.Counter("".join(ENV.grid.lines))
    assert ENV.grid.shape == (21, 30) and counts["#"] == 98
    assert (counts["~"], counts["D"], counts["-"], counts["A"], counts["P"]) == (68, 79, 20, 122, 19)
    rows = [set(np.argwhere(ENV.grid.plane(kind))[:, 0].tolist()) for kind in ("~D", "-", "A", "P")]
    assert rows[0] == set(range(1, 7)) and rows[1] == set(range(7, 17)) and rows[2] == set(range(15, 20))
    assert min(rows[3]) > 6 and max(rows[3]) < 15


def test_an_episode_begins_without_apples_beside_a_dirty_river():
    state = state_of()
    assert not state.apples.any() and int(state.dirt.sum()) == 79
    np.testing.assert_allclose(state.dirt.mean(), 79 / 147)
    view = np.asarray(ENV.tile_plane(state))
    assert (view == ENV.tile("dirt")).sum() == 79 and (view == ENV.tile("river")).sum() == 88
    assert (view == ENV.tile("bare")).sum() == 122 and not (view == ENV.tile("apple")).any()


# ---------------------------------------------------------------------- growth
@pytest.mark.parametrize("dirty, probability", [(0, 0.05), (29.4, 0.025), (58.8, 0), (79, 0), (147, 0)])
def test_growth_falls_with_the_share_of_dirt(dirty, probability):
    below, above = np.arange(147) < np.floor(dirty), np.arange(147) < np.ceil(dirty)
    growth = [float(ENV.growth(jnp.asarray(dirt), ENV.default_params)) for dirt in (below, above)]
    mixed = growth[0] + (dirty % 1) * (growth[1] - growth[0])  # the share lies between two whole numbers of cells
    if dirty == 58.8:
        assert growth[0] == pytest.approx(0.05 * (1 - 58 / 58.8), rel=1e-4) and growth[1] == 0
    else:
        assert mixed == pytest.approx(probability, rel=1e-5)


def test_growth_has_the_published_values_at_tenths():
    params = ENV.make_params(apple_growth=0.5, depletion=0.9, restoration=0.1)
    shares = {k: float(ENV.growth(jnp.arange(147) < k, params)) for k in (0, 14, 147)}
    assert shares == pytest.approx({0: 0.5, 14: 0.5, 147: 0})
    half = float(ENV.growth(jnp.arange(147) < 73, params))
    assert half == pytest.approx(0.5 * (0.9 - 73 / 147) / 0.8, rel=1e-5)


def test_bare_sites_grow_at_that_rate_also_under_agents():
    clean_except = np.arange(147) < 29  # f = .1973
    on_a_site = tuple(np.argwhere(ENV.grid.plane("A"))[30].tolist())
    state = state_of([on_a_site], dirt=clean_except)
    draws = 4_000
    apples = np.asarray(many_steps(state, draws, ENV.default_params).apples)
    expected = 0.05 * (0.4 - 29 / 147) / 0.4
    assert share(apples.mean(), expected, draws * 122)
    assert share(apples[:, 30].mean(), expected, draws)
    dirty = many_steps(state_of(dirt=np.arange(147) < 59), draws, ENV.default_params)
    assert not dirty.apples.any()


def test_apples_are_eaten_on_entering_and_stay_otherwise():
    row, column = np.argwhere(ENV.grid.plane("A"))[40].tolist()
    apples = np.ones(122, bool)
    state = state_of([(row, column)], apples=apples, dirt=np.ones(147, bool))
    rewards = []
    for key, action in enumerate([NOOP, BACKWARD, FORWARD, BACKWARD]):
        _, state, reward, _, _, info = step(ENV, key, state, [action, *STILL[1:]], ENV.default_params)
        rewards.append(reward.tolist()[0])
        assert info["metrics"]["eaten"].tolist() == reward.tolist()
    assert rewards == [0, 1, 1, 0] and int(state.apples.sum()) == 120


# ---------------------------------------------------------------------- dirt
def test_dirt_comes_one_cell_at_a_time_from_step_51_on():
    params, state, counts = ENV.make_params(dirt_probability=1.0), state_of(), []
    for key in range(54):
        _, state, _, _, _, info = step(ENV, key, state, STILL, params)
        counts.append(int(state.dirt.sum()))
        assert float(info["metrics"]["dirt"]) == pytest.approx(counts[-1] / 147)
    assert counts == [79] * 50 + [80, 81, 82, 83]


def test_each_clean_cell_is_as_likely_to_turn_dirty_half_of_the_time():
    clean = np.isin(np.arange(147), [0, 5, 77, 146])
    after = np.asarray(many_steps(state_of(dirt=~clean, time=np.int32(60)), 4_000, ENV.default_params).dirt)
    new = after & clean
    assert np.all(new.sum(axis=1) <= 1) and np.all(after[:, ~clean])
    assert share(new.any(axis=1).mean(), 0.5, 4_000)
    assert all(share(frequency, 1 / 8, 4_000) for frequency in new[:, clean].mean(axis=0))


def test_a_river_that_is_all_dirty_stays_so():
    after = many_steps(state_of(dirt=np.ones(147, bool), time=np.int32(60)), 10, ENV.default_params)
    assert after.dirt.all()


# ---------------------------------------------------------------------- beams
def test_a_shot_removes_the_first_dirt_of_each_ray():
    # All is dirty around (4, 10): the cell ahead and both beside it go, and nothing behind them.
    state = state_of([(4, 10)], dirt=np.ones(147, bool))
    _, after, _, _, _, info = step(ENV, 0, state, [CLEAN, *STILL[1:]], ENV.default_params)
    assert np.array_equal(~np.asarray(after.dirt), dirt_at((3, 10), (4, 9), (4, 11)))
    assert info["metrics"]["cleaned"].tolist() == [3, 0, 0, 0, 0, 0, 0]
    assert info["metrics"]["clean_shots"].tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_a_held_trigger_cleans_every_third_step_and_deeper_each_time():
    params, state, cleaned = ENV.make_params(dirt_probability=0.0), state_of([(4, 10)], dirt=np.ones(147, bool)), []
    for key in range(8):
        _, state, _, _, _, info = step(ENV, key, state, [CLEAN, *STILL[1:]], params)
        cleaned.append(int(info["metrics"]["cleaned"][0]))
    assert cleaned == [3, 0, 0, 3, 0, 0, 3, 0]
    assert int((~state.dirt).sum()) == 9  # the whole footprint of length 3 and radius 1


def test_the_cleaning_beam_passes_agents_and_takes_nobody_out():
    state = state_of([(6, 10), (5, 10)], dirt=dirt_at((4, 10)))
    _, after, _, _, _, info = step(ENV, 0, state, [CLEAN, *STILL[1:]], ENV.default_params)
    assert not after.dirt.any() and not info["metrics"]["timed_out"].any()


def test_the_zapping_beam_passes_dirt_and_cleans_nothing():
    state = state_of([(6, 10), (4, 10)], dirt=dirt_at((5, 10)))
    _, after, _, _, _, info = step(ENV, 0, state, [ZAP, *STILL[1:]], ENV.default_params)
    assert info["metrics"]["timed_out"].tolist() == [0, 1, 0, 0, 0, 0, 0] and int(after.timeout[1]) == 50
    assert int(after.dirt.sum()) == 1 and not info["metrics"]["cleaned"].any()
    assert after.timers[0].tolist() == [10, 0]


def test_two_who_clean_the_same_cell_at_once_remove_it_once():
    state = state_of([(6, 10), (2, 10)], dirt=dirt_at((4, 10)), heading=np.array([0, 2, 0, 0, 0, 0, 0], np.int32))
    _, after, _, _, _, info = step(ENV, 0, state, [CLEAN, CLEAN, *STILL[2:]], ENV.default_params)
    assert not after.dirt.any() and info["metrics"]["cleaned"].tolist()[:2] == [1, 1]


# ---------------------------------------------------------------------- settings and players
def test_socialjax_counts_the_stream_as_clean_river():
    params = ENV.socialjax_params()
    for dirty in (0, 20, 66, 67):
        expected = 0.05 * max(0, 1 - dirty / (147 + 20) / 0.4)
        assert float(ENV.growth(jnp.arange(147) < dirty, params)) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="depletion minus restoration must be at least"):
        ENV.make_params(depletion=0.2, restoration=0.2)
    with pytest.raises(InputError, match="dirt_probability must be at most 1"):
        ENV.make_params(dirt_probability=2)


def test_the_cleaner_shoots_at_dirt_in_reach_and_the_eater_does_not():
    state = state_of([(6, 10)], dirt=dirt_at((4, 10)))
    keys = jax.random.split(jax.random.key(0), 40)

    def actions(name, state):
        seen = jax.tree.map(lambda leaf: leaf[0], ENV.observe(state, ENV.default_params))
        return set(np.asarray(jax.jit(jax.vmap(ENV.players[name], (None, 0)))(seen, keys)).tolist())

    assert actions("cleaner", state) == {CLEAN} and CLEAN not in actions("eater", state)
    waiting = state.replace(timers=state.timers.at[0, 1].set(2))
    assert actions("cleaner", waiting) == {NOOP}
    assert actions("cleaner", state_of([(6, 10)], dirt=dirt_at((1, 10)))) == {FORWARD}


def test_cleaners_feed_all_and_who_never_cleans_gets_most():
    steps = 500

    def play(eats, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 7)
            takes, cleans = (jax.vmap(ENV.players[name])(obs, keys) for name in ("eater", "cleaner"))
            obs, state, reward, *_ = ENV.step_env(key, state, jnp.where(eats, takes, cleans), ENV.default_params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, ENV.reset(reset_key), jax.random.split(key, steps))[1].sum(axis=0)

    teams = jnp.arange(7) < jnp.array([0, 1, 7])[:, None]
    returns = jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, jax.random.split(jax.random.key(0), (3, 3)))
    cleaners, one_eater, eaters = np.asarray(returns).mean(axis=1)
    assert cleaners.mean() > 50 and eaters.sum() == 0
    assert one_eater[0] > 1.2 * one_eater[1:].mean() and one_eater[0] > cleaners.mean()
