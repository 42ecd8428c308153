"""Level-based foraging: its rules against a plain loop, its starts, its view, and that agents learn to play it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import InputError, make
from marl_suite.envs.substrates.level_based_foraging import EAST, LOAD, NONE, NORTH, SOUTH, WEST
from marl_suite.training import Fit, returns_of

ENV: Any = make("level_based_foraging")
CROWD: Any = make("level_based_foraging", size=6, num_agents=4, num_food=3, cooperative=False)
STEPS = {NONE: (0, 0), NORTH: (-1, 0), SOUTH: (1, 0), WEST: (0, -1), EAST: (0, 1), LOAD: (0, 0)}


@partial(jax.jit, static_argnums=0)
def step(env, state, actions, params):
    return env.step_env(jax.random.key(0), state, jnp.asarray(actions), params)


@partial(jax.jit, static_argnums=(0, 2))
def starts(env, key, count):
    return jax.vmap(lambda key: env.reset(key)[1])(jax.random.split(key, count))


def state_of(position, level, food, food_level, time=0):
    arrays = {"position": position, "level": level, "food": food, "food_level": food_level}
    _, state = ENV.reset(jax.random.key(0))
    state = state.replace(**{name: jnp.asarray(value, jnp.int32) for name, value in arrays.items()})
    return state.replace(total=state.food_level.sum(), time=jnp.int32(time))


def played(state, actions, **params):
    """The state, reward, flags and metrics after one step."""
    _, state, reward, terminated, truncated, info = step(ENV, state, actions, ENV.make_params(**params))
    return state, np.asarray(reward), (bool(terminated), bool(truncated)), jax.tree.map(np.asarray, info["metrics"])


def by_hand(size, position, level, food, total, actions, penalty):
    """The rules as loops: position, the food that is left, {cell: level}, and reward, from lists and such a dict."""
    goals = []
    for (row, column), action in zip(position, actions, strict=True):
        goal = (row + STEPS[action][0], column + STEPS[action][1])
        goals.append(goal if min(goal) >= 0 and max(goal) < size and goal not in food else (row, column))
    while len(set(goals)) < len(goals):
        goals = [position[i] if goals.count(goal) > 1 else goal for i, goal in enumerate(goals)]
    reward, left = [0.0] * len(goals), dict(food)
    for (row, column), weight in food.items():
        beside = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)}
        team = [i for i, goal in enumerate(goals) if actions[i] == LOAD and goal in beside]
        strength = sum(level[i] for i in team)
        for i in team:
            reward[i] += level[i] / strength * weight / total if strength >= weight else -penalty
        if team and strength >= weight:
            del left[row, column]
    return goals, left, reward


# ---------------------------------------------------------------------- rules
def test_steps_are_those_of_a_plain_loop():
    numbers, count = np.random.default_rng(0), 400
    state = starts(CROWD, jax.random.key(0), count)
    actions = numbers.choice(6, (6, count, 4), p=[0.05, 0.16, 0.16, 0.16, 0.16, 0.31]).astype(np.int32)
    params = CROWD.make_params(penalty=0.125)
    advance = jax.jit(jax.vmap(CROWD.step_env, (None, 0, 0, None)))
    loads = fails = 0
    for joint in actions:
        _, after, reward, terminated, *_ = advance(jax.random.key(0), state, joint, params)
        before, now = jax.tree.map(np.asarray, (state, after))
        for e in range(count):
            foods = [(tuple(c), w) for c, w in zip(before.food[e].tolist(), before.food_level[e].tolist(), strict=True)]
            food = {cell: weight for cell, weight in foods if weight}
            position = [tuple(cell) for cell in before.position[e].tolist()]
            goals, left, pays = by_hand(
                6, position, before.level[e].tolist(), food, int(before.total[e]), joint[e].tolist(), 0.125
            )
            assert [tuple(cell) for cell in now.position[e].tolist()] == goals
            assert {cell for (cell, _), w in zip(foods, now.food_level[e], strict=True) if w} == set(left)
            np.testing.assert_allclose(reward[e], pays, atol=1e-6)
            assert bool(terminated[e]) == (not left)
            loads, fails = loads + (len(left) < len(food)), fails + (min(pays) < 0)
        state = after
    assert loads > 20 and fails > 20


@pytest.mark.parametrize(
    "position, actions, expected",
    [
        ([(3, 3), (3, 5)], [EAST, WEST], [(3, 3), (3, 5)]),  # both aim at the same cell
        ([(3, 3), (3, 4)], [EAST, NONE], [(3, 3), (3, 4)]),
        ([(3, 3), (3, 4)], [EAST, EAST], [(3, 4), (3, 5)]),  # one follows the other
        ([(3, 3), (3, 4)], [EAST, WEST], [(3, 4), (3, 3)]),  # they change places
        ([(0, 0), (7, 7)], [NORTH, EAST], [(0, 0), (7, 7)]),  # over the border
        ([(0, 0), (7, 7)], [WEST, SOUTH], [(0, 0), (7, 7)]),
        ([(5, 3), (1, 1)], [SOUTH, LOAD], [(5, 3), (1, 1)]),  # onto food, and loading nothing
    ],
)
def test_agents_move_at_once_and_nobody_enters_an_aimed_at_or_taken_cell(position, actions, expected):
    state, reward, _, metrics = played(state_of(position, [1, 1], [(6, 3), (2, 5)], [2, 2]), actions, penalty=0.5)
    assert [tuple(cell) for cell in state.position.tolist()] == expected
    assert not reward.any() and not metrics["attempts"].any()


def test_those_held_up_hold_up_who_follows_them():
    state = starts(CROWD, jax.random.key(0), 1)
    state = jax.tree.map(lambda leaf: leaf[0], state).replace(
        position=jnp.array([(2, 0), (2, 1), (2, 2), (2, 4)]), food_level=jnp.array([0, 0, 1]), food=jnp.full((3, 2), 4)
    )
    _, after, *_ = step(CROWD, state, [EAST, EAST, EAST, WEST], CROWD.default_params)  # the last two meet at (2, 3)
    assert after.position.tolist() == state.position.tolist()


def test_food_is_shared_by_level_and_pays_its_share_of_all():
    beside = state_of([(3, 2), (2, 3)], [1, 2], [(3, 3), (6, 6)], [3, 5])
    after, reward, (terminated, _), metrics = played(beside, [LOAD, LOAD])
    np.testing.assert_allclose(reward, [1 / 3 * 3 / 8, 2 / 3 * 3 / 8], rtol=1e-6)
    assert after.food_level.tolist() == [0, 5] and not terminated
    assert metrics["food"] == 1 and metrics["loaded"].tolist() == [1, 1] and metrics["attempts"].tolist() == [1, 1]
    after, reward, (terminated, _), metrics = played(beside, [NONE, LOAD], penalty=0.1)
    np.testing.assert_allclose(reward, [0, -0.1])
    assert after.food_level.tolist() == [3, 5] and metrics["attempts"].tolist() == [0, 1]
    diagonal = beside.replace(position=jnp.array([(2, 2), (2, 3)]))
    assert not played(diagonal, [LOAD, LOAD])[1].any()
    light = beside.replace(food_level=jnp.array([2, 0]), total=jnp.int32(2))
    after, reward, (terminated, _), _ = played(light, [NONE, LOAD])  # the stronger one needs no help
    assert reward.tolist() == [0, 1] and terminated and not after.food_level.any()


def test_the_clock_truncates_after_fifty_steps_and_the_end_of_all_food_terminates():
    state = state_of([(0, 0), (2, 3)], [1, 2], [(3, 3), (6, 6)], [2, 0], time=49)
    assert played(state, [NONE, NONE])[2] == (False, True)
    assert played(state.replace(time=jnp.int32(48)), [NONE, NONE])[2] == (False, False)
    assert played(state, [NONE, LOAD])[2] == (True, False)


# ---------------------------------------------------------------------- starts
def test_food_lies_apart_inside_the_field_and_agents_elsewhere():
    for env, count in ((ENV, 4_000), (CROWD, 400)):
        state = jax.tree.map(np.asarray, starts(env, jax.random.key(1), count))
        placed = state.food_level > 0
        assert np.all((state.food[placed] > 0) & (state.food[placed] < env.size - 1))
        cells = state.position[..., 0] * env.size + state.position[..., 1]
        assert all(len(set(row)) == env.num_agents for row in cells.tolist())
        on_food = np.all(state.position[:, :, None] == state.food[:, None], axis=-1) & placed[:, None]
        assert not on_food.any()
        first, second = np.triu_indices(env.num_food, 1)
        away = np.sort(np.abs(state.food[:, first] - state.food[:, second]), axis=-1)[
            placed[:, first] & placed[:, second]
        ]
        assert away.max() > 2 and not np.any((away[:, 1] <= 1) | ((away[:, 0] == 0) & (away[:, 1] == 2)))
        assert {(0, 3), (1, 2)} <= {tuple(pair) for pair in away.tolist()}  # and no further apart than that
        np.testing.assert_array_equal(state.total, state.food_level.sum(axis=1))


def test_what_finds_no_room_is_left_out():
    env: Any = make("level_based_foraging", size=5, num_food=3)  # one in the middle leaves no room for another
    state = jax.tree.map(np.asarray, starts(env, jax.random.key(0), 300))
    placed = (state.food_level > 0).sum(axis=1)
    middle = np.all(state.food[:, 0] == 2, axis=-1)
    assert middle.any() and np.all(placed[middle] == 1) and set(placed.tolist()) == {1, 2}


def test_all_cells_and_levels_are_as_likely():
    draws = 20_000
    state = jax.tree.map(np.asarray, starts(ENV, jax.random.key(2), draws))
    for places, inner in (
        (state.position[:, 0], range(8)),
        (state.position[:, 1], range(8)),
        (state.food[:, 0], range(1, 7)),
    ):
        counts = np.zeros((8, 8))
        np.add.at(counts, tuple(places.T), 1)
        share = 1 / len(inner) ** 2
        errors = (counts[np.ix_(inner, inner)] / draws - share) / np.sqrt(share * (1 - share) / draws)
        assert counts[np.ix_(inner, inner)].sum() == draws and np.abs(errors).max() < 4.5  # the greatest of 64
    assert np.all(np.abs((state.level == 2).mean(axis=0) - 0.5) < 3.3 * 0.5 / np.sqrt(draws))


def test_cooperative_food_takes_the_three_weakest_and_other_food_at_most_them():
    state = jax.tree.map(np.asarray, starts(ENV, jax.random.key(1), 4_000))
    assert np.array_equal(state.food_level, np.broadcast_to(state.level.sum(axis=1)[:, None], state.food_level.shape))
    state = jax.tree.map(np.asarray, starts(CROWD, jax.random.key(1), 400))
    most = np.sort(state.level, axis=1)[:, :3].sum(axis=1)
    assert np.all(state.food_level.max(axis=1) <= most) and np.any(state.food_level == most[:, None])
    assert set(state.food_level[:, 0].tolist()) == {1, 2, 3, 4, 5, 6}


# ---------------------------------------------------------------------- what is seen
def test_agents_see_food_in_reading_order_and_themselves_first():
    state = state_of([(7, 0), (2, 3)], [1, 2], [(5, 2), (1, 6)], [3, 3])
    seen = np.asarray(ENV.observe(state, ENV.default_params))
    assert seen[0].tolist() == [1, 6, 3, 5, 2, 3, 7, 0, 1, 2, 3, 2]
    assert seen[1].tolist() == [1, 6, 3, 5, 2, 3, 2, 3, 2, 7, 0, 1]
    eaten = state.replace(food_level=jnp.array([3, 0]))
    assert np.asarray(ENV.observe(eaten, ENV.default_params))[0].tolist() == [5, 2, 3, -1, -1, 0, 7, 0, 1, 2, 3, 2]


def test_with_a_short_sight_places_count_from_the_corner_of_what_is_seen():
    env: Any = make("level_based_foraging", sight=2)
    state = state_of([(5, 1), (3, 3)], [1, 2], [(5, 3), (1, 5)], [3, 3])
    seen = np.asarray(env.observe(state, env.default_params))
    assert seen[0].tolist() == [2, 3, 3, -1, -1, 0, 2, 1, 1, 0, 3, 2]  # from (3, 0); (1, 5) is out of sight
    assert seen[1].tolist() == [0, 4, 3, 4, 2, 3, 2, 2, 2, 4, 0, 1]  # from (1, 1)
    apart = np.asarray(env.observe(state.replace(position=jnp.array([(5, 0), (3, 3)])), env.default_params))
    assert apart[0][-3:].tolist() == [-1, -1, 0] and apart[1][-3:].tolist() == [-1, -1, 0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_food": 0}, "num_food must be at least 1"),
        ({"size": 2}, "size must be at least 3"),
        ({"size": 4, "num_agents": 4}, "num_agents must be at most 3"),
        ({"sight": -1}, "sight must be at least 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make("level_based_foraging", **settings)
    with pytest.raises(InputError, match="penalty must be at least 0"):
        ENV.make_params(penalty=-1)


# ---------------------------------------------------------------------- players and learners
def test_a_team_that_heads_for_the_same_food_gets_it_all_and_random_agents_hardly_any():
    teams = ("team_forager", "forager", "random")

    def play(team, key):
        def turn(carry, key):
            obs, state, goes_on = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 2)
            actions = jnp.stack([jax.vmap(ENV.players[name])(obs, keys) for name in teams])[team]
            obs, state, reward, terminated, *_ = ENV.step_env(key, state, actions, ENV.default_params)
            return (obs, state, goes_on & ~terminated), (goes_on * reward.sum(), goes_on)

        reset_key, key = jax.random.split(key)
        rewards, steps = jax.lax.scan(turn, (*ENV.reset(reset_key), jnp.bool_(True)), jax.random.split(key, 50))[1]
        return rewards.sum(), steps.sum()

    keys = jax.random.split(jax.random.key(0), 300)
    returns, lengths = map(np.asarray, jax.jit(jax.vmap(jax.vmap(play, (None, 0)), (0, None)))(jnp.arange(3), keys))
    together, alone, by_chance = returns.mean(axis=1)
    assert together > 0.98 and np.all(returns < 1 + 1e-5) and lengths[0].mean() < 20
    assert 0.3 < alone < 0.7  # two who stand beside different food wait for ever
    assert by_chance < 0.02


@pytest.mark.slow
def test_ippo_learns_to_gather_nearly_all_food_within_two_million_steps():
    config = IPPO(share_parameters=True, gamma=0.99, num_envs=64)
    first, *_, last = (
        returns_of(chunk.logs).sum(axis=-1) for chunk in Fit(ENV, config, range(3), 2_000_000, chunks=40)
    )
    assert np.all(last >= 0.9), last
    assert np.all(first < 0.05), first  # the first 50,000 steps: nobody gathers by chance
