"""MAPPO: what its critic sees, whose values it gives, and what central values can know that local ones cannot."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from probes import Tagged, assert_trees_equal

from marl_suite import rollout, training
from marl_suite.algorithm import Trajectory, env_spec
from marl_suite.baselines.mappo import MAPPO, CentralCritic, Moments
from marl_suite.baselines.ppo import IPPO, PPO
from marl_suite.composition import Composition
from marl_suite.envs import Environment, make
from marl_suite.envs.environment import PyTree
from marl_suite.envs.spaces import Box, Discrete, Space
from marl_suite.training import Fit

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])


def critic_of(env: Environment, config: MAPPO) -> CentralCritic:
    return CentralCritic(config, env_spec(env, env.default_params))


# ---------------------------------------------------------------------- rows
def collected(env: Environment, config: MAPPO) -> tuple[CentralCritic, Trajectory]:
    critic = critic_of(env, config)
    learner = config.build(critic.spec)

    def play(key: jax.Array) -> Trajectory:
        init_key, start_key, key = jax.random.split(key, 3)
        state = learner.init(init_key)
        start = rollout.start(env, env.default_params, learner, start_key)
        act = lambda *args: learner.act(state, *args)  # noqa: E731
        return rollout.collect(env, env.default_params, learner, act, start, key)[1]

    return critic, jax.jit(play)(jax.random.key(0))


@SHARED
def test_actor_and_critic_rows_are_of_the_same_environment_and_agent(shared):
    """An observation names its episode and its agent; the global state is all agents' observations in a row."""
    config = MAPPO(num_envs=6, rollout_length=9, minibatches=2, share_parameters=shared)
    critic, trajectory = collected(Tagged(), config)
    for seen, actor in zip(
        critic.critic_inputs(trajectory), (trajectory.observation, trajectory.next_observation), strict=True
    ):
        actor = np.asarray(critic.inputs(actor))  # [P, T, B, 5]: tag, agent, time, last action, noise
        state = np.asarray(seen["observation"]["global_state"]).reshape(*actor.shape[:3], 3, 5)
        assert len(np.unique(actor[..., 0])) > 6
        for name, column in (("tag", 0), ("time", 2), ("noise", 4)):
            np.testing.assert_array_equal(state[..., 0, column], actor[..., column], err_msg=name)
        np.testing.assert_array_equal(seen["agent_id"].argmax(-1), actor[..., 1])
        own = np.take_along_axis(state, actor[..., 1].astype(int)[..., None, None], axis=3)[..., 0, :]
        np.testing.assert_array_equal(own, actor)  # the state's entry of the agent whose value is asked for


@SHARED
def test_a_minibatch_keeps_the_rows_of_actor_and_critic_together(shared):
    config = MAPPO(num_envs=6, rollout_length=4, share_parameters=shared, minibatches=3)
    critic, trajectory = collected(Tagged(), config)
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(CentralCritic):
        def loss(self, params: Any, batch: Any) -> Any:
            state = batch.critic_input["observation"]["global_state"].reshape(*batch.observation.shape[:2], 3, 5)
            seen.append(state[..., 0, 0] == batch.observation[..., 0])
            seen.append(batch.critic_input["agent_id"].argmax(-1) == batch.observation[..., 1])
            jax.debug.callback(lambda *same: found.extend(map(np.all, same)), *seen[-2:])
            return super().loss(params, batch)

    found: list[Any] = []
    watched = Watched(critic.config, critic.spec)
    state = watched.init(jax.random.key(1))
    jax.block_until_ready(jax.jit(watched.update, static_argnums=3)(state, trajectory, jax.random.key(2), None))
    jax.effects_barrier()
    assert len(found) >= 2 * config.epochs * config.minibatches and all(found)


