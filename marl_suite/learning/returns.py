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


def leave_one_out(x: jax.Array, group_size: int, axis: int = 1) -> jax.Array:
    """`x` less the mean of the others in its group: x_k - sum_{m != k} x_m / (K - 1).

    The baseline of REINFORCE leave-one-out (Kool et al., 2019, equation 8); it does not depend on x_k, so it adds no
    bias. The sum over a group is zero. With K = 1 there are no others, and `x` is returned.

    Args:
        x: [..., E, ...] with E on `axis`, consecutive entries forming groups.
        group_size: K, a divisor of E.
        axis: where the groups are.
    """
    if group_size == 1:
        return x
    grouped = jnp.moveaxis(x, axis, 0)
    grouped = grouped.reshape(-1, group_size, *grouped.shape[1:])
    centred = (grouped - grouped.mean(1, keepdims=True)) * group_size / (group_size - 1)
    return jnp.moveaxis(centred.reshape(-1, *grouped.shape[2:]), 0, axis)


def normalise(x: jax.Array, axis: int | tuple[int, ...] | None = None, epsilon: float = 1e-8) -> jax.Array:
    """`x` with mean 0 and standard deviation 1 over `axis`."""
    return (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True) + epsilon)
