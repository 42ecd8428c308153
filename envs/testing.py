"""Whether an environment keeps the contract of `marl_suite.envs.environment`: a public conformance suite.

Use it in the tests of a world of your own::

    from marl_suite.envs.testing import check_environment

    def test_my_world_keeps_the_contract():
        check_environment(MyWorld(num_agents=3))
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Environment, PyTree, at_least
from marl_suite.envs.spaces import Dict, Discrete, Space

_INFO = ("final_observation", "metrics", "payoff", "terminated", "truncated")
_TOLERANCE = 1e-5  # between compilations of the same step, which may round differently


class _Steps(NamedTuple):
    """A recorded run; every leaf has a leading time axis [T]."""

    state: PyTree
    observation: PyTree  # [T, N, ...], what the agents saw in `state`
    actions: jax.Array  # [T, N, ...]
    outcome: PyTree  # the six values of `step`
    allowed: jax.Array | None  # bool [T, N, A], the action mask in `state`; None for continuous actions


def check_environment(env: Environment, params: PyTree = None, num_steps: int = 200, seed: int = 0) -> None:
    """Plays `num_steps` random steps and compares everything that `env` says and does with the contract.

    It checks names, hashing and fields; shapes and dtypes of everything that is returned; that states can be
    scanned over; observations, actions and scripted players against the spaces; that a key is used once; that
    steps are deterministic and agree when jitted, vmapped and run op by op; and the auto-reset. When no episode
    ends within `num_steps` it warns and leaves the auto-reset out.

    Args:
        env: the environment.
        params: concrete parameters; its defaults when None.
        num_steps: steps to play, best more than an episode has.
        seed: of all random numbers.

    Raises:
        AssertionError: with one sentence that names the first rule that is broken, and where.
    """
    at_least("num_steps", num_steps, 1)
    _check_fields(env)
    params = env.default_params if params is None else params
    env.check_params(params)
    _check_forms(env, params)
    steps = _play_twice(env, params, num_steps, seed)
    _check_values(env, steps)
    _check_spaces(env, params, steps, seed)
    _check_vectorised(env, params, steps, seed)
    _check_op_by_op(env, params, steps, seed)


def _require(env: Environment, kept: Any, rule: str) -> None:
    if not kept:
        raise AssertionError(f"{env.name}: {rule}")


# ---------------------------------------------------------------------- what is there before anything runs
def _check_fields(env: Environment) -> None:
    """Names and fields: static, hashable, without arrays."""
    kind = type(env).__name__
    named = isinstance(getattr(env, "name", None), str) and env.name
    if not named:
        raise AssertionError(f"{kind}: an environment must have a name, a non-empty string")
    _require(env, isinstance(env.num_agents, int) and env.num_agents >= 1, "num_agents must be a positive int")
    _require(env, isinstance(env.version, int), "version must be an int")
    _require(env, dataclasses.is_dataclass(env), f"{kind} must be a dataclass, @dataclass(frozen=True)")
    for name, value in _fields(env):
        rule = f"field {name} holds a jax array; fields are static, numbers to sweep belong in params"
        _require(env, not isinstance(value, jax.Array), rule)
    try:
        hash(env)
    except TypeError as error:
        raise AssertionError(f"{env.name}: {kind} must be hashable, but {error}; is it frozen?") from error
    copy: Any = dataclasses.replace(env)  # pyright: ignore[reportArgumentType]
    _require(env, copy == env and hash(copy) == hash(env), "an equal copy must be equal and hash alike")
    plain = not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(env.default_params))
    _require(env, plain, "default_params must hold Python and numpy numbers; making jax arrays touches a device")


def _fields(env: Any) -> Iterator[tuple[str, Any]]:
    """Every value in the fields of a dataclass, also inside containers and nested dataclasses."""
    for field in dataclasses.fields(env):
        for value in jax.tree.leaves(getattr(env, field.name)):
            yield field.name, value
            if dataclasses.is_dataclass(value):
                yield from _fields(value)


def _check_forms(env: Environment, params: PyTree) -> None:
    """Shapes, dtypes and structures, from tracing alone."""
    key, space = jax.random.key(0), env.action_space(params)
    actions = jax.ShapeDtypeStruct((env.num_agents, *space.shape), space.dtype)
    start = _trace(env, "reset", env.reset, key, params)
    _require(env, len(start) == 2, f"reset must return (observation, state), got {len(start)} values")
    observation, state = start
    _check_observation(env, env.observation_space(params), observation, "the observation")
    raw = _trace(env, "step_env", env.step_env, key, state, actions, params)
    _require(env, len(raw) == 6, f"step_env must return six values, got {len(raw)}")
    _check_outcome(env, observation, raw)
    _require_form(env, "the state after a step must have the form of the one after reset", raw[1], state)
    outcome = _trace(env, "step", env.step, key, state, actions, params)
    _require_form(env, "step must return what step_env returns, in the same form", outcome, raw)
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
        _require_array(env, what, observation, (env.num_agents, *space.shape), space.dtype)
        return
    same = isinstance(observation, dict) and set(observation) == set(space.spaces)
    _require(env, same, f"{what} must be a dict with the keys of its space, {sorted(space.spaces)}")
    for name, part in space.spaces.items():
        _check_observation(env, part, observation[name], f"{what}[{name!r}]")


def _check_outcome(env: Environment, observation: PyTree, outcome: PyTree) -> None:
    """What `step` returns besides the state."""
    after, _, reward, terminated, truncated, info = outcome
    _require_form(env, "the observation after step must have the form of the one after reset", after, observation)
    _require_array(env, "the reward", reward, (env.num_agents,), np.float32)
    _require_array(env, "terminated", terminated, (), bool)
    _require_array(env, "truncated", truncated, (), bool)
    keys = isinstance(info, dict) and tuple(sorted(info)) == _INFO
    _require(env, keys, f"info must be a dict with exactly the keys {', '.join(_INFO)}, got {sorted(info)}")
    _require_form(env, "info['final_observation'] must look as observations do", info["final_observation"], observation)
    _require_array(env, "info['payoff']", info["payoff"], (env.num_agents,), np.float32)
    _require_array(env, "info['terminated']", info["terminated"], (), bool)
    _require_array(env, "info['truncated']", info["truncated"], (), bool)
    _require(env, isinstance(info["metrics"], dict), "info['metrics'] must be a dict")
    for name, value in info["metrics"].items():
        shaped = jnp.shape(value) in ((), (env.num_agents,)) and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        _require(env, shaped, f"metric {name!r} must be a float scalar or [{env.num_agents}], got {_form(value)}")


def _check_views(env: Environment, state: PyTree, params: PyTree) -> None:
    """`global_state` and `action_mask`, which are functions of the state."""
    view = _trace(env, "global_state", env.global_state, state, params)
    flat = len(jnp.shape(view)) == 1 and view.dtype == np.float32
    _require(env, flat, f"global_state must be float32 [S], got {_form(view)}")
    space = env.action_space(params)
    if isinstance(space, Discrete):
        mask = _trace(env, "action_mask", env.action_mask, state, params)
        _require_array(env, "action_mask", mask, (env.num_agents, space.n), bool)


# ---------------------------------------------------------------------- what a run shows
def _keys(seed: int, num_steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The keys of a run, made anew by each that needs them: reset [], actions [T], steps [T]."""
    reset_key, action_key, step_key = jax.random.split(jax.random.key(seed), 3)
    return reset_key, jax.random.split(action_key, num_steps), jax.random.split(step_key, num_steps)


