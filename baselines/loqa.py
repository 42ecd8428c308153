"""Learning with Opponent Q-Learning Awareness (LOQA): the other one acts by its action values, and I move these.

Aghajohari et al. (2024), LOQA: Learning with Opponent Q-Learning Awareness. The opponent j is taken to play the softmax
of its action values, pi^_j(b|s) = exp(Q_j(s, b) / tau) / sum_b' exp(Q_j(s, b') / tau), and the value of the action that
it took is replaced by an estimate q^_j,t of its return that depends on my policy. With my advantages A_i,

    maximise  E sum_t A_i,t log pi_i(a_t|s_t) + beta E sum_t A_i,t log pi^_j(b_t|s_t),
    grad q^_j,t = sum_{k>t} (gamma d)^{k-t} A_j,k grad log pi_i(a_k|s_k),        d: decay of credit per step.

Since d log pi^_j(b_t|s_t) / d q^_j,t = (1 - pi^_j(b_t|s_t)) / tau, swapping the two sums turns the second term into

    beta E sum_k A_j,k [ sum_{t<k} (gamma d)^{k-t} A_i,t (1 - pi^_j(b_t|s_t)) / tau ] grad log pi_i(a_k|s_k),

that is Advantage Alignment whose past counts by how much the other could still be moved, and that is how it is
computed here. Advantages are r + gamma V(s') - V(s) with V = sum_a pi(a|s) Q(s, a), pi^_j where pi_j is not known.

Deviations: PPO's clipped surrogate and epochs instead of one policy gradient step (`epochs=1, minibatches=1` gives
that), normalised advantages, no slow copy of the action values, any number of opponents (their terms are added).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from marl_suite.algorithm import EnvSpec, Learner, Trajectory
from marl_suite.baselines.advantage_alignment import Aligned, PartnerValues
from marl_suite.baselines.ppo import IPPO, PPO, Batch, Estimates, PPOState, squared_error
from marl_suite.composition import restrict
from marl_suite.envs.environment import PyTree, at_least, at_most
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Discrete
from marl_suite.learning.distributions import num_outputs
from marl_suite.learning.networks import SequenceNetwork


class LOQA(IPPO):
    """Learning with opponent Q-learning awareness: shapes opponents that act by their action values."""

    trunk_can_be_shared: ClassVar[bool] = False  # the critic gives a value per action

    gae_lambda: float = 0.0
    beta: float = 1.0  # weight of the opponent's term; 0 is independent learning with action values
    temperature: float = 1.0  # tau, of the opponent's policy, in units of discounted return
    decay: float = 0.9  # d, of credit per step, on top of gamma

    def check(self) -> None:
        super().check()
        at_least("ppo.beta", self.beta, 0)
        at_least("ppo.temperature", self.temperature, 1e-6)
        at_least("ppo.decay", self.decay, 0)
        at_most("ppo.decay", self.decay, 1)

    def build(self, spec: EnvSpec) -> Learner:
        if not isinstance(spec.action_space, Discrete):
            raise InputError(f"loqa needs action values, one per action; {spec.name} has continuous actions")
        return OpponentAware(self, spec).learner()


class ActionEstimates(Estimates):
    """What the action values make of a rollout."""

    surprise: jax.Array  # float32 [T, E, N] (1 - pi^(a|s)) / tau of the action that was taken


def shape_opponents(
    advantage: jax.Array, surprise: jax.Array, reset: jax.Array, past: jax.Array, beta, discount
) -> tuple[jax.Array, jax.Array]:
    """A_i,k + beta sum_{j != i} A_j,k sum_{t<k} discount^{k-t} A_i,t surprise_j,t, the equation above.

    Args:
        advantage: [T, E, N] of all agents.
        surprise: [T, E, N], (1 - pi^_j(b_t|s_t)) / tau.
        reset: bool [T, E], rows before which the past is forgotten.
        past: [E, N, N] the inner sums of (i, j) before the first row.
        beta: weight of the opponents' terms.
        discount: gamma d.

    Returns:
        [T, E, N] and the inner sums after the last row.
    """
    others = 1.0 - jnp.eye(advantage.shape[-1])

    def step(past: jax.Array, row: tuple) -> tuple[jax.Array, jax.Array]:
        a, surprise, reset = row
        past = jnp.where(reset[:, None, None], 0.0, past)
        shaped = a + beta * jnp.sum(others * past * a[:, None, :], axis=-1)
        return discount * (past + a[:, :, None] * surprise[:, None, :]), shaped

    past, shaped = jax.lax.scan(step, past, (advantage, surprise, reset))
    return shaped, past


@dataclasses.dataclass(frozen=True)
class ActionValues(PPO):
    """PPO whose critic gives Q(s, a) for every action."""

    config: LOQA

    @property
    def critic(self) -> SequenceNetwork:
        return self.network(num_outputs(self.spec.action_space), head_gain=1.0)

    def policies(self, state: PPOState, trajectory: Trajectory, q: tuple) -> list[jax.Array]:
        """pi(a|s) [T, E, N, A] at every row and at its successor, `q` being the action values there."""
        del q
        memory = jax.tree.map(lambda m: self.to_streams(m[None])[:, 0], trajectory.memory)
        rows, successors = self.inputs(trajectory.observation), self.inputs(trajectory.next_observation)
        reset = self.row_reset(trajectory.reset)
        outputs = self.outputs(self.actor, state.actor, memory, rows, successors, reset)
        return [jax.nn.softmax(x) for x in outputs[:2]]

    def estimate(self, state: PPOState, trajectory: Trajectory) -> Estimates:
        rows, successors = self.critic_inputs(trajectory)
        reset = self.row_reset(trajectory.reset)
        q_tm1, q_t, memories = self.outputs(self.critic, state.critic, state.critic_memory, rows, successors, reset)
        pi_tm1, pi_t = self.policies(state, trajectory, (q_tm1, q_t))
        estimates = self.estimates_from(trajectory, jnp.sum(pi_tm1 * q_tm1, -1), jnp.sum(pi_t * q_t, -1), memories)
        assumed = jax.nn.softmax(q_tm1 / self.config.temperature)
        taken = jnp.take_along_axis(assumed, trajectory.action[..., None], axis=-1)[..., 0]
        return ActionEstimates(**vars(estimates), surprise=(1.0 - taken) / self.config.temperature)

    def value_loss(self, critic: PyTree, batch: Batch) -> jax.Array:
        memory = jax.tree.map(lambda m: m[0], batch.critic_memory)
        q, _ = self.critic.apply(critic, memory, batch.critic_input, batch.reset)
        taken = jnp.take_along_axis(q, batch.action[..., None], axis=-1)[..., 0]
        return squared_error(taken, batch.value, batch.target, clip=None)


@dataclasses.dataclass(frozen=True)
class PartnerActionValues(ActionValues, PartnerValues):
    """Action values of seats that others play, whose policies are taken to be the softmax of these."""

    def policies(self, state: PPOState, trajectory: Trajectory, q: tuple) -> list[jax.Array]:
        return [jax.nn.softmax(x / self.config.temperature) for x in q]


@dataclasses.dataclass(frozen=True)
class OpponentAware(ActionValues, Aligned):
    """Advantage Alignment with another past."""

    @property
    def partners(self) -> PPO:
        return PartnerActionValues(self.config, restrict(self.spec.whole, self.others))

    def init_past(self) -> PyTree:
        num_agents = self.spec.whole.num_agents
        return jnp.zeros((self.config.num_envs, num_agents, num_agents))

    def transform(self, estimates: ActionEstimates, reset: jax.Array, past: PyTree) -> tuple[jax.Array, PyTree]:
        discount = self.config.gamma * self.config.decay
        return shape_opponents(estimates.advantage, estimates.surprise, reset, past, self.config.beta, discount)
