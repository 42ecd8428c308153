"""IPPO: values and policies that can be worked out, what separate agents share and do not, and the games' answers."""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from probes import PROBES, Probe, Tagged, assert_trees_equal, stacked

from marl_suite import rollout, training
from marl_suite.algorithm import Learner, Trajectory, env_spec
from marl_suite.baselines.advantage_alignment import GroupRelativeAdvantageAlignment
from marl_suite.baselines.loqa import LOQA
from marl_suite.baselines.mappo import MAPPO
from marl_suite.baselines.ppo import IPPO, PPO, Batch, PPOState, clipped_surrogate, squared_error
from marl_suite.envs import Environment, InputError, make
from marl_suite.envs.environment import PyTree
from marl_suite.envs.spaces import Box, MultiDiscrete, Space
from marl_suite.evaluation import evaluator
from marl_suite.training import Fit

GAMMA, LAMBDA = 0.9, 0.95


def ppo_for(env: Environment, config: IPPO) -> PPO:
    return PPO(config, env_spec(env, env.default_params))


def act_of(learner: Learner, state: PPOState):
    return lambda *args: learner.act(state, *args)


# ---------------------------------------------------------------------- problems with known values
MINUS, PLUS, LATER_MINUS, LATER_PLUS = range(4)
OBSERVATIONS = np.array([[-1, 0], [1, 0], [-1, 1], [1, 1]], np.float32)


