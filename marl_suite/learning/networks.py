"""Networks, in flax linen, behind two pure functions: `init(key, ...)` and `apply(params, ...)`.

Every network reads sequences of observations as the game gives them, `[T, B, ...]`, with a reset mask `[T, B]` and a
memory `[B, ...]`, so that one code path serves feed-forward and recurrent learners, at collection (T = 1) and in the
loss. The memory is cleared before a row whose mask is set, that is, on the first step of an episode. An encoder makes
each observation a vector; observations are stored small, whole numbers as whole numbers, until then.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import any_in_batch
from marl_suite.envs.spaces import Box, Dict, Discrete, Space

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


def num_features(space: Space) -> int:
    """The length of `features(space, x)`."""
    if isinstance(space, Dict):
        return sum(num_features(part) for part in space.spaces.values())
    return space.n if isinstance(space, Discrete) else int(np.prod(space.shape))


def blank(space: Space) -> Any:
    """An observation of zeros."""
    if isinstance(space, Dict):
        return {name: blank(part) for name, part in space.spaces.items()}
    return jnp.zeros(space.shape, space.dtype)


def features(space: Space, observation: Any) -> jax.Array:
    """A float vector per observation, `[..., num_features(space)]`: flattened, discrete values one-hot."""
    if isinstance(space, Dict):
        return jnp.concatenate([features(s, observation[name]) for name, s in space.spaces.items()], axis=-1)
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observation, space.n)
    lead = observation.shape[: observation.ndim - len(space.shape)]
    return observation.reshape(*lead, -1).astype(jnp.float32)


ENCODERS: dict[str, tuple[tuple[tuple[int, int], ...], int]] = {
    "flat": ((), 0),
    "small": (((8, 1),), 64),
    "standard": (((32, 5), (32, 3), (32, 3)), 64),
}
"""What a grid passes through: (channels, window) of each convolution and the dense layer after them; "flat" flattens
it. "standard" is the network of SocialJax (Guo et al., 2025)."""


def is_grid(space: Space) -> bool:
    """Whether observations are planes of whole numbers [H, W, C]."""
    return isinstance(space, Box) and len(space.shape) == 3 and np.issubdtype(space.dtype, np.integer)


def holds_categories(space: Space) -> bool:
    """Whether observations are a grid of whole numbers that mean kinds, so that a network should not take them as they
    are; planes of 0 and 1 it may."""
    return is_grid(space) and isinstance(space, Box) and bool(space.high.max() > 1)


def planes(space: Box, observation: jax.Array) -> jax.Array:
    """float32 [..., H, W, F] from whole numbers [..., H, W, C]: plane c one-hot over 1 .. its highest value, where 0,
    which is nothing or unknown, is all zeros, as the padding of a convolution is."""
    highest = space.high.max((0, 1)).astype(int).tolist()
    parts = [observation[..., c, None] == np.arange(1, high + 1) for c, high in enumerate(highest)]
    return jnp.concatenate(parts, axis=-1).astype(jnp.float32)


def patches(x: jax.Array, size: int) -> jax.Array:
    """[..., H, W, size * size * C]: the window around each cell, zero beyond the border; `size` is odd."""
    height, width = x.shape[-3:-1]
    padding = [(0, 0)] * (x.ndim - 3) + [(size // 2, size // 2)] * 2 + [(0, 0)]
    padded = jnp.pad(x, padding)
    windows = [padded[..., i : i + height, j : j + width, :] for i in range(size) for j in range(size)]
    return jnp.concatenate(windows, axis=-1)


def _gaussian(gain: float) -> nn.initializers.Initializer:
    """Normal weights of standard deviation gain / sqrt(number of inputs)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


