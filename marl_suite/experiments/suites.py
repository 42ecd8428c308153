"""Suites: tables of environments x baselines x seeds x budget, written in TOML.

    title = "Opponents that learn"
    steps = 3e5                # environment steps per seed
    seeds = 5                  # 0 .. 4, or a list
    best_response = 1e5        # steps that a best response to each policy learns for; 0 for none
    [[environments]]
    id = "public_goods"
    label = "five givers"      # the game's name in the table; default: the id
    env = {num_agents = 5}     # static settings
    params = {max_steps = 20}  # traced parameters
    set = {"ppo.gamma" = 0.9}  # settings of every baseline of that group that has them, here
    baselines = ["ippo team"]  # only these, by label or id; default: all
    published = {"ippo team" = "98.1"}  # what others report as the return, by label
    source = "Somebody (2020), table 1"
    [[baselines]]
    id = "ippo"
    label = "ippo team"        # the row's name; default: the id
    set = {reward_view = "team"}

An environment or a baseline may have its own `steps`; of two the larger count. An environment may have its own `seeds`.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import math
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from marl_suite.algorithm import Configuration, Learner, no_update
from marl_suite.baselines import registry as baselines
from marl_suite.composition import Composition
from marl_suite.envs import registry as environments
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.reward_views import read_view
from marl_suite.envs.wrappers import reward_view, viewed_params
from marl_suite.training import check_memory, plan

_KEYS = {
    "suite": {"title", "steps", "seeds", "chunks", "episodes", "best_response", "environments", "baselines"},
    "environment": {
        *("id", "label", "env", "params", "set", "steps", "seeds", "baselines"),
        *("published", "source"),
    },
    "baseline": {"id", "label", "set", "steps"},
}


def usual_episodes(game: Environment, params: PyTree) -> int:
    """How many episodes an evaluation plays unless told otherwise: 128, but about 2^16 steps of agents, at least 8."""
    steps = game.num_agents * getattr(params, "max_steps", 1)
    return int(min(128, max(8, 2**16 // steps)))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a results table: a baseline in an environment, all seeds."""

    environment: str
    baseline: str
    label: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: float = 1_000_000
    chunks: int = 20
    episodes: int = 0  # per evaluation; 0: 128, or fewer where many agents play long episodes
    best_response: float = 1e5  # steps that a best response to the trained policies learns for; 0: none
    env: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    set: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    game_label: str = ""  # the game's name in tables; default: the environment's
    published: str = ""  # what others report as the return
    source: str = ""  # and where

    @property
    def shown_as(self) -> str:
        """The game's name in tables and figures."""
        return self.game_label or self.environment

    @cached_property
    def game(self) -> Environment:
        return environments.make(self.environment, **self.env)

    @cached_property
    def game_params(self) -> PyTree:
        return self.game.make_params(**self.params)

    @cached_property
    def configuration(self) -> Configuration:
        configuration = baselines.configuration(self.baseline, **self.set)
        read_view(configuration.reward_view)
        return configuration

    @cached_property
    def impossible(self) -> str | None:
        """Why this baseline cannot play this game; None when it can."""
        try:
            _ = self._learner
            check_memory(self.buffer_bytes)
        except InputError as error:
            return str(error)
        return None

    @property
    def team_reward(self) -> bool:
        """Whether it learns from a reward that all agents share."""
        return read_view(self.configuration.reward_view).common

    @property
    def mixed_team(self) -> bool:
        """Whether agents learn differently, so that there is no one policy to pair with others."""
        return isinstance(self.configuration, Composition)

    @cached_property
    def _learner(self) -> Learner:
        viewed = reward_view(self.game, self.configuration.reward_view)
        spec = plan(viewed, viewed_params(viewed, self.game_params), self.configuration, self.steps, self.chunks).spec
        return self.configuration.build(spec)

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return self._learner.update is not no_update

    @property
    def buffer_bytes(self) -> int:
        """What the replay buffers of all seeds hold in memory."""
        return len(self.seeds) * self._learner.buffer_bytes

    def check(self) -> "Cell":
        """This cell, complete, after raising `InputError` for whatever in it no game or baseline would take."""
        if self.episodes == 0:
            return dataclasses.replace(self, episodes=usual_episodes(self.game, self.game_params)).check()
        for what, value in (("steps", self.steps), ("chunks", self.chunks), ("episodes", self.episodes)):
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 1 or value % 1 != 0:
                raise InputError(f"{what} must be a positive whole number, got {value!r}")
        if not isinstance(self.best_response, (int, float)) or not self.best_response >= 0:
            raise InputError(f"best_response must be a number of steps, or 0 for none, got {self.best_response!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds must be distinct and not negative, at least one, got {list(self.seeds)}")
        _ = self.game_params, self.configuration
        return self

    @cached_property
    def specification(self) -> dict[str, Any]:
        """Everything that determines the result, JSON-able; equal specifications give equal results."""
        return {
            "environment": self.environment,
            "version": self.game.version,
            "env": self.game.static_values(),
            "params": _values(self.game_params),
            "baseline": self.baseline,
            "label": self.label,
            "set": baselines.settings(self.baseline, self.configuration),
            "seeds": list(self.seeds),
            "steps": int(self.steps),
            "chunks": self.chunks,
            "episodes": self.episodes,
            "best_response": int(self.best_response),
        }

    @cached_property
    def id(self) -> str:
        """The folder's name: readable, and different for every specification."""
        text = json.dumps(self.specification, sort_keys=True)
        words = f"{self.shown_as}.{self.label}".replace(" ", "-")
        safe = "".join(c if c.isalnum() or c in "._-=" else "_" for c in words)
        return f"{safe[:80]}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _values(tree: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON-able values."""
    values = {}
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        values[field.name] = value if isinstance(value, (str, bool)) else np.asarray(value).tolist()
    return values


