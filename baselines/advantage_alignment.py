"""Advantage Alignment: opponent shaping by one more term in the advantage.

Duque et al. (2025), Advantage Alignment Algorithms. An action is encouraged when what it does to the others has the
sign of what the past did to me: with gamma-discounted sums of my own past advantages, restarted with every episode,

    A*_i,t = A_i,t + beta gamma (sum_{k<t} gamma^{t-k} A_i,k) sum_{j != i} A_j,t

takes the place of A_i,t in PPO's clipped surrogate (proximal Advantage Alignment; their appendix A.9 for N > 2). A* is
a constant to the gradient. With one epoch and one minibatch the ratio is 1 and the same loss is the plain policy
gradient E A* log pi. Advantages are normalised before the product, so that beta has no unit, and never after it.

Everybody's advantages on the same trajectory are needed, so seats that others play in a composition (scripted ones,
say) get a critic of their own rewards, and nothing else of them is known.

The group-relative form (Piche et al. 2025, Learning Robust Social Strategies with Large Language Models) has no critic:
K episodes share the environment's random numbers, and the advantage of a step is its return-to-go less the mean of the
other K - 1 at the same step. It wants episodes of one length, and rollouts that hold whole ones.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.algorithm import EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.baselines.ppo import IPPO, PPO, Batch, Estimates, PPOState
from marl_suite.composition import restrict, seats
from marl_suite.envs.environment import PyTree, at_least, at_most, one_of
from marl_suite.learning import returns


class AdvantageAlignment(IPPO):
    """Proximal Advantage Alignment: PPO whose advantages reward what aligns everybody's interests."""

    gae_lambda: float = 0.0  # one-step advantages: longer ones are noisier, and their product more so
    beta: float = 0.5  # weight of the alignment term; 0 is IPPO
    past: str = static("discounted")  # or "mean": the past's mean instead of its discounted sum
    past_decay: float = 1.0  # of past advantages per step, on top of gamma; "discounted" only

    def check(self) -> None:
        super().check()
        one_of("ppo.past", self.past, PAST_FORMS)
        at_least("ppo.beta", self.beta, 0)
        at_least("ppo.past_decay", self.past_decay, 0)
        at_most("ppo.past_decay", self.past_decay, 1)

    def build(self, spec: EnvSpec) -> Learner:
        return Aligned(self, spec).learner()


class GroupRelativeAdvantageAlignment(AdvantageAlignment):
    """Advantage Alignment without a critic: returns are compared within groups of episodes that share their chances."""

    trunk_can_be_shared: ClassVar[bool] = False

    group_size: int = static(8)  # episodes that share the environment's random numbers, K

    def check(self) -> None:
        super().check()
        at_least("ppo.group_size", self.group_size, 1)

    def build(self, spec: EnvSpec) -> Learner:
        return GroupRelative(self, spec).learner()


# ---------------------------------------------------------------------- the transform
PAST_FORMS = ("discounted", "mean")


class Past(struct.PyTreeNode):
    """What the advantages of an episode have been so far."""

    total: jax.Array  # float32 [E, N] sum, discounted to the next step
    steps: jax.Array  # float32 [E] how many there were

    @classmethod
    def nothing(cls, num_envs: int, num_agents: int) -> "Past":
        return cls(jnp.zeros((num_envs, num_agents)), jnp.zeros(num_envs))


def align(
    advantage: jax.Array,
    reset: jax.Array,
    past: Past,
    beta: jax.Array | float,
    gamma: jax.Array | float,
    decay: jax.Array | float = 1.0,
    form: str = "discounted",
) -> tuple[jax.Array, Past]:
    """The aligned advantages A*, equation at the top of this file.

    Args:
        advantage: [T, E, N] everybody's advantages on one trajectory.
        reset: bool [T, E], rows before which the past is forgotten.
        past: of the episodes that are still going on from the last rollout.
        beta: weight of the alignment term.
        gamma: discount.
        decay: of past advantages per step, on top of gamma.
        form: "discounted", or "mean" for beta (1/t sum_{k<t} A_i,k) sum_{j != i} A_j,t, without a discount.

    Returns:
        [T, E, N] aligned advantages, and the past after the last row.
    """

    def step(past: Past, row: tuple[jax.Array, jax.Array]) -> tuple[Past, jax.Array]:
        a, reset = row
        past = Past(jnp.where(reset[:, None], 0.0, past.total), jnp.where(reset, 0.0, past.steps))
        others = a.sum(-1, keepdims=True) - a
        if form == "mean":
            aligned = a + beta * past.total / jnp.maximum(past.steps, 1.0)[:, None] * others
            return Past(past.total + a, past.steps + 1), aligned
        aligned = a + beta * gamma * past.total * others
        return Past(gamma * decay * (past.total + a), past.steps + 1), aligned

    past, aligned = jax.lax.scan(step, past, (advantage, reset))
    return aligned, past


# ---------------------------------------------------------------------- the learners
PARTNERS = 0x5EA7
"""Folded into a key for the partners' critics, so that our own chances are those of PPO (which splits the key into
fewer parts than this)."""


