"""Objectives that stay right however often they are differentiated: DiCE and Loaded DiCE.

What was sampled is a constant, so differentiating an average of rewards gives nothing, and differentiating a score
function surrogate twice gives the wrong Hessian. DiCE multiplies each reward with the magic box of the log-probability
of everything random that it depends on, which is 1 and whose derivatives are those of that probability, divided by it
(Foerster et al. 2018, "DiCE: The Infinitely Differentiable Monte Carlo Estimator").

Time-major, with E environments and N agents. Log-probabilities are those of the actions that were played, recomputed
under the parameters in question. Row 0 counts as the start of an episode, and so does every row whose `reset` is set:
credit and the discount gamma^t begin there anew. Results are sums over the rows of each environment; divide their sum
by `num_episodes(reset)` for the mean over episodes.
"""

from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray


def magic_box(x: Array) -> jax.Array:
    """exp(x - stop(x)): 1, with the derivatives of exp(x), divided by its value."""
    return jnp.exp(x - jax.lax.stop_gradient(x))


def episode_starts(reset: Array) -> jax.Array:
    """bool [T, E]: where an episode begins, as far as these rows know."""
    return jnp.asarray(reset).at[0].set(True)


def num_episodes(reset: Array) -> jax.Array:
    """int32 []: how many episodes the rows [T, E] belong to."""
    return episode_starts(reset).sum()


def episode_discounts(reset: Array, gamma: Array | float) -> jax.Array:
    """float32 [T, E]: gamma^t, with t counted from the start of each episode."""
    row = jnp.arange(len(reset))[:, None]
    start = jax.lax.cummax(jnp.where(episode_starts(reset), row, 0))
    return jnp.asarray(gamma, jnp.float32) ** (row - start)


def episode_sums(x: Array, reset: Array) -> jax.Array:
    """[T, E]: the sum of `x` over each row and those before it in its episode."""

    def join(earlier: tuple[jax.Array, jax.Array], later: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (a, a_starts), (b, b_starts) = earlier, later
        return jnp.where(b_starts, b, a + b), a_starts | b_starts

    return jax.lax.associative_scan(join, (jnp.asarray(x), episode_starts(reset)))[0]


def dice_objective(
    log_prob: Array,
    reward: Array,
    reset: Array,
    gamma: Array | float,
    value: Array | None = None,
) -> jax.Array:
    """The discounted return, differentiable: sum_t gamma^t [box(c_t) r_t + (1 - box(l_t)) V_t].

    Foerster et al. (2018), objective and baseline, where l_t = sum_j log pi_j,t is what the row itself adds to the
    log-probability c_t = sum_{k <= t} l_k of the episode up to and including it. Both count all agents: a reward
    depends on what everybody did. The second term is zero and lowers the variance of derivatives.

    Args:
        log_prob: [T, E, N] of each agent's action.
        reward: [T, E, N] caused by the row's actions.
        reset: bool [T, E].
        gamma: discount.
        value: [T, E, N] baseline of the state in which the row's actions were chosen; none when None.

    Returns:
        [E, N] of each agent.
    """
    chex.assert_equal_shape([log_prob, reward])
    chex.assert_equal_shape_prefix([log_prob, reset], 2)
    step = log_prob.sum(-1)
    terms = magic_box(episode_sums(step, reset))[..., None] * reward
    if value is not None:
        terms = terms + (1.0 - magic_box(step))[..., None] * value
    return (episode_discounts(reset, gamma)[..., None] * terms).sum(0)


def loaded_dice(log_prob: Array, advantage: Array, reset: Array, gamma: Array | float) -> jax.Array:
    """An objective with the derivatives of the discounted return: sum_t gamma^t [box(c_t) - box(c_{t-1})] A_t.

    Farquhar, Whiteson and Foerster (2019), "Loaded DiCE: Trading off Bias and Variance in Any-Order Score Function
    Estimators for Reinforcement Learning", with c_t as in `dice_objective` and c_{t-1} = 0
    at the start of an episode. Its own value is 0. The derivatives of every order are those of `dice_objective` when
    A_t is the discounted reward-to-go, less noisy when it is that minus a baseline, and have little bias when A_t is a
    good estimate of the advantage.

    Args:
        log_prob: [T, E, N] of each agent's action.
        advantage: [T, E, N] of the row's actions, held constant by the caller.
        reset: bool [T, E].
        gamma: discount.

    Returns:
        [E, N] of each agent.
    """
    chex.assert_equal_shape([log_prob, advantage])
    chex.assert_equal_shape_prefix([log_prob, reset], 2)
    step = log_prob.sum(-1)
    total = episode_sums(step, reset)
    credit = magic_box(total) - magic_box(total - step)
    return ((episode_discounts(reset, gamma) * credit)[..., None] * advantage).sum(0)