def builtin_suites() -> dict[str, str]:
    """Names and titles of the suites that come with the package."""
    folder = importlib.resources.files("marl_suite.benchmarks") / "suites"
    names = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {name: tomllib.loads((folder / f"{name}.toml").read_text()).get("title", "") for name in names}


def load(suite: str) -> list[Cell]:
    """The checked cells of a suite, in table order: environment by environment.

    Args:
        suite: a built-in suite's name, or the path of a TOML file.

    Raises:
        InputError: for an unknown suite, an unreadable file, or anything in it that is not as it should be.
    """
    if suite.endswith(".toml") or Path(suite).is_file():
        try:
            text = Path(suite).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read suite {suite!r}: {getattr(error, 'strerror', None) or error}") from None
    elif suite in builtin_suites():
        text = (importlib.resources.files("marl_suite.benchmarks") / "suites" / f"{suite}.toml").read_text()
    else:
        raise unknown_name("suite", suite, builtin_suites())
    try:
        return from_table(tomllib.loads(text), suite)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"suite {suite!r} is not valid TOML: {error}") from None


def from_table(table: Mapping[str, Any], name: str = "suite") -> list[Cell]:
    """The checked cells of a suite given as a dictionary. See `load`."""
    _check_keys(table, "suite", name)
    rows = {kind: table.get(f"{kind}s", []) for kind in ("environment", "baseline")}
    for kind, entries in rows.items():
        if not entries or not isinstance(entries, list) or not all(isinstance(e, dict) and "id" in e for e in entries):
            raise InputError(f"suite {name!r} needs at least one [[{kind}s]] entry, each with an id")
        for entry in entries:
            _check_keys(entry, kind, name)
    seeds = table.get("seeds", 5)
    common = {key: table[key] for key in ("chunks", "episodes", "best_response") if key in table}
    cells = []
    for environment in rows["environment"]:
        _check_published(environment, rows["baseline"], name)
        for baseline in _chosen(environment, rows["baseline"], name):
            own = [row["steps"] for row in (environment, baseline) if "steps" in row]
            steps = max(own, key=_size) if own else table.get("steps", 1_000_000)
            own_seeds = read_seeds(environment.get("seeds", seeds))
            cells.append(_cell(environment, baseline, steps, own_seeds, common))
    if len({cell.id for cell in cells}) < len(cells):
        raise InputError(f"suite {name!r} lists the same environment and baseline twice; give them labels")
    return cells


