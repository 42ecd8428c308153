"""One episode, played and kept step by step, to be looked at."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.algorithm import Act
from marl_suite.envs import make
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.evaluation import scripted
from marl_suite.stored_policies import Stored, find, read
from marl_suite.training import compiled


class Cast(NamedTuple):
    """Who plays."""

    policies: dict[str, tuple[Act, PyTree]]  # [K] by name; each can play every seat; and its cleared memory for E = 1
    seats: tuple[str, ...]  # [N], who sits where

    @classmethod
    def deal(cls, policies: dict[str, tuple[Act, PyTree]], names: Sequence[str], num_agents: int) -> "Cast":
        """`names` take the seats in turn."""
        seats = tuple(names[i % len(names)] for i in range(num_agents))
        return cls({name: policy for name, policy in policies.items() if name in seats}, seats)


class Episode(NamedTuple):
    """T steps on the host; `states` begins before the first of them."""

    states: PyTree  # [T + 1, ...]
    actions: np.ndarray  # [T, N]
    payoffs: np.ndarray  # float32 [T, N], material
    metrics: dict[str, np.ndarray]  # [T] or [T, N] each
    ended: bool  # whether the game was over after the last step

    @property
    def length(self) -> int:
        """T."""
        return len(self.actions)

    def state(self, step: int) -> PyTree:
        """The state after `step` steps."""
        return jax.tree.map(lambda x: x[step], self.states)


def play(env: Environment, params: PyTree, cast: Cast, seed: int, steps: int) -> Episode:
    """Plays an episode in one compiled scan, to its end or for `steps` steps."""
    policies = list(cast.policies.values())
    seats = np.array([list(cast.policies).index(name) for name in cast.seats])

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple]:
        state, observation, memories = carry
        act_key, env_key = jax.random.split(key)
        seen = jax.tree.map(lambda x: x[None], observation)
        mask = env.action_mask(state, params)[None] if env.masks_actions else None
        keys = jax.random.split(act_key, len(policies))
        results = [act(memory, seen, k, mask) for (act, _), memory, k in zip(policies, memories, keys, strict=True)]
        actions = jnp.stack([result[0][0] for result in results])[seats, np.arange(env.num_agents)]
        observation, state, _, terminated, truncated, info = env.step_env(env_key, state, actions, params)
        kept = state, actions, info["payoff"], info["metrics"], terminated | truncated
        return (state, observation, tuple(result[1] for result in results)), kept

    def episode(key: jax.Array) -> tuple:
        reset_key, key = jax.random.split(key)
        observation, state = env.reset_env(reset_key, params)
        memories = tuple(memory for _, memory in policies)
        return state, jax.lax.scan(step, (state, observation, memories), jax.random.split(key, steps))[1]

    first, (states, *kept) = jax.device_get(compiled(episode)(jax.random.key(seed)))
    actions, payoffs, metrics, over = kept
    length = 1 + int(np.argmax(over)) if over.any() else steps
    states = jax.tree.map(lambda x, xs: np.concatenate([np.asarray(x)[None], xs[:length]]), first, states)
    metrics = {name: values[:length] for name, values in metrics.items()}
    return Episode(states, actions[:length], payoffs[:length], metrics, bool(over.any()))


# ---------------------------------------------------------------------- who plays
def choose(
    environment: str, policy: str, env: dict[str, Any], params: dict[str, Any], greedy: bool = False
) -> tuple[Environment, PyTree, Cast]:
    """The game and its players.

    Args:
        environment: a registered name.
        policy: scripted players of that game, results folders or cells in them, separated by commas.
        env: static settings; those of the results folder where none are given.
        params: its traced parameters, likewise.
        greedy: stored policies play their modes instead of samples.

    Raises:
        InputError: for an unknown name, or policies that were trained in another game.
    """
    names = [name.strip() for name in policy.split(",")]
    game = make(environment, **env)
    paths = {name: Path(name) for name in names if name not in game.players}
    if missing := [name for name, path in paths.items() if not path.exists()]:
        raise unknown_name(f"scripted player of {environment}, and no results folder:", missing[0], game.players)
    stored = {name: read(find(path, environment)) for name, path in paths.items()}
    for first in list(stored.values())[:1]:
        game = make(environment, **{**first.settings, **env})
        params = {**first.facts["params"], **params}
    for name, policies in stored.items():
        values = policies.game()[0].static_values()
        for key, asked in game.static_values().items():
            if (trained := values[key]) != asked:
                raise InputError(f"{name} was trained in {environment} with {key}={trained!r}, not {key}={asked!r}")
    labels = {name: name for name in names}
    for name, policies in stored.items():  # by its path where its label says too little
        label = policies.facts["label"]
        labels[name] = name if label in (*labels.values(), *game.players) else label
    loaded = {labels[name]: _first_seed(policies, greedy) for name, policies in stored.items()}
    players = {name: scripted(player, game.num_agents) for name, player in game.players.items()}
    return game, game.make_params(**params), Cast.deal(players | loaded, list(labels.values()), game.num_agents)


def _first_seed(stored: Stored, greedy: bool) -> tuple[Act, PyTree]:
    """The policy of the first seed, and its memory."""
    policy = stored.policy().plays
    return partial(policy.act, greedy=greedy), policy.memory(1)
