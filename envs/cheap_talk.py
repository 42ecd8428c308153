"""Cheap talk before every action, in any game."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Metrics, Player, PyTree, any_in_batch, at_least
from marl_suite.envs.errors import InputError
from marl_suite.envs.graphs import adjacency, in_turn
from marl_suite.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from marl_suite.envs.wrappers import Wrapper

SILENT = -1
"""The message of an agent that has not spoken."""


class TalkState(struct.PyTreeNode):
    """A game, and what was said before its next action."""

    game: PyTree  # the game's own
    messages: jax.Array  # int32 [N], the last symbol of each agent, SILENT at first
    talking: jax.Array  # bool [], whether the next step is one of talk


@dataclasses.dataclass(frozen=True)
class CheapTalk(Wrapper):
    """`env` with a round of talk before each action: all agents send a symbol at once, then all act on what they heard.

    Source: Crawford and Sobel (1982), Strategic information transmission; Farrell and Rabin (1996), Cheap talk. Talk
    costs nothing, binds nobody and is not verified: reward 0, and the game stands still.

    Rules: steps alternate between talk and action, beginning with talk. Agent i hears those j with an edge from j to i
    in `talk_graph` (see `marl_suite.envs.graphs.adjacency`). The game's clock counts actions only, so an episode has
    twice as many steps; the discount of an action is that of two steps.

    Shapes: actions as the game's, with room for `symbols` = K: Discrete(max(A, K)), where the mask leaves the first
    K in talk and the first A otherwise; for several components, one more before them, which is 0 alone where it does
    not speak, as the others are in talk; for continuous ones, a flat vector with one more at the front, whose
    range 0 .. 1 is cut into K equal parts. A symbol or action that is forbidden is read as the last one allowed.
    Observation: a dictionary of the game's own, "game"; "heard" float32 [N, K], the last symbol (one-hot) of each agent
    in turn from oneself, zeros where nothing was heard, one's own always; and "talking" float32 [1]. Reward as the
    game's. The metrics of an action count twice and those of talk are 0, so that means over steps are the game's.

    Raises:
        InputError: for fewer than one symbol, a lone agent or a graph that cannot be read.
    """

    symbols: int = 4
    talk_graph: str = "complete"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", f"cheap_talk:{self.env.name}")
        at_least(f"{self.name}: symbols", self.symbols, 1)
        if self.num_agents < 2:
            raise InputError(f"{self.name}: talk needs two agents or more, got {self.num_agents}")
        adjacency(self.talk_graph, self.num_agents)
        object.__setattr__(self, "masks_actions", not isinstance(self.env.action_space(), Box))

    # ------------------------------------------------------------------ spaces
    def action_space(self, params: PyTree = None) -> Space:
        space = super().action_space(params)
        if isinstance(space, Discrete):
            return Discrete(max(space.n, self.symbols), space.dtype)
        if isinstance(space, MultiDiscrete):
            return MultiDiscrete((self.symbols, *space.nvec), space.dtype)
        if isinstance(space, Box):
            low, high = (np.concatenate([[end], bound.ravel()]) for end, bound in ((0, space.low), (1, space.high)))
            return Box(low, high, (1 + math.prod(space.shape),), space.dtype)
        raise TypeError(f"{self.name}: no talk beside actions in {space}")

    def observation_space(self, params: PyTree = None) -> Dict:
        heard = Box(0, 1, (self.num_agents, self.symbols))
        return Dict({"game": super().observation_space(params), "heard": heard, "talking": Box(0, 1, (1,))})

    def action_mask(self, state: TalkState, params: PyTree = None) -> jax.Array:
        space = self.env.action_space(self.inner_params(params))
        assert isinstance(space, Discrete | MultiDiscrete)
        game = super().action_mask(state, params)  # [N, the game's choices]
        speech = jnp.ones((self.num_agents, self.symbols), bool)
        if isinstance(space, MultiDiscrete):
            firsts = np.zeros(space.num_choices, bool)
            firsts[np.cumsum((0, *space.nvec[:-1]))] = True
            silent = jnp.arange(self.symbols) == 0
            spoken = jnp.where(state.talking, speech, silent)
            return jnp.concatenate([spoken, jnp.where(state.talking, firsts, game)], axis=1)
        width = max(space.num_choices, self.symbols)
        wide = [jnp.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in (speech, game)]
        return jnp.where(state.talking, *wide)

    def _split(self, actions: jax.Array, params: PyTree) -> tuple[jax.Array, jax.Array]:
        """What was said, int32 [N], and the game's actions."""
        space = self.env.action_space(self.inner_params(params))
        if isinstance(space, Discrete):
            return jnp.minimum(actions, self.symbols - 1), jnp.minimum(actions, space.n - 1)
        spoken, game = actions[:, 0], actions[:, 1:].reshape(self.num_agents, *space.shape)
        if isinstance(space, Box):
            spoken = jnp.clip(jnp.floor(spoken * self.symbols), 0, self.symbols - 1).astype(jnp.int32)
        return spoken, game

    # ------------------------------------------------------------------ views
    def inner_state(self, state: TalkState) -> PyTree:
        return state.game

    def _said(self, state: TalkState) -> jax.Array:
        return jax.nn.one_hot(state.messages, self.symbols)  # [N, K]

    def _show(self, game: PyTree, state: TalkState) -> PyTree:
        turns = (np.arange(self.num_agents)[:, None] + np.arange(self.num_agents)) % self.num_agents
        hears = adjacency(self.talk_graph, self.num_agents) | np.eye(self.num_agents, dtype=bool)
        reached = np.take_along_axis(hears, turns, axis=1)[..., None]
        talking = jnp.full((self.num_agents, 1), state.talking, jnp.float32)
        return {"game": game, "heard": in_turn(self._said(state)) * reached, "talking": talking}

    def observe(self, state: TalkState, params: PyTree) -> PyTree:
        return self._show(super().observe(state, params), state)

    def global_state(self, state: TalkState, params: PyTree = None) -> jax.Array:
        talk = jnp.concatenate([self._said(state).ravel(), state.talking[None].astype(jnp.float32)])
        return jnp.concatenate([super().global_state(state, params), talk])

    def stage_payoffs(self, params: PyTree = None) -> None:
        return None

    @property
    def players(self) -> Mapping[str, Player]:
        """The game's, who say the first symbol and do not listen, but `random`, who says and does anything."""
        space, inner = self.action_space(), self.env.action_space()

        def speak(player: Player) -> Player:
            def act(observation: PyTree, key: jax.Array) -> jax.Array:
                action = player(observation["game"], key)
                if not isinstance(inner, Discrete):
                    action = jnp.concatenate([jnp.zeros(1, action.dtype), action.ravel()])
                return jnp.where(observation["talking"][0] > 0, jnp.zeros_like(action), action)

            return act

        players = {name: speak(player) for name, player in self.env.players.items()}
        return players | {"random": lambda observation, key: space.sample(key)}

    # ------------------------------------------------------------------ the course of play
    def _begin(self, game: PyTree) -> TalkState:
        return TalkState(game, jnp.full(self.num_agents, SILENT, jnp.int32), jnp.ones((), bool))

    def initial_state(self, key: jax.Array, params: PyTree) -> TalkState:
        return self._begin(super().initial_state(key, params))

    def reset_env(self, key: jax.Array, params: PyTree) -> tuple[PyTree, TalkState]:
        observation, game = super().reset_env(key, params)
        state = self._begin(game)
        return self._show(observation, state), state

    def transition(
        self, key: jax.Array, state: TalkState, actions: jax.Array, params: PyTree
    ) -> tuple[TalkState, jax.Array, jax.Array, Metrics]:
        _, state, reward, terminated, _, info = self.step_env(key, state, actions, params)
        return state, reward, terminated, info["metrics"]

    def step_env(
        self, key: jax.Array, state: TalkState, actions: jax.Array, params: PyTree
    ) -> tuple[PyTree, TalkState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        spoken, chosen = self._split(actions, params)
        inner = self.inner_params(params)

        def act() -> PyTree:
            observation, game, reward, terminated, truncated, info = self.env.step_env(key, state.game, chosen, inner)
            metrics = jax.tree.map(lambda x: 2 * x, info["metrics"])
            return observation, game, reward, terminated, truncated, info["payoff"], metrics

        still = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(act)[2:])
        talk = (self.env.observe(state.game, inner), state.game, *still)
        # A branch: all episodes of a batch that began together talk at the same steps.
        outcome = jax.lax.cond(
            any_in_batch(~state.talking),
            lambda: jax.tree.map(lambda x, y: jnp.where(state.talking, x, y), talk, act()),
            lambda: talk,
        )
        observation, game, reward, terminated, truncated, payoff, metrics = outcome
        state = TalkState(game, jnp.where(state.talking, spoken, state.messages), ~state.talking)
        observation = self._show(observation, state)
        info = {
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": observation,
            "payoff": payoff,
            "metrics": metrics,
        }
        return observation, state, reward, terminated, truncated, info
