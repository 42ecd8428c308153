"""Gift Refinements: its tokens, gifts and meals, and the dilemma between its scripted players."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import BACKWARD, FORWARD, NOOP

ENV: Any = make("gift_refinements")
FLOOR, WALL, TOKEN, SPAWN = range(1, 5)
GIVE, CONSUME = 7, 8
MAP = """
    #########
    #.......#
    #.......#
    #.......#
    #.......#
    #.......#
    #......##
    #P.P...P#
    #########
"""
FIELD: Any = make("gift_refinements", num_agents=3, map=MAP)
STILL = FIELD.make_params(token_growth=0)
PLACES = np.array([(7, 1), (3, 1), (7, 7)], np.int32)
"""Agent 0 looks north at agent 1, four cells ahead, who looks south; agent 2 looks north at the wall at (6, 7)."""
FACING = np.array([0, 2, 0], np.int32)


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


@partial(jax.jit, static_argnums=0)
def reset(env):
    return env.reset(jax.random.key(0))


def state_of(inventory=None, tokens=(), **changes):
    """The field with `inventory` [N, 3] and `tokens` at these cells."""
    state = reset(FIELD)[1]
    board = np.array(state.board)
    for cell in tokens:
        board[cell] = TOKEN
    inventory = np.zeros((3, 3), np.int32) if inventory is None else np.array(inventory, np.int32)
    changes = {"position": PLACES, "heading": FACING, "board": board, "inventory": inventory} | changes
    return state.replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def near(frequency, probability, draws):
    """Whether a frequency lies within its 99.9 % interval."""
    return abs(frequency - probability) < 3.3 * np.sqrt(probability * (1 - probability) / draws)


# ---------------------------------------------------------------------- tokens
def test_the_map_has_melting_pots_numbers_of_cells_and_no_tokens_at_first():
    counts = collections.Counter("".join(ENV.grid.lines))
    assert ENV.grid.shape == (27, 27) and counts == {".": 538, "#": 173, "P": 18}
    _, state = reset(ENV)
    assert (np.asarray(state.board) == FLOOR).sum() == 538 and not (np.asarray(state.board) == TOKEN).any()
    assert not state.inventory.any()


@pytest.mark.parametrize("rate", [0.0002, 0.2])
def test_tokens_appear_at_their_rate_but_not_under_agents(rate):
    draws = 8_000
    board = np.array(reset(ENV)[1].board)
    board[1, 1:5] = TOKEN
    agents = np.array([(1, 6), (2, 7), (3, 7), (4, 6), (6, 6), (7, 6)], np.int32)
    assert np.all(board[tuple(agents.T)] == FLOOR)
    state = reset(ENV)[1].replace(board=jnp.asarray(board), position=jnp.asarray(agents))
    after = np.asarray(grown(state, ENV.make_params(token_growth=rate)))
    empty = board == FLOOR
    empty[tuple(agents.T)] = False
    assert np.all(after[:, ~empty] == board[~empty])
    for half in (slice(0, 264), slice(264, None)):
        share = (after[:, empty][:, half] == TOKEN).mean()
        assert near(share, rate, draws * 264)


@jax.jit
def grown(state, params):
    keys = jax.random.split(jax.random.key(0), 8_000)
    return jax.vmap(lambda key: ENV.step_env(key, state, jnp.zeros(6, jnp.int32), params)[1].board)(keys)


def test_a_token_is_held_by_who_steps_on_it_up_to_the_capacity():
    state = state_of([[14, 0, 0], [0, 0, 0], [0, 0, 0]], tokens=[(6, 1), (5, 1), (7, 1)])
    raw, collected = [], []
    for key, action in enumerate([NOOP, FORWARD, FORWARD, BACKWARD]):
        _, state, reward, _, _, info = step(FIELD, key, state, [action, NOOP, NOOP], STILL)
        raw.append(int(state.inventory[0, 0]))
        collected.append(float(info["metrics"]["collected"][0]))
        assert not reward.any() and not info["metrics"]["received"].any()
    assert raw == [14, 15, 15, 15] and collected == [0, 1, 1, 0]
    assert np.argwhere(np.asarray(state.board) == TOKEN).tolist() == [[7, 1]]  # stood on, but not stepped on


# ---------------------------------------------------------------------- gifts
@pytest.mark.parametrize(
    "giver, receiver, given, received, gifts, tokens",
    [
        ([2, 0, 0], [0, 0, 0], [1, 0, 0], [0, 5, 0], 1, 5),
        ([2, 3, 0], [1, 1, 1], [2, 2, 0], [1, 1, 6], 1, 5),
        ([2, 3, 4], [0, 0, 0], [2, 3, 3], [0, 0, 1], 1, 1),  # the highest tier goes first
        ([1, 0, 0], [0, 13, 0], [0, 0, 0], [0, 15, 0], 1, 2),  # what is above the capacity is lost
        ([0, 0, 1], [0, 0, 15], [0, 0, 0], [0, 0, 15], 1, 0),
        ([0, 0, 0], [3, 3, 3], [0, 0, 0], [3, 3, 3], 0, 0),
    ],
)
def test_one_token_becomes_five_of_the_next_tier(giver, receiver, given, received, gifts, tokens):
    state = state_of([giver, receiver, [9, 9, 9]])
    _, after, reward, _, _, info = step(FIELD, 0, state, [GIVE, NOOP, NOOP], STILL)
    assert after.inventory.tolist() == [given, received, [9, 9, 9]] and not reward.any()
    assert info["metrics"]["gifts"].tolist() == [gifts, 0, 0]
    assert info["metrics"]["received"].tolist() == [0, tokens, 0]
    assert not after.timeout.any()


def test_gifts_of_a_step_are_made_of_what_agents_held_before():
    _, after, *_ = step(FIELD, 0, state_of([[2, 0, 0], [0, 1, 0], [0, 0, 0]]), [GIVE, GIVE, NOOP], STILL)
    assert after.inventory.tolist() == [[1, 0, 5], [0, 5, 0], [0, 0, 0]]


def test_two_gifts_to_the_same_agent_add_up():
    places, heading = np.array([(7, 1), (3, 1), (3, 5)], np.int32), np.array([0, 2, 3], np.int32)
    state = state_of([[2, 0, 0], [1, 0, 0], [0, 1, 0]], position=places, heading=heading)
    _, after, _, _, _, info = step(FIELD, 0, state, [GIVE, NOOP, GIVE], STILL)
    assert after.inventory.tolist() == [[1, 0, 0], [1, 5, 5], [0, 0, 0]]
    assert info["metrics"]["received"].tolist() == [0, 10, 0]


def test_the_beam_reaches_five_cells_and_ends_at_the_first_agent_or_wall():
    inventory = [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    for row, hit in ((1, False), (2, True), (6, True)):
        state = state_of(inventory, position=np.array([(7, 1), (row, 1), (7, 7)], np.int32))
        _, after, *_ = step(FIELD, 0, state, [GIVE, NOOP, NOOP], STILL)
        assert int(after.inventory[1, 1]) == 5 * hit and int(after.inventory[0, 0]) == 1 - hit
    state = state_of(inventory, position=np.array([(7, 1), (3, 1), (5, 1)], np.int32))
    _, after, *_ = step(FIELD, 0, state, [GIVE, NOOP, NOOP], STILL)
    assert after.inventory.tolist() == [[0, 0, 0], [0, 0, 0], [0, 5, 0]]
    state = state_of([[0] * 3, [0] * 3, [1, 0, 0]], position=np.array([(5, 7), (3, 1), (7, 7)], np.int32))
    _, after, *_ = step(FIELD, 0, state, [NOOP, NOOP, GIVE], STILL)
    assert after.inventory.tolist() == [[0] * 3, [0] * 3, [1, 0, 0]]  # the wall at (6, 7) is between them


def test_the_beam_fires_every_third_step_also_with_nothing_to_give():
    state, ready, left = state_of([[5, 0, 0], [0, 0, 0], [0, 0, 0]]), [], []
    for key in range(7):
        obs, state, *_ = step(FIELD, key, state, [GIVE, NOOP, GIVE], STILL)
        ready.append(obs["ready"][:, 0].tolist())
        left.append(int(state.inventory[0, 0]))
    assert left == [4, 4, 4, 3, 3, 3, 2]
    assert [row[0] for row in ready] == [row[2] for row in ready] == [0, 0.5, 1, 0, 0.5, 1, 0]


def test_socialjax_numbers():
    params = FIELD.socialjax_params().replace(token_growth=0)
    state = state_of([[5, 0, 0], [0, 0, 0], [0, 0, 0]])
    for key in range(2):
        _, state, *_ = step(FIELD, key, state, [GIVE, NOOP, NOOP], params)
    assert state.inventory.tolist() == [[3, 0, 0], [0, 6, 0], [0, 0, 0]]


# ---------------------------------------------------------------------- consuming
def test_every_token_is_worth_the_same_whatever_its_tier():
    state = state_of([[3, 2, 4], [1, 1, 1], [0, 0, 0]])
    _, after, reward, _, _, info = step(FIELD, 0, state, [CONSUME, NOOP, CONSUME], STILL.replace(token_reward=2.0))
    assert reward.tolist() == [18, 0, 0] and after.inventory.tolist() == [[0] * 3, [1] * 3, [0] * 3]
    eaten = [info["metrics"][f"consumed_{kind}"].tolist() for kind in ("raw", "refined", "twice_refined")]
    assert eaten == [[3, 0, 0], [2, 0, 0], [4, 0, 0]]


def test_who_consumes_keeps_what_it_is_given_in_the_same_step():
    state = state_of([[2, 0, 0], [3, 1, 0], [0, 0, 0]])
    _, after, reward, *_ = step(FIELD, 0, state, [GIVE, CONSUME, NOOP], STILL)
    assert reward.tolist() == [0, 4, 0] and after.inventory.tolist() == [[1, 0, 0], [0, 5, 0], [0] * 3]


def test_one_raw_token_feeds_a_pair_with_twenty_five():
    state, total = state_of([[1, 0, 0], [0, 0, 0], [0, 0, 0]]), 0.0
    script = [(GIVE, NOOP)] + [(CONSUME if t % 3 == 1 else NOOP, GIVE if t % 3 == 0 else NOOP) for t in range(14)]
    for key, (first, second) in enumerate(script):
        _, state, reward, *_ = step(FIELD, key, state, [first, second, NOOP], STILL)
        total += float(reward.sum())
    assert total == 25 and not state.inventory.any()


# ---------------------------------------------------------------------- what is seen
def test_agents_see_their_own_inventories_as_shares():
    state = state_of([[3, 15, 0], [0, 0, 6], [0, 0, 0]], tokens=[(5, 1)])
    obs = FIELD.observe(state, STILL)
    np.testing.assert_allclose(obs["inventory"], [[0.2, 1, 0], [0, 0, 0.4], [0, 0, 0]])
    assert int(obs["view"][0, 7, 5, 0]) == TOKEN
    half = FIELD.observe(state, STILL.replace(capacity=30))["inventory"]
    np.testing.assert_allclose(half, obs["inventory"] / 2)


# ---------------------------------------------------------------------- settings and players
def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="gift_cooldown must be at least 1"):
        ENV.make_params(gift_cooldown=0)
    with pytest.raises(InputError, match="token_growth must be at most 1"):
        ENV.make_params(token_growth=1.5)
    with pytest.raises(InputError, match=r"at least 1 cells '\.'"):
        make("gift_refinements", num_agents=1, map="P#")


def test_givers_give_and_consumers_consume():
    keys = jax.random.split(jax.random.key(0), 40)

    @jax.jit
    def act(state):
        seen = jax.tree.map(lambda leaf: leaf[0], FIELD.observe(state, STILL))
        return {name: jax.vmap(FIELD.players[name], (None, 0))(seen, keys) for name in ("giver", "consumer")}

    def actions(holds, **changes):
        taken = act(state_of([holds, [0] * 3, [0] * 3], **changes))
        return {name: set(np.asarray(values).tolist()) for name, values in taken.items()}

    assert actions([1, 0, 0]) == {"giver": {GIVE}, "consumer": {CONSUME}}
    assert actions([1, 2, 0]) == {"giver": {GIVE}, "consumer": {CONSUME}}
    assert actions([1, 2, 1]) == {"giver": {CONSUME}, "consumer": {CONSUME}}
    assert actions([1, 0, 0], timers=np.ones((3, 1), np.int32))["giver"] == {NOOP}
    assert actions([0, 0, 0], tokens=[(6, 1)]) == {"giver": {FORWARD}, "consumer": {FORWARD}}
    beside = np.array([(4, 1), (3, 1), (7, 7)], np.int32)
    assert actions([0, 0, 0], position=beside) == {"giver": {NOOP}, "consumer": {NOOP}}


def test_giving_pays_all_and_consuming_pays_who_does_it():
    def play(gives, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 6)
            given, eaten = (jax.vmap(ENV.players[name])(obs, keys) for name in ("giver", "consumer"))
            obs, state, reward, *_ = ENV.step_env(key, state, jnp.where(gives, given, eaten), ENV.default_params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, ENV.reset(reset_key), jax.random.split(key, 300))[1].sum(axis=0)

    teams = jnp.arange(6) < jnp.array([0, 1, 5, 6])[:, None]
    returns = jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, jax.random.split(jax.random.key(0), (4, 3)))
    consumers, one_giver, one_consumer, givers = np.asarray(returns).mean(axis=1)
    assert givers.mean() > 3 * consumers.mean()  # mutual giving beats mutual consumption,
    assert one_giver[0] < consumers.mean() / 2  # who gives alone gets nothing,
    assert one_consumer[5] > one_consumer[:5].mean()  # and who consumes among givers gets more than they
