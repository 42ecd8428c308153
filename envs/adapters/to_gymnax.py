"""Games as gymnax environments, for learners that know gymnax only.

    env = to_gymnax(make("public_goods"))                                           # all agents at once
    env = to_gymnax(make("prisoners_dilemma"), agent=0, partners="tit_for_tat")     # one learner among partners
    params = env.default_params                                                     # the game's own, traced
    observation, state = env.reset(key, params)
    observation, state, reward, terminated, truncated, info = env.step(key, state, action, params)

gymnax's wrappers take both. `LogWrapper` starts to count from scalars, so where all agents' rewards [N] are to be
scanned over, its first state needs `.replace(episode_returns=zeros, returned_episode_returns=zeros)` of shape [N].

Source: Lange 2022, "gymnax: A JAX-based reinforcement learning environment library", version 1.0.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.adapters.partners import Partner, Partners, as_tuple, identity, seat
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space

try:
    from gymnax.environments import environment as gymnax_environment
    from gymnax.environments import spaces as gymnax_spaces
except ImportError as error:
    raise InputError('gymnax is not installed; pip install "gymnax>=1.0.1"') from error


class AsBox(gymnax_spaces.Box):
    """One of our spaces as gymnax's Box. It draws as ours does: gymnax's own never draws the highest whole number."""

    def __init__(self, space: Box):
        low: Any = space.low  # gymnax says jax's arrays, and uses them as numpy's
        high: Any = space.high
        if low.size and (low == low.flat[0]).all() and (high == high.flat[0]).all():  # gymnax's own have plain numbers
            low, high = low.flat[0].item(), high.flat[0].item()
        super().__init__(low, high, space.shape, space.dtype)
        self.space = space

    def sample(self, key: jax.Array) -> jax.Array:
        return self.space.sample(key)


class JointView(gymnax_environment.Environment):
    """All N agents of a game as one gymnax environment.

    Observations, actions and rewards have a leading axis [N], the state and the parameters are the game's, and
    `reset` and `step` use keys as the game's do: the same keys and actions give the same trajectory. `info` is the
    game's: final_observation [N, ...], payoff [N] (material, where a wrapper changes rewards) and metrics.

    Spaces: whole numbers for N agents, and several at once for one, are a `Box` of integers.
    """

    def __init__(self, game: Environment, params: PyTree, five_tuple: bool):
        self.game, self.params, self.five_tuple = game, params, five_tuple

    @property
    def name(self) -> str:
        return self.game.name

    @property
    def default_params(self) -> PyTree:
        """The game's parameters that `to_gymnax` was given, or its own."""
        return self.params

    @property
    def num_actions(self) -> int:
        """How many actions one agent has; with several components, how many these have together, and of continuous
        actions how many numbers there are."""
        space = self.game.action_space(self.params)
        return space.num_choices if isinstance(space, Discrete | MultiDiscrete) else int(np.prod(space.shape))

    def action_space(self, params: PyTree = None) -> Any:
        return _converted(_stacked(self.game.action_space(self._given(params)), self.game.num_agents))

    def observation_space(self, params: PyTree = None) -> Any:
        return _converted(_stacked(self.game.observation_space(self._given(params)), self.game.num_agents))

    def action_mask(self, state: PyTree, params: PyTree = None) -> jax.Array:
        """bool [N, A]: which actions the game allows in `state`; not for continuous ones."""
        return self.game.action_mask(state, self._given(params))

    @functools.partial(jax.jit, static_argnames=("self",))
    def step(self, key: jax.Array, state: PyTree, action: Any, params: PyTree = None) -> tuple:
        """The game's step: observation, state, reward, terminated, truncated (in `five_tuple` done for both), info."""
        outcome = self._play(self.game.step, key, state, action, self._given(params))
        observation, state, reward, terminated, truncated, info = outcome
        if self.five_tuple:
            return observation, state, reward, terminated | truncated, info
        return outcome

    def step_env(self, key: jax.Array, state: PyTree, action: Any, params: PyTree) -> tuple:
        """`step` without the auto-reset: observation, state, reward, terminated (done in `five_tuple`), info."""
        outcome = self._play(self.game.step_env, key, state, action, params)
        observation, state, reward, terminated, truncated, info = outcome
        return observation, state, reward, terminated | truncated if self.five_tuple else terminated, info

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.game.reset_env(key, params)

    def observe(self, key: jax.Array, state: PyTree, action: Any, params: PyTree) -> PyTree:
        """What is seen in `state`; nothing is drawn."""
        del key, action
        return self.game.observe(state, params)

    def is_truncated(self, state: PyTree, params: PyTree) -> jax.Array:
        return self.game.is_truncated(state, params)

    def _play(self, step: Callable, key: jax.Array, state: PyTree, action: Any, params: PyTree) -> tuple:
        return step(key, state, jnp.asarray(action, self.game.action_space(self.params).dtype), params)

    def _given(self, params: PyTree) -> PyTree:
        return self.params if params is None else params


