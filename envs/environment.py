"""The environment contract: a multi-agent game as pure JAX functions.

gymnax 1.0's six-tuple with a leading agent axis `N`::

    env = marl_suite.make("public_goods", num_agents=5)
    params = env.default_params
    obs, state = env.reset(key, params)
    obs, state, reward, terminated, truncated, info = env.step(key, state, actions, params)

An environment is a frozen dataclass: its fields are static (they fix shapes), it is hashable and holds no
arrays. Every number that a scientist sweeps is a leaf of `params` and is traced.

To write one, subclass `Environment` and give `default_params`, `observation_space`, `action_space`,
`initial_state`, `transition` and `observe`; `marl_suite.envs.testing.check_environment` then says whether
the result keeps the contract.
"""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.spaces import Discrete, MultiDiscrete, Space

PyTree: TypeAlias = Any
Metrics: TypeAlias = dict[str, jax.Array]
Player: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""A scripted player of one agent: (observation, key) -> action, without memory of its own."""


@custom_vmap
def any_in_batch(x: jax.Array) -> jax.Array:
    """`jnp.any(x)` that also reduces over every axis it is vmapped over.

    Its result stays a plain scalar under `vmap`, so a `lax.cond` on it remains a branch instead of becoming a
    select that computes both sides for every environment at every step.
    """
    return jnp.any(x)


@any_in_batch.def_vmap
def any_in_batch_vmapped(axis_size: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return any_in_batch(jnp.any(x)), False


def random_player(env: "Environment", params: PyTree = None) -> Player:
    """The player that draws every action uniformly."""
    space = env.action_space(params)
    return lambda observation, key: space.sample(key)


def in_every_seat(player: Player, num_agents: int) -> Callable[[PyTree, jax.Array], jax.Array]:
    """(observation [E, N, ...], key) -> actions [E, N, ...]: `player` plays all seats, with a key for each."""

    def act(observation: PyTree, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, (jax.tree.leaves(observation)[0].shape[0], num_agents))
        return jax.vmap(jax.vmap(player))(observation, keys)

    return act


def per_episode(means: Metrics, *names: str) -> Metrics:
    """`means` with the metrics `names` per episode instead of per step, for `Environment.derived_metrics`.

    Such a metric speaks of a whole episode: it is reported by the episode's last step and 0 before. So is the metric
    "episodes", 1 on every last step, which is left out of the result. Without a finished episode they are NaN.
    """
    return per_count("episodes", means, names)


def per_count(count: str, means: Metrics, names: Collection[str] | None = None) -> Metrics:
    """`means` with the metrics `names`, all when None, per what the metric `count` counts instead of per step.

    `count` itself, such as "rounds", 1 on the last step of each, is left out of the result.
    """
    rest = {name: mean for name, mean in means.items() if name != count}
    return rest | {name: rest[name] / means[count] for name in (rest if names is None else names)}


class Environment:
    """A game of `num_agents` players that share one clock. See the module docstring for the contract."""

    name: str
    num_agents: int
    version: ClassVar[int] = 1
    """Changes whenever the trajectories of a seed change."""
    mixed_motive: ClassVar[bool] = False
    """Whether individual and collective interest can part, so that tables add a row against the exploiter."""
    exploiter: ClassVar[str | None] = None
    """The name of the scripted player that takes most from a cooperative population."""
    cooperator: ClassVar[str | None] = None
    """The scripted player that does what is best if all do it, and"""
    defector: ClassVar[str | None] = None
    """the one that looks after itself: the two that a Schelling diagram compares."""
    definitions: ClassVar[Mapping[str, str]] = {}
    """What scripted players do, in a sentence each."""
    masks_actions: ClassVar[bool] = False
    """Whether `action_mask` ever forbids an action."""

    # ------------------------------------------------------------------ what a subclass gives
    @property
    def default_params(self) -> PyTree:
        """The numbers of the source, as a pytree of Python and numpy scalars and arrays."""
        raise NotImplementedError

    def observation_space(self, params: PyTree = None) -> Space:
        """The space of one agent's observation."""
        raise NotImplementedError

    def action_space(self, params: PyTree = None) -> Space:
        """The space of one agent's action."""
        raise NotImplementedError

    def initial_state(self, key: jax.Array, params: PyTree) -> PyTree:
        """A first state."""
        raise NotImplementedError

    def transition(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, jax.Array, jax.Array, Metrics]:
        """One step of the rules: the next state, reward [N], terminated (scalar bool) and the step's metrics."""
        raise NotImplementedError

    def observe(self, state: PyTree, params: PyTree) -> PyTree:
        """What every agent sees in `state`: [N, ...] or a dict of such."""
        raise NotImplementedError

    def is_truncated(self, state: PyTree, params: PyTree) -> jax.Array:
        """Scalar bool: whether the clock (`state.time`, in steps taken) has run out."""
        return state.time >= params.max_steps

    def action_mask(self, state: PyTree, params: PyTree = None) -> jax.Array:
        """bool [N, A]: which actions are allowed; not for continuous ones.

        Where actions have several components (`MultiDiscrete`), their rows stand side by side, and each component
        keeps a value: one that does not matter in this step keeps the 0 alone.
        """
        space = self.action_space(params)
        if not isinstance(space, Discrete | MultiDiscrete):
            raise TypeError(f"{self.name} has continuous actions, so there is no action mask")
        return jnp.ones((self.num_agents, space.num_choices), bool)

    def global_state(self, state: PyTree, params: PyTree = None) -> jax.Array:
        """float32 [S]: everything there is to know, for central critics. Default: all observations in a row."""
        leaves = jax.tree.leaves(self.observe(state, params))
        return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves])

    def stage_payoffs(self, params: PyTree = None) -> jax.Array | None:
        """float32 [N, A, ..., A]: what each joint action pays, in endless repeated games that show their players the
        memory-one state of `marl_suite.games.repeated`, one-hot or its index (`Discrete`); None in all others."""
        return None

    @property
    def summary(self) -> str:
        """The game in one sentence: the first line of the docstring."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    @property
    def players(self) -> Mapping[str, Player]:
        """The scripted players of this game, by name."""
        return {"random": random_player(self)}

    def static_values(self) -> dict[str, Any]:
        """The static settings as they are, by name: `make(name, **values)`, less a `name`, is this game again."""
        return {name: getattr(self, name) for name in static_settings(type(self))}

    def derived_metrics(self, means: Metrics) -> Metrics:
        """What tables show, from each metric's mean over all steps of many episodes; ratios belong here."""
        return means

    def check_params(self, params: PyTree) -> None:
        """Raises `InputError` when concrete `params` lie outside the game's domain."""

    # ------------------------------------------------------------------ what everybody calls
    def reset(self, key: jax.Array, params: PyTree = None) -> tuple[PyTree, PyTree]:
        """Starts an episode: observation [N, ...] and state."""
        return self.reset_env(key, self.default_params if params is None else params)

    def step(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree = None
    ) -> tuple[PyTree, PyTree, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """Plays one step and starts a new episode where the old one ended.

        Args:
            key: used up by this call.
            state: the state the agents saw.
            actions: int32 [N], [N, D] where an action has D components, or float for continuous games.
            params: traced parameters; the defaults when None.

        Returns:
            observation [N, ...], state, reward float32 [N], terminated, truncated (scalar bools) and `info`:
            `terminated`, `truncated`, `final_observation` (the true last observation, before any reset),
            `payoff` (the material reward [N], whatever a wrapper makes of `reward`) and `metrics`.
        """
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        observation, state, reward, terminated, truncated, info = self.step_env(step_key, state, actions, params)
        observation, state = self.auto_reset(reset_key, terminated | truncated, observation, state, params)
        return observation, state, reward, terminated, truncated, info

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """`reset` with its parameters given."""
        state = self.initial_state(key, params)
        return self.observe(state, params), state

    def step_env(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, PyTree, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """`step` without the auto-reset."""
        state, reward, terminated, metrics = self.transition(key, state, actions, params)
        truncated = self.is_truncated(state, params) & ~terminated
        observation = self.observe(state, params)
        info = {
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": observation,
            "payoff": reward,
            "metrics": metrics,
        }
        return observation, state, reward, terminated, truncated, info

    def auto_reset(
        self, key: jax.Array, done: jax.Array, observation: PyTree, state: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree]:
        """A fresh (observation, state) where `done`, the given one elsewhere.

        Under `vmap` the reset is computed only on steps at which some environment of the batch is done.
        """

        def fresh() -> tuple[PyTree, PyTree]:
            start = self.reset_env(key, params)
            return jax.tree.map(lambda new, old: jnp.where(done, new, old), start, (observation, state))

        return jax.lax.cond(any_in_batch(done), fresh, lambda: (observation, state))

    def make_params(self, **overrides: Any) -> PyTree:
        """The default parameters with some replaced.

        Raises:
            InputError: for a name that is not a parameter, a value of another shape or kind, or one that the
                game does not allow.
        """
        params = self.default_params
        known = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
        for name, value in overrides.items():
            if name not in known:
                raise unknown_name(f"parameter of {self.name}", name, known)
            overrides[name] = _like(f"{self.name}: parameter {name}", known[name], value)
        params = dataclasses.replace(params, **overrides)
        self.check_params(params)
        return params


def _like(what: str, default: Any, value: Any) -> Any:
    """`value` as the kind of number that `default` is; raises `InputError` when it is not one."""
    if isinstance(value, jax.Array):
        return value
    wanted = np.asarray(default)
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise InputError(f"{what} must be a number like {wanted.tolist()}, got {value!r}")
    if array.shape != wanted.shape:
        raise InputError(f"{what} must have shape {wanted.shape}, got {value!r} of shape {array.shape}")
    if np.issubdtype(wanted.dtype, np.integer) and np.any(array != np.round(array)):
        raise InputError(f"{what} must be a whole number like {wanted.tolist()}, got {value!r}")
    if not np.all(np.isfinite(array.astype(float))):
        raise InputError(f"{what} must be finite, got {value!r}")
    array = array.astype(wanted.dtype)
    return array if isinstance(default, np.ndarray) else array.item()


def static_settings(cls: type) -> dict[str, dataclasses.Field]:
    """The static settings (constructor arguments) of an environment class, by name."""
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def one_of(what: str, value: str, valid: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raises `InputError` naming the closest valid value when `value` is not among `valid`."""
    if value not in valid:
        close = difflib.get_close_matches(str(value), list(valid), n=1, cutoff=0.0)
        raise InputError(f"{what} must be one of {', '.join(valid)}, got {value!r}; closest: {close[0]!r}")


def at_least(what: str, value: Any, least: float) -> None:
    """Raises `InputError` when a concrete number is not at least `least`; traced values pass."""
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) >= least):
        raise InputError(f"{what} must be at least {least}, got {value}")


def at_most(what: str, value: Any, most: float) -> None:
    """Raises `InputError` when a concrete number is not at most `most`; traced values pass."""
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) <= most):
        raise InputError(f"{what} must be at most {most}, got {value}")
