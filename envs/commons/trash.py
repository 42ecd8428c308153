"""Taking out the trash: GovSim turned round, where what is common is a burden and the work is one's own."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.envs.commons.govsim import MOST, GovSim
from marl_suite.envs.environment import Player, at_least, at_most, one_of, random_player

FULL = {"repaired": 100, "published": 95}
"""Units above which the house is lost."""
INFLOW = 50


class TrashParams(struct.PyTreeNode):
    """The numbers of the house."""

    month_value: float  # float [], what a month in a house that is not lost is worth to each, in units of work
    limit: int  # int [], units; more are a collapse
    initial_stock: int = 100  # int [], units
    inflow: int = INFLOW  # int [], units per month
    max_steps: int = 12  # int [], T, months
    end_probability: float = 0.0  # float [], that a hidden horizon comes after a month
    arrival: int = 0  # int [], months before the last agent comes, if `newcomer`


@dataclasses.dataclass(frozen=True)
class Trash(GovSim):
    """Trash: taking it out is work for one and saves the house for all.

    Source: the inverse environment of the reproduction of GovSim by Curvo, Dragomir, Torpes and Rahimi (2025),
    Reproducibility Study of "Cooperate or Collapse".

    Rules: h = 100 units of trash. Every month each of N = 5 roommates offers to take out 0 to 100 units; each unit
    taken out costs 10 minutes, which is 1 here. If all offer more than h, `allocation` decides who takes out how much,
    as in `GovSim`. Then 50 units are added. By `rules`:

    * "repaired", the default: h has no cap, and more than 100 units after the 50 are a collapse, so that 50 units
      must go every month, 600 in 12 months, as 50 can be caught in the fishery. A month that ends without a collapse
      is worth 20 (`month_value`) to each, so that all who take out 10 each get 120, as there.
    * "published": h is capped at 100, and a collapse are more than 95 units before the 50 are added. Five units in all
      are then enough in every month, 60 in 12 months, though agents are told 10 each. A month is worth nothing, so
      that nobody has an interest in the house: those who do nothing lose it at once and pay nothing.

    A collapse terminates the game. The horizon, `newcomer`, `threshold`, `universalization` and `num_levels` are those
    of `GovSim`. The threshold per head, what must go over the heads, rounded up, is 10 each by the published rules.

    Shapes: those of `GovSim`, with units taken out for units caught; what is told in observation entry 5 is the least
    that each should take out. Reward float32 [N], in units of work: - units taken out, plus `month_value` unless
    lost. Metrics: those of `GovSim`, with R_i the units taken out: "gain" is what each took out, "efficiency" the share
    of T times the inflow that was, "equality" that of the work, and "over_usage" becomes "shirking", the share of
    months in which an agent took out less than the threshold.

    Dilemma: `conscientious`, who takes out enough for one to shirk, is the cooperator and `shirker` the defector. A
    lone shirker has a clean house for nothing (greed); among four of them a `conscientious` one works in vain (fear).
    With `fair`, the exact share, in its place one shirker ruins the house for itself too.

    Deviations: `rules` as above. A capped stock cannot grow, hence no cap; a house that is worth nothing is no reason
    to work, hence `month_value`, which is 0 in the published rules and nobody's published value.

    Raises:
        InputError: as `GovSim`, and for unknown rules.
    """

    name: str = "trash"
    rules: str = "repaired"

    cooperator: ClassVar[str | None] = "conscientious"
    defector: ClassVar[str | None] = "shirker"
    exploiter: ClassVar[str | None] = "shirker"
    definitions: ClassVar[Mapping[str, str]] = {
        "conscientious": "takes out its share of what must go if one other does nothing",
        "fair": "takes out its share of what must go",
        "shirker": "never takes out anything",
        "volunteer": "takes out all that must go",
    }
    breaches: ClassVar[str] = "shirking"
    most_stock: ClassVar[int] = 2 * MOST

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(f"{self.name}: rules", self.rules, tuple(FULL))
        object.__setattr__(self, "exploiter", "shirker")

    @property
    def default_params(self) -> TrashParams:
        months = {"max_steps": self.default_steps[self.newcomer], "arrival": 3 * self.newcomer}
        value = 20.0 if self.rules == "repaired" else 0.0
        return TrashParams(month_value=value, limit=FULL[self.rules], **months)

    def check_stock(self, params: Any) -> None:
        for field in ("limit", "initial_stock", "inflow"):
            at_least(f"{self.name}: parameter {field}", getattr(params, field), 0)
            at_most(f"{self.name}: parameter {field}", getattr(params, field), MOST)

    # ------------------------------------------------------------------ rules of the stock
    def grow(self, left: jax.Array, params: TrashParams) -> jax.Array:
        after = left + params.inflow
        return jnp.minimum(after, MOST) if self.rules == "published" else after

    def collapses(self, left: jax.Array, params: TrashParams) -> jax.Array:
        return left + (params.inflow if self.rules == "repaired" else 0) > params.limit

    def due(self, stock: jax.Array, params: TrashParams) -> jax.Array:
        """int32 []: units that the group is told to take out; the published rules ask for the inflow."""
        if self.rules == "published":
            return jnp.asarray(params.inflow)
        return jnp.maximum(stock + params.inflow - params.limit, 0)

    def per_head(self, units: jax.Array, heads: jax.Array | int) -> jax.Array:
        return units // heads if self.rules == "published" else -(-units // heads)

    def breach(self, catch: jax.Array, threshold: jax.Array) -> jax.Array:
        return catch < threshold

    def payoff(self, catch: jax.Array, collapsed: jax.Array, params: TrashParams) -> jax.Array:
        return jnp.where(collapsed, 0.0, params.month_value) - catch

    def target(self, params: TrashParams) -> jax.Array:
        return jnp.asarray(params.max_steps * params.inflow, jnp.float32)

    # ------------------------------------------------------------------ players
    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`, who reckon with the default inflow and limit."""
        shares = {"conscientious": lambda n: jnp.maximum(n - 1, 1), "fair": lambda n: n, "volunteer": lambda n: 1}
        workers = {name: partial(_worker, self, divisor) for name, divisor in shares.items()}
        shirker = {"shirker": lambda observation, key: jnp.zeros((), jnp.int32)}
        return {"random": random_player(self), **workers, **shirker}


def _worker(env: Trash, divisor: Any, observation: jax.Array, key: jax.Array) -> jax.Array:
    """Takes out what must go over `divisor(n)` heads, rounded up to an action that exists."""
    stock, heads = env.seen(observation)
    remains = FULL[env.rules] - (INFLOW if env.rules == "repaired" else 0)
    step = MOST // (env.num_levels - 1)
    share = -(-jnp.maximum(stock - remains, 0) // divisor(heads))
    return env.ask(-(-share // step) * step)
