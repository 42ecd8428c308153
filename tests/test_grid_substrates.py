"""What holds in every grid world, on random steps of each: the engine's promises, and what substrates owe to it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make, registered
from marl_suite.envs.grid import drawing
from marl_suite.envs.grid.board import Board
from marl_suite.envs.grid.cells import ahead_of
from marl_suite.envs.grid.movement import FORWARD, TURN_LEFT
from marl_suite.envs.grid.world import GridWorld
from marl_suite.training import compiled

EPISODES, STEPS = 8, 250
APART = 10
"""Steps between the states whose tiles are looked at."""
ENGINE_FIELDS = ("position", "heading", "timers", "timeout", "frozen")
GRIDS = {name: kind for name in registered() if issubclass(kind := type(make(name)), GridWorld)}
ALWAYS = ("clean_up", "coins", "prisoners_dilemma_in_the_matrix_arena", "territory_open")
"""Worlds with and without beams, time-outs, freezing and marks, resources and colours."""
each_grid = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in GRIDS],
)
"""The others take some ten seconds each to compile, and are checked on request."""


class Walk(NamedTuple):
    """E episodes of random steps, of which two in five go ahead or turn left, so that agents get around."""

    start: Any  # state [E, ...]
    states: Any  # [T, E, ...]
    observations: Any  # [T, E, N, ...]
    rewards: np.ndarray  # [T, E, N]
    metrics: dict[str, np.ndarray]  # [T, E, ...]


@functools.cache
def world(name: str) -> Any:
    return make(name)


@functools.cache
def program(name: str) -> Any:
    """(key, first time) -> a `Walk`, compiled once per world."""
    env, params = world(name), world(name).default_params

    def walk(key: jax.Array, time: jax.Array) -> tuple:
        reset_key, key = jax.random.split(key)
        start = jax.vmap(lambda k: env.reset_env(k, params)[1])(jax.random.split(reset_key, EPISODES))
        start = start.replace(time=start.time + time)

        def step(state: Any, key: jax.Array) -> tuple:
            any_key, walk_key, key = jax.random.split(key, 3)
            shape = (EPISODES, env.num_agents)
            action = jax.random.randint(any_key, shape, 0, env.action_space().n)
            walks = jax.random.randint(walk_key, shape, 0, 5)
            action = jnp.select([walks == 0, walks == 1], [FORWARD, TURN_LEFT], action)
            step = jax.vmap(env.step_env, (0, 0, 0, None))
            observation, state, reward, _, _, info = step(jax.random.split(key, EPISODES), state, action, params)
            return state, (state, observation, reward, info["metrics"])

        return start, *jax.lax.scan(step, start, jax.random.split(key, STEPS))[1]

    run = compiled(walk)
    return lambda seed, time: Walk(*jax.device_get(run(jax.random.key(seed), jnp.int32(time))))


@functools.cache
def walk(name: str) -> Walk:
    return program(name)(0, 0)


@functools.cache
def observer(name: str) -> Any:
    """state -> observation, compiled once per world."""
    env = world(name)
    return compiled(lambda state: env.observe(state, env.default_params))


def lane(tree: Any, *index: int) -> Any:
    """One state or observation of many, as arrays that can be written to."""
    return jax.tree.map(lambda x: np.array(x[index]), tree)


def picked(tree: Any, choice: np.ndarray) -> Any:
    """The states [K, ...] that `choice`, int [K, 2] of steps and episodes, names."""
    return jax.tree.map(lambda x: x[choice[:, 0], choice[:, 1]], tree)


@functools.cache
def tile_planes(name: str) -> np.ndarray:
    """uint8 [T / APART, E, H, W]."""
    states = jax.tree.map(lambda x: x[::APART], walk(name).states)
    return np.asarray(compiled(jax.vmap(jax.vmap(lambda state: jnp.asarray(world(name).tile_plane(state)))))(states))


# ---------------------------------------------------------------------- random steps
@each_grid
def test_agents_never_share_a_cell_or_stand_in_a_wall(name):
    env, states = world(name), walk(name).states
    present = states.timeout == 0
    cells = states.position[..., 0] * env.grid.shape[1] + states.position[..., 1]
    assert np.all(states.position >= 0) and np.all(states.position < env.grid.shape)
    assert not np.any(env.grid.plane("#").ravel()[cells] & present)
    apart = np.sort(np.where(present, cells, -1 - np.arange(env.num_agents)))  # those who are out are nowhere
    assert np.all(apart[..., 1:] > apart[..., :-1])
    moved = np.any(np.diff(states.position, axis=0), axis=-1)
    assert 0.02 < moved.mean() < 0.9


@each_grid
def test_random_play_fires_every_beam_and_meets_both_sides_of_a_time_out(name):
    env, states = world(name), walk(name).states
    fired = {beam.name for kind, beam in enumerate(env.beams, start=1) if np.any(states.beam == kind)}
    assert fired == {beam.name for beam in env.beams}
    assert np.any(states.timeout == 0)
    assert np.all(states.timeout >= 0) and np.all(states.frozen >= 0) and np.all(states.timers >= 0)
    assert env.freezes or not states.frozen.any()


@each_grid
def test_observations_lie_in_their_space(name):
    env, seen = world(name), walk(name).observations
    for key, space in env.observation_space().spaces.items():
        assert seen[key].dtype == space.dtype and seen[key].shape == (STEPS, EPISODES, env.num_agents, *space.shape)
        assert np.all(seen[key] >= space.low) and np.all(seen[key] <= space.high), key


@each_grid
def test_who_is_out_sees_nothing_and_who_is_in_sees_itself_at_home(name):
    env, states, seen = world(name), walk(name).states, walk(name).observations
    present, home = states.timeout == 0, env.window.home
    assert not seen["view"][~present].any()
    me = env.seen(seen, "agent") == 1
    assert np.all(me[..., *home] == present) and np.all(me.sum(axis=(-1, -2)) == present)
    if "ready" in seen:
        assert not seen["ready"][~present].any()


@each_grid
def test_rewards_and_metrics_are_finite(name):
    for values in (walk(name).rewards, *walk(name).metrics.values()):
        assert np.isfinite(values).all()


@each_grid
def test_every_tile_that_occurs_has_a_name_and_a_colour(name):
    env, states = world(name), walk(name).states
    tiles = tile_planes(name)
    assert tiles.min() >= 1 and tiles.max() <= len(env.tiles) and len(np.unique(tiles)) > 2
    picture = drawing.draw(env, lane(states, STEPS - 1, 0), cell=8)
    height, width = env.grid.shape
    assert picture.shape == (8 * height, 8 * width, 3) and picture.dtype == np.uint8
    for what in (*env.tiles, *(beam.name for beam in env.beams)):
        assert len(drawing.hex_rgb(env.colours[what])) == 3
    symbols = list(env.tiles.values())
    assert len(set(symbols)) == len(symbols) and not set(symbols) & set("^>v<")


@each_grid
def test_a_late_clock_still_steps_and_counters_stay_whole(name):
    late, early = program(name)(0, 10**6), walk(name)
    assert np.all(late.states.time[-1] == 10**6 + STEPS)
    for leaf in jax.tree.leaves(late.states):
        assert leaf.dtype in (np.int32, np.uint8, np.bool_, np.float32)
        assert leaf.dtype != np.float32 or np.isfinite(leaf).all()
    assert late.states.timers.max(initial=0) <= early.states.timers.max(initial=0) and np.isfinite(late.rewards).all()


# ---------------------------------------------------------------------- views
@each_grid
def test_permuting_agents_permutes_what_they_see_of_the_engine(name):
    env, walked, rng = world(name), walk(name), np.random.default_rng(0)
    planes = [i for i, plane in enumerate(env.view_limits) if plane in ("beam", "agent", "frozen")]
    for step in (60, 120, STEPS - 1):
        state, order = lane(walked.states, step, step % EPISODES), rng.permutation(env.num_agents)
        permuted = state.replace(**{field: getattr(state, field)[order] for field in ENGINE_FIELDS})
        before, after = observer(name)(state), observer(name)(permuted)
        np.testing.assert_array_equal(after["view"][..., planes], before["view"][order][..., planes])
        if "ready" in before:
            np.testing.assert_array_equal(after["ready"], before["ready"][order])


def meeting(env: Board, state: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """`state` with agent 1 one cell ahead of agent 0 on floor, the others out; and both cells."""
    blocked = env.grid.plane("#") | np.asarray(env.solid(state))  # pyright: ignore[reportAttributeAccessIssue]
    free = np.argwhere(~blocked[1:-1, 1:-1] & ~blocked[:-2, 1:-1] & ~blocked[1:-1, 2:]) + 1
    here = free[len(free) // 2]
    ahead = here + np.array([part.item() for part in ahead_of(jnp.int32(0))])
    nobody = np.where(np.arange(env.num_agents) < 2, 0, 5).astype(np.int32)
    position, heading = state.position.copy(), np.zeros_like(state.heading)
    position[:2] = here, ahead
    changes = {"timeout": nobody, "frozen": 0 * nobody, "beam": 0 * state.beam, "timers": 0 * state.timers}
    return state.replace(position=position, heading=heading, **changes), here, ahead


@each_grid
def test_a_view_shows_a_neighbour_that_turns_moves_freezes_or_leaves_and_a_beam(name):
    env = world(name)
    if env.num_agents == 1:
        pytest.skip("one agent has no neighbour")
    state, here, ahead = meeting(env, lane(walk(name).states, 0, 0))
    one, beside = np.arange(env.num_agents) == 1, here + np.array([0, 1])
    changed = {
        "turns": state.replace(heading=np.where(one, 1, 0).astype(np.int32)),
        "moves": state.replace(position=np.where(one[:, None], beside, state.position).astype(np.int32)),
        "leaves": state.replace(timeout=np.where(one, 3, state.timeout).astype(np.int32)),
    }
    if env.freezes:
        changed["freezes"] = state.replace(frozen=np.where(one, 3, 0).astype(np.int32))
    for kind in range(1, len(env.beams) + 1):
        beam = state.beam.copy()
        beam[tuple(ahead)] = kind
        changed[f"beam {kind}"] = state.replace(beam=beam)
    views = {what: np.asarray(observer(name)(other)["view"][0]) for what, other in changed.items()}
    views["nothing"] = np.asarray(observer(name)(state)["view"][0])
    for what, view in views.items():
        assert [other for other in views if np.array_equal(views[other], view)] == [what]


@each_grid
def test_a_view_shows_every_change_of_the_tiles_in_it(name):
    env, states = world(name), walk(name).states
    changes = np.argwhere(np.diff(tile_planes(name).astype(int), axis=0))
    if len(changes) == 0:
        pytest.skip("at random nobody gets to anything that changes")
    t, episode, row, column = changes[0]
    before, after = (lane(states, i * APART, episode) for i in (t, t + 1))
    fields = {field: getattr(meeting(env, before)[0], field) for field in (*ENGINE_FIELDS, "beam")}
    fields["position"] = np.where(np.arange(env.num_agents)[:, None] == 0, [row, column], fields["position"])
    home = (0, *env.window.home)
    seen = [env.seen(observer(name)(state.replace(**fields)), "tile")[home] for state in (before, after)]
    assert seen[0] != seen[1]


# ---------------------------------------------------------------------- players and team sizes
@each_grid
def test_scripted_players_give_valid_actions_that_are_not_all_alike(name):
    env, walked = world(name), walk(name)
    choice = np.stack([np.arange(0, STEPS, 10), np.arange(0, STEPS, 10) % EPISODES], axis=-1)
    seen = picked(walked.observations, choice)

    def everybody(seen: Any, key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, (len(env.players), len(choice), env.num_agents))
        players = zip(env.players.items(), keys, strict=True)
        return {who: jax.vmap(jax.vmap(player))(seen, k) for (who, player), k in players}

    for who, actions in compiled(everybody)(seen, jax.random.key(0)).items():
        assert actions.dtype == np.int32 and actions.min() >= 0 and actions.max() < env.action_space().n, who
        assert len(np.unique(actions)) > 1, who
    assert {env.cooperator, env.defector, env.exploiter} - {None} <= set(env.players)


@each_grid
def test_one_agent_and_one_more_can_play_where_the_map_holds_them(name):
    env = world(name)
    for num_agents in (1, env.num_agents + 1):
        try:
            other: Any = make(name, num_agents=num_agents)
        except InputError as error:
            assert str(num_agents) in str(error) and "\n" not in str(error)
            continue
        key, actions = jax.random.key(0), jnp.zeros(num_agents, jnp.int32)
        _, state = jax.eval_shape(other.reset, key)
        seen, _, reward, *_ = jax.eval_shape(other.step, key, state, actions)
        assert seen["view"].shape[0] == num_agents and reward.shape == (num_agents,)
