"""Schelling diagrams of games that name a cooperator and a defector: played, tabulated and drawn."""

import csv
import io
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.algorithm import ActResult, with_agent_axis
from marl_suite.envs import registry
from marl_suite.envs.environment import Environment, PyTree, at_least
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.evaluation import evaluate
from marl_suite.experiments import plots
from marl_suite.games.schelling import Diagram, Difference, Verdict, mean_interval, verdict
from marl_suite.training import compiled


def the_two(env: Environment, cooperator: str = "", defector: str = "") -> tuple[str, str]:
    """The names of the scripted players to compare: those given, else those that the game names.

    Raises:
        InputError: for a game of one agent or without such players, for an unknown player, or one player twice.
    """
    if env.num_agents < 2:
        raise InputError(f"{env.name}: a Schelling diagram needs at least 2 agents, got {env.num_agents}")
    pair = cooperator or env.cooperator, defector or env.defector
    if pair[0] is None or pair[1] is None:
        others = [name for name, game in registry.working().items() if game.cooperator]
        raise InputError(
            f"{env.name} names no cooperator and defector; give two of {', '.join(sorted(env.players))}, "
            f"or take another game, such as {', '.join(others[:4])}"
        )
    for name in pair:
        if name not in env.players:
            raise unknown_name(f"scripted player of {env.name}", name, env.players)
    if pair[0] == pair[1]:
        raise InputError(f"{env.name}: cooperator and defector must differ, got {pair[0]!r} twice")
    return pair[0], pair[1]


def play(env: Environment, params: PyTree, pair: tuple[str, str], episodes: int = 64, seed: int = 0) -> Diagram:
    """Plays `episodes` whole episodes with each number of cooperators, 0 .. N, all in one compiled program.

    Who cooperates is drawn anew for each episode.

    Args:
        env: the game.
        params: its parameters.
        pair: the names of two of its scripted players, cooperator and defector.
        episodes: E, for each number of cooperators.
        seed: of everything random.

    Raises:
        InputError: for fewer than two episodes.
    """
    at_least("episodes", episodes, 2)
    numbers = np.repeat(np.arange(env.num_agents + 1), episodes)
    cooperator, defector = (with_agent_axis(env.players[name], env.num_agents) for name in pair)

    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        seat_key, play_key = jax.random.split(key)
        ranks = jax.random.uniform(seat_key, (len(numbers), env.num_agents)).argsort(axis=1).argsort(axis=1)
        cooperates = ranks < numbers[:, None]

        def act(memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None = None) -> ActResult:
            first_key, second_key = jax.random.split(key)
            first, *_ = cooperator((), observation, first_key, mask)
            second, *_ = defector((), observation, second_key, mask)
            chooses = cooperates.reshape(cooperates.shape + (1,) * (first.ndim - 2))
            return jnp.where(chooses, first, second), memory, ()

        return evaluate(env, params, act, (), play_key, len(numbers)).returns, cooperates

    returns, cooperates = map(np.asarray, compiled(run)(jax.random.key(seed)))
    shape = (env.num_agents + 1, episodes)

    def mean_of(members: np.ndarray) -> np.ndarray:
        totals, count = (returns * members).sum(axis=1, dtype=float), members.sum(axis=1)
        return np.where(count > 0, totals / np.maximum(count, 1), np.nan).reshape(shape)

    return Diagram(mean_of(cooperates), mean_of(~cooperates))


# ---------------------------------------------------------------------- what it says
def rows(diagram: Diagram) -> list[dict[str, float]]:
    """One row per number of cooperators: mean returns of both, and the ends of their 95 % intervals."""
    table = []
    for k in range(diagram.num_agents + 1):
        row: dict[str, float] = {"cooperators": k}
        for name, returns in (("cooperator", diagram.cooperators[k]), ("defector", diagram.defectors[k])):
            mean, low, high = (np.nan,) * 3 if np.isnan(returns).any() else mean_interval(returns)
            row |= {f"{name}_return": mean, f"{name}_low": low, f"{name}_high": high}
        table.append(row)
    return table


