"""Allelopathic Harvest: its berries, how they ripen, are planted and eaten, its beams, and what planting pays."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import FORWARD, NOOP, TURN_LEFT

OPEN: Any = make("allelopathic_harvest")
ZAP, PLANT_RED, PLANT_GREEN, PLANT_BLUE = 7, 8, 9, 10
RED, GREEN, BLUE = range(3)
NORTH, EAST, SOUTH, WEST = range(4)
FIELD = """
    PPPRGBP
    PPPPPPP
    PPPGGGP
    PPPBPBP
"""
ENV: Any = make("allelopathic_harvest", num_agents=3, map=FIELD)
BERRIES = [(0, 3), (0, 4), (0, 5), (2, 3), (2, 4), (2, 5), (3, 3), (3, 5)]
FIRST = [RED, GREEN, BLUE, GREEN, GREEN, GREEN, BLUE, BLUE]
DRAWS = 4_000


@partial(jax.jit, static_argnums=0)
def jitted_step(env, key, state, actions, params):
    return env.step_env(key, state, actions, params)


def step(key, state, actions, params):
    return jitted_step(ENV, jax.random.key(key), state, np.asarray(actions, np.int32), params)


@jax.jit
def many_steps(state, actions, params):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.vmap(lambda key: ENV.step_env(key, state, actions, params)[1])(keys)


def state_of(*agents, **changes):
    """Agents 0, 1, ... at (row, column, heading); the others in the upper left corner, looking at the border."""
    _, state = ENV.reset(jax.random.key(0))
    agents = [*agents, (0, 0, NORTH), (0, 1, NORTH), (0, 2, NORTH)][:3]
    changes = {"position": [a[:2] for a in agents], "heading": [a[2] for a in agents]} | changes
    arrays = {name: jnp.asarray(np.asarray(value, getattr(state, name).dtype)) for name, value in changes.items()}
    return state.replace(**arrays)


def play(actions, state, **params):
    """Steps with `actions` [T, 3]: states, rewards and metrics, one per step. Nothing ripens unless it is said."""
    params, history = ENV.make_params(**{"ripening": 0.0, **params}), []
    for t, joint in enumerate(actions):
        _, state, reward, _, _, info = step(t, state, joint, params)
        history.append((state, reward, info["metrics"]))
    return zip(*jax.tree.map(np.asarray, history), strict=True)


# ---------------------------------------------------------------------- the map
def test_the_map_has_melting_pots_numbers_of_cells():
    counts = collections.Counter("".join(OPEN.grid.lines))
    assert OPEN.grid.shape == (30, 29) and counts == {"R": 116, "G": 116, "B": 116, "P": 522}
    assert OPEN.num_agents == 16 and OPEN.default_params.max_steps == 2000


def test_an_episode_begins_with_unripe_berries_and_two_tastes():
    _, state = ENV.reset(jax.random.key(0))
    assert state.colour.tolist() == FIRST and not state.ripe.any() and state.favourite.tolist() == [0, 0, 1]
    assert OPEN.default_params.favourites.tolist() == [0] * 8 + [1] * 8
    tiles = np.asarray(ENV.tile_plane(state))
    assert [tiles[cell] for cell in BERRIES] == [3 + colour for colour in FIRST] and (tiles == 1).sum() == 20


# ---------------------------------------------------------------------- ripening
@pytest.mark.parametrize("rate, colours", [(0.01, FIRST), (0.02, FIRST), (0.05, [GREEN] * 8)])
def test_berries_ripen_at_a_rate_of_the_number_of_their_colour(rate, colours):
    state = state_of(colour=colours, unripe=[0, 0, 0, 1, 1, 2, 9, 0])
    ripe = np.asarray(many_steps(state, np.zeros(3, np.int32), ENV.make_params(ripening=rate)).ripe).mean(axis=0)
    for i, colour in enumerate(colours):
        p = rate * colours.count(colour) * (i not in (5, 6))  # one that is at 1 comes to 0 in this step
        assert abs(ripe[i] - p) <= 3.3 * np.sqrt(p * (1 - p) / DRAWS)


def test_the_rates_of_the_whole_map_are_the_published_ones():
    # About a fifth of a berry ripens in each step of the first field, three fifths in each of a monoculture.
    params, still = OPEN.default_params, jnp.zeros(16, jnp.int32)
    _, first = OPEN.reset(jax.random.key(0))

    @jax.jit
    def ripened(state):
        keys = jax.random.split(jax.random.key(1), 3_000)
        return jax.vmap(lambda key: OPEN.step_env(key, state, still, params)[1].ripe.sum())(keys)

    for colour, expected in ((first.colour, 348 * 5e-6 * 116), (0 * first.colour, 348 * 5e-6 * 348)):
        mean = np.asarray(ripened(first.replace(colour=colour, unripe=0 * first.unripe))).mean()
        assert abs(mean - expected) < 3.3 * np.sqrt(expected / 3_000)


def test_a_berry_waits_ten_steps_at_first_and_after_it_is_eaten():
    state = state_of((1, 3, NORTH))
    states, rewards, _ = play([[FORWARD, NOOP, NOOP]] + [[NOOP] * 3] * 21, state, ripening=1 / 8, favourite_reward=3.0)
    assert not any(s.ripe.any() for s in states[:9])
    eaten = state_of((1, 3, NORTH), ripe=[1] * 8, colour=[RED] * 8)
    states, rewards, _ = play([[FORWARD, NOOP, NOOP]] + [[NOOP] * 3] * 11, eaten, ripening=1 / 8)
    assert [bool(s.ripe[0]) for s in states] == [False] * 10 + [True] * 2  # certain to, as there are eight of them
    assert [r[0] for r in rewards] == [2] + [0] * 11


# ---------------------------------------------------------------------- eating
def test_favourites_pay_two_and_others_one():
    ripe = {"ripe": [1] * 8, "favourite": [GREEN, GREEN, BLUE]}
    state = state_of((1, 3, NORTH), (1, 4, NORTH), (1, 5, SOUTH), **ripe)
    states, rewards, metrics = play([[FORWARD] * 3, [NOOP] * 3], state)
    assert rewards[0].tolist() == [1, 2, 1] and not rewards[1].any()
    assert metrics[0]["eaten"].tolist() == [1, 1, 1] and metrics[0]["favourites_eaten"].tolist() == [0, 1, 0]
    assert states[0].ripe.tolist() == [False, False, True, True, True, False, True, True]
    assert states[0].colour.tolist() == FIRST and metrics[0]["ripe"] == 5


def test_unripe_berries_pay_nothing():
    _, rewards, metrics = play([[FORWARD] * 3], state_of((1, 3, NORTH), (1, 4, NORTH), (1, 5, SOUTH)))
    assert not rewards[0].any() and not metrics[0]["eaten"].any()


# ---------------------------------------------------------------------- planting
def test_a_beam_plants_the_first_berry_within_three_cells():
    cases = [
        ((0, 0, EAST), [RED, GREEN, BLUE], [GREEN, GREEN, BLUE]),  # three cells ahead: the red one
        ((1, 4, SOUTH), None, None),  # is green already
        ((1, 0, EAST), None, None),  # none in its row
    ]
    for agent, _, after in cases:
        states, _, metrics = play([[PLANT_GREEN, NOOP, NOOP]], state_of(agent, (3, 0, SOUTH), (3, 1, SOUTH)))
        assert states[0].colour.tolist() == ((after or FIRST[:3]) + FIRST[3:])
        assert metrics[0]["planted"].tolist() == [float(after is not None), 0, 0]
    too_far = state_of((3, 6, WEST), (3, 1, SOUTH), (3, 0, SOUTH), colour=[RED] * 8)
    states, _, _ = play([[PLANT_BLUE, NOOP, NOOP]], too_far)
    assert states[0].colour.tolist() == [RED] * 7 + [BLUE]  # and not the next one behind it


def test_ripe_berries_stop_the_beam_and_keep_their_colour():
    state = state_of((2, 6, WEST), (3, 1, SOUTH), (3, 0, SOUTH), ripe=[0, 0, 0, 0, 0, 1, 0, 0])
    states, _, metrics = play([[PLANT_RED, NOOP, NOOP]], state)
    assert states[0].colour.tolist() == FIRST and not metrics[0]["planted"].any()


def test_an_agent_stops_the_beam():
    state = state_of((0, 0, EAST), (0, 2, NORTH), (3, 1, SOUTH))
    states, _, _ = play([[PLANT_GREEN, NOOP, NOOP]], state)
    assert states[0].colour.tolist() == FIRST


def test_planting_starts_the_wait_anew_only_where_it_changes_something():
    state = state_of((1, 3, NORTH), (1, 4, NORTH), (3, 1, SOUTH), unripe=[0] * 8)
    states, _, metrics = play([[PLANT_GREEN, PLANT_GREEN, NOOP]], state)
    assert states[0].unripe.tolist() == [10] + [0] * 7
    assert (metrics[0]["red"], metrics[0]["green"], metrics[0]["blue"]) == (0, 5, 3)
    assert metrics[0]["monoculture"] == pytest.approx(5 / 8)


def test_the_three_planting_beams_recharge_together():
    state = state_of((0, 0, EAST), (3, 1, SOUTH), (3, 0, SOUTH))
    actions = [PLANT_GREEN, PLANT_BLUE, PLANT_RED, PLANT_BLUE, PLANT_RED, PLANT_RED, PLANT_RED]
    states, *_ = play([[a, NOOP, NOOP] for a in actions], state)
    assert [s.colour[0] for s in states] == [GREEN, GREEN, GREEN, BLUE, BLUE, BLUE, RED]
    assert states[0].timers[0].tolist() == [0, 2, 2, 2]
    ready = ENV.observe(jax.tree.map(jnp.asarray, states[0]), ENV.default_params)["ready"]
    assert ready[0].tolist() == [1, 0, 0, 0]


def test_of_two_who_plant_at_once_each_is_as_likely_to():
    state = state_of((0, 2, EAST), (1, 3, NORTH), (3, 1, SOUTH))
    after = many_steps(state, np.array([PLANT_GREEN, PLANT_BLUE, NOOP], np.int32), ENV.default_params)
    first = np.asarray(after.colour)[:, 0]
    assert set(np.unique(first)) == {GREEN, BLUE}
    _, _, metrics = play([[PLANT_GREEN, PLANT_BLUE, NOOP]], state)
    assert metrics[0]["planted"].sum() == 1
    assert abs((first == GREEN).mean() - 0.5) < 3.3 * 0.5 / np.sqrt(DRAWS)


# ---------------------------------------------------------------------- zapping
def test_the_second_zap_costs_ten_and_25_steps():
    # Agent 0 and agent 1 with an unripe berry between them, which the zap passes.
    state = state_of((3, 2, EAST), (3, 4, NORTH), (0, 0, NORTH))
    actions = [[ZAP, TURN_LEFT, NOOP]] * 6 + [[NOOP] * 3] * 25
    states, rewards, metrics = play(actions, state)
    assert [s.frozen[1] for s in states[:6]] == [25, 24, 23, 22, 21, 0]
    assert [r[1] for r in rewards] == [0] * 5 + [-10] + [0] * 25 and not np.any([r[[0, 2]] for r in rewards])
    assert [s.timeout[1] for s in states[5:]] == [*range(25, -1, -1)]
    assert [m["zaps"][0] for m in metrics[:6]] == [1, 0, 0, 0, 0, 1]


# ---------------------------------------------------------------------- views, settings and players
def test_favourites_are_seen_and_known():
    state = state_of((1, 3, NORTH), (0, 3, EAST), (3, 1, SOUTH), ripe=[0, 1, 0, 0, 0, 0, 0, 0])
    obs = ENV.observe(state, ENV.default_params)
    assert obs["favourite"].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    marks, tiles = np.asarray(ENV.seen(obs, "favourite")), np.asarray(ENV.seen(obs, "tile"))
    assert marks[0][9, 5] == 1 and marks[0][8, 5] == 1 and marks[2][9, 5] == 2 and (marks[0] > 0).sum() == 2
    assert tiles[0][8, 5:8].tolist() == [3, 7, 5]  # unripe red, ripe green, unripe blue


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="favourites must be at most 2"):
        ENV.make_params(favourites=[0, 1, 3])
    with pytest.raises(InputError, match="favourites must have shape"):
        ENV.make_params(favourites=[0, 1])
    with pytest.raises(InputError, match="ripening times the number of berries must be at most 1"):
        ENV.make_params(ripening=0.2)


def test_planters_plant_and_eaters_do_not():
    keys = jax.random.split(jax.random.key(0), 30)
    names = ("red_planter", "favourite_planter", "eater")
    act = {name: jax.jit(jax.vmap(ENV.players[name], (None, 0))) for name in names}

    def actions(state):
        seen = jax.tree.map(lambda leaf: leaf[0], ENV.observe(state, ENV.default_params))
        return [set(np.asarray(act[name](seen, keys)).tolist()) for name in names]

    red, favourite, eats = actions(state_of((3, 4, NORTH), (3, 1, SOUTH), (3, 0, SOUTH), favourite=[BLUE] * 3))
    assert red == {PLANT_RED} and favourite == {PLANT_BLUE} and not eats & {PLANT_RED, PLANT_GREEN, PLANT_BLUE}
    beside = state_of((1, 5, WEST), (3, 1, SOUTH), (3, 0, SOUTH), colour=[RED, RED, RED, RED, RED, BLUE, RED, RED])
    assert actions(beside)[0] == {TURN_LEFT}
    red, _, eats = actions(state_of((1, 4, NORTH), (3, 1, SOUTH), (3, 0, SOUTH), ripe=[0, 1, 0, 0, 0, 0, 0, 0]))
    assert red == eats == {FORWARD}


def test_planting_one_colour_pays_all():
    params: Any = OPEN.make_params(ripening=2e-5, ripening_delay=0)
    steps = 300

    def play(is_eater, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 16)
            takes, plants = (jax.vmap(OPEN.players[name])(obs, keys) for name in ("eater", "red_planter"))
            obs, state, reward, *_ = OPEN.step_env(key, state, jnp.where(is_eater, takes, plants), params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, OPEN.reset(reset_key), jax.random.split(key, steps))[1].sum(axis=0)

    order = jnp.arange(16) % 8  # pairs, one who likes red and one who likes green
    teams = order < jnp.array([0, 4, 8])[:, None]
    keys = jax.random.split(jax.random.key(0), 3)
    planters, half, eaters = np.asarray(jax.jit(jax.vmap(play))(teams, keys))
    assert planters.mean() > 1.5 * eaters.mean()
    assert half.mean() > 1.2 * eaters.mean()
