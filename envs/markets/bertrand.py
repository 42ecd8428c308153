"""Price competition with logit demand, its equilibrium and its monopoly."""

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

NEWTON_STEPS = 5
"""Enough for float64, from the starting points below."""


def _lambert(log_argument: Any, xp: Any) -> Any:
    """Lambert's W(exp(log_argument)): the z > 0 with log z + z = log_argument, by Newton's method in log z.

    In log z the derivative is 1 + z, and the start, log(1 + exp(log_argument)), never far: no step is held back.
    """
    t = xp.log(xp.logaddexp(0.0, log_argument))
    for _ in range(NEWTON_STEPS):
        z = xp.exp(t)
        t = t - (t + z - log_argument) / (1 + z)
    return xp.exp(t)


def logit_demand(prices: Any, quality: Any, differentiation: Any, outside: Any, xp: Any = np) -> Any:
    """Shares [..., N] of one unit of demand at prices [..., N]; what is left is not sold.

    q_i = exp((a - p_i) / mu) / (sum_j exp((a - p_j) / mu) + exp(a_0 / mu)), with the quality a, the outside option's
    a_0 and mu, how differentiated products are (Calvano et al., 2020, section II).
    """
    utility = (quality - prices - outside) / differentiation
    most = xp.maximum(xp.max(utility, axis=-1, keepdims=True), 0.0)  # so that no exponential overflows
    weights = xp.exp(utility - most)
    return weights / (xp.sum(weights, axis=-1, keepdims=True) + xp.exp(-most))


def nash_price(num_firms: int, quality: Any, cost: Any, differentiation: Any, outside: Any, xp: Any = np) -> Any:
    """The price of every firm in the one-shot equilibrium: 1 = (p - c) (1 - q) / mu.

    With y = (p - c) / mu, u = (a - c - a_0) / mu and q = 1 / (n + exp(y - u)) it is (y - 1) (n - 1 + exp(y - u)) = 1,
    solved in log(y - 1). float64 with `xp` = numpy; with jax.numpy numbers may be traced.
    """
    u = (quality - cost - outside) / differentiation
    others = np.log(num_firms - 1.0)
    t = -others  # y - 1 is at most 1 / (n - 1)
    for _ in range(NEWTON_STEPS):
        z = xp.exp(t)
        unsold = z + 1 - u
        total = xp.logaddexp(others, unsold)
        t = t - (t + total) / (1 + z * xp.exp(unsold - total))
    return cost + differentiation * (1 + xp.exp(t))


def monopoly_price(num_firms: int, quality: Any, cost: Any, differentiation: Any, outside: Any, xp: Any = np) -> Any:
    """The price of every firm that maximises their joint profit: 1 = (p - c) (1 - n q) / mu.

    With y and u as in `nash_price`, y = 1 + W(n exp(u - 1)), with Lambert's W.
    """
    u = (quality - cost - outside) / differentiation
    return cost + differentiation * (1 + _lambert(np.log(num_firms) + u - 1, xp))


def best_response_price(rivals: Any, quality: Any, cost: Any, differentiation: Any, outside: Any, xp: Any = np) -> Any:
    """The price [...] that earns most against rivals' prices [..., N - 1], if any price may be set.

    y = 1 + W(exp((a - c) / mu - 1) / R), where R = sum_j exp((a - p_j) / mu) + exp(a_0 / mu) is the weight of all else.
    """
    utilities = (quality - rivals) / differentiation
    most = xp.maximum(xp.max(utilities, axis=-1), outside / differentiation)
    weights = xp.sum(xp.exp(utilities - most[..., None]), axis=-1) + xp.exp(outside / differentiation - most)
    log_argument = (quality - cost) / differentiation - 1 - most - xp.log(weights)
    return cost + differentiation * (1 + _lambert(log_argument, xp))


