"""JaxMARL's environments as they are: made, and what this suite must know of them read off.

Source: Rutherford et al. (2024), "JaxMARL: Multi-Agent RL Environments and Algorithms in JAX", version 0.2.0.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.spaces import Box, Dict, Discrete, Space

# jaxmarl prints which of its parts are missing, and puts `sys.__stdout__` where a notebook or a test had put its own.
_STREAMS = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
try:
    sys.__dict__.update(stdout=sys.stderr, __stdout__=sys.stderr)
    import jaxmarl
    from jaxmarl.environments import spaces as jaxmarl_spaces
    from jaxmarl.environments.mpe.simple import SimpleMPE
    from jaxmarl.environments.multi_agent_env import MultiAgentEnv as MultiAgentEnv  # for the adapter
    from jaxmarl.environments.overcooked import overcooked_layouts
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO
except ImportError as error:
    raise InputError('jaxmarl is not installed; pip install "marl-suite[jaxmarl]"') from error
finally:
    sys.__dict__.update(_STREAMS)


class Game(NamedTuple):
    """A JaxMARL environment and what is read off it once."""

    env: Any
    observation_space: Space
    action_space: Space
    sizes: tuple[int, ...]  # of each agent's own actions: how many, or how many components
    allowed: Callable[[PyTree], Mapping[Any, jax.Array]] | None  # its action masks, where it has them


@functools.cache
def read(env_id: str, settings: tuple[tuple[str, Any], ...] = ()) -> Game:
    """The environment `env_id`, the same object for equal settings: JaxMARL compiles anew for every other.

    Raises:
        InputError: for an unknown name or setting, what is not installed, or agents that have no shape in common.
    """
    if env_id not in jaxmarl.registered_envs:
        raise unknown_name("jaxmarl environment", env_id, jaxmarl.registered_envs)
    with jax.ensure_compile_time_eval():
        env = _instance(env_id, dict(settings))
        try:
            views, state = jax.eval_shape(lambda key: by_agent(env, *env.reset(key)), jax.random.key(0))
        except (KeyError, IndexError):
            raise InputError(f"jaxmarl:{env_id}: its observations cannot be told apart by agent") from None
        action_space, sizes = _action_space(env_id, [env.action_space(agent) for agent in env.agents])
        spaces = [env.observation_space(agent) for agent in env.agents]
        allowed = _mask_of(env, state, sizes) if isinstance(action_space, Discrete) else None
        return Game(env, _observation_space(env_id, spaces, views), action_space, sizes, allowed)


def _instance(env_id: str, settings: dict[str, Any]) -> Any:
    try:
        env = jaxmarl.make(env_id, **_as_jaxmarl_takes_them(env_id, settings))
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise InputError(f"jaxmarl:{env_id}: {(str(error) or 'refused').splitlines()[0]}") from error
    if isinstance(env, SimpleMPE):  # whose constructors take any name and ignore those that they do not know
        constructors = [inspect.signature(cls.__init__) for cls in type(env).__mro__]
        known = {"damping", "contact_force", "contact_margin"}.union(*(each.parameters for each in constructors))
        for name in sorted({*settings} - (known - {"self", "args", "kwargs"})):
            raise unknown_name(f"setting of jaxmarl:{env_id}", name, known - {"self", "args", "kwargs"})
    return env


def _as_jaxmarl_takes_them(env_id: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with the scenarios and layouts that names stand for, and storm's payoffs as an array."""
    settings = dict(settings)
    if env_id.startswith("storm") and "payoff_matrix" in settings:
        settings["payoff_matrix"] = np.asarray(settings["payoff_matrix"])
    tables = {"scenario": MAP_NAME_TO_SCENARIO} if "SMAX" in env_id else {}
    tables |= {"layout": overcooked_layouts} if env_id == "overcooked" else {}
    for name, table in tables.items():
        if name in settings and settings[name] not in table:
            raise unknown_name(f"{name} of jaxmarl:{env_id}", settings[name], table)
        settings |= {name: table[settings[name]]} if name in settings else {}
    return settings


def _observation_space(env_id: str, spaces: list[Any], views: list[Any]) -> Space:
    """Float32, of the agents' common shape or the longest of their vectors."""
    if isinstance(views[0], dict):
        parts = {
            name: _observation_space(env_id, [space[name] for space in spaces], [view[name] for view in views])
            for name in views[0]
        }
        return Dict(parts)
    shapes = {view.shape for view in views}
    if len(shapes) > 1 and any(len(shape) != 1 for shape in shapes):
        raise InputError(f"jaxmarl:{env_id}: agents that see {sorted(shapes)} cannot be brought into one shape")
    lows, highs = zip(*(_bounds(space) for space in spaces), strict=True)
    padding = [0.0] if len(shapes) > 1 else []
    return Box(min([*lows, *padding]), max([*highs, *padding]), max(shapes))


