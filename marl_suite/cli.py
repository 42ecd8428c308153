"""The command line. Only tyro and the standard library are imported until a command runs."""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction

import marl_suite

if TYPE_CHECKING:
    from marl_suite.experiments.suites import Cell

Pairs = Annotated[tuple[tuple[str, ...], ...], UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]


@dataclasses.dataclass(frozen=True)
class List:
    """Show the environments, baselines, reward views and suites there are."""

    what: Positional[Literal["environments", "baselines", "views", "suites", "all"]] = "all"


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a baseline in an environment; comma lists of values make a grid."""

    environment: Positional[str]
    """a name of `marl-suite list environments`, gymnax:ID, or cheap_talk:NAME"""
    baseline: Positional[str]
    """a name of `marl-suite list baselines`"""
    seeds: int = 5
    """how many, from 0"""
    steps: float = 1e6
    """environment steps per seed"""
    set: Pairs = ()
    """settings of the baseline, as in ppo.lr=3e-4,1e-3 or reward_view=team or reward_view=self_interest:s=0.3"""
    env: Pairs = ()
    """static settings of the environment, as in num_agents=5"""
    params: Pairs = ()
    """its traced parameters, as in max_steps=100"""
    chunks: int = 20
    """points of the learning curve"""
    episodes: int = 0
    """per evaluation; default: 128, or fewer where many agents play long episodes"""
    best_response: float = 1e5
    """steps that a best response to the trained policies learns for, in games of mixed motives; 0 for none"""
    out: str = ""
    """results folder; default runs/ENVIRONMENT-BASELINE"""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run a suite. Finished cells are never run again, so a stopped sweep is simply started again."""

    suite: Positional[str]
    """a name of `marl-suite list suites`, or a TOML file"""
    out: str = ""
    """results folder; default runs/SUITE"""
    only: tuple[str, ...] = ()
    """environments or baselines (ids or labels) to run; the others are left alone"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Print the table of a results folder: interquartile means and 95 % bootstrap intervals over seeds."""

    folder: Positional[str]
    """results, or the name of a suite whose stored results come with the package"""
    format: Literal["markdown", "latex", "csv"] = "markdown"
    view: Literal["scores", "robustness", "published"] = "scores"
    """robustness: own and partner's return with others in one place, in games of mixed motives; published: the
    numbers of others, where the folder has a published.csv, beside ours"""
    only: tuple[str, ...] = ()
    """environments or baselines, as the table calls them; default: all"""
    columns: tuple[str, ...] = ()
    """headings of the columns to show, as in "return per step" equality; default: all"""
    intervals: bool = False
    """with intervals in the robustness table too"""
    points: bool = False
    """without intervals in the table of scores"""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play episodes with stored policies."""

    run: Positional[str]
    """a results folder, a cell's folder in it, or a policy file"""
    against: str = ""
    """a scripted player that takes one agent's place, as in always_defect; default: among themselves"""
    episodes: int = 512
    greedy: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Render:
    """Play one episode and draw it: a .gif, .mp4 or .txt file or, without a suffix, a folder of PNG files."""

    run: Positional[str]
    """a grid world of `marl-suite list environments`, any environment for text; or a results folder, a cell's folder in
    it or a policy file, played in its own game"""
    policy: str = ""
    """a scripted player of the game or a results folder; several, as in cleaner,eater, take the seats in turn; default:
    the policy of the run, or random"""
    out: str = ""
    """the file or folder; default runs/ENVIRONMENT.gif, in the results folder of a run"""
    steps: int = 200
    """after which the episode is cut"""
    seed: int = 0
    fps: float = 8
    """frames per second"""
    cell: int = 0
    """pixels to a cell's side; default 24, and up to 48 on small maps"""
    greedy: bool = False
    """stored policies play their modes instead of samples"""
    env: Pairs = ()
    """static settings of the environment; default: those of the results folder, if one plays"""
    params: Pairs = ()
    """its traced parameters, likewise"""


