"""Episodes as text, and one short golden playthrough per environment, in which a changed rule shows as a diff.

A golden is made anew, on purpose, by::

    python -m marl_suite.experiments.playthrough tests/goldens [ENVIRONMENT ...]

In a golden the scripted players sit in turn, the random one in the last seat.
"""

import dataclasses
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marl_suite.envs import make, registered
from marl_suite.envs.environment import Environment, PyTree, static_settings
from marl_suite.envs.grid.board import Board
from marl_suite.evaluation import scripted
from marl_suite.experiments.playback import Cast, Episode, play
from marl_suite.experiments.store import write_atomically

STEPS, SHOWN = 100, 12
"""How long a golden plays, and the steps that it tells about before it leaps to the last."""
MOST_LINES = 110
"""Of frames in a golden: where maps are large, only some steps show theirs."""


def golden(name: str) -> str:
    """The golden playthrough of a registered environment, from seed 0 with its own parameters."""
    env = make(name)
    params, cast = env.default_params, _everybody(env)
    episode = play(env, params, cast, seed=0, steps=STEPS)
    height = frame(env, episode.state(0)).count("\n") + 1
    every = -(-height * SHOWN // MOST_LINES)
    head = {
        "environment": name,
        "version": env.version,
        "settings": _listed(
            {key: getattr(env, key) for key in static_settings(type(env)) if key not in ("name", "map")}
        ),
        "parameters": _listed({field.name: getattr(params, field.name) for field in dataclasses.fields(params)}),
        "seats": ", ".join(cast.seats),
    }
    return "\n".join(
        [*(f"{key}: {value}" for key, value in head.items()), "", *transcript(env, episode, every, SHOWN), ""]
    )


def transcript(env: Environment, episode: Episode, every: int = 1, shown: int | None = None) -> Iterator[str]:
    """An episode in blocks of lines: what each step brought, and every so many steps the state.

    Args:
        env: the game.
        episode: at least one step of it.
        every: how many steps lie between two states.
        shown: how many steps to tell about before the last; None for all.
    """
    last = episode.length - 1
    yield frame(env, episode.state(0))
    for t in range(episode.length):
        if shown is not None and shown <= t < last:
            continue
        state = episode.state(t + 1)
        metrics = {name: values[t] for name, values in episode.metrics.items() if np.any(values[t])}
        yield ""
        yield f"step {t + 1}: {' '.join(action_name(env, action) for action in episode.actions[t])}"
        yield f"payoffs {short(episode.payoffs[t])}; {_listed(metrics) or 'metrics 0'}; state {fingerprint(state)}"
        if (t + 1) % every == 0 or t == last:
            yield frame(env, state)
    yield f"\n{'over' if episode.ended else 'cut'} after {last + 1} steps; returns {short(episode.payoffs.sum(axis=0))}"


# ---------------------------------------------------------------------- words
def action_name(env: Environment, action: Any) -> str:
    """An action as the game calls it, else as a number."""
    names = getattr(env, "action_names", None)
    return names[int(action)] if names else short(action)


def frame(env: Environment, state: PyTree) -> str:
    """A state as text: a grid world's picture, or any other game's fields."""
    if isinstance(env, Board):
        return env.frame(state)
    if dataclasses.is_dataclass(state):
        return " | ".join(f"{field.name} {short(getattr(state, field.name))}" for field in dataclasses.fields(state))
    return " | ".join(short(leaf) for leaf in jax.tree.leaves(state))


def fingerprint(state: PyTree) -> str:
    """Eight hexadecimal digits that differ when a whole number or truth value anywhere in `state` does."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    exact = [leaf.astype(np.int64).tobytes() for leaf in leaves if leaf.dtype.kind in "biu"]
    return f"{zlib.crc32(b''.join(exact)):08x}"


def short(value: Any) -> str:
    """Numbers with at most three decimals on one line, so that the last digits of floats never show."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = np.round(array.astype(float), 3) + 0.0  # -0 becomes 0
    text = np.array2string(
        array, max_line_width=10_000, threshold=200, separator=" ", formatter={"float": "{:g}".format}
    )
    return " ".join(text.split())


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value if isinstance(value, str) else short(value)}" for name, value in values.items())


def _everybody(env: Environment) -> Cast:
    """All scripted players in turn, the random one in the last seat."""
    players = {name: scripted(player, env.num_agents) for name, player in env.players.items()}
    names = [name for name in players if name != "random"] or ["random"]
    return Cast.deal(players, [names[i % len(names)] for i in range(env.num_agents - 1)] + ["random"], env.num_agents)


def main(folder: str, *names: str) -> None:
    """Writes the goldens of `names`, of all environments when there are none, to `folder`."""
    for name in names or registered():
        write_atomically(Path(folder) / f"{name}.txt", golden(name))
        print(f"{folder}/{name}.txt")


if __name__ == "__main__":
    main(*sys.argv[1:])
