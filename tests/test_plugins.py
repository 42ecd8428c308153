"""Environments, learners and reward views from outside: those of an installed package, and those of broken ones."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import marl_suite
from marl_suite import cli
from marl_suite.baselines import registry as baselines
from marl_suite.baselines.scripted import Scripted
from marl_suite.envs import InputError, make
from marl_suite.envs import registry as environments
from marl_suite.envs import reward_views as views
from marl_suite.envs.plugins import Registry
from marl_suite.envs.reward_views import Team, View
from marl_suite.envs.two_step_game import TwoStepGame

PACKAGE = Path(__file__).resolve().parent / "example_package"
SUITE = PACKAGE / "suite.toml"
LOWEST, HIGHEST, BONUS = 2, 5, 2  # of the suite's game


# ---------------------------------------------------------------------- a package, installed and swept
@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the example package, and nothing else, installed from its source without a network."""
    pytest.importorskip("pip")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*pip, "--target", str(folder), str(PACKAGE)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def python(installed: Path, *arguments: str) -> str:
    """What Python prints where the package is installed."""
    home = Path(marl_suite.__file__).parents[1]  # the checkout, or where the suite is installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(home), str(installed)])}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=installed, timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def swept(installed) -> Path:
    python(installed, "-m", "marl_suite", "sweep", str(SUITE), "--out", "runs")
    return installed / "runs"


def results(swept: Path, label: str, evaluation: str, metric: str) -> np.ndarray:
    """[S, ...] a metric of one row of the suite."""
    (cell,) = (cell["cell"] for cell in json.loads((swept / "sweep.json").read_text()) if cell["label"] == label)
    with (swept / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["cell"] == cell]
    wanted = [row for row in rows if (row["evaluation"], row["metric"]) == (evaluation, metric)]
    return np.array([float(row["value"]) for row in wanted]).reshape(2, -1)


@pytest.mark.slow
def test_in_ci_an_installed_package_is_listed_and_nothing_of_it_is_left_elsewhere(installed):
    listed = python(installed, "-m", "marl_suite", "list")
    for name, begins in [
        ("travellers_dilemma", "Traveller's dilemma: claiming a little less"),
        ("reinforce", "REINFORCE: every agent climbs"),
        ("quasi_maximin", "Own payoff, the worst-off's and the sum: r_i ="),
    ]:
        assert any(line.split()[0] == name and begins in line for line in listed.splitlines() if line.strip())
    assert "unusable" not in listed
    assert {path.name for path in PACKAGE.iterdir()} == {"pyproject.toml", "src", "suite.toml"}, (
        "nothing was built here"
    )
    assert "travellers_dilemma" not in environments.registered(), "and it is not installed in this process"


@pytest.mark.slow
def test_in_ci_honest_travellers_get_the_most_and_lose_by_it_to_one_that_undercuts(swept):
    np.testing.assert_array_equal(results(swept, "cooperator", "self_play", "return_per_step"), HIGHEST)
    # Against a claim of one less: the lower claim less the bonus, and plus it.
    ours = results(swept, "cooperator", "exploiter", "return_per_step")
    np.testing.assert_allclose(ours, HIGHEST - 1 - BONUS)


@pytest.mark.slow
def test_in_ci_learners_that_look_after_themselves_unravel_to_the_only_equilibrium_and_under_maximin_they_do_not(swept):
    selfish = results(swept, "reinforce", "self_play", "claim")
    np.testing.assert_allclose(selfish, LOWEST, atol=0.1)
    # Paid what the worse-off gets, they lose R by any difference: they agree, on whichever claim.
    claims = results(swept, "reinforce maximin", "self_play", "claim").reshape(2, -1)
    worse_off = results(swept, "reinforce maximin", "self_play", "return_per_step")
    np.testing.assert_allclose(worse_off.reshape(2, -1).mean(1), claims.mean(1), atol=0.15)
    assert np.all(claims > LOWEST + 0.5)


@pytest.mark.slow
def test_in_ci_the_table_of_a_packages_suite_names_its_rows(installed, swept):
    table = python(installed, "-m", "marl_suite", "table", "runs")
    assert [row.split("|")[2].strip() for row in table.splitlines()[2:]] == [
        "reinforce",
        "reinforce maximin",
        "cooperator",
    ]
    assert "5.000 [5.000, 5.000]" in table


PYTHON = """
import jax, marl_suite, numpy as np, pathlib
from marl_suite.baselines import configuration

env = marl_suite.make("travellers_dilemma", highest=5)
marl_suite.check_environment(env, num_steps=40)
marl_suite.check_learner(configuration("reinforce", num_envs=4), env)
payoff = lambda *claims: env.step(key, env.reset(key)[1], np.array(claims) - 2)[2].tolist()
key = jax.random.key(0)
assert [payoff(a, b) for a, b in ((5, 5), (5, 4), (2, 3))] == [[5, 5], [2, 6], [4, 0]]

(run,) = pathlib.Path("runs/cells").glob("travellers_dilemma.reinforce.*")
policy, (observation, _) = marl_suite.load(run, seed=1), jax.vmap(env.reset)(jax.random.split(key, 64))
actions = policy.act(policy.memory(64), observation, key)[0]
assert actions.shape == (64, 2) and actions.mean() < 0.1, "claims the lowest"
"""


@pytest.mark.slow
def test_in_ci_what_a_package_brings_keeps_the_contracts_and_plays_from_a_file(installed, swept):
    python(installed, "-W", "error::UserWarning", "-c", PYTHON)


def test_the_templates_are_short():
    for path in (PACKAGE / "src" / "marl_suite_example").glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path.name


