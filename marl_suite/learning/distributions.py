"""Policy distributions. The only module that imports distrax, so that replacing it stays a one-file change."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.spaces import Box, Discrete, Space

Distribution = distrax.DistributionLike


def num_outputs(space: Space) -> int:
    """How many numbers a network must give for `policy_distribution` on `space`.

    Raises:
        TypeError: for a space that has no policy distribution here.
    """
    if isinstance(space, Discrete):
        return space.n
    if isinstance(space, Box):
        return 2 * int(np.prod(space.shape))
    raise TypeError(f"no policy distribution for actions in {space}")


def policy_distribution(space: Space, outputs: jax.Array, mask: jax.Array | None = None) -> Distribution:
    """The policy that a network's `outputs` describe.

    Categorical logits for `Discrete`; mean and logarithm of the standard deviation of a diagonal Gaussian for
    `Box`. Gaussian samples are not squashed: the game clips them to its bounds.

    Args:
        space: one agent's action space.
        outputs: [..., num_outputs(space)].
        mask: bool [..., A] of allowed actions, or None. Discrete spaces only; at least one action per row.
    """
    if isinstance(space, Discrete):
        if mask is not None:
            outputs = jnp.where(mask, outputs, jnp.finfo(outputs.dtype).min)
        return distrax.Categorical(logits=outputs)
    outputs = outputs.reshape(*outputs.shape[:-1], 2, *space.shape)
    mean, log_scale = jnp.moveaxis(outputs, outputs.ndim - 1 - len(space.shape), 0)
    normal = distrax.Normal(mean, jnp.exp(jnp.clip(log_scale, -5.0, 2.0)))
    return distrax.Independent(normal, reinterpreted_batch_ndims=len(space.shape))  # also actions of shape ()
