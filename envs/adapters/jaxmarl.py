"""JaxMARL's environments as games of this suite, and this suite's games as JaxMARL environments.

Source: Rutherford et al. (2024), "JaxMARL: Multi-Agent RL Environments and Algorithms in JAX", version 0.2.0.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.adapters import jaxmarl_games
from marl_suite.envs.adapters.jaxmarl_games import MultiAgentEnv, jaxmarl_spaces
from marl_suite.envs.environment import Environment, Metrics, PyTree, one_of
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space


# ---------------------------------------------------------------------- ours, seen by JaxMARL
class AsJaxMARL(MultiAgentEnv):
    """A game of this suite behind JaxMARL's interface: dictionaries by agent, "agent_0" and on.

    For the same keys and actions it plays the game's own trajectory, resets included. The clock's end and the game's
    are both `done`, as JaxMARL knows no other; `info` tells them apart: `terminated`, `truncated`, `payoff` and
    `metrics`, each with one number per agent, because JaxMARL's training loops reshape all of `info` so. The true last
    observation would not survive that: ask for it by `final_observation` and use `LogWrapper(env, replace_info=True)`.

    Observations that are arrays stay as they are. JaxMARL's wrappers and networks take no others, so a `Discrete` one
    becomes a one-hot vector, and a dictionary one float32 vector: its parts in order, planes of whole numbers [H, W, C]
    one-hot over 1 .. highest (0, which is nothing, is all zeros), other numbers as they are.

    `get_avail_actions` is the action mask, float32 and of the game's width where actions have several components.
    `CTRolloutManager` asks only SMAX for it: `manager.get_valid_actions = jax.vmap(env.get_avail_actions)` makes it
    ask any game. It takes `Discrete` actions alone.

    Equal games with equal parameters are equal, so that what is compiled for one serves all.
    """

    def __init__(self, env: Environment, params: PyTree = None, final_observation: bool = False):
        super().__init__(env.num_agents)
        self.env, self.params = env, env.default_params if params is None else params
        self.final_observation = final_observation
        env.check_params(self.params)
        observation, action = env.observation_space(self.params), env.action_space(self.params)
        self.observation_spaces = {agent: _jaxmarl_observation_space(observation) for agent in self.agents}
        self.action_spaces = {agent: _jaxmarl_space(action) for agent in self.agents}
        self._observation_space, self._action_space = observation, action

    def _identity(self) -> tuple[Any, ...]:
        leaves, structure = jax.tree.flatten(self.params)
        arrays = [np.asarray(leaf) for leaf in leaves]
        return self.env, self.final_observation, structure, *((x.dtype, x.shape, x.tobytes()) for x in arrays)

    def __hash__(self) -> int:
        return hash(self.env)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, AsJaxMARL) and self._identity() == other._identity())

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def agent_classes(self) -> dict:
        return {"agents": list(self.agents)}

    @functools.partial(jax.jit, static_argnums=0)
    def reset(self, key: jax.Array) -> tuple[Any, PyTree]:
        observation, state = self.env.reset(key, self.params)
        return self._views(observation), state

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, key: jax.Array, state: PyTree, actions: Any, reset_state: PyTree = None) -> tuple[Any, ...]:
        """The game's `step`; with a `reset_state` the next episode begins there."""
        if reset_state is not None:
            return super().step(key, state, actions, reset_state)
        return self._outcome(self.env.step(key, state, self._joint(actions), self.params))

    def step_env(self, key: jax.Array, state: PyTree, actions: Any) -> tuple[Any, ...]:
        return self._outcome(self.env.step_env(key, state, self._joint(actions), self.params))

    def get_obs(self, state: PyTree) -> dict[str, jax.Array]:
        return self._views(self.env.observe(state, self.params))

    @functools.partial(jax.jit, static_argnums=0)
    def get_avail_actions(self, state: PyTree) -> dict[str, jax.Array]:
        return self._by_agent(self.env.action_mask(state, self.params).astype(jnp.float32))

    def get_world_state(self, state: PyTree) -> jax.Array:
        """float32 [S]: the game's `global_state`, for central critics."""
        return self.env.global_state(state, self.params)

    def _joint(self, actions: Any) -> jax.Array:
        """[N, ...] from one action per agent, which JaxMARL's loops give with an axis too many."""
        space = self._action_space
        return jnp.stack([jnp.reshape(actions[agent], space.shape) for agent in self.agents]).astype(space.dtype)

    def _by_agent(self, values: jax.Array) -> dict[str, jax.Array]:
        return {agent: values[i] for i, agent in enumerate(self.agents)}

    def _views(self, observation: PyTree) -> dict[str, jax.Array]:
        space = self._observation_space
        return self._by_agent(observation if isinstance(space, Box) else _vector(space, observation))

    def _outcome(self, outcome: tuple[Any, ...]) -> tuple[Any, ...]:
        """JaxMARL's five values from the six."""
        observation, state, reward, terminated, truncated, info = outcome
        info = dict(info)
        final = info.pop("final_observation")
        info = jax.tree.map(lambda value: jnp.broadcast_to(value, (self.num_agents,)), info)
        if self.final_observation:
            info["final_observation"] = self._views(final)
        done = terminated | truncated
        dones = {agent: done for agent in [*self.agents, "__all__"]}
        return self._views(observation), state, self._by_agent(reward), dones, info


