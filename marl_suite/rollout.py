"""Collecting trajectories: the one place where policies meet environments."""

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.algorithm import Act, Learner, Metrics, Trajectory
from marl_suite.envs.environment import Environment, PyTree


class RolloutState(struct.PyTreeNode):
    """Where the E environments of a learner stand between two collections."""

    env_state: PyTree  # [E, ...]
    observation: PyTree  # [E, N, ...]
    memory: PyTree  # [E, N, ...] the policy's memory, cleared where an episode begins
    reset: jax.Array  # bool [E] the next step is the first of an episode
    episode_return: jax.Array  # float32 [E, N] material payoff since the episode began
    episode_length: jax.Array  # int32 [E]


def env_keys(key: jax.Array, learner: Learner) -> jax.Array:
    """[E] keys, one per group of `learner.group_size` environments, repeated within the group."""
    keys = jax.random.split(key, learner.num_envs // learner.group_size)
    return jnp.repeat(keys, learner.group_size, axis=0)


def start(env: Environment, params: PyTree, learner: Learner, key: jax.Array) -> RolloutState:
    """Begins an episode in each of the learner's environments."""
    observation, env_state = jax.vmap(env.reset, in_axes=(0, None))(env_keys(key, learner), params)
    return RolloutState(
        env_state=env_state,
        observation=observation,
        memory=learner.memory(learner.num_envs),
        reset=jnp.ones(learner.num_envs, bool),
        episode_return=jnp.zeros((learner.num_envs, env.num_agents)),
        episode_length=jnp.zeros(learner.num_envs, jnp.int32),
    )


def where_env(condition: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """`x` in environments where `condition` [E] holds, `y` elsewhere, leaf by leaf [E, ...]."""
    return jax.tree.map(lambda a, b: jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b), x, y)


def collect(
    env: Environment,
    params: PyTree,
    learner: Learner,
    act: Act,
    state: RolloutState,
    key: jax.Array,
    cleared: PyTree = None,
) -> tuple[RolloutState, Trajectory, Metrics]:
    """Plays `learner.rollout_length` steps with `act` in all environments.

    Args:
        env: the game.
        params: its traced parameters.
        learner: gives E, T, groups and the cleared memory; its own `act` is not used.
        act: (memory, observation [E, N, ...], key, mask) -> actions [E, N], memory, record.
        state: where the environments stand.
        key: used up.
        cleared: [E, N, ...] the memory that `act` begins an episode with; the learner's when None.

    Returns:
        the new state, the trajectory `[T, E, N, ...]`, and sums over it for the learning curve: material payoff
        per agent and step, finished episodes with their returns [N] and lengths, and the environment's metrics.
    """
    initial_memory = learner.memory(learner.num_envs) if cleared is None else cleared

    def action_mask(env_state: PyTree) -> jax.Array | None:
        return jax.vmap(env.action_mask, (0, None))(env_state, params) if env.masks_actions else None

    def global_state(env_state: PyTree) -> jax.Array | None:
        return jax.vmap(env.global_state, (0, None))(env_state, params) if learner.needs_global_state else None

    def step(state: RolloutState, key: jax.Array) -> tuple[RolloutState, tuple[Trajectory, Metrics, Metrics]]:
        act_key, step_key, reset_key = jax.random.split(key, 3)
        mask = action_mask(state.env_state)
        actions, memory, record = act(state.memory, state.observation, act_key, mask)
        next_observation, env_state, reward, terminated, truncated, info = jax.vmap(env.step_env, (0, 0, 0, None))(
            env_keys(step_key, learner), state.env_state, actions, params
        )
        done = terminated | truncated
        row = Trajectory(
            observation=state.observation,
            action=actions,
            action_mask=mask,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            reset=state.reset,
            next_observation=next_observation,
            next_action_mask=action_mask(env_state),
            global_state=global_state(state.env_state),
            next_global_state=global_state(env_state),
            memory=None,
            record=record,
        )
        observation, env_state = jax.vmap(env.auto_reset, (0, 0, 0, 0, None))(
            env_keys(reset_key, learner), done, next_observation, env_state, params
        )
        episode_return = state.episode_return + info["payoff"]
        episode_length = state.episode_length + 1
        means = {
            "payoff": info["payoff"].mean(0),
            "metrics": jax.tree.map(lambda x: x.mean(0), info["metrics"]),
        }
        totals = {
            "episodes": done.sum(),
            "episode_return": (done[:, None] * episode_return).sum(0),
            "episode_length": (done * episode_length).sum(),
        }
        state = RolloutState(
            env_state=env_state,
            observation=observation,
            memory=where_env(done, initial_memory, memory),
            reset=done,
            episode_return=jnp.where(done[:, None], 0.0, episode_return),
            episode_length=jnp.where(done, 0, episode_length),
        )
        return state, (row, means, totals)

    memory = state.memory
    keys = jax.random.split(key, learner.rollout_length)
    state, (trajectory, means, totals) = jax.lax.scan(step, state, keys)
    logs = jax.tree.map(lambda x: x.mean(0), means) | jax.tree.map(lambda x: x.sum(0), totals)
    return state, trajectory.replace(memory=memory), logs


def simulate(
    env: Environment, params: PyTree, learner: Learner, act: Act, key: jax.Array, memory: PyTree = None
) -> Trajectory:
    """A trajectory of fresh episodes under `act`, from new initial states; nothing else is changed by it.

    `memory` is the cleared memory that `act` works with, the learner's own when None.
    """
    start_key, collect_key = jax.random.split(key)
    state = start(env, params, learner, start_key)
    if memory is not None:
        state = state.replace(memory=memory)
    return collect(env, params, learner, act, state, collect_key, memory)[1]
