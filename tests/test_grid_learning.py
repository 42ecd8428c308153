"""Learning in grid worlds: the baselines that know nothing of grids, on views that networks encode by themselves."""

import jax
import numpy as np
import pytest

from marl_suite.algorithm import env_spec
from marl_suite.baselines import registry
from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import make
from marl_suite.training import Fit

SMALL = {"num_envs": 4, "share_parameters": True}


@pytest.mark.parametrize(
    ("baseline", "settings"),
    [
        ("ippo", SMALL | {"rollout_length": 8, "shared_trunk": True}),
        pytest.param("ippo", {"num_envs": 4, "rollout_length": 8}, marks=pytest.mark.slow),
        pytest.param("ippo", SMALL | {"rollout_length": 8, "encoder": "standard"}, marks=pytest.mark.slow),
        pytest.param("mappo", SMALL | {"rollout_length": 8}, marks=pytest.mark.slow),
        pytest.param("advantage_alignment", SMALL | {"rollout_length": 8}, marks=pytest.mark.slow),
        pytest.param("iql", SMALL | {"buffer_size": 16, "batch_size": 4}, marks=pytest.mark.slow),
        pytest.param("vdn", SMALL | {"buffer_size": 16, "batch_size": 4}, marks=pytest.mark.slow),
        ("qmix", SMALL | {"buffer_size": 16, "batch_size": 4}),
    ],
)
def test_baselines_train_in_a_grid_world_as_in_any_other(baseline, settings):
    env = make("commons_harvest_open", num_agents=3)
    config = registry.configuration(baseline, **settings)
    fit = Fit(env, config, (0,), 800, env.make_params(max_steps=20), chunks=2)
    first, last = (chunk.state.learner for chunk in fit)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last) if np.issubdtype(leaf.dtype, np.floating))
    kernels = [x for x in zip(*map(jax.tree.leaves, (first, last)), strict=True) if x[0].ndim >= 3]
    assert kernels and any(not np.array_equal(before, after) for before, after in kernels)


def stored_bytes(env, config) -> dict[str, int]:
    """Bytes of one stored step of one environment: what learners need of it."""
    spec = env_spec(env, env.default_params)
    learner = config.build(spec)
    key = jax.random.key(0)
    observation, _ = jax.eval_shape(env.reset, key)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), observation)
    state = jax.eval_shape(learner.init, key)
    action, _, record = jax.eval_shape(learner.act, state, jax.eval_shape(lambda: learner.memory(1)), batch, key)
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    per_agent = 4 * env.num_agents  # a reward and a value, float32
    return {"observations": size(batch), "actions": size(action), "log_probs": size(record), "rest": 2 * per_agent}


def test_a_stored_step_of_clean_up_takes_less_than_three_kilobytes():
    sizes = stored_bytes(make("clean_up"), IPPO(num_envs=1, minibatches=1))
    assert sizes == {"observations": 7 * (11 * 11 * 3 + 2 * 4), "actions": 28, "log_probs": 28, "rest": 56}
    assert sum(sizes.values()) < 3000


def apples_per_episode(lr: float) -> np.ndarray:
    """Mean return of an agent in the episodes of each of three chunks, 22,400 steps each, and of two seeds: [3, 2]."""
    settings = {"num_envs": 32, "rollout_length": 50, "epochs": 2, "share_parameters": True, "shared_trunk": True}
    env = make("commons_harvest_open")
    fit = Fit(env, IPPO(lr=lr, gamma=0.99, **settings), (0, 1), 67_200, env.make_params(max_steps=100), chunks=3)
    logs = [chunk.logs for chunk in fit]
    return np.array([np.mean(log["episode_return"], axis=-1) / log["episodes"] for log in logs])


@pytest.mark.slow
def test_ippo_learns_to_gather_apples_while_there_are_enough():
    # In 100 steps seven agents cannot yet ruin the field, so that gathering more is better.
    returns, idle = apples_per_episode(1e-3), apples_per_episode(0.0)
    assert np.all(np.abs(idle - idle.mean()) < 1), "without a learning rate nothing changes"
    assert np.all(returns[-1] > idle.mean() + 3)
