"""Independent PPO (IPPO): every agent learns by proximal policy optimisation, the others being part of its world.

Schulman et al. (2017) for the surrogate, de Witt et al. (2020) for its use by independent agents. With P parameter
sets (one per agent, or one for all when shared) and B streams of experience for each (E environments, times N agents
when shared), an update is P single-agent updates side by side: `[T, E, N, ...]` becomes `[P, T, B, ...]` and
everything after that is a `vmap` over P, optimiser and gradient clipping included.

For each parameter set, with ratio rho = pi(a|o) / pi_old(a|o) and advantages A by GAE,

    L = -E min(rho A, clip(rho, 1 - eps, 1 + eps) A)
        + c_v E 1/2 max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2) - c_e E H(pi).

Where the clock cuts an episode the advantage bootstraps from the value of the true final observation.
"""

import dataclasses
from typing import Any, ClassVar, TypeVar

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from marl_suite.algorithm import ActResult, Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.envs.environment import PyTree, at_least, at_most, one_of
from marl_suite.envs.errors import InputError
from marl_suite.learning import returns
from marl_suite.learning.distributions import Distribution, num_outputs, policy_distribution
from marl_suite.learning.networks import ACTIVATIONS, ENCODERS, SequenceNetwork
from marl_suite.learning.population import Population
from marl_suite.policies import NetworkPolicy


class IPPO(Configuration):
    """Independent proximal policy optimisation."""

    group: ClassVar[str] = "ppo"
    trunk_can_be_shared: ClassVar[bool] = True  # that is, the critic sees what the actor sees, and gives one value

    lr: float = 1e-3  # learning rate, of Adam
    gamma: float = 0.96  # discount
    gae_lambda: float = 0.95
    clip: float = 0.2  # of the ratio, and of the value when clip_value
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    max_gradient_norm: float = 0.5  # global norm, per parameter set
    num_envs: int = static(128)
    rollout_length: int = static(50)  # steps per update
    epochs: int = static(4)
    minibatches: int = static(4)  # the streams are split, never time
    hidden_sizes: tuple[int, ...] = static((64, 64))
    activation: str = static("tanh")
    encoder: str = static("auto")  # what grids pass through first; auto: small where planes hold categories
    shared_trunk: bool = static(False)  # one network, with a head for the policy and one for the value
    recurrent: bool = static(False)  # a GRU after the dense layers
    share_parameters: bool = static(False)
    agent_id: bool = static(False)  # shown to the networks, beside the observation
    normalise_advantages: bool = static(True)  # per agent, over the whole batch
    clip_value: bool = static(True)
    anneal: bool = static(True)  # learning rate falls linearly to zero over the run

    def build(self, spec: EnvSpec) -> Learner:
        return PPO(self, spec).learner()

    def check(self) -> None:
        one_of("ppo.activation", self.activation, ACTIVATIONS)
        one_of("ppo.encoder", self.encoder, ("auto", *ENCODERS))
        if self.shared_trunk and not self.trunk_can_be_shared:
            raise InputError(f"ppo.shared_trunk must be false: the critic of {type(self).__name__} is another network")
        for field in ("num_envs", "rollout_length", "epochs", "minibatches"):
            at_least(f"ppo.{field}", getattr(self, field), 1)
        for field in (
            "lr",
            "entropy_coefficient",
            "value_coefficient",
            "max_gradient_norm",
            "clip",
        ):
            at_least(f"ppo.{field}", getattr(self, field), 0)
        for field in ("gamma", "gae_lambda"):
            at_least(f"ppo.{field}", getattr(self, field), 0)
            at_most(f"ppo.{field}", getattr(self, field), 1)
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise InputError(f"ppo.hidden_sizes needs positive sizes, got {self.hidden_sizes}")


class PPOState(struct.PyTreeNode):
    """Parameters, optimiser and the critic's memory, each with a leading axis of P parameter sets."""

    actor: PyTree  # [P, ...]
    critic: PyTree  # [P, ...]
    optimiser: PyTree  # [P, ...]
    critic_memory: PyTree  # [P, B, H] before the next rollout, empty when feed-forward


