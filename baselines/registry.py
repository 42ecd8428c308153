"""Baseline names, the configurations behind them, and how their values are set and checked."""

import importlib
import typing
from typing import Any

from marl_suite.algorithm import Configuration
from marl_suite.envs.errors import InputError, unknown_name

_ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ippo": ("marl_suite.baselines.ppo:IPPO", {}),
} | {
    player: ("marl_suite.baselines.scripted:Scripted", {"player": player})
    for player in ("always_cooperate", "always_defect", "grim_trigger", "random", "tit_for_tat")
}


def register(name: str, target: str, **settings: Any) -> None:
    """Makes `configuration(name)` build `target`, a "module:Class" string, with `settings` as its defaults.

    Raises:
        ValueError: when the name is taken by something else.
    """
    if _ENTRIES.get(name, (target, settings)) != (target, settings):
        raise ValueError(f"baseline {name!r} is already registered as {_ENTRIES[name][0]}")
    _ENTRIES[name] = (target, settings)


def registered() -> tuple[str, ...]:
    """Every known name, sorted."""
    return tuple(sorted(_ENTRIES))


def configuration(name: str, **overrides: Any) -> Configuration:
    """The configuration called `name` with some of its values replaced.

    Args:
        name: a registered name.
        **overrides: field values; a key may carry its group's prefix, as in `{"ppo.num_envs": 64}`.

    Raises:
        InputError: for an unknown name or key, or a value of another kind or out of range.
    """
    if name not in _ENTRIES:
        raise unknown_name("baseline", name, _ENTRIES)
    target, defaults = _ENTRIES[name]
    module, _, attribute = target.partition(":")
    config = getattr(importlib.import_module(module), attribute)(**defaults)
    hints = typing.get_type_hints(type(config))
    known = {key: hint for key, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar}
    values = {}
    for key, value in overrides.items():
        field = key.removeprefix(f"{config.group}.")
        if field not in known or field in defaults:
            raise unknown_name(f"setting of {name}", key, set(known) - set(defaults))
        values[field] = _read(f"{name}: {field}", known[field], value)
    config = config.replace(**values)
    config.check()
    return config


def _read(what: str, hint: Any, value: Any) -> Any:
    """`value` as a `hint`, or an `InputError`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and number and value == int(value):
        return int(value)
    if hint is float and (number or hasattr(value, "dtype")):
        return float(value) if number else value
    if hint is str and isinstance(value, str):
        return value
    if typing.get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_read(what, typing.get_args(hint)[0], item) for item in value)
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    raise InputError(f"{what} must be {kinds.get(hint, 'a list of whole numbers')}, got {value!r}")


def describe(name: str) -> str:
    """The baseline in one sentence.

    Raises:
        InputError: for an unknown name.
    """
    return configuration(name).summary