def test_with_its_own_observation_for_a_critic_input_mappo_is_ippo_bit_for_bit():
    @dataclasses.dataclass(frozen=True)
    class Local(CentralCritic):
        critic = PPO.critic  # pyright: ignore[reportIncompatibleMethodOverride,reportAssignmentType]
        critic_inputs = PPO.critic_inputs

    settings: dict[str, Any] = dict(num_envs=4, rollout_length=9, minibatches=2, epochs=2, hidden_sizes=(8,))
    critic, trajectory = collected(Tagged(), MAPPO(**settings))
    after = []
    for ppo in (PPO(IPPO(**settings), critic.spec), Local(critic.config, critic.spec)):
        state, _ = jax.jit(ppo.update, static_argnums=3)(
            ppo.init(jax.random.key(1)), trajectory, jax.random.key(2), None
        )
        after.append((state.actor, state.critic))
    assert_trees_equal(*after)


# ---------------------------------------------------------------------- values
class HiddenParams(struct.PyTreeNode):
    """What agents are paid."""

    scale: Any  # float32 [2]
    offset: Any  # float32 [2]


class HiddenState(struct.PyTreeNode):
    """A sign that only the state knows."""

    sign: jax.Array  # float32 []
    time: jax.Array  # int32 []


@dataclasses.dataclass(frozen=True)
class Hidden(Environment):
    """One step; agent i is paid scale_i times a sign that nobody observes, plus offset_i."""

    name: str = "hidden"
    num_agents: int = 2

    @property
    def default_params(self) -> HiddenParams:
        return HiddenParams(np.array([1.0, -3.0], np.float32), np.zeros(2, np.float32))

    def observation_space(self, params: PyTree = None) -> Space:
        return Box(0, 1, (1,))

    def action_space(self, params: PyTree = None) -> Space:
        return Discrete(2)

    def initial_state(self, key: jax.Array, params: PyTree) -> HiddenState:
        return HiddenState(jax.random.rademacher(key, (), jnp.float32), jnp.int32(0))

    def transition(self, key: jax.Array, state: HiddenState, actions: jax.Array, params: PyTree):
        reward = state.sign * params.scale + params.offset
        return state.replace(time=state.time + 1), reward, jnp.asarray(True), {}

    def is_truncated(self, state: HiddenState, params: PyTree) -> jax.Array:
        return jnp.asarray(False)

    def observe(self, state: HiddenState, params: PyTree) -> jax.Array:
        return jnp.ones((2, 1))

    def global_state(self, state: HiddenState, params: PyTree = None) -> jax.Array:
        return state.sign[None]


QUICK: dict[str, Any] = dict(lr=0.02, num_envs=32, rollout_length=4, hidden_sizes=(16,), clip_value=False)


def learned_values(config: IPPO, params: HiddenParams | None = None, updates: int = 120) -> np.ndarray:
    """[2, 2]: the critic's value at sign -1 and +1 for both agents."""
    env = Hidden()
    *_, chunk = Fit(env, config, [0], 128 * updates, params, chunks=1)
    kind: Any = CentralCritic if isinstance(config, MAPPO) else PPO
    ppo = kind(config, env_spec(env, env.default_params))
    state = jax.tree.map(lambda x: x[0], chunk.state.learner)
    signs = jnp.array([[[-1.0], [1.0]]])  # [T, E, S]
    fields: Any = {field.name: None for field in dataclasses.fields(Trajectory)}
    seen = jnp.ones((1, 2, 2, 1))
    rows = {"observation": seen, "next_observation": seen, "global_state": signs, "next_global_state": signs}
    trajectory = Trajectory(**fields | rows | {"reset": jnp.zeros((1, 2), bool)})
    return np.asarray(ppo.values(state, trajectory)[0][0])


@SHARED
def test_central_values_know_the_state_and_whose_they_are(shared):
    found = learned_values(MAPPO(**QUICK, share_parameters=shared))
    np.testing.assert_allclose(found, [[-1, 3], [1, -3]], atol=0.1)


def test_local_values_know_only_the_mean_over_what_is_hidden():
    np.testing.assert_allclose(learned_values(IPPO(**QUICK)), 0, atol=0.6)