def _play_twice(env: Environment, params: PyTree, num_steps: int, seed: int) -> _Steps:
    """A run of random allowed actions in one scan, played twice."""
    space = env.action_space(params)

    def play(keys: tuple[jax.Array, jax.Array, jax.Array], params: PyTree) -> _Steps:
        def step(carry: tuple[PyTree, PyTree], keys: tuple[jax.Array, jax.Array]) -> tuple[PyTree, _Steps]:
            observation, state = carry
            actions, allowed = _random_actions(env, space, keys[0], state, params)
            outcome = env.step(keys[1], state, actions, params)
            return outcome[:2], _Steps(state, observation, actions, outcome, allowed)

        reset_key, action_keys, step_keys = keys
        return jax.lax.scan(step, env.reset(reset_key, params), (action_keys, step_keys))[1]

    played = jax.jit(play)
    steps, again = (played(_keys(seed, num_steps), params) for _ in range(2))
    _require_equal(env, "equal keys must give equal steps", again, steps, tolerance=0.0)
    return steps


@contextlib.contextmanager
def _each_key_once(env: Environment) -> Iterator[None]:
    try:
        with jax.debug_key_reuse(True):
            yield
    except jax.errors.KeyReuseError as error:
        reason = str(error).splitlines()[0]
        raise AssertionError(f"{env.name}: a random key is used more than once: {reason}") from error


