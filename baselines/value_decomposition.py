"""Q-learning with replay: independent learners (IQL), and teams whose one value is made of the agents' (VDN, QMIX).

Every agent values its own actions from what it sees. What is regressed is these values of the actions taken, mixed:

    IQL   Q_i                 each agent's own value, of its own reward
    VDN   sum_i Q_i           one value, of the team's reward (Sunehag et al., 2018)
    QMIX  f(Q_1, .., Q_N; s)  the same, f growing with every Q_i and depending on the global state (Rashid et al., 2018)

so that what is best for the team is what each agent likes best. With the mix M of the online network, M^- and Q^- of
its slow copy, and the true successor of every row,

    L = E sum_k (M_k(Q(o_t, a_t), s_t) - y_k,t)^2,    y_t = r_t + gamma (1 - terminated_t) v_t,
    v_t = M^-(Q^-_i(o_{t+1}, argmax_a Q_i(o_{t+1}, a)), s_{t+1}),

k over the agents in IQL, over the team else; the argmax is over allowed actions and by the online network (double
Q-learning, van Hasselt et al., 2016). With `td_lambda` the targets are lambda returns of the same v_t (Peng and
Williams, 1996): off-policy without correction, as is usual with these learners. Time limits do not end values.

Replayed are whole rollouts of one environment, with the memory that the policy had before their first row (stored
state: Kapturowski et al., 2019, R2D2). Beginnings of episodes and ends of values are separate facts of a row.

Deviations from the released code of QMIX: Adam in place of RMSprop; gradients are clipped for each parameter set, and
for the mixing network, by themselves; segments in place of whole episodes; agents do not see their own last action
unless the game shows it.

In a composition the learner has the agents of its own seats: the reward is then still the whole team's, everybody's
payoffs included, of which only its own seats' values are to make up the sum; the global state is the whole game's.
"""

import dataclasses
from typing import Any, ClassVar

import chex
import flashbax
import jax
import jax.numpy as jnp
import optax
from flax import struct

from marl_suite.algorithm import ActResult, Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.envs.environment import PyTree, at_least, at_most, one_of
from marl_suite.envs.errors import InputError
from marl_suite.envs.reward_views import REWARD_VIEWS, read_view
from marl_suite.envs.spaces import Discrete
from marl_suite.learning import returns
from marl_suite.learning.distributions import num_outputs
from marl_suite.learning.mixers import MonotonicMixer
from marl_suite.learning.networks import ACTIVATIONS, ENCODERS, SequenceNetwork, blank
from marl_suite.learning.population import Population
from marl_suite.policies import NetworkPolicy


class IQL(Configuration):
    """Independent Q-learning with replay: every agent learns what its own actions are worth."""

    group: ClassVar[str] = "q"

    lr: float = 5e-4  # learning rate, of Adam
    gamma: float = 0.99  # discount
    td_lambda: float = 0.0  # 0 for one-step targets
    epsilon: float = 1.0  # share of random actions, at first
    final_epsilon: float = 0.05  # and in the end
    epsilon_steps: float = 5e4  # environment steps, warm-up included, over which it falls linearly
    target_every: int = 200  # gradient steps between two updates of the slow copy
    target_rate: float = 1.0  # how far it then moves towards the network; 1 copies it
    max_gradient_norm: float = 10.0  # global norm, per parameter set and of the mixing network
    num_envs: int = static(8)
    rollout_length: int = static(10)  # steps per update, and of a segment
    buffer_size: int = static(5000)  # segments
    batch_size: int = static(32)  # segments
    gradient_steps: int = static(4)  # per update
    warm_up: int = static(10)  # rollouts before the first update
    hidden_sizes: tuple[int, ...] = static((64, 64))
    activation: str = static("relu")
    encoder: str = static("auto")  # what grids pass through first; auto: small where planes hold categories
    recurrent: bool = static(False)  # a GRU after the dense layers
    share_parameters: bool = static(True)
    agent_id: bool = static(True)  # shown to the networks, beside the observation
    double: bool = static(True)  # the online network says which action is best, not the slow copy

    def build(self, spec: EnvSpec) -> Learner:
        return IndependentValues(self, spec).learner()

    def check(self) -> None:
        one_of("q.activation", self.activation, ACTIVATIONS)
        one_of("q.encoder", self.encoder, ("auto", *ENCODERS))
        for field in ("num_envs", "rollout_length", "batch_size", "gradient_steps", "target_every", "epsilon_steps"):
            at_least(f"q.{field}", getattr(self, field), 1)
        for field in ("lr", "max_gradient_norm", "warm_up"):
            at_least(f"q.{field}", getattr(self, field), 0)
        for field in ("gamma", "td_lambda", "epsilon", "final_epsilon", "target_rate"):
            at_least(f"q.{field}", getattr(self, field), 0)
            at_most(f"q.{field}", getattr(self, field), 1)
        if self.buffer_size < (least := max(self.batch_size, self.num_envs)):
            raise InputError(f"q.buffer_size must hold a batch and a rollout, {least} segments, got {self.buffer_size}")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise InputError(f"q.hidden_sizes needs positive sizes, got {self.hidden_sizes}")