StateT = TypeVar("StateT", bound=PPOState)


class Estimates(struct.PyTreeNode):
    """What the critic makes of a rollout, before anything is updated."""

    value: jax.Array  # float32 [T, E, N]
    advantage: jax.Array  # float32 [T, E, N]
    target: jax.Array  # float32 [T, E, N] return estimates for the critic
    critic_memory: PyTree  # [P, B, H] after the last row


class Batch(struct.PyTreeNode):
    """One parameter set's rollout."""

    observation: PyTree  # [T, B, ...] what the actor sees
    critic_input: PyTree  # [T, B, ...] what the critic sees
    action: jax.Array  # [T, B, ...]
    action_mask: jax.Array | None  # bool [T, B, A]
    reset: jax.Array  # bool [T, B]
    log_prob: jax.Array  # [T, B] under the policy that acted
    value: jax.Array  # [T, B] before the update
    advantage: jax.Array  # [T, B]
    target: jax.Array  # [T, B] return estimates for the critic
    actor_memory: PyTree  # [1, B, H] before row 0
    critic_memory: PyTree  # [1, B, H]


@dataclasses.dataclass(frozen=True)
class PPO(Population):
    """The algorithm for one game; its methods are the learner's pure functions. `config` may hold traced numbers."""

    config: Any  # IPPO, or that of a subclass

    # ------------------------------------------------------------------ parts
    @property
    def actor(self) -> SequenceNetwork:
        outputs = num_outputs(self.spec.action_space)
        return self.network(outputs, head_gain=0.01, value_head=self.config.shared_trunk)

    @property
    def critic(self) -> SequenceNetwork:
        return self.actor if self.config.shared_trunk else self.network(1, head_gain=1.0)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        config = self.config
        steps = self.spec.num_updates * config.epochs * config.minibatches
        rate = optax.linear_schedule(config.lr, 0.0, steps) if config.anneal else config.lr
        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate, eps=1e-5))

    # ------------------------------------------------------------------ acting
    def init(self, key: jax.Array) -> PPOState:
        def one_set(key: jax.Array) -> PPOState:
            actor_key, critic_key = jax.random.split(key)
            actor, (critic, memory) = self.actor.fresh(actor_key), self.init_critic(critic_key)
            return PPOState(actor, critic, self.optimiser.init((actor, critic)), memory)

        return jax.vmap(one_set)(jax.random.split(key, self.num_sets))

    def init_critic(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """One set's critic and its memory [B, H]."""
        critic = () if self.config.shared_trunk else self.critic.fresh(key)
        return critic, self.critic.initial_memory(self.num_streams)

    def memory(self, num_envs: int) -> PyTree:
        return self.actor.initial_memory(num_envs, self.spec.num_agents)

    def distribution(
        self, actor: PyTree, memory: PyTree, observation: PyTree, mask: jax.Array | None
    ) -> tuple[Distribution, PyTree]:
        """The policies [E, N] at one step, and the memory [E, N, H] after it."""
        outputs, memory = self.one_step(self.actor, actor, memory, observation)
        return self.distribution_of(outputs, mask), memory

    def distribution_of(self, outputs: jax.Array, mask: jax.Array | None) -> Distribution:
        """What the actor's outputs [..., F] say of actions; those of a value head are left out."""
        space = self.spec.action_space
        return policy_distribution(space, outputs[..., : num_outputs(space)], mask)

    def act(self, state: PPOState, memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
        distribution, memory = self.distribution(state.actor, memory, observation, mask)
        action, log_prob = distribution.sample_and_log_prob(seed=key)
        return action, memory, log_prob

    def export(self, state: PPOState) -> NetworkPolicy:
        return NetworkPolicy.of(self.spec, self.actor, state.actor, **self.sharing)

    # ------------------------------------------------------------------ learning
    def critic_inputs(self, trajectory: Trajectory) -> tuple[PyTree, PyTree]:
        """What the critics see of every row and of its true successor, [P, T, B, ...]."""
        return self.inputs(trajectory.observation), self.inputs(trajectory.next_observation)

    def values(self, state: PPOState, trajectory: Trajectory) -> tuple[jax.Array, jax.Array, PyTree]:
        """V(o_t) and V of the true successor [T, E, N], and the critic's memory after every row [P, T, B, H]."""
        rows, successors = self.critic_inputs(trajectory)
        reset = self.row_reset(trajectory.reset)
        params = state.actor if self.config.shared_trunk else state.critic
        v_tm1, v_t, memories = self.outputs(self.critic, params, state.critic_memory, rows, successors, reset)
        return v_tm1[..., -1], v_t[..., -1], memories

    def advantages(self, trajectory: Trajectory, v_tm1: jax.Array, v_t: jax.Array) -> jax.Array:
        """Generalised advantages [T, E, N] from the values of each row's state and of its true successor."""
        discount_t = self.config.gamma * (1.0 - trajectory.terminated.astype(jnp.float32))
        discount_t, cut_t = (jnp.broadcast_to(x[..., None], v_tm1.shape) for x in (discount_t, trajectory.done))
        return returns.generalised_advantages(trajectory.reward, discount_t, v_tm1, v_t, cut_t, self.config.gae_lambda)

    def loss(self, params: tuple[PyTree, PyTree], batch: Batch) -> tuple[jax.Array, Metrics]:
        """One parameter set's loss, the equation at the top of this file."""
        config = self.config
        actor_memory = jax.tree.map(lambda m: m[0], batch.actor_memory)
        outputs, _ = self.actor.apply(params[0], actor_memory, batch.observation, batch.reset)
        distribution = self.distribution_of(outputs, batch.action_mask)
        log_ratio = jnp.subtract(distribution.log_prob(batch.action), batch.log_prob)
        policy_loss = clipped_surrogate(log_ratio, batch.advantage, config.clip)
        if config.shared_trunk:
            value_loss = self.value_error(outputs[..., -1], batch)
        else:
            value_loss = self.value_loss(params[1], batch)
        entropy = distribution.entropy().mean()
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        kl = ((jnp.exp(log_ratio) - 1) - log_ratio).mean()  # Schulman (2020), estimator k3
        return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "kl": kl}

    def value_loss(self, critic: PyTree, batch: Batch) -> jax.Array:
        """One critic's regression on the return estimates."""
        memory = jax.tree.map(lambda m: m[0], batch.critic_memory)
        value, _ = self.critic.apply(critic, memory, batch.critic_input, batch.reset)
        return self.value_error(value[..., 0], batch)

    def value_error(self, value: jax.Array, batch: Batch) -> jax.Array:
        """How far values [T, B] are from the return estimates."""
        clip = self.config.clip if self.config.clip_value else None
        return squared_error(value, batch.value, batch.target, clip)

    def learn(
        self, params: tuple[PyTree, PyTree], optimiser_state: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[PyTree, Metrics]:
        """All epochs of one parameter set."""

        def descend(carry, rows: jax.Array):
            params, optimiser_state = carry
            gradient, metrics = jax.grad(self.loss, has_aux=True)(params, jax.tree.map(lambda x: x[:, rows], batch))
            updates, optimiser_state = self.optimiser.update(gradient, optimiser_state, params)
            return (optax.apply_updates(params, updates), optimiser_state), metrics

        def epoch(carry, key: jax.Array):
            order = jax.random.permutation(key, self.num_streams).reshape(self.config.minibatches, -1)
            return jax.lax.scan(descend, carry, order)

        return jax.lax.scan(epoch, (params, optimiser_state), jax.random.split(key, self.config.epochs))

    def estimate(self, state: PPOState, trajectory: Trajectory) -> Estimates:
        """Values, targets and (normalised) advantages of a rollout."""
        return self.estimates_from(trajectory, *self.values(state, trajectory))

    def estimates_from(
        self, trajectory: Trajectory, v_tm1: jax.Array, v_t: jax.Array, critic_memories: PyTree
    ) -> Estimates:
        """The estimates that follow from the values of each row's state and of its true successor."""
        advantage = self.advantages(trajectory, v_tm1, v_t)
        target = advantage + v_tm1
        if self.config.normalise_advantages:
            advantage = returns.normalise(advantage, axis=(0, 1))  # per agent: their rewards differ in scale
        # The memory after the last row; the next rollout's reset mask clears it where an episode ended.
        return Estimates(v_tm1, advantage, target, jax.tree.map(lambda m: m[:, -1], critic_memories))

    def fit(
        self, state: StateT, trajectory: Trajectory, estimates: Estimates, key: jax.Array
    ) -> tuple[StateT, Metrics]:
        """All epochs on a rollout, towards higher probability of actions with a high `estimates.advantage`."""
        reset = self.row_reset(trajectory.reset)
        batch = Batch(
            observation=self.inputs(trajectory.observation),
            critic_input=() if self.config.shared_trunk else self.critic_inputs(trajectory)[0],
            action=self.to_streams(trajectory.action),
            action_mask=jax.tree.map(self.to_streams, trajectory.action_mask),
            reset=jnp.broadcast_to(reset, (self.num_sets, *reset.shape)),
            log_prob=self.to_streams(trajectory.record),
            value=self.to_streams(estimates.value),
            advantage=self.to_streams(estimates.advantage),
            target=self.to_streams(estimates.target),
            actor_memory=jax.tree.map(lambda m: self.to_streams(m[None]), trajectory.memory),
            critic_memory=jax.tree.map(lambda m: m[:, None], state.critic_memory),
        )
        keys = jax.random.split(key, self.num_sets)
        params = (state.actor, state.critic)
        ((actor, critic), optimiser), metrics = jax.vmap(self.learn)(params, state.optimiser, batch, keys)
        state = state.replace(actor=actor, critic=critic, optimiser=optimiser, critic_memory=estimates.critic_memory)
        return state, jax.tree.map(jnp.mean, metrics)

    def update(
        self, state: PPOState, trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[PPOState, Metrics]:
        del simulate
        shape = (self.config.rollout_length, self.config.num_envs, self.spec.num_agents)
        chex.assert_shape([trajectory.reward, trajectory.record], shape)
        return self.fit(state, trajectory, self.estimate(state, trajectory), key)

    def check_minibatches(self) -> None:
        """Raises `InputError` when the minibatches do not divide the streams."""
        if self.num_streams % self.config.minibatches:
            streams, parts = self.num_streams, self.config.minibatches
            raise InputError(f"ppo.minibatches must divide the {streams} streams, got {parts}")

    def learner(self) -> Learner:
        """The record of these functions.

        Raises:
            InputError: when the minibatches do not divide the streams.
            TypeError: when the action space has no policy distribution.
        """
        config = self.config
        self.check_minibatches()
        num_outputs(self.spec.action_space)
        return Learner.of(self, num_envs=config.num_envs, rollout_length=config.rollout_length)


def clipped_surrogate(log_ratio: jax.Array, advantage: jax.Array, clip: jax.Array | float) -> jax.Array:
    """-E min(rho A, clip(rho, 1 - clip, 1 + clip) A): Schulman et al. (2017), equation 7, as a loss."""
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage).mean()


def squared_error(value: jax.Array, old: jax.Array, target: jax.Array, clip: jax.Array | float | None) -> jax.Array:
    """1/2 E (V - R)^2, or the larger of it and the same with V held within `clip` of its old value."""
    error = jnp.square(value - target)
    if clip is not None:
        error = jnp.maximum(error, jnp.square(old + jnp.clip(value - old, -clip, clip) - target))
    return 0.5 * error.mean()
