"""An episode of a grid world as pictures: the world, and beside it who is who and what happened."""

from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from marl_suite.envs.environment import PyTree
from marl_suite.envs.grid import drawing
from marl_suite.envs.grid.board import Board
from marl_suite.experiments.playback import Cast, Episode
from marl_suite.experiments.playthrough import action_name, short

_INK, _GREY, _GAIN, _LOSS = "#222222", "#999999", "#00734f", "#b34700"
_MARGIN, _LINE, _ICON = 12, 27, 24
_COLUMNS = (34, 88, 136, 226)  # of a line about an agent: return, payoff, action and who plays it, beside its avatar


class Pictures:
    """Draws the pictures of one episode, one by one.

    Attributes:
        size: (width, height) in pixels, even, as video encoders ask.
    """

    def __init__(self, env: Board, episode: Episode, cast: Cast, params: PyTree, title: str, cell: int = 0):
        self.env, self.episode, self.cast = env, episode, cast
        height, width = env.grid.shape
        self.cell = cell or min(48, max(24, 480 // max(height, width)))
        self.scenes, *known = jax.device_get(_shown(env, episode.states, params))
        self.notes = _notes(self.scenes.heading.shape, *known)
        self.returns = np.concatenate([np.zeros((1, env.num_agents)), episode.payoffs.cumsum(axis=0)])
        self.left = width * self.cell + 2 * _MARGIN
        self.blank = self._blank(title)
        self.size = self.blank.size

    def __len__(self) -> int:
        """T + 1, one per state."""
        return self.episode.length + 1

    def __getitem__(self, step: int) -> Any:
        """The picture after `step` steps, a `PIL.Image`."""
        from PIL import Image, ImageDraw

        picture = self.blank.copy()
        scene = jax.tree.map(lambda x: x[step], self.scenes)
        world = Image.fromarray(drawing.paint(self.env, scene, self.cell))
        picture.paste(world, (_MARGIN, 2 * _MARGIN + _LINE))
        pen = ImageDraw.Draw(picture)
        over = ", the end" if self.episode.ended and step == self.episode.length else ""
        pen.text((self.left, self._top(-2)), f"step {step}{over}", fill=_INK, font=_font(bold=True))
        for agent in range(self.env.num_agents):
            self._agent(picture, pen, step, agent)
        return picture

    def _agent(self, picture: Any, pen: Any, step: int, agent: int) -> None:
        """One agent's line: avatar, return, the last payoff and action, and who plays it."""
        from PIL import Image

        top = self._top(agent)
        icon = drawing.avatar(self.env, np.full((_ICON, _ICON, 3), 255.0), agent)
        picture.paste(Image.fromarray(icon.astype(np.uint8)), (self.left, top))
        present, frozen = self.scenes.present[step, agent], self.scenes.frozen[step, agent]
        payoff = self.episode.payoffs[step - 1, agent] if step else 0
        action = action_name(self.env, self.episode.actions[step - 1, agent]) if step else ""
        words = [
            (short(self.returns[step, agent]), _INK if present else _GREY),
            (f"{'+' if payoff > 0 else ''}{short(payoff)}" if payoff else "", _GAIN if payoff > 0 else _LOSS),
            ("out" if not present else "frozen" if frozen else action, _INK if present else _GREY),
            (self.cast.seats[agent], _GREY),
        ]
        for (word, colour), column in zip(words, _COLUMNS, strict=True):
            pen.text((self.left + column, top + 4), word, fill=colour, font=_font())
        pen.text((self.left + self.notes_at, top + 4), self.notes[step][agent], fill=_INK, font=_font())

    def _top(self, line: int) -> int:
        """Where a line of the panel begins; lines 0 .. N - 1 are the agents'."""
        return 2 * _MARGIN + _LINE * (line + 3)

    def _blank(self, title: str) -> Any:
        """What stays the same: the title and the legend."""
        from PIL import Image, ImageDraw

        env, cell = self.env, _ICON
        legend = [(drawing.tile_sprite(env, name, cell), name) for name in env.tiles]
        legend += [(drawing.beam_sprite(env, beam.name, cell), f"{beam.name} beam") for beam in env.beams]
        if env.freezes:
            legend.append((drawing.avatar(env, np.full((cell, cell, 3), 255.0), 0, frozen=True), "frozen"))
        rows, font = -(-len(legend) // 2), _font()
        self.notes_at = int(_COLUMNS[-1] + _MARGIN + max(font.getlength(name) for name in self.cast.seats))
        notes = max(font.getlength(note) for notes in self.notes for note in notes)
        wide = max(font.getlength(name) for _, name in legend) + 1.5 * cell + _MARGIN
        panel = int(max(self.notes_at + notes, 2 * wide))
        bottom = max(2 * _MARGIN + _LINE + env.grid.shape[0] * self.cell, self._top(env.num_agents + 1 + rows))
        width, height = self.left + panel + _MARGIN, bottom + _MARGIN
        width = max(width, int(_font(bold=True).getlength(title)) + 2 * _MARGIN)
        picture = Image.new("RGB", (width + width % 2, height + height % 2), "white")
        pen = ImageDraw.Draw(picture)
        pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(bold=True))
        for column, word in zip(_COLUMNS, ("return", "now", "action", "player"), strict=True):
            pen.text((self.left + column, self._top(-1)), word, fill=_GREY, font=font)
        for i, (icon, name) in enumerate(legend):
            corner = self.left + i // rows * int(wide), self._top(env.num_agents + 1 + i % rows)
            picture.paste(Image.fromarray(icon.round().astype(np.uint8)), corner)
            pen.rectangle((*corner, corner[0] + cell - 1, corner[1] + cell - 1), outline="#bbbbbb")
            pen.text((corner[0] + int(1.5 * cell), corner[1] + 4), name.replace("_", " "), fill=_INK, font=font)
        return picture


@partial(jax.jit, static_argnums=0)
def _shown(env: Board, states: PyTree, params: PyTree) -> tuple[drawing.Scene, PyTree, PyTree]:
    """What there is to draw of `states` [T + 1, ...], and what agents show and know."""
    return jax.vmap(lambda state: (drawing.scene(env, state), env.marks(state), env.extras(state, params)))(states)


def _notes(shape: tuple[int, int], marks: dict[str, np.ndarray], extras: dict[str, np.ndarray]) -> list[list[str]]:
    """[T + 1][N]: marks that are set, and what agents know in at most four numbers that change over the episode."""
    steps, agents = shape
    shown = {name: mark for name, mark in marks.items() if name != "frozen"}
    for name, values in extras.items():
        if name != "ready" and values.ndim == 3 and values.shape[-1] <= 4 and np.any(values != values[0]):
            shown[name] = values
    return [
        ["  ".join(_note(name, x[t, i]) for name, x in shown.items() if np.any(x[t, i])) for i in range(agents)]
        for t in range(steps)
    ]


def _note(name: str, value: np.ndarray) -> str:
    return name if value.dtype == bool else f"{name} {short(value).strip('[] ')}"


@lru_cache
def _font(bold: bool = False) -> Any:
    """The sans serif that comes with matplotlib."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", 13)
