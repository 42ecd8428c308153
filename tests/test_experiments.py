"""Running suites: nothing finished is lost or run again, and what is shown is what was stored."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import marl_suite
from marl_suite.envs.errors import InputError
from marl_suite.experiments import replay, results, run, store, tables
from marl_suite.experiments.plots import learning_curves
from marl_suite.experiments.suites import from_table
from marl_suite.stored_policies import read

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "steps": 320,
    "seeds": 3,
    "chunks": 4,
    "episodes": 4,
    "best_response": 0,
    "environments": [{"id": "prisoners_dilemma", "params": {"max_steps": 5}}, {"id": "matching_pennies"}],
    "baselines": [
        {"id": "ippo", "set": {"num_envs": 4, "rollout_length": 5, "hidden_sizes": [8], "minibatches": 2}},
        {"id": "always_defect"},
    ],
}


def run_tiny(root: Path) -> list[str]:
    lines: list[str] = []
    run.sweep(from_table(TINY), root, log=lines.append)
    return lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    run_tiny(root)
    return root


def test_every_cell_holds_its_configuration_manifest_curves_summary_and_policy(finished):
    cells = [cell for cell in from_table(TINY) if not cell.impossible]
    assert len(cells) == 3
    for cell in cells:
        folder = store.CellFolder(finished, cell.id)
        names = {path.name for path in folder.final.iterdir()}
        assert names == {"configuration.json", "manifest.json", "curves.csv", "summary.json", "policy.npz"}
        manifest = folder.read("manifest.json")
        assert manifest["versions"]["jax"] == jax.__version__
        assert manifest["environment_version"] == cell.game.version
        assert folder.read("configuration.json")["set"] == cell.specification["set"]
    assert not list(finished.rglob("*.partial"))


def test_finished_cells_are_never_run_again(finished):
    before = {path: path.stat().st_mtime_ns for path in (finished / "cells").rglob("*") if path.is_file()}
    lines = run_tiny(finished)
    assert sum("already finished" in line for line in lines) == 3
    assert not any("started" in line or "resumed" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_scripted_players_have_no_curve_and_their_known_return(finished):
    control = from_table(TINY)[1]
    folder = store.CellFolder(finished, control.id)
    assert (folder.final / "curves.csv").read_text().count("\n") == 1
    summary = folder.read("summary.json")
    assert summary["env_steps"] == 0
    assert summary["evaluations"]["self_play"]["return"] == [-10.0] * 3  # mutual defection, -2 for 5 steps
    assert summary["evaluations"]["always_defect"]["partner_per_step"] == [-2.0] * 3
    assert "best_response" not in summary["evaluations"], "what does not learn is known anyway"


def test_the_budget_is_rounded_up_to_whole_chunks_and_reported(finished):
    summary = store.CellFolder(finished, from_table(TINY)[0].id).read("summary.json")
    assert summary["env_steps"] == 320  # 16 updates of 4 x 5 steps, four to a chunk


def test_the_tidy_table_has_a_row_per_seed_metric_and_agent(finished):
    with open(finished / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == results.RESULT_COLUMNS
    names = {entry["id"]: entry["cell"] for entry in json.loads((finished / "sweep.json").read_text())}
    learner = from_table(TINY)[0].id
    mine = [row for row in rows if row["cell"] == names[learner]]
    alone = [row for row in mine if row["evaluation"] == "self_play"]
    assert sum(row["metric"] == "return" for row in alone) == 3
    assert {(row["seed"], row["agent"]) for row in alone if row["metric"] == "agent_return"} == {
        (str(seed), str(agent)) for seed in range(3) for agent in range(2)
    }
    for evaluation, metrics in store.CellFolder(finished, learner).read("summary.json")["evaluations"].items():
        for metric, values in metrics.items():
            found = [row["value"] for row in mine if (row["evaluation"], row["metric"]) == (evaluation, metric)]
            wanted = ["" if value is None else np.float32(value) for value in np.ravel(np.array(values, object))]
            assert [text and np.float32(text) for text in found] == wanted


def test_the_files_at_the_root_say_what_tables_and_figures_show(finished, tmp_path):
    for name in ("sweep.json", "results.csv", "curves.csv"):
        shutil.copy(finished / name, tmp_path)
    for make in (tables.make_table, tables.make_robustness):
        assert make(tmp_path) == make(finished)
    assert learning_curves(tmp_path).read_bytes() == learning_curves(finished).read_bytes()
    (tmp_path / "curves.csv").unlink()
    with pytest.raises(InputError, match=r"cannot read .*curves\.csv"):
        tables.make_table(tmp_path)


def test_a_suites_stored_results_are_found_by_its_name_unless_a_folder_is_called_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (results.stored("commons") / "sweep.json").is_file()
    assert results.stored("nowhere") == Path("nowhere")
    (tmp_path / "commons").mkdir()
    assert results.stored("commons") == Path("commons")


def test_the_curves_are_the_cells_headline_metrics(finished):
    cell = from_table(TINY)[0]
    with open(store.CellFolder(finished, cell.id).final / "curves.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "return_per_step"]
    (_, (steps, values)) = next(item for item in results.read(finished).curves.items() if item[0] == cell.id[-8:])
    assert steps.tolist() == [80, 160, 240, 320] and values.shape == (3, 4)
    assert {(row["seed"], row["env_steps"]): np.float32(row["value"]) for row in rows} == {
        (str(seed), str(step)): np.float32(values[seed, k]) for seed in range(3) for k, step in enumerate(steps)
    }


def test_one_manifest_says_what_all_cells_were_made_with_and_what_each_was(finished, tmp_path):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    cells = [cell for cell in from_table(TINY) if not cell.impossible]
    assert list(manifest["cells"]) == [cell.id[-8:] for cell in cells]
    for cell in cells:
        facts = manifest["cells"][cell.id[-8:]]
        assert facts["configuration"] == json.loads(json.dumps(cell.specification))
        assert facts["env_steps_per_seed"] == (320 if cell.learns else 0) and "versions" not in facts
    other = tmp_path / "two machines"
    shutil.copytree(finished, other)
    path = store.CellFolder(other, cells[1].id).final / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"git_commit": "another"}))
    results.Writer(other).write()
    manifest = json.loads((other / "manifest.json").read_text())
    assert "git_commit" not in manifest, "what differs is said of each cell"
    assert [facts["git_commit"] == "another" for facts in manifest["cells"].values()] == [False, True, False]


def test_tables_show_iqm_and_interval_and_say_why_a_pair_has_none(finished):
    table = tables.make_table(finished)
    assert table.rows[1][:2] == ["prisoners_dilemma", "always_defect"]
    assert table.rows[1][2:4] == ["-10.00 [-10.00, -10.00]", "-2.000 [-2.000, -2.000]"]
    assert "equality" not in table.headings  # undefined for negative returns
    assert table.rows[1][table.headings.index("heads")] == "–"
    assert set(table.rows[3][2:]) == {"–"} and "no scripted player" in table.notes[0]
    lines = tables.markdown(table).splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert tables.latex(table).count(r"\\") == 5 and r"prisoners\_dilemma" in tables.latex(table)
    assert list(csv.reader(tables.comma_separated(table).splitlines()))[1:] == table.rows


def test_the_robustness_table_shows_both_sides_with_every_partner(finished):
    table = tables.make_robustness(finished)
    assert [row[:2] for row in table.rows] == [["prisoners_dilemma", "ippo"], ["prisoners_dilemma", "always_defect"]]
    players = sorted(marl_suite.make("prisoners_dilemma").players)
    assert table.headings[2:] == ["self", "another seed", *(name.replace("_", " ") for name in players)]
    control = dict(zip(table.headings, table.rows[1], strict=True))
    assert control["self"] == "-2.000" and control["another seed"] == "–"
    assert control["always cooperate"] == "0.000 / -3.000" and control["always defect"] == "-2.000 / -2.000"
    assert control["tit for tat"] == "-1.600 / -2.200"  # 0, then -2 four times; -3, then -2
    full = tables.make_robustness(finished, intervals=True).rows[1]
    assert full[table.headings.index("always cooperate")] == "0.000 [0.000, 0.000] / -3.000 [-3.000, -3.000]"


def test_learners_of_a_shared_reward_stand_in_a_block_of_their_own_and_published_values_beside_ours(tmp_path):
    rows = [{"id": "random", "label": "team", "set": {"reward_view": "team"}}, {"id": "always_cooperate"}]
    games: list[dict] = [
        {"id": "stag_hunt", "published": {"team": "3.1"}, "source": "A. Author (1999)"},
        {"id": "chicken"},
    ]
    run.sweep(from_table({**TINY, "environments": games, "baselines": rows}), tmp_path, log=lambda line: None)
    table = tables.make_table(tmp_path)
    assert [row[1] for row in table.rows] == ["always_cooperate"] * 2 + ["team"] * 2
    own, team = table.blocks()
    assert own == (tables.BLOCKS[False], table.rows[:2]) and team == (tables.BLOCKS[True], table.rows[2:])
    assert table.headings[-1] == "published return" and [row[-1] for row in table.rows] == ["–", "–", "3.1", "–"]
    assert table.notes == ["stag_hunt, published return: A. Author (1999)"]
    text = tables.markdown(table)
    assert text.index(own[0]) < text.index("always_cooperate") < text.index(team[0]) < text.index("| team |")
    assert text.count("| environment |") == 2
    assert tables.latex(table).count(r"\multicolumn") == 2 and tables.latex(table).count(r"\midrule") == 2
    read = list(csv.reader(tables.comma_separated(table).splitlines()))
    assert read[0] == ["block", *table.headings] and read[1:] == [[title, *r] for title, rs in (own, team) for r in rs]
    assert [title for title, _ in tables.make_robustness(tmp_path).blocks()] == list(tables.BLOCKS.values())


def test_wide_tables_are_told_game_by_game(finished, monkeypatch):
    for make in (tables.make_table, tables.make_robustness):
        assert tables.by_game(make, finished) == [make(finished)]
    monkeypatch.setattr(tables, "MOST_COLUMNS", 5)
    games = [entry["environment"] for entry in store.read_sweep(finished)]
    for make in (tables.make_table, tables.make_robustness):
        whole = make(finished)
        parts = tables.by_game(make, finished)
        assert sorted(row[:2] for part in parts for row in part.rows) == sorted(row[:2] for row in whole.rows)
        for part in parts:
            assert len({row[0] for row in part.rows}) == 1 and set(part.headings) <= set(whole.headings)
    assert len(tables.by_game(tables.make_table, finished)) == len(set(games))


def test_rows_and_columns_can_be_chosen(finished):
    chosen = tables.only(finished, ["matching_pennies", "ippo"])
    assert [row[:2] for row in tables.make_table(chosen).rows] == [["matching_pennies", "ippo"]]
    whole = tables.make_table(finished)
    few = tables.pick(whole, ["heads", "return_per_step"])
    assert few.headings == ["environment", "baseline", "heads", "return per step"] and few.notes == whole.notes
    assert [row[3] for row in few.rows] == [row[whole.headings.index("return per step")] for row in whole.rows]
    assert tables.pick(whole, []) == whole
    with pytest.raises(InputError, match="did you mean 'ippo'"):
        tables.only(finished, ["ipo"])
    with pytest.raises(InputError, match="did you mean 'heads'"):
        tables.pick(whole, ["head"])
    points = tables.make_table(finished, intervals=False)
    assert [[cell.split(" [")[0] for cell in row] for row in whole.rows] == points.rows


def test_published_numbers_stand_beside_means_and_deviations_over_seeds(finished, tmp_path):
    for name in ("sweep.json", "results.csv", "curves.csv"):
        shutil.copy(finished / name, tmp_path)
    with pytest.raises(InputError, match=r"published\.csv"):
        tables.make_published(tmp_path)
    cells = [("ippo", "return_per_step"), ("always_defect", "return_per_step"), ("always_defect", "none")]
    rows = [f"prisoners_dilemma,{label},self_play,{metric},per step,-2,A. Author" for label, metric in cells]
    (tmp_path / "published.csv").write_text("\n".join([",".join(tables.PUBLISHED_COLUMNS), *rows]))
    table = tables.make_published(tmp_path)
    values = results.read(tmp_path).scores[from_table(TINY)[0].id[-8:]]["self_play", "return_per_step"]
    assert table.rows[0][2:] == ["per step", "-2", f"{values.mean():.3f} ({values.std(ddof=1):.3f})", "A. Author"]
    assert [row[4] for row in table.rows[1:]] == ["-2.000 (0.000)", "–"]


def test_the_figure_is_drawn_the_same_each_time(finished, tmp_path):
    path = learning_curves(finished)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert learning_curves(finished, tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_stored_policies_play_as_they_did(finished):
    cell = from_table(TINY)[0]
    policies = read(store.CellFolder(finished, cell.id).final / "policy.npz")
    again = run._evaluate(cell, replay.as_learner(policies), policies.policies)
    stored = store.CellFolder(finished, cell.id).read("summary.json")["evaluations"]
    np.testing.assert_array_equal(again["self_play"]["return"], np.float32(stored["self_play"]["return"]))
    text = replay.evaluate_stored(finished, against="always_defect", episodes=4)
    assert text.count("\n") == 5 and "-2.000" in text
    with pytest.raises(InputError, match="did you mean 'always_defect'"):
        replay.evaluate_stored(finished, against="always_defekt")
    alone = replay.evaluate_stored(store.CellFolder(finished, cell.id).final, episodes=4)  # a run of one cell
    assert alone.count("\n") == 3 and cell.label in alone
    with pytest.raises(InputError, match="no stored policy in"):
        replay.evaluate_stored(finished / "nowhere")


def test_a_checkpointed_cell_resumes_to_the_same_result(finished, tmp_path, monkeypatch):
    cell = from_table(TINY)[0]
    folder = store.CellFolder(tmp_path, cell.id)
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)

    def stop_after_two(_, chunk):
        if chunk.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run_cell(cell, folder, stop_after_two)
    assert folder.checkpoint.exists() and not folder.finished
    seen: list[int] = []
    run.run_cell(cell, folder, lambda _, chunk: seen.append(chunk.number))
    assert seen == [3, 4]
    for name in ("summary.json", "curves.csv", "configuration.json"):
        whole = store.CellFolder(finished, cell.id).final / name
        assert (folder.final / name).read_text() == whole.read_text()


def test_a_sweep_killed_in_the_middle_ends_with_the_same_table(finished, tmp_path):
    suite, root = tmp_path / "tiny.toml", tmp_path / "out"
    code = (
        "import json, pathlib; from marl_suite.experiments import run, suites\n"
        f"cells = suites.from_table(json.loads({json.dumps(TINY)!r}))\n"
        "run.CHECKPOINT_SECONDS = 0.0\n"
        "import time\n"
        f"run.sweep(cells[:2], pathlib.Path({str(root)!r}), report=lambda c, k: time.sleep(0.5))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    cell = from_table(TINY)[0]
    deadline = time.monotonic() + 120
    while not store.CellFolder(root, cell.id).checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not store.CellFolder(root, cell.id).finished
    lines = run_tiny(root)
    assert any("resumed" in line for line in lines), lines
    assert tables.make_table(root) == tables.make_table(finished)
    for name in ("results.csv", "curves.csv"):
        assert (root / name).read_text() == (finished / name).read_text()
    assert not suite.exists()


def test_two_processes_cannot_write_to_one_folder(tmp_path):
    with store.locked(tmp_path), pytest.raises(InputError, match="another run is writing"):
        run_tiny(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    store.write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_a_checkpoint_of_another_structure_is_refused(tmp_path):
    store.save_tree(tmp_path / "a.npz", {"x": np.zeros(3)})
    with pytest.raises(InputError, match="holds 1 arrays where 2"):
        store.load_tree(tmp_path / "a.npz", {"x": np.zeros(3), "y": np.zeros(3)})
    with pytest.raises(InputError, match="is needed"):
        store.load_tree(tmp_path / "a.npz", {"x": np.zeros(4)})


def test_the_python_api_gives_arrays_and_the_sweeps_numbers(finished):
    settings = {**TINY["baselines"][0]["set"], "hidden_sizes": (8,)}
    result = marl_suite.train(
        "prisoners_dilemma", "ippo", seeds=3, steps=320, params={"max_steps": 5}, chunks=4, episodes=4, **settings
    )
    assert result["return"].shape == (3,) and result["agent_return"].shape == (3, 2)
    partners = {"another_seed", *marl_suite.make("prisoners_dilemma").players, "best_response"}
    assert partners < set(result.evaluations), "a policy of a mixed-motive game is never shown alone"
    assert all(result.evaluations[name]["partner_per_step"].shape == (3,) for name in partners)
    stored = store.CellFolder(finished, from_table(TINY)[0].id).read("summary.json")["evaluations"]["self_play"]
    np.testing.assert_allclose(result["return"], stored["return"], rtol=1e-6)
    with pytest.raises(InputError, match="no scripted player"):
        marl_suite.train("matching_pennies", "always_defect")
