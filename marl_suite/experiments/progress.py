"""Progress on the terminal: a bar where somebody watches, plain lines where output goes to a file."""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from marl_suite.experiments.suites import Cell
from marl_suite.training import Chunk


@contextlib.contextmanager
def display() -> Iterator[tuple[Callable[[Cell, Chunk], None], Callable[[str], None]]]:
    """Yields (report, log) for `marl_suite.experiments.run.sweep`."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda cell, chunk: None, lambda line: print(line, flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        running: dict[str, tuple[TaskID, float, int]] = {}

        def report(cell: Cell, chunk: Chunk) -> None:
            if cell.id not in running:
                task = bars.add_task(f"{cell.shown_as} {cell.label}", total=chunk.num_chunks, rate="")
                running[cell.id] = task, time.perf_counter(), chunk.env_steps
            task, since, first = running[cell.id]
            rate = (chunk.env_steps - first) * len(cell.seeds) / max(time.perf_counter() - since, 1e-9)
            payoff = np.mean(chunk.logs["payoff"])
            bars.update(task, completed=chunk.number, rate=f"{payoff:+.3f} per step, {rate:,.0f} steps/s")
            if chunk.number == chunk.num_chunks:
                bars.remove_task(task)

        yield report, console.print
