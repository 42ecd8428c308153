"""Tiny games with known answers, games whose rows say where they came from, and two cheap learners."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.algorithm import Act, Configuration, EnvSpec, Learner, Simulate, Trajectory, static
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.spaces import Box, Discrete, Space
from marl_suite.learning.distributions import num_outputs
from marl_suite.learning.networks import features, num_features
from marl_suite.learning.returns import discounted_sums, normalise


# ---------------------------------------------------------------------- one agent, values known by hand
class ProbeParams(struct.PyTreeNode):
    """Which probe is played: all of them are one program."""

    reward: Any  # float32 [2, 2, 2]: at the first step or later, by sign (0 is -1, 1 is +1) and action
    horizon: Any  # int []: steps per episode
    terminates: Any  # bool []: the game ends at the horizon; otherwise the clock cuts it
    shows_time: Any  # bool []: whether the observation tells the first step from later ones


class ProbeState(struct.PyTreeNode):
    """A sign, drawn once per episode, and the clock."""

    sign: jax.Array  # int32 [], 0 or 1
    time: jax.Array  # int32 []


def probe_params(
    reward: Any, horizon: int = 1, terminates: bool = True, shows_time: bool = True, later: Any = 0.0
) -> ProbeParams:
    """A probe that pays `reward` [sign, action] at the first step and `later` after it."""
    both = [np.broadcast_to(np.asarray(x, np.float32), (2, 2)) for x in (reward, later)]
    return ProbeParams(np.stack(both), horizon, terminates, shows_time)


SIGNS = np.array([[-1.0], [1.0]])
PROBES = {
    "constant": probe_params(1.0),
    "observation": probe_params(SIGNS),
    "delayed": probe_params(0.0, horizon=2, later=1.0),
    "action": probe_params([[-1.0, 1.0]]),
    "match": probe_params(np.eye(2)),
    "truncated": probe_params(1.0, horizon=10, terminates=False, shows_time=False, later=1.0),
    "terminated": probe_params(1.0, horizon=10, terminates=True, shows_time=False, later=1.0),
}
"""Five problems that each need one more part of a learner, and a time limit told rightly and wrongly."""


def stacked(params: list[Any]) -> PyTree:
    """One pytree with a leading axis out of several: the lanes of a vmapped run."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *params)


@dataclasses.dataclass(frozen=True)
class Probe(Environment):
    """One agent sees a sign (and perhaps whether this is the first step) and picks one of two actions."""

    name: str = "probe"
    num_agents: int = 1

    @property
    def default_params(self) -> ProbeParams:
        return PROBES["constant"]

    def observation_space(self, params: PyTree = None) -> Space:
        return Box(-1, 1, (2,))

    def action_space(self, params: PyTree = None) -> Space:
        return Discrete(2)

    def initial_state(self, key: jax.Array, params: PyTree) -> ProbeState:
        return ProbeState(jax.random.randint(key, (), 0, 2), jnp.zeros((), jnp.int32))

    def transition(self, key: jax.Array, state: ProbeState, actions: jax.Array, params: PyTree):
        del key
        reward = jnp.asarray(params.reward)[jnp.minimum(state.time, 1), state.sign, actions]
        state = state.replace(time=state.time + 1)
        return state, reward, params.terminates & (state.time >= params.horizon), {}

    def is_truncated(self, state: ProbeState, params: PyTree) -> jax.Array:
        return ~jnp.asarray(params.terminates) & (state.time >= params.horizon)

    def observe(self, state: ProbeState, params: PyTree) -> jax.Array:
        later = params.shows_time & (state.time > 0)
        return jnp.stack([2.0 * state.sign - 1.0, later.astype(jnp.float32)])[None]


# ---------------------------------------------------------------------- rows that say where they came from
class TaggedParams(struct.PyTreeNode):
    """What agents are paid."""

    scale: Any  # float32 [N], multiplies each agent's reward


class TaggedState(struct.PyTreeNode):
    """Who, when, and what was done last."""

    tag: jax.Array  # int32 [], drawn at the reset: names the episode, and with it the environment
    noise: jax.Array  # int32 [], drawn at every step
    time: jax.Array  # int32 []
    last_actions: jax.Array  # int32 [N], -1 at the start


@dataclasses.dataclass(frozen=True)
class Tagged(Environment):
    """Episodes of 2, 3 or 4 steps that terminate when their tag is odd and are truncated when it is even.

    Observation int32 [5]: tag, agent, time, own last action, noise. Agent i is paid 100 i + 10 t + a_i at step t.
    """

    name: str = "tagged"
    num_agents: int = 3
    masks_actions: ClassVar[bool] = True

    @property
    def default_params(self) -> TaggedParams:
        return TaggedParams(scale=np.ones(self.num_agents, np.float32))

    def observation_space(self, params: PyTree = None) -> Space:
        return Box(-1, 2**20, (5,), np.int32)

    def action_space(self, params: PyTree = None) -> Space:
        return Discrete(5)

    def action_mask(self, state: TaggedState, params: PyTree = None) -> jax.Array:
        """Agent i may not play action (tag + i) mod 5."""
        forbidden = (state.tag + jnp.arange(self.num_agents)) % 5
        return jnp.arange(5) != forbidden[:, None]

    def initial_state(self, key: jax.Array, params: PyTree) -> TaggedState:
        tag_key, noise_key = jax.random.split(key)
        return TaggedState(
            tag=jax.random.randint(tag_key, (), 0, 2**20),
            noise=jax.random.randint(noise_key, (), 0, 2**20),
            time=jnp.zeros((), jnp.int32),
            last_actions=jnp.full(self.num_agents, -1, jnp.int32),
        )

    def transition(self, key: jax.Array, state: TaggedState, actions: jax.Array, params: PyTree):
        reward = (100.0 * jnp.arange(self.num_agents) + 10.0 * state.time + actions) * params.scale
        noise = jax.random.randint(key, (), 0, 2**20)
        state = state.replace(noise=noise, time=state.time + 1, last_actions=actions)
        metrics = {"acted": actions.astype(jnp.float32), "tag": state.tag.astype(jnp.float32)}
        return state, reward, self._over(state) & (state.tag % 2 == 1), metrics

    def is_truncated(self, state: TaggedState, params: PyTree) -> jax.Array:
        return self._over(state) & (state.tag % 2 == 0)

    def _over(self, state: TaggedState) -> jax.Array:
        return state.time >= 2 + state.tag % 3

    def observe(self, state: TaggedState, params: PyTree) -> jax.Array:
        shared = [jnp.full(self.num_agents, x) for x in (state.tag, state.time, state.noise)]
        return jnp.stack([shared[0], jnp.arange(self.num_agents), shared[1], state.last_actions, shared[2]], axis=1)


