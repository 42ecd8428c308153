"""The files at the root of a results folder, which say all that tables and figures show, with or without `cells/`.

    sweep.json      the cells in table order: "cell", by which the other files name it, its folder "id", its
                    "environment" and "label" in tables, "headline", the metric that figures show, ...
    results.csv     cell, seed, evaluation, metric, agent, value: a number in each row. The agent is empty where a
                    metric is one number for all, the value where a metric is not defined.
    curves.csv      cell, seed, env_steps, value: the headline metric while learning
    manifest.json   what all cells were made with, and in a line for each cell the rest: its environment's version,
                    seconds, environment steps of each seed, and whole configuration

Numbers are float32, in the fewest digits that give them back. In pandas,

    cells = pandas.read_json(DIR / "sweep.json", dtype={"cell": str})
    results = pandas.read_csv(DIR / "results.csv", dtype={"cell": str}).merge(cells, on="cell")
"""

import csv
import importlib.resources
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marl_suite.envs.errors import InputError
from marl_suite.experiments import store

RESULT_COLUMNS = ("cell", "seed", "evaluation", "metric", "agent", "value")
CURVE_COLUMNS = ("cell", "seed", "env_steps", "value")
Scores = dict[tuple[str, str], np.ndarray]
Curve = tuple[np.ndarray, np.ndarray]


class Results(NamedTuple):
    """What a results folder holds."""

    root: Path
    entries: list[dict[str, Any]]  # of sweep.json
    scores: dict[str, Scores]  # {cell: {(evaluation, metric): values [S]}}, one number per seed; of finished cells
    curves: dict[str, Curve]  # {cell: (environment steps [K], headline metric [S, K])}, of those that learn

    def of(self, game: str) -> "Results":
        """The same of one game."""
        return self._replace(entries=[entry for entry in self.entries if entry["environment"] == game])


def stored(name: str) -> Path:
    """The folder called `name` or, where there is none, the results of the suite `name` that come with the package."""
    root = importlib.resources.files("marl_suite.benchmarks") / "results" / name
    return Path(str(root)) if not Path(name).exists() and (root / "sweep.json").is_file() else Path(name)


def read(root: "Path | str | Results") -> Results:
    """Reads a results folder's root files; what was read already is passed on.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    if isinstance(root, Results):
        return root
    root = Path(root)
    entries = store.read_sweep(root)
    scores: dict[str, dict[tuple[str, str], list[np.float32]]] = {}
    for row in read_rows(root / "results.csv", RESULT_COLUMNS):
        if not row["agent"]:
            values = scores.setdefault(row["cell"], {}).setdefault((row["evaluation"], row["metric"]), [])
            values.append(_number(row["value"]))
    arrays = {cell: {key: np.asarray(v, float) for key, v in found.items()} for cell, found in scores.items()}
    return Results(root, entries, arrays, _curves(root))


def _curves(root: Path) -> dict[str, Curve]:
    """{cell: (steps [K], values [S, K])}."""
    points: dict[str, dict[tuple[str, int], np.float32]] = {}
    for row in read_rows(root / "curves.csv", CURVE_COLUMNS):
        points.setdefault(row["cell"], {})[row["seed"], int(row["env_steps"])] = _number(row["value"])
    curves = {}
    for cell, found in points.items():
        seeds, steps = list(dict.fromkeys(seed for seed, _ in found)), sorted({step for _, step in found})
        values = [[found.get((seed, step), np.nan) for step in steps] for seed in seeds]
        curves[cell] = np.asarray(steps), np.asarray(values, float)
    return curves


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        InputError: when it cannot be read, or lacks one of the columns.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {str(path)!r}: {reason}") from None
    if rows and set(columns) - set(rows[0]):
        raise InputError(f"cannot read {str(path)!r}: it needs the columns {', '.join(columns)}")
    return rows


def _number(text: str) -> np.float32:
    return np.float32(text or "nan")


class Writer:
    """Makes the root files anew from the finished cells, reading each cell once."""

    def __init__(self, root: Path):
        self.root = root
        self._cells: dict[str, tuple[str, str, dict[str, Any]]] = {}

    def write(self) -> None:
        """Writes results.csv, curves.csv and manifest.json."""
        entries = store.read_sweep(self.root)
        for entry in entries:
            folder = store.CellFolder(self.root, entry["id"])
            if entry["cell"] not in self._cells and folder.finished:
                self._cells[entry["cell"]] = _results(folder, entry), _curve(folder, entry), _facts(folder)
        found = {entry["cell"]: self._cells[entry["cell"]] for entry in entries if entry["cell"] in self._cells}
        results, curves, facts = zip(*found.values(), strict=True) if found else ((), (), ())
        store.write_atomically(self.root / "results.csv", _text([RESULT_COLUMNS]) + "".join(results))
        store.write_atomically(self.root / "curves.csv", _text([CURVE_COLUMNS]) + "".join(curves))
        store.write_atomically(self.root / "manifest.json", _manifest(dict(zip(found, facts, strict=True))))


def _results(folder: store.CellFolder, entry: dict[str, Any]) -> str:
    """A cell's rows of results.csv."""
    summary, rows = folder.read("summary.json"), []
    for evaluation, metrics in summary["evaluations"].items():
        for metric, per_seed in metrics.items():
            for seed, value in zip(summary["seeds"], per_seed, strict=True):
                values = enumerate(value) if isinstance(value, list) else [("", value)]
                rows += [(entry["cell"], seed, evaluation, metric, agent, _digits(v)) for agent, v in values]
    return _text(rows)


def _curve(folder: store.CellFolder, entry: dict[str, Any]) -> str:
    """A cell's rows of curves.csv."""
    rows = [row for row in read_rows(folder.final / "curves.csv", ("metric",)) if row["metric"] == entry["headline"]]
    return _text((entry["cell"], row["seed"], row["env_steps"], _digits(row["value"])) for row in rows)


def _digits(value: Any) -> str:
    """The shortest text that reads as the same float32; empty for what is undefined."""
    number = np.float32(np.nan if value is None else value)
    return "" if np.isnan(number) else str(number).removesuffix(".0")


def _text(rows: Iterable[tuple]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _facts(folder: store.CellFolder) -> dict[str, Any]:
    return folder.read("manifest.json") | {"configuration": folder.read("configuration.json")}


def _manifest(facts: dict[str, dict[str, Any]]) -> str:
    """What is the same in all cells once, the rest cell by cell, a line each."""
    first, *others = facts.values() or [{}]
    own = {"environment_version", "seconds", "env_steps_per_seed", "configuration"}
    shared = {k: v for k, v in first.items() if k not in own and all(v == other.get(k) for other in others)}
    top = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in shared.items()]
    lines = [
        f"  {json.dumps(cell)}: {json.dumps({k: v for k, v in found.items() if k not in shared})}"
        for cell, found in facts.items()
    ]
    cells = ",\n".join(lines)
    return "{\n" + ",\n".join([*top, f' "cells": {{\n{cells}\n }}']) + "\n}\n"