class AlignedState(PPOState):
    """PPO's state, the past of episodes that go on, and what is kept about seats that others play."""

    past: Past
    partners: PPOState | None


@dataclasses.dataclass(frozen=True)
class PartnerValues(PPO):
    """Critics of seats that others play: their policies are not ours to learn."""

    def loss(self, params: tuple[PyTree, PyTree], batch: Batch) -> tuple[jax.Array, Metrics]:
        return self.value_loss(params[1], batch), {}


@dataclasses.dataclass(frozen=True)
class Aligned(PPO):
    """PPO with another advantage, made of everybody's."""

    config: Any  # AdvantageAlignment, or that of a subclass with a transform of its own

    @property
    def others(self) -> tuple[int, ...]:
        """The seats that others play."""
        return tuple(i for i in range(self.spec.whole.num_agents) if i not in self.spec.slots)

    @property
    def partners(self) -> PPO:
        alone = dataclasses.replace(self.config, shared_trunk=False)  # their policies are nobody's to learn
        return PartnerValues(alone, restrict(self.spec.whole, self.others))

    def init(self, key: jax.Array) -> AlignedState:
        own, partners = super().init(key), self.init_partners(jax.random.fold_in(key, PARTNERS))
        return AlignedState(**vars(own), past=self.init_past(), partners=partners)

    def init_past(self) -> PyTree:
        return Past.nothing(self.config.num_envs, self.spec.whole.num_agents)

    def init_partners(self, key: jax.Array) -> PPOState | None:
        return self.partners.init(key) if self.others else None

    def appraise(self, state: PyTree, trajectory: Trajectory, key: jax.Array) -> tuple[Estimates, PyTree]:
        """What the partners' critics make of their seats in the whole game's trajectory; these critics afterwards."""
        memory = self.actor.initial_memory(self.config.num_envs, len(self.others))
        unknown = jnp.zeros((*trajectory.reset.shape, len(self.others)))  # nobody's log-probabilities but our own
        theirs = seats(trajectory, self.others, memory, unknown)
        estimates = self.partners.estimate(state, theirs)
        return estimates, self.partners.fit(state, theirs, estimates, key)[0]

    def transform(self, estimates: Any, reset: jax.Array, past: PyTree) -> tuple[jax.Array, PyTree]:
        """The advantages to learn from, out of the estimates [T, E, N] of all seats."""
        config = self.config
        return align(estimates.advantage, reset, past, config.beta, config.gamma, config.past_decay, config.past)

    def update(
        self, state: PyTree, trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[PyTree, Metrics]:
        del simulate
        estimates, partners = self.estimate(state, trajectory), state.partners
        everybody = estimates.replace(critic_memory=())
        if self.others and trajectory.joint is not None:
            theirs, partners = self.appraise(partners, trajectory.joint, jax.random.fold_in(key, PARTNERS))
            order = np.argsort(self.spec.slots + self.others)
            everybody = jax.tree.map(
                lambda mine, other: jnp.concatenate([mine, other], axis=-1)[..., order],
                everybody,
                theirs.replace(critic_memory=()),
            )
        aligned, past = self.transform(everybody, trajectory.reset, state.past)
        own = jax.lax.stop_gradient(aligned[..., np.asarray(self.spec.slots)])
        state, metrics = self.fit(state, trajectory, estimates.replace(advantage=own), key)
        return state.replace(past=past, partners=partners), metrics

    def learner(self) -> Learner:
        if self.others:
            self.partners.check_minibatches()
        return super().learner()


@dataclasses.dataclass(frozen=True)
class GroupRelative(Aligned):
    """Advantages from the comparison of returns in a group of episodes; no critic."""

    config: GroupRelativeAdvantageAlignment

    def init_critic(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        del key
        return (), ()

    def init_partners(self, key: jax.Array) -> None:
        del key

    def values(self, state: PPOState, trajectory: Trajectory) -> tuple[jax.Array, jax.Array, PyTree]:
        zeros = jnp.zeros_like(trajectory.reward)
        return zeros, zeros, ()

    def advantages(self, trajectory: Trajectory, v_tm1: jax.Array, v_t: jax.Array) -> jax.Array:
        """G_t^k - mean_{m != k} G_t^m [T, E, N], returns-to-go of the episode as far as the rollout shows it."""
        discount_t = self.config.gamma * (1.0 - trajectory.done[..., None]) * jnp.ones_like(trajectory.reward)
        return returns.leave_one_out(returns.discounted_sums(trajectory.reward, discount_t), self.config.group_size)

    def value_loss(self, critic: PyTree, batch: Batch) -> jax.Array:
        return jnp.zeros(())

    @property
    def partners(self) -> PPO:
        return GroupRelative(self.config, restrict(self.spec.whole, self.others))

    def appraise(self, state: PyTree, trajectory: Trajectory, key: jax.Array) -> tuple[Estimates, PyTree]:
        return self.partners.estimate(state, seats(trajectory, self.others, (), ())), None

    def learner(self) -> Learner:
        return dataclasses.replace(super().learner(), group_size=self.config.group_size)
