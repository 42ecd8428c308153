"""Externality Mushrooms: its map, who is paid what, what grows, spoils and is destroyed, and the dilemma."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import BACKWARD, FORWARD, NOOP

ENV: Any = make("externality_mushrooms")
ZAP = 7
RED, GREEN, BLUE, ORANGE = 1, 2, 3, 4
COLOURS = ("red", "green", "blue", "orange")
EAT = np.array([FORWARD, NOOP, NOOP, NOOP, NOOP], np.int32)
STILL = np.zeros(5, np.int32)
DRAWS = 4_000


@partial(jax.jit, static_argnums=0)
def jitted_step(env, key, state, actions, params):
    return env.step_env(key, state, actions, params)


def step(env, key, state, actions, params):
    return jitted_step(env, jax.random.key(key), state, np.asarray(actions, np.int32), params)


@jax.jit
def many_steps(state, actions, params):
    """The mushrooms, uint8 [DRAWS, H, W], after as many times the same step."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.vmap(lambda key: ENV.step_env(key, state, jnp.asarray(actions), params)[1].mushrooms)(keys)


def state_of(mushrooms, places=(), **changes):
    """Agents 0, 1, ... at `places`, all looking north, the others in the row 12; `mushrooms` is {cell: colour}."""
    _, state = ENV.reset(jax.random.key(0))
    plane = np.zeros((14, 23), np.uint8)
    for cell, colour in mushrooms.items():
        plane[cell] = colour
    position = [*places, *[(12, 2 * i + 1) for i in range(5 - len(places))]]
    changes = {"position": np.array(position, np.int32), "heading": np.zeros(5, np.int32)} | changes
    changes = {"mushrooms": plane, "spoils": np.full((14, 23), 10_000, np.int32)} | changes
    return state.replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def no_spores(**changes):
    return ENV.make_params(**{"spores": [0, 0, 0, 0], "blight": 0.0, **changes})


# ---------------------------------------------------------------------- the map
def test_the_map_has_melting_pots_numbers_of_cells():
    counts = collections.Counter("".join(ENV.grid.lines))
    assert ENV.grid.shape == (14, 23) and counts["P"] == 221
    assert (counts["R"], counts["G"], counts["B"], counts["O"]) == (3, 3, 3, 1)
    _, state = ENV.reset(jax.random.key(3))
    kinds = np.bincount(np.asarray(state.mushrooms).ravel(), minlength=5)
    assert kinds.tolist() == [14 * 23 - 10, 3, 3, 3, 1]
    tiles = np.asarray(ENV.tile_plane(state))
    assert [(tiles == ENV.tile(colour)).sum() for colour in ("wall", *COLOURS)] == [91, 3, 3, 3, 1]


# ---------------------------------------------------------------------- who is paid what
@pytest.mark.parametrize(
    "colour, paid, digestion",
    [
        (RED, [1, 0, 0, 0, 0], 0),
        (GREEN, [0.4] * 5, 10),
        (BLUE, [0, 0.75, 0.75, 0.75, 0.75], 15),
        (ORANGE, [-0.2] * 5, 15),
    ],
)
def test_a_mushroom_pays_by_its_colour_and_is_digested(colour, paid, digestion):
    state, rewards, frozen = state_of({(4, 10): colour}, [(5, 10)]), [], []
    for key in range(17):
        _, state, reward, _, _, info = step(ENV, key, state, EAT, no_spores())
        rewards.append(reward)
        frozen.append(int(state.frozen[0]))
        eaten = [info["metrics"][f"{name}_eaten"].tolist() for name in COLOURS]
        assert eaten == [[float(key == 0 and colour == c), 0, 0, 0, 0] for c in (RED, GREEN, BLUE, ORANGE)]
    np.testing.assert_allclose(rewards[0], paid, rtol=1e-6)
    assert not np.any(rewards[1:]) and not state.mushrooms.any()
    assert frozen == [max(digestion - t, 0) for t in range(17)]
    assert 4 - int(state.position[0, 0]) == min(3 - 1, 16 - digestion)  # it walks on until the wall, two cells ahead


def test_payments_of_one_step_add_up_for_any_number_of_agents():
    env: Any = make("externality_mushrooms", num_agents=3)
    eats = np.zeros((3, 4), bool)
    eats[[0, 1, 2], [RED - 1, BLUE - 1, GREEN - 1]] = True
    paid = env.payments(jnp.asarray(eats), env.default_params)
    np.testing.assert_allclose(paid, np.array([1, 0, 0]) + 2 / 3 + 3 / 2 * np.array([1, 0, 1]), rtol=1e-6)
    doubled = env.payments(jnp.asarray(eats), env.make_params(total_reward=[2, 4, 6, -2]))
    np.testing.assert_allclose(doubled, 2 * paid, rtol=1e-6)