def _size(steps: Any) -> float:
    """For comparison; what is no number is found out later, by the cell."""
    return steps if isinstance(steps, (int, float)) else math.inf


def _chosen(environment: Mapping, baselines: list[dict], suite: str) -> list[dict]:
    """The baselines that play `environment`."""
    names = [{row["id"], row.get("label", row["id"])} for row in baselines]
    known = set().union(*names)
    for wanted in (listed := environment.get("baselines", known)):
        if wanted not in known:
            raise unknown_name(f"baseline of {environment['id']} in suite {suite!r}:", wanted, known)
    return [row for row, called in zip(baselines, names, strict=True) if called & set(listed)]


def _check_published(environment: Mapping, baselines: list[dict], suite: str) -> None:
    """Raises `InputError` for published values of no row here, or without a source."""
    published, labels = environment.get("published", {}), [row.get("label", row["id"]) for row in baselines]
    for label in published:
        if label not in labels:
            raise unknown_name(f"published row of {environment['id']} in suite {suite!r}:", label, labels)
    if published and "source" not in environment:
        raise InputError(f"published values of {environment['id']} in suite {suite!r} need their source")


def read_seeds(seeds: Any) -> tuple[int, ...]:
    """A number of seeds, or a list of them, as a tuple."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
        return tuple(range(seeds))
    if isinstance(seeds, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        return tuple(seeds)
    raise InputError(f"seeds must be a positive number or a list of whole numbers, got {seeds!r}")


def _check_keys(table: Mapping[str, Any], kind: str, suite: str) -> None:
    for key, value in table.items():
        if key not in _KEYS[kind]:
            raise unknown_name(f"{kind} key in suite {suite!r}:", key, _KEYS[kind])
        lists_names = kind == "environment" and key == "baselines"
        texts = ("id", "label", "title", "source")
        kind_of = "a table" if key in ("env", "params", "set", "published") else "text" if key in texts else ""
        if kind_of and not isinstance(value, dict if kind_of == "a table" else str):
            raise InputError(f"{key} in suite {suite!r} must be {kind_of}, got {value!r}")
        if lists_names and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise InputError(f"{key} of an environment in suite {suite!r} must be a list of names, got {value!r}")


def _cell(environment: Mapping, baseline: Mapping, steps: Any, seeds: tuple[int, ...], common: Mapping) -> Cell:
    settings = dict(baseline.get("set", {}))
    own_groups = baselines.groups(baseline["id"])
    groups = baselines.all_groups()
    for key, value in environment.get("set", {}).items():
        prefix = key.partition(".")[0]
        if prefix not in groups or "." not in key:
            raise InputError(f"set of {environment['id']} needs keys like 'ppo.gamma', with a group, got {key!r}")
        if key not in baselines.group_settings(prefix):
            raise unknown_name(f"setting of {environment['id']}:", key, baselines.group_settings(prefix))
        if prefix in own_groups and baselines.takes(baseline["id"], key):
            settings = {key: value} | settings
    return Cell(
        environment=environment["id"],
        baseline=baseline["id"],
        label=baseline.get("label", baseline["id"]),
        seeds=seeds,
        steps=steps,
        env=environment.get("env", {}),
        params=environment.get("params", {}),
        set=settings,
        game_label=environment.get("label", ""),
        published=environment.get("published", {}).get(baseline.get("label", baseline["id"]), ""),
        source=environment.get("source", ""),
        **common,
    ).check()
