"""A learner: a configuration of hyperparameters that builds a record of pure functions for a game."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marl_suite.algorithm import ActResult, Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.envs.environment import PyTree, at_least, at_most
from marl_suite.learning.distributions import num_outputs, policy_distribution
from marl_suite.learning.networks import SequenceNetwork
from marl_suite.learning.returns import discounted_sums, leave_one_out
from marl_suite.policies import NetworkPolicy


class State(struct.PyTreeNode):
    params: PyTree  # [N, ...] of every agent's network
    optimiser: PyTree  # [N, ...]


class Reinforce(Configuration):
    """REINFORCE: every agent climbs the gradient of its own return, with the other episodes as its baseline.

    Source: Williams (1992), Simple statistical gradient-following algorithms for connectionist reinforcement learning;
    the baseline is Kool, van Hoof and Welling's (2019), equation 8. Each agent descends -E[(G - b) log pi(a | o)], with
    G its discounted rewards-to-go within the rollout and b their mean over the other environments.
    """

    group: ClassVar[str] = "reinforce"  # the prefix of its settings, as in reinforce.lr

    # Numbers are traced, so that they can be swept in one program; what fixes a shape is static.
    lr: float = 0.05  # of Adam
    gamma: float = 0.9
    num_envs: int = static(64)  # E
    rollout_length: int = static(10)  # T
    hidden_sizes: tuple[int, ...] = static(())  # none: log-probabilities are linear in the observation

    def check(self) -> None:
        at_least("reinforce.num_envs", self.num_envs, 2)
        at_least("reinforce.gamma", self.gamma, 0)
        at_most("reinforce.gamma", self.gamma, 1)

    def build(self, spec: EnvSpec) -> Learner:
        network = SequenceNetwork(spec.observation_space, num_outputs(spec.action_space), self.hidden_sizes)
        optimiser = optax.adam(self.lr)

        def init(key: jax.Array) -> State:
            params = jax.vmap(network.fresh)(jax.random.split(key, spec.num_agents))
            return State(params, jax.vmap(optimiser.init)(params))

        def export(state: State) -> NetworkPolicy:  # all that is needed to play, and what is stored
            return NetworkPolicy.of(spec, network, state.params)

        def act(state: State, memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
            return export(state).act(memory, observation, key, mask)

        def update(state: State, trajectory: Trajectory, key: jax.Array, simulate: Simulate) -> tuple[State, Metrics]:
            discount = self.gamma * jnp.where(trajectory.done[..., None], 0, jnp.ones_like(trajectory.reward))
            advantage = leave_one_out(discounted_sums(trajectory.reward, discount), self.num_envs)  # [T, E, N]

            def descend(params, optimiser_state, observation, action, mask, advantage):  # one agent's, [T, E, ...]
                def loss(params: PyTree) -> jax.Array:
                    outputs, _ = network.apply(params, (), observation, trajectory.reset)
                    log_probs = policy_distribution(spec.action_space, outputs, mask).log_prob(action)
                    return -(advantage * log_probs).mean()

                value, gradient = jax.value_and_grad(loss)(params)
                updates, optimiser_state = optimiser.update(gradient, optimiser_state)
                return State(optax.apply_updates(params, updates), optimiser_state), value

            rows = trajectory.observation, trajectory.action, trajectory.action_mask, advantage
            state, losses = jax.vmap(descend, (0, 0, 2, 2, 2, 2))(state.params, state.optimiser, *rows)
            return state, {"loss": losses.mean()}

        return Learner(
            init, act, update=update, export=export, num_envs=self.num_envs, rollout_length=self.rollout_length
        )
