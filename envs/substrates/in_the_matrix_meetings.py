"""Who interacts with whom in the matrix, and with which strategies."""

import jax
import jax.numpy as jnp

from marl_suite.envs.grid.cells import random_order


def is_ready(inventory: jax.Array) -> jax.Array:
    """bool [N]: who has collected something, from inventories [N, K]."""
    return inventory.sum(axis=1) > inventory.shape[1]


def shares(inventory: jax.Array) -> jax.Array:
    """float32 [N, K]: the strategies that inventories [N, K] stand for."""
    return inventory / inventory.sum(axis=1, keepdims=True)


def pair_up(key: jax.Array, possible: jax.Array) -> jax.Array:
    """bool [N, N]: who, first, interacts with whom it hit, of all `possible` pairs, such that nobody does so twice.

    All agents are put into a random order. As long as there is a pair, the first who hit somebody gets the first of
    those it hit, and both are taken.
    """
    num_agents = len(possible)
    turns = random_order(key, num_agents)
    order = num_agents * turns[:, None] + turns

    def next_pair(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        possible, pairs = carry
        waiting = jnp.where(possible, order, num_agents**2)
        pair = possible & (waiting == waiting.min())
        taken = pair.any(axis=0) | pair.any(axis=1)
        return possible & ~taken[:, None] & ~taken, pairs | pair

    return jax.lax.fori_loop(0, num_agents // 2, next_pair, (possible, jnp.zeros_like(possible)))[1]