# ---------------------------------------------------------------------- cheap learners
class Counter(Configuration):
    """A learner that counts: its memory is the number of steps since it was cleared, and it stores that."""

    num_envs: int = static(4)
    rollout_length: int = static(12)
    group_size: int = static(1)
    needs_global_state: bool = static(False)

    def build(self, spec: EnvSpec) -> Learner:
        num_agents, num_actions = spec.num_agents, num_outputs(spec.action_space)

        def act(state: PyTree, memory: jax.Array, observation: jax.Array, key: jax.Array, mask=None):
            if self.group_size > 1:  # the same in every environment of a group: no key, nothing but the rows
                actions = observation[..., [0, 1, 2]].sum(-1) % num_actions
            else:
                actions = jax.random.randint(key, memory.shape, 0, num_actions)
            return actions, memory + 1, {"memory": memory, "agent": observation[..., 1], "mask": mask}

        def update(state: jax.Array, trajectory: Trajectory, key: jax.Array, simulate: Simulate):
            """What was shown: the agents of the observations, and of the whole game's."""
            whole = trajectory if trajectory.joint is None else trajectory.joint
            return state + 1, {
                "agents": trajectory.observation[..., 1].mean((0, 1)),
                "whole": whole.observation[..., 1].mean((0, 1)),
                "reward": trajectory.reward.mean((0, 1)),
            }

        return Learner(
            init=lambda key: jnp.zeros((), jnp.int32),
            act=act,
            policy=lambda state, greedy: lambda *args: act(state, *args),
            update=update,
            memory=lambda num_envs: jnp.zeros((num_envs, num_agents), jnp.int32),
            num_envs=self.num_envs,
            rollout_length=self.rollout_length,
            group_size=self.group_size,
            needs_global_state=self.needs_global_state,
        )


class Reinforce(Configuration):
    """Linear softmax policies by policy gradient (Williams 1992): the cheapest thing that learns."""

    lr: float = 0.1
    gamma: float = 0.9
    num_envs: int = static(16)
    rollout_length: int = static(10)

    def build(self, spec: EnvSpec) -> Learner:
        shape = (spec.num_agents, num_features(spec.observation_space), num_outputs(spec.action_space))

        def logits(weights: jax.Array, observation: PyTree) -> jax.Array:
            return jnp.einsum("...nf,nfa->...na", features(spec.observation_space, observation), weights)

        def policy(weights: jax.Array, greedy: bool) -> Act:
            def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None):
                scores = logits(weights, observation)
                return scores.argmax(-1) if greedy else jax.random.categorical(key, scores), memory, ()

            return act

        def update(weights: jax.Array, trajectory: Trajectory, key: jax.Array, simulate: Simulate):
            discount = self.gamma * (1.0 - trajectory.done[..., None])
            gain = normalise(discounted_sums(trajectory.reward, discount * jnp.ones_like(trajectory.reward)), (0, 1))

            def loss(weights: jax.Array) -> jax.Array:
                log_probs = jax.nn.log_softmax(logits(weights, trajectory.observation))
                chosen = jnp.take_along_axis(log_probs, trajectory.action[..., None], -1)[..., 0]
                return -(chosen * gain).mean((0, 1)).sum()

            value, gradient = jax.value_and_grad(loss)(weights)
            return weights - self.lr * gradient, {"loss": value, "reward": trajectory.reward.mean((0, 1))}

        return Learner(
            init=lambda key: 0.01 * jax.random.normal(key, shape),
            act=lambda weights, *args: policy(weights, False)(*args),
            policy=policy,
            update=update,
            num_envs=self.num_envs,
            rollout_length=self.rollout_length,
        )


def host_copy(tree: PyTree) -> PyTree:
    """`tree` in buffers of its own: a state that is handed to the loop is donated and gone afterwards."""
    return jax.tree.map(jnp.copy, tree)


def assert_trees_equal(a: PyTree, b: PyTree) -> None:
    """Bit for bit, keys included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


# ---------------------------------------------------------------------- stepping a game, compiled once
@functools.cache
def compiled(env: Environment) -> tuple[Any, Any]:
    """`step_env`, compiled, and what every scripted player does in every seat."""

    def act(observation: PyTree) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(0), env.num_agents)
        return {name: jax.vmap(player)(observation, keys) for name, player in env.players.items()}

    return jax.jit(env.step_env), jax.jit(act)