def to_jaxmarl(env: Environment, params: PyTree = None, final_observation: bool = False) -> AsJaxMARL:
    """`env` as a JaxMARL environment.

    Args:
        env: a game of this suite.
        params: concrete parameters; its defaults when None.
        final_observation: whether `info` holds the true last observation of every step, before any reset.

    Raises:
        InputError: for parameters that the game refuses.
    """
    return AsJaxMARL(env, params, final_observation)


def _jaxmarl_space(space: Space) -> jaxmarl_spaces.Space:
    if isinstance(space, Discrete):
        return jaxmarl_spaces.Discrete(space.n, space.dtype)
    if isinstance(space, MultiDiscrete):
        return jaxmarl_spaces.MultiDiscrete(space.nvec)
    assert isinstance(space, Box)
    return jaxmarl_spaces.Box(space.low, space.high, space.shape, space.dtype)  # pyright: ignore[reportArgumentType]


def _jaxmarl_observation_space(space: Space) -> jaxmarl_spaces.Space:
    return _jaxmarl_space(space if isinstance(space, Box) else _vector_space(space))


def _vector_space(space: Space) -> Box:
    """The space of `_vector`."""
    if isinstance(space, Dict):
        parts = [_vector_space(part) for part in space.spaces.values()]
        low, high = (np.concatenate(ends) for ends in zip(*((part.low, part.high) for part in parts), strict=True))
        return Box(low, high, low.shape)
    if isinstance(space, Discrete):
        return Box(0, 1, (space.n,))
    assert isinstance(space, Box)
    if _holds_categories(space):
        return Box(0, 1, (int(space.high.max((0, 1)).astype(int).sum()) * space.shape[0] * space.shape[1],))
    return Box(space.low.ravel(), space.high.ravel(), (space.low.size,))


def _vector(space: Space, observation: PyTree) -> jax.Array:
    """Observations [N, ...] as float32 [N, F]."""
    if isinstance(space, Dict):
        parts = [_vector(part, observation[name]) for name, part in space.spaces.items()]
        return jnp.concatenate(parts, axis=-1)
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observation, space.n)
    assert isinstance(space, Box)
    if _holds_categories(space):
        highest = space.high.max((0, 1)).astype(int).tolist()
        planes = [observation[..., c, None] == np.arange(1, high + 1) for c, high in enumerate(highest)]
        observation = jnp.concatenate(planes, axis=-1)
    return observation.reshape(len(observation), -1).astype(jnp.float32)


def _holds_categories(space: Box) -> bool:
    return len(space.shape) == 3 and np.issubdtype(space.dtype, np.integer)


# ---------------------------------------------------------------------- JaxMARL's, seen by us
class NoParams(struct.PyTreeNode):
    """JaxMARL's environments have no traced parameters: their numbers are settings."""


class State(struct.PyTreeNode):
    """JaxMARL's state, what was seen with it (JaxMARL may look back at the last action), and how an episode ended."""

    inner: PyTree  # JaxMARL's own
    observation: PyTree  # [N, ...] or a dict of such
    cut: jax.Array  # bool [], whether the clock has ended the episode


