"""Pictures against the states they show, and episodes against the files they become."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from marl_suite.envs import InputError, make
from marl_suite.envs.grid import drawing
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.state import GridState, ZapParams
from marl_suite.envs.grid.world import GridWorld
from marl_suite.experiments import playback, render, run
from marl_suite.experiments.playthrough import fingerprint, short, transcript
from marl_suite.experiments.suites import from_table

CELL = 24
FLOOR, WALL, SEED, ZAP = (200, 200, 200), (0, 0, 0), (255, 0, 0), (0, 255, 0)


@dataclasses.dataclass(frozen=True)
class Meadow(GridWorld):
    """Agents that may zap and be frozen, and seeds that do nothing."""

    name: str = "meadow"
    num_agents: int = 3
    beams = (Beam("zap", 2, 0),)
    legend: ClassVar = {**GridWorld.legend, "S": "seed"}
    tiles: ClassVar = {**GridWorld.tiles, "seed": "S"}
    colours: ClassVar = {"floor": "#c8c8c8", "wall": "#000000", "seed": "#ff0000", "zap": "#00ff00"}
    freezes = True

    @property
    def own_map(self) -> str:
        return "#####\n#P.S#\n#P.P#\n#####"

    @property
    def default_params(self) -> Any:
        return ZapParams()

    def begin(self, key, base, params) -> Any:
        return GridState(**base)

    def tile_plane(self, state) -> Any:
        return np.select([self.grid.plane("#"), self.grid.plane("S")], [2, 3], 1).astype(np.uint8)

    def rules(self, key, state, events, params) -> Any:
        return state, jnp.zeros(self.num_agents), {}


ENV = Meadow()


def state_of(headings=(0, 0, 0), **changes) -> Any:
    fields = {"position": [(1, 1), (2, 1), (2, 3)], "heading": headings, "timers": np.zeros((3, 1)), **changes}
    zeros = {"timeout": np.zeros(3), "frozen": np.zeros(3), "beam": np.zeros((4, 5)), "time": 0, "end": 9}
    arrays: Any = {name: np.asarray(value, np.int32) for name, value in (zeros | fields).items()}
    return GridState(**arrays)


def cell_of(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """A cell without the fine line between it and the next."""
    return picture[row * CELL : (row + 1) * CELL - 1, column * CELL : (column + 1) * CELL - 1]


# ---------------------------------------------------------------------- pictures
def test_ground_fills_its_cell_and_things_lie_on_the_floor():
    picture = drawing.draw(ENV, state_of(), CELL)
    assert picture.shape == (4 * CELL, 5 * CELL, 3) and picture.dtype == np.uint8
    assert np.all(cell_of(picture, 0, 0) == WALL) and np.all(cell_of(picture, 1, 2) == FLOOR)
    seed = cell_of(picture, 1, 3)
    assert tuple(seed[12, 12]) == SEED and tuple(seed[0, 0]) == FLOOR
    share = np.all(seed == SEED, axis=-1).mean()
    assert abs(share - np.pi * (0.36 - 0.055) ** 2) < 0.04  # a disc within its rim


def test_shapes_and_the_ground_below_them_can_be_chosen():
    class Other(Meadow):
        shapes: ClassVar = {"seed": "diamond on wall"}

    class Full(Meadow):
        shapes: ClassVar = {"seed": "square"}

    diamond = cell_of(drawing.draw(Other(), state_of(), CELL), 1, 3)
    assert tuple(diamond[12, 12]) == SEED and tuple(diamond[4, 4]) == WALL and tuple(diamond[12, 3]) != WALL
    assert np.all(cell_of(drawing.draw(Full(), state_of(), CELL), 1, 3) == SEED)


@pytest.mark.parametrize("heading", range(4))
def test_avatars_point_where_they_head(heading):
    cell = cell_of(drawing.draw(ENV, state_of((heading, 0, 0)), CELL), 1, 1)
    upright = np.rot90(cell[1:, 1:], heading)  # counter-clockwise: an agent that looks east points up again
    painted = np.any(upright != FLOOR, axis=-1)
    assert 0 < painted[:6].sum() < 0.6 * painted[-6:].sum()
    colours = {tuple(pixel) for pixel in cell.reshape(-1, 3).tolist()}
    assert tuple(drawing.hex_rgb(drawing.AGENT_COLOURS[0])) in colours


def test_agents_differ_and_those_who_are_out_are_not_drawn():
    picture = drawing.draw(ENV, state_of(timeout=[0, 4, 0]), CELL)
    assert np.all(cell_of(picture, 2, 1) == FLOOR)
    assert np.any(cell_of(picture, 1, 1) != cell_of(picture, 2, 3))


def test_the_frozen_are_framed_and_pale():
    plain, frozen = (cell_of(drawing.draw(ENV, state_of(frozen=[n, 0, 0]), CELL), 1, 1) for n in (0, 3))
    ice = drawing.hex_rgb(drawing.FROZEN)
    assert np.all(frozen[0, :8] == ice) and np.all(frozen[:, 0] == ice) and np.all(plain[0, :8] == FLOOR)
    assert [[153, 199, 224] in cell.reshape(-1, 3).tolist() for cell in (plain, frozen)] == [False, True]


def test_a_beam_is_a_wash_that_lets_through_what_lies_below():
    beam = np.zeros((4, 5))
    beam[1, 2:4] = 1
    picture = drawing.draw(ENV, state_of(beam=beam), CELL)
    washed = 0.4 * np.array(FLOOR) + 0.6 * np.array(ZAP)
    assert np.all(cell_of(picture, 1, 2) == washed)
    assert tuple(cell_of(picture, 1, 3)[12, 12]) == tuple(0.4 * np.array(SEED) + 0.6 * np.array(ZAP))


def test_cells_are_framed_in_the_colour_of_their_owner_who_may_have_one_of_its_own():
    class Claimed(Meadow):
        colours: ClassVar = {**Meadow.colours, "agent 2": "#123456"}

        def owners(self, state) -> Any:
            return np.array([[0] * 5, [0, 0, 2, 3, 0], [0] * 5, [0] * 5], np.uint8)

    picture = drawing.draw(Claimed(), state_of(), CELL)
    assert np.all(cell_of(picture, 1, 2)[0] == drawing.hex_rgb(drawing.AGENT_COLOURS[1]))
    assert np.all(cell_of(picture, 1, 2)[8:16, 8:16] == FLOOR)
    assert tuple(cell_of(picture, 1, 3)[0, 5]) == (0x12, 0x34, 0x56) and tuple(cell_of(picture, 1, 3)[12, 12]) == SEED
    assert (0x12, 0x34, 0x56) in {tuple(pixel) for pixel in cell_of(picture, 2, 3).reshape(-1, 3).tolist()}


@pytest.mark.parametrize(("agent", "pixels"), [(1, 8), (11, 16), (14, 8 + 9)])
def test_avatars_are_numbered(agent, pixels):
    cell = np.full((CELL, CELL, 3), 255.0)
    drawing.avatar(ENV, cell, agent)
    unnumbered = np.full((CELL, CELL, 3), 255.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_write", lambda picture, *_: picture)
        drawing.avatar(ENV, unnumbered, agent)
    assert np.any(cell != unnumbered, axis=-1).sum() == 4 * pixels  # a dot of a digit is two by two


def test_a_tile_without_a_colour_an_unknown_shape_and_tiny_cells_are_refused():
    class Round(Meadow):
        shapes: ClassVar = {"seed": "disk"}

    class Bare(Meadow):
        colours = GridWorld.colours

    with pytest.raises(InputError, match="meadow has no colour for 'seed'; add it to `colours`"):
        drawing.draw(Bare(), state_of())
    with pytest.raises(InputError, match=r"shape of 'seed' must be one of .* got 'disk'; closest: 'disc'"):
        drawing.draw(Round(), state_of())
    with pytest.raises(InputError, match="cell must be at least 8, got 4"):
        drawing.draw(ENV, state_of(), cell=4)


# ---------------------------------------------------------------------- episodes
def test_players_take_the_seats_in_turn_and_an_episode_ends_with_the_game():
    env, params, cast = playback.choose(
        "public_goods", "always_cooperate,always_defect", {"num_agents": 5}, {"max_steps": 6}
    )
    assert cast.seats == ("always_cooperate", "always_defect") * 2 + ("always_cooperate",)
    episode = playback.play(env, params, cast, seed=0, steps=50)
    assert episode.length == 6 and episode.ended and len(jax.tree.leaves(episode.states)[0]) == 7
    assert np.all(episode.actions == [0, 1, 0, 1, 0]) and episode.payoffs.shape == (6, 5)
    assert not playback.play(env, params, cast, seed=0, steps=5).ended


def test_a_longer_episode_begins_as_the_shorter_one():
    env, params, cast = playback.choose("coin_game", "random", {}, {})
    short_, long = (playback.play(env, params, cast, 3, steps) for steps in (4, 9))
    np.testing.assert_array_equal(short_.actions, long.actions[:4])
    np.testing.assert_array_equal(short_.states.coins, long.states.coins[:5])


@pytest.mark.parametrize("suffix", ["", ".gif"])
def test_pictures_show_every_state_once(tmp_path, suffix):
    out = tmp_path / f"episode{suffix}"
    said = render.render("coins", "own_colour,random", out, steps=5, seed=1, fps=4, cell=16)
    assert said.startswith(f"{out}: 5 steps") and [path.name for path in tmp_path.iterdir()] == [out.name]
    if suffix:
        with Image.open(out) as gif:
            assert getattr(gif, "n_frames", 1) == 6 and gif.info["duration"] == 250 and gif.info["loop"] == 0
            size = gif.size
    else:
        names = sorted(path.name for path in out.iterdir())
        assert names == [f"frame_{i:04d}.png" for i in range(6)]
        size = Image.open(out / names[0]).size
    height, width = make("coins").grid.shape  # pyright: ignore[reportAttributeAccessIssue]
    assert size[0] > 16 * width + 150 and size[1] >= 16 * height and not (size[0] % 2 or size[1] % 2)


def test_any_game_can_be_written_as_text(tmp_path):
    out = tmp_path / "deep" / "pd.txt"
    render.render("prisoners_dilemma", "always_cooperate,always_defect", out, steps=3)
    text = out.read_text()
    assert (
        "step 3: cooperate defect" in text
        and "payoffs [-3 0]" in text
        and text.endswith("cut after 3 steps; returns [-9 0]\n")
    )


def test_stored_policies_play_with_others(tmp_path):
    games = [{"id": "prisoners_dilemma", "params": {"max_steps": 4}}, {"id": "stag_hunt"}, {"id": "chicken"}]
    suite = {"steps": 40, "seeds": 1, "chunks": 1, "episodes": 2, "best_response": 0}
    rows = {"always_defect": ("prisoners_dilemma", "stag_hunt"), "always_cooperate": ("stag_hunt",)}
    for baseline, names in rows.items():
        environments = [game for game in games if game["id"] in names]
        run.sweep(from_table(suite | {"environments": environments, "baselines": [{"id": baseline}]}), tmp_path)
    env, params, cast = playback.choose("prisoners_dilemma", f"{tmp_path},always_cooperate", {}, {})
    episode = playback.play(env, params, cast, 0, 9)
    assert cast.seats == (str(tmp_path), "always_cooperate") and episode.length == 4
    assert np.all(episode.actions == [1, 0])
    with pytest.raises(InputError, match="was trained in prisoners_dilemma with one_shot=False, not one_shot=True"):
        playback.choose("prisoners_dilemma", str(tmp_path), {"one_shot": True}, {})
    cell = next((tmp_path / "cells").glob("prisoners_dilemma*"))
    assert playback.choose("prisoners_dilemma", str(cell), {}, {})[0] == env
    with pytest.raises(InputError, match="holds no policies of chicken, but of prisoners_dilemma"):
        playback.choose("chicken", str(cell), {}, {})
    for environment, message in {
        "chicken": "holds no policies of chicken, but of prisoners_dilemma, stag_hunt",
        "stag_hunt": "holds 2 policies of stag_hunt; name one, as in .*/cells/stag_hunt",
    }.items():
        with pytest.raises(InputError, match=message):
            playback.choose(environment, str(tmp_path), {}, {})


@pytest.mark.parametrize(
    ("environment", "policy", "out", "changes", "message"),
    [
        (
            "coins",
            "random",
            "x.gff",
            {},
            "cannot write 'x.gff'; use .gif, .mp4, .txt, or no suffix .* closest: 'x.gif'",
        ),
        ("coins", "random", "x.png", {}, "no suffix for a folder of PNG files; closest: 'x'"),
        ("coins", "own_color", "x.gif", {}, "unknown scripted player of coins.* did you mean 'own_colour'"),
        ("coins", "random", "x.gif", {"steps": 0}, "steps must be at least 1, got 0"),
        ("coins", "random", "x.gif", {"fps": 0}, "fps must be at least 0.1, got 0"),
        ("coins", "random", "x.gif", {"fps": 60}, "fps must be at most 50, got 60"),
        ("coins", "random", "x.gif", {"cell": 4}, "cell must be at least 8, got 4"),
        ("coin_game", "random", "x.gif", {}, "coin_game is not a grid world.* write text, as in --out x.txt, or draw"),
        ("coin", "random", "x.gif", {}, "unknown environment 'coin'"),
        ("coins", "random", "tests", {}, "'tests' is there already; name a new folder"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_played(environment, policy, out, changes, message, monkeypatch):
    monkeypatch.setattr(render, "play", lambda *_: pytest.fail("it was played"))
    with pytest.raises(InputError, match=message):
        render.render(environment, policy, render.Path(out), **changes)


def test_videos_need_ffmpeg_and_say_so(monkeypatch):
    monkeypatch.setattr(render.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"writing x\.mp4 needs ffmpeg, which is not installed; x\.gif does not"):
        render.render("coins", "random", render.Path("x.mp4"))


@pytest.mark.parametrize("fails", [False, True])
def test_videos_are_piped_to_ffmpeg_frame_by_frame(tmp_path, monkeypatch, fails):
    tool = tmp_path / "bin" / "ffmpeg"
    tool.parent.mkdir()
    ending = "echo no such codec >&2; exit 1" if fails else 'for out; do :; done; echo "$*" > "$out"; wc -c >> "$out"'
    tool.write_text(f"#!/bin/sh\n{ending}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    out = tmp_path / "videos" / "x.mp4"
    if fails:
        with pytest.raises(InputError, match=r"ffmpeg could not write .*: no such codec"):
            render.render("coins", "own_colour,random", out, steps=5)
        assert not list(out.parent.iterdir())
        return
    render.render("coins", "own_colour,random", out, steps=5, fps=12)
    said, count = out.read_text().splitlines()
    width, height = map(int, said.split(" -s ")[1].split()[0].split("x"))
    assert (
        int(count) == 6 * width * height * 3
        and "-r 12 " in said
        and [p.name for p in out.parent.iterdir()] == ["x.mp4"]
    )


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path):
    with pytest.raises(OSError), render._appearing(tmp_path / "x.gif") as path:
        path.write_text("half")
        raise OSError
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- text
def test_text_hides_the_last_digits_of_floats_and_shows_whole_numbers():
    assert short(np.float32(0.1) + np.float32(0.2)) == "0.3" and short(np.array([1e-9, -1e-9, 2.5])) == "[0 0 2.5]"
    assert short(np.array([[1, 20], [3, 4]])) == "[[ 1 20] [ 3 4]]" and short(True) == "True"


def test_a_fingerprint_changes_with_whole_numbers_and_truth_values_only():
    state = {"level": np.float32(0.5), "count": np.int32(3), "open": np.array([True, False])}
    assert fingerprint(state) == fingerprint(state | {"level": np.float32(0.6)})
    others = [state | {"count": np.int32(4)}, state | {"open": np.array([False, True])}]
    assert len({fingerprint(other) for other in [state, *others]}) == 3


def test_a_transcript_leaps_from_the_steps_shown_to_the_last():
    env, params, cast = playback.choose("coin_game", "random", {}, {})
    text = "\n".join(transcript(env, playback.play(env, params, cast, 3, 9), every=2, shown=4))
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("step")] == [
        *(f"step {t}" for t in (1, 2, 3, 4, 9))
    ]
    assert text.count("| time") == 4  # the first, those of steps 2 and 4, and the last
