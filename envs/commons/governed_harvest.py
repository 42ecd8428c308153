"""Governed harvest: a commons whose users vote for a norm, watch each other and fine who breaks it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, at_least, at_most, per_episode, random_player
from marl_suite.envs.spaces import Box, MultiDiscrete


def sustainable_effort(growth: jax.Array | float, harvest_rate: jax.Array | float) -> jax.Array | float:
    """The share of full effort at which the steady harvest is largest: (growth / 2) / harvest_rate.

    Under a steady effort x of all the stock settles at 1 - x harvest_rate / growth and the harvest is
    x harvest_rate times it, a parabola in x. At twice this effort the stock dies out.
    """
    return growth / (2 * harvest_rate)


def lower_median(levels: jax.Array, num_levels: int) -> jax.Array:
    """int32 []: the median of levels int32 [N], 0 .. num_levels - 1; the lower of the two middle ones for an even N.

    It is the least level that half of the votes or more do not exceed, found by counting instead of sorting.
    """
    at_most_level = (levels[:, None] <= np.arange(num_levels)).sum(axis=0)  # [L]
    return (2 * at_most_level < levels.shape[0]).sum().astype(jnp.int32)


class GovernedHarvestState(struct.PyTreeNode):
    """The stock, the norm and what everybody did in the last round."""

    stock: jax.Array  # float32 [], share of the capacity
    norm: jax.Array  # int32 [], the highest level of effort that is not fined in the coming round
    last_effort: jax.Array  # int32 [N], levels; 0 at the start
    last_fines: jax.Array  # int32 [N], how many fines each got
    harvested: jax.Array  # float32 [], what all have harvested in this episode
    time: jax.Array  # int32 [], rounds played


class GovernedHarvestParams(struct.PyTreeNode):
    """Amounts are shares of the stock's capacity."""

    growth: float = 0.3  # float [], g, per round, at most 1
    harvest_rate: float = 0.6  # float [], share of the stock that full effort of all harvests
    initial_stock: float = 0.5  # float []
    collapse: float = 0.05  # float [], the game ends when less is left
    fine: float = 0.06  # float [], what each fine costs who broke the norm
    fee: float = 0.02  # float [], what it costs who fines
    max_steps: int = 100  # int []


