"""Multi-agent environments as pure JAX functions. Importing this touches no device."""

from marl_suite.envs.environment import Environment
from marl_suite.envs.errors import InputError
from marl_suite.envs.registry import make, register, registered

__all__ = ["Environment", "InputError", "make", "register", "registered"]
