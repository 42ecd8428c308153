"""The README says what was measured and what works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "table", ["quick/table.md", "opponent_shaping/table.md", "opponent_shaping/robustness.md", "team/table.md"]
)
def test_the_tables_are_the_stored_ones(table):
    assert (ROOT / "benchmarks" / "results" / table).read_text() in README


def test_the_python_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = example.replace("seeds=3, steps=1e5", "seeds=2, steps=1")  # one update is enough to see that it runs
    exec(compile(example, "README.md", "exec"), {})


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
