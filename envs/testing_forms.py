"""What `marl_suite.envs.testing` asks before anything runs: names, fields, shapes and dtypes; and how it compares."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.spaces import Dict, Discrete, MultiDiscrete, Space

_INFO = ("final_observation", "metrics", "payoff", "terminated", "truncated")
_TOLERANCE = 1e-5  # between compilations of the same step, which may round differently


class Named(Protocol):
    """What is checked, as messages call it."""

    @property
    def name(self) -> str: ...


def require(checked: Named, kept: Any, rule: str) -> None:
    if not kept:
        raise AssertionError(f"{checked.name}: {rule}")


def check_fields(env: Environment) -> None:
    """Names and fields: static, hashable, without arrays."""
    kind = type(env).__name__
    named = isinstance(getattr(env, "name", None), str) and env.name
    if not named:
        raise AssertionError(f"{kind}: an environment must have a name, a non-empty string")
    require(env, isinstance(env.num_agents, int) and env.num_agents >= 1, "num_agents must be a positive int")
    require(env, isinstance(env.version, int), "version must be an int")
    require(env, dataclasses.is_dataclass(env), f"{kind} must be a dataclass, @dataclass(frozen=True)")
    for name, value in _fields(env):
        rule = f"field {name} holds a jax array; fields are static, numbers to sweep belong in params"
        require(env, not isinstance(value, jax.Array), rule)
    try:
        hash(env)
    except TypeError as error:
        raise AssertionError(f"{env.name}: {kind} must be hashable, but {error}; is it frozen?") from error
    copy: Any = dataclasses.replace(env)  # pyright: ignore[reportArgumentType]
    require(env, copy == env and hash(copy) == hash(env), "an equal copy must be equal and hash alike")
    plain = not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(env.default_params))
    require(env, plain, "default_params must hold Python and numpy numbers; making jax arrays touches a device")


def _fields(env: Any) -> Iterator[tuple[str, Any]]:
    """Every value in the fields of a dataclass, also inside containers and nested dataclasses."""
    for field in dataclasses.fields(env):
        for value in jax.tree.leaves(getattr(env, field.name)):
            yield field.name, value
            if dataclasses.is_dataclass(value):
                yield from _fields(value)


def check_forms(env: Environment, params: PyTree) -> None:
    """Shapes, dtypes and structures, from tracing alone."""
    key, space = jax.random.key(0), env.action_space(params)
    actions = jax.ShapeDtypeStruct((env.num_agents, *space.shape), space.dtype)
    start = _trace(env, "reset", env.reset, key, params)
    require(env, len(start) == 2, f"reset must return (observation, state), got {len(start)} values")
    observation, state = start
    _check_observation(env, env.observation_space(params), observation, "the observation")
    weak = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(state) if leaf.weak_type]
    rule = "numbers in the state need a dtype, as in jnp.full(2, 0.5, jnp.float32), or all compiles twice; not so: "
    require(env, not weak, rule + ", ".join(weak))
    raw = _trace(env, "step_env", env.step_env, key, state, actions, params)
    require(env, len(raw) == 6, f"step_env must return six values, got {len(raw)}")
    _check_outcome(env, observation, raw)
    require_form(env, "the state after a step must have the form of the one after reset", raw[1], state)
    outcome = _trace(env, "step", env.step, key, state, actions, params)
    require_form(env, "step must return what step_env returns, in the same form", outcome, raw)
    _check_views(env, state, params)


def _trace(env: Environment, name: str, function: Any, *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except jax.errors.JAXTypeError as error:  # a branch on a traced value, and its kin
        reason = str(error).splitlines()[0]
        raise AssertionError(f"{env.name}: {name} cannot be traced by jax: {reason}") from error


def _check_observation(env: Environment, space: Space, observation: PyTree, what: str) -> None:
    """[N, ...] in the space's shape and dtype, leaf by leaf."""
    if not isinstance(space, Dict):
        require_array(env, what, observation, (env.num_agents, *space.shape), space.dtype)
        return
    same = isinstance(observation, dict) and set(observation) == set(space.spaces)
    require(env, same, f"{what} must be a dict with the keys of its space, {sorted(space.spaces)}")
    for name, part in space.spaces.items():
        _check_observation(env, part, observation[name], f"{what}[{name!r}]")