class VDN(IQL):
    """Value decomposition networks: the team's value is the sum of the agents'."""

    reward_view: str = static("team")

    def build(self, spec: EnvSpec) -> Learner:
        return SummedValues(self, spec).learner()

    def check(self) -> None:
        super().check()
        if not read_view(self.reward_view).common:
            valid = ", ".join(name for name, view in REWARD_VIEWS.items() if view.common)
            raise InputError(f"a team's one value needs a reward that all share, {valid}, got {self.reward_view!r}")


class QMIX(VDN):
    """QMIX: the team's value is a monotone function of the agents', another one in every global state."""

    embedding: int = static(32)  # hidden units of the mixing network
    hypernetwork_size: int = static(64)  # and of the networks that give its weights

    def build(self, spec: EnvSpec) -> Learner:
        return MixedValues(self, spec).learner()

    def check(self) -> None:
        super().check()
        for field in ("embedding", "hypernetwork_size"):
            at_least(f"q.{field}", getattr(self, field), 1)


class Parts(struct.PyTreeNode):
    """The agents' networks and the mixing network: their parameters, or anything that belongs to these."""

    agents: PyTree  # [P, ...]
    mixer: PyTree  # empty where there is nothing to learn in a mix


class QState(struct.PyTreeNode):
    """Networks, their slow copies, what was seen, and two clocks."""

    online: Parts
    target: Parts
    optimiser: Parts
    buffer: PyTree  # flashbax's state, of M segments; None when training is over
    steps: jax.Array  # int32 [], environment steps
    updates: jax.Array  # int32 [], gradient steps


def swapped(segments: Trajectory) -> Trajectory:
    """[T, B, ...] from [B, T, ...] or the other way round; the memory, which has no time, stays [B, ...]."""
    rows = segments.replace(memory=None)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows).replace(memory=segments.memory)


def at_actions(values: jax.Array, actions: jax.Array) -> jax.Array:
    """Of values [..., A] those of `actions` [...]."""
    return jnp.take_along_axis(values, actions[..., None], axis=-1)[..., 0]


