"""Cultural evolution: a population plays a game once per generation, and newcomers learn from the richest half.

Vallinder and Hughes (2024), "Cultural evolution of cooperation among LLM agents": the agents with the highest final
resources survive into the next generation, and newcomers take over what survivors do. Here a strategy is a pytree of
numbers that a policy reads, and newcomers copy that of a random survivor, with mutations. Any game will do.

In the donor game, whose policies `act_by_image` reads, giving evolves where images are known and not where they are
hidden. Share of wealth given in the last 20 of 100 generations, all else equal, five seeds of 16 populations each:

    ============================================  ================================  =======================
    first generation, newcomers' redrawn levels   with reputation                   without
    ============================================  ================================  =======================
    free riders, 1 in 10                          .34, .23, .31, .32, .34           .03, .02, .02, .03, .03
    free riders, 1 in 5                           .33, .35, .30, .29, .37           .06, .05, .05, .05, .05
    any levels (.5 given), 15 in 100              .33, .32, .30, .33, .36           .04, .03, .03, .04, .04
    ============================================  ================================  =======================

The ten generations of the source are too few from free riders on: .09 to .15, against .03 to .07, in the tenth at 1 in
5. What evolves gives 0.5 of the 4 levels to a bad image, 2 to a blank one and 1.2 to a good one: giving half, enough
for a good image, pays as long as others look; giving more does not, and a score above zero may be spent on keeping.
"""

from collections.abc import Callable
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.algorithm import ActResult
from marl_suite.envs.environment import Environment, Metrics, PyTree
from marl_suite.envs.errors import InputError
from marl_suite.evaluation import evaluate

Policy: TypeAlias = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
"""One agent's: (strategy, observation, key) -> action."""
Mutate: TypeAlias = Callable[[jax.Array, PyTree], PyTree]
"""(key, strategies [N, ...]) -> strategies [N, ...]."""


class History(struct.PyTreeNode):
    """G generations of E populations of N agents, each before selection."""

    strategies: PyTree  # [G, E, N, ...]
    returns: jax.Array  # float32 [G, E, N], what each agent earned in its generation's game
    metrics: Metrics  # the game's own, as tables show them: float32 [G, E] or [G, E, N]


def evolve(
    env: Environment,
    params: PyTree,
    policy: Policy,
    population: PyTree,
    key: jax.Array,
    generations: int,
    mutate: Mutate,
    selection: float = 0.5,
) -> History:
    """Plays `generations` generations of every population, side by side and without contact.

    Each generation plays one episode of the game; then the `selection` richest of each population survive, as they
    are, and every other place goes to a newcomer with the strategy of a survivor drawn at random, mutated.

    Args:
        env: the game, of N agents.
        params: its parameters.
        policy: how a strategy plays.
        population: strategies of the first generation, [E, N, ...] for E populations.
        key: used up.
        generations: G, at least 1.
        mutate: makes newcomers differ from those they learn from, such as `redraw`.
        selection: the share that survives, rounded to whole agents; at least one does.

    Raises:
        InputError: for no generation at all, or a `selection` outside (0, 1].
        AssertionError: when `population` has other axes than [E, N, ...].
    """
    if generations < 1:
        raise InputError(f"generations must be at least 1, got {generations}")
    if not 0 < selection <= 1:
        raise InputError(f"selection must lie above 0 and not above 1, such as 0.5, got {selection}")
    num_agents = env.num_agents
    num_populations = jax.tree.leaves(population)[0].shape[0]
    chex.assert_tree_shape_prefix(population, (num_populations, num_agents))
    survivors = max(1, round(selection * num_agents))

    def generation(strategies: PyTree, key: jax.Array) -> tuple[PyTree, History]:
        play_key, succession_key = jax.random.split(key)
        act = _act(policy, strategies)
        episodes = evaluate(env, params, act, (), play_key, num_populations)
        metrics = jax.vmap(env.derived_metrics)(episodes.metrics)
        keys = jax.random.split(succession_key, num_populations)
        following = jax.vmap(succeed, (0, 0, 0, None, None))(keys, strategies, episodes.returns, survivors, mutate)
        return following, History(strategies, episodes.returns, metrics)

    return jax.lax.scan(generation, population, jax.random.split(key, generations))[1]


def _act(policy: Policy, strategies: PyTree) -> Callable[..., ActResult]:
    """The act function of populations [E, N, ...] in which every agent has its own strategy."""

    def act(memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None = None) -> ActResult:
        axes = jax.tree.leaves(strategies)[0].shape[:2]
        return jax.vmap(jax.vmap(policy))(strategies, observation, jax.random.split(key, axes)), memory, ()

    return act


def succeed(key: jax.Array, strategies: PyTree, fitness: jax.Array, survivors: int, mutate: Mutate) -> PyTree:
    """The next generation of one population, [N, ...]: survivors, best first, then newcomers.

    Args:
        key: used up.
        strategies: [N, ...].
        fitness: float [N]; ties are broken at random.
        survivors: how many agents stay, static.
        mutate: applied to what newcomers copy.
    """
    tie_key, teacher_key, mutation_key = jax.random.split(key, 3)
    num_agents = len(fitness)
    order = jnp.lexsort((jax.random.uniform(tie_key, fitness.shape), -fitness))
    newcomers = num_agents - survivors
    teachers = order[jax.random.randint(teacher_key, (newcomers,), 0, survivors)]
    learned = mutate(mutation_key, jax.tree.map(lambda x: x[teachers], strategies))
    return jax.tree.map(lambda old, new: jnp.concatenate([old[order[:survivors]], new]), strategies, learned)


def redraw(num_values: int, rate: float | jax.Array) -> Mutate:
    """The mutation that redraws each number of an integer array, with probability `rate`, from 0 .. num_values - 1."""

    def mutate(key: jax.Array, strategies: jax.Array) -> jax.Array:
        chance_key, value_key = jax.random.split(key)
        changes = jax.random.uniform(chance_key, strategies.shape) < rate
        return jnp.where(changes, jax.random.randint(value_key, strategies.shape, 0, num_values), strategies)

    return mutate
