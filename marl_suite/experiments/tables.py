"""The table of a sweep: interquartile means over seeds with 95 % stratified bootstrap intervals."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marl_suite.envs.errors import unknown_name
from marl_suite.evaluation import ANOTHER_SEED
from marl_suite.experiments.best_response import BEST_RESPONSE
from marl_suite.experiments.results import Results, Scores, read, read_rows
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
PUBLISHED_COLUMNS = ("environment", "baseline", "evaluation", "metric", "what", "published", "source")
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


def by_game(make: Callable[..., Table], root: Path | Results) -> list[Table]:
    """`make(root)` for all games together, or for each where together they are too wide to read.

    Args:
        make: `make_table` or `make_robustness`.
        root: a results folder, or what was read from it.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    found = read(root)
    together = make(found)
    if len(together.headings) <= MOST_COLUMNS:
        return [together]
    games = dict.fromkeys(entry["environment"] for entry in found.entries)
    return [table for game in games if (table := make(found.of(game))).rows]


def only(root: Path | Results, names: Sequence[str]) -> Results:
    """The results of some environments or baselines, as tables call them; of all where no names are given.

    Raises:
        InputError: for a name of neither, and when there are no results.
    """
    found = read(root)
    games, rows = ({entry[key] for entry in found.entries} for key in ("environment", "label"))
    for name in names:
        if name not in games | rows:
            raise unknown_name(f"environment or baseline in {str(found.root)!r}:", name, games | rows)
    games, rows = games & set(names) or games, rows & set(names) or rows
    chosen = [e for e in found.entries if e["environment"] in games and e["label"] in rows]
    return found._replace(entries=chosen)


def pick(table: Table, columns: Sequence[str]) -> Table:
    """The table with these columns after the first two, in this order; with all where none are given.

    Raises:
        InputError: for a column that the table does not have.
    """
    if not columns:
        return table
    wanted = [column.replace("_", " ") for column in columns]
    for column in wanted:
        if column not in table.headings[2:]:
            raise unknown_name("column", column, table.headings[2:])
    places = [0, 1, *(table.headings.index(column) for column in wanted)]
    return table._replace(
        headings=[table.headings[i] for i in places], rows=[[row[i] for i in places] for row in table.rows]
    )


def make_table(root: Path | Results, confidence: float = 0.95, intervals: bool = True) -> Table:
    """The table of the finished cells in `root`.

    Per game and baseline: material return per agent, by episode and by step, social metrics and the game's own
    metrics of the final policies among themselves (sampled actions), then what they and the scripted exploiter get
    when it takes one of their places. A dash stands where a metric is not defined. Learners of a shared reward stand
    in a block of their own.

    Args:
        root: a results folder, or what was read from it.
        confidence: of the bootstrap intervals.
        intervals: with them, or interquartile means alone.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    entries, titles = _in_blocks((found := read(root)).entries)
    scores = {entry["cell"]: _with_exploiter(found.scores.get(entry["cell"], {}), entry) for entry in entries}
    text = partial(interval, confidence=confidence) if intervals else point
    columns, rows, notes = _columns(scores), [], []
    for entry in entries:
        cell = scores[entry["cell"]]
        if not cell:
            notes.append(f"{entry['environment']}, {entry['label']}: {entry['impossible'] or 'not finished'}")
        rows.append([entry["environment"], entry["label"], *(text(cell.get(column)) for column in columns)])
    names = [_HEADINGS.get(column, column[1].replace("_", " ")) for column in columns]
    if any(entry.get("published") for entry in entries):
        names.append("published return")
        rows = [[*row, entry.get("published") or "–"] for row, entry in zip(rows, entries, strict=True)]
        sources = {entry["environment"]: entry["source"] for entry in entries if entry.get("published")}
        notes += [f"{game}, published return: {source}" for game, source in sources.items()]
    return Table(["environment", "baseline", *names], rows, notes, titles)


def _with_exploiter(cell: Scores, entry: dict[str, Any]) -> Scores:
    """The scores with those against the game's exploiter by that name: who takes most has another in every game."""
    return cell | {("exploiter", m): v for (kind, m), v in cell.items() if kind == entry.get("exploiter")}


