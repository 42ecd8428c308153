"""What gets installed, and what importing it costs."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("envs", "baselines", "benchmarks")
EXTRAS = (
    "pettingzoo",
    "jaxmarl",
    "nbclient",
    "nbformat",
    "ipykernel",
    "ray",
    "pytest",
    "hypothesis",
    "build",
    "hatchling",
)
"""What only extras bring, as it is imported."""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/", timeout=120)


def modules_after(code: str) -> set[str]:
    result = run_python(f"{code}\nimport sys; print('\\n'.join(sys.modules))", JAX_PLATFORMS="none_such")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_the_three_parts_are_reachable_from_the_package_in_the_checkout(checkout):
    for part in PARTS:
        assert (checkout / "marl_suite" / part / "__init__.py").samefile(checkout / part / "__init__.py")


@pytest.fixture(scope="module")
def distributions(checkout, tmp_path_factory) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    result = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_wheel_made_from_the_source_archive_holds_everything_and_no_generic_name(distributions: Path, checkout):
    (wheel,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"marl_suite"}
    sources = [p for part in PARTS for pattern in ("*.py", "*.toml") for p in (checkout / part).rglob(pattern)]
    sources += [p for p in (checkout / "marl_suite").glob("[!.]*") if p.suffix == ".py"]
    for path in sources:
        relative = path.relative_to(checkout)
        name = str(relative) if relative.parts[0] == "marl_suite" else f"marl_suite/{relative}"
        assert name in names, f"{name} is missing from the wheel"


def test_the_source_archive_holds_the_tests(distributions: Path):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert any(name.endswith("tests/test_packaging.py") for name in tar.getnames())


def test_the_wheel_alone_brings_the_suites_and_their_results(distributions: Path, tmp_path):
    (wheel,) = distributions.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import importlib.resources, marl_suite\n"
        "from marl_suite.cli import main\n"
        "main(['list', 'suites'])\n"
        "table = importlib.resources.files('marl_suite.benchmarks') / 'results' / 'quick' / 'results.csv'\n"
        "print(table.is_file(), marl_suite.__file__)"
    )
    result = run_python(program, PYTHONPATH=str(tmp_path), JAX_PLATFORMS="none_such")
    assert result.returncode == 0, result.stderr
    *suites, found = result.stdout.strip().splitlines()
    assert any(line.split()[:1] == ["quick"] for line in suites)
    assert found == f"True {tmp_path / 'marl_suite' / '__init__.py'}"


def test_importing_the_environments_touches_no_device_and_no_heavy_library():
    modules = modules_after("import marl_suite.envs")
    assert not modules & {"distrax", "gymnax", "matplotlib", "tyro", "optax", "tensorflow_probability"}
    assert run_python("import marl_suite.envs", JAX_PLATFORMS="none_such").stdout == ""


def test_every_module_imports_without_a_device_and_without_any_extra():
    """All of them but the bridges to libraries that only an extra brings, which say so."""
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))  # importing a module that is None fails
import marl_suite
from marl_suite.envs.errors import InputError
for module in pkgutil.walk_packages(marl_suite.__path__, "marl_suite."):
    if module.name.endswith(("__main__", "gymnax")):  # runs; gymnax touches a device
        continue
    try:
        importlib.import_module(module.name)
    except InputError as error:
        print(module.name, error)
"""
    result = run_python(program, JAX_PLATFORMS="none_such")
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        ((bridge, advice),) = re.findall(r'^(\S+) .*pip install "marl-suite\[(\w+)\]"$', line)
        assert advice in EXTRAS and bridge.startswith(f"marl_suite.envs.adapters.{advice}"), line


def test_help_answers_without_importing_jax():
    code = "import contextlib, sys\nfrom marl_suite.cli import main\n"
    code += "with contextlib.suppress(SystemExit):\n    main(['--help'])"
    result = run_python(code + "\nassert 'jax' not in sys.modules and 'numpy' not in sys.modules")
    assert result.returncode == 0, result.stderr
    assert "sweep" in result.stdout