# ---------------------------------------------------------------------- packages that are broken
CLUMSY = """
import marl_suite.envs
from marl_suite.envs.environment import Environment

class Game(marl_suite.envs.Environment):
    "No dataclass."

class Thing:
    "Nothing that the suite knows."
"""
BRINGS = {
    "clumsy": {
        "marl_suite.environments": {
            "public_goods": "clumsy:Game",
            "shared": "clumsy:Game",
            "no_module": "clumsy_broken:Game",
            "no_class": "clumsy:Gone",
            "no_game": "clumsy:Thing",
            "no_dataclass": "clumsy:Game",
        },
        "marl_suite.baselines": {"no_learner": "clumsy_broken:Learner"},
        "marl_suite.reward_views": {"no_view": "clumsy_broken:Glasses"},
    },
    "second": {"marl_suite.environments": {"shared": "second:Game"}},
}


@pytest.fixture
def clumsy(tmp_path, monkeypatch):
    """Two installed packages with all that can be wrong; registries look again, before and after."""
    (tmp_path / "clumsy.py").write_text(CLUMSY)
    (tmp_path / "clumsy_broken.py").write_text("import no_such_library")
    for package, groups in BRINGS.items():
        folder = tmp_path / f"{package}-0.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3\n")
        lines = [f"[{g}]\n" + "\n".join(f"{n} = {t}" for n, t in names.items()) for g, names in groups.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines))
    registries = [module._REGISTRY for module in (environments, baselines, views)]
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        for registry in registries:
            registry.__dict__.pop("_installed", None)
        yield
    for registry in registries:
        registry.__dict__.pop("_installed", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "public_goods",
            r"environment 'public_goods' stands for marl_suite.envs.n_player_dilemmas:PublicGoods and "
            r"clumsy:Game \(package clumsy 0.3\); rename or uninstall all but one",
        ),
        ("shared", r"stands for (clumsy|second):Game \(package .* and (clumsy|second):Game \(package .* 0.3\)"),
        (
            "no_module",
            r"'no_module' cannot be imported from clumsy_broken:Game \(package clumsy 0.3\): "
            "ModuleNotFoundError: No module named 'no_such_library'",
        ),
        ("no_class", r"from clumsy:Gone \(package clumsy 0.3\): AttributeError: .*'Gone'"),
        (
            "no_game",
            r"must be a subclass of marl_suite.envs.environment.Environment, which clumsy:Thing \(pack.* is not",
        ),
        ("no_dataclass", r"environment 'no_dataclass': Game must be a dataclass, @dataclass\(frozen=True\)"),
    ],
)
def test_a_name_that_a_package_spoils_says_which_package_and_why(clumsy, name, message):
    with pytest.raises(InputError, match=message) as caught:
        make(name)
    assert "\n" not in str(caught.value)


def test_a_broken_package_spoils_no_other_name(clumsy, capsys):
    assert make("volunteers_dilemma").name == "volunteers_dilemma"
    assert {"public_goods", "no_class"} <= set(environments.registered())
    assert "volunteers_dilemma" in environments.working() and "no_class" not in environments.working()
    assert "lr" in {key.partition(".")[2] for key in baselines.group_settings("ppo")}
    cli.main(["list"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in ("public_goods", "shared", "no_module", "no_class", "no_game", "no_dataclass", "no_learner", "no_view"):
        assert "unusable: " in lines[name], lines[name]
    assert "No module named 'no_such_library'" in lines["no_view"] and "package clumsy 0.3" in lines["no_learner"]
    assert "unusable" not in lines["volunteers_dilemma"] + lines["ippo"] + lines["team"]


def test_a_broken_learner_or_view_is_a_line_on_the_command_line(clumsy, capsys):
    for arguments in (
        ["prisoners_dilemma", "no_learner"],
        ["prisoners_dilemma", "ippo", "--set", "reward_view=no_view"],
    ):
        with pytest.raises(SystemExit) as exit:
            cli.main(["train", *arguments])
        error = capsys.readouterr().err
        assert exit.value.code == 2 and error.count("\n") == 1
        assert "(package clumsy 0.3): ModuleNotFoundError: No module named 'no_such_library'" in error


# ---------------------------------------------------------------------- names given in a process
@pytest.fixture
def forgotten():
    """Names that are registered here do not outlive the test."""
    kept = [
        (registry, dict(registry._registered))
        for registry in (module._REGISTRY for module in (environments, baselines, views))
    ]
    yield
    for registry, names in kept:
        registry._registered.clear()
        registry._registered.update(names)


def test_classes_and_their_names_can_be_registered_in_all_three_places(forgotten):
    marl_suite.register("steps", TwoStepGame)
    marl_suite.register("three_givers", "marl_suite.envs.n_player_dilemmas:PublicGoods", num_agents=3)
    marl_suite.baselines.register("grim", Scripted, player="grim_trigger")
    views.register("mostly_mine", "marl_suite.envs.reward_views:SelfInterest", s=0.9)
    assert make("steps") == TwoStepGame(name="steps")
    assert make("three_givers").num_agents == 3
    assert make("three_givers", num_agents=4).num_agents == 4
    assert baselines.configuration("grim") == Scripted(player="grim_trigger")
    assert views.read_view("mostly_mine") == views.read_view("self_interest:s=0.9")
    assert views.read_view("mostly_mine:s=0.2") == views.read_view("self_interest:s=0.2")


def test_a_name_can_be_registered_again_for_the_same_only():
    registry = Registry("reward view", "marl_suite.no_such_group", View)
    registry.register("team", Team)
    registry.register("team", Team)
    with pytest.raises(InputError, match=r"'team' is already registered as marl_suite\.envs\.reward_views:Team"):
        registry.register("team", "somewhere:Else")
    with pytest.raises(InputError, match="unknown reward view 'teem'; did you mean 'team'"):
        registry.find("teem")
