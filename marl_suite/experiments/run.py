"""Running cells: train, evaluate, store; a killed sweep goes on where it was."""

import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marl_suite import stored_policies
from marl_suite.algorithm import Learner
from marl_suite.envs.environment import PyTree
from marl_suite.envs.errors import InputError
from marl_suite.evaluation import evaluator, opposed
from marl_suite.experiments import results, store
from marl_suite.experiments.best_response import BEST_RESPONSE, best_response
from marl_suite.experiments.suites import Cell
from marl_suite.stored_policies import Policy, Stored
from marl_suite.training import Chunk, Fit, LoopState, in_bytes, returns_of

Report = Callable[[Cell, Chunk], None]
CURVE_COLUMNS = ("seed", "env_steps", "metric", "value")
CHECKPOINT_SECONDS = 10.0
"""A cell is saved this often while it trains, and not at all when it is done sooner."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out of a cell."""

    learner: Learner
    state: PyTree  # the learner's state without what only training needs, [S, ...]
    curves: list[dict[str, Any]]  # one row per (chunk, seed, metric)
    evaluations: dict[str, dict[str, np.ndarray]]  # {evaluation: {metric: [S] or [S, N]}}
    timing: dict[str, float]  # seconds
    stored: Stored | None = None  # the policies as they are stored; None where the learner does not export any

    def policy(self, seed: int | None = None) -> Policy:
        """The policy of one run, as `marl_suite.load` gives it; the first seed's when None.

        Raises:
            InputError: when there is no such seed, or the learner does not export its policies.
        """
        if self.stored is None:
            raise InputError("this learner does not say how its policies are stored; see `Learner.export`")
        return self.stored.policy(seed)

    def __getitem__(self, metric: str) -> np.ndarray:
        """A metric of the final policies among themselves, [S] or [S, N]."""
        return self.evaluations["self_play"][metric]


def run_cell(cell: Cell, folder: store.CellFolder | None = None, report: Report | None = None) -> Result:
    """Trains and evaluates one cell; with a folder, goes on from its checkpoint and fills it.

    Raises:
        InputError: when the baseline cannot play the game.
    """
    started = time.perf_counter()
    fit = Fit(cell.game, cell.configuration, cell.seeds, cell.steps, cell.game_params, cell.chunks)
    state, curves = _train(cell, fit, folder, report)
    trained = time.perf_counter()
    learner = fit.learner()
    trained_state = learner.trained(state.learner)
    evaluations = _evaluate(cell, learner, trained_state)
    timing = {"training": trained - started, "evaluation": time.perf_counter() - trained}
    result = Result(learner, trained_state, curves, evaluations, timing, _stored(cell, learner, trained_state))
    if folder:
        _write(cell, fit, folder, result)
    return result


def _train(
    cell: Cell, fit: Fit, folder: store.CellFolder | None, report: Report | None
) -> tuple[LoopState, list[dict[str, Any]]]:
    """The state after training, from the checkpoint on where there is one, and the learning curves."""
    if folder:
        folder.begin()
    state, curves, done = _restore(fit, folder) if folder and folder.checkpoint.exists() else (fit.start(), [], 0)
    saved, pause = time.perf_counter(), CHECKPOINT_SECONDS
    for chunk in fit.chunks(state, done) if cell.learns else ():
        state = chunk.state
        curves += _curve_rows(cell, chunk)
        if report:
            report(cell, chunk)
        if folder and (now := time.perf_counter()) - saved >= pause:
            store.save_tree(folder.checkpoint, state, done=str(chunk.number), curves=json.dumps(curves))
            saved = time.perf_counter()
            pause = CHECKPOINT_SECONDS * max(1.0, saved - now)  # large states are saved less often
    return state, curves


def _restore(fit: Fit, folder: store.CellFolder) -> tuple[LoopState, list[dict[str, Any]], int]:
    """The checkpoint's loop state, learning curves so far and number of chunks."""
    state, extra = store.load_tree(folder.checkpoint, fit.shapes())
    return state, json.loads(extra["curves"]), int(extra["done"])


def _evaluate(cell: Cell, learner: Learner, state: PyTree) -> dict[str, dict[str, np.ndarray]]:
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 0xE7A1))(np.asarray(cell.seeds, np.uint32))
    game, population = cell.game, cell.game.mixed_motive and cell.game.num_agents > 1 and not cell.mixed_team
    partners = tuple(game.players) if population else ()
    another_seed = population and cell.learns and len(cell.seeds) > 1
    evaluate = evaluator(game, learner, cell.episodes, False, partners, another_seed, apart=cell.mixed_team)
    evaluations = dict(evaluate(cell.game_params, state, keys))
    if population and cell.learns and cell.best_response:
        seeds = [seed + 1_000_000 for seed in cell.seeds]  # the responder is another player, with its own chances
        evaluations[BEST_RESPONSE] = best_response(
            game, cell.game_params, cell.configuration, state, seeds, cell.best_response, cell.episodes
        )
    if cell.learns:
        greedy = evaluator(cell.game, learner, cell.episodes, greedy=True)(cell.game_params, state, keys)
        evaluations["self_play_greedy"] = greedy["self_play"]
    return {name: {m: np.asarray(v) for m, v in sorted(metrics.items())} for name, metrics in evaluations.items()}


