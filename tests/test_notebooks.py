"""The notebooks: every cell runs, and what is committed of them is what a reader should see."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
if not NOTEBOOKS:
    pytest.skip("the notebooks are only in a checkout", allow_module_level=True)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
MACHINE = re.compile(r"/home/|/root/|/tmp/|/work/|/Users/|/var/|/opt/|/usr/|[A-Z]:\\|site-packages|\b0x[0-9a-f]{6,}")
MOST_FIGURES, MOST_BASE64 = 8, 120_000  # base64 is 4/3 of a PNG file: 90 kB


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    """`notebooks/run.py`, which is no part of any package."""
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts(output: Any) -> list[str]:
    """Everything in an output that is meant to be read."""
    shown = output.get("data", {})
    return [output.get("text", "")] + [str(value) for kind, value in shown.items() if not kind.startswith("image/")]


def shows_something(cell: Any) -> bool:
    """Whether a cell prints or draws."""
    return bool(re.search(r"\bprint\(|\bdisplay\(|plt\.show\(", cell.source))


@pytest.mark.slow
@each_notebook
def test_in_ci_every_cell_runs_with_a_small_budget(path, runner):
    notebook = runner.execute(path, quick=True)  # raises the first cell's error, assertions included
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert [output for output in outputs(notebook) if output.get("name") == "stderr"] == []


@each_notebook
def test_a_wrong_number_would_make_a_notebook_fail(path):
    assertions = [line for cell in code_cells(read(path)) for line in cell.source.splitlines() if "assert" in line]
    numbers = [line for line in assertions if re.search(r"\d|==|<|>|allclose", line)]
    assert len(numbers) >= 3, f"{path.name} asserts {len(numbers)} numbers"


@each_notebook
def test_training_budgets_are_one_visible_line(path):
    source = "\n".join(cell.source for cell in code_cells(read(path)))
    assert source.count("MARL_SUITE_QUICK") <= 1
    trains = re.search(r"marl_suite\.train\(|optax\.", source)
    assert not trains or re.search(r"^QUICK = .*MARL_SUITE_QUICK", source, re.MULTILINE)


@each_notebook
def test_committed_notebooks_were_run_from_top_to_bottom(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "python notebooks/run.py"
    assert [cell.source for cell in cells if shows_something(cell) and not cell.outputs] == []


@each_notebook
def test_committed_outputs_hold_no_errors_or_warnings(path):
    shown = outputs(read(path))
    assert [output for output in shown if output.output_type == "error"] == []
    assert [texts(output) for output in shown if output.get("name") == "stderr"] == []


@each_notebook
def test_committed_notebooks_name_no_machine(path):
    notebook = read(path)
    shown = [text for output in outputs(notebook) for text in texts(output)] + [cell.source for cell in notebook.cells]
    assert [match.group() for text in shown for match in MACHINE.finditer(text)] == []


@each_notebook
def test_committed_notebooks_hold_no_timing_and_ask_for_the_usual_kernel(path, runner):
    notebook = read(path)
    assert notebook.metadata == runner.METADATA
    assert [cell.metadata for cell in notebook.cells if cell.metadata] == []


@each_notebook
def test_committed_figures_are_small(path):
    images = [v for output in outputs(read(path)) for k, v in output.get("data", {}).items() if k.startswith("image/")]
    assert len(images) <= MOST_FIGURES and all(len(image) < MOST_BASE64 for image in images)


def test_the_readme_lists_every_notebook():
    text = (FOLDER / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in text] == []