def test_who_is_out_is_paid_nothing_unless_it_went_out_in_this_step():
    # Agent 1 walks onto blue; agent 0 is out; agent 2 is marked and zapped by agent 3 in the same step.
    places = [(8, 2), (5, 10), (5, 4), (7, 4)]
    state = state_of({(4, 10): BLUE}, places, timeout=np.array([9, 0, 0, 0, 0]), marked=np.array([0, 0, 9, 0, 0]))
    _, state, reward, *_ = step(ENV, 0, state, [NOOP, FORWARD, NOOP, ZAP, NOOP], no_spores())
    np.testing.assert_allclose(reward, [0, 0, 0.75, 0.75, 0.75])
    assert state.timeout.tolist() == [8, 0, 50, 0, 0]


def test_mushrooms_are_eaten_on_entering_only():
    state = state_of({(5, 10): RED}, [(5, 10)])
    rewards = []
    for key, action in enumerate([NOOP, FORWARD, BACKWARD, FORWARD]):
        _, state, reward, *_ = step(ENV, key, state, [action, *STILL[1:]], no_spores())
        rewards.append(float(reward[0]))
    assert rewards == [0, 0, 1, 0]


# ---------------------------------------------------------------------- growth
@pytest.mark.parametrize(
    "colour, chances",
    [(RED, [0.25, 0, 0, 0]), (GREEN, [0.25, 0.4, 0, 0]), (BLUE, [0.25, 0.4, 0.6, 0]), (ORANGE, [0, 0, 0, 1])],
)
def test_spores_sprout_at_the_published_rates_in_uniform_cells(colour, chances):
    state = state_of({(4, 10): colour}, [(5, 10)])
    grown = np.asarray(many_steps(state, EAT, ENV.default_params))
    spores, waiting, free = (1 if colour == ORANGE else 3), 230, 226  # of the five agents, one stands where it ate
    missed = [(1 - p / waiting) ** spores for p in chances]  # by every spore of a colour, for one cell
    for c, name in enumerate(COLOURS):
        shown = (1 - missed[c]) * np.prod(missed[c + 1 :])
        mean = free * shown
        assert abs((grown == c + 1).sum() / DRAWS - mean) <= 3.3 * np.sqrt(mean / DRAWS) + 1e-9, name
    per_cell = (grown > 0).mean(axis=0)
    mean = 1 - np.prod(missed)
    standing = np.zeros((14, 23), bool)
    standing[tuple(np.asarray(state.position).T)] = standing[4, 10] = True
    grows = ENV.grid.plane("PRGBO") & ~standing
    standing[5, 10] = False  # left
    grows[5, 10] = True
    assert grows.sum() == free and not per_cell[~grows].any()
    assert np.all(abs(per_cell[grows] - mean) < 4.5 * np.sqrt(mean / DRAWS))


def test_several_eaters_sow_more_than_is_usual_in_one_step():
    places = [(5, 2 * i + 2) for i in range(5)]
    state = state_of({(4, column): BLUE for _, column in places}, places)
    params = ENV.make_params(sprouting=[[0] * 4, [0] * 4, [1, 1, 1, 0], [0] * 4])
    grown = np.asarray(many_steps(state, np.full(5, FORWARD, np.int32), params)) > 0
    waiting = 226  # cells, none of them under an agent
    mean = waiting * (1 - (1 - 1 / waiting) ** 45)
    assert abs(grown.sum() / DRAWS - mean) < 3.3 * np.sqrt(mean / DRAWS)


def test_nothing_grows_where_there_is_no_room():
    everywhere = {tuple(cell): ORANGE for cell in np.argwhere(ENV.grid.plane("PRGBO")).tolist()}
    places = [(5, 10), (12, 3), (12, 5), (12, 7), (12, 9)]
    full = state_of({**everywhere, (4, 10): BLUE}, places)
    under_agents = state_of({c: k for c, k in {**everywhere, (4, 10): BLUE}.items() if c not in places[1:]}, places)
    params = ENV.make_params(sprouting=[[1, 1, 1, 0]] * 4)
    for state, left in ((full, 230), (under_agents, 226)):
        after = np.asarray(many_steps(state, EAT, params))
        assert (after[:, 4, 10] == 0).all() and ((after == ORANGE).sum(axis=(1, 2)) == left).all()