def make_robustness(root: Path | Results, intervals: bool = False) -> Table:
    """What the policies of mixed-motive games earn per step among themselves and with somebody else in one place.

    Each entry is "own / partner's": a remaining agent's return and the newcomer's, averaged over the places, as
    interquartile means over seeds.

    Args:
        root: a results folder, or what was read from it.
        intervals: add 95 % bootstrap intervals.

    Raises:
        InputError: when there are no results, or they cannot be read.
    """
    found = read(root)
    scores = {entry["cell"]: found.scores.get(entry["cell"], {}) for entry in found.entries}
    kinds = {kind for cell in scores.values() for kind, metric in cell if metric == "partner_per_step"}
    entries, titles = _in_blocks(
        [e for e in found.entries if any(m == "partner_per_step" for _, m in scores[e["cell"]])]
    )
    place = {ANOTHER_SEED: -1, BEST_RESPONSE: 1}  # the scripted players stand between the two
    partners, text = sorted(kinds, key=lambda name: (place.get(name, 0), name)), interval if intervals else point
    rows = []
    for entry in entries:
        cell = scores[entry["cell"]]
        row = [text(cell["self_play", "return_per_step"])]
        for partner in partners:
            pair = [cell.get((partner, f"{who}_per_step")) for who in ("own", "partner")]
            row.append(" / ".join(text(values) for values in pair if values is not None) or "–")
        rows.append([entry["environment"], entry["label"], *row])
    names = [name.replace("_", " ") for name in ("self", *partners)]
    return Table(["environment", "baseline", *names], rows, [], titles)


def make_published(root: Path | Results) -> Table:
    """What others report beside what was found here, from the folder's `published.csv`, in its order.

    Its columns are the environment and baseline, as tables call them, the evaluation and metric, what they are in
    words, the published number and its source. Here: the mean over seeds and, in parentheses, the standard deviation
    (n - 1), as papers report them.

    Raises:
        InputError: when there are no results, or no published numbers.
    """
    found, rows = read(root), []
    cells = {(entry["environment"], entry["label"]): entry["cell"] for entry in found.entries}
    for row in read_rows(found.root / "published.csv", PUBLISHED_COLUMNS):
        game, label = row["environment"], row["baseline"]
        if (game, label) in cells:
            values = found.scores.get(cells[game, label], {}).get((row["evaluation"], row["metric"]))
            rows.append([game, label, row["what"], row["published"], spread(values), row["source"]])
    return Table(["environment", "baseline", "what", "published", "here", "source"], rows, [])


def _columns(scores: dict[str, Scores]) -> list[tuple[str, str]]:
    """The columns in which some cell has a number, in reading order."""
    present = {key for cell in scores.values() for key, values in cell.items() if not np.all(np.isnan(values))}
    own = sorted(k for k in present if k[0] == "self_play" and k not in _HEADINGS and k[1] not in _LEFT_OUT)
    fixed = [key for key in _HEADINGS if key in present]
    return [k for k in fixed if k[0] == "self_play"] + own + [k for k in fixed if k[0] != "self_play"]


def interval(values: np.ndarray | None, confidence: float = 0.95) -> str:
    """IQM and bootstrap interval of one value per seed, as text; a dash where some seed has none."""
    if values is None or np.any(np.isnan(values)):
        return "–"
    middle, low, high = stratified_bootstrap(np.asarray(values)[:, None], confidence=confidence)
    if len(values) == 1:  # one run says nothing about spread
        return _number(middle)
    return f"{_number(middle)} [{_number(low)}, {_number(high)}]"


def point(values: np.ndarray | None) -> str:
    """IQM of one value per seed, as text; a dash where some seed has none."""
    return "–" if values is None or np.any(np.isnan(values)) else _number(interquartile_mean(values))


def spread(values: np.ndarray | None) -> str:
    """Mean and standard deviation of one value per seed, as text; a dash where some seed has none."""
    if values is None or np.any(np.isnan(values)):
        return "–"
    return f"{_number(np.mean(values))} ({_number(np.std(values, ddof=1))})" if len(values) > 1 else _number(values[0])


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
