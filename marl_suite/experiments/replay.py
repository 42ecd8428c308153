"""Stored policies, played again."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from marl_suite.algorithm import ActResult, Learner
from marl_suite.envs.environment import PyTree, at_least
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.evaluation import evaluator
from marl_suite.experiments import tables
from marl_suite.stored_policies import Stored, files, read


def as_learner(stored: Stored) -> Learner:
    """Stored policies as a learner that does not learn; its state is `stored.policies`, [S, ...]."""

    def act(policies: PyTree, *args: Any) -> ActResult:
        return policies.act(*args)

    memory = stored.policies.memory
    return Learner(init=lambda key: stored.policies, act=act, export=lambda policies: policies, memory=memory)


def evaluate_stored(path: Path, against: str = "", episodes: int = 512, greedy: bool = False, seed: int = 0) -> str:
    """A Markdown table of fresh evaluations of stored policies.

    Args:
        path: a results folder, a cell's folder in it, or a policy file.
        against: a scripted player that takes one agent's place, averaged over the places; "" for none.
        episodes: per seed.
        greedy: the policies' modes instead of samples.
        seed: of the evaluation.

    Raises:
        InputError: when there is nothing to evaluate, or no game there has the scripted player.
    """
    at_least("episodes", episodes, 1)
    found = [read(file) for file in files(path)]
    if not found:
        raise InputError(f"no stored policy in {str(path)!r}")
    games = [stored.game() for stored in found]
    players = {name for game, _ in games for name in game.players}
    if against and against not in players:
        raise unknown_name("scripted player", against, players)
    rows = []
    for stored, (game, params) in zip(found, games, strict=True):
        keys = jax.random.split(jax.random.key(seed), len(stored.seeds))
        partners = [against] if against in game.players and game.num_agents > 1 else []
        play = evaluator(game, as_learner(stored), episodes, greedy, partners)
        results = play(params, stored.policies, keys)
        rows.append([stored.facts["environment"], stored.facts["label"], *_shown(results, against)])
    first = ["return against it", "its return"] if against else ["return per step", "equality"]
    return tables.markdown(tables.Table(["environment", "baseline", *first], rows, []))


def _shown(results: dict[str, Any], against: str) -> list[str]:
    """Intervals over seeds of what is asked for; a dash where the game has no such player."""
    metrics = ("own_per_step", "partner_per_step") if against else ("return_per_step", "equality")
    values = results.get(against or "self_play", {})
    return [tables.interval(np.asarray(values[name]) if name in values else None) for name in metrics]
