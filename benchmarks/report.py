"""Every table and figure of the README and of the result pages, made from the files under `benchmarks/results/`.

    python -m marl_suite.benchmarks.report            from the root of a checkout: writes what differs
    python -m marl_suite.benchmarks.report --check    writes nothing, exits with 1 when something differs
    python -m marl_suite.benchmarks.report --worlds   draws the picture of the grid worlds anew, which takes a minute

A page says what it shows between two comments:

    <!-- marl-suite table benchmarks/results/quick --columns "return per step" cooperation -->
    | environment | ...
    <!-- end -->

What stands between them is what the command prints, byte for byte. Besides `marl-suite table` a page may call

    schelling FOLDER GAME ...   a row for each game of `marl-suite schelling`: the corners of FOLDER/GAME.csv, and the
                                verdict that the command gave, from FOLDER/verdicts.csv
    speed FILE.csv              a row for each environment of `marl-suite speed --out`

Learning curves are drawn anew beside every `sweep.json`. Equal bytes need the versions of `benchmarks/constraints.txt`.
"""

import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from marl_suite.envs.errors import InputError
from marl_suite.experiments.results import read_rows

BLOCK = re.compile(r"^<!-- (marl-suite table|schelling|speed) (.*?) -->\n(.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """The README and the pages of results, with or without blocks."""
    return [root / "README.md", *sorted((root / "benchmarks" / "results").glob("**/README.md"))]


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(maker, arguments, text) of each block of a page."""
    return BLOCK.findall(page)


def filled(page: str, root: Path) -> str:
    """The page with each block's text made anew."""
    # A function, since a replacement text would have its backslashes read.
    return BLOCK.sub(
        lambda found: f"<!-- {found[1]} {found[2]} -->\n{made(found[1], found[2], root)}<!-- end -->", page
    )


def made(maker: str, arguments: str, root: Path) -> str:
    """What a block says.

    Raises:
        InputError: for files that are not there or of another kind.
        SystemExit: when the command fails.
    """
    with contextlib.chdir(root):
        return _MAKERS[maker](shlex.split(arguments))


# ---------------------------------------------------------------------- what stands in blocks
def _table(arguments: list[str]) -> str:
    from marl_suite import cli

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        cli.main(["table", *arguments])
    return text.getvalue()


def _schelling(arguments: list[str]) -> str:
    """Returns per agent and episode where all, one and none cooperate, and the verdict."""
    folder, *games = arguments
    verdicts = {row["game"]: row["verdict"] for row in read_rows(Path(folder, "verdicts.csv"), ("game", "verdict"))}
    lines = ["| game | all cooperate | lone cooperator | all defect | lone defector | verdict |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for game in games:
        rows = read_rows(Path(folder, f"{game}.csv"), ("cooperators",))
        last = len(rows) - 1
        places = ((last, "cooperator"), (1, "cooperator"), (0, "defector"), (last - 1, "defector"))
        lines.append(f"| `{game}` | {' | '.join(_return(rows[k], who) for k, who in places)} | {verdicts[game]} |")
    return "\n".join(lines) + "\n"


def _return(row: dict[str, str], who: str) -> str:
    numbers = [float(row[f"{who}_{part}"]) for part in ("return", "low", "high")]
    form = ",.0f" if abs(numbers[0]) >= 2000 else ",.1f"
    mean, low, high = (f"{number:{form}}" for number in numbers)
    return mean if low == high else f"{mean} [{low}, {high}]"


def _speed(arguments: list[str]) -> str:
    """Median, slowest and fastest environment steps per second, and ratios within a repeat, fastest first."""
    (file,) = arguments
    rows = [row for row in read_rows(Path(file), ("kind", "median")) if row["kind"] != "training"]
    ratios = {"to_cartpole": "x CartPole", "to_breakout": "x Breakout", "to_jaxmarl": "x JaxMARL"}
    shown = {key: title for key, title in ratios.items() if any(row.get(key) for row in rows)}
    lines = [f"| environment | steps/s, median (min to max) | {' | '.join(shown.values())} |"]
    lines.append("| --- | ---: |" + " ---: |" * len(shown))
    for row in sorted(rows, key=lambda row: -float(row["median"])):
        median, low, high = (_rate(float(row[key])) for key in ("median", "min", "max"))
        cells = [f"{float(row[key]):.3g}" if row.get(key) else "" for key in shown]
        lines.append(f"| `{row['environment']}` | {median} ({low} to {high}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rate(value: float) -> str:
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


_MAKERS: dict[str, Callable[[list[str]], str]] = {"marl-suite table": _table, "schelling": _schelling, "speed": _speed}


# ---------------------------------------------------------------------- what is written
def made_anew(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Every page and figure, as the files under `benchmarks/results/` say it should be.

    Raises:
        InputError: for files that are not there or of another kind.
    """
    from marl_suite.experiments import plots

    for page in pages(root):
        yield page, filled(page.read_text(), root).encode()
    with tempfile.TemporaryDirectory() as folder:
        for sweep in sorted((root / "benchmarks" / "results").glob("*/sweep.json")):
            figure = plots.learning_curves(sweep.parent, Path(folder, "learning_curves.png"))
            yield sweep.parent / "learning_curves.png", figure.read_bytes()


WORLDS = {
    "clean_up": ("cleaner,eater", 40),
    "commons_harvest_open": ("sustainable,greedy", 12),
    "externality_mushrooms": ("blue_picker,red_picker", 40),
    "territory_rooms": ("settler,raider", 40),
    "coop_mining": ("gold_miner,iron_miner", 40),
    "prisoners_dilemma_in_the_matrix_arena": ("cooperator,defector", 40),
}
"""Worlds of the picture, two in a row: who plays, and the step that is shown."""


def draw_worlds(path: Path, width: int = 700, gap: int = 10) -> None:
    """One frame of an episode of each of `WORLDS`, `width` pixels wide, as one PNG file."""
    from PIL import Image

    from marl_suite.experiments.render import render

    frames = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (players, step) in WORLDS.items():
            render(name, players, Path(folder, name), steps=step)
            frame = Image.open(sorted(Path(folder, name).glob("*.png"))[-1]).convert("RGB")
            frames.append(frame.resize((width, round(frame.height * width / frame.width)), Image.Resampling.LANCZOS))
    rows = [frames[i : i + 2] for i in range(0, len(frames), 2)]
    heights = [max(frame.height for frame in row) + gap for row in rows]
    sheet = Image.new("RGB", (2 * width + gap, sum(heights)), "white")
    for row, top in zip(rows, np.cumsum([0, *heights[:-1]]), strict=True):
        for column, frame in enumerate(row):
            sheet.paste(frame, (column * (width + gap), int(top)))
    sheet.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Writes what differs; with `--check` writes nothing, and exits with 1 when something differs."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments not in ([], ["--check"], ["--worlds"]):
        raise SystemExit(f"report: knows --check and --worlds, got {' '.join(arguments)!r}")
    root = Path.cwd()
    if not (root / "benchmarks" / "results").is_dir():
        raise SystemExit("report: run it from the root of a checkout, which has benchmarks/results")
    if arguments == ["--worlds"]:
        return draw_worlds(root / "benchmarks" / "results" / "grid" / "worlds.png")
    differing = 0
    try:
        for path, content in made_anew(root):
            if not path.exists() or path.read_bytes() != content:
                differing += 1
                print(f"{path.relative_to(root)}: {'differs' if arguments else 'written'}")
                if not arguments:
                    path.write_bytes(content)
    except InputError as error:
        raise SystemExit(f"report: {error}") from None
    if arguments and differing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
