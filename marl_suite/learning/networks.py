"""Networks, in flax linen, behind two pure functions: `init(key, ...)` and `apply(params, ...)`.

Every network reads sequences: inputs `[T, B, ...]`, a reset mask `[T, B]` and a memory `[B, ...]`, so that one code
path serves feed-forward and recurrent learners, at collection (T = 1) and in the loss. The memory is cleared before a
row whose mask is set, that is, on the first step of an episode.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.spaces import Dict, Discrete, Space

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


def num_features(space: Space) -> int:
    """The length of `features(space, x)`."""
    if isinstance(space, Dict):
        return sum(num_features(part) for part in space.spaces.values())
    return space.n if isinstance(space, Discrete) else int(np.prod(space.shape))


def features(space: Space, observation: Any) -> jax.Array:
    """A float vector per observation, `[..., num_features(space)]`: flattened, discrete values one-hot."""
    if isinstance(space, Dict):
        return jnp.concatenate([features(s, observation[name]) for name, s in space.spaces.items()], axis=-1)
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observation, space.n)
    lead = observation.shape[: observation.ndim - len(space.shape)]
    return observation.reshape(*lead, -1).astype(jnp.float32)


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


class SequenceNetwork(nn.Module):
    """Dense layers, a GRU when `recurrent`, and a linear head.

    Weights have the variance of PPO's customary orthogonal initialisation, gain sqrt(2) in the body and `head_gain` in
    the head (Huang et al. 2022, "The 37 implementation details of PPO", detail 2), but are drawn independently: an
    orthogonal draw is a QR decomposition, and several batches of these at once, as under `vmap`, can wait for each
    other for ever on XLA's CPU backend (jax 0.10.2, two cores).
    """

    num_outputs: int
    hidden_sizes: Sequence[int] = (64, 64)
    recurrent: bool = False
    activation: str = "tanh"
    head_gain: float = 1.0
    use_bias: bool = True
    """Of the head. A network of nothing but a head without bias is a table, when inputs are one-hot."""

    @nn.compact
    def __call__(self, memory: Any, inputs: jax.Array, reset: jax.Array) -> tuple[jax.Array, Any]:
        """One pass over a sequence.

        Args:
            memory: [B, H] before row 0, or empty for a feed-forward network.
            inputs: [T, B, F].
            reset: bool [T, B], rows before which the memory is cleared.

        Returns:
            outputs [T, B, num_outputs] and the memory after every row, [T, B, H] or empty.
        """
        x = inputs
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=_gaussian(math.sqrt(2)))(x)
            x = ACTIVATIONS[self.activation](x)
        if self.recurrent:
            _, x = _Recurrence(self.hidden_sizes[-1])(memory, (x, reset))
            memory = x
        head = nn.Dense(self.num_outputs, use_bias=self.use_bias, kernel_init=_gaussian(self.head_gain))
        return head(x), memory

    def fresh(self, key: jax.Array, num_inputs: int) -> Any:
        """Parameters for inputs of `num_inputs` features."""
        return self.init(key, self.initial_memory(1), jnp.zeros((1, 1, num_inputs)), jnp.zeros((1, 1), bool))

    def rows_and_successors(
        self, params: Any, memory: Any, inputs: jax.Array, successors: jax.Array, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Outputs [T, B, num_outputs] at every row and at its successor, and the memory after every row.

        Args:
            params: of the network.
            memory: [B, H] before row 0, or empty.
            inputs: [T, B, F].
            successors: [T, B, F], each what truly followed its row, also where an episode ended.
            reset: bool [T, B].
        """
        rows, memories = self.apply(params, memory, inputs, reset)
        # All successors in one call, as a sequence of length one that goes on from each row's memory.
        carried = jax.tree.map(lambda m: m.reshape(-1, m.shape[-1]), memories)
        following, _ = self.apply(
            params, carried, successors.reshape(1, -1, inputs.shape[-1]), jnp.zeros((1, reset.size), bool)
        )
        return rows, following.reshape(rows.shape), memories

    def initial_memory(self, *batch: int) -> Any:
        """A cleared memory `[*batch, H]`, or an empty tuple for a feed-forward network."""
        return jnp.zeros((*batch, self.hidden_sizes[-1])) if self.recurrent else ()
