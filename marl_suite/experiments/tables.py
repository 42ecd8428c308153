"""The table of a sweep: interquartile means over seeds with 95 % stratified bootstrap intervals."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marl_suite.evaluation import ANOTHER_SEED
from marl_suite.experiments import store
from marl_suite.experiments.best_response import BEST_RESPONSE
from marl_suite.metrics.statistics import interquartile_mean, stratified_bootstrap

_HEADINGS = {
    ("self_play", "return"): "return",
    ("self_play", "return_per_step"): "return per step",
    ("self_play", "first_agent_return_per_step"): "agent 0's return per step",
    ("self_play", "equality"): "equality",
    ("self_play", "sustainability"): "sustainability",
    ("self_play", "peace"): "peace",
    ("exploiter", "own_per_step"): "return against exploiter",
    ("exploiter", "partner_per_step"): "exploiter's return",
}
"""Columns with a fixed place: those of self-play come before the game's own metrics, the others after them."""
_LEFT_OUT = {"utilitarian_return", "episode_length", "finished", "agent_return"}


BLOCKS = {
    False: "Learners of their own reward, and controls",
    True: "Learners of a reward that the team shares: not self-interested",
}
"""The two parts of a table, by whether all agents were rewarded alike."""


class Table(NamedTuple):
    """Headings and rows of text; `notes` say why a pair has no numbers and whose numbers are quoted."""

    headings: list[str]
    rows: list[list[str]]
    notes: list[str]
    titles: dict[int, str] = {}  # noqa: RUF012  (a named tuple's default is never changed)
    """Where the rows stand in several blocks: the title of the one that begins with each of these rows."""

    def blocks(self) -> list[tuple[str, list[list[str]]]]:
        """Title and rows of each block; the title is empty where there is only one."""
        starts = sorted(self.titles) or [0]
        ends = [*starts[1:], len(self.rows)]
        return [(self.titles.get(i, ""), self.rows[i:j]) for i, j in zip(starts, ends, strict=True)]