def _random_actions(
    env: Environment, space: Space, key: jax.Array, state: PyTree, params: PyTree
) -> tuple[jax.Array, jax.Array | None]:
    """Uniform draws from the allowed actions, and which are allowed."""
    if not isinstance(space, Discrete):
        return jax.vmap(space.sample)(jax.random.split(key, env.num_agents)), None
    allowed = env.action_mask(state, params)
    logits = jnp.where(allowed, 0.0, -jnp.inf)
    return jax.random.categorical(key, logits).astype(space.dtype), allowed


def _check_values(env: Environment, steps: _Steps) -> None:
    """Rewards, ends of episodes and masks of a run."""
    _, _, reward, terminated, truncated, info = steps.outcome
    _require(env, np.all(np.isfinite(reward)), "every reward must be finite")
    both = np.flatnonzero(np.asarray(terminated) & np.asarray(truncated))
    _require(env, both.size == 0, f"terminated and truncated must never both be true, as at step {both[:1]}")
    told = (info["terminated"], info["truncated"])
    rule = "info['terminated'] and info['truncated'] must be those that step returns"
    _require_equal(env, rule, told, (terminated, truncated), tolerance=0.0)
    if steps.allowed is not None:
        allowed = np.asarray(steps.allowed)
        _require(env, allowed.any(axis=-1).all(), "action_mask must allow every agent some action")
        rule = "action_mask forbids an action, so masks_actions must be True"
        _require(env, env.masks_actions or allowed.all(), rule)


def _check_spaces(env: Environment, params: PyTree, steps: _Steps, seed: int) -> None:
    """Observations, sampled actions and the actions of scripted players lie in their spaces."""
    final = steps.outcome[5]["final_observation"]
    observations = {"an observation": steps.observation, "info['final_observation']": final}
    _require_contained(env, env.observation_space(params), observations, "lies outside observation_space")
    space, players = env.action_space(params), env.players
    num_steps = len(steps.outcome[3])

    def act(observations: PyTree, key: jax.Array) -> dict[str, jax.Array]:
        """[T, N, ...] for every source of actions."""
        keys = jax.random.split(key, (1 + len(players), num_steps, env.num_agents))
        chosen = {"action_space.sample": jax.vmap(jax.vmap(space.sample))(keys[0])}
        for i, (name, player) in enumerate(players.items(), start=1):
            chosen[f"the scripted player {name!r}"] = jax.vmap(jax.vmap(player))(observations, keys[i])
        return chosen

    with _each_key_once(env):
        actions = jax.jit(act)(steps.observation, jax.random.key(seed))
    for who, chosen in actions.items():
        _require_array(env, f"the actions of {who}", _rows(chosen, 0), (env.num_agents, *space.shape), space.dtype)
    _require_contained(env, space, actions, f"gives an action outside {space}")


# ---------------------------------------------------------------------- one step in several ways
def _check_vectorised(env: Environment, params: PyTree, steps: _Steps, seed: int) -> None:
    """All steps of a run at once by `vmap`, where episodes end at some of them, and the parts of `step`."""
    num_steps = len(steps.outcome[3])

    def replay(key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree) -> tuple[PyTree, ...]:
        outcome = env.step(_clone(key), _clone(state), actions, params)
        step_key, reset_key = jax.random.split(key)  # as Environment.step does
        views = env.global_state(_clone(state), params)
        raw = env.step_env(step_key, state, actions, params)
        return outcome, raw, env.reset_env(reset_key, params), views

    replayed = jax.jit(jax.vmap(replay, in_axes=(0, 0, 0, None)))
    step_keys = _keys(seed, num_steps)[2]
    with _each_key_once(env):
        outcome, raw, fresh, views = replayed(step_keys, steps.state, steps.actions, params)
    _require(env, np.all(np.isfinite(views)), "global_state must be finite")
    _require_equal(env, "a vmapped step must equal single steps", outcome, steps.outcome)
    rule = "info['final_observation'] must be the observation of step_env, before any reset"
    _require_equal(env, rule, outcome[5]["final_observation"], raw[0])
    rule = "reward, terminated, truncated and info of step must be those of step_env"
    _require_equal(env, rule, outcome[2:], raw[2:])
    done = np.asarray(raw[3]) | np.asarray(raw[4])
    ongoing, ended = np.flatnonzero(~done), np.flatnonzero(done)
    rule = "where no episode ends, step must return the observation and state of step_env"
    _require_equal(env, rule, _rows(outcome[:2], ongoing), _rows(raw[:2], ongoing))
    if ended.size == 0:
        warnings.warn(f"{env.name}: no episode ended within {num_steps} steps; auto-reset unchecked", stacklevel=3)
    rule = "where an episode ends, step must return the observation and state of a fresh start"
    _require_equal(env, rule, _rows(outcome[:2], ended), _rows(fresh, ended))