class _Recurrence(nn.Module):
    """A GRU over time whose memory is cleared before rows with a set reset mask."""

    size: int

    @nn.compact
    def __call__(self, memory: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def step(cell: nn.GRUCell, carry: jax.Array, x: tuple[jax.Array, jax.Array]):
            row, reset = x
            return cell(jnp.where(reset[:, None], 0.0, carry), row)  # a GRU's output is its new memory

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        return scan(nn.GRUCell(self.size, recurrent_kernel_init=_gaussian(1.0)), memory, inputs)


class Encoder(nn.Module):
    """A vector per observation. Grids pass through one of `ENCODERS`, all else is flattened; "auto" is "small" where
    planes hold categories and "flat" elsewhere."""

    space: Space
    kind: str
    activation: str

    @nn.compact
    def __call__(self, observation: Any) -> jax.Array:
        if self.kind == "flat":
            return features(self.space, observation)
        if isinstance(self.space, Dict):
            parts = self.space.spaces.items()
            encoded = [Encoder(s, self.kind, self.activation, name=name)(observation[name]) for name, s in parts]
            return jnp.concatenate(encoded, axis=-1)
        if not is_grid(self.space):
            return features(self.space, observation)
        assert isinstance(self.space, Box)
        if self.kind == "auto" and not holds_categories(self.space):
            return features(self.space, observation)
        kind = "small" if self.kind == "auto" else self.kind
        activate, (convolutions, size) = ACTIVATIONS[self.activation], ENCODERS[kind]
        x = planes(self.space, observation)
        for channels, window in convolutions:
            # One matrix product: a convolution is many times slower inside a scan or a vmap on XLA's CPU backend.
            x = activate(nn.Dense(channels, kernel_init=_gaussian(math.sqrt(2)))(patches(x, window)))
        x = x.reshape(*x.shape[:-3], -1)
        return activate(nn.Dense(size, kernel_init=_gaussian(math.sqrt(2)))(x))


class SequenceNetwork(nn.Module):
    """An encoder, dense layers, a GRU when `recurrent`, and a linear head.

    Weights have the variance of PPO's customary orthogonal initialisation, gain sqrt(2) in the body and `head_gain` in
    the head (Huang et al. 2022, "The 37 implementation details of PPO", detail 2), but are drawn independently: an
    orthogonal draw is a QR decomposition, and several batches of these at once, as under `vmap`, can wait for each
    other for ever on XLA's CPU backend (jax 0.10.2, two cores).
    """

    space: Space
    """Of one observation."""
    num_outputs: int
    hidden_sizes: Sequence[int] = (64, 64)
    recurrent: bool = False
    activation: str = "tanh"
    head_gain: float = 1.0
    use_bias: bool = True
    """Of the head. A network of nothing but a head without bias is a table, when observations are one-hot."""
    encoder: str = "flat"
    """One of `ENCODERS`."""
    value_head: bool = False
    """Whether there is one more output, a value, from a head of its own."""

    @nn.compact
    def __call__(self, memory: Any, observation: Any, reset: jax.Array) -> tuple[jax.Array, Any]:
        """One pass over a sequence.

        Args:
            memory: [B, H] before row 0, or empty for a feed-forward network.
            observation: [T, B, ...].
            reset: bool [T, B], rows before which the memory is cleared.

        Returns:
            outputs [T, B, num_outputs], or one more with a `value_head`, the last, and the memory after every row,
            [T, B, H] or empty.
        """
        x = Encoder(self.space, self.encoder, self.activation, name="encoder")(observation)
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=_gaussian(math.sqrt(2)))(x)
            x = ACTIVATIONS[self.activation](x)
        if self.recurrent:
            _, x = _Recurrence(self.hidden_sizes[-1])(memory, (x, reset))
            memory = x
        head = nn.Dense(self.num_outputs, use_bias=self.use_bias, kernel_init=_gaussian(self.head_gain))
        if not self.value_head:
            return head(x), memory
        value = nn.Dense(1, kernel_init=_gaussian(1.0), name="value")
        return jnp.concatenate([head(x), value(x)], axis=-1), memory

    def fresh(self, key: jax.Array) -> Any:
        """New parameters."""
        observation = jax.tree.map(lambda x: x[None, None], blank(self.space))
        return self.init(key, self.initial_memory(1), observation, jnp.zeros((1, 1), bool))

    def rows_and_successors(
        self, params: Any, memory: Any, rows: Any, successors: Any, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Outputs [T, B, num_outputs] at every row and at its successor, and the memory after every row.

        Args:
            params: of the network.
            memory: [B, H] before row 0, or empty.
            rows: [T, B, ...] observations.
            successors: [T, B, ...], each what truly followed its row, also where an episode ended.
            reset: bool [T, B].
        """
        outputs, memories = self.apply(params, memory, rows, reset)

        def after(rows: slice) -> jax.Array:
            """The successors of some rows in one call, as a sequence of length one that goes on from their memories."""
            carried = jax.tree.map(lambda m: m[rows].reshape(-1, m.shape[-1]), memories)
            at_once = jax.tree.map(lambda x: x[rows].reshape(1, -1, *x.shape[2:]), successors)
            count = jax.tree.leaves(at_once)[0].shape[1]
            following, _ = self.apply(params, carried, at_once, jnp.zeros((1, count), bool))
            return following.reshape(-1, *outputs.shape[1:])

        # Where no episode ends inside the rollout, all successors but the last are rows themselves.
        following = jax.lax.cond(
            any_in_batch(reset[1:]),
            lambda: after(slice(None)),
            lambda: jnp.concatenate([outputs[1:], after(slice(-1, None))]),
        )
        return outputs, following, memories

    def initial_memory(self, *batch: int) -> Any:
        """A cleared memory `[*batch, H]`, or an empty tuple for a feed-forward network."""
        return jnp.zeros((*batch, self.hidden_sizes[-1])) if self.recurrent else ()
