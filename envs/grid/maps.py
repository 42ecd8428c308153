"""Maps drawn as text.

A map is a block of lines of equal length, one symbol per cell::

    #######
    #P.A.P#
    #######

Which symbols there are, and what they stand for, is the legend of the environment that reads it.
"""

import dataclasses
import functools
import inspect

import numpy as np

from marl_suite.envs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Grid:
    """A map that was read: a source of numpy constants, hashable by its text."""

    what: str
    """Whose map it is, for messages."""
    lines: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in cells."""
        return len(self.lines), len(self.lines[0])

    @property
    def num_cells(self) -> int:
        """H * W, which is also the flat cell number of everywhere beyond the map."""
        return len(self.lines) * len(self.lines[0])

    def plane(self, symbols: str) -> np.ndarray:
        """bool [H, W]: which cells hold one of `symbols`."""
        return np.array([[symbol in symbols for symbol in line] for line in self.lines])

    def sites(self, symbols: str) -> np.ndarray:
        """int32 [S]: the flat numbers of the cells that hold one of `symbols`, in reading order."""
        return np.flatnonzero(self.plane(symbols)).astype(np.int32)

    def numbered(self, symbols: str) -> np.ndarray:
        """int32 [H, W]: for each cell its place in `sites(symbols)`, and S where it is none of these."""
        sites = self.sites(symbols)
        places = np.full(self.num_cells, len(sites), np.int32)
        places[sites] = np.arange(len(sites))
        return places.reshape(self.shape)

    def require(self, symbols: str, least: int, purpose: str) -> None:
        """Raises `InputError` when fewer than `least` cells hold one of `symbols`."""
        count = len(self.sites(symbols))
        if count < least:
            names = " or ".join(repr(symbol) for symbol in symbols)
            raise InputError(f"{self.what} needs at least {least} cells {names} ({purpose}), got {count}")


@functools.lru_cache(maxsize=256)
def read_map(what: str, text: str, symbols: str) -> Grid:
    """The map that `text` draws.

    Args:
        what: whose map it is, for messages.
        text: lines of symbols; the space around the map is left out.
        symbols: all that the legend knows.

    Raises:
        InputError: for a map without cells, a line of another length than the first, or an unknown symbol.
    """
    lines = tuple(line.rstrip() for line in inspect.cleandoc(text).strip().splitlines())
    if not lines:
        raise InputError(f"{what} has no cells; draw lines of {_spell(symbols)}")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(lines[0]):
            raise InputError(
                f"{what}: every line must have {len(lines[0])} cells as the first, but line {number} has "
                f"{len(line)}: {line!r}"
            )
        unknown = [symbol for symbol in line if symbol not in symbols]
        if unknown:
            column = line.index(unknown[0]) + 1
            raise InputError(
                f"{what}: unknown symbol {unknown[0]!r} in line {number}, column {column}; use {_spell(symbols)}"
            )
    return Grid(what, lines)


def _spell(symbols: str) -> str:
    return " ".join(symbols)