def to_csv(diagram: Diagram) -> str:
    """`rows` as CSV text."""
    text = io.StringIO()
    table = rows(diagram)
    writer = csv.DictWriter(text, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def report(env: Environment, pair: tuple[str, str], diagram: Diagram) -> str:
    """Markdown: who plays, a row per number of cooperators, the inequalities with their intervals, and the verdict."""
    result = verdict(diagram)
    lines = [f"{name} ({kind}): {definition(env, name)}" for kind, name in zip(_KINDS, pair, strict=True)]
    lines += ["", "| cooperators | cooperator's return | defector's return |", "|---:|---:|---:|"]
    for row in rows(diagram):
        cells = [_cell(*(row[f"{kind}_{part}"] for part in ("return", "low", "high"))) for kind in _KINDS]
        lines.append(f"| {row['cooperators']} of {diagram.num_agents} | {' | '.join(cells)} |")
    lines += ["", "| inequality | difference [95 %] | holds |", "|---|---:|---|"]
    lines += [f"| {name} | {_cell(*gain)} | {_spell(gain)} |" for name, gain in _inequalities(result)]
    stable = ", ".join(map(str, diagram.equilibria()))
    lines += ["", f"{env.name}: {result}. Numbers of cooperators from which nobody gains by changing: {stable}."]
    return "\n".join(lines)


_KINDS = ("cooperator", "defector")


def definition(env: Environment, player: str) -> str:
    """What a scripted player does, in half a sentence."""
    return env.definitions.get(player, "any action, each as likely" if player == "random" else "a scripted player")


def _inequalities(result: Verdict) -> list[tuple[str, Difference]]:
    names = (
        "all cooperating beats all defecting, Rc(N) - Rd(0)",
        "company beats cooperating alone, Rc(N) - Rc(1)",
        "fear, Rd(0) - Rc(1)",
        "greed, Rd(N - 1) - Rc(N)",
    )
    return list(zip(names, result, strict=True))


def _spell(gain: Difference) -> str:
    return {True: "yes", False: "no", None: "open"}[gain.positive]


def _cell(mean: float, low: float, high: float) -> str:
    if np.isnan(mean):
        return "–"
    return f"{mean:.2f}" if low == high else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


# ---------------------------------------------------------------------- the picture
def draw(env: Environment, pair: tuple[str, str], diagram: Diagram, path: Path) -> None:
    """Draws the diagram: what one player earns by cooperating and by defecting among j cooperating others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.9))
    axes = figure.subplots()
    others = np.arange(diagram.num_agents)
    curves = (
        (diagram.cooperators[1:], plots.COLOURS[0], "o", "-"),
        (diagram.defectors[:-1], plots.COLOURS[1], "s", "--"),
    )
    for name, (returns, colour, marker, line) in zip(pair, curves, strict=True):
        points = np.array([mean_interval(sample) for sample in returns])
        axes.plot(others, points[:, 0], line, color=colour, marker=marker, lw=1.8, ms=6, label=f"as {name}")
        axes.fill_between(others, points[:, 1], points[:, 2], color=colour, alpha=0.2, lw=0)
    _finish(axes, env, pair, diagram)
    figure.tight_layout()
    plots.save(figure, path)


def _finish(axes: Any, env: Environment, pair: tuple[str, str], diagram: Diagram) -> None:
    """Labels, the verdict, and who the two players are."""
    title = f"{env.name.replace('_', ' ')}, {env.num_agents} agents: {verdict(diagram)}"
    axes.set_title(textwrap.fill(title, 70), fontsize=10)
    axes.set_ylabel("mean return of one player per episode")
    notes = [f"{name}: {definition(env, name)}" for name in pair]
    label = "cooperators among the others\n\n" + "\n".join(textwrap.fill(note, 92) for note in notes)
    axes.set_xlabel(label, fontsize=8.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
