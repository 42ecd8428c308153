"""gymnax environments as one-agent games, against gymnax itself."""

import json
import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite import make
from marl_suite.envs import InputError
from marl_suite.envs.adapters.gymnax import from_gymnax
from marl_suite.envs.spaces import Box, Discrete
from marl_suite.envs.testing import check_environment
from marl_suite.experiments.suites import Cell

NUM_STEPS = 120


def play_both(env_id, actions, **overrides):
    """The outcomes of ours, [T, 1, ...], and of gymnax's own `step`, [T, ...], for the same keys and actions."""
    env, (game, game_params) = from_gymnax(env_id), gymnax.make(env_id)
    game_params, params = game_params.replace(**overrides), env.make_params(**overrides)
    keys = jax.random.split(jax.random.key(3), len(actions))

    def step(state, inputs):
        outcome = env.step(inputs[0], state, inputs[1][None], params)
        return outcome[1], outcome

    def game_step(state, inputs):
        outcome = game.step(inputs[0], state, inputs[1], game_params)
        return outcome[1], outcome

    observation, state = env.reset(jax.random.key(0), params)
    game_observation, game_state = game.reset(jax.random.key(0), game_params)
    np.testing.assert_array_equal(observation[0], game_observation)
    ours = jax.lax.scan(step, state, (keys, actions))[1]
    return ours, jax.lax.scan(game_step, game_state, (keys, actions))[1]


def assert_same_play(ours, theirs):
    observation, state, reward, terminated, truncated, info = ours
    np.testing.assert_allclose(observation[:, 0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(reward[:, 0], theirs[2], rtol=1e-6)
    np.testing.assert_array_equal(terminated, theirs[3])
    np.testing.assert_array_equal(truncated, theirs[4])
    np.testing.assert_allclose(info["final_observation"][:, 0], theirs[5]["final_observation"], rtol=1e-6)
    np.testing.assert_array_equal(info["payoff"], reward)
    np.testing.assert_array_equal(state.inner.time, theirs[1].time)


def test_cart_pole_is_gymnaxs_own_also_over_resets():
    actions = jax.random.randint(jax.random.key(7), (NUM_STEPS,), 0, 2)
    ours, theirs = play_both("CartPole-v1", actions)
    assert ours[3].sum() > 1 and not ours[4].any()  # the pole fell more than once, long before the clock ran out
    assert_same_play(ours, theirs)


def test_the_last_observation_shows_the_fallen_pole_and_the_next_an_upright_one():
    observation, _, _, terminated, _, info = play_both("CartPole-v1", jnp.ones(NUM_STEPS, jnp.int32))[0]
    final = info["final_observation"][terminated, 0]
    assert len(final) > 1
    fallen = (jnp.abs(final[:, 2]) > 12 * 2 * jnp.pi / 360) | (jnp.abs(final[:, 0]) > 2.4)
    assert fallen.all()
    assert (jnp.abs(observation[terminated]) <= 0.05).all()  # where CartPole starts
    np.testing.assert_array_equal(info["final_observation"][~terminated], observation[~terminated])


def test_the_clock_truncates_and_does_not_terminate():
    actions = jnp.arange(NUM_STEPS) % 2  # left and right in turn keep the pole up for a while
    _, state, _, terminated, truncated, info = play_both("CartPole-v1", actions, max_steps_in_episode=5)[0]
    assert not terminated.any()
    assert np.flatnonzero(truncated).tolist() == list(range(4, NUM_STEPS, 5))
    assert (state.inner.time[truncated] == 0).all()
    np.testing.assert_array_equal(info["truncated"], truncated)


def test_pendulum_takes_continuous_actions():
    actions = jax.random.uniform(jax.random.key(7), (NUM_STEPS, 1), minval=-2.0, maxval=2.0)
    ours, theirs = play_both("Pendulum-v1", actions, max_steps_in_episode=50)
    assert np.flatnonzero(ours[4]).tolist() == [49, 99]
    assert_same_play(ours, theirs)


def test_spaces_are_converted():
    cart_pole, pendulum = from_gymnax("CartPole-v1"), from_gymnax("Pendulum-v1")
    assert cart_pole.action_space() == Discrete(2)
    assert pendulum.action_space() == Box(-2.0, 2.0, (1,))
    assert pendulum.observation_space() == Box([-1, -1, -8], [1, 1, 8], (3,))
    assert pendulum.action_space(pendulum.make_params(max_torque=1.0)) == Box(-1.0, 1.0, (1,))
    assert jax.jit(lambda: jnp.array(cart_pole.observation_space().shape))().tolist() == [4]


def test_parameters_are_gymnaxs_and_hold_no_device_arrays():
    env = from_gymnax("Acrobot-v1")
    leaves = jax.tree.leaves(env.default_params)
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)
    assert env.make_params(available_torque=[-2.0, 0.0, 2.0]).available_torque.tolist() == [-2.0, 0.0, 2.0]
    with pytest.raises(InputError, match="did you mean 'max_steps_in_episode'"):
        env.make_params(max_steps_per_episode=3)


def test_equal_ids_are_one_environment_and_one_compilation():
    traced = []

    def step(key, env):
        traced.append(env)
        return env.step(key, env.reset(jax.random.key(0))[1], jnp.zeros(1, jnp.int32))[0]

    step = jax.jit(step, static_argnums=1)
    for _ in range(2):
        step(jax.random.key(1), make("gymnax:CartPole-v1"))
    assert len(traced) == 1
    assert from_gymnax("CartPole-v1") == make("gymnax:CartPole-v1")
    assert from_gymnax("CartPole-v1") != from_gymnax("Pendulum-v1")


def test_settings_reach_gymnaxs_constructor():
    assert from_gymnax("DeepSea-bsuite", size=5).observation_space().shape == (5, 5)
    assert from_gymnax("DeepSea-bsuite", size=5) != from_gymnax("DeepSea-bsuite")
    with pytest.raises(InputError, match=r"gymnax:DeepSea-bsuite: .*seize"):
        from_gymnax("DeepSea-bsuite", seize=5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gymnax:CartPole-v1", {}),
        ("gymnax:DeepSea-bsuite", {"size": 5}),
        ("gymnax:FrozenLake-misc", {"desc": ("SFH", "FFG"), "is_slippery": False}),
    ],
)
def test_a_stored_cell_is_the_same_game_again(name, settings):
    cell = Cell(name, "ippo", "ippo", env=settings).check()
    stored = json.loads(json.dumps(cell.specification))
    again = Cell(name, "ippo", "ippo", env=stored["env"], params=stored["params"]).check()
    assert again.game == make(name, **cell.game.static_values()) == cell.game
    assert again.id == cell.id
    jax.tree.map(np.testing.assert_array_equal, again.game_params, cell.game_params)


def test_an_unknown_id_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="unknown gymnax environment 'CartPole-v0'; did you mean 'CartPole-v1'"):
        make("gymnax:CartPole-v0")


def test_without_gymnax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    monkeypatch.delitem(sys.modules, "marl_suite.envs.adapters.gymnax")
    with pytest.raises(InputError, match="pip install"):
        make("gymnax:CartPole-v1")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-misc"])
def test_gymnax_environments_keep_the_contract(env_id):
    check_environment(from_gymnax(env_id))
