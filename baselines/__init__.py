"""The learners. Each file reads like its paper's algorithm box; `registry` knows them by name."""

from marl_suite.baselines.registry import configuration, register, registered

__all__ = ["configuration", "register", "registered"]
