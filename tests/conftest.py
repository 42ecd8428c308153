"""Set before jax is imported anywhere: tests run on the CPU, and what was compiled is kept between runs."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
IN_CHECKOUT = (TESTS.parent / "pyproject.toml").exists() and (TESTS.parent / "marl_suite").exists()

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((TESTS.parent if IN_CHECKOUT else TESTS) / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Most of the time goes into compiling small programs: LLVM's first level takes a quarter less of it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


def pytest_configure(config: pytest.Config) -> None:
    # pyproject.toml says this too, but does not travel with tests that are run against an installed package.
    config.addinivalue_line("markers", "slow: learning checks that take minutes; run them with -m slow")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository; skips tests of what is not installed when they run elsewhere."""
    if not IN_CHECKOUT:
        pytest.skip("only in a checkout")
    return TESTS.parent
