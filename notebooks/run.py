"""Executes the notebooks and writes their outputs back: `python notebooks/run.py [NAME ...]`, all when none is named.

Every notebook runs in a kernel of its own, in an empty temporary folder, with this checkout's marl_suite. What would
differ from one run or one machine to another is left out, so that two runs give the same bytes.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
CELL_SECONDS = 600  # longer is a bug: a whole notebook takes less than a minute
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks(names: list[str]) -> list[Path]:
    """The notebooks whose file names begin with one of `names`, such as "02"; all when there are none.

    Raises:
        SystemExit: for a name with which no notebook begins.
    """
    files = sorted(HERE.glob("*.ipynb"))
    for name in names:
        if not any(file.name.startswith(Path(name).name) for file in files):
            sys.exit(f"no notebook begins with {name!r}; there are {', '.join(file.stem for file in files)}")
    return [file for file in files if not names or any(file.name.startswith(Path(name).name) for name in names)]


def execute(path: Path, quick: bool = False) -> nbformat.NotebookNode:
    """The notebook at `path` with its outputs, and nothing in it that a second run would not give again.

    Args:
        path: of the notebook.
        quick: train little, to see that every cell works.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, coalesce_streams=True
    )
    with tempfile.TemporaryDirectory() as folder:
        client.execute(cwd=folder, env=_environment(folder, quick))
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel's own names its version of Python
    return notebook


def _environment(folder: str, quick: bool) -> dict[str, str]:
    """This process's environment, with this checkout first and without the user's settings of IPython."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    ours = {
        "PYTHONPATH": path,
        "IPYTHONDIR": folder,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MARL_SUITE_QUICK": str(int(quick)),
    }
    return os.environ | ours


def main() -> None:
    """Executes the notebooks named on the command line, in place."""
    for path in notebooks(sys.argv[1:]):
        print(path.name, flush=True)
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main()
