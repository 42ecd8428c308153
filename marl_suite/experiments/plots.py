"""The figure of a sweep: learning curves, one panel per environment."""

from pathlib import Path
from typing import Any

import numpy as np

from marl_suite.experiments.results import Curve, Results, read
from marl_suite.metrics.statistics import interquartile_mean, stratified_bootstrap

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008): told apart with any colour vision."""
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


def learning_curves(root: Path, out: Path | None = None) -> Path:
    """Draws return per step over environment steps, per environment and baseline.

    The mean over agents, and agent 0's own in games of opposed interests, whose mean may be constant. Lines are
    interquartile means over seeds, bands their 95 % bootstrap intervals; baselines that do not learn are broken
    horizontal lines. Equal results give equal files, with one version of matplotlib.

    Args:
        root: a results folder.
        out: the PNG file; default `root/learning_curves.png`.

    Returns:
        the file's path.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    from matplotlib.figure import Figure  # not pyplot, whose choice of a screen is the caller's

    found = read(root)
    entries = [entry for entry in found.entries if entry["cell"] in found.scores]
    games = list(dict.fromkeys(entry["environment"] for entry in entries))
    width = min(3, max(len(games), 1))
    height = -(-max(len(games), 1) // width)
    figure = Figure(figsize=(4.0 * width, 2.9 * height + 0.6))
    axes = figure.subplots(height, width, squeeze=False)
    learners, controls = _lines(found)
    styles = _styles([entry["label"] for entry in entries], {label for _, label in learners})
    for panel, game in zip(axes.flat, games, strict=False):
        alone = any(entry["headline"].startswith("first") for entry in entries if entry["environment"] == game)
        _draw(panel, game, learners, controls, styles)
        panel.set_title(game.replace("_", " ") + (" (agent 0)" if alone else ""), fontsize=10)
    for panel in axes.flat[len(games) :]:
        panel.set_visible(False)
    for row in axes:
        row[0].set_ylabel("return per step and agent")
    _finish(figure, axes)
    path = out or found.root / "learning_curves.png"
    save(figure, path)
    return path


def save(figure: Any, path: Path) -> None:
    """Writes a figure to `path`, all of it or nothing."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=150, metadata={"Software": None})
    temporary.replace(path)


def _draw(panel: Any, game: str, learners: dict[tuple, Curve], controls: dict[tuple, float], styles: dict) -> None:
    """One game's curves."""
    for (environment, label), (steps, values) in learners.items():
        if environment == game:
            _band(panel, steps, values, label, styles[label])
    for (environment, label), value in controls.items():
        if environment == game:
            panel.axhline(value, label=label, lw=1.3, **styles[label])
    panel.set_xlabel("environment steps")
    panel.spines[["top", "right"]].set_visible(False)
    panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))


def _finish(figure: Any, axes: np.ndarray) -> None:
    """One legend for all panels, below them."""
    handles = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=min(len(handles), 4), frameon=False)
    rows = -(-len(handles) // 4)
    figure.tight_layout(rect=(0, (0.08 + 0.26 * rows) / figure.get_figheight(), 1, 1))


def _lines(found: Results) -> tuple[dict[tuple, Curve], dict[tuple, float]]:
    """Curves of what learned, {(environment, label): (steps [K], values [S, K])}, and levels of what did not."""
    learners, controls = {}, {}
    for entry in found.entries:
        cell, key = entry["cell"], (entry["environment"], entry["label"])
        if cell in found.curves:
            learners[key] = found.curves[cell]
        elif cell in found.scores:
            scores = found.scores[cell].get(("self_play", entry["headline"]), np.zeros(0))
            controls[key] = float(interquartile_mean(scores))
    return learners, controls


def _styles(labels: list[str], learning: set[str]) -> dict[str, dict]:
    """A colour for each learner, broken lines in a second round of colours; a grey dash pattern for each control."""
    names = list(dict.fromkeys(labels))
    rounds, learners = ("-", (0, (4, 1.5))), [name for name in names if name in learning]
    colours = {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": rounds[i // len(COLOURS) % len(rounds)]}
        for i, name in enumerate(learners)
    }
    controls = [name for name in names if name not in learning]
    dashes = {name: {"color": "0.45", "linestyle": _DASHES[i % len(_DASHES)]} for i, name in enumerate(controls)}
    return colours | dashes


def _band(panel, steps: np.ndarray, values: np.ndarray, label: str, style: dict) -> None:
    points = np.array([stratified_bootstrap(column[:, None], resamples=500) for column in values.T])
    panel.plot(steps, points[:, 0], label=label, lw=1.8, **style)
    panel.fill_between(steps, points[:, 1], points[:, 2], alpha=0.2, lw=0, color=style["color"])