def _check_op_by_op(env: Environment, params: PyTree, steps: _Steps, seed: int) -> None:
    """The first step, a middle one and one at which an episode ends, without compilation."""
    done = np.asarray(steps.outcome[3]) | np.asarray(steps.outcome[4])
    step_keys = _keys(seed, len(done))[2]
    for t in sorted({0, len(done) // 2, int(np.argmax(done))}):
        state, actions = _rows((steps.state, steps.actions), t)
        with jax.disable_jit():
            outcome = env.step(step_keys[t], state, actions, params)
        _require_form(env, "jitted or not, step must return the same form", outcome, _rows(steps.outcome, t))
        rule = f"jitted or not, step must return the same, but not at step {t}"
        _require_equal(env, rule, outcome, _rows(steps.outcome, t))


# ---------------------------------------------------------------------- comparing trees
def _rows(tree: PyTree, index: Any) -> PyTree:
    """One step, or several, of a run."""

    def row(leaf: jax.Array) -> jax.Array:
        # Indexing in numpy compiles nothing; keys can only be indexed by jax.
        return leaf[index] if _is_key(leaf) else jnp.asarray(np.asarray(leaf)[index])

    return jax.tree.map(row, tree)


def _form(leaf: Any) -> str:
    """Such as float32[5]."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return f"{dtype}{list(jnp.shape(leaf))}"


def _leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _require_array(env: Environment, what: str, leaf: Any, shape: tuple[int, ...], dtype: Any) -> None:
    wanted = f"{np.dtype(dtype)}{list(shape)}"
    single = jax.tree.structure(leaf) == jax.tree.structure(0)
    _require(env, single and _form(leaf) == wanted, f"{what} must be {wanted}, got {_form(leaf) if single else leaf}")


def _require_form(env: Environment, rule: str, given: PyTree, wanted: PyTree) -> None:
    """Same structure, shapes and dtypes."""
    ours, theirs = ({path: _form(leaf) for path, leaf in _leaves(tree).items()} for tree in (given, wanted))
    for path in [*theirs, *ours]:
        here, there = ours.get(path, "nothing"), theirs.get(path, "nothing")
        _require(env, here == there, f"{rule}: {path or 'it'} is {here}, not {there}")
    _require(env, jax.tree.structure(given) == jax.tree.structure(wanted), f"{rule}: the tree differs")


def _require_equal(env: Environment, rule: str, given: PyTree, wanted: PyTree, tolerance: float = _TOLERANCE) -> None:
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


def _clone(tree: PyTree) -> PyTree:
    """The same tree with keys that may be used once more."""
    return jax.tree.map(lambda leaf: jax.random.clone(leaf) if _is_key(leaf) else leaf, tree)


def _plain(leaf: Any) -> np.ndarray:
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _require_contained(env: Environment, space: Space, sources: dict[str, PyTree], rule: str) -> None:
    """Every value of every source, [T, N, ...] each, lies in `space`."""
    contains = jax.vmap(jax.vmap(space.contains))
    for source, inside in jax.jit(lambda values: {name: contains(v) for name, v in values.items()})(sources).items():
        if not np.all(inside):
            t, i = np.argwhere(~np.asarray(inside))[0]
            value = _rows(sources[source], (t, i))
            raise AssertionError(f"{env.name}: {source} {rule}: {value}, of agent {i} at step {t}")