def allowed(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`values` [..., A], with those of forbidden actions below all others."""
    return values if mask is None else jnp.where(mask, values, jnp.finfo(values.dtype).min)


@dataclasses.dataclass(frozen=True)
class IndependentValues(Population):
    """The algorithm for one game; its methods are the learner's pure functions. `config` may hold traced numbers."""

    config: Any  # IQL, or that of a subclass
    needs_global_state: ClassVar[bool] = False

    # ------------------------------------------------------------------ what a team does otherwise
    def rewards(self, batch: Trajectory) -> jax.Array:
        """float32 [T, B, K]: what each of the K values is of. Here K is N, in a team 1."""
        return batch.reward

    def init_mixer(self, key: jax.Array) -> PyTree:
        del key
        return ()

    def mix(self, mixer: PyTree, values: jax.Array, global_state: jax.Array | None) -> jax.Array:
        """[T, B, K] from the agents' values [T, B, N] and the global state [T, B, S]."""
        del mixer, global_state
        return values

    # ------------------------------------------------------------------ parts
    @property
    def num_actions(self) -> int:
        return num_outputs(self.spec.action_space)

    @property
    def agent(self) -> SequenceNetwork:
        return self.network(self.num_actions, head_gain=1.0)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.config.max_gradient_norm), optax.adam(self.config.lr, eps=1e-5)
        )

    @property
    def replay(self) -> Any:
        """A ring of segments: whole rollouts, each of one environment."""
        return flashbax.make_item_buffer(
            max_length=self.config.buffer_size,
            min_length=1,
            sample_batch_size=self.config.batch_size,
            add_batches=True,
        )

    def init(self, key: jax.Array) -> QState:
        agents_key, mixer_key = jax.random.split(key)
        agents = jax.vmap(self.agent.fresh)(jax.random.split(agents_key, self.num_sets))
        online = Parts(agents, self.init_mixer(mixer_key))
        optimiser = Parts(jax.vmap(self.optimiser.init)(online.agents), self.optimiser.init(online.mixer))
        clock = jnp.zeros((), jnp.int32)
        return QState(online, online, optimiser, self.empty_buffer(), steps=clock, updates=clock)

    # ------------------------------------------------------------------ acting
    def memory(self, num_envs: int) -> PyTree:
        return self.agent.initial_memory(num_envs, self.spec.num_agents)

    def explore(
        self,
        agents: PyTree,
        epsilon: jax.Array | float,
        memory: PyTree,
        observation: PyTree,
        key: jax.Array,
        mask: jax.Array | None = None,
    ) -> ActResult:
        """Each agent's best action or, with probability `epsilon`, any: uniformly and among the allowed."""
        values, memory = self.one_step(self.agent, agents, memory, observation)
        coin_key, draw_key = jax.random.split(key)
        drawn = jax.random.categorical(draw_key, allowed(jnp.zeros_like(values), mask))
        explores = jax.random.bernoulli(coin_key, epsilon, drawn.shape)
        return jnp.where(explores, drawn, allowed(values, mask).argmax(-1)), memory, ()

    def epsilon(self, state: QState) -> jax.Array:
        """The share of random actions: of a whole rollout, by the environment steps before it."""
        progress = jnp.minimum(state.steps / self.config.epsilon_steps, 1.0)
        return self.config.epsilon + progress * (self.config.final_epsilon - self.config.epsilon)

    def act(self, state: QState, memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
        return self.explore(state.online.agents, self.epsilon(state), memory, observation, key, mask)

    def export(self, state: QState) -> NetworkPolicy:
        # Always the best: exploration is part of learning, not of what was learned.
        return NetworkPolicy.of(self.spec, self.agent, state.online.agents, always_greedy=True, **self.sharing)

    # ------------------------------------------------------------------ remembering
    def empty_buffer(self) -> PyTree:
        spec, length = self.spec, self.config.rollout_length
        agents = (length, spec.num_agents)
        observation = jax.tree.map(lambda x: jnp.zeros((*agents, *x.shape), x.dtype), blank(spec.observation_space))
        global_state = jnp.zeros((length, spec.global_state_size)) if self.needs_global_state else None
        flags = jnp.zeros(length, bool)
        segment = Trajectory(
            observation=observation,
            action=jnp.zeros(agents, jnp.int32),
            action_mask=None,  # of the row: what was done was allowed
            reward=jnp.zeros(agents),
            terminated=flags,
            truncated=flags,
            reset=flags,
            next_observation=observation,
            next_action_mask=jnp.zeros((*agents, self.num_actions), bool) if spec.masks_actions else None,
            global_state=global_state,
            next_global_state=global_state,
            memory=self.agent.initial_memory(spec.num_agents),
            record=None,
        )
        return self.replay.init(segment)

    def segments(self, trajectory: Trajectory) -> Trajectory:
        """What is kept of a rollout, [E, T, ...], and the memory before it, [E, N, H]."""
        kept = trajectory.replace(action_mask=None, record=None, joint=None)
        if not self.needs_global_state:  # somebody else's in a composition may
            kept = kept.replace(global_state=None, next_global_state=None)
        return swapped(kept)

    def absorb(self, state: QState, trajectory: Trajectory) -> QState:
        config, spec = self.config, self.spec
        rows = (config.rollout_length, config.num_envs)
        chex.assert_shape([trajectory.reward, trajectory.action], (*rows, spec.num_agents))
        chex.assert_shape([trajectory.terminated, trajectory.truncated, trajectory.reset], rows)
        if self.needs_global_state:
            states = [trajectory.global_state, trajectory.next_global_state]
            chex.assert_shape(states, (*rows, spec.global_state_size))
        buffer = self.replay.add(state.buffer, self.segments(trajectory))
        return state.replace(buffer=buffer, steps=state.steps + config.rollout_length * config.num_envs)

    def sample(self, buffer: PyTree, key: jax.Array) -> Trajectory:
        """A batch of segments [T, B, ...]."""
        return swapped(self.replay.sample(buffer, key).experience)

    def trained(self, state: QState) -> QState:
        return state.replace(buffer=None)

    # ------------------------------------------------------------------ learning
    def values(self, agents: PyTree, batch: Trajectory) -> tuple[jax.Array, jax.Array]:
        """Every agent's values [T, B, N, A] at every row and at its true successor."""
        memory = jax.tree.map(lambda m: self.to_streams(m[None])[:, 0], batch.memory)
        rows, successors = self.inputs(batch.observation), self.inputs(batch.next_observation)
        reset = self.row_reset(batch.reset)
        return self.outputs(self.agent, agents, memory, rows, successors, reset)[:2]

    def targets(self, target: Parts, q_t: jax.Array, batch: Trajectory) -> jax.Array:
        """y [T, B, K] by the slow copy `target`; `q_t` [T, B, N, A] is the online network's, of the successors."""
        _, slow = self.values(target.agents, batch)
        best = allowed(q_t if self.config.double else slow, batch.next_action_mask).argmax(-1)
        v_t = self.mix(target.mixer, at_actions(slow, best), batch.next_global_state)
        discount_t = self.config.gamma * (1.0 - batch.terminated.astype(jnp.float32))
        discount_t, cut_t = (jnp.broadcast_to(x[..., None], v_t.shape) for x in (discount_t, batch.done))
        return returns.lambda_returns(self.rewards(batch), discount_t, v_t, cut_t, self.config.td_lambda)

    def loss(self, online: Parts, target: Parts, batch: Trajectory) -> tuple[jax.Array, Metrics]:
        """The equation at the top of this file."""
        q_tm1, q_t = self.values(online.agents, batch)
        value = self.mix(online.mixer, at_actions(q_tm1, batch.action), batch.global_state)
        y = jax.lax.stop_gradient(self.targets(target, q_t, batch))
        loss = jnp.square(value - y).mean((0, 1)).sum()
        return loss, {"loss": loss, "q": value.mean(), "target": y.mean()}

    def descend(self, state: QState, batch: Trajectory) -> tuple[QState, Metrics]:
        """One gradient step, and the slow copy's when it is due."""
        gradient, metrics = jax.grad(self.loss, has_aux=True)(state.online, state.target, batch)

        def step(gradient: PyTree, optimiser: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
            change, optimiser = self.optimiser.update(gradient, optimiser, params)
            return optax.apply_updates(params, change), optimiser

        agents = jax.vmap(step)(gradient.agents, state.optimiser.agents, state.online.agents)
        mixer = step(gradient.mixer, state.optimiser.mixer, state.online.mixer)
        online, optimiser = (Parts(*parts) for parts in zip(agents, mixer, strict=True))
        updates = state.updates + 1
        rate, due = self.config.target_rate, updates % self.config.target_every == 0
        target = jax.tree.map(
            lambda new, old: jnp.where(due, rate * new + (1.0 - rate) * old, old), online, state.target
        )
        state = state.replace(online=online, target=target, optimiser=optimiser, updates=updates)
        return state, metrics | {"gradient_norm": optax.tree.norm(gradient)}

    def update(
        self, state: QState, trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[QState, Metrics]:
        del simulate
        epsilon, state = self.epsilon(state), self.absorb(state, trajectory)

        def step(learned: QState, key: jax.Array) -> tuple[QState, Metrics]:
            return self.descend(learned, self.sample(state.buffer, key))

        # The buffer stays outside of what is carried along: it is only read here.
        keys = jax.random.split(key, self.config.gradient_steps)
        learned, metrics = jax.lax.scan(step, self.trained(state), keys)
        return learned.replace(buffer=state.buffer), jax.tree.map(jnp.mean, metrics) | {"epsilon": epsilon}

    def learner(self) -> Learner:
        """The record of these functions.

        Raises:
            InputError: when actions are continuous.
        """
        if not isinstance(self.spec.action_space, Discrete):
            raise InputError(f"Q-learning needs a value for each action; {self.spec.name} has continuous actions")
        buffer = jax.eval_shape(self.empty_buffer)
        return Learner.of(
            self,
            num_envs=self.config.num_envs,
            rollout_length=self.config.rollout_length,
            needs_global_state=self.needs_global_state,
            warm_up=self.config.warm_up,
            absorb=self.absorb,
            buffer_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(buffer)),
            trained=self.trained,
        )


@dataclasses.dataclass(frozen=True)
class SummedValues(IndependentValues):
    """One value for the team, the sum of the agents'."""

    def rewards(self, batch: Trajectory) -> jax.Array:
        return batch.reward[..., :1]  # the same for all

    def mix(self, mixer: PyTree, values: jax.Array, global_state: jax.Array | None) -> jax.Array:
        return values.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class MixedValues(SummedValues):
    """One value for the team, by a mixing network of the agents' values."""

    needs_global_state: ClassVar[bool] = True

    @property
    def mixer(self) -> MonotonicMixer:
        return MonotonicMixer(self.config.embedding, self.config.hypernetwork_size)

    def init_mixer(self, key: jax.Array) -> PyTree:
        return self.mixer.init(key, jnp.zeros(self.spec.num_agents), jnp.zeros(self.spec.global_state_size))

    def mix(self, mixer: PyTree, values: jax.Array, global_state: jax.Array | None) -> jax.Array:
        apply: Any = self.mixer.apply
        return apply(mixer, values, global_state)
