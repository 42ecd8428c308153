"""Environments around environments: what agents are rewarded for is chosen here, never inside a game."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.reward_views import Individual, numbers_of, read_view
from marl_suite.envs.spaces import Space

_FACTS = (
    "name",
    "num_agents",
    "version",
    "mixed_motive",
    "exploiter",
    "cooperator",
    "defector",
    "definitions",
    "masks_actions",
)


@dataclasses.dataclass(frozen=True)
class Wrapper(Environment):
    """The environment `env`, unchanged: the base of those that change one thing about it.

    `step` is the base class's, over the wrapped `step_env` and `reset_env`, so a subclass that changes a step
    overrides `step_env` and is right for every environment, also one with a `step_env` of its own. One with more to
    its parameters or state says in `inner_params` and `inner_state` what of them is the wrapped environment's.
    """

    env: Environment

    def __post_init__(self) -> None:
        for fact in _FACTS:  # copied once: properties cannot override class variables
            object.__setattr__(self, fact, getattr(self.env, fact))

    def inner_params(self, params: PyTree) -> PyTree:
        """The wrapped environment's part of the parameters."""
        return params

    def inner_state(self, state: PyTree) -> PyTree:
        """The wrapped environment's part of the state."""
        return state

    def static_values(self) -> dict[str, Any]:
        """The wrapped environment's, and the wrapper's own."""
        own = super().static_values()
        return {**self.env.static_values(), **{name: value for name, value in own.items() if name != "env"}}

    @property
    def default_params(self) -> PyTree:
        return self.env.default_params

    @property
    def summary(self) -> str:
        return self.env.summary

    @property
    def players(self) -> Mapping[str, Player]:
        return self.env.players

    def make_params(self, **overrides: Any) -> PyTree:
        return self.env.make_params(**overrides)

    def check_params(self, params: PyTree) -> None:
        self.env.check_params(self.inner_params(params))

    def derived_metrics(self, means: Metrics) -> Metrics:
        return self.env.derived_metrics(means)

    def observation_space(self, params: PyTree = None) -> Space:
        return self.env.observation_space(self.inner_params(params))

    def action_space(self, params: PyTree = None) -> Space:
        return self.env.action_space(self.inner_params(params))

    def initial_state(self, key: jax.Array, params: PyTree) -> PyTree:
        return self.env.initial_state(key, self.inner_params(params))

    def transition(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, jax.Array, jax.Array, Metrics]:
        return self.env.transition(key, self.inner_state(state), actions, self.inner_params(params))

    def observe(self, state: PyTree, params: PyTree) -> PyTree:
        return self.env.observe(self.inner_state(state), self.inner_params(params))

    def is_truncated(self, state: PyTree, params: PyTree) -> jax.Array:
        return self.env.is_truncated(self.inner_state(state), self.inner_params(params))

    def action_mask(self, state: PyTree, params: PyTree = None) -> jax.Array:
        return self.env.action_mask(self.inner_state(state), self.inner_params(params))

    def global_state(self, state: PyTree, params: PyTree = None) -> jax.Array:
        return self.env.global_state(self.inner_state(state), self.inner_params(params))

    def stage_payoffs(self, params: PyTree = None) -> jax.Array | None:
        return self.env.stage_payoffs(self.inner_params(params))

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.env.reset_env(key, self.inner_params(params))

    def step_env(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, PyTree, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        return self.env.step_env(key, self.inner_state(state), actions, self.inner_params(params))


class ViewedParams(struct.PyTreeNode):
    """The parameters of a game under a reward view."""

    game: PyTree  # the game's own
    view: PyTree  # the `View`, with its numbers


class ViewedState(struct.PyTreeNode):
    """The state of a game under a reward view."""

    game: PyTree  # the game's own
    trace: PyTree  # what the view remembers of this episode, () where that is nothing


@dataclasses.dataclass(frozen=True)
class RewardView(Wrapper):
    """`env` with the rewards of `view`, a function of material payoffs that text names (see `read_view`).

    `info["payoff"]` stays the material payoff, so that welfare is measured alike under every view, and a view of
    a view replaces the inner one. Its parameters are `ViewedParams`, so that the view's numbers can be swept; where
    the game's own are given instead, the numbers are those of the text.

    Raises:
        InputError: for a text that `read_view` refuses, or a lone agent, who has nobody to be compared with.
    """

    view: str

    def __post_init__(self) -> None:
        if isinstance(self.env, RewardView):
            object.__setattr__(self, "env", self.env.env)
        super().__post_init__()
        read_view(self.view)
        if self.num_agents < 2:
            raise InputError(f"reward view {self.view!r} needs two agents or more, {self.name} has {self.num_agents}")

    @property
    def default_params(self) -> ViewedParams:
        return ViewedParams(self.env.default_params, read_view(self.view))

    def make_params(self, **overrides: Any) -> ViewedParams:
        """The default parameters with some of the game's, or some of the view's numbers, replaced.

        A name that both have is the game's; the view's is then in the text alone.

        Raises:
            InputError: for a name that neither has, or a value that the one that has it does not allow.
        """
        view = read_view(self.view)
        games = {field.name for field in dataclasses.fields(self.env.default_params)}
        for name in overrides:
            if name not in (known := games | {*numbers_of(view)}):
                raise unknown_name(f"parameter of {self.name} or its reward view {view.name}:", name, known)
        numbers = {name: overrides.pop(name) for name in list(overrides) if name not in games}
        return ViewedParams(self.env.make_params(**overrides), view.with_numbers(**numbers))

    def check_params(self, params: PyTree) -> None:
        super().check_params(params)
        viewed_params(self, params).view.check()

    def inner_params(self, params: PyTree) -> PyTree:
        return viewed_params(self, params).game

    def inner_state(self, state: ViewedState) -> PyTree:
        return state.game

    def initial_state(self, key: jax.Array, params: PyTree) -> ViewedState:
        return self._begin(super().initial_state(key, params), params)

    def transition(
        self, key: jax.Array, state: ViewedState, actions: jax.Array, params: PyTree
    ) -> tuple[ViewedState, jax.Array, jax.Array, Metrics]:
        game, payoff, terminated, metrics = super().transition(key, state, actions, params)
        reward, trace = viewed_params(self, params).view(payoff, state.trace)
        return ViewedState(game, trace), reward, terminated, metrics

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, ViewedState]:
        observation, game = super().reset_env(key, params)
        return observation, self._begin(game, params)

    def step_env(
        self, key: jax.Array, state: ViewedState, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, ViewedState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        observation, game, _, terminated, truncated, info = super().step_env(key, state, actions, params)
        reward, trace = viewed_params(self, params).view(info["payoff"], state.trace)
        return observation, ViewedState(game, trace), reward, terminated, truncated, info

    def stage_payoffs(self, params: PyTree = None) -> jax.Array | None:
        """As the game's, but of rewards; None under views with memory, where a joint action has no one reward."""
        view, payoffs = viewed_params(self, params).view, super().stage_payoffs(params)
        if payoffs is None or jax.tree.leaves(view.initial(self.num_agents)):
            return None
        joint = payoffs.reshape(self.num_agents, -1)
        return jax.vmap(view.reward, in_axes=1, out_axes=1)(joint).reshape(payoffs.shape)

    def _begin(self, game: PyTree, params: PyTree) -> ViewedState:
        return ViewedState(game, viewed_params(self, params).view.initial(self.num_agents))


def viewed_params(env: Environment, params: PyTree = None) -> PyTree:
    """The parameters of `env` from those of its game, its defaults when None: under a `RewardView` with the numbers of
    its text, in other environments as they are. `ViewedParams` stay too, unless they are of another view."""
    params = env.default_params if params is None else params
    if not isinstance(env, RewardView):
        return params
    view = read_view(env.view)
    if not isinstance(params, ViewedParams):
        return ViewedParams(params, view)
    return params if type(params.view) is type(view) else params.replace(view=view)


def reward_view(env: Environment, view: str) -> Environment:
    """`env` with the rewards of the view that `view` names; `env` itself for "individual", and for a lone agent, whose
    payoff is everybody's.

    Raises:
        InputError: for a text that `read_view` refuses.
    """
    named = read_view(view)
    return env if isinstance(named, Individual) or env.num_agents == 1 else RewardView(env, view)
