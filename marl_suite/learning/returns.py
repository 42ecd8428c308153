"""Returns and advantages, time-major: `[T, ...]` with any trailing axes (environments, agents).

Two events end a trajectory's credit and they are not the same. *Termination* means that there is no future: the
next state is worth zero. *Truncation* means that the clock ran out on a game that goes on: the next state keeps its
value, but no credit flows back over the cut. `discount_t` is gamma * (1 - terminated), `cut_t` is terminated or
truncated (or any other break in the sequence), and `v_t` is the value of the true next observation, the one before
an automatic reset.
"""

import chex
import jax
import jax.numpy as jnp


def lambda_returns(
    r_t: jax.Array, discount_t: jax.Array, v_t: jax.Array, cut_t: jax.Array, lambda_: jax.Array | float
) -> jax.Array:
    """Lambda returns G_t = r_t + discount_t * [(1 - lambda) v_t + lambda G_{t+1}], with G_{t+1} = v_t at cuts.

    Sutton and Barto (2018), equation 12.18, in recursive form. The last step of the batch bootstraps from its `v_t`.

    Args:
        r_t: [T, ...] reward caused by the action at each step.
        discount_t: [T, ...] discount of the next state; 0 where the episode terminated.
        v_t: [T, ...] value of the state after each step.
        cut_t: bool [T, ...] where the next row is not this row's successor.
        lambda_: in [0, 1]: 0 gives one-step targets, 1 gives Monte-Carlo returns.

    Returns:
        [T, ...] returns, not differentiated through by convention of the caller.
    """
    chex.assert_equal_shape([r_t, discount_t, v_t, cut_t])
    lambda_t = jnp.where(cut_t, 0.0, lambda_)

    def backward(g_tp1, step):
        r, discount, v, lam = step
        g = r + discount * ((1.0 - lam) * v + lam * g_tp1)
        return g, g

    _, returns = jax.lax.scan(backward, v_t[-1], (r_t, discount_t, v_t, lambda_t), reverse=True)
    return returns


def generalised_advantages(
    r_t: jax.Array,
    discount_t: jax.Array,
    v_tm1: jax.Array,
    v_t: jax.Array,
    cut_t: jax.Array,
    lambda_: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimates A_t = delta_t + discount_t lambda (1 - cut_t) A_{t+1}.

    Schulman et al. (2016), equation 16, with delta_t = r_t + discount_t v_t - v_tm1. Equal to `lambda_returns`
    minus `v_tm1` when each row's `v_t` is the next row's `v_tm1` within an episode, but written as in the paper.

    Args:
        r_t: [T, ...] rewards.
        discount_t: [T, ...] gamma * (1 - terminated).
        v_tm1: [T, ...] value of the state in which the agent acted.
        v_t: [T, ...] value of the true next state.
        cut_t: bool [T, ...] terminated or truncated.
        lambda_: in [0, 1].

    Returns:
        [T, ...] advantages.
    """
    chex.assert_equal_shape([r_t, discount_t, v_tm1, v_t, cut_t])
    delta_t = r_t + discount_t * v_t - v_tm1
    decay_t = jnp.where(cut_t, 0.0, discount_t * lambda_)

    def backward(a_tp1, step):
        delta, decay = step
        a = delta + decay * a_tp1
        return a, a

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta_t[-1]), (delta_t, decay_t), reverse=True)
    return advantages


def discounted_sums(r_t: jax.Array, discount_t: jax.Array) -> jax.Array:
    """Discounted rewards-to-go G_t = r_t + discount_t G_{t+1}, zero after the last row.

    Args:
        r_t: [T, ...] rewards.
        discount_t: [T, ...] discount of what follows; 0 at the end of an episode.

    Returns:
        [T, ...] sums.
    """
    chex.assert_equal_shape([r_t, discount_t])

    def backward(g_tp1, step):
        r, discount = step
        g = r + discount * g_tp1
        return g, g

    _, sums = jax.lax.scan(backward, jnp.zeros_like(r_t[-1]), (r_t, discount_t), reverse=True)
    return sums


def normalise(x: jax.Array, axis: int | tuple[int, ...] | None = None, epsilon: float = 1e-8) -> jax.Array:
    """`x` with mean 0 and standard deviation 1 over `axis`."""
    return (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True) + epsilon)
