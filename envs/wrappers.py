"""Environments around environments: what agents are rewarded for is chosen here, never inside a game.

A reward view is one pure function, payoff [N] -> reward [N], entered in `_VIEWS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree
from marl_suite.envs.errors import unknown_name
from marl_suite.envs.spaces import Space

_FACTS = ("name", "num_agents", "version", "mixed_motive", "exploiter", "masks_actions")


@dataclasses.dataclass(frozen=True)
class Wrapper(Environment):
    """The environment `env`, unchanged: the base of those that change one thing about it.

    `step` is the base class's, over the wrapped `step_env` and `reset_env`, so a subclass that changes a step
    overrides `step_env` and is right for every environment, also one with a `step_env` of its own.
    """

    env: Environment

    def __post_init__(self) -> None:
        for fact in _FACTS:  # copied once: properties cannot override class variables
            object.__setattr__(self, fact, getattr(self.env, fact))

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
        self.env.check_params(params)

    def derived_metrics(self, means: Metrics) -> Metrics:
        return self.env.derived_metrics(means)

    def observation_space(self, params: PyTree = None) -> Space:
        return self.env.observation_space(params)

    def action_space(self, params: PyTree = None) -> Space:
        return self.env.action_space(params)

    def initial_state(self, key: jax.Array, params: PyTree) -> PyTree:
        return self.env.initial_state(key, params)

    def transition(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, jax.Array, jax.Array, Metrics]:
        return self.env.transition(key, state, actions, params)

    def observe(self, state: PyTree, params: PyTree) -> PyTree:
        return self.env.observe(state, params)

    def is_truncated(self, state: PyTree, params: PyTree) -> jax.Array:
        return self.env.is_truncated(state, params)

    def action_mask(self, state: PyTree, params: PyTree = None) -> jax.Array:
        return self.env.action_mask(state, params)

    def global_state(self, state: PyTree, params: PyTree = None) -> jax.Array:
        return self.env.global_state(state, params)

    def stage_payoffs(self, params: PyTree = None) -> jax.Array | None:
        return self.env.stage_payoffs(params)

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.env.reset_env(key, params)

    def step_env(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, PyTree, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        return self.env.step_env(key, state, actions, params)


def _individual(payoff: jax.Array) -> jax.Array:
    """Each agent is rewarded with its own payoff: r_i = p_i."""
    return payoff


def _team(payoff: jax.Array) -> jax.Array:
    """Each agent is rewarded with the sum of all payoffs: r_i = sum_j p_j."""
    return jnp.full_like(payoff, payoff.sum())


_VIEWS: dict[str, Callable[[jax.Array], jax.Array]] = {"individual": _individual, "team": _team}

REWARD_VIEWS: dict[str, str] = {name: view.__doc__ or "" for name, view in _VIEWS.items()}
"""What every reward view does, by name."""


@dataclasses.dataclass(frozen=True)
class RewardView(Wrapper):
    """`env` with the rewards of `view`, a function of the step's material payoffs: reward = view(payoff), [N] -> [N].

    `info["payoff"]` stays the material payoff, so that welfare is measured alike under every view, and a view of
    a view replaces the inner one. Only `step` and `step_env` show the view; `transition` is the game's own.

    Raises:
        InputError: for an unknown view.
    """

    view: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view not in _VIEWS:
            raise unknown_name("reward view", self.view, _VIEWS)

    def step_env(
        self, key: jax.Array, state: PyTree, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, PyTree, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        observation, state, _, terminated, truncated, info = super().step_env(key, state, actions, params)
        return observation, state, _VIEWS[self.view](info["payoff"]), terminated, truncated, info

    def stage_payoffs(self, params: PyTree = None) -> jax.Array | None:
        payoffs = super().stage_payoffs(params)
        if payoffs is None:
            return None
        joint = payoffs.reshape(self.num_agents, -1)
        return jax.vmap(_VIEWS[self.view], in_axes=1, out_axes=1)(joint).reshape(payoffs.shape)


def reward_view(env: Environment, view: str) -> Environment:
    """`env` with the rewards of the view called `view`, one of `REWARD_VIEWS`; `env` itself for "individual".

    Raises:
        InputError: for an unknown view.
    """
    viewed = RewardView(env, view)
    return env if view == "individual" else viewed
