"""Observation and action spaces, with the attributes that gymnax's spaces have.

They are described by numpy and Python values only, so making one touches no device.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Space:
    """A set of values: `shape`, `dtype`, `sample(key)`, `contains(x)`."""

    shape: tuple[int, ...]
    dtype: Any

    def sample(self, key: jax.Array) -> Any:
        """One uniform draw."""
        raise NotImplementedError

    def contains(self, x: Any) -> jax.Array:
        """Scalar bool: whether `x` has this space's shape and lies within its bounds."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Discrete(Space):
    """The integers 0 .. n - 1."""

    def __init__(self, n: int, dtype: Any = np.int32):
        if n < 1:
            raise ValueError(f"Discrete needs at least one value, got n={n}")
        self.n, self.shape, self.dtype = int(n), (), np.dtype(dtype)

    @property
    def num_choices(self) -> int:
        """The width of a row that has one entry per value, such as an action mask."""
        return self.n

    def by_component(self, choices: jax.Array, fill: Any = None) -> jax.Array:
        """`choices` [..., n] as they are: there is one component."""
        del fill
        return choices

    def __repr__(self) -> str:
        return f"Discrete({self.n}, {self.dtype.name})"

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape != () or not jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(False)
        return (x >= 0) & (x < self.n)


class MultiDiscrete(Space):
    """Several choices at once: vectors [D] of integers whose component i is one of 0 .. nvec[i] - 1."""

    def __init__(self, nvec: Sequence[int], dtype: Any = np.int32):
        self.nvec = tuple(int(n) for n in nvec)
        if not self.nvec or min(self.nvec) < 1:
            raise ValueError(f"MultiDiscrete needs at least one value for each component, got nvec={nvec}")
        self.shape, self.dtype = (len(self.nvec),), np.dtype(dtype)

    @property
    def num_choices(self) -> int:
        """The width of a row that has one entry per component and value, such as an action mask: those of the first
        component, then those of the second, and so on."""
        return sum(self.nvec)

    def by_component(self, choices: jax.Array, fill: Any) -> jax.Array:
        """[..., num_choices] as [..., D, max(nvec)], one row per component, with `fill` where it has fewer values."""
        values = np.arange(max(self.nvec))
        exists = values < np.asarray(self.nvec)[:, None]
        starts = np.cumsum((0, *self.nvec[:-1]))
        return jnp.where(exists, choices[..., np.where(exists, starts[:, None] + values, 0)], fill)

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.nvec}, {self.dtype.name})"

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, self.shape, 0, np.asarray(self.nvec), self.dtype)

    def contains(self, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape != self.shape or not jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(False)
        return jnp.all((x >= 0) & (x < np.asarray(self.nvec)))


class Box(Space):
    """Arrays of a fixed shape between `low` and `high`, both inclusive; bounds broadcast to the shape."""

    def __init__(self, low: Any, high: Any, shape: tuple[int, ...], dtype: Any = np.float32):
        self.shape, self.dtype = tuple(int(d) for d in shape), np.dtype(dtype)
        self.low = np.broadcast_to(np.asarray(low, self.dtype), self.shape)
        self.high = np.broadcast_to(np.asarray(high, self.dtype), self.shape)
        if np.any(self.low > self.high):
            raise ValueError(f"Box needs low <= high, got {low} and {high}")

    def __repr__(self) -> str:
        return f"Box({_spell(self.low)}, {_spell(self.high)}, {self.shape}, {self.dtype.name})"

    def sample(self, key: jax.Array) -> jax.Array:
        if np.issubdtype(self.dtype, np.integer):
            return jax.random.randint(
                key, self.shape, self.low.astype(np.int32), self.high.astype(np.int32) + 1
            ).astype(self.dtype)
        # An unbounded side is drawn within +-1e3: a uniform draw over it does not exist.
        low, high = np.clip(self.low, -1e3, 1e3), np.clip(self.high, -1e3, 1e3)
        return jax.random.uniform(key, self.shape, self.dtype, low, high)

    def contains(self, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape != self.shape or x.dtype != self.dtype:
            return jnp.asarray(False)
        return jnp.all((x >= self.low) & (x <= self.high))


def describe(space: Space) -> dict[str, Any]:
    """The space as JSON-able values. Inverse: `described`."""
    if isinstance(space, Dict):
        return {"dict": {name: describe(part) for name, part in space.spaces.items()}}
    dtype = np.dtype(space.dtype).name
    if isinstance(space, Discrete):
        return {"discrete": space.n, "dtype": dtype}
    if isinstance(space, MultiDiscrete):
        return {"multi_discrete": list(space.nvec), "dtype": dtype}
    assert isinstance(space, Box)
    return {"box": [_spell(space.low), _spell(space.high)], "shape": list(space.shape), "dtype": dtype}


def described(description: Mapping[str, Any]) -> Space:
    """The space that `describe` gave this description of; KeyError or ValueError for anything else."""
    if "dict" in description:
        return Dict({name: described(part) for name, part in description["dict"].items()})
    dtype = description["dtype"]
    if "discrete" in description:
        return Discrete(description["discrete"], dtype)
    if "multi_discrete" in description:
        return MultiDiscrete(description["multi_discrete"], dtype)
    low, high = (np.reshape(bound, ()) if description["shape"] == [] else bound for bound in description["box"])
    return Box(low, high, description["shape"], dtype)


def _spell(bound: np.ndarray) -> list:
    """A bound in full, but with what repeats along leading axes said once."""
    while bound.ndim and (bound == bound[0]).all():
        bound = bound[0]
    return np.atleast_1d(bound).tolist()


class Dict(Space):
    """A dictionary of spaces."""

    def __init__(self, spaces: Mapping[str, Space]):
        self.spaces = dict(spaces)
        self.shape, self.dtype = (), None

    def __repr__(self) -> str:
        return f"Dict({self.spaces!r})"

    def sample(self, key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, len(self.spaces))
        return {name: space.sample(k) for (name, space), k in zip(self.spaces.items(), keys, strict=True)}

    def contains(self, x: Any) -> jax.Array:
        if set(x) != set(self.spaces):
            return jnp.asarray(False)
        return jnp.all(jnp.stack([space.contains(x[name]) for name, space in self.spaces.items()]))