def test_a_team_has_one_value():
    config = MAPPO(**QUICK, share_parameters=True, reward_view="team")
    found = learned_values(config)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_allclose(found[:, 0], [2, -2], atol=0.1)
    for view, told in (("team", False), ("team_mean", False), ("individual", True), ("self_interest:s=0.5", True)):
        assert critic_of(Hidden(), config.replace(reward_view=view)).tells_whose == told


def test_a_critic_may_see_the_observation_too():
    critic = critic_of(make("coin_game"), MAPPO(critic_observes=True))
    space: Any = critic.critic.space
    sizes = {name: np.prod(part.shape) for name, part in space.spaces["observation"].spaces.items()}
    assert sizes == {"global_state": critic.spec.global_state_size, "observation": 36}


# ---------------------------------------------------------------------- the scale of values
def test_moments_are_those_of_what_was_seen_with_old_batches_fading():
    batches = np.random.default_rng(0).normal(50, 9, (5, 2, 40)) * [[[1.0], [10.0]]]
    moments = Moments(*[jnp.zeros(2)] * 3)
    np.testing.assert_array_equal(moments.scale(), [[0, 0], [1, 1]])
    for batch in batches:
        moments = moments.updated(jnp.asarray(batch), decay=0.9)
    weights = 0.9 ** np.arange(5)[::-1]
    mean = np.average(batches.mean(2), axis=0, weights=weights)
    square = np.average((batches**2).mean(2), axis=0, weights=weights)
    np.testing.assert_allclose(moments.scale(), [mean, np.sqrt(square - mean**2)], rtol=1e-3)


def test_values_in_the_hundreds_are_found_when_they_are_normalised_and_not_otherwise():
    large = HiddenParams(np.array([100.0, -300.0], np.float32), np.array([500.0, 0.0], np.float32))
    wanted = np.array([[400, 300], [600, -300]])
    for normalise in (True, False):
        config = MAPPO(**QUICK).replace(clip_value=True, normalise_values=normalise)
        error = np.abs(learned_values(config, large) - wanted).max()
        assert (error < 20) == normalise, error


# ---------------------------------------------------------------------- in the loop
@pytest.mark.slow
def test_a_lane_of_several_seeds_is_that_seed_alone_and_a_seed_repeats_itself():
    config = MAPPO(num_envs=4, rollout_length=5, hidden_sizes=(8,), recurrent=True, normalise_values=True)
    runs = []
    for seeds in ([3], [3], [7, 3]):
        *_, chunk = Fit(make("coin_game"), config, seeds, 3 * 20, chunks=1)
        runs.append(jax.tree.map(lambda x: np.asarray(x[-1]), (chunk.logs, chunk.state.learner)))
    assert_trees_equal(runs[0], runs[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), runs[0], runs[2])


def test_a_central_critic_sits_beside_another_learner():
    parts = (
        MAPPO(num_envs=4, rollout_length=5, hidden_sizes=(8,), minibatches=1),
        IPPO(num_envs=4, rollout_length=5, minibatches=1),
    )
    env = make("prisoners_dilemma")
    learner = Composition(parts=parts).build(env_spec(env, env.default_params))
    assert learner.needs_global_state
    state = jax.eval_shape(lambda key: training.start(env, env.default_params, learner, key), jax.random.key(0))
    jax.eval_shape(lambda state: training.run(env, env.default_params, learner, state, 1), state)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["individual", "team"])
def test_public_goods_are_provided_by_a_team_with_a_central_critic_and_not_by_individuals(view):
    config = MAPPO(
        lr=5e-3, num_envs=32, hidden_sizes=(32,), gae_lambda=0.8, entropy_coefficient=0.001, reward_view=view
    )
    *_, chunk = Fit(make("public_goods"), config, range(5), 1e5, chunks=10)
    contributed = chunk.logs["metrics"]["cooperation"].mean(1)
    assert np.all(contributed > 0.95) if view == "team" else np.all(contributed < 0.05), contributed
