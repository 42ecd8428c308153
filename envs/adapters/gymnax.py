"""gymnax environments as one-agent games, for checking learners on problems with known returns.

The way out, games as gymnax environments, is `to_gymnax`, in `marl_suite.envs.adapters.to_gymnax`.

Source: Lange 2022, "gymnax: A JAX-based reinforcement learning environment library", version 1.0.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.spaces import Box, Dict, Discrete, Space

try:
    import gymnax
    from gymnax.environments import spaces as gymnax_spaces
except ImportError as error:
    raise InputError('gymnax is not installed; pip install "gymnax>=1.0.1"') from error


class State(struct.PyTreeNode):
    """gymnax's state and the observation it came with: gymnax may draw an observation or base it on the action."""

    inner: PyTree  # gymnax's own
    observation: PyTree  # [1, ...] or a dict of such


@dataclasses.dataclass(frozen=True)
class Gymnax(Environment):
    """One agent alone in a gymnax environment, step for step as gymnax plays it.

    Parameters are gymnax's own (`max_steps_in_episode` among them), and so are the keys: `reset` and `step` give
    gymnax's trajectory for the same key. Rewards are float32 and observations have the dtype of gymnax's space,
    which not all of its environments keep to. The space's bounds are passed on as gymnax states them: those of
    MemoryChain-bsuite, GaussianBandit-misc and MetaMaze-misc are too tight in 1.0.1. There are no metrics.
    """

    env_id: str
    settings: tuple[tuple[str, Any], ...] = ()
    name: str = dataclasses.field(default="", init=False)
    num_agents: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"gymnax:{self.env_id}")

    @property
    def game(self) -> Any:
        """The gymnax environment, the same object for equal ids and settings."""
        return _instance(self.env_id, self.settings)

    @property
    def default_params(self) -> PyTree:
        with jax.ensure_compile_time_eval():
            return jax.tree.map(_as_numpy, self.game.default_params)

    def observation_space(self, params: PyTree = None) -> Space:
        """gymnax's space; its bounds may depend on `params`, which must then be concrete."""
        with jax.ensure_compile_time_eval():
            return _convert(self.game.observation_space(self.default_params if params is None else params))

    def action_space(self, params: PyTree = None) -> Space:
        """gymnax's space; its bounds may depend on `params`, which must then be concrete."""
        with jax.ensure_compile_time_eval():
            return _convert(self.game.action_space(self.default_params if params is None else params))

    def static_values(self) -> dict[str, Any]:
        """gymnax's settings, as `make` takes them."""
        return dict(self.settings)

    def initial_state(self, key: jax.Array, params: PyTree) -> State:
        return self._state(*self.game.reset_env(key, _as_jax(params)))

    def transition(
        self, key: jax.Array, state: State, actions: jax.Array, params: PyTree
    ) -> tuple[State, jax.Array, jax.Array, Metrics]:
        outcome = self.game.step_env(key, state.inner, actions[0], _as_jax(params))
        observation, inner, reward, terminated, _ = outcome
        reward = jnp.asarray(reward, jnp.float32).reshape(1)
        return self._state(observation, inner), reward, jnp.asarray(terminated, bool).reshape(()), {}

    def observe(self, state: State, params: PyTree) -> PyTree:
        return state.observation

    def is_truncated(self, state: State, params: PyTree) -> jax.Array:
        return self.game.is_truncated(state.inner, params)

    def _state(self, observation: PyTree, inner: PyTree) -> State:
        # gymnax starts its clock at a Python 0: the dtypes are fixed here, so that a state can be scanned over.
        inner = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), inner)
        return State(inner=inner, observation=_one_agent(self.observation_space(), observation))


def from_gymnax(env_id: str, **settings: Any) -> Environment:
    """The gymnax environment `env_id` as a game of one agent.

    Args:
        env_id: gymnax's name, such as "CartPole-v1".
        **settings: what gymnax's constructor takes, such as `size` of "DeepSea-bsuite".

    Raises:
        InputError: for an unknown name or setting.
    """
    if env_id not in gymnax.registered_envs:
        raise unknown_name("gymnax environment", env_id, gymnax.registered_envs)
    env = Gymnax(env_id, tuple(sorted((name, _hashable(value)) for name, value in settings.items())))
    try:
        _instance(env.env_id, env.settings)
    except TypeError as error:  # a keyword that the constructor lacks, or a value that cannot be hashed
        raise InputError(f"gymnax:{env_id}: {error}") from error
    return env


@functools.cache
def _instance(env_id: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    # gymnax hashes an environment by identity: another instance would compile everything anew.
    return gymnax.make(env_id, **dict(settings))[0]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value  # JSON has lists for tuples


def _as_numpy(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf


def _as_jax(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, params)  # a numpy parameter cannot be indexed by a traced action


def _convert(space: Any) -> Space:
    if isinstance(space, gymnax_spaces.Discrete):
        return Discrete(int(space.n), space.dtype)
    if isinstance(space, gymnax_spaces.Box):
        return Box(np.asarray(space.low), np.asarray(space.high), space.shape, space.dtype)
    if isinstance(space, gymnax_spaces.Dict):
        return Dict({name: _convert(part) for name, part in space.spaces.items()})
    raise InputError(f"gymnax's {type(space).__name__} spaces are not supported; Discrete, Box and Dict are")


def _one_agent(space: Space, observation: PyTree) -> PyTree:
    if isinstance(space, Dict):
        return {name: _one_agent(part, observation[name]) for name, part in space.spaces.items()}
    return jnp.asarray(observation, space.dtype)[None]