@dataclasses.dataclass(frozen=True)
class JaxMARL(Environment):
    """A JaxMARL environment, step for step as its `step_env` plays it.

    Settings are its constructor's, lists in place of arrays, and two by name: `scenario` of SMAX ("3m") and `layout`
    of overcooked ("cramped_room"). There are no parameters and no metrics. Auto-reset is this suite's.

    Observations are float32 whatever JaxMARL's spaces say, with bounds as wide as any agent's. Where agents see vectors
    of different lengths all are padded with zeros to the longest. Where they have different numbers of actions, all
    have the most: the mask forbids those that an agent lacks, and they are read as its last; components of continuous
    actions that it lacks are ignored.

    JaxMARL says `done` and not why. `done_is`:

    * "auto": what its source says. MPE, storm, coin_game and overcooked end by their clock alone, so they are
      truncated. hanabi terminates, and so does switch_riddle, whose last day is part of the riddle. In SMAX the clock
      has cut an episode in which both teams live, and in jaxnav one in which somebody is still on the way.
    * "terminated" or "truncated": always.

    storm and coin_game show the start of the next game where one ends, with reward 0, and so does their last
    observation.
    """

    env_id: str
    done_is: str = "auto"
    settings: tuple[tuple[str, Any], ...] = ()
    name: str = dataclasses.field(default="", init=False)
    num_agents: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"jaxmarl:{self.env_id}")
        one_of(f"{self.name}: done_is", self.done_is, ("auto", "terminated", "truncated"))
        game = self.game
        if self.done_is == "auto" and self._ending is None:
            hint = "say done_is='terminated' or done_is='truncated'"
            raise InputError(f"{self.name}: not known whether its clock or its rules end an episode; {hint}")
        discrete = isinstance(game.action_space, Discrete)
        object.__setattr__(self, "num_agents", len(game.env.agents))
        object.__setattr__(self, "masks_actions", discrete and (game.allowed is not None or len({*game.sizes}) > 1))

    @property
    def game(self) -> jaxmarl_games.Game:
        """The JaxMARL environment, the same object for equal ids and settings."""
        return jaxmarl_games.read(self.env_id, self.settings)

    @property
    def _ending(self) -> Callable[[Any, PyTree], Any] | None:
        return next((rule for prefix, rule in jaxmarl_games.CUT.items() if self.env_id.startswith(prefix)), None)

    def static_values(self) -> dict[str, Any]:
        return {"done_is": self.done_is, **dict(self.settings)}

    @property
    def default_params(self) -> NoParams:
        return NoParams()

    def observation_space(self, params: PyTree = None) -> Space:
        return self.game.observation_space

    def action_space(self, params: PyTree = None) -> Space:
        return self.game.action_space

    def initial_state(self, key: jax.Array, params: PyTree) -> State:
        observation, inner = self.game.env.reset(key)
        return self._state(observation, inner, jnp.asarray(False))

    def transition(
        self, key: jax.Array, state: State, actions: jax.Array, params: PyTree
    ) -> tuple[State, jax.Array, jax.Array, Metrics]:
        env = self.game.env
        outcome = env.step_env(key, state.inner, jaxmarl_games.own_parts(self.game, actions))
        observation, inner, rewards, dones, _ = outcome
        reward = jnp.stack([jnp.asarray(rewards[agent], jnp.float32).reshape(()) for agent in env.agents])
        done = jnp.asarray(dones["__all__"], bool).reshape(())
        ending = {"terminated": jaxmarl_games.never, "truncated": jaxmarl_games.always}.get(self.done_is, self._ending)
        assert ending is not None
        cut = done & ending(env, inner)
        return self._state(observation, inner, cut), reward, done & ~cut, {}

    def observe(self, state: State, params: PyTree) -> PyTree:
        return state.observation

    def is_truncated(self, state: State, params: PyTree) -> jax.Array:
        return state.cut

    def action_mask(self, state: State, params: PyTree = None) -> jax.Array:
        mask = super().action_mask(state, params)
        sizes = self.game.sizes
        if self.game.allowed is None:
            return mask & (np.arange(mask.shape[1]) < np.asarray(sizes)[:, None])
        allowed = self.game.allowed(state.inner)
        rows = [allowed[agent].astype(bool) for agent in self.game.env.agents]
        return jnp.stack([jnp.pad(row, (0, mask.shape[1] - size)) for row, size in zip(rows, sizes, strict=True)])

    def _state(self, observation: PyTree, inner: PyTree, cut: jax.Array) -> State:
        # JaxMARL starts clocks and flags at Python's 0 and False: the dtypes are fixed here, to be scanned over.
        inner = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), inner)
        views, inner = jaxmarl_games.by_agent(self.game.env, observation, inner)
        return State(inner, jax.tree.map(jaxmarl_games.stack_views, *views), cut)


def from_jaxmarl(env_id: str, /, done_is: str = "auto", **settings: Any) -> JaxMARL:
    """The JaxMARL environment `env_id` as a game of this suite.

    Args:
        env_id: JaxMARL's name, such as "MPE_simple_spread_v3".
        done_is: what the end of an episode means, see `JaxMARL`.
        **settings: what JaxMARL's constructor takes, such as `num_agents` or `max_steps`.

    Raises:
        InputError: for an unknown name or setting, an environment that needs what is not installed, or one whose
            agents cannot be brought into one shape.
    """
    frozen = tuple((name, _freeze(value)) for name, value in sorted(settings.items()))
    try:
        hash(frozen)
    except TypeError as error:
        raise InputError(f"jaxmarl:{env_id}: settings must be numbers, words or lists: {error}") from error
    return JaxMARL(env_id, done_is, frozen)


def _freeze(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | jax.Array) else value
    return tuple(_freeze(part) for part in value) if isinstance(value, list | tuple) else value
