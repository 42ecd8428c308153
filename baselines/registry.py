"""Baseline names, the configurations behind them, and how their values are set and checked."""

import dataclasses
import typing
from typing import Any

import numpy as np

from marl_suite.algorithm import ROLES, Configuration
from marl_suite.composition import Composition
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.plugins import Registry

_REGISTRY = Registry("baseline", "marl_suite.baselines", Configuration)
register, registered = _REGISTRY.register, _REGISTRY.names

_BASELINES = "marl_suite.baselines"
register("ippo", f"{_BASELINES}.ppo:IPPO")
register("mappo", f"{_BASELINES}.mappo:MAPPO")
register("advantage_alignment", f"{_BASELINES}.advantage_alignment:AdvantageAlignment")
register("group_relative_advantage_alignment", f"{_BASELINES}.advantage_alignment:GroupRelativeAdvantageAlignment")
for _rule in ("naive", "lookahead", "lola_a", "lola_b", "lola_c", "sos"):
    register(f"exact_{_rule}", f"{_BASELINES}.exact:ExactShaping", rule=_rule)
register("lola", f"{_BASELINES}.lola:LOLA")
register("lola_pg", f"{_BASELINES}.lola:LOLA", form="policy_gradient")
register("loqa", f"{_BASELINES}.loqa:LOQA")
for _name in ("iql", "vdn", "qmix"):
    register(_name, f"{_BASELINES}.value_decomposition:{_name.upper()}")
register("q_learning", f"{_BASELINES}.q_learning:QLearning")
register("past_self", "marl_suite.past_selves:PastSelves")
for _player in ("always_cooperate", "always_defect", "grim_trigger", "random", "tit_for_tat", *ROLES):
    register(_player, f"{_BASELINES}.scripted:Scripted", player=_player)


def configuration(name: str, **overrides: Any) -> Configuration:
    """The configuration called `name` with some of its values replaced.

    Args:
        name: a registered name, or several joined by "+": a mixed team, one part per agent in order, the last part
            playing all agents that remain. "NAME+past_self" puts the learner against a buffer of its past selves.
        **overrides: field values; a key may carry its group's prefix, as in `{"ppo.num_envs": 64}`. In a team a key
            goes to every part that has it; `{"1.lr": 3e-4}` is for the second part alone.

    Raises:
        InputError: for an unknown name or key, or a value of another kind or out of range.
    """
    config = _team(name, overrides) if "+" in name else _single(name, overrides)
    config.check()
    return config


def _single(name: str, overrides: dict[str, Any]) -> Configuration:
    config, _ = _defaults(name)
    known = _settings(name)
    values = {}
    for key, value in overrides.items():
        field = key.removeprefix(f"{config.group}.")
        if field not in known:
            raise unknown_name(f"setting of {name}", key, known)
        values[field] = _read(f"{name}: {field}", known[field], value)
    return config.replace(**values)


def _defaults(name: str) -> tuple[Configuration, dict[str, Any]]:
    """The configuration of an entry, and those of its values that make it what its name says."""
    cls, defaults = _REGISTRY.find(name)
    return cls(**defaults), defaults


def _settings(name: str) -> dict[str, Any]:
    """What can be set, by name, and the kind of each."""
    config, defaults = _defaults(name)
    hints = typing.get_type_hints(type(config))
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(config)
        if field.name not in defaults and hints[field.name] is not Any
    }


def _team(name: str, overrides: dict[str, Any]) -> Configuration:
    """The mixed team called "a+b+..."."""
    names = name.split("+")
    shares: list[dict[str, Any]] = [{} for _ in names]
    for key, value in overrides.items():
        number, _, rest = key.partition(".")
        chosen, field = ([int(number)], rest) if number.isdecimal() else (range(len(names)), key)
        takers = [i for i in chosen if i < len(names) and takes(names[i], field)]
        for i in takers:
            shares[i][field] = value
        if not takers:
            raise unknown_name(f"setting of {name}", key, set().union(*map(_settings, names)))
    parts = [_single(part, share) for part, share in zip(names, shares, strict=True)]
    if names[-1] != "past_self":
        return Composition(parts=tuple(parts), reward_view=parts[0].reward_view)
    if len(parts) != 2:
        raise InputError(f"past_self follows the one baseline whose past it is, as in 'ippo+past_self', got {name!r}")
    return parts[1].replace(part=parts[0], reward_view=parts[0].reward_view)


def takes(name: str, key: str) -> bool:
    """Whether `key`, with or without its group's prefix, can be set in `name`, or in some part of a team."""
    return any(key.removeprefix(f"{_defaults(part)[0].group}.") in _settings(part) for part in name.split("+"))


def group_settings(group: str) -> set[str]:
    """Everything that can be set in some baseline of the group, as "group.field"."""
    members = _REGISTRY.working(groups)
    return {f"{group}.{field}" for name in members if group in members[name] for field in _settings(name)}


def settings(name: str, config: Any) -> dict[str, Any]:
    """The inverse of `configuration`: everything that can be set, as it stands in `config`, JSON-able."""
    if "+" not in name:
        return {field: _plain(getattr(config, field)) for field in _settings(name)}
    names, parts = name.split("+"), config.parts if isinstance(config, Composition) else (config.part, config)
    return {
        f"{i}.{field}": value
        for i, (part_name, part) in enumerate(zip(names, parts, strict=True))
        for field, value in settings(part_name, part).items()
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, bool)) else np.asarray(value).tolist()


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
    return _defaults(name)[0].summary


def listing() -> dict[str, str]:
    """Every name with the baseline in one sentence, or with why it is unusable."""
    return _REGISTRY.listing(describe)


def groups(name: str) -> set[str]:
    """The prefixes that keys of `name`, or of the parts of a team, may carry.

    Raises:
        InputError: for an unknown name.
    """
    return {_defaults(part)[0].group for part in name.split("+")}


def all_groups() -> set[str]:
    """The groups of all baselines."""
    return set().union(*_REGISTRY.working(groups).values())
