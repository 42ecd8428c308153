"""marl_suite: a JAX-accelerated, game-theoretic benchmark suite for mixed-motive multi-agent learning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl_suite.envs import make, register, registered
    from marl_suite.experiments.run import train

__version__ = "0.1.0"
__all__ = ["make", "register", "registered", "train"]

_HOME = {
    "make": "marl_suite.envs",
    "register": "marl_suite.envs",
    "registered": "marl_suite.envs",
    "train": "marl_suite.experiments.run",
}


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `marl-suite --help` answers without importing jax.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
