"""The games that are played in the matrix: their payoffs and their maps.

Payoffs and numbers of resources are Melting Pot's (Leibo et al. 2021; Agapiou et al. 2022), maps are this suite's own.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

INTACT, DAMAGED = ("#0072b2", "#e69f00", "#cc79a7"), ("#80b8d8", "#f2cf80", "#e5bcd3")
"""Colours of the resources of each class."""


class Game(NamedTuple):
    """What is played in the matrix."""

    summary: str
    classes: tuple[str, ...]  # K kinds of resources, each a strategy
    row: tuple[tuple[float, ...], ...]  # [K, K], payoffs to the row player
    column: tuple[tuple[float, ...], ...]  # [K, K], to the column player
    is_dilemma: bool = False  # between the first class, which cooperates, and the second
    has_roles: bool = False  # whether only a row and a column player can interact
    called: tuple[str, ...] = ()  # the scripted players that collect each class, where not like it

    @property
    def players(self) -> tuple[str, ...]:
        """The names of the scripted players, who collect one class each."""
        return self.called or self.classes


def _symmetric(summary: str, classes: tuple[str, ...], row: tuple[tuple[float, ...], ...], **more: Any) -> Game:
    """A game in which it makes no difference who is the row player."""
    return Game(summary, classes, row, tuple(zip(*row, strict=True)), **more)


GAMES: Mapping[str, Game] = {
    "prisoners_dilemma": _symmetric(
        "Social dilemma: whoever defects gains from each partner, and all lose where all do.",
        ("cooperate", "defect"),
        ((3, 0), (5, 1)),
        is_dilemma=True,
        called=("cooperator", "defector"),
    ),
    "stag_hunt": _symmetric(
        "Social dilemma: stags pay most among those who trust each other, hares pay whatever others hunt.",
        ("stag", "hare"),
        ((4, 0), (2, 2)),
        is_dilemma=True,
    ),
    "chicken": _symmetric(
        "Social dilemma: hawks live off doves, and get nothing from each other.",
        ("dove", "hawk"),
        ((3, 2), (5, 0)),
        is_dilemma=True,
    ),
    "bach_stravinsky": Game(
        "All gain by meeting at the same place, of which row and column players prefer different ones.",
        ("bach", "stravinsky"),
        ((3, 0), (0, 2)),
        ((2, 0), (0, 3)),
        has_roles=True,
    ),
    "pure_coordination": _symmetric(
        "No dilemma: three conventions are equally good, as long as both follow the same.",
        ("red", "green", "blue"),
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ),
    "running_with_scissors": _symmetric(
        "No dilemma: rock, paper, scissors, played with what one has gathered; what one wins another loses.",
        ("rock", "paper", "scissors"),
        ((0, -10, 10), (10, 0, -10), (-10, 10, 0)),
    ),
}


# ---------------------------------------------------------------------- maps
@functools.lru_cache
def own_map(game: str, variant: str) -> str:
    """The map of a game: the floor of the variant, and resources in patches on it."""
    lines = [list(line) for line in inspect.cleandoc(_FLOORS[variant]).splitlines()]
    layout = "stag_hunt" if game == "stag_hunt" else f"{len(GAMES[game].classes)} classes"
    for top, left, patch in _PATCHES[variant, layout]:
        for row, symbols in enumerate(patch.split("/"), start=top):
            lines[row][left : left + len(symbols)] = symbols
    return "\n".join(map("".join, lines))


_FLOORS = {
    "arena": """
        #########################
        #P.P.......#.......P.P..#
        #.P.P......#......P.P.P.#
        #P.P...............P.P..#
        #.P.P..............P.P..#
        #.......................#
        #.......................#
        #...#...............#...#
        #...#...............#...#
        #...##..............#...#
        #.......................#
        ##.........#####.......##
        ###..........#........###
        #............#..........#
        #.......................#
        #...#..............##...#
        #...#...............#...#
        #...#...............#...#
        #.......................#
        #.P.P..............P.P..#
        #P.P...............P.P..#
        #.P.P.....#.......P.P.P.#
        #P.P......#........P.P..#
        #########################
    """,
    "repeated": """
        #######################
        #P.........P.........P#
        #...###.........###...#
        #...#.............#...#
        #P....................#
        #....................P#
        #.........#.#.........#
        #P..##.....#.....##..P#
        #.........#.#.........#
        #P....................#
        #....................P#
        #...#.............#...#
        #...###.........###...#
        #P.........P.........P#
        #######################
    """,
}
_PATCHES = {  # row and column of the north-western cell, and the rows
    ("arena", "2 classes"): (
        (6, 7, "AAA/AA?/A??"),
        (15, 13, "AAAA/?AAA/.??"),
        (6, 14, "BBB/?BBB/..?"),
        (14, 6, "BBB/BBBB/??"),
    ),
    ("arena", "stag_hunt"): (
        (6, 6, "AAAA/AAAA/AAAA"),
        (15, 14, "AAAA/AAAA/AAA?"),
        (5, 14, "BBBBB/BBBBB/BBBBB"),
        (14, 6, "BBBBB/BBBBB/BBBBB"),
        (10, 5, "BBBBB/BBBBB"),
        (9, 16, "???/???"),
        (18, 9, "?????"),
    ),
    ("arena", "3 classes"): (
        (6, 7, "AAA/AAA"),
        (13, 14, "AAA/AAA"),
        (6, 15, "BB/BB/BB"),
        (15, 6, "BBB/BBB"),
        (9, 7, "CC/CC/CC"),
        (17, 15, "CCC/CCC"),
        (4, 11, "??/??"),
        (18, 10, "??/??"),
    ),
    ("repeated", "2 classes"): (
        (3, 6, "AAA/AAA/???"),
        (3, 14, "BBB/BBB/???"),
        (9, 6, "???/BBB/BBB"),
        (9, 14, "???/AAA/AAA"),
    ),
    ("repeated", "stag_hunt"): (
        (3, 6, "AAAAA/???"),
        (10, 12, "..???/AAAAA"),
        (3, 13, "BBBB/BBBB/BBBB/???"),
        (9, 5, "???/BBBBB/BBBBB/.BBB"),
    ),
    ("repeated", "3 classes"): (
        (3, 6, "AAA/AAA/???"),
        (3, 14, "BBB/BBB/???"),
        (9, 6, "???/CCC/CCC"),
        (9, 14, "???/???"),
    ),
}