def test_an_orange_one_destroys_each_red_one_with_a_probability():
    reds = {(2 + i // 20, 1 + i % 20): RED for i in range(40)}
    state = state_of({**reds, (8, 10): ORANGE, (8, 12): ORANGE}, [(9, 10), (9, 12)])
    for blight, eaten in ((0.25, 1), (0.6, 1), (0.25, 2), (0.25, 0)):
        actions = np.where(np.arange(5) < eaten, FORWARD, NOOP).astype(np.int32)
        after = np.asarray(many_steps(state, actions, ENV.make_params(blight=blight, spores=[0, 0, 0, 0])))
        left = np.stack([after[:, r, c] == RED for r, c in reds], axis=1)
        expected = (1 - blight) ** eaten
        error = np.sqrt(expected * (1 - expected) / DRAWS)
        assert abs(left.mean() - expected) <= 3.3 * error / np.sqrt(40)
        assert np.all(abs(left.mean(axis=0) - expected) <= 4.5 * error)


def test_mushrooms_spoil_at_their_age():
    # What is there at first, and one that grew in step 1: orange sows orange, with certainty.
    _, first = ENV.reset(jax.random.key(0))
    params = ENV.make_params(freshness=[200, 100, 75, 90])
    for colour, age in zip((RED, GREEN, BLUE), (200, 100, 75), strict=True):
        for time, left in ((age - 2, 3), (age - 1, 0)):
            after = step(ENV, 0, first.replace(time=jnp.int32(time)), STILL, ENV.default_params)[1]
            assert int((after.mushrooms == colour).sum()) == left
    state = state_of({(4, 10): ORANGE}, [(5, 10)])
    _, state, *_ = step(ENV, 1, state, EAT, params)
    assert int((state.mushrooms == ORANGE).sum()) == 1
    for time, left in ((89, 1), (90, 0)):
        after = step(ENV, 0, state.replace(time=jnp.int32(time)), STILL, params)[1]
        assert int((after.mushrooms == ORANGE).sum()) == left


# ---------------------------------------------------------------------- beams
def test_a_zap_destroys_all_mushrooms_that_it_crosses_every_fourth_step():
    cells = {(r, c): BLUE for r in range(2, 9) for c in range(6, 15)}
    state, fired = state_of(cells, [(9, 10)]), []
    for key in range(9):
        _, state, _, _, _, info = step(ENV, key, state, [ZAP, *STILL[1:]], no_spores())
        fired.append(float(info["metrics"]["destroyed"][0]))
        if key == 0:
            gone = {c for c in cells if not state.mushrooms[c]}
            assert gone == {(r, 10) for r in (6, 7, 8)} | {(r, c) for r in (7, 8) for c in (9, 11)}
    assert fired == [7, 0, 0, 0, 0, 0, 0, 0, 0] and state.timers[0].tolist() == [3]


def test_two_zaps_take_an_agent_out_for_fifty_steps():
    state, history = state_of({}, [(6, 10), (4, 10)]), []
    for key in range(56):
        _, state, *_ = step(ENV, key, state, [ZAP if key < 5 else NOOP, *STILL[1:]], no_spores())
        history.append((int(state.frozen[1]), int(state.timeout[1])))
    assert history[:5] == [(25, 0), (24, 0), (23, 0), (22, 0), (0, 50)]
    assert history[53:] == [(0, 1), (0, 0), (0, 0)]


# ---------------------------------------------------------------------- settings and players
def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="spores must be at most 3"):
        ENV.make_params(spores=[3, 3, 4, 1])
    with pytest.raises(InputError, match="blight must be at most 1"):
        ENV.make_params(blight=1.5)


def test_socialjax_numbers():
    params = ENV.socialjax_params()
    np.testing.assert_allclose(params.total_reward, [1, 2, 3, -1])
    assert params.digestion.tolist() == [10, 15, 20, 0] and params.spores.tolist() == [2, 2, 2, 1]


def test_pickers_choose_by_colour():
    state = state_of({(8, 9): RED, (7, 10): BLUE, (9, 11): GREEN}, [(9, 10)])
    seen = jax.tree.map(lambda leaf: leaf[0], ENV.observe(state, ENV.default_params))
    keys = jax.random.split(jax.random.key(0), 30)
    acts = {n: jax.jit(jax.vmap(ENV.players[n], (None, 0)))(seen, keys) for n in ("blue_picker", "red_picker")}
    assert set(np.asarray(acts["blue_picker"]).tolist()) == {FORWARD}
    assert set(np.asarray(acts["red_picker"]).tolist()) == {FORWARD, 3}  # north-west: either step


def test_red_pickers_live_on_blue_pickers_and_starve_alone():
    steps, episodes = 200, 2

    def play(picks_red, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 5)
            takes, gives = (jax.vmap(ENV.players[name])(obs, keys) for name in ("red_picker", "blue_picker"))
            obs, state, reward, *_ = ENV.step_env(key, state, jnp.where(picks_red, takes, gives), ENV.default_params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, ENV.reset(reset_key), jax.random.split(key, steps))[1].sum(axis=0)

    teams = jnp.arange(5) < jnp.array([0, 1, 5])[:, None]
    keys = jax.random.split(jax.random.key(0), (3, episodes))
    returns = np.asarray(jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, keys)).mean(axis=1)
    nobody, one, everybody = returns
    assert nobody.mean() > 5 * everybody.mean()  # together they are better off without
    assert one[0] > 1.5 * nobody.mean() and nobody.mean() > one[1:].mean()  # the one gains at the others' cost