def _bounds(space: Any) -> tuple[float, float]:
    if isinstance(space, jaxmarl_spaces.MultiDiscrete):
        return 0.0, float(np.max(space.num_categories)) - 1
    return float(np.min(space.low)), float(np.max(space.high))


def _action_space(env_id: str, spaces: list[Any]) -> tuple[Space, tuple[int, ...]]:
    """The widest of the agents' spaces, and how wide each is."""
    if all(isinstance(space, jaxmarl_spaces.Discrete) for space in spaces):
        sizes = tuple(int(space.n) for space in spaces)
        return Discrete(max(sizes)), sizes
    if not all(isinstance(space, jaxmarl_spaces.Box) and len(space.shape) == 1 for space in spaces):
        kinds = sorted({type(space).__name__ for space in spaces})
        raise InputError(f"jaxmarl:{env_id}: actions must all be Discrete or all be vectors, got {', '.join(kinds)}")
    boxes = [Box(np.asarray(space.low), np.asarray(space.high), space.shape) for space in spaces]
    sizes, widest = tuple(box.shape[0] for box in boxes), max(boxes, key=lambda box: box.shape[0])
    for box, size in zip(boxes, sizes, strict=True):
        if (box.low != widest.low[:size]).any() or (box.high != widest.high[:size]).any():
            raise InputError(f"jaxmarl:{env_id}: agents whose actions have different bounds: {box} and {widest}")
    return widest, sizes


def _mask_of(env: Any, state: PyTree, sizes: tuple[int, ...]) -> Callable[[PyTree], Mapping[Any, jax.Array]] | None:
    allowed = getattr(env, "get_legal_moves", env.get_avail_actions)  # hanabi's own name for it
    try:
        masks = jax.eval_shape(allowed, state)
    except NotImplementedError:
        return None
    fits = all(masks[agent].shape == (size,) for agent, size in zip(env.agents, sizes, strict=True))
    return allowed if fits else None  # jaxnav gives two ones, whatever its actions


def by_agent(env: Any, observation: Any, state: PyTree) -> tuple[list[PyTree], PyTree]:
    """What each agent sees, in a list, and the state."""
    return [observation[agent] for agent in env.agents], state


def own_parts(game: Game, actions: jax.Array) -> Any:
    """Each agent's own part of `actions` [N, ...], as JaxMARL takes them."""
    if isinstance(game.action_space, Discrete):
        actions = jnp.minimum(actions, np.asarray(game.sizes, actions.dtype) - 1)
        parts = list(actions)
    else:
        parts = [actions[i, :size] for i, size in enumerate(game.sizes)]
    named = isinstance(game.env.agents[0], str)
    return dict(zip(game.env.agents, parts, strict=True)) if named else actions  # storm numbers its agents


def stack_views(*views: Any) -> jax.Array:
    """float32 [N, ...] from one array per agent, vectors padded with zeros to the longest."""
    longest = max(view.shape for view in views)
    padded = [jnp.pad(view, (0, longest[0] - len(view))) if view.shape != longest else view for view in views]
    return jnp.stack(padded).astype(jnp.float32)


# ---------------------------------------------------------------------- how episodes end
def always(env: Any, state: PyTree) -> Any:
    return True


def never(env: Any, state: PyTree) -> Any:
    return False


def both_teams_live(env: Any, state: PyTree) -> jax.Array:
    alive = getattr(state, "state", state).unit_alive  # with an enemy of its own, SMAX's state is one part of it
    return alive[: env.num_allies].any() & alive[env.num_allies :].any()


def somebody_drives(env: Any, state: PyTree) -> jax.Array:
    return ~jnp.stack([state.goal_reached, state.move_term, state.term]).any(0).all()


CUT: dict[str, Callable[[Any, PyTree], Any]] = {
    **dict.fromkeys(("MPE_", "storm", "coin_game", "overcooked"), always),
    **dict.fromkeys(("hanabi", "switch_riddle"), never),
    **dict.fromkeys(("SMAX", "HeuristicEnemySMAX", "LearnedPolicyEnemySMAX"), both_teams_live),
    "jaxnav": somebody_drives,
}
"""Whether the clock has ended an episode that is done, by the start of the id: (environment, its state) -> bool."""
