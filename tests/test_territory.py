"""Territory: its maps, its walls and who owns them, its beams, what is seen, and what raiding pays."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import FORWARD, NOOP, TURN_LEFT, TURN_RIGHT

ZAP, CLAIM = 7, 8
NORTH, EAST, SOUTH, WEST = range(4)
YARD = """
    #########
    #P..RR..#
    #...RR..#
    #...R...#
    #P.....P#
    #########
"""
ENV: Any = make("territory_open", num_agents=3, map=YARD)
WALLS = [(1, 4), (1, 5), (2, 4), (2, 5), (3, 4)]
DRAWS = 4_000


@partial(jax.jit, static_argnums=0)
def jitted_step(env, key, state, actions, params):
    return env.step_env(key, state, actions, params)


def step(key, state, actions, params=None):
    params = ENV.default_params if params is None else params
    return jitted_step(ENV, jax.random.key(key), state, np.asarray(actions, np.int32), params)


@jax.jit
def many_steps(state, actions, params):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.vmap(lambda key: ENV.step_env(key, state, actions, params)[1:3])(keys)


def state_of(*agents, **changes):
    """Agents 0, 1, ... at (row, column, heading); the others in the lower corners, looking south at the border."""
    _, state = ENV.reset(jax.random.key(0))
    agents = [*agents, (4, 1, SOUTH), (4, 2, SOUTH), (4, 3, SOUTH)][:3]
    changes = {"position": [a[:2] for a in agents], "heading": [a[2] for a in agents]} | changes
    arrays = {name: jnp.asarray(np.asarray(value, np.int32)) for name, value in changes.items()}
    return state.replace(**arrays)


def play(actions, state, key=0, **params):
    """Steps with `actions` [T, 3]: states, rewards and metrics, one per step."""
    params, history = ENV.make_params(**params), []
    for t, joint in enumerate(actions):
        _, state, reward, _, _, info = step(key + t, state, joint, params)
        history.append((state, reward, info["metrics"]))
    return zip(*jax.tree.map(np.asarray, history), strict=True)


def owners(state):
    return dict(zip(WALLS, np.asarray(state.owner).tolist(), strict=True))


# ---------------------------------------------------------------------- maps
@pytest.mark.parametrize("variant, shape, walls", [("open", (23, 39), 88), ("rooms", (21, 21), 180)])
def test_maps_have_melting_pots_numbers_of_cells(variant, shape, walls):
    env: Any = make(f"territory_{variant}")
    counts = collections.Counter("".join(env.grid.lines))
    assert env.num_agents == 9 and env.grid.shape == shape and counts["R"] == walls
    assert counts["P"] == {"open": 23, "rooms": 9}[variant]


def test_every_room_has_one_spawn_cell_and_no_door():
    env: Any = make("territory_rooms")
    closed = env.grid.plane("#R")
    rooms = {tuple(cell) for cell in np.argwhere(env.grid.plane("P")).tolist()}
    assert rooms == {(3 + 7 * i, 3 + 7 * j) for i in range(3) for j in range(3)}
    for row, column in rooms:
        edge = closed[row - 3 : row + 4, column - 3 : column + 4].copy()
        assert not edge[1:-1, 1:-1].any()
        edge[1:-1, 1:-1] = True
        assert edge.all()


# ---------------------------------------------------------------------- claims
def test_facing_a_wall_claims_it_and_passing_beside_does_not():
    state = state_of((1, 3, NORTH), (3, 3, EAST))
    states, _, metrics = play([[NOOP] * 3, [TURN_RIGHT, TURN_LEFT, NOOP], [NOOP] * 3], state)
    assert owners(states[0]) == {**dict.fromkeys(WALLS, 0), (3, 4): 2}
    assert owners(states[1]) == {**dict.fromkeys(WALLS, 0), (3, 4): 2, (1, 4): 1}
    assert metrics[2]["claimed"].tolist() == [1, 1, 0] and owners(states[2]) == owners(states[1])


def test_a_claiming_beam_passes_a_wall_and_agents_and_reaches_two_cells():
    through_a_wall = play([[CLAIM, NOOP, NOOP]], state_of((1, 3, EAST)))
    assert owners(next(through_a_wall)[0]) == {**dict.fromkeys(WALLS, 0), (1, 4): 1, (1, 5): 1}
    through_an_agent = play([[CLAIM, NOOP, NOOP]], state_of((3, 2, EAST), (3, 3, SOUTH)))
    assert owners(next(through_an_agent)[0]) == {**dict.fromkeys(WALLS, 0), (3, 4): 1}
    too_far = play([[CLAIM, NOOP, NOOP]], state_of((3, 1, EAST)))
    assert owners(next(too_far)[0]) == dict.fromkeys(WALLS, 0)


def test_a_beam_prevails_over_a_touch_and_among_touches_chance_decides():
    # Agent 0 touches (2, 4) from the west, agent 1 looks at (2, 5) from the east and its beam reaches (2, 4), too.
    states, _, _ = play([[NOOP, CLAIM, NOOP]] * 6, state_of((2, 3, EAST), (2, 6, WEST)))
    assert [owners(s)[2, 4] for s in states] == [2] * 6
    after, _ = many_steps(state_of((3, 3, EAST), (3, 5, WEST)), np.zeros(3, np.int32), ENV.default_params)
    share = (np.asarray(after.owner)[:, 4] == 1).mean()
    assert abs(share - 0.5) < 3.3 * 0.5 / np.sqrt(DRAWS) and set(np.unique(after.owner[:, 4])) == {1, 2}


def test_who_is_out_touches_nothing():
    state = state_of((4, 3, SOUTH), (3, 3, EAST), owner=[0, 0, 0, 0, 1], timeout=[0, 90, 0])
    states, _, _ = play([[NOOP] * 3] * 4, state)
    assert [s.owner.tolist() for s in states] == [[0, 0, 0, 0, 1]] * 4


# ---------------------------------------------------------------------- payments
def test_a_wall_pays_its_owner_from_25_steps_after_the_claim_on():
    state = state_of((1, 3, EAST))
    _, rewards, metrics = play([[NOOP] * 3] * 28, state, pay_probability=1.0, wall_reward=2.0)
    # The first step claims; 25 steps later, in the 26th, it pays.
    assert [r[0] for r in rewards] == [0] * 25 + [2] * 3 and not np.any([r[1:] for r in rewards])
    assert [m["dry"][0] for m in metrics] == [0] * 25 + [1] * 3
    assert metrics[0]["claimed"].tolist() == [1, 0, 0]


def test_a_new_owner_waits_again_and_the_old_one_gets_nothing():
    state = state_of((4, 3, SOUTH), (2, 3, EAST), owner=[1, 0, 1, 0, 0], drying=[0] * 5)
    states, rewards, _ = play([[NOOP] * 3] * 26, state, pay_probability=1.0)
    assert [r.tolist() for r in rewards] == [[1, 0, 0]] * 25 + [[1, 1, 0]]
    assert states[-1].owner.tolist() == [1, 0, 2, 0, 0]


def test_dry_walls_pay_with_the_published_probability():
    state = state_of(owner=[1, 1, 2, 2, 0], drying=[0, 0, 0, 3, 0])
    _, reward = many_steps(state, np.zeros(3, np.int32), ENV.default_params)
    reward = np.asarray(reward)
    error = np.sqrt(0.01 * 0.99 / DRAWS)
    assert abs(reward[:, 0].mean() / 2 - 0.01) < 3.3 * error / np.sqrt(2)
    assert abs(reward[:, 1].mean() - 0.01) < 3.3 * error and not reward[:, 2].any()


# ---------------------------------------------------------------------- destruction
def test_two_zaps_destroy_a_wall_and_the_second_passes_it():
    # From (2, 3) the middle ray meets (2, 4), the left one (1, 4) and the right one (3, 4); all stop there at first.
    state = state_of((2, 3, EAST), owner=[0, 3, 3, 0, 3])
    actions = [[ZAP, NOOP, NOOP]] * 11 + [[FORWARD, NOOP, NOOP]]
    states, _, metrics = play(actions, state, mending_probability=0.0)
    assert states[0].health.tolist() == [1, 2, 1, 2, 1] and [s.timers[0, 0] for s in states[:5]] == [4, 3, 2, 1, 0]
    assert states[4].health.tolist() == [1, 2, 1, 2, 1] and states[5].health.tolist() == [0, 2, 0, 1, 0]
    # The second shot went on to (2, 5); side rays end two cells short of the wall behind (1, 4).
    assert states[10].health.tolist() == [0, 2, 0, 0, 0]
    assert states[5].owner.tolist() == [0, 3, 0, 0, 0]  # a destroyed wall is nobody's
    assert states[11].position[0].tolist() == [2, 4]  # and floor
    assert metrics[5]["destroyed"] == 3 and metrics[5]["intact"] == 1


def test_a_damaged_wall_heals_15_steps_after_the_hit():
    state = state_of((2, 3, EAST))
    states, _, _ = play([[ZAP, NOOP, NOOP]] + [[NOOP] * 3] * 16, state, mending_probability=1.0)
    assert [s.health[2] for s in states] == [1] * 15 + [2, 2]
    damaged = state_of(health=[1, 1, 0, 2, 1], mending=[0, 1, 0, 0, 2])
    after, _ = many_steps(damaged, np.zeros(3, np.int32), ENV.default_params)
    healed = np.asarray(after.health == 2).mean(axis=0)
    assert all(abs(healed[i] - 0.1) < 3.3 * np.sqrt(0.09 / DRAWS) for i in (0, 1))
    assert healed[2] == 0 and healed[3] == 1 and healed[4] == 0


def test_who_is_hit_twice_is_gone_for_good_and_its_walls_are_nobodys():
    state = state_of((4, 3, EAST), (4, 5, NORTH), owner=[2, 2, 2, 1, 1], drying=[0] * 5)
    states, rewards, metrics = play([[ZAP, NOOP, NOOP]] * 6 + [[NOOP] * 3] * 3, state, pay_probability=1.0)
    assert [s.frozen[1] for s in states[:5]] == [25, 24, 23, 22, 21]
    assert [r[1] for r in rewards] == [3] * 5 + [0] * 4
    assert states[5].owner.tolist() == [0, 0, 0, 1, 0]  # agent 0 destroyed a wall of its own
    assert states[5].timeout[1] == 1_000_000
    assert states[-1].timeout[1] == 1_000_000 - 3 and metrics[-1]["timed_out"].tolist() == [0, 1, 0]


# ---------------------------------------------------------------------- views
def test_owners_are_seen_relative_to_the_viewer():
    state = state_of(
        (4, 4, NORTH), (4, 5, NORTH), owner=[0, 1, 2, 2, 1], drying=[0, 0, 0, 9, 9], health=[2, 2, 1, 2, 2]
    )
    obs = ENV.observe(state, ENV.default_params)
    tiles, claims = np.asarray(ENV.seen(obs, "tile")), np.asarray(ENV.seen(obs, "claim"))
    # Agent 0 is at (9, 5) of its view: walls of column 4 are right ahead, those of column 5 one to the right.
    assert claims[0][8, 5] == 1 and claims[0][7, 5] == 4 and claims[0][6, 5] == 0
    assert claims[0][7, 6] == 3 and claims[0][6, 6] == 2
    assert claims[1][8, 4] == 3 and claims[1][7, 4] == 2 and claims[1][7, 5] == 1 and claims[1][6, 5] == 4
    assert tiles[0][7, 5] == ENV.tile("damaged") and tiles[0][8, 5] == ENV.tile("resource")
    assert (claims[:2] > 0).sum() == 8


# ---------------------------------------------------------------------- settings and players
def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="variant must be one of open, rooms, got 'room'; closest: 'rooms'"):
        make("territory_open", variant="room")
    with pytest.raises(InputError, match="pay_probability must be at most 1"):
        ENV.make_params(pay_probability=2)
    with pytest.raises(InputError, match="needs at least 1 cells 'R'"):
        make("territory_open", num_agents=1, map="###\n#P#\n###")


def test_socialjax_numbers():
    params = ENV.socialjax_params()
    assert (params.wall_reward, params.pay_probability, params.drying) == (0.01, 1.0, 100)


def test_raiders_zap_and_take_and_settlers_do_neither():
    keys = jax.random.split(jax.random.key(0), 30)
    act = {name: jax.jit(jax.vmap(ENV.players[name], (None, 0))) for name in ("settler", "raider")}

    def actions(name, state):
        seen = jax.tree.map(lambda leaf: leaf[0], ENV.observe(state, ENV.default_params))
        return set(np.asarray(act[name](seen, keys)).tolist())

    ahead = state_of((4, 3, EAST), (4, 5, NORTH))
    assert actions("raider", ahead) == {ZAP} and ZAP not in actions("settler", ahead)
    away = (1, 7, NORTH), (4, 7, NORTH)
    anothers = state_of((3, 2, EAST), *away, owner=[2] * 5)
    assert actions("raider", anothers) == {CLAIM} and CLAIM not in actions("settler", anothers)
    free = state_of((3, 2, EAST), *away)
    assert actions("raider", free) == actions("settler", free) == {CLAIM}
    beside = state_of((3, 3, NORTH), *away, owner=[1, 1, 1, 1, 0])
    assert actions("settler", beside) == {TURN_RIGHT}


def test_one_raider_robs_settlers_and_raiders_have_less_than_settlers():
    steps, env = 300, make("territory_rooms")
    params: Any = env.make_params(pay_probability=1.0, wall_reward=0.01)

    def play(raids, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 9)
            takes, settles = (jax.vmap(env.players[name])(obs, keys) for name in ("raider", "settler"))
            obs, state, reward, *_ = env.step_env(key, state, jnp.where(raids, takes, settles), params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, env.reset(reset_key, params), jax.random.split(key, steps))[1].sum(axis=0)

    teams = jnp.arange(9) < jnp.array([0, 1, 9])[:, None]
    keys = jax.random.split(jax.random.key(0), (3, 2))
    settlers, one, raiders = np.asarray(jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, keys)).mean(axis=1)
    assert one[0] > 1.1 * settlers.mean() > 1.1 * one[1:].mean()
    assert raiders.mean() < 0.8 * settlers.mean()
