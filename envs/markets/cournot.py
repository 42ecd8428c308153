"""Quantity competition with linear demand."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.environment import Metrics, Player, at_least, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.markets.oligopoly import Oligopoly, collusion_index


def nash_quantity(num_firms: int, intercept: Any, slope: Any, cost: Any) -> Any:
    """What each firm sells in the one-shot equilibrium: (a - c) / (b (N + 1)). Its profit is b q**2."""
    return (intercept - cost) / (slope * (num_firms + 1))


def collusive_quantity(num_firms: int, intercept: Any, slope: Any, cost: Any) -> Any:
    """Each firm's equal share of a monopoly's quantity: (a - c) / (2 b N). Its profit is (a - c)**2 / (4 b N)."""
    return (intercept - cost) / (2 * slope * num_firms)


def best_response_quantity(rivals: Any, intercept: Any, slope: Any, cost: Any) -> Any:
    """What earns most when the rivals sell `rivals` in all: max(0, (a - c) / (2 b) - rivals / 2)."""
    best = (intercept - cost) / (2 * slope) - rivals / 2
    return best * (best > 0)


class CournotParams(struct.PyTreeNode):
    """The numbers of the market."""

    intercept: float  # float []: a, the price when nothing is sold
    slope: float  # float []: b, what a unit sold takes from the price
    cost: float  # float []: c, of a unit
    max_quantity: float  # float []: the highest quantity of the grid
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class Cournot(Oligopoly):
    """Quantity competition: each firm gains by selling more, and all lose when all do.

    Source: Cournot (1838), Researches into the mathematical principles of the theory of wealth, chapter VII.

    Rules: firm i sells q_i at the price p = max(0, a - b sum_j q_j) and earns (p - c) q_i; a = 100, b = 1, c = 10.
    Quantities are `num_levels` (31) equidistant points from 0 to `max_quantity`, 45, what a firm alone would sell and
    no best response exceeds. With this step of 1.5 the Nash and the collusive quantity are on the grid for two, three
    and five firms:

        firms   Nash: quantity, price, profit   collusive: quantity, price, profit
        2       30, 40, 900                     22.5, 55, 1012.5
        3       22.5, 32.5, 506.25              15, 55, 675
        5       15, 25, 225                     9, 55, 405

    Truncated after `max_steps` (1,000); a one-shot game terminates after its only step.

    Shapes: action int32, 0 .. L - 1 for L = `num_levels`. Observation: the last quantities in the first person,
    `Discrete(L**N + 1)`: own L + other for two firms, L**N at the start. Where L**N > 4,096 (three firms or more of 31
    levels) float32 [1 + N]: a start flag, and levels / (L - 1), own first. Reward float32 [N], profit. Metrics:
    "price" scalar; [N] "quantity", "profit" and "collusion_index", (profit - Nash profit) / (collusive - Nash profit).

    Deviations: the source's market is played once and has any quantity; on the grid two firms have, beside both at 30,
    the two equilibria (28.5, 31.5), of the same sum and price. The price has a floor of 0, where nobody buys more:
    what is sold beyond still costs c, so the worst profit is -c q. The scripted players know the default parameters.

    Raises:
        InputError: for fewer than two firms or levels.
    """

    name: str = "cournot"
    num_agents: int = 2
    num_levels: int = 31
    one_shot: bool = False

    exploiter: ClassVar[str | None] = "best_response"
    cooperator: ClassVar[str | None] = "collusive"
    defector: ClassVar[str | None] = "nash"
    definitions: ClassVar[Mapping[str, str]] = {
        "collusive": "always sells its share of what a monopoly would sell",
        "nash": "always sells the quantity of the one-shot equilibrium",
        "best_response": "sells what earns most against the rivals' last quantities, at first against collusive ones",
        "imitate": "starts at the collusive quantity, then sells what whoever earned most sold last",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(f"{self.name}: num_levels", self.num_levels, 2)
        object.__setattr__(self, "num_actions", self.num_levels)

    @property
    def default_params(self) -> CournotParams:
        return CournotParams(intercept=100.0, slope=1.0, cost=10.0, max_quantity=45.0, max_steps=self.default_steps)

    def check_params(self, params: CournotParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: parameter cost", params.cost, 0)
        for field in ("slope", "max_quantity"):
            value = getattr(params, field)
            if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
                raise InputError(f"{self.name}: parameter {field} must be above 0, such as 1, got {value}")
        numbers = (params.intercept, params.cost)
        if not any(isinstance(x, Tracer) for x in numbers) and not np.all(np.asarray(numbers[0]) > numbers[1]):
            raise InputError(
                f"{self.name}: parameter intercept must be above the cost, {params.cost}, got {params.intercept}"
            )

    def market(self, params: CournotParams) -> tuple[Any, Any, Any]:
        """intercept, slope and cost, as the closed forms take them."""
        return params.intercept, params.slope, params.cost

    def quantities(self, actions: Any, params: CournotParams) -> Any:
        """Units [...] of actions [...]."""
        return actions * (params.max_quantity / (self.num_levels - 1))

    def price(self, actions: jax.Array, params: CournotParams) -> jax.Array:
        return jnp.maximum(params.intercept - params.slope * jnp.sum(self.quantities(actions, params)), 0.0)

    def payoff(self, actions: jax.Array, params: CournotParams) -> jax.Array:
        return (self.price(actions, params) - params.cost) * self.quantities(actions, params)

    def metrics(self, actions: jax.Array, params: CournotParams) -> Metrics:
        profit, firms = self.payoff(actions, params), self.num_agents
        monopoly = (params.intercept - params.cost) ** 2 / params.slope
        return {
            "price": self.price(actions, params),
            "quantity": self.quantities(actions, params),
            "profit": profit,
            "collusion_index": collusion_index(profit, monopoly / (firms + 1) ** 2, monopoly / (4 * firms)),
        }

    # ------------------------------------------------------------------ scripted players
    def level(self, quantity: Any) -> Any:
        """The level closest to `quantity`, ties towards the smaller."""
        step = self.default_params.max_quantity / (self.num_levels - 1)
        return jnp.clip(jnp.ceil(quantity / step - 0.5 - 1e-4), 0, self.num_levels - 1).astype(jnp.int32)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`."""
        params = self.default_params
        market, firms = self.market(params), self.num_agents
        nash, collusive = nash_quantity(firms, *market), collusive_quantity(firms, *market)

        def best_response(observation: jax.Array, key: jax.Array) -> jax.Array:
            start, levels = self.shown(observation)
            last = self.quantities(jnp.sum(levels[1:]), params)
            return self.level(best_response_quantity(jnp.where(start, (firms - 1) * collusive, last), *market))

        def imitate(observation: jax.Array, key: jax.Array) -> jax.Array:
            start, levels = self.shown(observation)
            gains = self.price(levels, params) > params.cost  # then who sells most earns most, else who sells least
            best = jnp.where(gains, jnp.max(levels), jnp.min(levels))
            return jnp.where(start, self.level(collusive), best)

        return {
            "random": random_player(self),
            "best_response": best_response,
            "imitate": imitate,
            "collusive": lambda observation, key: self.level(collusive),
            "nash": lambda observation, key: self.level(nash),
        }
