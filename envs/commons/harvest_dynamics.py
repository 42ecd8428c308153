"""Harvest dynamics: a fishery in which each unit of effort makes all others' effort catch less.

The closed forms are those of fisheries economics for a stock that has settled under constant effort, by Gordon (1954),
The economic theory of a common-property resource: the fishery, and Schaefer (1954), Some aspects of the dynamics of
populations important to the management of the commercial marine fisheries.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, at_least, at_most, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box


class HarvestDynamicsState(struct.PyTreeNode):
    """The stock, and everybody's last effort."""

    stock: jax.Array  # float32 [], S
    last_effort: jax.Array  # float32 [N], shares of the largest effort; 0 at the start
    time: jax.Array  # int32 [], steps taken


class HarvestDynamicsParams(struct.PyTreeNode):
    """The numbers of the Gordon-Schaefer fishery."""

    max_effort: float  # float [], the largest effort of one agent
    growth: float = 0.15  # float [], g, per step, at most 1
    catchability: float = 0.009  # float [], e, share of the stock that a unit of effort catches per step
    price: float = 200.0  # float [], P, of a unit of stock
    effort_cost: float = 0.9  # float [], w, of a unit of effort
    capacity: float = 1.0  # float [], S_max
    initial_stock: float = 0.5  # float [], S_0
    max_steps: int = 300  # int []


# ---------------------------------------------------------------------- closed forms
class SteadyState(NamedTuple):
    """Where a fishery settles."""

    effort: Any  # E, of all together
    stock: Any  # S
    harvest: Any  # H, per step
    rent: Any  # P H - w E, what all earn together per step


def steady_state(effort: Any, params: HarvestDynamicsParams) -> SteadyState:
    """Under a constant effort E of all together: S = S_max (1 - e E / g), where growth equals the harvest e E S.

    From E = g / e on the stock dies out; S would be negative there.
    """
    stock = params.capacity * (1 - params.catchability * effort / params.growth)
    harvest = params.catchability * effort * stock
    return SteadyState(effort, stock, harvest, params.price * harvest - params.effort_cost * effort)


def open_access(params: HarvestDynamicsParams) -> SteadyState:
    """Where effort comes in for as long as it pays: no rent is left, so that S = w / (P e).

    With the default numbers S = 0.5 and E = 8.333. (S_max (1 - g / (e P)), which is 0.917, is not a steady state of
    this fishery: its units do not agree.)
    """
    stock = params.effort_cost / (params.price * params.catchability)
    return steady_state(params.growth / params.catchability * (1 - stock / params.capacity), params)


def maximum_economic_yield(params: HarvestDynamicsParams) -> SteadyState:
    """The largest rent, at half of the effort of open access: S = 0.75 and E = 4.167 with the default numbers."""
    return steady_state(open_access(params).effort / 2, params)


def maximum_sustainable_yield(params: HarvestDynamicsParams) -> SteadyState:
    """The largest harvest, g S_max / 4 at S = S_max / 2: 0.0375 at 0.5 with the default numbers."""
    return steady_state(params.growth / (2 * params.catchability), params)


def symmetric_nash(params: HarvestDynamicsParams, num_agents: int) -> SteadyState:
    """Where nobody gains by another constant effort: E = E_open N / (N + 1).

    At E = e_i + E_others agent i earns e_i (P e S(E) - w) = e_i b (E_open - E) per step, b = P e^2 S_max / g, as in
    Cournot's oligopoly. Its best response is e_i = (E_open - E_others) / 2, and all e_i are equal where
    e_i = E_open / (N + 1). One agent takes the economic yield; with many the rent is gone. This compares steady
    states: it is no equilibrium of the game over time, in which agents can react to the stock.
    """
    return steady_state(open_access(params).effort * num_agents / (num_agents + 1), params)


