"""The README and the pages of results say what was measured and what works."""

import re
from pathlib import Path

import pytest

from marl_suite.benchmarks import report
from marl_suite.experiments.results import read, read_rows
from marl_suite.experiments.tables import PUBLISHED_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "README.md").exists():
    pytest.skip("only in a checkout", allow_module_level=True)
README = (ROOT / "README.md").read_text()
PAGES = {str(page.parent.relative_to(ROOT)): page.read_text() for page in report.pages(ROOT)}
BLOCKS = [(page, *block) for page, text in PAGES.items() for block in report.blocks(text)]


@pytest.mark.parametrize(("page", "maker", "arguments", "text"), BLOCKS, ids=[" ".join(b[1:3]) for b in BLOCKS])
def test_tables_are_what_their_commands_print(page, maker, arguments, text):
    assert report.made(maker, arguments, ROOT) == text, f"python -m marl_suite.benchmarks.report makes {page} anew"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_closed(page):
    ends = re.findall(r"^<!-- (?:marl-suite |schelling |speed |end -->$)", PAGES[page], re.MULTILINE)
    assert len(ends) == 2 * len(report.blocks(PAGES[page]))


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert (ROOT / page / target).exists(), target


def test_published_numbers_are_of_cells_that_are_there():
    for file in (ROOT / "benchmarks" / "results").glob("*/published.csv"):
        found = read(file.parent)
        cells = {(entry["environment"], entry["label"]): entry["cell"] for entry in found.entries}
        for row in read_rows(file, PUBLISHED_COLUMNS):
            scores = found.scores[cells[row["environment"], row["baseline"]]]
            assert (row["evaluation"], row["metric"]) in scores and row["source"] and row["published"], row


def test_a_page_is_filled_with_what_its_commands_print_and_the_rest_is_kept(tmp_path):
    (tmp_path / "speed.csv").write_text(
        "environment,kind,median,min,max,to_cartpole\n"
        "slow,stepping,20500,19000,30000,0.0123\nfast,stepping,2e6,1.5e6,3e6,1.5\nslow,training,9,9,9,\n"
    )
    page = "before\n<!-- speed speed.csv -->\nstale\n<!-- end -->\nafter \\1\n"
    filled = report.filled(page, tmp_path)
    assert filled.splitlines() == [
        "before",
        "<!-- speed speed.csv -->",
        "| environment | steps/s, median (min to max) | x CartPole |",
        "| --- | ---: | ---: |",
        "| `fast` | 2.0 M (1.5 M to 3.0 M) | 1.5 |",
        "| `slow` | 20 k (19 k to 30 k) | 0.0123 |",
        "<!-- end -->",
        "after \\1",
    ]
    assert report.filled(filled, tmp_path) == filled


def test_check_tells_what_differs_and_writes_nothing(tmp_path, monkeypatch, capsys):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "speed.csv").write_text("environment,kind,median,min,max,to_cartpole\nx,stepping,1e6,1e6,1e6,1\n")
    page = tmp_path / "README.md"
    page.write_text("<!-- speed benchmarks/results/speed.csv -->\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        report.main(["--check"])
    assert stopped.value.code == 1 and "README.md: differs" in capsys.readouterr().out
    assert page.read_text().count("\n") == 2
    report.main([])
    assert "1.0 M" in page.read_text()
    report.main(["--check"])


def test_the_python_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = example.replace("seeds=3, steps=1e5", "seeds=2, steps=1")  # one update is enough to see that it runs
    exec(compile(example, "README.md", "exec"), {})