@dataclasses.dataclass(frozen=True)
class Schelling:
    """Ask whether a game is a social dilemma: k scripted cooperators and N - k defectors, for every k."""

    environment: Positional[str]
    episodes: int = 64
    """for each number of cooperators"""
    cooperator: str = ""
    """a scripted player; default: the one that the game names"""
    defector: str = ""
    """likewise"""
    env: Pairs = ()
    """static settings of the environment, as in num_agents=5"""
    params: Pairs = ()
    """its traced parameters, as in max_steps=100"""
    seed: int = 0
    out: str = ""
    """the picture, a .png; a .csv of the same name holds its numbers; default runs/schelling-ENVIRONMENT.png"""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Measure environment and training steps per second, beside gymnax and, where installed, JaxMARL."""

    environments: Positional[tuple[str, ...]] = ("prisoners_dilemma", "coin_game")
    """names of `marl-suite list environments`, or grid or commons for one of each kind of theirs"""
    num_envs: tuple[int, ...] = (1, 64, 1024, 4096, 16384)
    """parallel environments"""
    repeats: int = 5
    training: bool = True
    """measure training too"""
    out: str = ""
    """also write the rows to this CSV file"""


COMMANDS = {
    "list": List,
    "train": Train,
    "sweep": Sweep,
    "table": Table,
    "evaluate": Evaluate,
    "render": Render,
    "schelling": Schelling,
    "speed": Speed,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; exits with 2 and one line on standard error for bad input, with 1 when a file fails."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = _parse(arguments)
    from marl_suite.envs.errors import InputError

    try:
        _RUN[type(command)](command)
    except InputError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}; what was finished is kept", 1)
    except KeyboardInterrupt:
        _fail("stopped; what was finished is kept, and the same command goes on from there", 130)


def _parse(arguments: list[str]):
    """The command given, or exit with one line and code 2."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        from marl_suite.envs.errors import unknown_name

        _fail(str(unknown_name("command", arguments[0], COMMANDS)), 2)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="marl-suite", description=marl_suite.__doc__, args=arguments or ["--help"]
            )
    except SystemExit as exit:
        if exit.code:
            _fail(_one_line(errors.getvalue()), 2)
        raise


