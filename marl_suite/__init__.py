"""marl_suite: a JAX-accelerated, game-theoretic benchmark suite for mixed-motive multi-agent learning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl_suite.envs import make, register, registered
    from marl_suite.envs.testing import check_environment
    from marl_suite.experiments.run import train
    from marl_suite.stored_policies import load
    from marl_suite.testing import check_learner

__version__ = "0.1.0"
__all__ = ["check_environment", "check_learner", "load", "make", "register", "registered", "train"]

_HOME = {
    "check_environment": "marl_suite.envs.testing",
    "check_learner": "marl_suite.testing",
    "load": "marl_suite.stored_policies",
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
