"""What gets installed, and what importing it costs."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("envs", "baselines", "benchmarks")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/", timeout=120)


def modules_after(code: str) -> set[str]:
    result = run_python(f"{code}\nimport sys; print('\\n'.join(sys.modules))", JAX_PLATFORMS="none_such")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_the_three_parts_are_reachable_from_the_package_in_the_checkout():
    for part in PARTS:
        assert (ROOT / "marl_suite" / part / "__init__.py").samefile(ROOT / part / "__init__.py")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_wheel_made_from_the_source_archive_holds_everything_and_no_generic_name(distributions: Path):
    (wheel,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"marl_suite"}
    sources = [p for part in PARTS for pattern in ("*.py", "*.toml") for p in (ROOT / part).rglob(pattern)]
    sources += [p for p in (ROOT / "marl_suite").glob("[!.]*") if p.suffix == ".py"]
    for path in sources:
        relative = path.relative_to(ROOT)
        name = str(relative) if relative.parts[0] == "marl_suite" else f"marl_suite/{relative}"
        assert name in names, f"{name} is missing from the wheel"


def test_the_source_archive_holds_the_tests(distributions: Path):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert any(name.endswith("tests/test_packaging.py") for name in tar.getnames())


def test_importing_the_environments_touches_no_device_and_no_heavy_library():
    modules = modules_after("import marl_suite.envs")
    assert not modules & {"distrax", "gymnax", "matplotlib", "tyro", "optax", "tensorflow_probability"}
    assert run_python("import marl_suite.envs", JAX_PLATFORMS="none_such").stdout == ""


def test_every_module_imports_without_a_device():
    modules_after(
        "import marl_suite.experiments.run, marl_suite.experiments.replay, marl_suite.experiments.plots\n"
        "import marl_suite.baselines.ppo, marl_suite.benchmarks.speed\n"
        "import marl_suite.envs.testing, marl_suite.games.repeated"
    )


def test_help_answers_without_importing_jax():
    code = "import contextlib, sys\nfrom marl_suite.cli import main\n"
    code += "with contextlib.suppress(SystemExit):\n    main(['--help'])"
    result = run_python(code + "\nassert 'jax' not in sys.modules and 'numpy' not in sys.modules")
    assert result.returncode == 0, result.stderr
    assert "sweep" in result.stdout
