"""Stocks that are shared in GovSim (Piatti et al. 2024): how they grow, and who gets what of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_STEADY = 1e-3  # keeps whole what is whole, in float32


def regrown(left: Any, capacity: Any = 100, growth: Any = 2.0) -> jax.Array:
    """The stock of the next month, g(h) = min(capacity, floor(growth h)); `left` is that after the harvest."""
    return jnp.minimum(capacity, jnp.floor(growth * left + _STEADY).astype(jnp.int32))


def sustainable_harvest(stock: Any, growth: Any = 2.0) -> jax.Array:
    """f(h) = max{x : g(h - x) >= h} = h - ceil(h / growth), units for the whole group; floor(h / 2) for growth 2.

    Piatti et al. (2024), section 2.3. Their environment tells each of n agents floor(f / n).
    """
    return stock - jnp.ceil(stock / growth - _STEADY).astype(jnp.int32)


def month_of_chance(key: jax.Array, probability: jax.Array | float) -> jax.Array:
    """int32 []: the month, from 1, at which chance ends an episode that each month ends with `probability`."""
    draw = jax.random.uniform(key, minval=np.finfo(np.float32).tiny)
    before = jnp.floor(jnp.log(draw) / jnp.log1p(-jnp.asarray(probability, jnp.float32)))
    month = 1 + jnp.minimum(before, 1e6).astype(jnp.int32)
    return jnp.where(jnp.asarray(probability) > 0, month, np.iinfo(np.int32).max)


OFFERS = 31
"""Units offered per round of the lottery: bits of a word, of which one stays free for counting up to 2^31 - 1."""


def lottery(key: jax.Array, stock: jax.Array, demands: jax.Array) -> jax.Array:
    """Hands out `stock` unit by unit, each to a uniformly random agent among those with unmet demand.

    That is the same as offering each unit to uniformly random agents, of some set that holds all who want more, until
    one takes it. So a round makes min(stock, 31) offers at once: none can fail for lack of units, hence their order
    does not matter, and what nobody took is left for the next round. An offer goes to the agent whose rank among
    those with unmet demand is spelled by one random bit from each of several words, so that counting an agent's
    offers is counting bits. The distribution is exact.

    Args:
        key: used up.
        stock: int32 [], units.
        demands: int32 [N], units, not negative.

    Returns:
        int32 [N], units; all of `demands` when the stock suffices.
    """
    planes = range((len(demands) - 1).bit_length())
    enough = demands.sum() <= stock

    # Agents are separate scalars: under vmap each operation then runs along a whole batch.
    def offer(carry: tuple[jax.Array, jax.Array, list[jax.Array]]) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        number, units, unmet = carry
        words = jax.random.bits(jax.random.fold_in(key, number), (len(planes),), jnp.uint32)
        wants = [(agent > 0).astype(jnp.uint32) for agent in unmet]
        seekers = sum(wants, jnp.uint32(0))
        # Bits that no rank needs are zero, so that fewer offers go to nobody.
        spelled = [jnp.where(seekers > 2**plane, words[plane], jnp.uint32(0)) for plane in planes]
        offers = (jnp.uint32(1) << jnp.minimum(units, OFFERS).astype(jnp.uint32)) - 1
        rank, left = jnp.uint32(0), []
        for wanted, agent in zip(wants, unmet, strict=True):
            mine = offers
            for plane in planes:
                mine &= jnp.where((rank >> plane) & 1, spelled[plane], ~spelled[plane])
            taken = jnp.minimum(jax.lax.population_count(mine).astype(jnp.int32), agent)
            left.append(agent - jnp.where(wanted, taken, 0))
            rank += wanted
        return number + 1, units - sum(unmet) + sum(left), left

    def goes_on(carry: tuple[jax.Array, jax.Array, list[jax.Array]]) -> jax.Array:
        return carry[1] > 0

    start = jnp.int32(0), jnp.where(enough, 0, stock), [demands[i] for i in range(len(demands))]
    unmet = jnp.stack(jax.lax.while_loop(goes_on, offer, start)[2])
    return jnp.where(enough, demands, demands - unmet)


def proportional(key: jax.Array, stock: jax.Array, demands: jax.Array) -> jax.Array:
    """Gives each the floor of its proportional share, d_i stock / sum_j d_j, and draws lots for what is left over.

    Each unit left over goes to an agent whose share was rounded down, with probability proportional to the demand that
    it has left. For N agents these are N - 1 units at most.

    Args and result: as `lottery`.
    """
    total = demands.sum()
    product = demands * stock
    given = product // jnp.maximum(total, 1)
    rounded = given * total < product
    draws = jax.random.uniform(key, (max(len(demands) - 1, 1),))
    for number in range(len(demands) - 1):
        weights = jnp.where(rounded, demands - given, 0)
        reach = jnp.cumsum(weights)
        # Below the sum also where a product rounds up, so that somebody's interval is always hit.
        point = jnp.minimum((draws[number] * reach[-1]).astype(jnp.int32), reach[-1] - 1)
        drawn = (point >= reach - weights) & (point < reach)
        given += drawn & (given.sum() < stock)
    return jnp.where(total <= stock, demands, given)


ALLOCATIONS: Mapping[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "lottery": lottery,
    "proportional": proportional,
}
