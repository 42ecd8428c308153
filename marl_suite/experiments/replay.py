"""Stored policies, loaded again."""

from pathlib import Path

import jax
import numpy as np

from marl_suite.algorithm import Learner
from marl_suite.envs.environment import PyTree, at_least
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.evaluation import evaluator
from marl_suite.experiments import store, tables
from marl_suite.experiments.suites import Cell
from marl_suite.training import Fit


def load_cell(root: Path, cell_id: str) -> tuple[Cell, Learner, PyTree]:
    """A finished cell: what it was, its learner, and the learner's state per seed.

    Raises:
        InputError: when its files cannot be read, or its environment has changed since.
    """
    folder = store.CellFolder(root, cell_id)
    facts = folder.read("configuration.json")
    names = ("environment", "baseline", "label", "steps", "chunks", "episodes")
    env = {k: v for k, v in facts["env"].items() if k != "name"}
    cell = Cell(
        **{name: facts[name] for name in names},
        seeds=tuple(facts["seeds"]),
        best_response=facts.get("best_response", 0),
        env=env,
        params=facts["params"],
        set=facts["set"],
    ).check()
    if cell.game.version != facts["version"]:
        raise InputError(
            f"{cell_id} was made with version {facts['version']} of {cell.environment}, this is {cell.game.version}"
        )
    fit = Fit(cell.game, cell.configuration, cell.seeds, cell.steps, cell.game_params, cell.chunks)
    learner = fit.learner()
    state, _ = store.load_tree(folder.final / "policy.npz", learner.trained(fit.shapes().learner))
    return cell, learner, state


def evaluate_folder(root: Path, against: str = "", episodes: int = 512, greedy: bool = False, seed: int = 0) -> str:
    """A Markdown table of fresh evaluations of every finished cell.

    Args:
        root: a results folder.
        against: a scripted player that takes one agent's place, averaged over the places; "" for none.
        episodes: per seed.
        greedy: the policies' modes instead of samples.
        seed: of the evaluation.

    Raises:
        InputError: when there is nothing to evaluate, or no game there has the scripted player.
    """
    at_least("episodes", episodes, 1)
    entries = [entry for entry in store.read_sweep(root) if store.CellFolder(root, entry["id"]).finished]
    if not entries:
        raise InputError(f"no finished results in {str(root)!r}")
    loaded = [load_cell(root, entry["id"]) for entry in entries]
    players = {name for cell, _, _ in loaded for name in cell.game.players}
    if against and against not in players:
        raise unknown_name("scripted player", against, players)
    rows = [
        [entry["environment"], entry["label"], *_row(*parts, against, episodes, greedy, seed)]
        for entry, parts in zip(entries, loaded, strict=True)
    ]
    first = ["return against it", "its return"] if against else ["return per step", "equality"]
    return tables.markdown(tables.Table(["environment", "baseline", *first], rows, []))


def _row(
    cell: Cell, learner: Learner, state: PyTree, against: str, episodes: int, greedy: bool, seed: int
) -> list[str]:
    keys = jax.random.split(jax.random.key(seed), len(cell.seeds))
    partners = [against] if against in cell.game.players and cell.game.num_agents > 1 else []
    results = evaluator(cell.game, learner, episodes, greedy, partners)(cell.game_params, state, keys)
    if against:
        shown = [results[against][name] if partners else None for name in ("own_per_step", "partner_per_step")]
    else:
        shown = [results["self_play"][name] for name in ("return_per_step", "equality")]
    return [tables.interval(None if v is None else np.asarray(v)) for v in shown]
