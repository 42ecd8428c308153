"""Games as PettingZoo environments, for learners that play one step at a time in Python::

    from marl_suite import make
    from marl_suite.envs.adapters.pettingzoo import to_pettingzoo

    env = to_pettingzoo(make("clean_up"), seed=3)
    observations, infos = env.reset()
    while env.agents:
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        observations, rewards, terminations, truncations, infos = env.step(actions)

Source: Terry et al. 2021, "PettingZoo: Gym for multi-agent reinforcement learning", version 1.27.
"""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.grid import drawing
from marl_suite.envs.grid.board import Board
from marl_suite.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space

try:
    from gymnasium import spaces as gymnasium_spaces
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise InputError('pettingzoo is not installed; pip install "marl-suite[pettingzoo]"') from error


class PettingZoo(ParallelEnv):
    """`game` as a `ParallelEnv` of the agents player_0, player_1, ...; see `to_pettingzoo`."""

    def __init__(self, game: Environment, params: PyTree, seed: int, render_mode: str | None):
        self.game, self.params = game, game.default_params if params is None else params
        game.check_params(self.params)
        modes = ["rgb_array"] if isinstance(game, Board) else []
        if render_mode is not None and render_mode not in modes:
            raise unknown_name(f"render mode of {game.name}", render_mode, modes)
        self.metadata = {"name": f"{game.name}_v{game.version}", "render_modes": modes, "render_fps": 8}
        self.render_mode = render_mode
        self.possible_agents = [f"player_{i}" for i in range(game.num_agents)]
        self.agents = []
        observed, self._acted = game.observation_space(self.params), game.action_space(self.params)
        # A space of its own for each: drawing from one must not move the random numbers of another.
        self.observation_spaces = {agent: to_gymnasium(observed) for agent in self.possible_agents}
        self.action_spaces = {agent: to_gymnasium(self._acted) for agent in self.possible_agents}
        self._key, self._state = jax.random.key(seed), None
        self._params = jax.device_put(self.params)

    def observation_space(self, agent: str) -> gymnasium_spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium_spaces.Space:
        return self.action_spaces[agent]

    @functools.cached_property
    def state_space(self) -> gymnasium_spaces.Box:
        """Of what `state` returns, without bounds."""
        _, state = jax.eval_shape(self.game.reset_env, self._key, self._params)
        shape = jax.eval_shape(self.game.global_state, state, self._params).shape
        return gymnasium_spaces.Box(-np.inf, np.inf, shape, np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Starts an episode: observations and infos by agent. `options` are not used."""
        if seed is not None:
            self._key = jax.random.key(seed)
        self._key, key = _split(self._key)
        observation, self._state = _reset_env(self.game, key, self._params)
        self.agents = self.possible_agents[:]
        return self._by_agent(observation), self._infos()

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Plays one step: observations, rewards, terminations, truncations and infos by agent, all of them empty
        when nobody is left.

        Raises:
            InputError: for an action that is missing, of somebody else, or outside the action space.
        """
        joint = self._joint(actions)
        if not self.agents:
            return {}, {}, {}, {}, {}
        self._key, key = _split(self._key)
        outcome = _step_env(self.game, key, self._state, joint, self._params)
        observation, self._state, reward, terminated, truncated, info = outcome
        played, ended = self.agents, (bool(terminated), bool(truncated))
        if any(ended):
            self.agents = []
        return (
            self._by_agent(observation),
            dict(zip(played, np.asarray(reward).tolist(), strict=True)),
            dict.fromkeys(played, ended[0]),
            dict.fromkeys(played, ended[1]),
            self._infos(info),
        )

    def state(self) -> np.ndarray:
        """float32 [S]: the game's `global_state`."""
        return np.array(_global_state(self.game, self._started(), self._params))

    def render(self) -> np.ndarray | None:
        """uint8 [H, W, 3]: a picture of a grid world, where `render_mode` asks for it."""
        if self.render_mode is None or not isinstance(self.game, Board):
            warnings.warn(f"{self} was made without a render mode, so there is no picture", stacklevel=2)
            return None
        return drawing.paint(self.game, jax.device_get(_scene(self.game, self._started())))

    def close(self) -> None:
        """There is nothing to close."""

    def _started(self) -> PyTree:
        if self._state is None:
            raise InputError(f"{self}: call reset() first")
        return self._state

    def _joint(self, actions: Mapping[str, Any]) -> np.ndarray | None:
        """The agents' actions side by side, [N, ...]; None when nobody is left."""
        if not self.agents:
            if actions:
                raise InputError(f"{self}: nobody is left to act; call reset() first")
            return None
        for agent in actions:
            if agent not in self.action_spaces:
                raise unknown_name(f"agent of {self}", agent, self.agents)
        for agent in self.agents:
            if agent not in actions:
                raise InputError(f"{self}: {agent} has no action; everybody acts at every step")
        return np.stack([self._action(agent, actions[agent]) for agent in self.agents])

    def _action(self, agent: str, action: Any) -> np.ndarray:
        """One agent's action as an array of the space's shape and dtype."""
        space, array = self._acted, np.asarray(action)
        fits = array.shape == space.shape and array.dtype.kind in ("fiu" if isinstance(space, Box) else "iu")
        if fits and isinstance(space, Discrete | MultiDiscrete):
            # Games clip continuous actions, but would quietly take another for a choice that does not exist.
            choices = space.n if isinstance(space, Discrete) else np.asarray(space.nvec)
            fits = bool(np.all((array >= 0) & (array < choices)))
        if not fits:
            raise InputError(f"{self}: {agent}'s action must lie in {space}, got {action!r}")
        return array.astype(space.dtype)

    def _by_agent(self, observation: PyTree) -> dict[str, Any]:
        """Numpy arrays, writable and apart from jax's memory."""
        arrays = jax.tree.map(np.array, jax.device_get(observation))
        # The ellipsis keeps an array where a plain index would give a number.
        return {agent: jax.tree.map(lambda x, i=i: x[i, ...], arrays) for i, agent in enumerate(self.possible_agents)}

    def _infos(self, info: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """What is known beside a step, and which actions the state allows, by agent."""
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.possible_agents}
        if info is not None:
            told = jax.device_get({"payoff": info["payoff"], **info["metrics"]})
            columns = {name: np.broadcast_to(x, self.game.num_agents).tolist() for name, x in told.items()}
            payoffs = columns.pop("payoff")
            for i, own in enumerate(infos.values()):
                own["payoff"] = payoffs[i]
                own["metrics"] = {name: column[i] for name, column in columns.items()}
        if self.game.masks_actions:
            masks = np.array(_action_mask(self.game, self._state, self._params), np.int8)
            for own, mask in zip(infos.values(), masks, strict=True):
                own["action_mask"] = _components(self._acted, mask)
        return infos


def to_pettingzoo(env: Environment, params: PyTree = None, seed: int = 0, render_mode: str | None = None) -> PettingZoo:
    """`env` as a PettingZoo `ParallelEnv`.

    Observations are numpy arrays or dicts of them, rewards floats, ends of episodes bools. An agent's info holds
    `payoff` (the material reward, whatever a wrapper makes of the reward), `metrics` (its own entry of those that
    have one per agent) and, in games that forbid actions, `action_mask` in the form that its action space's
    `sample(mask)` takes: int8 [A], or a tuple of such, one for each component of a `MultiDiscrete`.

    Keys: the stream begins with `key = jax.random.key(seed)`, anew at every `reset(seed)`; each `reset` and each
    `step` does `key, used = jax.random.split(key)` and hands `used` to the game's `reset_env` or `step_env`. Given
    these keys and the same actions, the trajectory is that of the jitted game, bit for bit. Equal games share their
    compiled programs.

    Args:
        env: the game.
        params: its parameters; the defaults when None.
        seed: of the random numbers until a `reset(seed)`.
        render_mode: "rgb_array", in grid worlds.

    Raises:
        InputError: for parameters or a render mode that the game does not have.
    """
    return PettingZoo(env, params, seed, render_mode)


def to_gymnasium(space: Space) -> gymnasium_spaces.Space:
    """`space` in gymnasium's terms, of the same dtype."""
    if isinstance(space, Discrete):
        return gymnasium_spaces.Discrete(space.n, dtype=space.dtype)
    if isinstance(space, MultiDiscrete):
        return gymnasium_spaces.MultiDiscrete(list(space.nvec), dtype=space.dtype)
    if isinstance(space, Box):
        return gymnasium_spaces.Box(space.low, space.high, space.shape, space.dtype)
    if isinstance(space, Dict):
        return gymnasium_spaces.Dict({name: to_gymnasium(part) for name, part in space.spaces.items()})
    raise InputError(f"no space of gymnasium's is like {space!r}")


def _components(space: Space, mask: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
    if not isinstance(space, MultiDiscrete):
        return mask
    return tuple(np.split(mask, np.cumsum(space.nvec)[:-1]))


# Compiled once for all equal games.
@jax.jit
def _split(key: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jax.random.split(key))


@functools.partial(jax.jit, static_argnums=0)
def _reset_env(env: Environment, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
    return env.reset_env(key, params)


@functools.partial(jax.jit, static_argnums=0)
def _step_env(env: Environment, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree) -> tuple:
    return env.step_env(key, state, actions, params)


@functools.partial(jax.jit, static_argnums=0)
def _action_mask(env: Environment, state: PyTree, params: PyTree) -> jax.Array:
    return env.action_mask(state, params)


@functools.partial(jax.jit, static_argnums=0)
def _global_state(env: Environment, state: PyTree, params: PyTree) -> jax.Array:
    return env.global_state(state, params)


@functools.partial(jax.jit, static_argnums=0)
def _scene(env: Board, state: PyTree) -> drawing.Scene:
    return drawing.scene(env, state)