def _one_line(box: str) -> str:
    """The message inside the boxes that tyro draws around its errors."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line and not line.startswith("For full help") and set(line) != {"─"}]
    return " ".join(re.sub(r"^─ (.*?) ─+$", r"\1:", line) for line in lines) or "the arguments could not be read"


def _fail(message: str, code: int) -> None:
    print(f"marl-suite: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


# ---------------------------------------------------------------------- commands
def _list(command: List) -> None:
    from marl_suite.baselines import registry as baselines
    from marl_suite.envs import registry as environments
    from marl_suite.envs import reward_views as views
    from marl_suite.experiments.suites import builtin_suites

    shown = {
        "environments": environments.listing,
        "baselines": baselines.listing,
        "views": views.listing,
        "suites": builtin_suites,
    }
    for kind in shown if command.what == "all" else (command.what,):
        print(f"{kind}:")
        for name, line in shown[kind]().items():
            print(f"  {name:35s} {line}")


def _train(command: Train) -> None:
    from marl_suite.envs.errors import InputError
    from marl_suite.experiments import overrides
    from marl_suite.experiments.suites import Cell, read_seeds

    given = {name: overrides.parse(sum(getattr(command, name), ())) for name in ("env", "params", "set")}
    swept = {key for values in given.values() for key, options in values.items() if len(options) > 1}
    cells = []
    grids = (overrides.grid(given[name]) for name in ("env", "params", "set"))
    for env, params, settings in itertools.product(*grids):
        words = [f"{k}={v}" for k, v in {**env, **params, **settings}.items() if k in swept]
        cell = Cell(
            command.environment,
            command.baseline,
            " ".join([command.baseline, *words]),
            read_seeds(command.seeds),
            command.steps,
            command.chunks,
            command.episodes,
            command.best_response,
            env,
            params,
            settings,
        ).check()
        if cell.impossible:
            raise InputError(cell.impossible)
        cells.append(cell)
    _run(cells, command.out or f"runs/{command.environment.replace(':', '-')}-{command.baseline}")


def _sweep(command: Sweep) -> None:
    from marl_suite.envs.errors import unknown_name
    from marl_suite.experiments.suites import load

    cells = load(command.suite)
    names = [{cell.environment, cell.shown_as, cell.baseline, cell.label} for cell in cells]
    for wanted in command.only:
        if not any(wanted in name for name in names):
            raise unknown_name(f"name in suite {command.suite!r}:", wanted, set().union(*names))
    games = set(command.only) & {name for cell in cells for name in (cell.environment, cell.shown_as)}
    rows = set(command.only) - games
    cells = [
        c
        for c in cells
        if (not games or {c.environment, c.shown_as} & games) and (not rows or {c.baseline, c.label} & rows)
    ]
    _run(cells, command.out or f"runs/{Path(command.suite).stem}")


def _run(cells: "list[Cell]", out: str) -> None:
    """Runs cells with a progress display, then prints their table."""
    from marl_suite.experiments import plots, progress, run, tables

    with progress.display() as (report, log):
        run.sweep(cells, Path(out), report, log)
    found = tables.read(Path(out))
    print("\n" + "\n".join(map(tables.markdown, tables.by_game(tables.make_table, found))))
    if robust := [table for table in tables.by_game(tables.make_robustness, found) if table.rows]:
        print("With others in one place, own return / theirs, per step:\n\n" + "\n".join(map(tables.markdown, robust)))
    print(f"results: {out}/results.csv   figure: {plots.learning_curves(Path(out))}")


def _table(command: Table) -> None:
    from marl_suite.experiments import results, tables

    found = tables.only(results.stored(command.folder), command.only)
    views = {
        "scores": partial(tables.make_table, intervals=not command.points),
        "robustness": partial(tables.make_robustness, intervals=command.intervals),
        "published": tables.make_published,
    }
    make = views[command.view]
    # Chosen columns, and one CSV file, are one table.
    together = command.format == "csv" or command.columns
    shown = [tables.pick(make(found), command.columns)] if together else tables.by_game(make, found)
    print("\n".join(map(tables.FORMATS[command.format], shown)), end="")


def _evaluate(command: Evaluate) -> None:
    from marl_suite.experiments import replay

    print(replay.evaluate_stored(Path(command.run), command.against, command.episodes, command.greedy, command.seed))


def _render(command: Render) -> None:
    from marl_suite.envs.registry import registered
    from marl_suite.experiments import overrides
    from marl_suite.experiments.render import render
    from marl_suite.stored_policies import facts, find

    environment, policy, folder = command.run, command.policy or "random", Path("runs")
    if (path := Path(command.run)).exists() and command.run not in registered():
        file = find(path)
        environment, policy, folder = facts(file)["environment"], command.policy or str(file), file.parent
    out = Path(command.out) if command.out else folder / f"{environment.replace(':', '-')}.gif"
    env, params = (overrides.single(sum(pairs, ())) for pairs in (command.env, command.params))
    options = command.steps, command.seed, command.fps, command.cell, command.greedy
    print(render(environment, policy, out, *options, env, params))


def _schelling(command: Schelling) -> None:
    from marl_suite.envs.environment import at_least
    from marl_suite.envs.registry import make
    from marl_suite.experiments import overrides, schelling, store

    env = make(command.environment, **overrides.single(sum(command.env, ())))
    params = env.make_params(**overrides.single(sum(command.params, ())))
    pair = schelling.the_two(env, command.cooperator, command.defector)
    at_least("episodes", command.episodes, 2)
    picture = store.output_file(command.out or f"runs/schelling-{command.environment.replace(':', '-')}.png", (".png",))
    diagram = schelling.play(env, params, pair, command.episodes, command.seed)
    picture.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomically(picture.with_suffix(".csv"), schelling.to_csv(diagram))
    schelling.draw(env, pair, diagram, picture)
    print(f"{schelling.report(env, pair, diagram)}\npicture: {picture}")


def _speed(command: Speed) -> None:
    from marl_suite.benchmarks import speed

    rows = speed.measure(command.environments, command.num_envs, command.repeats, training=command.training)
    print(speed.report(rows))
    if command.out:
        Path(command.out).write_text(speed.to_csv(rows))


_RUN = {
    List: _list,
    Train: _train,
    Sweep: _sweep,
    Table: _table,
    Evaluate: _evaluate,
    Render: _render,
    Schelling: _schelling,
    Speed: _speed,
}

if __name__ == "__main__":
    main()
