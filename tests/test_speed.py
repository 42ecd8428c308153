"""The speed measurement: what is timed, in which order, and how it is shown. No test looks at how fast anything is."""

import csv
import io
import json
import sys

import jax
import numpy as np
import pytest

from marl_suite.benchmarks import speed
from marl_suite.envs import make
from marl_suite.envs.errors import InputError


@pytest.fixture(scope="module")
def rows():
    """A game and everything it is compared with, two environments of each."""
    return speed.measure(["prisoners_dilemma"], (2,), repeats=2, steps=3, training=False)


@pytest.fixture(scope="module")
def training_rows():
    return speed.measure(["prisoners_dilemma"], (), repeats=2, training=True, calibrate=False)


def of(rows, name):
    (row,) = (row for row in rows if row.environment == name)
    return row


def test_every_game_and_every_calibration_environment_has_a_row(rows):
    names = [row.environment for row in rows]
    assert names[:3] == [
        "prisoners_dilemma",
        "CartPole-v1 (gymnax)",
        "Breakout-MinAtar (gymnax)",
    ]
    assert [row.kind for row in rows[:3]] == ["stepping", "calibration", "calibration"]


def test_rates_are_positive_one_per_repeat_and_count_all_environments(rows):
    for row in rows:
        assert len(row.rates) == 2 and min(row.rates) > 0
        assert (row.num_envs, row.scan_length, row.steps) == (2, 3, 3 * 2)
        assert row.compile_seconds > 0 and row.first_update_seconds is None


def test_programs_take_turns_within_every_repeat(rows):
    count = len(rows)
    assert [row.order for row in rows] == [(i, count + i) for i in range(count)]


def test_turns_are_taken_in_the_order_that_is_recorded():
    calls = []
    row = speed.Row("x", "stepping", 1, 12, 12, 0, 0, "")

    def program(name, seconds):
        return speed._Timed(row, lambda: calls.append(name) or seconds)

    first, second = speed._time([program("a", 2.0), program("b", 3.0)], repeats=3)
    assert calls == ["a", "b"] * 3
    assert (first.order, second.order) == ((0, 2, 4), (1, 3, 5))
    assert (first.rates, second.rates) == ((6.0,) * 3, (4.0,) * 3)  # 12 steps in 2 and in 3 seconds


@pytest.mark.parametrize(
    ("name", "observation", "state"),
    [
        ("prisoners_dilemma", 2 * 5 * 4, 2 * 4 + 4),  # 2 agents x 5 float32; 2 int32 actions and an int32 clock
        ("CartPole-v1 (gymnax)", 4 * 4, 4 * 4 + 4),  # 4 float32, and the clock beside them
        ("Breakout-MinAtar (gymnax)", 10 * 10 * 4 * 4, None),  # float32 planes
    ],
)
def test_bytes_per_step_equal_a_hand_count(rows, name, observation, state):
    assert of(rows, name).observation_bytes == observation
    assert state is None or of(rows, name).state_bytes == state


def test_bytes_of_a_dictionary_of_observations_are_those_of_all_its_parts():
    def reset(key):
        return {"near": np.zeros((2, 3), np.uint8), "far": np.zeros((2, 2), np.float32)}, key

    facts = speed._facts(reset, 5, 3, 2)
    assert (facts["observation_bytes"], facts["state_bytes"]) == (2 * 3 + 2 * 2 * 4, 8)  # a key is two uint32
    assert (facts["num_envs"], facts["scan_length"], facts["steps"]) == (5, 3, 5 * 3 * 2)


def test_ratios_are_medians_of_ratios_within_a_repeat():
    def row(name, rates):
        return speed.Row(name, "stepping", 1, 1, 1, 0, 0, "", rates=rates)

    # The machine is twice as slow in the second repeat; the game is 3, 3 and 5 times as fast as CartPole.
    rows = [
        row("coin_game", (6.0, 3.0, 10.0)),
        row(speed.CARTPOLE, (2.0, 1.0, 2.0)),
        row(speed.JAXMARL, (1.0, 1.0, 1.0)),
        row(speed.BREAKOUT, (4.0, 4.0, 4.0)),
    ]
    game, cartpole, jaxmarl, _ = speed._with_ratios(rows)
    assert (game.to_cartpole, game.to_breakout, game.to_jaxmarl) == (3.0, 1.5, 6.0)
    assert (cartpole.to_cartpole, cartpole.to_jaxmarl) == (1.0, None)
    assert jaxmarl.to_cartpole == 0.5


def test_the_cartpole_row_is_its_own_reference(rows):
    assert of(rows, speed.CARTPOLE).to_cartpole == 1.0
    assert of(rows, "prisoners_dilemma").to_cartpole > 0
    assert of(rows, "prisoners_dilemma").to_jaxmarl is None


def test_jaxmarls_coin_game_is_timed_where_it_is_installed(rows):
    pytest.importorskip("jaxmarl")
    assert of(rows, speed.JAXMARL).to_cartpole > 0
    assert of(rows, speed.JAXMARL).observation_bytes == 2 * 36  # int8, flat


def test_without_jaxmarl_its_row_is_left_out_and_the_report_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    assert speed._jaxmarl_worlds() == []
    cartpole = speed.Row(speed.CARTPOLE, "calibration", 1, 1, 1, 16, 20, "m", rates=(1.0,))
    assert 'pip install "marl-suite[jaxmarl]"' in speed.report([cartpole])
    assert "pip install" not in speed.report(
        [cartpole, speed.Row(speed.JAXMARL, "x", 1, 1, 1, 0, 0, "m", rates=(1.0,))]
    )


