"""The mixing network of QMIX: one value for the team out of the agents' own."""

import flax.linen as nn
import jax
import jax.numpy as jnp

_LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # +-1 / sqrt(number of inputs)


class MonotonicMixer(nn.Module):
    """A team's value that never falls when an agent's does, whatever the state.

    Q(q, s) = ELU(q |W1(s)| + b1(s)) |W2(s)| + V(s): Rashid et al. (2018), section 4. W1 and W2 come from hypernetworks
    with one hidden layer, b1 from a linear layer, V from a network whose hidden layer is as wide as the embedding. Only
    weights are made non-negative, so that biases, and with them the value, may have any sign. As in the released code,
    they are drawn within +-1 / sqrt(number of inputs); unlike there, the layers' own biases begin at zero.
    """

    embedding: int = 32
    hypernetwork_size: int = 64

    @nn.compact
    def __call__(self, values: jax.Array, state: jax.Array) -> jax.Array:
        """float32 [..., 1] from the agents' values [..., N] and the global state [..., S]."""

        def dense(name: str, size: int) -> nn.Dense:
            return nn.Dense(size, kernel_init=_LINEAR, name=name)

        def weights(name: str, size: int) -> jax.Array:
            return jnp.abs(dense(name, size)(nn.relu(dense(f"{name}_hidden", self.hypernetwork_size)(state))))

        first = weights("first", values.shape[-1] * self.embedding).reshape(*values.shape, self.embedding)
        hidden = nn.elu(jnp.einsum("...n,...ne->...e", values, first) + dense("bias", self.embedding)(state))
        offset = dense("offset", 1)(nn.relu(dense("offset_hidden", self.embedding)(state)))
        return jnp.sum(hidden * weights("second", self.embedding), axis=-1, keepdims=True) + offset