def _curve_rows(cell: Cell, chunk: Chunk) -> list[dict[str, Any]]:
    """The chunk's means: material payoff per step and agent, episode returns, the game's and the learner's metrics."""
    logs = chunk.logs
    values = {"return_per_step": logs["payoff"], "return": returns_of(logs)}
    if opposed(cell.game):
        values["first_agent_return_per_step"] = logs["payoff"][:, 0]
    values |= logs["metrics"] | {f"learner/{name}": value for name, value in logs["learner"].items()}
    rows = []
    for metric, value in values.items():
        per_seed = np.asarray(value).reshape(len(cell.seeds), -1).mean(1)
        for seed, number in zip(cell.seeds, per_seed.tolist(), strict=True):
            rows.append({"seed": seed, "env_steps": chunk.env_steps, "metric": metric, "value": number})
    return rows


def _write(cell: Cell, fit: Fit, folder: store.CellFolder, result: Result) -> None:
    trained = fit.plan.total_steps if cell.learns else 0
    facts = {"environment_version": cell.game.version, "seconds": result.timing, "env_steps_per_seed": trained}
    summary = {"seeds": cell.seeds, "env_steps": trained, "evaluations": result.evaluations}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    writer.writerows([row[column] for column in CURVE_COLUMNS] for row in result.curves)
    folder.write("configuration.json", store.to_json(cell.specification))
    folder.write("manifest.json", store.to_json(store.manifest(**facts)))
    folder.write("summary.json", store.to_json(summary))
    folder.write("curves.csv", buffer.getvalue())
    if result.stored:
        folder.write(stored_policies.FILE, stored_policies.to_bytes(result.stored))
    folder.finish()


def _stored(cell: Cell, learner: Learner, state: PyTree) -> Stored | None:
    """The policies of all seeds, as they are stored."""
    if (export := learner.export) is None:
        return None
    policies = jax.vmap(export)(state) if jax.tree.leaves(state) else export(state)
    names = ("environment", "env", "params", "version", "baseline", "label", "seeds")
    facts = {name: cell.specification[name] for name in names}
    return stored_policies.gather(policies, cell.game, cell.game_params, facts)


def sweep(cells: Sequence[Cell], root: Path, report: Report | None = None, log: Callable[[str], None] = print) -> None:
    """Runs the cells that are not finished in `root`, one after the other.

    Args:
        cells: checked cells, in table order.
        root: the folder of the sweep; made when missing.
        report: called after every chunk of training.
        log: told, in a line each, what is run, resumed or passed over.

    Raises:
        InputError: when the folder cannot be written or another process is writing to it.
    """
    with store.locked(root):
        store.write_sweep(root, [_entry(cell) for cell in cells])
        written = results.Writer(root)
        for number, cell in enumerate(cells, start=1):
            folder, where = store.CellFolder(root, cell.id), f"[{number}/{len(cells)}] {cell.shown_as} {cell.label}"
            if cell.impossible or folder.finished:
                log(f"{where}: {cell.impossible or 'already finished'}")
                continue
            buffers = f", replay buffers {in_bytes(cell.buffer_bytes)}" if cell.buffer_bytes else ""
            log(f"{where}: {'resumed' if folder.checkpoint.exists() else 'started'}{buffers}")
            result = run_cell(cell, folder, report)
            written.write()
            seconds = result.timing["training"] + result.timing["evaluation"]
            log(f"{where}: finished in {seconds:.1f} s, return per step {np.mean(result['return_per_step']):.3f}")
        written.write()


def _entry(cell: Cell) -> dict[str, Any]:
    keys = ("id", "label", "impossible", "team_reward", "published", "source")
    facts = {"environment": cell.shown_as, "exploiter": cell.game.exploiter}
    headline = "first_agent_return_per_step" if opposed(cell.game) else "return_per_step"
    return {key: getattr(cell, key) for key in keys} | {"headline": headline} | facts


def train(
    environment: str,
    baseline: str = "ippo",
    seeds: int | Iterable[int] = 5,
    steps: float = 1_000_000,
    env: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    chunks: int = 20,
    episodes: int = 0,
    best_response: float = 1e5,
    report: Report | None = None,
    **overrides: Any,
) -> Result:
    """Trains a baseline in an environment and evaluates it; writes nothing.

    Args:
        environment: a name, as `marl_suite.make` takes it.
        baseline: a name of `marl-suite list baselines`.
        seeds: how many (0 .. n - 1), or which; all run in one program.
        steps: environment steps per seed, rounded up to whole chunks.
        env: static settings of the environment, such as `{"num_agents": 7}`.
        params: its traced parameters, such as `{"max_steps": 100}`.
        chunks: points of the learning curve.
        episodes: per evaluation; 0 for 128, or fewer where many agents play long episodes.
        best_response: steps that a best response to the policies learns for, in games of mixed motives; 0 for none.
        report: called with (cell, chunk) after every chunk.
        **overrides: settings of the baseline, such as `lr=3e-4`.

    Returns:
        the learner, its state per seed, learning curves, and arrays of evaluation metrics.

    Raises:
        InputError: for anything unknown or out of range, and for a pair that cannot be played.
    """
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    cell = Cell(
        environment,
        baseline,
        baseline,
        numbers,
        steps,
        chunks,
        episodes,
        best_response,
        env or {},
        params or {},
        overrides,
    ).check()
    if cell.impossible:
        raise InputError(cell.impossible)
    return run_cell(cell, report=report)
