"""Policy distributions. The only module that imports distrax, so that replacing it stays a one-file change."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.spaces import Box, Discrete, MultiDiscrete, Space

Distribution = distrax.DistributionLike


def num_outputs(space: Space) -> int:
    """How many numbers a network must give for `policy_distribution` on `space`.

    Raises:
        TypeError: for a space that has no policy distribution here.
    """
    if isinstance(space, Discrete | MultiDiscrete):
        return space.num_choices
    if isinstance(space, Box):
        return 2 * int(np.prod(space.shape))
    raise TypeError(f"no policy distribution for actions in {space}")


def policy_distribution(space: Space, outputs: jax.Array, mask: jax.Array | None = None) -> Distribution:
    """The policy that a network's `outputs` describe.

    Categorical logits for `Discrete`, those of independent components side by side for `MultiDiscrete`; mean and
    logarithm of the standard deviation of a diagonal Gaussian for `Box`. Gaussian samples are not squashed: the game
    clips them to its bounds.

    Args:
        space: one agent's action space.
        outputs: [..., num_outputs(space)].
        mask: bool [..., num_choices] of allowed actions, or None. Not for `Box`; at least one action per component.
    """
    if isinstance(space, Discrete | MultiDiscrete):
        never = jnp.finfo(outputs.dtype).min
        allowed = outputs if mask is None else jnp.where(mask, outputs, never)
        choice = distrax.Categorical(logits=space.by_component(allowed, never))
        return choice if isinstance(space, Discrete) else distrax.Independent(choice, reinterpreted_batch_ndims=1)
    outputs = outputs.reshape(*outputs.shape[:-1], 2, *space.shape)
    mean, log_scale = jnp.moveaxis(outputs, outputs.ndim - 1 - len(space.shape), 0)
    normal = distrax.Normal(mean, jnp.exp(jnp.clip(log_scale, -5.0, 2.0)))
    return distrax.Independent(normal, reinterpreted_batch_ndims=len(space.shape))  # also actions of shape ()
