"""Environment steps per second: of the games alone, under random actions, and of training on them.

One environment step is one joint step of all agents. A stepping program is a compiled `lax.scan` over a `vmap` of
`step`, automatic resets included. Observations, rewards and both flags are summed into the carry, so the compiler
must compute them, though it need not write them to memory; `info` is left unused. All environments start at once,
so games of a fixed length reset together, as they do in training.

Beside the suite's games stand others' under the same program, stepped by their own libraries' `step`: gymnax's
CartPole-v1 and Breakout-MinAtar, and JaxMARL's coin game, whose rules are those of `coin_game_two_coins`. Programs
of one batch size are timed in turns, one call of each per repeat, so that a busy machine slows all of them alike,
and their ratios are taken within a repeat.
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.baselines.ppo import IPPO
from marl_suite.envs.environment import Environment, PyTree, at_least
from marl_suite.envs.grid.world import GridWorld
from marl_suite.envs.registry import make, working
from marl_suite.envs.spaces import Discrete
from marl_suite.training import Fit

GRID, COMMONS = "grid", "commons"
"""Stand for one grid world of each kind, and for one commons, market or bargaining game of each kind for few agents."""
SMALL_GROUP = 12  # agents
CARTPOLE, BREAKOUT, JAXMARL = "CartPole-v1 (gymnax)", "Breakout-MinAtar (gymnax)", "coin_game (JaxMARL)"

_TIMED_SECONDS = 0.2  # of one timed call of a stepping program
_TIMED_UPDATES = 4  # in one timed call of training


@dataclasses.dataclass(frozen=True)
class Row:
    """How fast one program was."""

    environment: str
    kind: str  # "stepping", "calibration" (stepping of others' environments) or "training" (IPPO, one seed), in grid
    # worlds "training small" and "training standard", by the encoder
    num_envs: int  # parallel environments, E
    scan_length: int  # steps of one compiled scan
    steps: int  # environment steps in one timed call, which is one scan or several
    observation_bytes: int  # all agents' observations of one environment
    state_bytes: int  # of one environment
    machine: str
    compile_seconds: float | None = None  # of a stepping program, tracing included
    first_update_seconds: float | None = None  # of training, from nothing, compilation included
    rates: tuple[float, ...] = ()  # environment steps per second, one per repeat
    order: tuple[int, ...] = ()  # per repeat, when it was timed: a count over all timed calls of its group
    to_cartpole: float | None = None  # median over repeats of this rate over that of gymnax's CartPole-v1
    to_breakout: float | None = None  # the same over that of gymnax's Breakout-MinAtar
    to_jaxmarl: float | None = None  # of a coin game: the same over that of JaxMARL's

    def to_dict(self) -> dict[str, Any]:
        """All fields, and median, min, max and spread, (max - min) / median, of the rates: ready for JSON."""
        low, median, high = min(self.rates), float(np.median(self.rates)), max(self.rates)
        summary = {"median": median, "min": low, "max": high, "spread": (high - low) / median}
        return dataclasses.asdict(self) | summary


def measure(
    environments: Sequence[str],
    num_envs: Sequence[int] = (1, 64, 1024, 4096, 16384),
    repeats: int = 5,
    steps: int | None = None,
    training: bool = True,
    calibrate: bool = True,
) -> list[Row]:
    """Times stepping at every batch size, and training with the default IPPO.

    Args:
        environments: registered names, "grid" for one of each kind of grid world, or "commons" for one of each kind
            of game without a map in `envs.commons` and `envs.markets`, up to twelve agents; their default settings and
            parameters are used.
        num_envs: batch sizes.
        repeats: timed calls per program.
        steps: steps of every environment in one timed call; when None, as many as take about 0.2 s.
        training: whether to time training.
        calibrate: whether to time gymnax's and JaxMARL's environments too, which the ratios need.

    Raises:
        InputError: for an unknown environment or a number below 1, before anything is compiled.
    """
    games = {name: make(name) for given in environments for name in _named(given)}
    at_least("repeats", repeats, 1)
    at_least("steps", 1 if steps is None else steps, 1)
    at_least("num_envs", min(num_envs, default=1), 1)
    worlds = [_world(name, "stepping", game, (game.num_agents,)) for name, game in games.items()]
    if calibrate:
        worlds += [*_gymnax_worlds(), *_jaxmarl_worlds()]
    rows = []
    for size in num_envs:
        rows += _with_ratios(_time([_stepping(world, size, steps) for world in worlds], repeats))
    pairs = [(game, kind) for game in games.items() for kind in _learners(game[1]) if training]
    return rows + _time([_training(*game, kind, repeats) for game, kind in pairs], repeats)


def _named(given: str) -> tuple[str, ...]:
    """The names that `given` stands for. A game of each kind is one that is called as its class is by default."""
    if given not in (GRID, COMMONS):
        return (given,)
    games = working()
    kinds = {name: game for name, game in games.items() if type(game)().name == name}  # pyright: ignore[reportCallIssue]
    if given == GRID:
        return tuple(name for name, game in kinds.items() if isinstance(game, GridWorld))
    return tuple(
        name
        for name, game in kinds.items()
        if type(game).__module__.startswith(tuple(f"marl_suite.envs.{kind}." for kind in ("commons", "markets")))
        and game.num_agents <= SMALL_GROUP
    )


class _Timed(NamedTuple):
    row: Row  # but for what is measured by calling
    call: Callable[[], float]  # how many seconds `row.steps` environment steps take


def _time(programs: Sequence[_Timed], repeats: int) -> list[Row]:
    """Times every program once, then every program again, and so on."""
    clock = itertools.count()
    rounds = [[(program.call(), next(clock)) for program in programs] for _ in range(repeats)]
    rows = []
    for (row, _), column in zip(programs, zip(*rounds, strict=True), strict=True):
        seconds, order = zip(*column, strict=True)
        rows.append(dataclasses.replace(row, rates=tuple(row.steps / s for s in seconds), order=order))
    return rows


def _with_ratios(rows: list[Row]) -> list[Row]:
    """`rows` of one batch size with their ratios to the calibration rows among them."""
    rates = {row.environment: np.asarray(row.rates) for row in rows}

    def ratio(name: str, reference: str) -> float | None:
        return float(np.median(rates[name] / rates[reference])) if reference in rates else None

    for index, row in enumerate(rows):
        to_jaxmarl = ratio(row.environment, JAXMARL) if row.environment.startswith("coin_game") else None
        gymnax = {"to_cartpole": ratio(row.environment, CARTPOLE), "to_breakout": ratio(row.environment, BREAKOUT)}
        rows[index] = dataclasses.replace(row, **gymnax, to_jaxmarl=to_jaxmarl)
    return rows


def _facts(reset: Callable, num_envs: int, scan_length: int, scans: int) -> dict[str, Any]:
    """Fields of a `Row` timed as `scans` scans; `reset` takes a key and gives one observation and state."""
    sizes = [
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for tree in jax.eval_shape(reset, jax.random.key(0))
    ]
    device = jax.devices()[0]
    machine = f"jax {jax.__version__}, {device.platform} ({device.device_kind}), {os.cpu_count()} cores"
    sizes = {"observation_bytes": sizes[0], "state_bytes": sizes[1]}
    work = {"num_envs": num_envs, "scan_length": scan_length, "steps": num_envs * scan_length * scans}
    return sizes | work | {"machine": machine}


# ---------------------------------------------------------------------- what is stepped
class _World(NamedTuple):
    name: str
    kind: str
    reset: Callable[[jax.Array], tuple[PyTree, PyTree]]  # key -> observation, state
    step: Callable[[jax.Array, PyTree, jax.Array], tuple[PyTree, PyTree]]  # key, state, action -> outputs, state
    action_space: Any  # of one agent
    action_axes: tuple[int, ...]  # (N,) where actions have an agent axis, () where not


def _world(name: str, kind: str, game: Any, action_axes: tuple[int, ...] = ()) -> _World:
    """A game with gymnax's signatures, as the suite's are."""
    params = game.default_params

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> tuple[PyTree, PyTree]:
        observation, state, *outcome, _ = game.step(key, state, action, params)
        return (observation, outcome), state

    return _World(name, kind, lambda key: game.reset(key, params), step, game.action_space(params), action_axes)


def _gymnax_worlds() -> list[_World]:
    import gymnax

    names = {CARTPOLE: "CartPole-v1", BREAKOUT: "Breakout-MinAtar"}
    return [_world(name, "calibration", gymnax.make(env_id)[0]) for name, env_id in names.items()]


def _jaxmarl_worlds() -> list[_World]:
    try:  # its import points stdout and stderr back at the terminal, which silences notebooks
        with contextlib.redirect_stdout(sys.stdout), contextlib.redirect_stderr(sys.stderr):
            import jaxmarl
    except ImportError:
        return []
    game: Any = jaxmarl.make("coin_game", num_inner_steps=50, num_outer_steps=1)  # the suite's episodes

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> tuple[PyTree, PyTree]:
        observation, state, *outcome, _ = game.step(key, state, dict(zip(game.agents, action, strict=True)))
        return (observation, outcome), state

    return [_World(JAXMARL, "calibration", game.reset, step, Discrete(game.num_actions), (game.num_agents,))]


# ---------------------------------------------------------------------- programs
def _stepping(world: _World, num_envs: int, steps: int | None) -> _Timed:
    # Calls add up to the wanted time. A longer scan would have to be compiled anew, and XLA's CPU backend runs the
    # same body up to 1.6 times slower in a scan of 1,000 steps than in one of a rollout's length.
    length = steps or max(16, min(1024, 2**16 // num_envs))
    reset_key, key = jax.random.split(jax.random.key(0))
    _, state = jax.jit(jax.vmap(world.reset))(jax.random.split(reset_key, num_envs))
    carry = key, state, jnp.zeros(num_envs)
    begin = time.perf_counter()
    program = jax.jit(lambda carry: _scan(world, carry, length)).lower(carry).compile()
    compile_seconds = time.perf_counter() - begin

    def call(calls: int) -> float:
        nonlocal carry
        begin = time.perf_counter()
        for _ in range(calls):
            carry = program(carry)
        jax.block_until_ready(carry)
        return time.perf_counter() - begin

    call(1)  # the first call is slower
    calls = 1 if steps else max(1, round(_TIMED_SECONDS / call(1)))
    facts = _facts(world.reset, num_envs, length, calls)
    return _Timed(Row(world.name, world.kind, **facts, compile_seconds=compile_seconds), lambda: call(calls))


def _scan(world: _World, carry: PyTree, length: int) -> PyTree:
    """`carry` (key, states, sums of outputs [E]) after `length` steps of every environment."""

    def step_one(key: jax.Array, state: PyTree, action: jax.Array, total: jax.Array) -> tuple[PyTree, jax.Array]:
        outputs, state = world.step(key, state, action)
        return state, total + sum(leaf.sum(dtype=jnp.float32) for leaf in jax.tree.leaves(outputs))

    def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
        key, state, total = carry
        key, action_key, step_key = jax.random.split(key, 3)
        actions = _random_actions(world.action_space, action_key, (len(total), *world.action_axes))
        return (key, *jax.vmap(step_one)(jax.random.split(step_key, len(total)), state, actions, total)), None

    return jax.lax.scan(step, carry, None, length=length)[0]


def _random_actions(space: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if hasattr(space, "n"):  # one draw for all: a key for each costs as much as a step of a small game
        return jax.random.randint(key, shape, 0, space.n)
    if hasattr(space, "nvec"):
        return jax.random.randint(key, (*shape, *space.shape), 0, np.asarray(space.nvec))
    return jax.random.uniform(key, (*shape, *space.shape), minval=space.low, maxval=space.high)


def _learners(game: Environment) -> dict[str, IPPO]:
    """What learns in `game`, by the row's kind."""
    if not isinstance(game, GridWorld):
        return {"training": IPPO()}
    settings = {"num_envs": 16, "rollout_length": 32, "epochs": 2, "share_parameters": True, "shared_trunk": True}
    return {f"training {size}": IPPO(**settings, encoder=size) for size in ("small", "standard")}


