"""Sharing the cost of a facility that must serve the largest need: the airport game, bargained over by offers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, at_most, one_of, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.repeated_games import NOT_YET
from marl_suite.envs.spaces import Box, Discrete


class CostSharingParams(struct.PyTreeNode):
    """The numbers of the airport game."""

    needs: np.ndarray  # float32 [N]: what a facility for each agent alone costs
    rebate: float  # float []: share of what is offered beyond the cost that goes back, in proportion to offers
    max_steps: int  # int []


class CostSharingState(struct.PyTreeNode):
    """This episode's needs, the last offers and the clock."""

    needs: jax.Array  # float32 [N]
    shapley: jax.Array  # float32 [N], their Shapley value
    last_offers: jax.Array  # int32 [N], NOT_YET at the start
    time: jax.Array  # int32 [], steps taken


@dataclasses.dataclass(frozen=True)
class CostSharing(Environment):
    """Airport game: sharing one facility saves all of them money if only their offers cover it, so each offers little.

    Source: Littlechild and Owen (1973), A simple expression for the Shapley value in a special case; Nash (1953),
    Two-person cooperative games, for the simultaneous demands; after the airport fee allocation of MAgIC (Xu et al.,
    2023), which language models negotiate in words.

    Rules: a facility for a coalition costs its largest need, here 3 for needs (1, 2, 3). In each step all agents offer
    a share of that total at once, one of `num_levels` (19) levels from nothing to all of it. If the offers cover the
    cost, the facility is built and each pays what it offered, less its part of a `rebate` (0): that share of the
    surplus, in proportion to offers. Otherwise each builds for itself and pays its need. Every joint offer that covers
    the cost exactly and asks nobody for more than its need is a Nash equilibrium, the Shapley value (1/3, 5/6, 11/6)
    among them: with 19 levels it can be offered exactly. With `needs="drawn"` each episode draws every need uniformly
    between the least and the greatest entry of `params.needs`. Truncated after `max_steps` (50); with
    `until_agreement` an episode is one negotiation and terminates when offers cover the cost.

    Shapes: action int32, level a of L offers a / (L - 1) of the cost. Observation float32 [1 + 2 N]: a flag for the
    start, all needs over the largest and all last offers as shares of the cost (0 at the start), each with the own
    one first and the others in the order of their seats. Reward float32 [N]: what an agent saves against its need, in
    the units of needs; 0 where offers fail. Metrics: "agreement", "efficiency" (all savings over the greatest
    possible), "shapley_distance" (half the absolute differences of payments from the Shapley value, over the cost;
    in tables per agreement).

    Deviations: the source's players propose a split of all shares, vote, and have some rounds to agree in, with
    5 % as the unit and with usage data in words instead of needs; here each offers only its own share and a facility
    is needed in every step, so that disagreement costs a step's savings. Savings instead of costs are rewarded, which
    differ by a constant and make disagreement worth 0.

    Raises:
        InputError: for fewer than two agents or levels, or an unknown way to set needs.
    """

    name: str = "cost_sharing"
    num_agents: int = 3
    num_levels: int = 19
    needs: str = "fixed"
    until_agreement: bool = False

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "stingy"
    cooperator: ClassVar[str | None] = "conceding"
    defector: ClassVar[str | None] = "stingy"
    definitions: ClassVar[Mapping[str, str]] = {
        "shapley": "offers its Shapley value",
        "egalitarian": "offers an equal part of the cost",
        "conceding": "offers its Shapley value first, and up to its need whatever was missing last time",
        "stingy": "offers nothing",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_levels", self.num_levels, 2)
        one_of(f"{self.name}: needs", self.needs, ("fixed", "drawn"))

    @property
    def default_params(self) -> CostSharingParams:
        needs = np.arange(1, self.num_agents + 1, dtype=np.float32)
        return CostSharingParams(needs=needs, rebate=0.0, max_steps=50)

    def check_params(self, params: CostSharingParams) -> None:
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)
        at_least(f"{self.name}: parameter rebate", params.rebate, 0)
        at_most(f"{self.name}: parameter rebate", params.rebate, 1)
        if not isinstance(params.needs, Tracer) and not np.all(np.asarray(params.needs) > 0):
            raise InputError(f"{self.name}: parameter needs must be positive, got {np.asarray(params.needs).tolist()}")

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (1 + 2 * self.num_agents,))

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(self.num_levels)

    def initial_state(self, key: jax.Array, params: CostSharingParams) -> CostSharingState:
        needs = jnp.asarray(params.needs, jnp.float32)
        if self.needs == "drawn":
            needs = jax.random.uniform(key, needs.shape, minval=needs.min(), maxval=needs.max())
        last_offers, shapley = jnp.full(self.num_agents, NOT_YET, jnp.int32), shapley_value(needs)
        return CostSharingState(needs=needs, shapley=shapley, last_offers=last_offers, time=jnp.zeros((), jnp.int32))

    def transition(
        self, key: jax.Array, state: CostSharingState, actions: jax.Array, params: CostSharingParams
    ) -> tuple[CostSharingState, jax.Array, jax.Array, Metrics]:
        del key  # only needs are ever drawn
        offers = actions.astype(jnp.int32)
        agreed, paid = self.payments(offers, state.needs, params)
        reward = state.needs - paid
        cost = state.needs.max()
        distance = jnp.abs(paid - state.shapley).sum() / (2 * cost)
        metrics = {
            "agreement": agreed.astype(jnp.float32),
            "efficiency": reward.sum() / (state.needs.sum() - cost),
            "shapley_distance": jnp.where(agreed, distance, 0.0),
        }
        state = state.replace(last_offers=offers, time=state.time + 1)
        return state, reward, agreed & self.until_agreement, metrics

    def payments(self, offers: jax.Array, needs: jax.Array, params: CostSharingParams) -> tuple[jax.Array, jax.Array]:
        """Whether offers int32 [N] cover the cost, and what each agent then pays for being served, float32 [N]."""
        full = self.num_levels - 1
        agreed = offers.sum() >= full  # counted in levels, where rounding cannot undo an exact cover
        surplus = jnp.maximum(offers.sum() - full, 0) / jnp.maximum(offers.sum(), 1)
        shared = offers * (needs.max() / full) * (1 - params.rebate * surplus)
        return agreed, jnp.where(agreed, shared, needs)

    def observe(self, state: CostSharingState, params: CostSharingParams) -> jax.Array:
        begun = state.last_offers != NOT_YET
        offers = jnp.where(begun, state.last_offers, 0) / (self.num_levels - 1)
        table = jnp.concatenate([state.needs / state.needs.max(), offers]).astype(jnp.float32)
        seats = np.arange(self.num_agents)
        own_first = (seats[:, None] + seats) % self.num_agents
        columns = np.concatenate([own_first, own_first + self.num_agents], axis=1)
        return jnp.concatenate([1.0 - begun[:, None], table[columns]], axis=1)

    def derived_metrics(self, means: Metrics) -> Metrics:
        return means | {"shapley_distance": means["shapley_distance"] / means["agreement"]}

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`; offers are rounded up to the next level."""
        full, num_agents = self.num_levels - 1, self.num_agents

        def at_least_share(share: jax.Array) -> jax.Array:
            return jnp.ceil(share * full - 1e-3).astype(jnp.int32)  # the margin keeps whole levels whole in float32

        def shapley(observation: jax.Array, key: jax.Array) -> jax.Array:
            return at_least_share(shapley_value(observation[1 : 1 + num_agents])[0])

        def conceding(observation: jax.Array, key: jax.Array) -> jax.Array:
            need, offers = observation[1], observation[1 + num_agents :]
            more = at_least_share(jnp.maximum(1 - offers.sum(), 0) / (num_agents - 1))
            last = jnp.round(offers[0] * full).astype(jnp.int32)
            raised = jnp.minimum(last + more, jnp.maximum(jnp.floor(need * full + 1e-3).astype(jnp.int32), last))
            return jnp.where(observation[0] > 0, shapley(observation, key), raised)

        return {
            "random": random_player(self),
            "shapley": shapley,
            "egalitarian": lambda observation, key: at_least_share(jnp.float32(1 / num_agents)),
            "conceding": conceding,
            "stingy": lambda observation, key: jnp.zeros((), jnp.int32),
        }


# ---------------------------------------------------------------------- known answers
def shapley_value(needs: Any) -> Any:
    """[N]: what each agent pays when a coalition's cost is its largest need.

    Littlechild and Owen (1973): the stretch from one need to the next larger one is borne equally by all who need it.
    Numpy arrays [N] give numpy arrays in their own precision, jax arrays jax arrays.
    """
    xp = np if isinstance(needs, np.ndarray) else jnp
    ranked = xp.sort(needs)
    users = len(needs) - np.arange(len(needs))
    stretches = ranked - xp.concatenate([xp.zeros_like(ranked[:1]), ranked[:-1]])
    return ((needs[:, None] >= ranked) * (stretches / users.astype(needs.dtype))).sum(axis=1)


def nucleolus(needs: np.ndarray) -> np.ndarray:
    """float64 [N]: the payments whose worst-off coalitions are as well off as can be, compared lexicographically.

    Littlechild (1974), A simple expression for the nucleolus in a special case: in the order of needs, the next m
    agents pay the least r for which (m + 1) r, or m r for all the rest, bears the cost up to the m-th of them, less
    what those before left over.
    """
    needs = np.asarray(needs, float)
    order, payments = np.argsort(needs, kind="stable"), np.zeros(len(needs))
    ranked, first, borne = needs[order], 0, 0.0
    while first < len(ranked):
        counts = np.arange(1, len(ranked) - first + 1)
        payers = counts + (counts < counts[-1])  # somebody with a larger need stands in for the rest
        rates = (ranked[first:] - borne) / payers
        last = int(np.flatnonzero(rates <= rates.min() + 1e-12)[-1])
        payments[order[first : first + last + 1]] = rates.min()
        borne += rates.min() * (last + 1)
        first += last + 1
    return payments


def in_core(payments: np.ndarray, needs: np.ndarray, tolerance: float = 1e-9) -> bool:
    """Whether `payments` bear exactly the cost and no coalition would pay less for a facility of its own.

    Payments being at least 0, it is enough to look at everyone with at most a given need.
    """
    payments, needs = np.asarray(payments, float), np.asarray(needs, float)
    up_to = (needs <= needs[:, None]) @ payments
    bears = abs(payments.sum() - needs.max()) <= tolerance
    return bool(bears and np.all(payments >= -tolerance) and np.all(up_to <= needs + tolerance))