@dataclasses.dataclass(frozen=True)
class GovernedHarvest(Environment):
    """Governed harvest: more effort harvests more, a norm can forbid it, and upholding the norm costs the upholder.

    Source: inspired by Gupta et al. (AAMAS 2026), on a common-pool resource with monitoring, punishment and a norm that
    the group votes for, after three of the design principles of Ostrom (1990), Governing the Commons. All numbers are
    ours, and so is the design below that level.

    Rules: a round is one step. At once every agent chooses its effort, one of L levels (5) that are 0, 1 / (L - 1), ..,
    1 of full effort; whether to monitor; and a level that it proposes as the norm. Agent i harvests
    (harvest_rate / N) x_i S at effort x_i and stock S (harvest_rate .6), and the stock becomes
    S + g S (1 - S) - all harvests (g = .3, S = .5 at first). Each monitor looks at one of the other agents, drawn
    uniformly. If that agent's effort in this round is above the norm it is fined .06 and the monitor pays a fee of .02
    (3 : 1); an agent can be fined by several. What is paid is lost. Then the (lower) median of the proposals becomes
    the norm of the next round; in the first one nothing is forbidden. Terminates when the stock is below .05;
    truncated after `max_steps` (100).

    The steady harvest is largest, g / 4 = .075 per round, at S = .5 and the effort g / (2 harvest_rate) = .25 of all,
    which is the second level. Five players at full effort end the game in 5 rounds.

    Five `fair_monitor` players earn 1.5 each per episode and five `greedy` ones .135. A `greedy` one among four of the
    former earns 2.76 where the fine is 0 and loses 3.2 with it: fines take greed away. What is left is fear: among four
    greedy ones, who vote every norm down, a lone `fair_monitor` earns .05, and greed would earn it .135.

    Shapes: action int32 [3] of MultiDiscrete((L, 2, L)): effort, monitor, proposal. Observation float32 [6]: stock;
    norm; own last effort and the mean of the others', all as shares (0 at first); own last fines over N - 1; and the
    effort that is best for all, at most 1. Reward float32 [N]: harvest less fines and fees, in capacities.

    Metrics: "effort", "monitoring" and "compliance" (effort within the norm in force) [N], "fines" [N] that each got,
    "norm" in force and "stock" after the round, as shares; of whole episodes "survived" and "efficiency", all
    harvests over g / 4 in each of `max_steps` rounds (by fishing down the stock a little more than 1 is possible).

    Deviations: the source's agents are language models with a fixed consumption, which would be a constant here, a
    probability of punishing, which is part of the policy here (who monitors fines), and imitation of the successful,
    which belongs to learners. Fines do not grow with repetition.

    Raises:
        InputError: for fewer than two agents or levels.
    """

    name: str = "governed_harvest"
    num_agents: int = 5
    num_levels: int = 5

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "greedy"
    cooperator: ClassVar[str | None] = "fair_monitor"
    defector: ClassVar[str | None] = "greedy"
    definitions: ClassVar[Mapping[str, str]] = {
        "fair_monitor": "spends the effort that is best for all, proposes it as the norm and monitors",
        "fair": "spends the effort that is best for all and proposes it as the norm, but leaves monitoring to others",
        "norm_follower": "spends the effort that the norm allows, proposes the best for all and does not monitor",
        "greedy": "always spends full effort, proposes to allow it and does not monitor",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_levels", self.num_levels, 2)

    @property
    def default_params(self) -> GovernedHarvestParams:
        return GovernedHarvestParams()

    def check_params(self, params: GovernedHarvestParams) -> None:
        for field in ("growth", "harvest_rate"):
            at_least(f"{self.name}: parameter {field}", getattr(params, field), 1e-6)
        for field in ("initial_stock", "collapse", "fine", "fee"):
            at_least(f"{self.name}: parameter {field}", getattr(params, field), 0)
        for field in ("growth", "harvest_rate", "initial_stock", "collapse"):
            at_most(f"{self.name}: parameter {field}", getattr(params, field), 1)
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)

    def observation_space(self, params: GovernedHarvestParams | None = None) -> Box:
        return Box(0, 1, (6,))

    def action_space(self, params: GovernedHarvestParams | None = None) -> MultiDiscrete:
        return MultiDiscrete((self.num_levels, 2, self.num_levels))

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: GovernedHarvestParams) -> GovernedHarvestState:
        del key  # the start is always the same
        return GovernedHarvestState(
            stock=jnp.asarray(params.initial_stock, jnp.float32),
            norm=jnp.full((), self.num_levels - 1, jnp.int32),
            last_effort=jnp.zeros(self.num_agents, jnp.int32),
            last_fines=jnp.zeros(self.num_agents, jnp.int32),
            harvested=jnp.zeros((), jnp.float32),
            time=jnp.zeros((), jnp.int32),
        )

    def transition(
        self, key: jax.Array, state: GovernedHarvestState, actions: jax.Array, params: GovernedHarvestParams
    ) -> tuple[GovernedHarvestState, jax.Array, jax.Array, Metrics]:
        effort, monitors, proposal = actions.astype(jnp.int32).T
        fines, fees = self.sanctions(key, effort > state.norm, monitors > 0)
        share = effort / (self.num_levels - 1)
        harvest = params.harvest_rate / self.num_agents * share * state.stock
        total = harvest.sum()
        grown = state.stock + params.growth * state.stock * (1 - state.stock)
        after = GovernedHarvestState(
            stock=jnp.clip(grown - total, 0.0, 1.0),
            norm=lower_median(proposal, self.num_levels),
            last_effort=effort,
            last_fines=fines,
            harvested=state.harvested + total,
            time=state.time + 1,
        )
        collapsed = after.stock < params.collapse
        over = collapsed | self.is_truncated(after, params)
        metrics = {
            "effort": share,
            "monitoring": monitors.astype(jnp.float32),
            "compliance": (effort <= state.norm).astype(jnp.float32),
            "fines": fines.astype(jnp.float32),
            "norm": state.norm / (self.num_levels - 1),
            "stock": after.stock,
            "episodes": over.astype(jnp.float32),
            "survived": (over & ~collapsed).astype(jnp.float32),
            "efficiency": jnp.where(over, after.harvested / (params.growth / 4 * params.max_steps), 0.0),
        }
        return after, harvest - params.fine * fines - params.fee * fees, collapsed, metrics

    def sanctions(self, key: jax.Array, violates: jax.Array, monitors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """int32 [N] each: fines that every agent gets, and whether it pays a fee; from bool [N] each."""
        bits = jax.random.bits(key, (self.num_agents,))  # cheaper than randint; off by less than N in 2^32
        ahead = 1 + (bits % (self.num_agents - 1)).astype(jnp.int32)
        n = np.arange(self.num_agents)
        distance = (n - n[:, None]) % self.num_agents  # [i, j]: how far agent j comes after agent i
        fined = (ahead[:, None] == distance) & monitors[:, None] & violates  # [i, j]: i fines j
        return fined.sum(axis=0), fined.sum(axis=1)

    def derived_metrics(self, means: Metrics) -> Metrics:
        return per_episode(means, "survived", "efficiency")

    # ------------------------------------------------------------------ what is seen
    def observe(self, state: GovernedHarvestState, params: GovernedHarvestParams) -> jax.Array:
        effort = state.last_effort / (self.num_levels - 1)
        of_others = (effort.sum() - effort) / (self.num_agents - 1)
        best = jnp.minimum(sustainable_effort(params.growth, params.harvest_rate), 1.0)
        same = (state.stock, state.norm / (self.num_levels - 1), best)
        stock, norm, best = (jnp.full(self.num_agents, value, jnp.float32) for value in same)
        fines = state.last_fines / (self.num_agents - 1)
        return jnp.clip(jnp.stack([stock, norm, effort, of_others, fines, best], axis=1), 0.0, 1.0)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`; what is best for all is rounded down to a level, but at least 1."""
        most = self.num_levels - 1

        def best(observation: jax.Array) -> jax.Array:
            return jnp.maximum(jnp.floor(observation[5] * most + 1e-4), 1)

        def choose(effort: jax.Array | int, monitor: int, proposal: jax.Array | int) -> jax.Array:
            return jnp.stack([jnp.asarray(part, jnp.int32) for part in (effort, monitor, proposal)])

        return {
            "random": random_player(self),
            "fair_monitor": lambda observation, key: choose(best(observation), 1, best(observation)),
            "fair": lambda observation, key: choose(best(observation), 0, best(observation)),
            "norm_follower": lambda observation, key: choose(jnp.round(observation[1] * most), 0, best(observation)),
            "greedy": lambda observation, key: choose(most, 0, most),
        }
