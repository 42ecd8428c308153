"""GovSim's commons: a stock that doubles every month, from which everybody takes at once."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.commons.shared_stock import ALLOCATIONS, month_of_chance, regrown, sustainable_harvest
from marl_suite.envs.environment import (
    Environment,
    Metrics,
    Player,
    PyTree,
    at_least,
    at_most,
    one_of,
    per_episode,
    random_player,
)
from marl_suite.envs.errors import InputError
from marl_suite.envs.graphs import in_turn
from marl_suite.envs.spaces import Box, Discrete

MOST = 100
"""The largest demand, and the unit of stocks and catches in observations."""
EPISODE_METRICS = ("survived", "survived_published", "gain", "efficiency", "equality")


class GovSimParams(struct.PyTreeNode):
    """The source's numbers."""

    initial_stock: int = 100  # int [], units
    capacity: int = 100  # int [], units, MOST at most
    growth: float = 2.0  # float [], factor per month
    collapse_threshold: int = 5  # int [], units; fewer left after the harvest are a collapse
    max_steps: int = 12  # int [], T, months
    end_probability: float = 0.0  # float [], that a hidden horizon comes after a month
    arrival: int = 0  # int [], months before the last agent comes, if `newcomer`


class GovSimState(struct.PyTreeNode):
    """Stock, catches and the clock."""

    stock: jax.Array  # int32 [], units at the start of the month
    catch: jax.Array  # int32 [N], units of last month
    total: jax.Array  # int32 [N], units of all months
    breaches: jax.Array  # int32 [N], months in which an agent took more than the threshold
    time: jax.Array  # int32 [], months played
    end: jax.Array  # int32 [], the month at which chance ends the episode


SKINS: Mapping[str, str] = {
    "fishery": "The stock is tons of fish in a lake, a unit caught one ton, sold for 1,000 dollars.",
    "pasture": "The stock is hectares of grass, a unit caught one hectare, grazed by one flock of sheep.",
    "pollution": "The stock is per cent of clean water in a river, a unit caught one per cent, spoilt by one widget.",
}
"""What the units of the source's three scenarios are."""


