"""Coop Mining: its map, its ore, who is paid for which hits, and the dilemma between its scripted players."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import FORWARD, NOOP, STEP_LEFT

ENV: Any = make("coop_mining")
FLOOR, WALL, IRON, GOLD, CLAIMED, SPAWN = range(1, 7)
MINE = 7
MAP = """
    #########
    #.......#
    #.......#
    #.......#
    #.......#
    #......##
    #P.P.P.P#
    #########
"""
FIELD: Any = make("coop_mining", num_agents=4, map=MAP)
STILL = FIELD.make_params(iron_growth=0, gold_growth=0)
ORE = (2, 4)
"""A cell of the field: (5, 4) looks at it from the south, (2, 1) from the west and (2, 7) from the east."""
AROUND = [(5, 4), (2, 1), (2, 7), (6, 7)]
FACING = np.array([0, 1, 3, 0], np.int32)


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


@partial(jax.jit, static_argnums=0)
def reset(env):
    return env.reset(jax.random.key(0))


def state_of(env, **changes):
    return reset(env)[1].replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def with_ore(ore):
    """The field around four agents, with `ore` by its cell."""
    board = np.array(reset(FIELD)[1].board)
    for (row, column), kind in ore.items():
        board[row, column] = kind
    return state_of(FIELD, position=np.array(AROUND, np.int32), heading=FACING, board=board)


def play(state, actions, params=STILL, first_key=0):
    """Steps with `actions`, one string per agent, "m" to mine: the states, and rewards [T, N]."""
    states, rewards = [], []
    for t, joint in enumerate(zip(*actions, strict=True)):
        joint = [MINE if action == "m" else NOOP for action in joint]
        _, state, reward, *_ = step(FIELD, first_key + t, state, joint, params)
        states.append(state)
        rewards.append(reward.tolist())
    return states, np.array(rewards)


def near(frequency, probability, draws):
    """Whether a frequency lies within its 99.9 % interval."""
    return np.all(abs(frequency - probability) < 3.3 * np.sqrt(probability * (1 - probability) / draws))


# ---------------------------------------------------------------------- the map
def test_the_map_has_melting_pots_numbers_of_cells():
    counts = collections.Counter("".join(ENV.grid.lines))
    assert ENV.grid.shape == (27, 27) and counts == {".": 538, "#": 173, "P": 18}
    walls = ENV.grid.plane("#")
    assert walls[[0, -1]].all() and walls[:, [0, -1]].all()
    seen, border = {(1, 1)}, [(1, 1)]
    while border:  # breadth-first search
        around = {(r + i, c + j) for r, c in border for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))}
        border = [cell for cell in around if not walls[cell] and cell not in seen]
        seen.update(border)
    assert len(seen) == 538 + 18


def test_there_is_no_ore_at_first():
    board = np.asarray(reset(ENV)[1].board)
    assert set(np.unique(board)) == {FLOOR, WALL, SPAWN} and (board == FLOOR).sum() == 538


# ---------------------------------------------------------------------- growth
@pytest.mark.parametrize("iron, gold", [(0.0002, 0.00008), (0.1, 0.3)])
def test_ore_appears_at_its_rates_but_not_under_agents(iron, gold):
    draws = 8_000
    board = np.array(reset(ENV)[1].board)
    board[1, 1:5] = [IRON, GOLD, IRON, GOLD]
    agents = np.array([(1, 6), (2, 7), (3, 8), (4, 6), (6, 6), (7, 8)], np.int32)
    state = state_of(ENV, board=board, position=agents)
    params = ENV.make_params(iron_growth=iron, gold_growth=gold)
    after = np.asarray(grown(state, params))
    empty = board == FLOOR
    empty[tuple(agents.T)] = False
    assert np.all(after[:, ~empty] == board[~empty])
    for kind, rate in ((IRON, iron), (GOLD, gold)):
        for half in (slice(0, 264), slice(264, None)):
            share = (after[:, empty][:, half] == kind).mean()
            assert near(share, rate, draws * empty.sum() / 2)


@jax.jit
def grown(state, params):
    keys = jax.random.split(jax.random.key(0), 8_000)
    return jax.vmap(lambda key: ENV.step_env(key, state, jnp.zeros(6, jnp.int32), params)[1].board)(keys)


# ---------------------------------------------------------------------- iron
def test_iron_pays_one_who_hits_it_and_is_gone():
    states, rewards = play(with_ore({ORE: IRON}), ["m", ".", ".", "."])
    assert rewards.tolist() == [[1, 0, 0, 0]] and int(states[0].board[ORE]) == FLOOR


def test_two_who_hit_the_same_iron_at_once_are_paid_once_either_as_likely():
    winners = [play(with_ore({ORE: IRON}), ["m", "m", ".", "."], first_key=key)[1][0].tolist() for key in range(60)]
    assert all(sum(rewards) == 1 for rewards in winners)
    assert 15 < sum(rewards[0] for rewards in winners) < 45


def test_the_beam_reaches_three_cells_and_ends_at_the_first_ore_or_wall():
    for row, hit in ((1, False), (2, True), (3, True), (4, True)):
        states, rewards = play(with_ore({(row, 4): IRON}), ["m", ".", ".", "."])
        assert rewards[0, 0] == hit and (int(states[0].board[row, 4]) == FLOOR) == hit
    states, rewards = play(with_ore({(3, 4): IRON, (4, 4): GOLD}), ["m", ".", ".", "."])
    assert not rewards.any() and int(states[0].board[3, 4]) == IRON
    assert not play(with_ore({(2, 2): GOLD, (2, 4): IRON}), [".", "m", ".", "."])[1].any()
    assert not play(with_ore({(4, 7): IRON}), [".", ".", ".", "m"])[1].any()  # behind the wall at (5, 7)


def test_the_beam_passes_agents_and_takes_nobody_out():
    state = with_ore({ORE: IRON})
    state = state.replace(position=state.position.at[3].set(jnp.array([4, 4])))
    states, rewards = play(state, ["m", ".", ".", "."])
    assert rewards.tolist() == [[1, 0, 0, 0]] and not states[0].timeout.any()
    state = state.replace(position=state.position.at[3].set(jnp.array(ORE)))  # on the ore itself
    assert play(state, ["m", ".", ".", "."])[1].tolist() == [[1, 0, 0, 0]]


def test_the_beam_fires_every_third_step():
    column = {(row, 4): IRON for row in (1, 2, 3, 4)}
    _, rewards = play(with_ore(column), ["mmmmmmm", *["......."] * 3])
    assert rewards[:, 0].tolist() == [1, 0, 0, 1, 0, 0, 1]
    state = with_ore(column)
    ready = []
    for action in (MINE, NOOP, NOOP):
        obs, state, *_ = step(FIELD, 0, state, [action, *[NOOP] * 3], STILL)
        ready.append(float(obs["ready"][0, 0]))
    assert ready == [0, 0.5, 1]
    state = with_ore(column)
    rewards = play(state, ["mmm", *["..."] * 3], STILL.replace(**vars(FIELD.socialjax_params()) | {"iron_growth": 0}))
    assert rewards[1][:, 0].tolist() == [1, 1, 1]


# ---------------------------------------------------------------------- gold
@pytest.mark.parametrize("later, mined", [(0, True), (1, True), (2, True), (3, False), (4, False)])
def test_gold_pays_both_of_two_who_hit_it_within_three_steps(later, mined):
    actions = ["m" + "." * 5, "." * later + "m" + "." * (5 - later), "......", "......"]
    states, rewards = play(with_ore({ORE: GOLD}), actions)
    assert rewards.sum(axis=0).tolist() == ([8, 8, 0, 0] if mined else [0] * 4)
    assert rewards[later].tolist() == ([8, 8, 0, 0] if mined else [0] * 4)
    assert int(states[-1].board[ORE]) == (FLOOR if mined else GOLD)
    assert not (mined and states[-1].claim_left.any())


def test_nobody_mines_gold_alone_but_keeps_its_claim_alive():
    _, rewards = play(with_ore({ORE: GOLD}), ["m..m..m..", "........m", *["........."] * 2])
    assert not rewards[:8].any() and rewards[8].tolist() == [8, 8, 0, 0]
    states, rewards = play(with_ore({ORE: GOLD}), ["mmmmmmmmm", *["........."] * 3])
    assert not rewards.any() and int(states[-1].board[ORE]) == GOLD


def test_a_third_miner_is_too_late():
    for key in range(6):
        _, rewards = play(with_ore({ORE: GOLD}), ["m..", ".m.", "..m", "..."], first_key=key)
        assert rewards.sum(axis=0).tolist() == [8, 8, 0, 0]
    pairs = collections.Counter()
    for key in range(90):
        states, rewards = play(with_ore({ORE: GOLD}), ["m", "m", "m", "."], first_key=key)
        assert sorted(rewards[0].tolist()) == [0, 0, 8, 8] and not states[0].claim_left.any()
        pairs[int(np.argmin(rewards[0, :3]))] += 1
    assert min(pairs.values()) > 15  # all pairs are as likely


def test_who_holds_the_claim_is_always_one_of_two():
    for key in range(8):  # also when it hits again in the same step as two others
        params = STILL.replace(mine_cooldown=1)
        states, rewards = play(with_ore({ORE: GOLD}), ["mm", ".m", ".m", ".."], params, first_key=key)
        assert rewards[1, 0] == 8 and rewards[1].sum() == 16 and not states[-1].claim_left.any()


def test_the_window_is_a_parameter():
    for window, later, mined in ((1, 0, True), (1, 1, False), (5, 4, True), (5, 5, False)):
        params = STILL.replace(mining_window=window)
        actions = ["m" + "." * later, "." * later + "m", *["." * (later + 1)] * 2]
        assert play(with_ore({ORE: GOLD}), actions, params)[1].any() == mined or later == 0
        if later == 0:
            assert play(with_ore({ORE: GOLD}), ["m", "m", ".", "."], params)[1].sum() == 16


def test_claims_are_seen_as_long_as_another_hit_would_count():
    state = with_ore({ORE: GOLD})
    tiles, claims = [], []
    for action in (NOOP, MINE, NOOP, NOOP, NOOP):
        obs, state, *_ = step(FIELD, 0, state, [action, *[NOOP] * 3], STILL)
        tiles.append(int(obs["view"][0, 6, 5, 0]))  # three cells ahead
        claims.append(obs["claim"][:, 0].tolist())
    assert tiles == [GOLD, CLAIMED, CLAIMED, GOLD, GOLD]
    assert [claim[0] for claim in claims] == [0, 1, 0.5, 0, 0] and not np.any(np.array(claims)[:, 1:])


def test_ore_is_walked_over_and_kept():
    state = with_ore({(4, 4): GOLD, (4, 3): IRON})
    for key, action in enumerate((FORWARD, STEP_LEFT, FORWARD)):
        _, state, reward, *_ = step(FIELD, key, state, [action, *[NOOP] * 3], STILL)
        assert not reward.any()
    assert state.position[0].tolist() == [3, 3]
    assert int(state.board[4, 4]) == GOLD and int(state.board[4, 3]) == IRON


def test_metrics_count_ore_and_who_was_paid():
    params = STILL.replace(iron_reward=3.0, gold_reward=5.0)
    state = with_ore({ORE: GOLD, (1, 1): IRON, (3, 3): IRON})
    _, _, reward, _, _, info = step(FIELD, 0, state, [MINE, MINE, NOOP, MINE], params)
    metrics = {name: np.asarray(value).tolist() for name, value in info["metrics"].items()}
    assert metrics == {"iron": 2, "gold": 0, "mined_iron": [0] * 4, "mined_gold": [1, 1, 0, 0], "shots": [1, 1, 0, 1]}
    assert reward.tolist() == [5, 5, 0, 0]


# ---------------------------------------------------------------------- settings and players
def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="mine_cooldown must be at least 1"):
        ENV.make_params(mine_cooldown=0)
    with pytest.raises(InputError, match="iron_growth plus gold_growth must be at most 1"):
        ENV.make_params(iron_growth=0.5, gold_growth=0.6)
    with pytest.raises(InputError, match=r"at least 1 cells '\.'"):
        make("coop_mining", num_agents=1, map="P#")


def test_players_mine_what_they_are_named_for():
    keys = jax.random.split(jax.random.key(0), 40)

    @jax.jit
    def act(state):
        seen = jax.tree.map(lambda leaf: leaf[0], FIELD.observe(state, STILL))
        return {name: jax.vmap(FIELD.players[name], (None, 0))(seen, keys) for name in ("gold_miner", "iron_miner")}

    def actions(ore, **changes):
        taken = act(with_ore(ore).replace(**changes))
        return {name: set(np.asarray(values).tolist()) for name, values in taken.items()}

    assert actions({ORE: IRON}) == {"gold_miner": {MINE}, "iron_miner": {MINE}}
    gold = actions({ORE: GOLD})
    assert gold["gold_miner"] == {MINE} and MINE not in gold["iron_miner"]
    assert actions({(1, 4): IRON})["iron_miner"] == {FORWARD}
    assert actions({ORE: GOLD}, timers=jnp.ones((4, 1), jnp.int32))["gold_miner"] == {NOOP}
    elsewhere = actions({ORE: GOLD, (2, 1): GOLD}, claim=jnp.array([0, 19, 0, 0]), claim_left=jnp.array([0, 2, 0, 0]))
    assert elsewhere["gold_miner"] == {STEP_LEFT}  # another's claim at (2, 1) comes before the gold in reach
    claims = {"claim": jnp.array([22, 19, 0, 0]), "claim_left": jnp.array([2, 2, 0, 0])}
    waiting = np.asarray(act(with_ore({ORE: GOLD, (2, 1): GOLD}).replace(**claims))["gold_miner"])
    assert (waiting == MINE).mean() > 0.7 and set(waiting.tolist()) == {MINE, STEP_LEFT}  # but not before one's own


def test_mining_gold_pays_together_and_not_alone():
    def play(digs_gold, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 6)
            gold, iron = (jax.vmap(ENV.players[name])(obs, keys) for name in ("gold_miner", "iron_miner"))
            obs, state, reward, *_ = ENV.step_env(key, state, jnp.where(digs_gold, gold, iron), ENV.default_params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, ENV.reset(reset_key), jax.random.split(key, 400))[1].sum(axis=0)

    teams = jnp.arange(6) < jnp.array([0, 1, 5, 6])[:, None]
    returns = jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, jax.random.split(jax.random.key(0), (4, 3)))
    iron, one_gold, one_iron, gold = np.asarray(returns).mean(axis=1)
    assert gold.mean() > 3 * iron.mean()  # mutual cooperation pays,
    assert one_gold[0] < iron.mean() / 2  # alone it does not: fear,
    assert one_iron[5] < one_iron[:5].mean() / 2  # and there is no greed