@pytest.fixture(scope="module")
def solved() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values [4] and probabilities of action 1 [4] after learning, per probe; every probe is a lane of one program."""
    config = IPPO(
        lr=0.02,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        num_envs=16,
        rollout_length=20,
        hidden_sizes=(16,),
        minibatches=2,
        clip_value=False,
    )
    steps = 100 * config.num_envs * config.rollout_length
    fit = Fit(Probe(), config, [0] * len(PROBES), steps, stacked(list(PROBES.values())), chunks=1, axes=(None, 0))
    *_, chunk = fit
    ppo = PPO(config, fit.plan.spec)

    def look(state: PPOState) -> tuple[jax.Array, jax.Array]:
        critic = jax.tree.map(lambda x: x[0], state.critic)
        apply: Any = ppo.critic.apply
        value, _ = apply(critic, (), OBSERVATIONS[None], np.zeros((1, 4), bool))
        policy, _ = ppo.distribution(state.actor, (), OBSERVATIONS[:, None], None)
        return value[0, :, 0], jnp.exp(jnp.asarray(policy.log_prob(jnp.ones((4, 1), jnp.int32))))[:, 0]

    value, chance = jax.jit(jax.vmap(look))(chunk.state.learner)
    return {name: (np.asarray(value[i]), np.asarray(chance[i])) for i, name in enumerate(PROBES)}


def test_a_constant_reward_is_the_value_of_a_one_step_game(solved):
    np.testing.assert_allclose(solved["constant"][0][[MINUS, PLUS]], 1, atol=0.02)


def test_values_depend_on_what_is_observed(solved):
    np.testing.assert_allclose(solved["observation"][0][[MINUS, PLUS]], [-1, 1], atol=0.02)


def test_a_delayed_reward_is_discounted_once(solved):
    np.testing.assert_allclose(solved["delayed"][0], [GAMMA, GAMMA, 1, 1], atol=0.02)


def test_the_rewarded_action_is_found(solved):
    value, chance = solved["action"]
    assert np.all(chance[[MINUS, PLUS]] > 0.98)
    np.testing.assert_allclose(value[[MINUS, PLUS]], 1, atol=0.05)


def test_the_action_that_matches_the_observation_is_found(solved):
    value, chance = solved["match"]
    assert chance[MINUS] < 0.02 and chance[PLUS] > 0.98
    np.testing.assert_allclose(value[[MINUS, PLUS]], 1, atol=0.05)


def test_a_time_limit_does_not_end_the_value_of_an_endless_game(solved):
    np.testing.assert_allclose(solved["truncated"][0][[MINUS, PLUS]], 1 / (1 - GAMMA), atol=0.2)


def test_the_same_time_limit_told_as_a_termination_does(solved):
    # The fixed point of V = mean_k G_k, where k steps remain: G_k = 1 + gamma [(1 - lambda) V + lambda G_{k - 1}],
    # G_0 = V_terminal = 0 and no bootstrap at k = 1; linear in V, so found by iteration.
    value = 0.0
    for _ in range(200):
        returns = [1.0]
        for _ in range(9):
            returns.append(1 + GAMMA * ((1 - LAMBDA) * value + LAMBDA * returns[-1]))
        value = float(np.mean(returns))
    assert value < 4.5
    np.testing.assert_allclose(solved["terminated"][0][[MINUS, PLUS]], value, atol=0.2)


# ---------------------------------------------------------------------- advantages
def hand_made_trajectory(terminated: list[int], truncated: list[int], reward: list[float]) -> Trajectory:
    """One environment with one agent; everything that advantages do not look at is missing."""
    column = lambda x, dtype: jnp.asarray(x, dtype)[:, None]  # noqa: E731
    rows: Any = {field.name: None for field in dataclasses.fields(Trajectory)} | {
        "terminated": column(terminated, bool),
        "truncated": column(truncated, bool),
        "reward": column(reward, jnp.float32)[..., None],
    }
    return Trajectory(**rows)


def test_advantages_bootstrap_from_the_true_successor_at_a_cut_and_from_nothing_at_an_end():
    # Rows 0 and 1 are an episode that the clock cuts, rows 2 and 3 one that ends, row 4 goes on past the rollout.
    trajectory = hand_made_trajectory([0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 2, 3, 4, 5])
    v_tm1 = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    v_t = np.array([0.2, 7.0, 0.4, 9.0, 11.0])  # 7 is of the final observation, 9 must not count
    ppo = ppo_for(Probe(), IPPO(gamma=GAMMA, gae_lambda=LAMBDA))
    delta = [1 + GAMMA * 0.2 - 0.1, 2 + GAMMA * 7 - 0.2, 3 + GAMMA * 0.4 - 0.3, 4 - 0.4, 5 + GAMMA * 11 - 0.5]
    decay = GAMMA * LAMBDA
    wanted = [delta[0] + decay * delta[1], delta[1], delta[2] + decay * delta[3], delta[3], delta[4]]
    found = ppo.advantages(trajectory, jnp.asarray(v_tm1)[:, None, None], jnp.asarray(v_t)[:, None, None])
    np.testing.assert_allclose(found[:, 0, 0], wanted, rtol=1e-5)


# ---------------------------------------------------------------------- losses by plain loops
def test_the_surrogate_is_the_smaller_of_ratio_and_clipped_ratio():
    rng = np.random.default_rng(0)
    log_ratio, advantage = rng.normal(0, 0.5, 50), rng.normal(size=50)
    total = 0.0
    for log_rho, a in zip(log_ratio, advantage, strict=True):
        rho = np.exp(log_rho)
        total += min(rho * a, min(max(rho, 0.8), 1.2) * a)
    loss = clipped_surrogate(jnp.asarray(log_ratio), jnp.asarray(advantage), 0.2)
    np.testing.assert_allclose(loss, -total / 50, rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "pushes"),
    [(1.5, 1.0, False), (0.5, 1.0, True), (1.5, -1.0, True), (0.5, -1.0, False), (1.0, 1.0, True)],
)
def test_a_ratio_that_is_already_clipped_in_its_favour_pushes_no_further(ratio, advantage, pushes):
    slope = jax.grad(clipped_surrogate)(jnp.log(jnp.array([ratio])), jnp.array([advantage]), 0.2)
    assert (slope[0] != 0) == pushes


def test_a_clipped_value_error_is_the_larger_of_the_two():
    value, old, target = np.random.default_rng(1).normal(size=(3, 40))
    clipped = total = 0.0
    for v, o, r in zip(value, old, target, strict=True):
        held = o + min(max(v - o, -0.2), 0.2)
        total += 0.5 * (v - r) ** 2
        clipped += 0.5 * max((v - r) ** 2, (held - r) ** 2)
    for clip, wanted in ((None, total), (0.2, clipped)):
        found = squared_error(jnp.asarray(value), jnp.asarray(old), jnp.asarray(target), clip)
        np.testing.assert_allclose(found, wanted / 40, rtol=1e-5)


def test_a_value_that_has_moved_far_towards_its_target_is_held_by_the_clip():
    slope = jax.grad(squared_error)
    far, near = (jnp.array([0.5]), jnp.array([0.0]), jnp.array([1.0])), (jnp.array([0.1]), jnp.zeros(1), jnp.ones(1))
    assert slope(*far, 0.2)[0] == 0 and slope(*far, None)[0] != 0
    np.testing.assert_allclose(slope(*near, 0.2), slope(*near, None))


def test_the_loss_is_the_surrogate_and_the_weighted_value_error_less_the_weighted_entropy():
    config = IPPO(hidden_sizes=(8,), clip=0.2, value_coefficient=0.7, entropy_coefficient=0.3)
    ppo, rng = ppo_for(Probe(), config), np.random.default_rng(0)
    rows = lambda *shape: jnp.asarray(rng.normal(size=(3, 4, *shape)), jnp.float32)  # noqa: E731
    observation, old, advantage, value, target = rows(2), rows() - 1, rows(), rows(), rows()
    action, reset = jnp.asarray(rng.integers(2, size=(3, 4))), jnp.zeros((3, 4), bool)
    batch = Batch(observation, observation, action, None, reset, old, value, advantage, target, (), ())
    keys = jax.random.split(jax.random.key(0))
    actor, critic = (net.init(k, (), observation, reset) for net, k in zip((ppo.actor, ppo.critic), keys, strict=True))
    total, metrics = ppo.loss((actor, critic), batch)
    log_probs = np.asarray(jax.nn.log_softmax(cast(Any, ppo.actor.apply)(actor, (), observation, reset)[0]))
    entropy = -(np.exp(log_probs) * log_probs).sum(-1).mean()
    rho = np.exp(np.take_along_axis(log_probs, np.asarray(action)[..., None], -1)[..., 0] - old)
    v = cast(Any, ppo.critic.apply)(critic, (), observation, reset)[0][..., 0]
    surrogate = np.minimum(rho * advantage, np.clip(rho, 0.8, 1.2) * advantage).mean()
    held = value + np.clip(v - value, -0.2, 0.2)
    error = 0.5 * np.maximum((v - target) ** 2, (held - target) ** 2).mean()
    np.testing.assert_allclose(total, -surrogate + 0.7 * error - 0.3 * entropy, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], (rho - 1 - np.log(rho)).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["entropy"], entropy, rtol=1e-5)


def test_a_shared_trunk_has_the_same_loss_of_its_two_heads():
    config = IPPO(hidden_sizes=(8,), value_coefficient=0.7, shared_trunk=True)
    ppo, rng = ppo_for(Probe(), config), np.random.default_rng(0)
    rows = lambda *shape: jnp.asarray(rng.normal(size=(3, 4, *shape)), jnp.float32)  # noqa: E731
    observation, old, advantage, value, target = rows(2), rows() - 1, rows(), rows(), rows()
    action, reset = jnp.asarray(rng.integers(2, size=(3, 4))), jnp.zeros((3, 4), bool)
    batch = Batch(observation, (), action, None, reset, old, value, advantage, target, (), ())
    params: Any = ppo.actor.init(jax.random.key(0), (), observation, reset)
    outputs = np.asarray(cast(Any, ppo.actor.apply)(params, (), observation, reset)[0])
    assert outputs.shape == (3, 4, 3)
    (_, metrics), gradient = jax.value_and_grad(ppo.loss, has_aux=True)((params, ()), batch)
    v = outputs[..., 2]
    held = value + np.clip(v - value, -0.2, 0.2)
    error = 0.5 * np.maximum((v - target) ** 2, (held - target) ** 2).mean()
    np.testing.assert_allclose(metrics["value_loss"], error, rtol=1e-5)
    log_probs = np.asarray(jax.nn.log_softmax(outputs[..., :2]))
    np.testing.assert_allclose(metrics["entropy"], -(np.exp(log_probs) * log_probs).sum(-1).mean(), rtol=1e-5)
    kernels = gradient[0]["params"]
    assert all(np.abs(kernels[name]["kernel"]).max() > 0 for name in ("Dense_0", "Dense_1", "value"))


def test_a_shared_trunk_learns_values_and_a_policy_and_its_critic_is_its_actor():
    config = IPPO(lr=0.02, gamma=GAMMA, num_envs=16, rollout_length=20, hidden_sizes=(16,), shared_trunk=True)
    params = PROBES["match"]
    *_, chunk = Fit(Probe(), config, [0], 100 * 16 * 20, params, chunks=1)
    ppo, state = PPO(config, env_spec(Probe(), params)), jax.tree.map(lambda x: x[0], chunk.state.learner)
    assert state.critic == ()
    outputs, _ = cast(Any, ppo.actor.apply)(
        jax.tree.map(lambda x: x[0], state.actor), (), OBSERVATIONS[None, :2], np.zeros((1, 2), bool)
    )
    chances = np.asarray(jax.nn.softmax(outputs[0, :, :2]))
    assert chances[0, 0] > 0.95 and chances[1, 1] > 0.95


@pytest.mark.parametrize("config", [MAPPO, LOQA, GroupRelativeAdvantageAlignment])
def test_a_critic_of_another_kind_shares_no_trunk(config):
    with pytest.raises(InputError, match=f"shared_trunk must be false: the critic of {config.__name__}"):
        config(shared_trunk=True).check()


# ---------------------------------------------------------------------- separate and shared parameters
@dataclasses.dataclass(frozen=True)
class Blank(Probe):
    """Two agents that see the same and are paid the same: whatever differs between them is their own."""

    num_agents: int = 2

    def observe(self, state, params: PyTree) -> jax.Array:
        return jnp.ones((2, 2))


@pytest.fixture(scope="module", params=[False, True], ids=["separate", "shared"])
def twins(request) -> tuple[PPOState, Any, Any, Any]:
    """Fresh parameters of two agents, and what they sample, with which log-probability, and do when greedy.

    That in 64 environments that all look alike.
    """
    config = IPPO(hidden_sizes=(8,), num_envs=64, minibatches=1, share_parameters=request.param)
    ppo = ppo_for(Blank(), config)

    def play(key: jax.Array) -> tuple[PPOState, jax.Array, jax.Array, jax.Array]:
        state, observation = ppo.init(key), jnp.ones((64, 2, 2))
        actions, _, log_prob = ppo.act(state, (), observation, key)
        return state, actions, log_prob, ppo.export(state).act((), observation, key, greedy=True)[0]

    return jax.jit(play)(jax.random.key(0))


def test_separate_agents_start_with_different_weights_and_shared_ones_are_one(twins):
    state, _, log_prob, _ = twins
    for tree in (state.actor, state.critic):
        kernel = tree["params"]["Dense_0"]["kernel"]
        assert kernel.shape in ((2, 2, 8), (1, 2, 8))
        assert len(kernel) == 1 or not np.allclose(kernel[0], kernel[1])
    np.testing.assert_allclose(log_prob, np.log(0.5), atol=0.1)
    first_layers = [tree["params"]["Dense_0"]["kernel"] for tree in (state.actor, state.critic)]
    assert not np.allclose(*first_layers), "nor do policy and values share their first weights"


def test_agents_explore_differently_in_the_same_observation(twins):
    _, actions, _, _ = twins
    disagreement = np.mean(np.asarray(actions[:, 0] != actions[:, 1]))
    assert 0.25 < disagreement < 0.75  # two independent fair coins differ in half of all tosses


def test_greedy_agents_do_not_explore(twins):
    _, actions, log_prob, greedy = twins
    np.testing.assert_array_equal(greedy, np.tile(greedy[0], (64, 1)))
    likelier = np.asarray(log_prob) > np.log(0.5)
    np.testing.assert_array_equal(np.asarray(actions == greedy)[likelier], True)


def test_streams_of_shared_agents_come_back_to_the_agents_they_belong_to():
    x = jnp.arange(3 * 4 * 2 * 5.0).reshape(3, 4, 2, 5)
    for shared, shape in ((False, (2, 3, 4, 5)), (True, (1, 3, 8, 5))):
        ppo = ppo_for(Blank(), IPPO(num_envs=4, minibatches=1, share_parameters=shared))
        assert ppo.to_streams(x).shape == shape
        np.testing.assert_array_equal(ppo.to_agents(ppo.to_streams(x)), x)


def test_minibatches_must_divide_the_streams():
    Fit(Blank(), IPPO(num_envs=6, minibatches=4, share_parameters=True), [0], 1)  # 12 streams
    with pytest.raises(InputError, match="divide the 6 streams, got 4"):
        Fit(Blank(), IPPO(num_envs=6, minibatches=4), [0], 1)


# ---------------------------------------------------------------------- one update, looked at closely
def no_simulation(act: Any, key: jax.Array) -> Trajectory:
    raise AssertionError("PPO needs no simulation")


@dataclasses.dataclass(frozen=True)
class Pair(Tagged):
    """The tagged game for two, with observations that a network can digest."""

    num_agents: int = 2

    def observation_space(self, params: PyTree = None) -> Space:
        return Box(-1, 1, (5,))

    def observe(self, state, params: PyTree) -> jax.Array:
        return super().observe(state, params) / jnp.array([2**20, 1, 4, 4, 2**20])


PAIR = Pair()


class Updated(struct.PyTreeNode):
    """A state, what it collected, and the compiled update."""

    state: PPOState
    trajectory: Trajectory
    config: IPPO
    learner: Learner = struct.field(pytree_node=False)
    update: Any = struct.field(pytree_node=False)


@pytest.fixture(scope="module")
def updated() -> Updated:
    """One epoch of two minibatches, two agents in four environments with eight steps each.

    The critics are zero, so that advantages are sums of rewards and scale with them.
    """
    config = IPPO(
        num_envs=4, rollout_length=8, hidden_sizes=(8,), epochs=1, minibatches=2, clip_value=False, anneal=False
    )
    spec = env_spec(PAIR, PAIR.default_params)
    learner = config.build(spec)

    def collect(key: jax.Array) -> tuple[PPOState, Trajectory]:
        state = learner.init(key)
        state = state.replace(critic=jax.tree.map(jnp.zeros_like, state.critic))
        return state, rollout.simulate(PAIR, PAIR.default_params, learner, act_of(learner, state), key)

    state, trajectory = jax.jit(collect)(jax.random.key(1))
    trajectory = trajectory.replace(reward=jnp.float32(trajectory.action - 2))  # both agents on one scale

    def update(config: IPPO, state: PPOState, trajectory: Trajectory) -> tuple[PPOState, dict]:
        return config.build(spec).update(state, trajectory, jax.random.key(2), no_simulation)

    return Updated(state, trajectory, config, learner, jax.jit(update))


def test_every_minibatch_changes_the_parameters(updated):
    # A stream is in one of the two minibatches. If only the last one counted, half of the streams would not matter.
    base, _ = updated.update(updated.config, updated.state, updated.trajectory)
    for stream in range(4):
        record = updated.trajectory.record.at[:, stream].add(0.1)
        changed, _ = updated.update(updated.config, updated.state, updated.trajectory.replace(record=record))
        for agent in range(2):
            kernels = [s.actor["params"]["Dense_0"]["kernel"][agent] for s in (base, changed)]
            assert not np.array_equal(*kernels), f"stream {stream} of agent {agent} made no difference"
    # Adam moves a weight by about the learning rate per step, so two steps that agree move it twice as far.
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), base.actor, updated.state.actor)
    assert 1.5 * updated.config.lr < max(jax.tree.leaves(moved)) < 2.01 * updated.config.lr


def scaled(trajectory: Trajectory, *scale: float) -> Trajectory:
    return trajectory.replace(reward=trajectory.reward * np.array(scale, np.float32))


def test_the_gradient_norm_is_clipped_for_each_parameter_set_by_itself(updated):
    # After two gradients g1 and g2 of norm c, Adam's first moment 0.09 g1 + 0.1 g2 has a norm of 0.01 c to 0.19 c.
    config = updated.config.replace(max_gradient_norm=0.5)
    plain, loud = (
        updated.update(config, updated.state, scaled(updated.trajectory, 1, scale))[0] for scale in (1.0, 1000.0)
    )
    moment = optax.tree.get(loud.optimiser, "mu")
    norm = jax.vmap(optax.tree.norm)(moment)[1]
    assert 0.01 * 0.5 <= norm <= 0.19 * 0.5 + 1e-6
    for tree in ("actor", "critic"):
        first = [jax.tree.map(lambda x: x[0], getattr(s, tree)) for s in (plain, loud)]
        assert_trees_equal(*first)
    config = config.replace(max_gradient_norm=1e9)
    unclipped, _ = updated.update(config, updated.state, scaled(updated.trajectory, 1, 1000.0))
    assert jax.vmap(optax.tree.norm)(optax.tree.get(unclipped.optimiser, "mu"))[1] > 5


def test_advantages_are_normalised_for_each_agent_by_itself(updated):
    # Normalised, an agent's policy gradient does not change with the scale of its own reward or of another's.
    config = updated.config.replace(max_gradient_norm=1e9)
    plain, loud = (
        updated.update(config, updated.state, scaled(updated.trajectory, 1, scale))[0] for scale in (1.0, 1000.0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain.actor, loud.actor)
    moments = [optax.tree.get(s.optimiser, "mu")[1] for s in (plain, loud)]
    critics = [optax.tree.norm(jax.tree.map(lambda x: x[1], moment)) for moment in moments]
    assert critics[1] > 900 * critics[0], "the values are in the units of the reward"


def test_the_lr_falls_linearly_to_zero_over_the_run():
    spec = dataclasses.replace(env_spec(Probe(), Probe().default_params), num_updates=5)
    config = IPPO(lr=0.1, epochs=2, minibatches=4, max_gradient_norm=1e9)
    optimiser, params = PPO(config, spec).optimiser, jnp.zeros(1)

    def descend(state: PyTree, _: None):
        updates, state = optimiser.update(jnp.ones(1), state, params)
        return state, jnp.asarray(updates)

    steps = jax.lax.scan(descend, optimiser.init(params), None, length=40)[1]
    np.testing.assert_allclose(steps[:, 0], -0.1 * (1 - np.arange(40) / 40), rtol=1e-3)


# ---------------------------------------------------------------------- memory
class Rollout(NamedTuple):
    """One of several rollouts in a row, and what the learner made of it."""

    state: PPOState  # before the update
    trajectory: Trajectory
    metrics: Any
    v_tm1: jax.Array  # [T, E, N]
    v_t: jax.Array  # [T, E, N]


class Recurrent(NamedTuple):
    """A recurrent learner with loud policies that does not learn."""

    ppo: PPO
    actor: Any  # compiled: (params, memory, inputs, reset) -> outputs, memories
    rollouts: list[Rollout]


@pytest.fixture(scope="module", params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["separate", "shared"])
def recurrent(request) -> Recurrent:
    """Three rollouts in a row, whose episodes end in the middle of them."""
    config = IPPO(
        lr=0.0,
        recurrent=True,
        share_parameters=request.param,
        num_envs=4,
        rollout_length=7,
        hidden_sizes=(6,),
        epochs=1,
        minibatches=1,
    )
    ppo = ppo_for(PAIR, config)
    learner = ppo.learner()

    def loud(state: PPOState) -> PPOState:
        actor = jax.tree.map(lambda x: 3 * x, state.actor)
        actor["params"]["Dense_1"] = jax.tree.map(lambda x: 100 * x, actor["params"]["Dense_1"])
        return state.replace(actor=actor)

    def rollout_and_update(carry, key: jax.Array):
        state, place = carry
        act = act_of(learner, state)
        place, trajectory, _ = rollout.collect(PAIR, PAIR.default_params, learner, act, place, key)
        v_tm1, v_t, _ = ppo.values(state, trajectory)
        new, metrics = learner.update(state, trajectory, key, no_simulation)
        return (new, place), Rollout(state, trajectory, metrics, v_tm1, v_t)

    def play(key: jax.Array) -> Rollout:
        carry = loud(learner.init(key)), rollout.start(PAIR, PAIR.default_params, learner, key)
        return jax.lax.scan(rollout_and_update, carry, jax.random.split(key, 3))[1]

    stack = jax.tree.map(np.asarray, jax.jit(play)(jax.random.key(1)))
    return Recurrent(ppo, jax.jit(ppo.actor.apply), [jax.tree.map(lambda x, i=i: x[i], stack) for i in range(3)])


def recomputed(recurrent: Recurrent, state: PPOState, trajectory: Trajectory, reset: Any) -> np.ndarray:
    """Log-probabilities of the stored actions [T, E, N] by one pass over the whole rollout, agent by agent."""
    result, mask = np.zeros(trajectory.action.shape), trajectory.action_mask
    assert mask is not None
    for agent in range(2):
        params = jax.tree.map(lambda x, i=agent % recurrent.ppo.num_sets: x[i], state.actor)
        memory, inputs = trajectory.memory[:, agent], trajectory.observation[:, :, agent]
        logits = np.where(mask[:, :, agent], recurrent.actor(params, memory, inputs, reset)[0], -np.inf)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        result[..., agent] = np.take_along_axis(log_probs, np.asarray(trajectory.action)[..., agent, None], -1)[..., 0]
    return result


def test_probabilities_recomputed_over_a_rollout_are_those_it_was_collected_with(recurrent):
    for state, trajectory, metrics, _, _ in recurrent.rollouts:
        assert trajectory.done[:-1].any(), "episodes must end inside the rollout"
        assert trajectory.record.std() > 0.3, "the policy must be far from uniform"
        again = recomputed(recurrent, state, trajectory, trajectory.reset)
        np.testing.assert_allclose(again, trajectory.record, atol=2e-5)
        assert abs(metrics["kl"]) < 1e-6


def test_a_forgotten_reset_or_a_forgotten_memory_would_show(recurrent):
    state, trajectory, *_ = recurrent.rollouts[1]
    unreset = recomputed(recurrent, state, trajectory, np.zeros_like(trajectory.reset))
    assert np.abs(unreset - trajectory.record).max() > 0.01
    blank = trajectory.replace(memory=np.zeros_like(trajectory.memory))
    assert np.abs(recomputed(recurrent, state, blank, trajectory.reset) - trajectory.record).max() > 0.01


def test_values_of_successors_are_those_of_the_next_rows_within_an_episode(recurrent):
    # The critic's memory goes with it: the successor is valued from the memory after its row.
    for _, trajectory, _, v_tm1, v_t in recurrent.rollouts:
        follows = ~trajectory.done[:-1]
        np.testing.assert_allclose(v_t[:-1][follows], v_tm1[1:][follows], atol=1e-5)


def test_the_critic_remembers_across_rollouts(recurrent):
    before, after = recurrent.rollouts[:2]
    goes_on = ~before.trajectory.done[-1]
    assert goes_on.any()
    np.testing.assert_allclose(after.v_tm1[0][goes_on], before.v_t[-1][goes_on], atol=1e-5)


# ---------------------------------------------------------------------- other action spaces
def allowed(mask: jax.Array, actions: jax.Array) -> np.ndarray:
    return np.take_along_axis(np.asarray(mask), np.asarray(actions)[..., None], -1)


def test_forbidden_actions_are_never_taken(updated):
    # Action 3 would be nearly certain if it were allowed.
    state = jax.tree.map(jnp.copy, updated.state)
    state.actor["params"]["Dense_1"]["bias"] = state.actor["params"]["Dense_1"]["bias"].at[:, 3].set(20.0)
    forbidden = (np.arange(64)[:, None] + np.arange(2)) % 5
    mask = np.arange(5) != forbidden[..., None]

    def play(state: PPOState, key: jax.Array) -> list[jax.Array]:
        policies = [updated.learner.policy(state, greedy) for greedy in (False, True)]
        return [policy((), jnp.zeros((64, 2, 5)), key, mask)[0] for policy in policies]

    for actions in jax.jit(play)(state, jax.random.key(1)):
        assert allowed(mask, actions).all()
        np.testing.assert_array_equal(actions == 3, mask[..., 3], "and 3 wherever it is allowed")


def test_masks_reach_collection_and_loss_without_harm(updated):
    trajectory = updated.trajectory
    assert not trajectory.action_mask.all(-1).any() and allowed(trajectory.action_mask, trajectory.action).all()
    state, metrics = updated.update(updated.config, updated.state, trajectory)
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), (state.actor, metrics)))
    assert abs(metrics["kl"]) < 1e-2
    assert 1.3 < metrics["entropy"] <= np.log(4) + 1e-5, "one of five actions is always forbidden"


@dataclasses.dataclass(frozen=True)
class Target(Probe):
    """One step; the action is a number, and the reward falls with the square of its distance from 0.6."""

    def action_space(self, params: PyTree = None) -> Space:
        return Box(-1, 1, ())

    def transition(self, key: jax.Array, state, actions: jax.Array, params: PyTree):
        return state.replace(time=state.time + 1), -jnp.square(actions - 0.6), jnp.asarray(True), {}


def test_a_continuous_bandit_is_solved():
    config = IPPO(lr=0.02, hidden_sizes=(8,), num_envs=64, rollout_length=1, minibatches=1)
    fit = Fit(Target(), config, [0, 1], steps=64 * 150, chunks=1)
    *_, chunk = fit
    act = fit.learner().policy(training.first_seed(chunk.state.learner), True)
    actions, _, _ = act((), jnp.asarray(OBSERVATIONS[:2, None]), jax.random.key(0))
    np.testing.assert_allclose(actions, 0.6, atol=0.1)
    assert actions.shape == (2, 1)


@dataclasses.dataclass(frozen=True)
class Lock(Probe):
    """One step; it pays 1 to turn each of two dials right, and the second does not turn where the sign is negative."""

    masks_actions = True

    def action_space(self, params: PyTree = None) -> Space:
        return MultiDiscrete((2, 3))

    def action_mask(self, state, params: PyTree = None) -> jax.Array:
        turns = jnp.arange(3) == 0
        return jnp.concatenate([jnp.ones(2, bool), turns | (state.sign == 1)])[None]

    def transition(self, key: jax.Array, state, actions: jax.Array, params: PyTree):
        right = (actions == jnp.stack([state.sign, 2 * state.sign])).mean(axis=1, dtype=jnp.float32)
        return state.replace(time=state.time + 1), right, jnp.asarray(True), {}


def test_a_bandit_of_several_masked_choices_is_solved():
    config = IPPO(lr=0.02, hidden_sizes=(8,), num_envs=64, rollout_length=1, minibatches=1)
    *_, chunk = Fit(Lock(), config, [0, 1], steps=64 * 60, chunks=6)
    assert np.all(chunk.logs["payoff"] > 0.95), chunk.logs["payoff"]


def test_an_action_space_without_a_distribution_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Odd(Probe):
        def action_space(self, params: PyTree = None) -> Space:
            return Space()

    with pytest.raises(TypeError, match="no policy distribution"):
        Fit(Odd(), IPPO(), [0], 1)


# ---------------------------------------------------------------------- what games teach
NET = IPPO(hidden_sizes=(16,), num_envs=16, rollout_length=25, minibatches=1, lr=0.01)


def final_logs(name: str, config: IPPO, seeds: int, steps: int, chunks: int = 5) -> dict[str, Any]:
    """The logs of the last chunk, [S, ...]."""
    *_, chunk = Fit(make(name), config, range(seeds), steps, chunks=chunks)
    return chunk.logs


@pytest.mark.parametrize("view", ["individual", "team"])
def test_the_prisoners_dilemma_is_lost_by_individuals_and_won_by_a_team(view):
    payoff = final_logs("prisoners_dilemma", NET.replace(reward_view=view), seeds=5, steps=32_000)["payoff"].mean(-1)
    assert np.all(payoff <= -1.95) if view == "individual" else np.all(payoff >= -1.05), payoff


@pytest.mark.slow
@pytest.mark.parametrize("view", ["individual", "team"])
def test_the_defaults_play_the_prisoners_dilemma_alike_in_ten_seeds(view):
    config = IPPO(lr=5e-3, reward_view=view)
    payoff = final_logs("prisoners_dilemma", config, seeds=10, steps=200_000)["payoff"].mean(-1)
    assert np.all(payoff <= -1.95) if view == "individual" else np.all(payoff >= -1.05), payoff


@pytest.mark.slow
@pytest.mark.parametrize("view", ["individual", "team"])
def test_public_goods_are_not_provided_by_individuals_and_are_by_a_team(view):
    # The team's reward of one's own gift is 1 among four others' noise: short credit and little entropy help.
    config = NET.replace(reward_view=view, num_envs=32, gae_lambda=0.8, entropy_coefficient=0.001)
    given = final_logs("public_goods", config, seeds=10, steps=64_000)["metrics"]["cooperation"]
    assert np.all(given < 0.05) if view == "individual" else np.all(given.mean(-1) > 0.95), given


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "view", "least", "most"),
    [
        ("stag_hunt", "individual", 1.95, 2.05),  # hare is risk dominant: 2
        ("stag_hunt", "team", 3.9, 4.0),
        ("chicken", "individual", 3.4, 3.5),  # one yields to the other: 2 and 5
    ],
)
def test_other_dilemmas_end_in_the_outcome_that_theory_selects(name, view, least, most):
    payoff = final_logs(name, NET.replace(reward_view=view), seeds=10, steps=40_000)["payoff"].mean(-1)
    assert np.all((payoff >= least) & (payoff <= most + 1e-5)), payoff


@pytest.mark.slow
def test_matching_pennies_is_played_at_its_value_and_its_mixture():
    config = NET.replace(num_envs=64, lr=2e-3, entropy_coefficient=0.1)
    chunks = list(Fit(make("matching_pennies"), config, range(10), 160_000, chunks=10))
    payoff = np.mean([chunk.logs["payoff"] for chunk in chunks[5:]], axis=0)
    heads = np.mean([chunk.logs["metrics"]["heads"] for chunk in chunks[5:]], axis=(0, 1))
    assert np.all(np.abs(payoff) < 0.05), payoff
    np.testing.assert_allclose(heads, 0.5, atol=0.05)


@pytest.mark.slow
def test_in_ci_cartpole_is_balanced_within_half_a_million_steps():
    config = IPPO(gamma=0.99, num_envs=8, rollout_length=128, lr=1e-3)
    env = make("gymnax:CartPole-v1")
    fit = Fit(env, config, range(5), 500_000, chunks=1)
    *_, chunk = fit
    evaluate = evaluator(env, fit.learner(), num_episodes=64)
    returns = evaluate(fit.params, chunk.state.learner, jax.random.split(jax.random.key(1), 5))["self_play"]["return"]
    assert np.sum(np.asarray(returns) >= 475) >= 4, returns
