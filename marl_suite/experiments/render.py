"""Episodes to look at: played on the device, drawn off it, written as pictures or as text."""

import contextlib
import difflib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from marl_suite.envs.environment import at_least, at_most
from marl_suite.envs.errors import InputError
from marl_suite.envs.grid.board import Board
from marl_suite.envs.registry import working
from marl_suite.experiments.panel import Pictures
from marl_suite.experiments.playback import choose, play
from marl_suite.experiments.playthrough import transcript
from marl_suite.experiments.store import write_atomically


def render(
    environment: str,
    policy: str,
    out: Path,
    steps: int = 200,
    seed: int = 0,
    fps: float = 8,
    cell: int = 0,
    greedy: bool = False,
    env: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
) -> str:
    """Plays one episode and writes it to `out`: a .gif, .mp4 or .txt file or, without a suffix, a folder of PNG files.

    Args:
        environment: a registered name; a grid world for anything but text.
        policy: a scripted player of the game or a results folder; several, separated by commas, take the seats in turn.
        out: the file or folder.
        steps: after which the episode is cut.
        seed: of the episode.
        fps: frames per second.
        cell: pixels to a cell's side; 0 for 24, and up to 48 on small maps.
        greedy: stored policies play their modes instead of samples.
        env: static settings; those of the results folder where none are given.
        params: traced parameters, likewise.

    Returns:
        a line that says what was written.

    Raises:
        InputError: for whatever cannot be played or written, before anything is compiled.
    """
    writer = _writer(out)
    for what, value, least in (("steps", steps, 1), ("fps", fps, 0.1), ("cell", cell or 8, 8)):
        at_least(what, value, least)
    at_most("fps", fps, 50)
    game, parameters, cast = choose(environment, policy, env or {}, params or {}, greedy)
    title = f"{environment}  ·  {', '.join(dict.fromkeys(cast.seats))}  ·  seed {seed}"
    out.parent.mkdir(parents=True, exist_ok=True)
    if writer is None:
        episode = play(game, parameters, cast, seed, steps)
        write_atomically(out, "\n".join([title, "", *transcript(game, episode), ""]))
    elif isinstance(game, Board):
        episode = play(game, parameters, cast, seed, steps)
        writer(Pictures(game, episode, cast, parameters, title, cell), out, fps)
    else:
        raise InputError(
            f"{environment} is not a grid world, so there is nothing to draw; write text, as in --out {out.stem}.txt, "
            f"or draw another, as {', '.join(_some_grid_worlds())}"
        )
    returns = " ".join(f"{value:g}" for value in episode.payoffs.sum(axis=0))
    return f"{out}: {episode.length} steps, returns {returns}"


def _some_grid_worlds() -> list[str]:
    return [name for name, game in working().items() if isinstance(game, Board)][:4]


def _writer(out: Path) -> Callable[[Pictures, Path, float], None] | None:
    """What writes pictures to a file of this suffix; None for text."""
    if out.suffix not in _WRITERS:
        close = "" if out.suffix == ".png" else difflib.get_close_matches(out.suffix, list(_WRITERS), 1, cutoff=0.0)[0]
        raise InputError(
            f"cannot write {out.name!r}; use .gif, .mp4, .txt, or no suffix for a folder of PNG files; "
            f"closest: {str(out.with_suffix(close))!r}"
        )
    if out.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise InputError(f"writing {out} needs ffmpeg, which is not installed; {out.with_suffix('.gif')} does not")
    if not out.suffix and out.exists():
        raise InputError(f"{str(out)!r} is there already; name a new folder")
    return _WRITERS[out.suffix]


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A name to write to, which becomes `out` when all went well and goes away when not."""
    temporary = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True) if not temporary.is_dir() else shutil.rmtree(temporary)


def _gif(pictures: Pictures, out: Path, fps: float) -> None:
    """All frames share the colours of a few, so that nothing flickers and files stay small."""
    from PIL import Image

    sample = range(0, len(pictures), -(-len(pictures) // 6))
    palette = Image.new("RGB", (pictures.size[0], pictures.size[1] * len(sample)))
    for i, step in enumerate(sample):
        palette.paste(pictures[step], (0, i * pictures.size[1]))
    palette = palette.quantize(255, dither=Image.Dither.NONE)
    frames = (pictures[step].quantize(palette=palette, dither=Image.Dither.NONE) for step in range(1, len(pictures)))
    first = pictures[0].quantize(palette=palette, dither=Image.Dither.NONE)
    with _appearing(out) as path:
        first.save(path, save_all=True, append_images=frames, duration=round(1000 / fps), loop=0)


def _png(pictures: Pictures, out: Path, fps: float) -> None:
    with _appearing(out) as path:
        path.mkdir()
        for step in range(len(pictures)):
            pictures[step].save(path / f"frame_{step:04d}.png")


def _mp4(pictures: Pictures, out: Path, fps: float) -> None:
    size = f"{pictures.size[0]}x{pictures.size[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    with _appearing(out) as path:
        command = ["ffmpeg", "-y", "-loglevel", "error", *source, "-pix_fmt", "yuv420p", str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it says on its standard error what went wrong
                for step in range(len(pictures)):
                    process.stdin.write(pictures[step].tobytes())
            errors = process.communicate()[1].decode(errors="replace").split("\n")[0]
        if process.returncode:
            raise InputError(f"ffmpeg could not write {out}: {errors}")


_WRITERS: dict[str, Callable[[Pictures, Path, float], None] | None] = {
    ".gif": _gif,
    ".mp4": _mp4,
    ".txt": None,
    "": _png,
}
