"""How a congestion game scales with its drivers: time and memory of a step, from a hundred drivers to a million.

    python -m marl_suite.benchmarks.congestion [--repeats 20] [--out scale.csv]

Two programs are timed for each N, in turns: one call of a compiled `step`, whose outputs are new arrays each time, so
that for many drivers it mostly waits for the operating system to hand out their pages; and one step within a compiled
scan that sums observations and rewards, as in training, where memory is used again. Bytes are those that the compiler
reports for the call: arguments, outputs and temporaries.
"""

import csv
import dataclasses
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from marl_suite.envs.environment import PyTree, at_least
from marl_suite.envs.markets.congestion import Congestion

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
SCANNED = 10  # steps in one timed scan


@dataclasses.dataclass(frozen=True)
class Row:
    """Time and memory of a step of `num_agents` drivers; times in milliseconds."""

    num_agents: int
    network: str
    call_min: float
    call_median: float
    call_max: float
    scan_min: float
    scan_median: float
    scan_max: float
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    repeats: int
    load: float  # processes that wanted to run when timing began, mean of the last minute
    machine: str

    @property
    def bytes_per_agent(self) -> float:
        """All bytes of a call, per driver."""
        return (self.argument_bytes + self.output_bytes + self.temporary_bytes) / self.num_agents


def measure(sizes: Sequence[int] = SIZES, repeats: int = 20, network: str = "braess") -> list[Row]:
    """Times a step under random routes.

    Args:
        sizes: numbers of drivers.
        repeats: timed calls of each program.
        network: one of the game's networks.

    Raises:
        InputError: for fewer than two drivers, no repeats or an unknown network, before anything is compiled.
    """
    games = [Congestion(num_agents=size, network=network) for size in sizes]
    at_least("repeats", repeats, 1)
    return [_row(game, network, repeats) for game in games]


def _row(game: Congestion, network: str, repeats: int) -> Row:
    params = game.default_params
    _, state = jax.jit(game.reset)(jax.random.key(0), params)
    routes = jax.random.randint(jax.random.key(1), (game.num_agents,), 0, game.num_routes)
    arguments = jax.random.key(2), state, routes
    call = jax.jit(lambda key, state, routes: game.step(key, state, routes, params)).lower(*arguments).compile()
    memory: Any = call.memory_analysis()
    programs = (call, jax.jit(lambda *arguments: _scan(game, *arguments)).lower(*arguments).compile())
    for program in programs:  # the first call is slower
        jax.block_until_ready(program(*arguments))
    load = os.getloadavg()[0]
    times = 1e3 * np.array([[_seconds(program, arguments) for program in programs] for _ in range(repeats)])
    calls, scans = times[:, 0], times[:, 1] / SCANNED
    device = jax.devices()[0]
    return Row(
        num_agents=game.num_agents,
        network=network,
        **_summary("call", calls),
        **_summary("scan", scans),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        repeats=repeats,
        load=load,
        machine=f"jax {jax.__version__}, {device.platform} ({device.device_kind}), {os.cpu_count()} cores",
    )


def _summary(kind: str, times: np.ndarray) -> dict[str, Any]:
    low, median, high = np.quantile(times, (0.0, 0.5, 1.0)).tolist()
    return {f"{kind}_min": low, f"{kind}_median": median, f"{kind}_max": high}


def _scan(game: Congestion, key: jax.Array, state: PyTree, routes: jax.Array) -> PyTree:
    """`SCANNED` steps, the drivers changing routes in each; what agents get is summed, so that it must be computed."""

    def step(carry: PyTree, key: jax.Array) -> tuple[PyTree, None]:
        state, routes, total = carry
        observation, state, reward, *_ = game.step(key, state, routes, game.default_params)
        return (state, (routes + 1) % game.num_routes, total + observation.sum() + reward.sum()), None

    return jax.lax.scan(step, (state, routes, jnp.zeros(())), jax.random.split(key, SCANNED))[0]


def _seconds(program: Callable, arguments: tuple) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begin


def report(rows: Sequence[Row]) -> str:
    """Markdown: the machine and a table of `rows`."""
    lines = [
        "drivers | call ms: median (min, max) | step of a scan ms: median (min, max) | MB per call | bytes per driver"
    ]
    lines.append("---: | ---: | ---: | ---: | ---:")
    for row in rows:
        call = f"{row.call_median:.3f} ({row.call_min:.3f}, {row.call_max:.3f})"
        scan = f"{row.scan_median:.3f} ({row.scan_min:.3f}, {row.scan_max:.3f})"
        total = row.bytes_per_agent * row.num_agents / 1e6
        lines.append(f"{row.num_agents:,} | {call} | {scan} | {total:.3f} | {row.bytes_per_agent:.1f}")
    head = f"{rows[0].machine}, network {rows[0].network}, {rows[0].repeats} repeats, load {rows[0].load:.1f}"
    return "\n".join([head, "", *(f"| {line} |" for line in lines)])


def to_csv(rows: Sequence[Row]) -> str:
    """A line per row under a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = dataclasses.asdict(row).items()
        writer.writerow({key: f"{x:.4f}" if isinstance(x, float) else x for key, x in values})
    return text.getvalue()


def main(sizes: tuple[int, ...] = SIZES, repeats: int = 20, network: str = "braess", out: Path | None = None) -> None:
    """Prints a markdown table.

    Args:
        sizes: numbers of drivers.
        repeats: timed calls of each program.
        network: one of the game's networks.
        out: where to write the table as CSV, if anywhere.
    """
    rows = measure(sizes, repeats, network)
    print(report(rows))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_csv(rows))


if __name__ == "__main__":
    tyro.cli(main)
