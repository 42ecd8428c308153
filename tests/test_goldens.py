"""One golden playthrough per environment: a changed rule, number or map shows as a diff of its text.

When a change is meant, raise the environment's `version`, write its golden anew and read the diff before committing::

    python -m marl_suite.experiments.playthrough tests/goldens [ENVIRONMENT ...]
"""

import difflib
from pathlib import Path

import pytest

from marl_suite.envs import make, registered
from marl_suite.envs.grid.world import GridWorld
from marl_suite.experiments.playthrough import golden

FOLDER = Path(__file__).with_name("goldens")


KINDS = {name: type(make(name)) for name in registered()}
NAMESAKES = {kind.name for kind in KINDS.values() if issubclass(kind, GridWorld)}
"""Grid worlds that are called as their class is by default; others share its code, and are checked on request."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if issubclass(kind, GridWorld) and name not in NAMESAKES else ())
        for name, kind in KINDS.items()
    ],
)
def test_a_playthrough_is_the_golden_one(name):
    path = FOLDER / f"{name}.txt"
    command = f"python -m marl_suite.experiments.playthrough tests/goldens {name}"
    assert path.exists(), f"{name} has no golden playthrough; make it with: {command}"
    old, new = path.read_text().splitlines(), golden(name).splitlines()
    diff = list(difflib.unified_diff(old, new, f"tests/goldens/{name}.txt", "played now", lineterm=""))
    assert not diff, "\n".join([f"{name} plays differently; if it should: {command}", *diff[:80]])


def test_every_golden_belongs_to_an_environment():
    assert {path.stem for path in FOLDER.iterdir()} <= set(registered())