def _in_blocks(entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The entries block by block, and the blocks' titles where there are two."""
    parts = {team: [e for e in entries if e.get("team_reward", False) == team] for team in BLOCKS}
    both = all(parts.values())
    return parts[False] + parts[True], {0: BLOCKS[False], len(parts[False]): BLOCKS[True]} if both else {}


MOST_COLUMNS = 18
"""A wider table is read as one for each game, whose own metrics and players are the columns."""


def by_game(make: Callable[..., Table], root: Path) -> list[Table]:
    """`make(root)` for all games together, or for each where together they are too wide to read.

    Args:
        make: `make_table` or `make_robustness`.
        root: a results folder.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    together = make(root)
    if len(together.headings) <= MOST_COLUMNS:
        return [together]
    games = dict.fromkeys(entry["environment"] for entry in store.read_sweep(root))
    return [table for game in games if (table := make(root, game=game)).rows]


def make_table(root: Path, confidence: float = 0.95, game: str | None = None) -> Table:
    """The table of the finished cells in `root`, of one `game` if it is given.

    Per game and baseline: material return per agent, by episode and by step, social metrics and the game's own
    metrics of the final policies among themselves (sampled actions), then what they and the scripted exploiter get
    when it takes one of their places. A dash stands where a metric is not defined. Learners of a shared reward stand
    in a block of their own.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    scores, entries = _found(root, game)
    entries, titles = _in_blocks(entries)
    for entry in entries:  # who takes most from cooperators has another name in every game
        cell = scores.get(entry["id"], {})
        cell |= {("exploiter", metric): v for (kind, metric), v in cell.items() if kind == entry.get("exploiter")}
    columns = _columns(scores)
    rows, notes = [], []
    for entry in entries:
        cell = scores.get(entry["id"], {})
        if not cell:
            notes.append(f"{entry['environment']}, {entry['label']}: {entry['impossible'] or 'not finished'}")
        values = [interval(cell.get(column), confidence) for column in columns]
        rows.append([entry["environment"], entry["label"], *values])
    names = [_HEADINGS.get(column, column[1].replace("_", " ")) for column in columns]
    if any(entry.get("published") for entry in entries):
        names.append("published return")
        rows = [[*row, entry.get("published") or "–"] for row, entry in zip(rows, entries, strict=True)]
        sources = {entry["environment"]: entry["source"] for entry in entries if entry.get("published")}
        notes += [f"{game}, published return: {source}" for game, source in sources.items()]
    return Table(["environment", "baseline", *names], rows, notes, titles)


def make_robustness(root: Path, intervals: bool = False, game: str | None = None) -> Table:
    """What the policies of mixed-motive games earn per step among themselves and with somebody else in one place.

    Each entry is "own / partner's": a remaining agent's return and the newcomer's, averaged over the places, as
    interquartile means over seeds.

    Args:
        root: a results folder.
        intervals: add 95 % bootstrap intervals.
        game: this one alone.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    scores, entries = _found(root, game)
    entries, titles = _in_blocks(
        [e for e in entries if any(m == "partner_per_step" for _, m in scores.get(e["id"], ()))]
    )
    found = {kind for cell in scores.values() for kind, metric in cell if metric == "partner_per_step"}
    place = {ANOTHER_SEED: -1, BEST_RESPONSE: 1}  # the scripted players stand between the two
    partners = sorted(found, key=lambda name: (place.get(name, 0), name))

    def text(values: list[float]) -> str:
        return interval(values) if intervals else _number(float(interquartile_mean(np.asarray(values))))

    rows = []
    for entry in entries:
        cell = scores[entry["id"]]
        row = [text(cell["self_play", "return_per_step"])]
        for partner in partners:
            pair = [cell.get((partner, f"{who}_per_step")) for who in ("own", "partner")]
            row.append(" / ".join(text(values) for values in pair if values) or "–")
        rows.append([entry["environment"], entry["label"], *row])
    names = [name.replace("_", " ") for name in ("self", *partners)]
    return Table(["environment", "baseline", *names], rows, [], titles)


def _found(root: Path, game: str | None) -> tuple[dict[str, dict[tuple[str, str], list[float]]], list[dict[str, Any]]]:
    """Scores and entries, of one game if it is given."""
    entries = [entry for entry in store.read_sweep(root) if game in (None, entry["environment"])]
    ids = {entry["id"] for entry in entries}
    return {cell: scores for cell, scores in _scores(root).items() if cell in ids}, entries


def _scores(root: Path) -> dict[str, dict[tuple[str, str], list[float]]]:
    """{cell: {(evaluation, metric): values of all seeds}} for metrics that are one number per seed."""
    scores: dict[str, dict[tuple[str, str], list[float]]] = {}
    for cell, _, _, _, evaluation, metric, agent, value in store.tidy_rows(root):
        if agent == "":
            number = np.nan if value is None else value
            scores.setdefault(cell, {}).setdefault((evaluation, metric), []).append(number)
    return scores


def _columns(scores: dict[str, dict[tuple[str, str], list[float]]]) -> list[tuple[str, str]]:
    """The columns in which some cell has a number, in reading order."""
    present = {key for cell in scores.values() for key, values in cell.items() if not np.all(np.isnan(values))}
    own = sorted(k for k in present if k[0] == "self_play" and k not in _HEADINGS and k[1] not in _LEFT_OUT)
    fixed = [key for key in _HEADINGS if key in present]
    return [k for k in fixed if k[0] == "self_play"] + own + [k for k in fixed if k[0] != "self_play"]


def interval(values: "np.ndarray | list[float] | None", confidence: float = 0.95) -> str:
    """IQM and bootstrap interval of one value per seed, as text; a dash where some seed has none."""
    if values is None or np.any(np.isnan(values)):
        return "–"
    point, low, high = stratified_bootstrap(np.asarray(values)[:, None], confidence=confidence)
    if len(values) == 1:  # one run says nothing about spread
        return _number(point)
    return f"{_number(point)} [{_number(low)}, {_number(high)}]"


def _number(value: Any) -> str:
    text = f"{float(value):.3f}" if abs(value) < 10 else f"{float(value):.2f}"
    return text.replace("-0.000", "0.000")


def markdown(table: Table) -> str:
    """A Markdown table, or one per block with its title before it, and the notes as a list at the end."""

    def one(title: str, rows: list[list[str]]) -> str:
        lines = [table.headings, ["---"] * len(table.headings), *rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
        return f"**{title}**\n\n{text}" if title else text

    text = "\n\n".join(one(*block) for block in table.blocks())
    notes = "".join(f"\n- {note}" for note in table.notes)
    return text + (f"\n{notes}" if notes else "") + "\n"


def latex(table: Table) -> str:
    """A LaTeX tabular with booktabs rules, a line of title before each block, the notes as comments."""

    def line(row: list[str]) -> str:
        escaped = (cell.replace("_", r"\_").replace("%", r"\%").replace("–", "--") for cell in row)
        return " & ".join(escaped) + r" \\"

    columns = "ll" + "r" * (len(table.headings) - 2)
    notes = [f"% {note}" for note in table.notes]
    body = [line(table.headings)]
    for title, rows in table.blocks():
        heading = [rf"\multicolumn{{{len(table.headings)}}}{{l}}{{\emph{{{title}}}}} \\"] if title else []
        body += [r"\midrule", *heading, *map(line, rows)]
    return "\n".join(
        [*notes, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}", ""]
    )


def comma_separated(table: Table) -> str:
    """The same cells as CSV, with a column of block titles where there are several; by seed: `results.csv`."""
    buffer = io.StringIO()
    rows = [[*([title] if title else []), *row] for title, rows in table.blocks() for row in rows]
    csv.writer(buffer, lineterminator="\n").writerows([[*(["block"] if table.titles else []), *table.headings], *rows])
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {"markdown": markdown, "latex": latex, "csv": comma_separated}