@dataclasses.dataclass(frozen=True)
class GovSim(Environment):
    """Common stock: each keeps what it takes, and what all leave doubles by the next month.

    Source: Piatti et al. (2024), Cooperate or Collapse: Emergence of Sustainable Cooperation in a Society of LLM
    Agents, whose fishery (tons of fish), pasture (hectares of grass, one per flock) and pollution (per cent of
    unpolluted water, one per widget) are one game under three names, as here. Known as GovSim.

    Rules: a stock of h = 100 units. Every month each of N = 5 agents asks for 0 to 100 units. If all ask for more than
    h, `allocation` decides: "lottery" hands out unit by unit to a random agent that still wants one, "proportional"
    gives everyone the floor of its proportional share and draws lots for the rest. Fewer than 5 units left after the
    harvest are a collapse, which terminates the game; else h becomes min(100, 2 h). `horizon`: "hidden", the default,
    cuts play after T = 12 months (`max_steps`), or earlier with `end_probability` per month, and shows no time;
    "known" shows the time left and terminates after the last month.

    `newcomer`: the last agent comes only after 3 months (`arrival`), and T = 15; before, what it asks for is ignored.
    `threshold` says how many heads share f(h) = floor(h / 2), rounded down, in what agents are told and in over-usage:
    those "present", or as "published": the source begins with 10 each and then goes on counting four when the fifth
    has come. `universalization` tells everyone the threshold.

    Shapes: action int32, 0 .. L - 1 for L = `num_levels` (101), asks for 100 a / (L - 1) units. Observation float32
    [6 + N], units in hundreds: first-month flag, stock, share of the seats that are taken, 1 / months left, this one
    included (0 where hidden), hint flag, threshold (0 without hint), own last catch, those of the others in turn.
    Reward float32 [N]: units caught. Metrics per month: "left", units after the harvest; [N] "demand". Per episode, by
    the source's formulas: "survival_time" m, months played; "survived_published", m = T, and "survived", which also
    wants no collapse at the last harvest; [N] "gain" R_i; "efficiency" 1 - max(0, T f(h(0)) - sum R) / (T f(h(0)));
    "equality", 1 - Gini of R (1 where nobody caught anything); [N] "over_usage", the share of its months in which an
    agent caught more than the threshold.

    Dilemma: it depends on who defects. `sustainable` asks for its share of f(h). `overharvester`, 12 in every month,
    is the defector: among four `sustainable` players it gets 144, not 120, and they 109 (greed), and beside four of
    its kind a `sustainable` player gets 23, not 32 (fear). `equal_share`, 20 in every month, ruins the stock for
    itself too: fear without greed, an assurance game. With a known horizon `last_month`, who takes everything in the
    end, gets 170. Where all take 10 each and 20 in the end they get 130 each and the stock is gone, which the
    published survival rate counts as survived and efficiency shows as 1.

    Deviations: no conversation; everybody's last catch is seen, as in the source after its discussion. The horizon is
    hidden by default. Lots for the rest are exact, not subject to rounding as in the source's floats. Efficiency of an
    episode that chance ended still refers to T.

    Raises:
        InputError: for fewer than two agents, unknown words, or a `num_levels` that does not divide 100 evenly.
    """

    name: str = "fishery"
    num_agents: int = 5
    allocation: str = "lottery"
    horizon: str = "hidden"
    newcomer: bool = False
    threshold: str = "present"
    universalization: bool = False
    num_levels: int = MOST + 1

    mixed_motive: ClassVar[bool] = True
    cooperator: ClassVar[str | None] = "sustainable"
    defector: ClassVar[str | None] = "overharvester"
    exploiter: ClassVar[str | None] = "overharvester"
    definitions: ClassVar[Mapping[str, str]] = {
        "sustainable": "asks for its share of what can be taken without the stock shrinking",
        "overharvester": "always asks for a fifth more than its share of the full stock's yield",
        "equal_share": "always asks for an equal share of the full stock",
        "greedy": "asks for everything",
        "imitator": "asks for its sustainable share at first, then for what the others got on average",
        "last_month": "asks for its sustainable share, and for everything in a last month that it sees coming",
    }
    breaches: ClassVar[str] = "over_usage"  # what the metric is called
    most_stock: ClassVar[int] = MOST  # that observations must hold, units
    default_steps: ClassVar[tuple[int, int]] = (12, 15)  # without and with a newcomer

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        one_of(f"{self.name}: allocation", self.allocation, tuple(ALLOCATIONS))
        one_of(f"{self.name}: horizon", self.horizon, ("hidden", "known"))
        one_of(f"{self.name}: threshold", self.threshold, ("present", "published"))
        valid = [steps + 1 for steps in range(1, MOST + 1) if MOST % steps == 0]
        if self.num_levels not in valid:
            near = min(valid, key=lambda levels: abs(levels - self.num_levels))
            raise InputError(f"{self.name}: num_levels must be one of {valid}, got {self.num_levels}; closest: {near}")
        if self.horizon == "known":
            object.__setattr__(self, "exploiter", "last_month")

    @property
    def summary(self) -> str:
        return f"{super().summary} {SKINS.get(self.name, '')}".strip()

    @property
    def default_params(self) -> Any:
        return GovSimParams(max_steps=self.default_steps[self.newcomer], arrival=3 * self.newcomer)

    def check_params(self, params: Any) -> None:
        what = f"{self.name}: parameter"
        at_least(f"{what} max_steps", params.max_steps, 1)
        at_least(f"{what} arrival", params.arrival, 0)
        at_least(f"{what} end_probability", params.end_probability, 0)
        # A horizon that is known cannot come by chance, and only a newcomer arrives.
        chance = float(self.horizon == "hidden")
        at_most(f"{what} end_probability of a {self.horizon} horizon", params.end_probability, chance)
        if not self.newcomer:
            at_most(f"{what} arrival without a newcomer", params.arrival, 0)
        self.check_stock(params)

    def check_stock(self, params: Any) -> None:
        """Raises `InputError` when the numbers of the stock's own rules lie outside their domain."""
        what = f"{self.name}: parameter"
        at_least(f"{what} capacity", params.capacity, 1)
        at_most(f"{what} capacity", params.capacity, MOST)
        at_least(f"{what} initial_stock", params.initial_stock, 1)
        at_most(f"{what} initial_stock", params.initial_stock, MOST)
        at_least(f"{what} growth", params.growth, 1)
        at_least(f"{what} collapse_threshold", params.collapse_threshold, 0)

    def observation_space(self, params: PyTree = None) -> Box:
        high = np.ones(6 + self.num_agents, np.float32)
        high[1] = self.most_stock / MOST
        return Box(0, high, high.shape)

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(self.num_levels)

    # ------------------------------------------------------------------ rules of the stock
    def grow(self, left: jax.Array, params: Any) -> jax.Array:
        """int32 []: the stock of the next month, from what the harvest left."""
        return regrown(left, params.capacity, params.growth)

    def collapses(self, left: jax.Array, params: Any) -> jax.Array:
        """Scalar bool: whether what the harvest left is a collapse."""
        return left < params.collapse_threshold

    def due(self, stock: jax.Array, params: Any) -> jax.Array:
        """int32 []: units that the whole group may take."""
        return sustainable_harvest(stock, params.growth)

    def breach(self, catch: jax.Array, threshold: jax.Array) -> jax.Array:
        """bool [N]: who broke the threshold."""
        return catch > threshold

    def payoff(self, catch: jax.Array, collapsed: jax.Array, params: Any) -> jax.Array:
        """[N]: what a month's catch is worth."""
        return catch

    # ------------------------------------------------------------------ months
    def present(self, time: jax.Array, params: Any) -> jax.Array:
        """bool [N]: who is there."""
        late = self.newcomer & (np.arange(self.num_agents) == self.num_agents - 1)
        return ~late | (time >= params.arrival)

    def per_head(self, units: jax.Array, heads: jax.Array | int) -> jax.Array:
        """int32 []: an agent's share of what is `due`."""
        return units // heads

    def told_threshold(self, state: GovSimState, params: Any) -> jax.Array:
        """int32 []: units per head, as agents are told."""
        if self.threshold == "published":  # at first all seats, and never again the last one of a newcomer
            heads = jnp.where(state.time == 0, self.num_agents, self.num_agents - self.newcomer)
        else:
            heads = self.present(state.time, params).sum()
        return self.per_head(self.due(state.stock, params), heads)

    def initial_state(self, key: jax.Array, params: Any) -> GovSimState:
        nothing = jnp.zeros(self.num_agents, jnp.int32)
        return GovSimState(
            stock=jnp.asarray(params.initial_stock, jnp.int32),
            catch=nothing,
            total=nothing,
            breaches=nothing,
            time=jnp.zeros((), jnp.int32),
            end=month_of_chance(key, params.end_probability),
        )

    def transition(
        self, key: jax.Array, state: GovSimState, actions: jax.Array, params: Any
    ) -> tuple[GovSimState, jax.Array, jax.Array, Metrics]:
        demand = actions.astype(jnp.int32) * (MOST // (self.num_levels - 1)) * self.present(state.time, params)
        catch = ALLOCATIONS[self.allocation](key, state.stock, demand)
        left = state.stock - catch.sum()
        collapsed = self.collapses(left, params)
        breaks = self.breach(catch, self.told_threshold(state, params)) & self.present(state.time, params)
        state = GovSimState(
            stock=self.grow(left, params),
            catch=catch,
            total=state.total + catch,
            breaches=state.breaches + breaks,
            time=state.time + 1,
            end=state.end,
        )
        reward = self.payoff(catch, collapsed, params).astype(jnp.float32)
        over = state.time >= params.max_steps
        terminated = collapsed | over if self.horizon == "known" else collapsed
        monthly = {"left": left.astype(jnp.float32), "demand": demand.astype(jnp.float32)}
        return state, reward, terminated, monthly | self._at_the_end(state, collapsed, params)

    def is_truncated(self, state: GovSimState, params: Any) -> jax.Array:
        """A known horizon is part of the rules and terminates; a hidden one cuts play."""
        if self.horizon == "known":
            return jnp.zeros((), bool)
        return self._out_of_time(state, params)

    def _out_of_time(self, state: GovSimState, params: Any) -> jax.Array:
        return (state.time >= params.max_steps) | (state.time >= state.end)

    def target(self, params: Any) -> jax.Array:
        """float32 []: T f(h(0)), what the group can take, or has to, in a whole episode."""
        return params.max_steps * self.due(jnp.asarray(params.initial_stock), params).astype(jnp.float32)

    def _at_the_end(self, state: GovSimState, collapsed: jax.Array, params: Any) -> Metrics:
        """The metrics of whole episodes, 0 before the last month."""
        reached = self._out_of_time(state, params)
        total = state.total.astype(jnp.float32)
        target, group = self.target(params), total.sum()
        gini = jnp.abs(total[:, None] - total).sum() / (2 * self.num_agents * jnp.maximum(group, 1))
        months = jnp.maximum(state.time - (~self.present(jnp.int32(0), params)) * params.arrival, 1)
        values = {
            "episodes": 1.0,
            "survived": ~collapsed,
            "survived_published": reached,
            "gain": total,
            "efficiency": 1 - jnp.maximum(target - group, 0) / jnp.maximum(target, 1),
            "equality": 1 - gini,
            self.breaches: state.breaches / months,
        }
        last = collapsed | reached
        return {name: jnp.where(last, jnp.asarray(value, jnp.float32), 0) for name, value in values.items()}

    def derived_metrics(self, means: Metrics) -> Metrics:
        return per_episode(means, *EPISODE_METRICS, self.breaches) | {"survival_time": 1 / means["episodes"]}

    # ------------------------------------------------------------------ views
    def observe(self, state: GovSimState, params: Any) -> jax.Array:
        left = 1 / jnp.maximum(params.max_steps - state.time, 1) if self.horizon == "known" else 0.0
        told = self.told_threshold(state, params) / MOST if self.universalization else 0.0
        seats = self.present(state.time, params).sum() / self.num_agents
        entries = [state.time == 0, state.stock / MOST, seats, left, float(self.universalization), told]
        same = jnp.broadcast_to(jnp.stack([jnp.float32(entry) for entry in entries]), (self.num_agents, len(entries)))
        return jnp.concatenate([same, in_turn(state.catch / MOST)], axis=1).astype(jnp.float32)

    def global_state(self, state: GovSimState, params: Any = None) -> jax.Array:
        """float32 [3 + N]: time played as a share, stock, seats taken as a share, last catches."""
        seats = self.present(state.time, params).sum() / self.num_agents
        same = jnp.stack([state.time / params.max_steps, state.stock / MOST, seats])
        return jnp.concatenate([same, state.catch / MOST]).astype(jnp.float32)

    # ------------------------------------------------------------------ players
    def ask(self, units: Any) -> jax.Array:
        """The action that asks for at most so many units."""
        return jnp.clip(units, 0, MOST).astype(jnp.int32) // (MOST // (self.num_levels - 1))

    def seen(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """int32 []: the stock and the number of agents that an observation shows."""
        stock = jnp.round(observation[1] * MOST).astype(jnp.int32)
        return stock, jnp.round(observation[2] * self.num_agents).astype(jnp.int32)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`, who reckon with a stock that doubles up to 100."""
        share = MOST // self.num_agents
        constant = {"overharvester": 6 * (share // 2) // 5, "equal_share": share, "greedy": MOST}
        adaptive = {"sustainable": sustainable, "imitator": imitator, "last_month": last_month}
        return {
            "random": random_player(self),
            **{name: partial(player, self) for name, player in adaptive.items()},
            **{name: partial(_always, self, units) for name, units in constant.items()},
        }


def _always(env: GovSim, units: int, observation: jax.Array, key: jax.Array) -> jax.Array:
    return env.ask(jnp.full((), units))


def sustainable(env: GovSim, observation: jax.Array, key: jax.Array) -> jax.Array:
    """floor(floor(h / 2) / n): Piatti et al. (2024), their sustainability threshold."""
    stock, heads = env.seen(observation)
    return env.ask(env.per_head(sustainable_harvest(stock), heads))


def imitator(env: GovSim, observation: jax.Array, key: jax.Array) -> jax.Array:
    """A conditional cooperator."""
    others = jnp.maximum(env.seen(observation)[1] - 1, 1)
    mean = jnp.round(MOST * observation[7:].sum()).astype(jnp.int32) // others
    return jnp.where(observation[0] > 0, sustainable(env, observation, key), env.ask(mean))


def last_month(env: GovSim, observation: jax.Array, key: jax.Array) -> jax.Array:
    """The end-game exploit; without a time to see it is `sustainable`."""
    return jnp.where(observation[3] == 1, env.ask(MOST), sustainable(env, observation, key))
