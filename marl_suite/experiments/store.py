"""Results on disk. A cell is a folder that appears whole or not at all; a sweep is a folder of cells.

    DIR/sweep.json                 the cells in table order
    DIR/results.csv, curves.csv, manifest.json     of all cells, made anew from them: see `results.py`
    DIR/cells/ID/configuration.json, manifest.json, summary.json, curves.csv, policy.npz
    DIR/cells/.ID.partial/         a cell that is running: checkpoint.npz

Everything is written to a temporary name, flushed to the disk and renamed.
"""

import contextlib
import difflib
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import PyTree
from marl_suite.envs.errors import InputError

_PACKAGES = ("marl-suite", "jax", "jaxlib", "flax", "optax", "chex", "distrax", "flashbax", "gymnax", "numpy")


def output_file(text: str, suffixes: tuple[str, ...]) -> Path:
    """The path of a file to write.

    Raises:
        InputError: when its name does not end in one of `suffixes`.
    """
    path = Path(text)
    if path.suffix not in suffixes:
        closest = difflib.get_close_matches(path.suffix, suffixes, n=1, cutoff=0.0) or suffixes[:1]
        raise InputError(f"out must end in {' or '.join(suffixes)}, got {text!r}; closest: {closest[0]!r}")
    return path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Puts `content` at `path`, so that a reader, also after a crash, sees all of it or what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the folder for one process; the lock goes with the process, however it ends.

    Raises:
        InputError: when another process holds it, or the folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(root / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot write to {str(root)!r}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"another run is writing to {str(root)!r}") from None
        yield


# ---------------------------------------------------------------------- arrays
def save_tree(path: Path, tree: PyTree, **extra: str) -> None:
    """Saves the leaves of a pytree, random keys included, with some texts beside them."""
    leaves = [_key_data(leaf) for leaf in jax.tree.leaves(tree)]
    arrays = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{name: np.array(text) for name, text in extra.items()})  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def load_tree(path: Path, like: PyTree) -> tuple[PyTree, dict[str, str]]:
    """What `save_tree` saved, in the structure of `like` (arrays or shapes).

    Raises:
        InputError: when the file holds something of another structure.
    """
    shapes, structure = jax.tree.flatten(like)
    with np.load(path) as file:
        arrays = [file[f"leaf_{i}"] for i in range(len(shapes)) if f"leaf_{i}" in file]
        extra = {name: str(file[name]) for name in file.files if not name.startswith("leaf_")}
        number = len(file.files) - len(extra)
    if number != len(shapes):
        raise InputError(f"{path} holds {number} arrays where {len(shapes)} are needed")
    leaves = []
    for array, shape in zip(arrays, shapes, strict=True):
        is_key = jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
        leaf = jax.random.wrap_key_data(jnp.asarray(array)) if is_key else jnp.asarray(array)
        if leaf.shape != shape.shape or leaf.dtype != shape.dtype:
            raise InputError(f"{path} holds {leaf.dtype}{leaf.shape} where {shape.dtype}{shape.shape} is needed")
        leaves.append(leaf)
    return jax.tree.unflatten(structure, leaves), extra


def _key_data(leaf: Any) -> Any:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


# ---------------------------------------------------------------------- cells
class CellFolder:
    """Where one cell's files are, running and finished."""

    def __init__(self, root: Path, cell_id: str):
        self.final = root / "cells" / cell_id
        self.partial = root / "cells" / f".{cell_id}.partial"

    @property
    def finished(self) -> bool:
        return self.final.is_dir()

    @property
    def checkpoint(self) -> Path:
        return self.partial / "checkpoint.npz"

    def begin(self) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: bytes | str) -> None:
        write_atomically(self.partial / name, content)

    def finish(self) -> None:
        """Makes the cell appear."""
        self.checkpoint.unlink(missing_ok=True)
        os.rename(self.partial, self.final)

    def read(self, name: str) -> Any:
        """A finished cell's JSON file.

        Raises:
            InputError: when it is missing or damaged.
        """
        try:
            return json.loads((self.final / name).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read {self.final / name}: {error}; remove the folder to run it again") from None

    def discard_partial(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def to_json(value: Any) -> str:
    """JSON for people: indented, numpy as lists, NaN as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            return plain(np.asarray(value).tolist())
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return json.dumps(plain(value), indent=1) + "\n"


def manifest(**facts: Any) -> dict[str, Any]:
    """What a result was made with."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": {"kind": device.device_kind, "platform": device.platform, "count": jax.device_count()},
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source() -> Path | None:
    """The checkout that this code runs from or was installed from, if any."""
    root = Path(__file__).resolve().parents[2]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        origin = importlib.metadata.distribution("marl-suite").read_text("direct_url.json")
        if origin and not (root / ".git").exists():
            root = Path(urllib.parse.unquote(json.loads(origin)["url"].removeprefix("file://")))
    return root if (root / ".git").exists() else None


def _git_commit() -> str | None:
    """The commit of the source checkout, with "+changes" when it was edited; None where there is none."""
    root = _source()
    if root is None:
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if status.stdout.strip() else "")


# ---------------------------------------------------------------------- the sweep
def write_sweep(root: Path, entries: list[dict[str, Any]]) -> None:
    """Adds `entries` to the folder's list of cells, in table order."""
    known = {entry["id"]: entry for entry in read_sweep(root)} if (root / "sweep.json").exists() else {}
    known |= {entry["id"]: _named(entry) for entry in entries}
    write_atomically(root / "sweep.json", to_json(list(known.values())))


def read_sweep(root: Path) -> list[dict[str, Any]]:
    """The folder's list of cells.

    Raises:
        InputError: when there is none.
    """
    path = root / "sweep.json"
    try:
        return [_named(entry) for entry in json.loads(path.read_text())]
    except (OSError, json.JSONDecodeError) as error:
        reason = "no results there" if not path.exists() else str(error)
        raise InputError(f"cannot read results from {str(root)!r}: {reason}") from None


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with the short name of its cell, the hash at the end of its folder's name."""
    return {"cell": entry["id"][-8:]} | entry
