"""Pictures of grid worlds: states as pixels, with numpy alone.

Ground fills its cell; things that lie on the floor are discs (see `Board.shapes`). A beam is a wash over the cells that
it hit, an avatar a drop that points where it heads, numbered and in its own colour. A pale avatar in a blue frame is
frozen; agents that are out are not drawn.

Shapes are given by their signed distance in units of a cell, negative inside, which makes smooth edges and outlines of
any width.
"""

from typing import Any, NamedTuple

import numpy as np

from marl_suite.envs.environment import at_least, one_of
from marl_suite.envs.errors import InputError
from marl_suite.envs.grid.board import Board

AGENT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#4D4D4D")
"""Okabe and Ito (2008): told apart with any colour vision."""
FROZEN = "#2f9be0"
BEAM_SHARE = 0.6
"""How much a beam covers of what lies under it."""

_BODY, _TIP = (0.5, 0.58, 0.37), 0.0  # an avatar that looks north: its disc (x, y, radius), and how far up it points
_FONT = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71122", "75757", "75717")
# The digits 0 .. 9, three cells wide: five rows each, as the bits of a number.


class Scene(NamedTuple):
    """What there is to draw of one state."""

    tiles: Any  # uint8 [H, W], as `Board.tile_plane`
    beam: Any  # uint8 [H, W], as `GridState.beam`
    owners: Any  # uint8 [H, W], as `Board.owners`
    position: Any  # int32 [N, 2]
    heading: Any  # int32 [N]
    present: Any  # bool [N]
    frozen: Any  # bool [N]


def scene(env: Board, state: Any) -> Scene:
    """What there is to draw of `state`. It can be jitted and vmapped over many states; `paint` is not jax."""
    tiles, owners, present = env.tile_plane(state), env.owners(state), state.timeout == 0
    frozen = present & (state.frozen > 0)
    return Scene(tiles, state.beam, owners, state.position, state.heading, present, frozen)


def draw(env: Board, state: Any, cell: int = 24) -> np.ndarray:
    """uint8 [H * cell, W * cell, 3]: `state` as a picture with `cell` pixels to a cell's side."""
    return paint(env, scene(env, state), cell)


def paint(env: Board, scene: Scene, cell: int = 24) -> np.ndarray:
    """uint8 [H * cell, W * cell, 3]: the picture of a scene of arrays.

    Raises:
        InputError: for a cell of less than 8 pixels, or a tile or beam without a colour.
    """
    at_least("cell", cell, 8)
    sprites = [np.full((cell, cell, 3), 255.0), *(tile_sprite(env, name, cell) for name in env.tiles)]
    cells = np.stack(sprites)[np.asarray(scene.tiles)]  # [H, W, cell, cell, 3]
    cells[:, :, -1, :] *= 0.96
    cells[:, :, :, -1] *= 0.96
    for place in zip(*np.nonzero(scene.owners), strict=True):
        _frame(cells[place], agent_colour(env, int(scene.owners[place]) - 1), width=0.14)
    for kind, beam in enumerate(env.beams, start=1):
        hit = np.asarray(scene.beam) == kind
        cells[hit] += BEAM_SHARE * (_rgb(env, beam.name) - cells[hit])
    for i in np.flatnonzero(scene.present):
        avatar(env, cells[tuple(scene.position[i])], int(i), int(scene.heading[i]), bool(scene.frozen[i]))
    height, width = cells.shape[:2]
    return cells.swapaxes(1, 2).reshape(height * cell, width * cell, 3).round().astype(np.uint8)


# ---------------------------------------------------------------------- what lies in a cell
def tile_sprite(env: Board, name: str, cell: int) -> np.ndarray:
    """float [cell, cell, 3]: a cell that holds a tile; raises `InputError` for an unknown shape."""
    default = "disc" if env.tiles[name].isalpha() else "square"
    shape, _, ground = env.shapes.get(name, default).partition(" on ")
    one_of(f"{env.name}: shape of {name!r}", shape, ("square", "disc", "diamond"))
    colour = _rgb(env, name)
    if shape == "square":
        return np.tile(colour, (cell, cell, 1))
    sprite = np.tile(_rgb(env, ground or next(iter(env.tiles))), (cell, cell, 1))
    x, y = _grid(cell)
    if shape == "disc":
        distance = np.hypot(x - 0.5, y - 0.5) - 0.36
    else:
        distance = (np.abs(x - 0.5) + np.abs(y - 0.5) - 0.45) / np.sqrt(2)
    return _fill(sprite, distance, colour)