class SingleState(struct.PyTreeNode):
    """The game's state, and what partners need."""

    inner: PyTree  # the game's own
    observation: PyTree  # [N, ...] what everybody saw last
    memory: PyTree  # the partners'

    @property
    def time(self) -> jax.Array:
        """Steps taken in this episode."""
        return self.inner.time


class SingleView(JointView):
    """One learner of a game as a gymnax environment; partners play the other seats.

    Observation, action, reward and final_observation are the learner's, without the agents' axis; `info` has the
    rest of the game's, [N], and everybody's `actions` [N, ...]. `step` splits its key in two,
    `step_key, partner_key = jax.random.split(key)`: the game's step gets the first, the partners' act the second (see
    `marl_suite.envs.adapters.partners`). Partners' memory is part of the state and is cleared when an episode begins.
    """

    def __init__(self, game: Environment, params: PyTree, five_tuple: bool, agent: int, partners: Partners):
        super().__init__(game, params, five_tuple)
        self.agent, self.partners = agent, partners

    def action_space(self, params: PyTree = None) -> Any:
        return _converted(self.game.action_space(self._given(params)))

    def observation_space(self, params: PyTree = None) -> Any:
        return _converted(self.game.observation_space(self._given(params)))

    def action_mask(self, state: SingleState, params: PyTree = None) -> jax.Array:
        """bool [A]: which actions the game allows the learner in `state`; not for continuous ones."""
        return super().action_mask(state.inner, params)[self.agent]

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, SingleState]:
        observation, inner = self.game.reset_env(key, params)
        return self._own(observation), SingleState(inner, observation, self.partners.memory())

    def observe(self, key: jax.Array, state: SingleState, action: Any, params: PyTree) -> PyTree:
        return self._own(super().observe(key, state.inner, action, params))

    def is_truncated(self, state: SingleState, params: PyTree) -> jax.Array:
        return super().is_truncated(state.inner, params)

    def _play(self, step: Callable, key: jax.Array, state: SingleState, action: Any, params: PyTree) -> tuple:
        game, space = self.game, self.game.action_space(self.params)
        step_key, partner_key = jax.random.split(key)
        own = jnp.broadcast_to(jnp.asarray(action, space.dtype), (game.num_agents, *space.shape))
        mask = game.action_mask(state.inner, params) if game.masks_actions else None
        actions, memory = self.partners.act(state.memory, state.observation, partner_key, mask, own)
        observation, inner, reward, terminated, truncated, info = step(step_key, state.inner, actions, params)
        memory = jax.tree.map(
            lambda fresh, kept: jnp.where(terminated | truncated, fresh, kept), self.partners.memory(), memory
        )
        info = {**info, "final_observation": self._own(info["final_observation"]), "actions": actions}
        state = SingleState(inner, observation, memory)
        return self._own(observation), state, reward[self.agent], terminated, truncated, info

    def _own(self, everybody: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[self.agent], everybody)