# ---------------------------------------------------------------------- the game
@dataclasses.dataclass(frozen=True)
class HarvestDynamics(Environment):
    """Fishery with effort: each does best by fishing more than its share of the effort that is best for all.

    Source: Gordon (1954) and Schaefer (1954); numbers of the fishery of Pax (Willi et al., 2023).

    Rules: agent i fishes with effort e_i. The stock S grows to G = S + g S (1 - S / S_max), all catch
    H = min(e E S, G) where E = sum_i e_i, and S becomes G - H. Agent i earns P (e_i / E) H - w e_i. With g = .15,
    e = .009, P = 200, w = .9, S_max = 1 and S_0 = .5 open access (E = 8.333) settles at S = .5 without rent, and half
    of that effort at .75 with a rent of 1.875 per step. Truncated after `max_steps` (300). The largest effort of all
    together is g / e = 16.667, at which the stock dies out in the long run.

    Over an episode four `fair` players earn 135.5 each and four `nash` ones 86.3. A lone `nash` player among three fair
    ones earns 184.1 (greed), and a lone `fair` one among three of the others 74.3 (fear). Against full open access
    fishing less is better even for oneself, as in Chicken.

    Shapes: action float32 [], effort as a share of `max_effort`, clipped to 0 .. 1. Observation float32 [5]: stock over
    S_max, own last effort and the mean of the others' (0 at first), and the advice of a biologist: an agent's part of
    the effort of maximum economic yield, as a share of `max_effort`, and the stock at which it settles over S_max.
    Reward float32 [N], in units of money. Metrics: "effort" [N], shares of `max_effort`; "stock" after the step;
    "harvest" of all; "efficiency", the payoffs of all over the rent of maximum economic yield.

    Deviations: `max_effort` is ours, and so are the observations. Efficiency can exceed 1 for a while, by fishing down
    the stock, and is negative where effort costs more than it catches.

    Raises:
        InputError: for fewer than two agents.
    """

    name: str = "harvest_dynamics"
    num_agents: int = 4

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "open_access"
    cooperator: ClassVar[str | None] = "fair"
    defector: ClassVar[str | None] = "nash"
    definitions: ClassVar[Mapping[str, str]] = {
        "fair": "spends its part of the effort of maximum economic yield",
        "nash": "spends its part of the effort at which nobody gains by another constant one, 2 N / (N + 1) times fair",
        "open_access": "spends its part of the effort that leaves no rent, twice as much as fair",
        "greedy": "spends all the effort it can while the next fish pays for it, and none below that stock",
        "threshold": "spends all the effort it can above the stock of maximum economic yield, and none below",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)

    @property
    def default_params(self) -> HarvestDynamicsParams:
        extinction = 0.15 / 0.009  # g / e
        return HarvestDynamicsParams(max_effort=extinction / self.num_agents)

    def check_params(self, params: HarvestDynamicsParams) -> None:
        for field in ("max_effort", "growth", "catchability", "price", "capacity"):
            at_least(f"{self.name}: parameter {field}", getattr(params, field), 1e-9)
        at_most(f"{self.name}: parameter growth", params.growth, 1)
        for field in ("effort_cost", "initial_stock"):
            at_least(f"{self.name}: parameter {field}", getattr(params, field), 0)
        at_most(f"{self.name}: parameter initial_stock", params.initial_stock, params.capacity)
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)
        pays = params.price * params.catchability * params.capacity
        if params.effort_cost >= pays:
            raise InputError(
                f"{self.name}: parameter effort_cost must be below price * catchability * capacity, {pays:g}, "
                f"or nobody would ever fish; got {params.effort_cost:g}"
            )

    def observation_space(self, params: HarvestDynamicsParams | None = None) -> Box:
        return Box(0, 1, (5,))

    def action_space(self, params: HarvestDynamicsParams | None = None) -> Box:
        return Box(0, 1, ())

    def initial_state(self, key: jax.Array, params: HarvestDynamicsParams) -> HarvestDynamicsState:
        del key  # the start is always the same
        return HarvestDynamicsState(
            stock=jnp.asarray(params.initial_stock, jnp.float32),
            last_effort=jnp.zeros(self.num_agents, jnp.float32),
            time=jnp.zeros((), jnp.int32),
        )

    def transition(
        self, key: jax.Array, state: HarvestDynamicsState, actions: jax.Array, params: HarvestDynamicsParams
    ) -> tuple[HarvestDynamicsState, jax.Array, jax.Array, Metrics]:
        del key  # the rules are deterministic
        share = jnp.clip(actions, 0.0, 1.0)
        effort = share * params.max_effort
        total = effort.sum()
        grown = state.stock + params.growth * state.stock * (1 - state.stock / params.capacity)
        per_effort = jnp.minimum(params.catchability * state.stock, grown / jnp.maximum(total, 1e-9))
        reward = effort * (params.price * per_effort - params.effort_cost)
        harvest = per_effort * total
        state = HarvestDynamicsState(
            stock=jnp.clip(grown - harvest, 0.0, params.capacity), last_effort=share, time=state.time + 1
        )
        metrics = {
            "effort": share,
            "stock": state.stock,
            "harvest": harvest,
            "efficiency": reward.sum() / maximum_economic_yield(params).rent,
        }
        return state, reward, jnp.zeros((), bool), metrics

    def observe(self, state: HarvestDynamicsState, params: HarvestDynamicsParams) -> jax.Array:
        advice = maximum_economic_yield(params)
        of_others = (state.last_effort.sum() - state.last_effort) / (self.num_agents - 1)
        same = [state.stock, advice.effort / (self.num_agents * params.max_effort), advice.stock]
        stock, effort, target = (jnp.full(self.num_agents, value, jnp.float32) for value in same)
        columns = [stock / params.capacity, state.last_effort, of_others, effort, target / params.capacity]
        return jnp.clip(jnp.stack(columns, axis=1), 0.0, 1.0)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`. Rent is gone at twice the effort of economic yield, at stock 2 S - 1."""

        def steady(multiple: float) -> Player:
            return lambda observation, key: jnp.minimum(multiple * observation[3], 1.0)

        return {
            "random": random_player(self),
            "fair": steady(1.0),
            "nash": steady(2 * self.num_agents / (self.num_agents + 1)),
            "open_access": steady(2.0),
            "greedy": lambda observation, key: (observation[0] > 2 * observation[4] - 1).astype(jnp.float32),
            "threshold": lambda observation, key: (observation[0] > observation[4]).astype(jnp.float32),
        }