def avatar(env: Board, picture: np.ndarray, agent: int, heading: int = 0, frozen: bool = False) -> np.ndarray:
    """Draws an agent on a cell's `picture`, float [cell, cell, 3], in place."""
    colour = agent_colour(env, agent)
    x, y = _grid(len(picture))
    middle, low, radius = _BODY
    sine = radius / (low - _TIP)  # of half the angle at the tip, whose sides touch the disc
    sides = np.abs(x - middle) * np.sqrt(1 - sine**2) - (y - _TIP) * sine
    disc = np.hypot(x - middle, y - low) - radius
    distance = np.minimum(disc, np.maximum(sides, y - low + radius * sine))
    if frozen:
        colour = colour + 0.6 * (255 - colour)
        _frame(picture, hex_rgb(FROZEN), width=0.1)
    _fill(picture, np.rot90(distance, -heading), colour)
    back = low - 0.5
    centre = [(0.5, 0.5 + back), (0.5 - back, 0.5), (0.5, 0.5 - back), (0.5 + back, 0.5)][heading]
    return _write(picture, agent, centre, np.full(3, 255.0 if colour @ (0.3, 0.59, 0.11) < 150 else 20.0))


def agent_colour(env: Board, agent: int) -> np.ndarray:
    """float [3], 0 .. 255: the world's own for that agent, else colours that come round again after eight agents."""
    return hex_rgb(env.colours.get(f"agent {agent}", AGENT_COLOURS[int(agent) % len(AGENT_COLOURS)]))


def beam_sprite(env: Board, name: str, cell: int) -> np.ndarray:
    """float [cell, cell, 3]: floor that a beam hit."""
    floor = tile_sprite(env, next(iter(env.tiles)), cell)
    return floor + BEAM_SHARE * (_rgb(env, name) - floor)


# ---------------------------------------------------------------------- pixels
def hex_rgb(text: str) -> np.ndarray:
    """float [3], 0 .. 255, from "#rrggbb"."""
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], float)


def _rgb(env: Board, name: str) -> np.ndarray:
    if name not in env.colours:
        raise InputError(f"{env.name} has no colour for {name!r}; add it to `colours`")
    return hex_rgb(env.colours[name])


def _grid(cell: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the middles of a cell's pixels, [cell, cell] each, in units of the cell."""
    middles = (np.arange(cell) + 0.5) / cell
    return np.meshgrid(middles, middles)


def _fill(picture: np.ndarray, distance: np.ndarray, colour: np.ndarray, rim: float = 0.055) -> np.ndarray:
    """Draws a shape with a dark rim, in place."""
    for inset, paint in ((0.0, 0.45 * colour), (rim, colour)):
        cover = np.clip(0.5 - (distance + inset) * len(picture), 0, 1)[..., None]
        picture += cover * (paint - picture)
    return picture


def _frame(picture: np.ndarray, colour: np.ndarray, width: float) -> None:
    """Draws a frame along the cell's border, in place."""
    x, y = _grid(len(picture))
    picture[np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) > 0.5 - width] = colour


def _write(picture: np.ndarray, number: int, centre: tuple[float, float], colour: np.ndarray) -> np.ndarray:
    """Writes a number around `centre`, (x, y) in units of the cell, in place."""
    cell, scale = len(picture), max(1, round(len(picture) / 12))
    digits = [np.array([[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in _FONT[int(d)]]) for d in str(number)]
    gaps = np.zeros((5, 1), int)
    bits = np.hstack([part for digit in digits for part in (gaps, digit)][1:]).astype(bool)
    bits = bits.repeat(scale, axis=0).repeat(scale, axis=1)[:cell, :cell]
    height, width = bits.shape
    left, top = (round(centre[0] * cell - width / 2), round(centre[1] * cell - height / 2))
    left, top = (min(max(left, 0), cell - width), min(max(top, 0), cell - height))
    picture[top : top + height, left : left + width][bits] = colour
    return picture
