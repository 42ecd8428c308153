"""What every grid world keeps, is told, and passes on to its substrate's rules."""

from typing import NamedTuple

import jax
import numpy as np
from flax import struct

from marl_suite.envs.grid.beams import Shot


class GridState(struct.PyTreeNode):
    """A substrate's state extends it."""

    position: jax.Array  # int32 [N, 2], row and column; where an agent stood last while it is out
    heading: jax.Array  # int32 [N], 0 north, 1 east, 2 south, 3 west
    timers: jax.Array  # int32 [N, B], steps until each kind of beam can fire
    timeout: jax.Array  # int32 [N], steps that an agent stays out, 0 in play
    frozen: jax.Array  # int32 [N], steps that an agent in play cannot act
    beam: jax.Array  # uint8 [H, W], 1 + the kind of beam that hit a cell in the last step, 0 for none
    time: jax.Array  # int32 [], steps taken
    end: jax.Array  # int32 [], the step at which chance ends the episode


class GridParams(struct.PyTreeNode):
    """The clock. Melting Pot's random endings: max_steps=5000, min_steps=1000 and the level's end_probability."""

    max_steps: int = 1000  # []
    min_steps: int = 1000  # [], before which chance does not end an episode
    end_probability: float = 0.0  # [], that it ends, per 100 steps after `min_steps`


class ZapParams(GridParams):
    """The clock and the zapping beam, of worlds that have one."""

    zap_cooldown: int = 0  # [], steps; a beam fires every zap_cooldown + 1 steps at most
    zap_timeout: int = 0  # [], steps that whoever is hit stays out


class Events(NamedTuple):
    """What happened in a step before the substrate's rules."""

    actions: jax.Array  # int32 [N], noop for those who could not act
    entered: jax.Array  # int32 [N], the flat cell that an agent's own step led to, -1 for none
    shots: dict[str, Shot]  # by the beam's name
    hits: dict[str, jax.Array]  # bool [N, N], whom, second, each agent, first, hit with that beam


def entered_sites(events: Events, sites: np.ndarray) -> jax.Array:
    """bool [N, S]: which of the flat cells `sites` each agent stepped on in this step."""
    return events.entered[:, None] == sites
