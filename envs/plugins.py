"""Names and the classes behind them: the suite's own, and those that installed packages bring.

A package brings a class by an entry point, so that its name works wherever the suite's do, from the first install on::

    [project.entry-points."marl_suite.environments"]
    well = "my_package.well:Well"

The groups are `marl_suite.environments`, `marl_suite.baselines` and `marl_suite.reward_views`. A class is imported when
its name is first used, and a package that is broken, or takes a name that exists, spoils no other name.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from marl_suite.envs.errors import InputError, unknown_name

T = TypeVar("T")
R = TypeVar("R")


class Entry(NamedTuple):
    """What a name stands for."""

    target: str | type  # a class, or "module:Class"
    settings: dict[str, Any]  # its defaults under this name
    package: str = ""  # the installed package that brings it, with its version; empty when registered by a call

    def __str__(self) -> str:
        where = self.target if isinstance(self.target, str) else f"{self.target.__module__}:{self.target.__qualname__}"
        return f"{where} (package {self.package})" if self.package else where


class Registry(Generic[T]):
    """The names of one kind of thing.

    Args:
        kind: what one is called in messages, such as "environment".
        group: the group of entry points.
        base: what every class behind a name is a subclass of.
    """

    def __init__(self, kind: str, group: str, base: type[T]):
        self.kind, self.group, self.base = kind, group, base
        self._registered: dict[str, Entry] = {}

    def register(self, name: str, target: str | type, **settings: Any) -> None:
        """Makes `name` stand for `target`, a class or its "module:Class", with `settings` as its defaults.

        Raises:
            InputError: when the name is already registered for something else.
        """
        entry = Entry(target, settings)
        if self._registered.get(name, entry) != entry:
            raise InputError(f"{self.kind} {name!r} is already registered as {self._registered[name]}")
        self._registered[name] = entry

    def names(self) -> tuple[str, ...]:
        """Every known name, sorted, also those whose class turns out to be unusable."""
        return tuple(sorted(self._registered.keys() | self._installed.keys()))

    def find(self, name: str) -> tuple[type[T], dict[str, Any]]:
        """The class behind `name`, imported now, and its defaults under this name.

        Raises:
            InputError: for a name that is unknown or stands for several things, or whose class cannot be imported or
                is no subclass of `base`; it names the packages.
        """
        entries = self._entries(name)
        if not entries:
            raise unknown_name(self.kind, name, self.names())
        if len(entries) > 1:
            several = " and ".join(map(str, entries))
            raise InputError(f"{self.kind} {name!r} stands for {several}; rename or uninstall all but one")
        return self._load(name, entries[0]), entries[0].settings

    def working(self, use: Callable[[str], R]) -> dict[str, R]:
        """`use(name)` of every name with which it does not fail."""
        return {name: result for name, result in self._outcomes(use) if not isinstance(result, Exception)}

    def listing(self, describe: Callable[[str], str]) -> dict[str, str]:
        """`describe(name)` of every name, or in one line why there is none."""
        outcomes = self._outcomes(describe)
        return {n: f"unusable: {_one_line(r)}" if isinstance(r, Exception) else r for n, r in outcomes}

    # ------------------------------------------------------------------ parts
    @functools.cached_property
    def _installed(self) -> dict[str, list[Entry]]:
        """What packages bring, by name; read once, which imports none of them."""
        found: dict[str, list[Entry]] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
            found.setdefault(point.name, []).append(Entry(point.value, {}, package))
        return found

    def _entries(self, name: str) -> list[Entry]:
        """All that `name` stands for; what is registered and brought alike counts once."""
        entries = [self._registered[name]] if name in self._registered else []
        entries += self._installed.get(name, [])
        return list({entry.target: entry for entry in reversed(entries)}.values())[::-1]

    def _load(self, name: str, entry: Entry) -> type[T]:
        cls: Any = entry.target
        if isinstance(cls, str):
            try:
                cls = importlib.metadata.EntryPoint(name, cls, self.group).load()
            except Exception as error:  # whatever a module does when it is imported
                raise InputError(f"{self.kind} {name!r} cannot be imported from {entry}: {_one_line(error)}") from error
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            base = f"{self.base.__module__}.{self.base.__qualname__}"
            raise InputError(f"{self.kind} {name!r} must be a subclass of {base}, which {entry} is not")
        return cls

    def _outcomes(self, use: Callable[[str], R]) -> Iterator[tuple[str, R | Exception]]:
        for name in self.names():
            try:
                yield name, use(name)
            except Exception as error:  # a broken package spoils no other name
                yield name, error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
