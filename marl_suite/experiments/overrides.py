"""`key=value` overrides and the grids that comma lists make of them."""

import itertools
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from marl_suite.envs.errors import InputError


def parse_value(text: str) -> Any:
    """A TOML value where `text` is one (3, 1e-3, true, [64, 64], "word"), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def split_list(text: str) -> list[str]:
    """Splits at the commas outside brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def parse(pairs: Iterable[str]) -> dict[str, list[Any]]:
    """`["lr=1e-3,3e-4", "num_envs=64"]` -> `{"lr": [0.001, 0.0003], "num_envs": [64]}`.

    Raises:
        InputError: for a pair without "=", an empty key or value, or a key given twice.
    """
    values: dict[str, list[Any]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key.strip() and text.strip()):
            raise InputError(f"an override is written key=value, got {pair!r}")
        if key.strip() in values:
            raise InputError(f"override {key.strip()!r} is given twice")
        values[key.strip()] = [parse_value(part) for part in split_list(text)]
    return values


def grid(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination, the last key varying fastest; one empty combination when there are no keys."""
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def single(pairs: Iterable[str]) -> dict[str, Any]:
    """`["num_agents=5"]` -> `{"num_agents": 5}`, where a grid has no place.

    Raises:
        InputError: as `parse` does, and for a comma list.
    """
    values = parse(pairs)
    for key, options in values.items():
        if len(options) > 1:
            raise InputError(f"override {key!r} takes one value here, got {', '.join(map(str, options))}")
    return {key: options[0] for key, options in values.items()}