def _check_outcome(env: Environment, observation: PyTree, outcome: PyTree) -> None:
    """What `step` returns besides the state."""
    after, _, reward, terminated, truncated, info = outcome
    require_form(env, "the observation after step must have the form of the one after reset", after, observation)
    require_array(env, "the reward", reward, (env.num_agents,), np.float32)
    require_array(env, "terminated", terminated, (), bool)
    require_array(env, "truncated", truncated, (), bool)
    keys = isinstance(info, dict) and tuple(sorted(info)) == _INFO
    require(env, keys, f"info must be a dict with exactly the keys {', '.join(_INFO)}, got {sorted(info)}")
    require_form(env, "info['final_observation'] must look as observations do", info["final_observation"], observation)
    require_array(env, "info['payoff']", info["payoff"], (env.num_agents,), np.float32)
    require_array(env, "info['terminated']", info["terminated"], (), bool)
    require_array(env, "info['truncated']", info["truncated"], (), bool)
    require(env, isinstance(info["metrics"], dict), "info['metrics'] must be a dict")
    for name, value in info["metrics"].items():
        shaped = jnp.shape(value) in ((), (env.num_agents,)) and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        require(env, shaped, f"metric {name!r} must be a float scalar or [{env.num_agents}], got {form(value)}")


def _check_views(env: Environment, state: PyTree, params: PyTree) -> None:
    """`global_state` and `action_mask`, which are functions of the state."""
    view = _trace(env, "global_state", env.global_state, state, params)
    flat = len(jnp.shape(view)) == 1 and view.dtype == np.float32
    require(env, flat, f"global_state must be float32 [S], got {form(view)}")
    space = env.action_space(params)
    if isinstance(space, Discrete | MultiDiscrete):
        mask = _trace(env, "action_mask", env.action_mask, state, params)
        require_array(env, "action_mask", mask, (env.num_agents, space.num_choices), bool)


# ---------------------------------------------------------------------- comparing trees
def rows(tree: PyTree, index: Any) -> PyTree:
    """One step, or several, of a run."""

    def row(leaf: jax.Array) -> jax.Array:
        # Indexing in numpy compiles nothing; keys can only be indexed by jax.
        return leaf[index] if _is_key(leaf) else jnp.asarray(np.asarray(leaf)[index])

    return jax.tree.map(row, tree)


def form(leaf: Any) -> str:
    """Such as float32[5]."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return f"{dtype}{list(jnp.shape(leaf))}"


def _leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def require_array(env: Named, what: str, leaf: Any, shape: tuple[int, ...], dtype: Any) -> None:
    wanted = f"{np.dtype(dtype)}{list(shape)}"
    single = jax.tree.structure(leaf) == jax.tree.structure(0)
    require(env, single and form(leaf) == wanted, f"{what} must be {wanted}, got {form(leaf) if single else leaf}")


def require_form(env: Named, rule: str, given: PyTree, wanted: PyTree) -> None:
    """Same structure, shapes and dtypes."""
    ours, theirs = ({path: form(leaf) for path, leaf in _leaves(tree).items()} for tree in (given, wanted))
    for path in [*theirs, *ours]:
        here, there = ours.get(path, "nothing"), theirs.get(path, "nothing")
        require(env, here == there, f"{rule}: {path or 'it'} is {here}, not {there}")
    require(env, jax.tree.structure(given) == jax.tree.structure(wanted), f"{rule}: the tree differs")


def require_equal(env: Named, rule: str, given: PyTree, wanted: PyTree, tolerance: float = _TOLERANCE) -> None:
    """Same values; floats up to `tolerance`, everything else exactly."""
    theirs = _leaves(wanted)
    for path, leaf in _leaves(given).items():
        ours, other = _plain(leaf), _plain(theirs[path])
        if np.issubdtype(ours.dtype, np.floating):
            close = np.isclose(ours, other, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            close = ours == other
        if not np.all(close):
            where = np.unravel_index(np.argmin(close), np.shape(close))
            raise AssertionError(
                f"{env.name}: {rule}: {path or 'it'}{[int(i) for i in where]} is {ours[where]}, not {other[where]}"
            )


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def clone(tree: PyTree) -> PyTree:
    """The same tree with keys that may be used once more."""
    return jax.tree.map(lambda leaf: jax.random.clone(leaf) if _is_key(leaf) else leaf, tree)


def _plain(leaf: Any) -> np.ndarray:
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def require_contained(env: Named, space: Space, sources: dict[str, PyTree], rule: str) -> None:
    """Every value of every source, [T, N, ...] each, lies in `space`."""
    contains = jax.vmap(jax.vmap(space.contains))
    for source, inside in jax.jit(lambda values: {name: contains(v) for name, v in values.items()})(sources).items():
        if not np.all(inside):
            t, i = np.argwhere(~np.asarray(inside))[0]
            value = rows(sources[source], (t, i))
            raise AssertionError(f"{env.name}: {source} {rule}: {value}, of agent {i} at step {t}")
