"""Whether an environment keeps the contract of `marl_suite.envs.environment`: a public conformance suite.

Use it in the tests of a world of your own::

    from marl_suite.envs.testing import check_environment

    def test_my_world_keeps_the_contract():
        check_environment(MyWorld(num_agents=3))
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Environment, PyTree, at_least
from marl_suite.envs.spaces import Discrete, MultiDiscrete, Space
from marl_suite.envs.testing_forms import (
    check_fields,
    check_forms,
    clone,
    require,
    require_array,
    require_contained,
    require_equal,
    require_form,
    rows,
)


class _Steps(NamedTuple):
    """A recorded run; every leaf has a leading time axis [T]."""

    state: PyTree
    observation: PyTree  # [T, N, ...], what the agents saw in `state`
    actions: jax.Array  # [T, N, ...]
    outcome: PyTree  # the six values of `step`
    allowed: jax.Array | None  # bool [T, N, num_choices], the action mask in `state`; None for continuous actions


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
    check_fields(env)
    params = env.default_params if params is None else params
    env.check_params(params)
    check_forms(env, params)
    steps = _play_twice(env, params, num_steps, seed)
    _check_values(env, env.action_space(params), steps)
    _check_spaces(env, params, steps, seed)
    _check_vectorised(env, params, steps, seed)
    _check_op_by_op(env, params, steps, seed)


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
    require_equal(env, "equal keys must give equal steps", again, steps, tolerance=0.0)
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
    if not isinstance(space, Discrete | MultiDiscrete):
        return jax.vmap(space.sample)(jax.random.split(key, env.num_agents)), None
    allowed = env.action_mask(state, params)
    logits = jnp.where(space.by_component(allowed, False), 0.0, -jnp.inf)
    return jax.random.categorical(key, logits).astype(space.dtype), allowed


def _check_values(env: Environment, space: Space, steps: _Steps) -> None:
    """Rewards, ends of episodes and masks of a run."""
    _, _, reward, terminated, truncated, info = steps.outcome
    require(env, np.all(np.isfinite(reward)), "every reward must be finite")
    both = np.flatnonzero(np.asarray(terminated) & np.asarray(truncated))
    require(env, both.size == 0, f"terminated and truncated must never both be true, as at step {both[:1]}")
    told = (info["terminated"], info["truncated"])
    rule = "info['terminated'] and info['truncated'] must be those that step returns"
    require_equal(env, rule, told, (terminated, truncated), tolerance=0.0)
    if steps.allowed is not None and isinstance(space, Discrete | MultiDiscrete):
        allowed = np.asarray(steps.allowed)
        some = space.by_component(steps.allowed, False).any(axis=-1).all()
        require(env, some, "action_mask must allow every agent some action, in each component")
        rule = "action_mask forbids an action, so masks_actions must be True"
        require(env, env.masks_actions or allowed.all(), rule)


def _check_spaces(env: Environment, params: PyTree, steps: _Steps, seed: int) -> None:
    """Observations, sampled actions and the actions of scripted players lie in their spaces."""
    final = steps.outcome[5]["final_observation"]
    observations = {"an observation": steps.observation, "info['final_observation']": final}
    require_contained(env, env.observation_space(params), observations, "lies outside observation_space")
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
        require_array(env, f"the actions of {who}", rows(chosen, 0), (env.num_agents, *space.shape), space.dtype)
    require_contained(env, space, actions, f"gives an action outside {space}")


# ---------------------------------------------------------------------- one step in several ways
def _check_vectorised(env: Environment, params: PyTree, steps: _Steps, seed: int) -> None:
    """All steps of a run at once by `vmap`, where episodes end at some of them, and the parts of `step`."""
    num_steps = len(steps.outcome[3])

    def replay(key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree) -> tuple[PyTree, ...]:
        outcome = env.step(clone(key), clone(state), actions, params)
        step_key, reset_key = jax.random.split(key)  # as Environment.step does
        views = env.global_state(clone(state), params)
        raw = env.step_env(step_key, state, actions, params)
        return outcome, raw, env.reset_env(reset_key, params), views

    replayed = jax.jit(jax.vmap(replay, in_axes=(0, 0, 0, None)))
    step_keys = _keys(seed, num_steps)[2]
    with _each_key_once(env):
        outcome, raw, fresh, views = replayed(step_keys, steps.state, steps.actions, params)
    require(env, np.all(np.isfinite(views)), "global_state must be finite")
    require_equal(env, "a vmapped step must equal single steps", outcome, steps.outcome)
    rule = "info['final_observation'] must be the observation of step_env, before any reset"
    require_equal(env, rule, outcome[5]["final_observation"], raw[0])
    rule = "reward, terminated, truncated and info of step must be those of step_env"
    require_equal(env, rule, outcome[2:], raw[2:])
    done = np.asarray(raw[3]) | np.asarray(raw[4])
    ongoing, ended = np.flatnonzero(~done), np.flatnonzero(done)
    rule = "where no episode ends, step must return the observation and state of step_env"
    require_equal(env, rule, rows(outcome[:2], ongoing), rows(raw[:2], ongoing))
    if ended.size == 0:
        warnings.warn(f"{env.name}: no episode ended within {num_steps} steps; auto-reset unchecked", stacklevel=3)
    rule = "where an episode ends, step must return the observation and state of a fresh start"
    require_equal(env, rule, rows(outcome[:2], ended), rows(fresh, ended))


def _check_op_by_op(env: Environment, params: PyTree, steps: _Steps, seed: int) -> None:
    """The first step, a middle one and one at which an episode ends, without compilation."""
    done = np.asarray(steps.outcome[3]) | np.asarray(steps.outcome[4])
    step_keys = _keys(seed, len(done))[2]
    for t in sorted({0, len(done) // 2, int(np.argmax(done))}):
        state, actions = rows((steps.state, steps.actions), t)
        with jax.disable_jit():
            outcome = env.step(step_keys[t], state, actions, params)
        require_form(env, "jitted or not, step must return the same form", outcome, rows(steps.outcome, t))
        rule = f"jitted or not, step must return the same, but not at step {t}"
        require_equal(env, rule, outcome, rows(steps.outcome, t))