def test_a_jaxmarl_that_replaces_stdout_and_stderr_on_import_has_them_put_back(monkeypatch, tmp_path):
    (tmp_path / "jaxmarl.py").write_text(
        "import io, sys, types\n"
        "sys.stdout, sys.stderr = io.StringIO(), io.StringIO()\n"
        "make = lambda name, **settings: types.SimpleNamespace(num_actions=5, num_agents=2, reset=None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    del sys.modules["jaxmarl"]  # so that it is imported now, and whatever was there comes back afterwards
    before = sys.stdout, sys.stderr
    (world,) = speed._jaxmarl_worlds()
    assert (sys.stdout, sys.stderr) == before
    assert world.action_space.n == 5 and world.action_axes == (2,)


def test_grid_stands_for_one_grid_world_of_each_kind_and_trains_both_encoders():
    names = speed._named("grid")
    assert {"clean_up", "coins", "commons_harvest_open", "prisoners_dilemma_in_the_matrix_arena"} <= set(names)
    assert not {"commons_harvest_closed", "coin_game", "prisoners_dilemma_in_the_matrix_repeated"} & set(names)
    configurations = speed._learners(make("coins"))
    assert {kind: c.encoder for kind, c in configurations.items()} == {
        "training small": "small",
        "training standard": "standard",
    }
    assert all(c.epochs == 2 and c.shared_trunk for c in configurations.values())


def test_commons_stands_for_the_games_without_a_map_that_small_groups_play():
    names = speed._named("commons")
    assert {"fishery", "trash", "bertrand_pricing", "negotiation", "donor_game"} <= set(names)
    assert not {"pasture", "congestion", "clean_up", "public_goods"} & set(names)
    assert speed._named("pasture") == ("pasture",)


def test_training_rows_count_the_steps_of_the_default_ippo(training_rows):
    (row,) = training_rows
    assert row.kind == "training" and row.num_envs == 128
    assert (row.scan_length, row.steps) == (50, 4 * 128 * 50)  # four updates of 50 steps in 128 environments
    assert len(row.rates) == 2 and min(row.rates) > 0
    assert row.first_update_seconds > 0 and row.compile_seconds is None
    assert row.observation_bytes == 40


@pytest.mark.parametrize("length", [1, 7])
def test_a_program_takes_as_many_steps_as_it_says_and_sums_what_it_sees(length):
    """Against a game that counts: observation and reward are both the number of steps since the start."""

    def step(key, state, action):
        return (state + 1, (state + 1) * (action >= 0)), state + 1

    world = speed._World("count", "stepping", lambda key: (0, 0), step, speed.Discrete(2), ())
    carry = jax.random.key(0), np.zeros(3, np.int32), np.zeros(3, np.float32)
    _, state, total = speed._scan(world, carry, length)
    assert state.tolist() == [length] * 3
    assert total.tolist() == [length * (length + 1)] * 3  # twice 1 + 2 + ... + length


@pytest.mark.parametrize("shape", [(500,), (250, 2)])
def test_random_actions_are_all_of_the_space(shape):
    actions = speed._random_actions(speed.Discrete(3), jax.random.key(1), shape)
    assert actions.shape == shape and set(np.unique(actions).tolist()) == {0, 1, 2}


def test_random_actions_of_a_box_have_its_shape_and_bounds():
    from marl_suite.envs.spaces import Box

    actions = speed._random_actions(Box(-1, 2, (4,)), jax.random.key(1), (250, 2))
    assert actions.shape == (250, 2, 4)
    assert actions.min() >= -1 and actions.max() <= 2 and actions.min() < -0.9 and actions.max() > 1.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environments": ["prisoners_dilemma", "prisoner_dilemma"]}, "did you mean 'prisoners_dilemma'"),
        ({"environments": ["coin_game"], "repeats": 0}, "repeats must be at least 1, got 0"),
        ({"environments": ["coin_game"], "num_envs": (4, 0)}, "num_envs must be at least 1, got 0"),
        ({"environments": ["coin_game"], "steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(arguments, message, monkeypatch):
    monkeypatch.setattr(speed, "_stepping", lambda *_: pytest.fail("compiled"))
    with pytest.raises(InputError, match=message):
        speed.measure(**arguments)


def test_the_report_is_a_table_with_a_cell_for_every_column(rows, training_rows):
    lines = speed.report([*rows, *training_rows]).splitlines()
    machine = rows[0].machine
    assert f"jax {jax.__version__}" in machine and jax.devices()[0].device_kind in machine and "cores" in machine
    assert lines[0].startswith(machine)
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(rows) + 1
    assert {line.count("|") for line in table} == {len(speed._COLUMNS) + 1}
    assert set(table[1]) <= set("|-: ")
    assert [line.split("|")[1].strip() for line in table[2:4]] == ["prisoners_dilemma", speed.CARTPOLE]


def test_csv_and_json_hold_what_was_measured(rows):
    lines = list(csv.DictReader(io.StringIO(speed.to_csv(rows))))
    assert [line["environment"] for line in lines] == [row.environment for row in rows]
    assert [tuple(map(float, line["rates"].split())) for line in lines] == [row.rates for row in rows]
    stored = json.loads(json.dumps([row.to_dict() for row in rows]))
    for row, line in zip(rows, stored, strict=True):
        assert line["min"] <= line["median"] <= line["max"]
        assert line["median"] == pytest.approx(sum(row.rates) / 2)  # of two
        assert line["spread"] == pytest.approx((max(row.rates) - min(row.rates)) / line["median"])
    assert speed.to_csv([]).strip() == ""
