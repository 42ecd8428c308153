"""Who is whose neighbour: graphs of agents, named or spelled out, and all agents in turn from oneself."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import one_of
from marl_suite.envs.errors import InputError

NAMED = ("complete", "none", "ring", "star")


def adjacency(graph: str, num_agents: int) -> np.ndarray:
    """The graph that `graph` says, without loops.

    Args:
        graph: "complete", "none", "ring" (agent i beside i - 1 and i + 1), "star" (agent 0 beside all others), or edges
            such as "0-1,1-2", where "0>1" is an edge one way, from 0 to 1.
        num_agents: N.

    Returns:
        bool [N, N]; [i, j] is whether there is an edge from j to i, such as i hearing j.

    Raises:
        InputError: for another word, or an edge between agents that do not exist.
    """
    edges = np.zeros((num_agents, num_agents), bool)
    if not re.search(r"\d", graph):
        one_of("graph", graph, NAMED)
    agents = np.arange(num_agents)
    if graph == "complete":
        edges[:] = True
    elif graph == "star":
        edges[0, :] = edges[:, 0] = True
    elif graph == "ring":
        edges[agents, agents - 1] = edges[agents - 1, agents] = True
    elif graph != "none":
        for edge in graph.split(","):
            _add(edges, edge.strip())
    np.fill_diagonal(edges, False)
    return edges


def in_turn(values: jax.Array) -> jax.Array:
    """[N, N, ...]: the values [N, ...] of all agents, for each in turn from itself: i, i + 1, i + 2, ... modulo N."""
    twice = jnp.concatenate([values, values])  # windows of it, because gathers are slow on CPU
    return jnp.stack([twice[i : i + len(values)] for i in range(len(values))])


def _add(edges: np.ndarray, edge: str) -> None:
    match = re.fullmatch(r"(\d+)([->])(\d+)", edge)
    last = len(edges) - 1
    if match is None:
        raise InputError(f"graph: an edge must read like 0-1 or 0>1, got {edge!r}")
    source, kind, target = int(match[1]), match[2], int(match[3])
    if max(source, target) > last:
        raise InputError(f"graph: edge {edge!r} names agent {max(source, target)}; the last one is {last}")
    edges[target, source] = True
    edges[source, target] |= kind == "-"
