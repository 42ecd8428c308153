"""A public good that comes in one piece: enough contributors or nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import binom

from marl_suite.envs.environment import Metrics, at_least, at_most
from marl_suite.envs.errors import InputError
from marl_suite.envs.n_player_dilemmas import NPlayerDilemma


class ThresholdPublicGoodsParams(struct.PyTreeNode):
    """The numbers of the threshold public goods game."""

    benefit: float  # float []: b, what everyone gets when the good is provided
    cost: float  # float []: c, what a contributor pays
    threshold: int  # int []: k, contributors that the good takes
    refund: float  # float []: share of the cost that contributors get back when they are too few, 0 .. 1
    max_steps: int  # int []


@dataclasses.dataclass(frozen=True)
class ThresholdPublicGoods(NPlayerDilemma):
    """Threshold public goods game: all gain once enough contribute, and everyone would rather be one of the rest.

    Source: Palfrey and Rosenthal (1984), Participation and the provision of discrete public goods, Journal of Public
    Economics 24, where both the game without refunds and the one with full refunds are solved.

    Rules: everyone gets b = 1 if at least k = 3 of N = 5 agents contribute; each contributor pays c = 0.2. When they
    are too few, contributors get the share `refund` (0) of what they paid back. Exactly k contributors are a Nash
    equilibrium, and so is nobody; in symmetric mixed ones each contributes with probability 0.24034, from which any
    change leads further away, or 0.75966, to which small changes come back (`symmetric_equilibria`). Truncated after
    `max_steps` (50); a one-shot game terminates after its only step.

    Shapes: action int32, 0 contributes and 1 does not. Observation float32 [5]: start flag, own last action one-hot,
    share of the others per action. Reward float32 [N], in units of b. Metrics "cooperation" [N]: who contributed, and
    "provided": whether there were enough.

    Deviations: the source plays it once, which is `one_shot`; refunds in between are added.

    Raises:
        InputError: for fewer than two agents.
    """

    name: str = "threshold_public_goods"
    num_agents: int = 5
    one_shot: bool = False

    @property
    def default_params(self) -> ThresholdPublicGoodsParams:
        threshold = min(3, self.num_agents)
        return ThresholdPublicGoodsParams(
            benefit=1.0, cost=0.2, threshold=threshold, refund=0.0, max_steps=self.default_steps
        )

    def check_params(self, params: ThresholdPublicGoodsParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: parameter cost", params.cost, 0)
        at_least(f"{self.name}: parameter threshold", params.threshold, 1)
        at_most(f"{self.name}: parameter threshold", params.threshold, self.num_agents)
        at_least(f"{self.name}: parameter refund", params.refund, 0)
        at_most(f"{self.name}: parameter refund", params.refund, 1)

    def payoff(self, actions: jax.Array, params: ThresholdPublicGoodsParams) -> jax.Array:
        contributes = actions == 0
        provided = jnp.sum(contributes) >= params.threshold
        paid = params.cost * jnp.where(provided, 1.0, 1.0 - params.refund)
        return params.benefit * provided - paid * contributes

    def metrics(self, actions: jax.Array, params: ThresholdPublicGoodsParams) -> Metrics:
        provided = jnp.sum(actions == 0) >= params.threshold
        return {**super().metrics(actions, params), "provided": provided.astype(jnp.float32)}


# ---------------------------------------------------------------------- known answers
class SymmetricEquilibrium(NamedTuple):
    """All agents contribute with the same probability, and none gains by another."""

    probability: float
    stable: bool  # whether the replicator dynamics x' = x (1 - x) g(x) come back to it after any small change


def gain_from_contributing(
    x: float, num_agents: int, threshold: int, benefit: float, cost: float, refund: float = 0.0
) -> float:
    """g(x), what contributing gains an agent whose N - 1 others contribute with probability `x` each.

    g(x) = b P(k - 1) - c (1 - refund P(0 .. k - 2)), P being binomial with N - 1 draws (Palfrey and Rosenthal 1984).
    """
    chances = binom.pmf(np.arange(num_agents), num_agents - 1, x)
    return float(chances @ _gains(num_agents, threshold, benefit, cost, refund))


def symmetric_equilibria(
    num_agents: int, threshold: int, benefit: float, cost: float, refund: float = 0.0
) -> list[SymmetricEquilibrium]:
    """All symmetric equilibria of one play, by their probability of contributing.

    With odds z = x / (1 - x), g(x) is positive where b - c exceeds a sum of positive multiples of powers of z. The
    logarithm of such a sum is convex in log z, so that there are at most two equilibria in mixed strategies: the
    lower one unstable, the upper one stable.

    Raises:
        InputError: for a threshold that the agents cannot meet, or a cost that is not positive.
    """
    if not 1 <= threshold <= num_agents:
        raise InputError(f"threshold must be a whole number from 1 to {num_agents}, got {threshold}")
    if not cost > 0:
        raise InputError(f"cost must be positive, got {cost}")
    gains = _gains(num_agents, threshold, benefit, cost, refund)
    inner = [SymmetricEquilibrium(float(1 / (1 + np.exp(-t))), stable) for t, stable in _roots(gains, threshold)]
    signs = gains[gains != 0]
    none = [SymmetricEquilibrium(0.0, bool(signs[0] < 0))] if gains[0] <= 0 else []
    everyone = [SymmetricEquilibrium(1.0, bool(signs[-1] > 0))] if gains[-1] >= 0 else []
    return [*none, *inner, *everyone]


def pure_equilibria(num_agents: int, threshold: int, benefit: float, cost: float, refund: float = 0.0) -> list[int]:
    """The numbers of contributors from which nobody gains by changing alone."""
    gains = _gains(num_agents, threshold, benefit, cost, refund)
    stays = [True, *(gains >= 0)]  # a contributor among m has m - 1 others
    keeps_out = [*(gains <= 0), True]
    return [m for m in range(num_agents + 1) if stays[m] and keeps_out[m]]


def _gains(num_agents: int, threshold: int, benefit: float, cost: float, refund: float) -> np.ndarray:
    """float64 [N]: what contributing gains when 0 .. N - 1 others contribute."""
    others = np.arange(num_agents)
    paid = cost * np.where(others < threshold - 1, 1 - refund, 1.0)
    return benefit * (others == threshold - 1) - paid


def _roots(gains: np.ndarray, threshold: int) -> list[tuple[float, bool]]:
    """The log odds at which contributing gains nothing, and whether the gain falls through zero there."""
    num_agents, pivotal = len(gains), threshold - 1
    losing = np.flatnonzero(gains < 0)
    if gains[pivotal] <= 0 or not losing.size:
        return []
    others = np.arange(num_agents)
    log_ways = -gammaln(others + 1) - gammaln(num_agents - others)  # binomial coefficients up to a common factor
    terms = log_ways + np.log(np.abs(gains), where=gains != 0, out=np.zeros(num_agents))
    powers, weights = losing - pivotal, terms[losing] - terms[pivotal]

    def surplus(t: float) -> float:
        """Concave in t, with the sign of g."""
        return -float(np.logaddexp.reduce(weights + powers * t))

    def slope(t: float) -> float:
        return -float(np.exp(weights + powers * t + surplus(t)) @ powers)

    def zero(of: Callable[[float], float], low: float, high: float) -> float:
        root: Any = brentq(of, low, high, xtol=1e-14)
        return root

    bound = 10 + np.abs(weights).max()  # beyond it one end of the sum alone decides the sign
    rises, falls = bool(np.any(powers < 0)), bool(np.any(powers > 0))
    top = zero(slope, -bound, bound) if rises and falls else bound if rises else -bound
    if surplus(top) < 0:
        return []
    roots = [(zero(surplus, -bound, top), False)] if rises else []
    return roots + ([(zero(surplus, top, bound), True)] if falls else [])
