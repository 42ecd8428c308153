"""Coins: its boards, its coins, who is paid for them, and the dilemma between its scripted players."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import BACKWARD, FORWARD, NOOP

ENV: Any = make("coins")
FLOOR, WALL, RED, BLUE, FIRST = range(1, 6)
MAP = "#######\n#.....#\n#P...P#\n#.....#\n#######"
SMALL: Any = make("coins", map=MAP)


@partial(jax.jit, static_argnums=0)
def reset(env, key=0):
    return env.reset(jax.random.key(key))


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


@jax.jit
def many_steps(state, params):
    """The boards after 20,000 times the same step without actions."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    return jax.vmap(lambda key: ENV.step_env(key, state, jnp.zeros(2, jnp.int32), params)[1].board)(keys)


@pytest.fixture(scope="module")
def starts():
    """2,000 first states."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(ENV.reset))(jax.random.split(jax.random.key(0), 2_000))[1])


def state_of(env, places, **changes):
    _, state = reset(env)
    changes = {"position": np.array(places, np.int32), "heading": np.zeros(2, np.int32)} | changes
    return state.replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def with_coins(board, coins):
    board = np.array(board)
    for (row, column), colour in coins.items():
        board[row, column] = colour
    return board


def near(frequency, probability, draws):
    """Whether frequencies lie within their 99.9 % intervals."""
    return np.all(abs(frequency - probability) < 3.3 * np.sqrt(probability * (1 - probability) / draws))


# ---------------------------------------------------------------------- boards
def test_every_size_of_board_is_as_likely(starts):
    inside = starts.board != WALL
    sides = np.stack([inside.any(axis=2).sum(axis=1), inside.any(axis=1).sum(axis=1)], axis=1)
    assert np.array_equal(inside.sum(axis=(1, 2)), sides.prod(axis=1))  # full rectangles,
    assert np.all(inside[:, 1, 1]) and not inside[:, 0].any() and not inside[:, :, 0].any()  # from (1, 1) on
    both = np.bincount((sides[:, 0] - 10) * 6 + sides[:, 1] - 10, minlength=36) / len(sides)
    assert sides.min() == 10 and sides.max() == 15 and len(both) == 36
    assert near(both, 1 / 36, len(sides))


def test_agents_start_one_cell_off_opposite_corners_at_random_which(starts):
    corner = starts.board != WALL
    far = np.stack([corner.any(axis=2).sum(axis=1), corner.any(axis=1).sum(axis=1)], axis=1) - 1
    is_near = np.all(starts.position == 2, axis=2)
    is_far = np.all(starts.position == far[:, None], axis=2)
    assert np.all(is_near ^ is_far) and np.all(is_near.sum(axis=1) == 1)
    assert near(is_near[:, 0].mean(), 0.5, len(is_near))


def test_the_board_is_empty_at_first_and_has_two_cells_without_coins(starts):
    assert set(np.unique(starts.board)) == {FLOOR, WALL, FIRST}
    for board, position in zip(starts.board[:50], starts.position[:50], strict=True):
        assert {tuple(cell) for cell in np.argwhere(board == FIRST)} == {tuple(cell) for cell in position}


def test_a_map_fixes_the_size_and_the_cells_without_coins():
    _, state = reset(SMALL, 1)
    expected = np.select([SMALL.grid.plane("#"), SMALL.grid.plane("P")], [WALL, FIRST], FLOOR)
    np.testing.assert_array_equal(state.board, expected)
    assert {tuple(cell) for cell in state.position.tolist()} == {(2, 1), (2, 5)}


def test_nobody_leaves_a_small_board(starts):
    small = next(board for board in starts.board if (board != WALL).sum() == 100)
    state = state_of(ENV, [(10, 10), (1, 1)], board=small, heading=np.array([2, 0], np.int32))
    _, after, *_ = step(ENV, 0, state, [FORWARD, FORWARD], ENV.default_params)
    assert after.position.tolist() == [[10, 10], [1, 1]]
    view = np.asarray(ENV.observe(state, ENV.default_params)["view"][1, ..., 0])
    assert np.all(view[8, 4:] == WALL) and view[9, 4] == WALL and view[9, 5] == FLOOR


# ---------------------------------------------------------------------- coins appear
@pytest.mark.parametrize("probability", [0.0005, 0.0002, 0.3])  # rare ones are drawn in another way than common ones
def test_coins_appear_on_empty_cells_at_their_rate_in_both_colours(probability, starts):
    board = with_coins(starts.board[0], {(3, 3): RED, (3, 4): BLUE})
    state = state_of(ENV, [(5, 5), (6, 6)], board=board)
    after = np.asarray(many_steps(state, ENV.make_params(coin_probability=probability)))
    empty = board == FLOOR
    assert np.all(after[:, ~empty] == board[~empty])
    count = len(after) * empty.sum()
    assert near((after[:, empty] == RED).sum() / count, probability / 2, count)
    assert near((after[:, empty] == BLUE).sum() / count, probability / 2, count)
    assert near((after[:, 5, 5] != FLOOR).mean(), probability, len(after))  # under an agent
    halves = after[:, empty][:, : empty.sum() // 2], after[:, empty][:, empty.sum() // 2 :]
    for half in halves:
        assert near((half != FLOOR).mean(), probability, half.size)


# ---------------------------------------------------------------------- coins are taken
def test_any_coin_pays_its_taker_and_a_mismatch_costs_the_other():
    params = SMALL.make_params(coin_probability=0)
    coins = {(1, 1): RED, (1, 2): BLUE, (1, 4): RED, (1, 5): BLUE}
    board = with_coins(reset(SMALL)[1].board, coins)
    for columns, rewards, own, other in [
        ((1, 5), [1, 1], [1, 1], [0, 0]),
        ((2, 5), [1, -1], [0, 1], [1, 0]),
        ((1, 4), [-1, 1], [1, 0], [0, 1]),
        ((2, 4), [-1, -1], [0, 0], [1, 1]),
        ((2, 3), [1, -2], [0, 0], [1, 0]),
        ((1, 3), [1, 0], [1, 0], [0, 0]),
    ]:
        state = state_of(SMALL, [(2, column) for column in columns], board=board)
        obs, after, reward, _, _, info = step(SMALL, 0, state, [FORWARD, FORWARD], params)
        metrics = info["metrics"]
        assert reward.tolist() == rewards
        assert metrics["own_coins"].tolist() == own and metrics["other_coins"].tolist() == other
        assert float(metrics["coins"]) == 4 - sum(own) - sum(other) == np.isin(after.board, [RED, BLUE]).sum()
        assert obs["partner_mismatched"].tolist() == [[other[1]], [other[0]]]


def test_who_stands_on_a_coin_does_not_take_it_and_first_cells_stay_bare():
    params = SMALL.make_params(coin_probability=1)
    state = state_of(SMALL, [(2, 1), (3, 3)])
    rewards, coins = [], []
    for key, action in enumerate([FORWARD, NOOP, BACKWARD, FORWARD]):
        _, state, reward, _, _, info = step(SMALL, key, state, [action, NOOP], params)
        rewards.append(float(reward[0]))
        coins.append(float(info["metrics"]["coins"]))
    # The first step finds no coin yet; coins are back at once, and only coming anew takes them.
    assert rewards[:3] == [0, 0, 0] and rewards[3] == 1 and coins == [13] * 4
    assert int(state.board[2, 1]) == FIRST


def test_parameters_are_the_rewards():
    params = SMALL.make_params(coin_probability=0, own_reward=3, other_reward=0.5, mismatch_penalty=-7)
    board = with_coins(reset(SMALL)[1].board, {(1, 1): RED, (1, 5): RED})
    reward = step(SMALL, 0, state_of(SMALL, [(2, 1), (2, 5)], board=board), [FORWARD, FORWARD], params)[2]
    assert reward.tolist() == [3 - 7, 0.5]


def test_agents_know_their_own_colour():
    obs = reset(ENV)[0]
    assert obs["colour"].tolist() == [[1, 0], [0, 1]] and obs["view"].shape == (2, 11, 11, 2)


# ---------------------------------------------------------------------- settings and players
def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="coins is a game of 2 agents, got num_agents=3; use 2"):
        make("coins", num_agents=3)
    with pytest.raises(InputError, match="coin_probability must be at most 1"):
        ENV.make_params(coin_probability=2)
    with pytest.raises(InputError, match="at least 2 cells 'P'"):
        make("coins", map="...\n.P.")


def test_socialjax_has_twice_as_many_coins():
    assert ENV.socialjax_params().coin_probability == pytest.approx(0.00099975, rel=1e-6)


def test_shares_of_own_coins():
    means = {"own_coins": np.array([0.3, 0.2]), "other_coins": np.array([0.1, 0.0]), "coins": np.float32(4)}
    np.testing.assert_allclose(ENV.derived_metrics(means)["own_coin_share"], [0.75, 1])


def test_own_colour_takes_nothing_else():
    board = with_coins(reset(SMALL)[1].board, {(1, 3): BLUE})
    keys = jax.random.split(jax.random.key(0), 50)

    @partial(jax.jit, static_argnums=0)
    def act(name, seen):
        return jax.vmap(SMALL.players[name], (None, 0))(seen, keys)

    for agent, name, forward in ((0, "any_colour", True), (0, "own_colour", False), (1, "own_colour", True)):
        state = state_of(SMALL, [(2, 3), (3, 1)] if agent == 0 else [(3, 1), (2, 3)], board=board)
        seen = jax.tree.map(lambda leaf, agent=agent: leaf[agent], SMALL.observe(state, SMALL.default_params))
        assert np.all((np.asarray(act(name, seen)) == FORWARD) == forward), (agent, name)


def test_taking_any_colour_pays_oneself_and_ruins_both():
    def play(takes_any, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 2)
            anything, own = (jax.vmap(ENV.players[name])(obs, keys) for name in ("any_colour", "own_colour"))
            actions = jnp.where(takes_any, anything, own)
            obs, state, reward, *_, info = ENV.step_env(key, state, actions, ENV.default_params)
            return (obs, state), (reward, info["metrics"]["other_coins"])

        reset_key, key = jax.random.split(key)
        history = jax.lax.scan(turn, ENV.reset(reset_key), jax.random.split(key, 500))[1]
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), history)

    teams = jnp.array([[False, False], [True, False], [True, True]])
    keys = jax.random.split(jax.random.key(0), (3, 24))
    returns, mismatches = jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, keys)
    both_own, mixed, both_any = np.asarray(returns).mean(axis=1)
    assert both_own.mean() > both_any.mean() + 8  # mutual restraint beats mutual greed
    assert mixed[0] > both_own.mean() + 2 and mixed[1] < both_any.mean() - 2  # greed, and fear
    assert not np.asarray(mismatches)[0].any() and not np.asarray(mismatches)[1, :, 1].any()