def symmetric_profit(
    num_firms: int, price: Any, quality: Any, cost: Any, differentiation: Any, outside: Any, xp: Any = np
) -> Any:
    """The profit of each firm when all set `price`."""
    return (price - cost) / (num_firms + xp.exp((price + outside - quality) / differentiation))


class BertrandParams(struct.PyTreeNode):
    """The numbers of the market; all firms are alike."""

    quality: float  # float []: a, of every product
    cost: float  # float []: c, of a unit
    differentiation: float  # float []: mu, the spread of tastes; at 0 the cheapest product sells alone
    outside: float  # float []: a_0, the quality of buying nothing
    grid_margin: float  # float []: xi, how far prices reach beyond Nash and monopoly, in units of their distance
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class Bertrand(Oligopoly):
    """Price competition with logit demand: each firm gains by undercutting, and all lose when all do.

    Source: Calvano, Calzolari, Denicolo and Pastorello (2020), Artificial intelligence, algorithmic pricing, and
    collusion, American Economic Review 110, section II.

    Rules: firm i sets a price p_i, sells q_i = exp((a - p_i) / mu) / (sum_j exp((a - p_j) / mu) + exp(a_0 / mu)) and
    earns (p_i - c) q_i, with a = 2, c = 1, mu = 1/4 and a_0 = 0. Prices are m = `num_prices` (15) equidistant points
    from p_N - xi (p_M - p_N) to p_M + xi (p_M - p_N), xi = 0.1, between the one-shot Nash price p_N and the price p_M
    that maximises joint profit; both are computed from the parameters. For two firms p_N = 1.472927 (profit
    0.222927 each) and p_M = 1.924981 (0.337490); prices reach from 1.427721 to 1.970186. On this grid the one-shot
    game has the two symmetric equilibria 1 and 2 (collusion index -0.024 and 0.117): "competitive" is not exactly 0.
    Truncated after `max_steps` (1,000); a one-shot game terminates after its only step.

    Shapes: action int32, 0 .. m - 1, cheapest first. Observation: the last prices in the first person,
    `Discrete(m**N + 1)`: own m + other for two firms, m**N at the start. Where m**N > 4,096 (four firms or more of 15
    prices) float32 [1 + N]: a start flag, and levels / (m - 1), own first. Reward float32 [N], profit. Metrics [N]:
    "price", "profit" and "collusion_index", (profit - pi_N) / (pi_M - pi_N).

    Deviations: the source plays for ever; here the clock starts the memory anew every 1,000 periods, which no learner
    is shown as an end. All firms are alike: its sections on other costs and qualities have no grid in common. The
    scripted players know the default parameters.

    Raises:
        InputError: for fewer than two firms or prices.
    """

    name: str = "bertrand_pricing"
    num_agents: int = 2
    num_prices: int = 15
    one_shot: bool = False

    exploiter: ClassVar[str | None] = "best_response"
    cooperator: ClassVar[str | None] = "monopoly"
    defector: ClassVar[str | None] = "competitive"
    definitions: ClassVar[Mapping[str, str]] = {
        "monopoly": "always sets the price closest to the one that maximises joint profit",
        "competitive": "always sets the price closest to the one-shot Nash price",
        "undercutter": "sets the price one step below the cheapest rival's last, but none below the competitive one",
        "best_response": "sets what earns most against the rivals' last prices, at first against monopoly prices",
        "price_matcher": "starts at the monopoly price, then sets the cheapest rival's last price",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(f"{self.name}: num_prices", self.num_prices, 2)
        object.__setattr__(self, "num_actions", self.num_prices)

    @property
    def default_params(self) -> BertrandParams:
        return BertrandParams(
            quality=2.0, cost=1.0, differentiation=0.25, outside=0.0, grid_margin=0.1, max_steps=self.default_steps
        )

    def check_params(self, params: BertrandParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: parameter cost", params.cost, 0)
        at_least(f"{self.name}: parameter grid_margin", params.grid_margin, 0)
        if not isinstance(params.differentiation, Tracer) and not np.all(np.asarray(params.differentiation) > 0):
            raise InputError(
                f"{self.name}: parameter differentiation must be above 0, such as 0.01, got {params.differentiation}"
            )

    def market(self, params: BertrandParams) -> tuple[Any, Any, Any, Any]:
        """quality, cost, differentiation and outside, as the closed forms take them."""
        return params.quality, params.cost, params.differentiation, params.outside

    def grid(self, params: BertrandParams, xp: Any = np) -> tuple[Any, Any]:
        """The lowest price and the step between prices."""
        nash, monopoly = (price(self.num_agents, *self.market(params), xp) for price in (nash_price, monopoly_price))
        reach = params.grid_margin * (monopoly - nash)
        return nash - reach, (monopoly - nash + 2 * reach) / (self.num_prices - 1)

    def prices(self, params: BertrandParams | None = None) -> np.ndarray:
        """float64 [m]: all prices, lowest first."""
        lowest, step = self.grid(self.default_params if params is None else params)
        return lowest + step * np.arange(self.num_prices)

    def profits(self, prices: Any, params: BertrandParams, xp: Any = np) -> Any:
        """Profits [..., N] at prices [..., N]: (p - c) q."""
        quality, cost, differentiation, outside = self.market(params)
        return (prices - cost) * logit_demand(prices, quality, differentiation, outside, xp)

    def set_prices(self, actions: jax.Array, params: BertrandParams) -> jax.Array:
        """float32 [N] of actions int32 [N]."""
        lowest, step = self.grid(params, jnp)
        return lowest + step * actions

    def payoff(self, actions: jax.Array, params: BertrandParams) -> jax.Array:
        return self.profits(self.set_prices(actions, params), params, jnp)

    def metrics(self, actions: jax.Array, params: BertrandParams) -> Metrics:
        prices, market = self.set_prices(actions, params), self.market(params)
        nash, monopoly = (price(self.num_agents, *market, jnp) for price in (nash_price, monopoly_price))
        ends = (symmetric_profit(self.num_agents, price, *market, jnp) for price in (nash, monopoly))
        profit = self.profits(prices, params, jnp)
        return {"price": prices, "profit": profit, "collusion_index": collusion_index(profit, *ends)}

    # ------------------------------------------------------------------ scripted players
    @property
    def levels(self) -> tuple[int, int]:
        """The prices of the grid that are closest to Nash and to monopoly."""
        xi = self.default_params.grid_margin
        nash, monopoly = (round((self.num_prices - 1) * distance / (1 + 2 * xi)) for distance in (xi, 1 + xi))
        return nash, monopoly

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`."""
        competitive, monopoly = self.levels
        params, prices = self.default_params, self.prices()
        weights = np.exp((params.quality - params.outside - prices) / params.differentiation).astype(np.float32)
        margins = (prices - params.cost).astype(np.float32)

        def rivals(observation: jax.Array) -> jax.Array:
            """int32 [N - 1]: their last prices, as if they had set monopoly prices before the start."""
            start, levels = self.shown(observation)
            return jnp.where(start, monopoly, levels[1:])

        def undercutter(observation: jax.Array, key: jax.Array) -> jax.Array:
            return jnp.maximum(jnp.min(rivals(observation)) - 1, competitive)

        def best_response(observation: jax.Array, key: jax.Array) -> jax.Array:
            others = 1 + jnp.sum(jnp.asarray(weights)[rivals(observation)])  # and buying nothing
            return jnp.argmax(margins * weights / (weights + others)).astype(jnp.int32)

        return {
            "random": random_player(self),
            "best_response": best_response,
            "undercutter": undercutter,
            "price_matcher": lambda observation, key: jnp.min(rivals(observation)),
            "monopoly": lambda observation, key: jnp.int32(monopoly),
            "competitive": lambda observation, key: jnp.int32(competitive),
        }
