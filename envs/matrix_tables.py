"""The published two-player tables that `marl_suite.envs.matrix_games` plays.

Where the payoffs come from:

* lola: Foerster et al. (2018), Learning with Opponent-Learning Awareness, and its released games.
* melting_pot: Agapiou et al. (2022), Melting Pot 2.0, the matrices of its "in the matrix" substrates.
* pax: Willi et al. (2023), Pax, the tables of its matrix and tensor games.
* contribution: Zhao et al. (2022), Proximal LOLA: each pays 1 into a pot that grows by 1.33 and is shared.
* m_fos: Lu et al. (2022), Model-Free Opponent Shaping.
* climbing and penalty: Claus and Boutilier (1998), The dynamics of reinforcement learning in cooperative multiagent
  systems, as repeated by Papoudakis et al. (2021), Benchmarking multi-agent deep RL algorithms in cooperative tasks.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Metrics
from marl_suite.envs.repeated_games import RepeatedGame

Table: TypeAlias = np.ndarray | Callable[[int], np.ndarray]
"""Payoffs [2, A, A], or how to make them for a number of actions."""


def _zero_sum(row: Any) -> np.ndarray:
    """[2, A, A] from the first player's [A, A]; the second loses what the first wins."""
    row = np.asarray(row, np.float32)
    return np.stack([row, -row])


def _symmetric(row: Any) -> np.ndarray:
    """[2, A, A] from the first player's [A, A]; the second has the same game seen from its side."""
    row = np.asarray(row, np.float32)
    return np.stack([row, row.T])


def _common(payoffs: Any) -> np.ndarray:
    """[2, A, A] from [A, A]: both players get the cell."""
    return np.stack([np.asarray(payoffs, np.float32)] * 2)


def _dilemma(cc: float, cd: float, dc: float, dd: float) -> np.ndarray:
    """[2, 2, 2] from what a player gets for its own and the other's cooperation (c) or defection (d)."""
    return _symmetric([[cc, cd], [dc, dd]])


def _cyclic(stake: float) -> np.ndarray:
    """[2, 3, 3] in which each action beats the one before it, for `stake`."""
    return _zero_sum(stake * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]))


_BACH_STRAVINSKY = np.array([[[3, 0], [0, 2]], [[2, 0], [0, 3]]], np.float32)


MetricsOfPlay: TypeAlias = Callable[[jax.Array, tuple[str, ...], jax.Array], Metrics]
"""From a joint action int32 [2], the names of the actions and the payoffs float32 [2, A, A]."""


def _frequencies(*names: str) -> MetricsOfPlay:
    """Who played action 0, 1, ... under these names, or under the actions' own where none are given."""

    def metrics(actions: jax.Array, action_names: tuple[str, ...], payoffs: jax.Array) -> Metrics:
        return {name: (actions == a).astype(jnp.float32) for a, name in enumerate(names or action_names)}

    return metrics


def _coordination(actions: jax.Array, action_names: tuple[str, ...], payoffs: jax.Array) -> Metrics:
    return {"coordination": jnp.broadcast_to(actions[0] == actions[1], (2,)).astype(jnp.float32)}


def _optimality(actions: jax.Array, action_names: tuple[str, ...], payoffs: jax.Array) -> Metrics:
    """Who got the most that its table has, and who played what."""
    best = payoffs[:, actions[0], actions[1]] == payoffs.max(axis=(1, 2))
    return {"optimal": best.astype(jnp.float32)} | _frequencies()(actions, action_names, payoffs)


class TwoPlayerGame(NamedTuple):
    summary: str  # the game in one sentence
    actions: tuple[str, ...]  # their names; empty where their number is free
    presets: Mapping[str, Table]  # the first is the default
    metrics: MetricsOfPlay
    size: int  # the default number of actions
    is_dilemma: bool = False
    repetitions: int = RepeatedGame.repetitions


GAMES: Mapping[str, TwoPlayerGame] = {
    "prisoners_dilemma": TwoPlayerGame(
        "Defection pays whatever the other does, yet both prefer mutual cooperation.",
        ("cooperate", "defect"),
        {
            "lola": _dilemma(-1, -3, 0, -2),
            "melting_pot": _dilemma(3, 0, 5, 1),
            "contribution": _dilemma(0.33, -0.335, 0.665, 0),
            "pax": _dilemma(2, 0, 3, 1),
        },
        _frequencies("cooperation"),
        size=2,
        is_dilemma=True,
    ),
    "stag_hunt": TwoPlayerGame(
        "The best joint outcome needs trust; hare is safe.",
        ("stag", "hare"),
        {
            "standard": _dilemma(4, 0, 3, 2),  # strict equilibria; hare is the safer one
            "melting_pot": _dilemma(4, 0, 2, 2),
            "pax": _dilemma(4, 1, 3, 2),
        },
        _frequencies("cooperation"),
        size=2,
        is_dilemma=True,
    ),
    "chicken": TwoPlayerGame(
        "Each wants the other to yield, and both lose most when nobody does.",
        ("swerve", "straight"),
        {
            "melting_pot": _dilemma(3, 2, 5, 0),
            "pax": _dilemma(0, -1, 1, -2),
            "m_fos": _dilemma(0, -1, 1, -100),
        },
        _frequencies("cooperation"),
        size=2,
        is_dilemma=True,
    ),
    "bach_stravinsky": TwoPlayerGame(
        "Both want to meet, each at its own favourite place.",
        ("bach", "stravinsky"),
        {"melting_pot": _BACH_STRAVINSKY, "pax": _BACH_STRAVINSKY},  # the two sources agree
        _frequencies("bach"),
        size=2,
    ),
    "matching_pennies": TwoPlayerGame(
        "One wins by matching, the other by differing: zero-sum.",
        ("heads", "tails"),
        {"lola": _zero_sum([[1, -1], [-1, 1]])},
        _frequencies("heads"),
        size=2,
    ),
    "rock_paper_scissors": TwoPlayerGame(
        "Each action beats another: zero-sum and cyclic.",
        ("rock", "paper", "scissors"),
        {"standard": _cyclic(1), "melting_pot": _cyclic(10)},
        _frequencies("rock", "paper", "scissors"),
        size=3,
    ),
    "pure_coordination": TwoPlayerGame(
        "Two players gain by choosing the same, whatever it is.",
        (),
        {
            "melting_pot": lambda size: _symmetric(np.eye(size)),
            "rationalizable": lambda size: _symmetric(np.diag(np.arange(1, size + 1))),
        },
        _coordination,
        size=3,
    ),
    "climbing": TwoPlayerGame(
        "Common payoff: beside the best pair lie the heaviest losses, and safer pairs pay less.",
        ("action_0", "action_1", "action_2"),
        {"standard": _common([[11, -30, 0], [-30, 7, 0], [0, 6, 5]])},
        _optimality,
        size=3,
        repetitions=25,
    ),
    "penalty": TwoPlayerGame(
        "Common payoff: two best pairs, a penalty for mixing them up, and a safe pair that pays less.",
        ("action_0", "action_1", "action_2"),
        {f"k_{k}": _common([[k, 0, 10], [0, 2, 0], [10, 0, k]]) for k in (-100, -75, -50, -25, 0)},
        _optimality,
        size=3,
        repetitions=25,
    ),
    "matrix_game": TwoPlayerGame(
        "Any two-player matrix game; its payoffs are a parameter.",
        (),
        {"zeros": lambda size: np.zeros((2, size, size), np.float32)},
        _frequencies(),
        size=2,
    ),
}