def to_gymnax(
    env: Environment,
    params: PyTree = None,
    *,
    agent: int | None = None,
    partners: Partner | Sequence[Partner] | None = None,
    five_tuple: bool = False,
) -> JointView:
    """A game as a gymnax environment.

    gymnax compiles for each environment object anew, so equal arguments give the same object. Players are equal when
    their names are; a function or a policy equals itself.

    Args:
        env: the game.
        params: what `default_params` will be; the game's own when None. Others can be passed to `reset` and `step`.
        agent: the learner's seat, when one agent learns; None for all agents at once.
        partners: who plays the other seats then: the name of one of the game's scripted players, a function
            (observation of one agent, key) -> action, a policy with `memory` and `act` such as `marl_suite.load`
            gives, of which each seat plays its own part, or a list of such for the other seats in order. Default:
            "random".
        five_tuple: whether `step` gives (observation, state, reward, done, info), as before gymnax 1.0.

    Raises:
        InputError: for parameters or a seat that the game does not have, partners without a learner, or one who
            cannot play.
    """
    if not isinstance(env, Environment):
        raise InputError(f'to_gymnax takes a game, such as make("prisoners_dilemma"), got {env!r}')
    if not isinstance(params, type(env.default_params) | None):
        raise InputError(f"{env.name}: params must be those of the game, such as make_params gives, got {params!r}")
    params = env.default_params if params is None else params
    leaves, tree = jax.tree.flatten(params)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise InputError(f"{env.name}: to_gymnax needs the numbers of params; give traced ones to reset and step")
    env.check_params(params)
    numbers = tuple((np.asarray(leaf).dtype, np.shape(leaf), np.asarray(leaf).tobytes()) for leaf in leaves)
    arguments = (env, tree, numbers, bool(five_tuple))
    if agent is None and partners is not None:
        raise InputError(f"{env.name}: partners play beside one learner; give its seat, such as agent=0")
    if agent is None:
        return _once(arguments, lambda: JointView(env, params, five_tuple))
    if not isinstance(agent, int) or not 0 <= agent < env.num_agents:
        raise InputError(f"{env.name}: agent must be a seat from 0 to {env.num_agents - 1}, got {agent!r}")
    others = as_tuple("random" if partners is None else partners)
    arguments += (agent, *map(identity, others))
    return _once(arguments, lambda: SingleView(env, params, five_tuple, agent, seat(env, params, agent, others)))


_VIEWS: dict[Hashable, JointView] = {}


def _once(arguments: Hashable, view: Callable[[], JointView]) -> JointView:
    if arguments not in _VIEWS:
        _VIEWS[arguments] = view()
    return _VIEWS[arguments]


def _stacked(space: Space, num_agents: int) -> Space:
    """The space of N agents' values."""
    if isinstance(space, Dict):
        return Dict({name: _stacked(part, num_agents) for name, part in space.spaces.items()})
    box = _as_box(space)
    shape = (num_agents, *box.shape)
    return Box(np.broadcast_to(box.low, shape), np.broadcast_to(box.high, shape), shape, box.dtype)


def _as_box(space: Space) -> Box:
    if isinstance(space, Discrete):
        return Box(0, space.n - 1, (), space.dtype)
    if isinstance(space, MultiDiscrete):
        return Box(0, np.asarray(space.nvec) - 1, space.shape, space.dtype)
    if isinstance(space, Box):
        return space
    raise InputError(f"{type(space).__name__} spaces are not supported; Discrete, MultiDiscrete, Box and Dict are")


def _converted(space: Space) -> gymnax_spaces.Space:
    if isinstance(space, Dict):
        return gymnax_spaces.Dict({name: _converted(part) for name, part in space.spaces.items()})
    if isinstance(space, Discrete) and space.dtype == np.int32:  # gymnax's others need 64-bit mode
        return gymnax_spaces.Discrete(space.n)
    return AsBox(_as_box(space))
