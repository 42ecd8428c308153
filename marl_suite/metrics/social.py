"""Social outcome metrics of an episode, as pure functions of arrays.

Perolat et al. 2017, "A multi-agent reinforcement learning model of common-pool resource appropriation", section
2.3, defines utilitarian efficiency, equality, sustainability and peace. Shapes: `T` time, `N` agents. A value that
has no meaning for an episode is NaN, never a number that could be averaged by mistake.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct


def utilitarian_return(returns: jax.Array) -> jax.Array:
    """The collective return, sum_i R_i; divided by `N` it is the per-capita return.

    Perolat et al. 2017 divide it by `T` as well, which gives their efficiency U, a rate per step.

    Args:
        returns: [..., N], each agent's undiscounted return.

    Returns:
        [...].
    """
    return jnp.sum(returns, axis=-1)


def equality(returns: jax.Array) -> jax.Array:
    """One minus the Gini coefficient: E = 1 - sum_ij |R_i - R_j| / (2 N sum_i R_i).

    It is 1 when all get the same and 1/N when one agent gets everything. The range [0, 1] holds for non-negative
    returns only: (2, -1) would give -0.5, a sum of zero a division by zero and a negative sum values above 1.

    Args:
        returns: [..., N], each agent's undiscounted return.

    Returns:
        [...]; NaN where any return is negative or the sum is not positive.
    """
    total = jnp.sum(returns, axis=-1)
    differences = jnp.abs(returns[..., :, None] - returns[..., None, :]).sum(axis=(-2, -1))
    defined = jnp.all(returns >= 0, axis=-1) & (total > 0)
    gini = differences / (2 * returns.shape[-1] * jnp.where(defined, total, 1))
    return jnp.where(defined, 1 - gini, jnp.nan)


class CollectionTimes(struct.PyTreeNode):
    """When each agent collected, accumulated step by step; exact for episodes of up to 65,535 steps."""

    time_sum: jax.Array  # int32 [N], sum of the 1-based indices of the steps with positive reward
    count: jax.Array  # int32 [N], number of those steps

    @classmethod
    def start(cls, num_agents: int) -> "CollectionTimes":
        """Nobody has collected yet."""
        nothing = jnp.zeros(num_agents, jnp.int32)
        return cls(time_sum=nothing, count=nothing)

    def update(self, time: jax.Array | int, reward: jax.Array) -> "CollectionTimes":
        """Adds step `time` (1 for the first) with its reward [N]."""
        collected = (reward > 0).astype(jnp.int32)
        return self.replace(time_sum=self.time_sum + time * collected, count=self.count + collected)

    def result(self) -> jax.Array:
        """Scalar: the mean over the agents that collected of their mean time; NaN when nobody did."""
        collectors = jnp.sum(self.count > 0)
        mean_time = self.time_sum / jnp.maximum(self.count, 1)
        return jnp.where(collectors > 0, mean_time.sum() / jnp.maximum(collectors, 1), jnp.nan)


def sustainability(rewards: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """How late rewards come: S = mean_i t_i, t_i = mean of the time indices t = 1 .. T with r_i(t) > 0.

    A commons that is emptied at once has a low S; steady use gives (T + 1) / 2. Agents that never collect have no
    t_i and are left out. `CollectionTimes` is the same inside an episode loop.

    Args:
        rewards: [T, N].
        mask: bool [T], which steps belong to the episode; all when None.

    Returns:
        Scalar in steps; NaN when nobody collects.
    """
    chex.assert_rank(rewards, 2)
    num_steps, num_agents = rewards.shape
    if mask is not None:
        rewards = jnp.where(mask[:, None], rewards, 0)
    times = jnp.arange(1, num_steps + 1, dtype=jnp.int32)[:, None]
    steps = jax.vmap(CollectionTimes.start(num_agents).update)(times, rewards)
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), steps).result()


def peace(timed_out_steps: jax.Array, length: jax.Array | int) -> jax.Array:
    """The fraction of agent-steps that are not timed out: P = 1 - sum_i timed_out_i / (N T), in [0, 1].

    Perolat et al. 2017 divide by `T` only, so that their P lies in [0, N].

    Args:
        timed_out_steps: [..., N], for how many steps each agent was timed out.
        length: [...], the episode's number of steps T.

    Returns:
        [...].
    """
    return 1 - jnp.mean(timed_out_steps, axis=-1) / length


def cooperation_rate(cooperation: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The fraction of choices that were cooperative.

    Args:
        cooperation: [T, N], 1 (or True) where the agent cooperated, or a degree of cooperation in [0, 1].
        mask: bool [T] or [T, N], which entries are choices at all (the episode was running, the agent had
            something to decide); all when None.

    Returns:
        Scalar in [0, 1]; NaN when there was no choice.
    """
    chex.assert_rank(cooperation, 2)
    if mask is None:
        return jnp.mean(cooperation)
    chosen = jnp.broadcast_to(mask if mask.ndim == 2 else mask[:, None], cooperation.shape)
    return jnp.mean(cooperation, where=chosen)
