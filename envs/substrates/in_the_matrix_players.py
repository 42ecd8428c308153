"""Who collects in the matrix: the scripted players of `marl_suite.envs.substrates.in_the_matrix`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import PyTree
from marl_suite.envs.grid import scripted
from marl_suite.envs.grid.beams import footprint
from marl_suite.envs.grid.movement import BACKWARD, BASE_ACTIONS, NOOP, TURN_RIGHT
from marl_suite.envs.grid.views import OTHER

INTERACT = len(BASE_ACTIONS)
UNIT, MOST = 10, 100
"""Inventories are observed in units of 10 resources; beyond 100 of a class all look the same."""
ENOUGH = 5
"""How many of its class a scripted player wants to have before it looks for a partner."""


def collector(env: Any, wanted: int, observation: PyTree, key: jax.Array) -> jax.Array:
    """Walks to the nearest resource of its class in view, around all others, and looks around when there is none.

    Once it has `ENOUGH` of them it goes to agents in view who are ready, and challenges those in reach of its beam.
    """
    walk_key, meet_key, explore_key = jax.random.split(key, 3)
    tiles, agents = env.seen(observation, "tile"), env.seen(observation, "agent")
    resources = tiles > env.tile("bare")
    mine = resources & ((tiles - env.tile(env.classes[0])) % len(env.classes) == wanted)
    floor = (tiles == env.tile("floor")) | (tiles == env.tile("bare"))
    clear = (floor | mine) & (agents == 0)
    partners = (agents >= OTHER) & (env.seen(observation, "ready") > 0) & (env.seen(observation, "frozen") == 0)
    if env.matrix_game.has_roles:
        role = env.seen(observation, "role")
        partners = partners & (role != role[env.window.home])
    step, found = scripted.walk(walk_key, env.window, mine & clear, clear)
    action = jnp.where(found, step, scripted.explore(explore_key, env.window, clear))
    step, found = scripted.walk(meet_key, env.window, partners, clear)
    step = jnp.where(step == BACKWARD, TURN_RIGHT, step)  # nobody can be challenged behind one's back
    meets = jnp.where(observation["ready"][0] == 1, INTERACT, NOOP)
    step = jnp.where(_in_reach(env, partners, resources | (tiles == env.tile("wall")) | (agents >= OTHER)), meets, step)
    committed = observation["inventory"][wanted] * UNIT > ENOUGH - 0.5
    return jnp.where(committed & found, step, action)


def _in_reach(env: Any, partners: jax.Array, stops: jax.Array) -> jax.Array:
    """Scalar bool: whether the beam would hit one of `partners`, bool [h, w], where `stops`, bool [h, w], stop it."""
    forward, right, passes = footprint(env.beams[0].length, env.beams[0].radius)
    rows, columns = env.window.home[0] - forward, env.window.home[1] + right
    inside = (rows >= 0) & (columns >= 0) & (columns < env.window.shape[1])
    rows, columns, passes = rows[inside], columns[inside], passes[np.ix_(inside, inside)]
    reached = ~jnp.any(stops[rows, columns] & passes, axis=1)
    return jnp.any(partners[rows, columns] & reached)
