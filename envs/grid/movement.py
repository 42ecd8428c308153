"""Turns and steps, one agent at a time in a random order.

The rule is Melting Pot's (Leibo et al. 2021): all pushes of a step are carried out one by one in a uniformly random
order, and a cell that is occupied at that moment cannot be entered. So two agents never overlap, never swap and never
rotate in a ring, whoever stays keeps its cell, each contender for a free cell gets it with the same probability, and a
follower enters its leader's cell only if the leader went first.
"""

import jax
import jax.numpy as jnp

from marl_suite.envs.grid.cells import EAST, NORTH, SOUTH, WEST, Plane, ahead_of, extent, flat, look_up, random_order

BASE_ACTIONS = ("noop", "forward", "backward", "step_left", "step_right", "turn_left", "turn_right")
NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT = range(len(BASE_ACTIONS))

_DIRECTION = {FORWARD: NORTH, BACKWARD: SOUTH, STEP_LEFT: WEST, STEP_RIGHT: EAST}  # of one who looks north


def turned(heading: jax.Array, actions: jax.Array) -> jax.Array:
    """Headings int32 [N] after `actions` int32 [N]: TURN_LEFT and TURN_RIGHT change them, nothing else does."""
    return (heading + (actions == TURN_RIGHT) + 3 * (actions == TURN_LEFT)) % 4


def aimed_at(position: jax.Array, heading: jax.Array, actions: jax.Array) -> jax.Array:
    """int32 [N, 2]: the cells that steps lead to, whatever is there; one's own for other actions."""
    direction = heading
    for action, offset in _DIRECTION.items():
        direction = jnp.where(actions == action, heading + offset, direction)
    step = jnp.stack(ahead_of(direction % 4), axis=-1)
    steps = (actions >= FORWARD) & (actions <= STEP_RIGHT)
    return position + jnp.where(steps[:, None], step, 0)


def move(
    key: jax.Array, position: jax.Array, heading: jax.Array, actions: jax.Array, present: jax.Array, solid: Plane
) -> tuple[jax.Array, jax.Array]:
    """Carries out the steps among `actions`; turns are `turned`'s.

    Args:
        key: used up.
        position: int32 [N, 2], distinct among those present.
        heading: int32 [N].
        actions: int32 [N]; all but the four steps are ignored.
        present: bool [N]; the others neither move nor block.
        solid: bool [H, W], cells that nobody enters; everything beyond the map is solid.

    Returns:
        position [N, 2] and moved, bool [N].
    """
    num_agents, shape = len(position), extent(solid)
    aim = aimed_at(position, heading, actions)
    goals = flat(aim[:, 0], aim[:, 1], shape)
    start = jnp.where(present, flat(position[:, 0], position[:, 1], shape), -1)
    free = present & ~look_up(solid, goals, beyond=True)
    turns = random_order(key, num_agents)

    def push(turn: jax.Array, cells: jax.Array) -> jax.Array:
        mover = turns == turn
        goal = jnp.sum(jnp.where(mover, goals, 0))
        enters = mover & free & ~jnp.any(cells == goal)
        return jnp.where(enters, goal, cells)

    cells = jax.lax.fori_loop(0, num_agents, push, start)
    moved = cells != start
    return jnp.where(moved[:, None], aim, position), moved