def _training(name: str, game: Environment, kind: str, repeats: int) -> _Timed:
    config = _learners(game)[kind]
    updates = 1 + repeats * _TIMED_UPDATES
    run = iter(Fit(game, config, (0,), updates * config.num_envs * config.rollout_length, chunks=updates))

    def call(updates: int) -> float:
        begin = time.perf_counter()
        for _ in range(updates):
            next(run)
        return time.perf_counter() - begin

    first = call(1)
    facts = _facts(game.reset, config.num_envs, config.rollout_length, _TIMED_UPDATES)
    return _Timed(Row(name, kind, **facts, first_update_seconds=first), lambda: call(_TIMED_UPDATES))


# ---------------------------------------------------------------------- tables
_COLUMNS = {"environment": "", "kind": "", "num_envs": "", "scan_length": ""}
_COLUMNS |= {"median": ",.0f", "min": ",.0f", "max": ",.0f", "spread": ".0%", "to_cartpole": ".2f"}
_COLUMNS |= {"to_breakout": ".3f", "to_jaxmarl": ".2f"}
_COLUMNS |= {"compile_seconds": ".2f", "first_update_seconds": ".2f", "observation_bytes": "", "state_bytes": ""}


def report(rows: Sequence[Row]) -> str:
    """Markdown: the machine, what is missing, and a table of `rows`; cells that do not apply are empty."""
    names = {row.environment for row in rows}
    notes = [f"{machine}; environment steps per second" for machine in sorted({row.machine for row in rows})]
    if CARTPOLE in names and JAXMARL not in names:
        notes.append('no JaxMARL row: pip install "marl-suite[jaxmarl]"')
    lines = [[key.replace("_", " ") for key in _COLUMNS], ["---", "---", *["---:"] * (len(_COLUMNS) - 2)]]
    for values in map(Row.to_dict, rows):
        lines.append(["" if values[key] is None else format(values[key], form) for key, form in _COLUMNS.items()])
    return "\n".join([*notes, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def to_csv(rows: Sequence[Row]) -> str:
    """A line per row under a header; what was measured per repeat stands in one cell, separated by spaces."""
    lines = [
        {key: " ".join(map(str, value)) if isinstance(value, tuple) else value for key, value in row.to_dict().items()}
        for row in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
