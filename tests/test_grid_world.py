"""The phases of a step, on a world without rules of its own."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.movement import BACKWARD, FORWARD, NOOP, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT
from marl_suite.envs.grid.state import GridState, ZapParams
from marl_suite.envs.grid.views import Window
from marl_suite.envs.grid.world import GridWorld, random_end
from marl_suite.envs.testing import check_environment

ZAP, PAINT = 7, 8
FIELD = """
    #######
    #P...P#
    #.....#
    #.....#
    #P...P#
    #######
"""


@dataclasses.dataclass(frozen=True)
class Arena(GridWorld):
    """Agents that zap each other for nothing, and paint, which does nothing."""

    name: str = "arena"
    num_agents: int = 3
    beams = (Beam("zap", 3, 1), Beam("paint", 2, 0))

    @property
    def own_map(self) -> str:
        return FIELD

    @property
    def default_params(self) -> Any:
        return ArenaParams(zap_cooldown=2, zap_timeout=3)

    def begin(self, key, base, params) -> Any:
        return GridState(**base)

    def tile_plane(self, state) -> Any:
        return np.where(self.grid.plane("#"), 2, 1)

    def rules(self, key, state, events, params) -> Any:
        return state, jnp.full(self.num_agents, state.time, jnp.float32), {"entered": (events.entered >= 0) * 1.0}


class ArenaParams(ZapParams):
    paint_cooldown: int = 0


ENV = Arena()


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


def state_of(position, heading, env=ENV, **changes):
    _, state = env.reset(jax.random.key(0))
    arrays = {"position": jnp.asarray(position, jnp.int32), "heading": jnp.asarray(heading, jnp.int32)}
    return state.replace(**arrays, **changes)


def play(actions, position, heading, env=ENV, key=0, **params):
    """Steps with `actions` [T, N]: observations, states, rewards and metrics, one per step."""
    params, state, history = env.make_params(**params), state_of(position, heading, env), []
    for t, joint in enumerate(actions):
        obs, state, reward, _, _, info = step(env, key + t, state, joint, params)
        history.append((obs, state, reward, info["metrics"]))
    return zip(*jax.tree.map(np.asarray, history), strict=True)


def test_whoever_is_zapped_is_out_for_the_time_out_and_then_back_on_a_spawn_cell():
    # Agent 0 at (3, 3) looks north at agent 1 at (2, 3); agent 2 stands on a spawn cell.
    actions = [[ZAP, FORWARD, NOOP]] + [[NOOP, FORWARD, NOOP]] * 4
    obs, states, _, metrics = play(actions, [(3, 3), (2, 3), (1, 1)], [0, 1, 0])
    # Agent 1 moved to (2, 4) before beams fired: beside the middle ray, and still hit.
    assert [m["timed_out"][1] for m in metrics] == [1, 1, 1, 0, 0]
    assert [m["zaps"].tolist() for m in metrics] == [[1, 0, 0]] + [[0, 0, 0]] * 4
    assert [bool(o["view"][1].any()) for o in obs] == [False, False, False, True, True]
    assert [o["ready"][1].tolist() for o in obs] == [[0, 0]] * 3 + [[1, 1]] * 2
    assert [m["entered"][1] for m in metrics][:4] == [1, 0, 0, 0]
    assert states[2].position[1].tolist() == [2, 4]  # where it was hit
    assert tuple(states[3].position[1]) in {(1, 5), (4, 1), (4, 5)}  # not on agent 2's cell


def test_a_time_out_of_zero_takes_nobody_out():
    _, _, _, metrics = play([[ZAP, NOOP, NOOP]], [(3, 3), (2, 3), (1, 1)], [0, 0, 0], zap_timeout=0)
    assert metrics[0]["zaps"].tolist() == [1, 0, 0] and not metrics[0]["timed_out"].any()


def test_two_agents_can_zap_each_other():
    _, _, _, metrics = play([[ZAP, ZAP, NOOP]], [(3, 3), (2, 3), (1, 1)], [0, 2, 0])
    assert metrics[0]["timed_out"].tolist() == [1, 1, 0] and metrics[0]["zaps"].tolist() == [1, 1, 0]


def test_those_who_are_out_cannot_fire():
    actions = [[ZAP, NOOP, NOOP], [NOOP, ZAP, NOOP]]
    _, states, _, metrics = play(actions, [(3, 3), (2, 3), (1, 1)], [0, 2, 0])
    assert not metrics[1]["zaps"].any() and not states[1].beam.any()


def test_agents_return_to_free_spawn_cells_only_and_never_to_the_same():
    seen = set()
    for key in range(12):
        state = state_of([(1, 1), (2, 3), (2, 3)], [0, 0, 0], timeout=jnp.array([0, 1, 1]))
        _, after, *_ = step(ENV, key, state, [NOOP] * 3, ENV.default_params)
        back = [tuple(cell) for cell in after.position[1:].tolist()]
        assert not after.timeout.any() and back[0] != back[1]
        seen.update(back)
    assert seen == {(1, 5), (4, 1), (4, 5)}


def test_a_beam_is_seen_in_the_step_it_fires_and_not_later():
    obs, states, _, _ = play([[PAINT, NOOP, NOOP], [NOOP] * 3], [(3, 3), (4, 1), (4, 5)], [0, 0, 0])
    assert np.argwhere(states[0].beam).tolist() == [[1, 3], [2, 3]] and set(np.unique(states[0].beam)) == {0, 2}
    view = obs[0]["view"][0][..., 1]
    assert np.argwhere(view).tolist() == [[7, 5], [8, 5]]  # two cells ahead of (9, 5)
    assert not states[1].beam.any()


def test_a_held_trigger_fires_with_the_period_of_its_own_beam():
    actions = [[ZAP, PAINT, NOOP]] * 7
    _, states, _, _ = play(actions, [(4, 3), (1, 1), (1, 5)], [3, 0, 0], zap_cooldown=2, paint_cooldown=1)
    zapped, painted = (np.array([np.any(s.beam == kind) for s in states]) for kind in (1, 2))
    assert zapped.tolist() == [True, False, False, True, False, False, True]
    assert painted.tolist() == [True, False] * 3 + [True]
    assert [s.timers[0, 0] for s in states] == [2, 1, 0, 2, 1, 0, 2]
    assert [s.timers[1, 1] for s in states] == [1, 0, 1, 0, 1, 0, 1]


def test_turns_and_steps_are_carried_out():
    actions = [[TURN_RIGHT, TURN_LEFT, STEP_LEFT], [FORWARD, FORWARD, BACKWARD], [STEP_RIGHT, STEP_RIGHT, NOOP]]
    _, states, _, _ = play(actions, [(2, 2), (3, 5), (4, 5)], [0, 0, 0])
    assert states[-1].position.tolist() == [[3, 3], [2, 4], [4, 4]] and states[-1].heading.tolist() == [1, 3, 0]


@pytest.mark.parametrize("name", ["arena", "commons_harvest_open"])
def test_agents_never_overlap_in_a_thousand_random_steps(name):
    crowded = "#######\n#PPPPP#\n#P.#.P#\n#PPPPP#\n#######"
    env: Any = Arena(num_agents=9, map=crowded) if name == "arena" else make(name)
    params = env.make_params(zap_timeout=3)

    @jax.jit
    def run(key):
        def turn(state, key):
            act_key, key = jax.random.split(key)
            actions = jax.random.randint(act_key, (env.num_agents,), 0, env.action_space().n)
            state = env.step_env(key, state, actions, params)[1]
            return state, (state.position, state.timeout)

        return jax.lax.scan(turn, env.reset(jax.random.key(1), params)[1], jax.random.split(key, 1_000))[1]

    positions, timeouts = map(np.asarray, run(jax.random.key(0)))
    walls = env.grid.plane("#")
    for position, timeout in zip(positions, timeouts, strict=True):
        cells = [tuple(cell) for cell in position[timeout == 0].tolist()]
        assert len(set(cells)) == len(cells) and not any(walls[cell] for cell in cells)
    assert (timeouts > 0).any() and (timeouts == 0).any(axis=1).all()


def test_starts_are_distinct_spawn_cells_and_all_headings_occur():
    states = jax.jit(jax.vmap(lambda key: ENV.reset(key)[1]))(jax.random.split(jax.random.key(0), 400))
    cells = np.asarray(states.position[..., 0] * 7 + states.position[..., 1])
    assert np.all([len(set(row)) == 3 for row in cells.tolist()])
    assert set(np.unique(cells)) == set(ENV.grid.sites("P").tolist())
    assert set(np.unique(states.heading)) == {0, 1, 2, 3}


def test_the_clock_truncates_and_the_last_reward_counts():
    params = ENV.make_params(max_steps=5)
    _, state = ENV.reset(jax.random.key(0), params)
    rewards, ends = [], []
    for t in range(5):
        _, state, reward, terminated, truncated, _ = step(ENV, t, state, [NOOP] * 3, params)
        rewards.append(float(reward[0]))
        ends.append((bool(terminated), bool(truncated)))
    assert rewards == [1, 2, 3, 4, 5] and ends == [(False, False)] * 4 + [(False, True)]


def test_chance_ends_episodes_every_hundred_steps_after_the_minimum():
    draw = jax.jit(jax.vmap(random_end, (0, None, None)))
    ends = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000), 1_000, 0.2))
    assert np.all(ends % 100 == 0) and ends.min() == 1_100
    shares = [(ends == 1_000 + 100 * k).mean() for k in (1, 2, 3)]
    np.testing.assert_allclose(shares, [0.2, 0.16, 0.128], atol=0.012)  # four standard errors of .2
    assert abs(ends.mean() - 1_500) < 13  # 1000 + 100 / p; the standard deviation is 100 sqrt(1 - p) / p = 447
    assert np.all(draw(jax.random.split(jax.random.key(0), 50), 1_000, 0.0) == np.iinfo(np.int32).max)
    assert np.all(draw(jax.random.split(jax.random.key(0), 50), 1_000, 1.0) == 1_100)


def test_the_earlier_of_clock_and_chance_ends_the_episode():
    params = ENV.make_params(max_steps=40, min_steps=10)
    _, state = ENV.reset(jax.random.key(0), params)
    for time, end, over in ((9, 40, False), (40, 50, True), (30, 30, True), (29, 30, False)):
        at = state.replace(time=jnp.int32(time), end=jnp.int32(end))
        assert bool(ENV.is_truncated(at, params)) == over


def test_the_global_state_says_where_everybody_is():
    state = state_of([(1, 1), (4, 5), (2, 3)], [0, 1, 2], timeout=jnp.array([0, 0, 3]), time=jnp.int32(250))
    flat = np.asarray(ENV.global_state(state))
    places, headings, presence, ready, clock = np.split(flat, [6, 18, 21, 27])
    np.testing.assert_allclose(places.reshape(3, 2), np.array([(1, 1), (4, 5), (2, 3)]) / [5, 6], rtol=1e-6)
    assert headings.reshape(3, 4).argmax(1).tolist() == [0, 1, 2] and headings.sum() == 3
    np.testing.assert_allclose(presence, [1, 1, 0.25])
    assert ready.tolist() == [1, 1, 1, 1, 0, 0] and clock.tolist() == [0.25]


def test_a_frame_draws_the_map_and_its_agents():
    state = state_of([(1, 1), (4, 5), (2, 3)], [0, 1, 2], timeout=jnp.array([0, 0, 3]))
    assert ENV.frame(state).splitlines() == [
        "step 0",
        "#######",
        "#^....#",
        "#.....#",
        "#.....#",
        "#....>#",
        "#######",
        "agent 0 ^ at 1,1, recharging [0, 0]",
        "agent 1 > at 4,5, recharging [0, 0]",
        "agent 2 out for 3, recharging [0, 0]",
    ]


@pytest.mark.slow
def test_the_world_keeps_the_contract_with_other_views():
    env = Arena(view_ahead=3, view_behind=1, view_sides=2)
    check_environment(env, env.make_params(max_steps=15), num_steps=40)
    assert env.observation_space().spaces["view"].shape == (5, 5, 4)
    assert env.action_names[-2:] == ("zap", "paint")


@pytest.mark.parametrize(
    "make_bad, message",
    [
        (lambda: Arena(num_agents=0), "num_agents must be at least 1"),
        (lambda: Arena(view_sides=-1), "view_sides must be at least 0"),
        (lambda: Arena(num_agents=5), "map needs at least 5 cells 'P'"),
        (lambda: ENV.make_params(zap_cooldown=-1), "zap_cooldown must be at least 0"),
        (lambda: ENV.make_params(end_probability=1.5), "end_probability must be at most 1"),
    ],
)
def test_bad_settings_are_refused(make_bad, message):
    with pytest.raises(InputError, match=message):
        make_bad()


def test_walking_takes_a_shortest_way_around_obstacles():
    rows = ["..#G.", ".##..", ".....", "..A#."]  # the walker A is at (3, 2) of a view with three rows ahead
    cells = np.array([list(row) for row in rows])
    passable, goals, window = jnp.asarray(cells != "#"), jnp.asarray(cells == "G"), Window(3, 0, 2)
    walk = jax.jit(lambda key, passable: scripted.walk(key, window, goals, passable))
    step_, found = walk(jax.random.key(0), passable)
    assert bool(found) and int(step_) == FORWARD
    assert scripted.distances(goals, passable)[2].tolist() == [5, 4, 3, 2, 3]
    _, found = walk(jax.random.key(0), passable.at[2, 3:].set(False).at[1, 3:].set(False))
    assert not found


def test_exploring_goes_ahead_while_it_can_and_turns_to_both_sides():
    window, keys = Window(2, 0, 1), jax.random.split(jax.random.key(0), 2_000)
    explore = jax.jit(jax.vmap(lambda key, clear: scripted.explore(key, window, clear), (0, None)))
    free = np.bincount(explore(keys, jnp.ones((3, 3), bool)), minlength=7) / 2_000
    np.testing.assert_allclose(free[[FORWARD, TURN_LEFT, TURN_RIGHT]], [0.9, 0.05, 0.05], atol=0.027)
    blocked = np.bincount(explore(keys, jnp.zeros((3, 3), bool)), minlength=7) / 2_000
    np.testing.assert_allclose(blocked[[TURN_LEFT, TURN_RIGHT]], [0.5, 0.5], atol=0.045)
