"""The beach: which section to lie in, when a section is best neither empty nor crowded."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, at_most, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, Discrete


class BeachParams(struct.PyTreeNode):
    """The numbers of the beach."""

    capacity: float  # float []: c, agents that a section holds best
    first_type: float  # float []: chance of an agent to be of the first of two types
    mixture_weight: float  # float []: what the mixture of types adds to rewards
    team: float  # float []: 0 pays agents for their own section, 1 for the whole beach, or between
    paid_at_end: bool  # bool []: whether only the last step of an episode pays
    max_steps: int  # int []


class BeachState(struct.PyTreeNode):
    """Who is where."""

    sections: jax.Array  # int32 [N], each agent's section
    first: jax.Array  # bool [N], whether it is of the first type
    loads: jax.Array  # int32 [2, S], agents of each type in each section, the first type first
    time: jax.Array  # int32 [], steps taken


@dataclasses.dataclass(frozen=True)
class Beach(Environment):
    """Beach problem: everyone moves where there is room, though the beach is worth most if one section is given up.

    Source: Mannion et al. (2018), Reward shaping for knowledge-based multi-objective multi-agent reinforcement
    learning; MOMAland's beach (Felten et al., 2024); after the El Farol bar problem (Arthur, 1994).

    Rules: 100 agents lie in 6 sections side by side, at first anywhere. In each step everyone moves one section to the
    left, stays, or moves to the right; beyond the ends there is nothing, and who would walk there stays. A section
    with x agents is worth x exp(-x / c), most at its capacity c = 7: 2.5752. Each agent gets the worth of the section
    that it lies in, plus `mixture_weight` (0) times the mixture there, the share of the rarer type; 30 % of agents are
    of the first type on average. With `team` 1 all get the sum of worths over the beach and the mean of mixtures. The
    beach is worth most with seven agents in each section but one, which takes the other 65: 12.8818 (`optimal_loads`).
    Paid for their own sections, none of those 65 wants to stay there; with 16 or 17 in each section nobody gains by
    moving, and the beach is worth 9.2495. Yet agents get 1.540 each there and 0.905 where the beach is worth most,
    because a section's worth is paid to everybody in it: it is the beach that loses by selfishness, not those on it.
    Truncated after `max_steps` (50).

    Shapes: action int32, 0 left, 1 stay, 2 right. Observation float32 [2 + 3 S]: whether of the first type, own
    section one-hot, share of all agents in each section, share of the first type in each section (0 where nobody is),
    capacity over N (at most 1). Reward float32 [N], in the source's units. Metrics: "beach_worth" (the sum of worths),
    "beach_mixture" (mean mixture over sections), "crowded" (share of agents in sections beyond capacity). The global
    state holds what is common to all observations. Memory is linear in N.

    Deviations: the source pays only after the last step (`paid_at_end`), of which it has one by default, and has two
    objectives, which are summed here by weight. Its agents see their own section only, here all of them.

    Raises:
        InputError: for fewer than two agents or sections.
    """

    name: str = "beach"
    num_agents: int = 100
    num_sections: int = 6

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "opportunist"
    cooperator: ClassVar[str | None] = "sacrifice"
    defector: ClassVar[str | None] = "opportunist"
    definitions: ClassVar[Mapping[str, str]] = {
        "stay": "stays where it is",
        "crowding_averse": "moves to an emptier section beside its own, the likelier the emptier that is",
        "sacrifice": "helps to fill all sections but the last to capacity and goes to the last one otherwise",
        "opportunist": "moves with probability 0.2 to a section beside its own that is worth more",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_sections", self.num_sections, 2)

    @property
    def default_params(self) -> BeachParams:
        return BeachParams(capacity=7.0, first_type=0.3, mixture_weight=0.0, team=0.0, paid_at_end=False, max_steps=50)

    def check_params(self, params: BeachParams) -> None:
        if not isinstance(params.capacity, Tracer) and not np.all(np.asarray(params.capacity) > 0):
            raise InputError(f"{self.name}: parameter capacity must be positive, got {params.capacity}")
        for number in ("first_type", "team"):
            at_least(f"{self.name}: parameter {number}", getattr(params, number), 0)
            at_most(f"{self.name}: parameter {number}", getattr(params, number), 1)
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (2 + 3 * self.num_sections,))

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(3)

    def initial_state(self, key: jax.Array, params: BeachParams) -> BeachState:
        section_key, type_key = jax.random.split(key)
        sections = jax.random.randint(section_key, (self.num_agents,), 0, self.num_sections)
        first = jax.random.uniform(type_key, (self.num_agents,)) < params.first_type
        loads = self._count(sections, first)[1]
        return BeachState(sections=sections, first=first, loads=loads, time=jnp.zeros((), jnp.int32))

    def _count(self, sections: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Who lies in each section, bool [N, S], and how many of each type, int32 [2, S]."""
        lies = sections[:, None] == jnp.arange(self.num_sections)
        everybody = lies.sum(axis=0, dtype=jnp.int32)
        of_first = (lies & first[:, None]).sum(axis=0, dtype=jnp.int32)
        return lies, jnp.stack([of_first, everybody - of_first])

    def transition(
        self, key: jax.Array, state: BeachState, actions: jax.Array, params: BeachParams
    ) -> tuple[BeachState, jax.Array, jax.Array, Metrics]:
        del key  # only the start is drawn
        sections = jnp.clip(state.sections + actions.astype(jnp.int32) - 1, 0, self.num_sections - 1)
        lies, loads = self._count(sections, state.first)
        state = state.replace(sections=sections, loads=loads, time=state.time + 1)
        everybody = loads.sum(axis=0)
        worth = section_worth(everybody, params.capacity)
        mixture = loads.min(axis=0) / jnp.maximum(everybody, 1)
        of_beach = worth.sum() + params.mixture_weight * mixture.mean()
        paid = (1 - params.team) * (worth + params.mixture_weight * mixture) + params.team * of_beach
        paid = jnp.where(params.paid_at_end & ~self.is_truncated(state, params), 0.0, paid)
        crowded = jnp.where(everybody > params.capacity, everybody, 0).sum() / self.num_agents
        metrics = {"beach_worth": worth.sum(), "beach_mixture": mixture.mean(), "crowded": crowded}
        return state, jnp.where(lies, paid, 0.0).sum(axis=1), jnp.zeros((), bool), metrics

    def global_state(self, state: BeachState, params: PyTree = None) -> jax.Array:
        capacity = (self.default_params if params is None else params).capacity
        everybody = state.loads.sum(axis=0)
        of_first = state.loads[0] / jnp.maximum(everybody, 1)
        held = jnp.minimum(jnp.asarray(capacity, jnp.float32) / self.num_agents, 1.0)
        return jnp.concatenate([everybody / self.num_agents, of_first, held[None]])

    def observe(self, state: BeachState, params: BeachParams) -> jax.Array:
        lies = state.sections[:, None] == jnp.arange(self.num_sections)
        common = self.global_state(state, params)
        seen_by_all = jnp.broadcast_to(common, (self.num_agents, common.size))
        own = jnp.concatenate([state.first[:, None], lies], axis=1).astype(jnp.float32)
        return jnp.concatenate([own, seen_by_all], axis=1)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`."""
        num_sections, num_agents = self.num_sections, self.num_agents

        def read(observation: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Own section one-hot and loads as shares, float32 [S] each, and the capacity as a share."""
            return observation[1 : 1 + num_sections], observation[1 + num_sections :][:num_sections], observation[-1]

        def move(left: jax.Array, right: jax.Array, own: jax.Array, key: jax.Array) -> jax.Array:
            """Draws an action from the chances [S] to go left and right from each section."""
            chances = jnp.stack([left @ own, jnp.maximum(1 - (left + right) @ own, 0), right @ own])
            return jax.random.categorical(key, jnp.log(chances)).astype(jnp.int32)

        def beside(x: Any, at_ends: float) -> tuple[jax.Array, jax.Array]:
            """`x` [S] of the section to the left of each and of the one to its right."""
            end = jnp.full(1, at_ends)
            return jnp.concatenate([end, x[:-1]]), jnp.concatenate([x[1:], end])

        def crowding_averse(observation: jax.Array, key: jax.Array) -> jax.Array:
            own, loads, _ = read(observation)
            # A third of the difference evens out neighbours without swapping their crowds.
            left, right = (jnp.maximum(loads - x, 0) / (3 * jnp.maximum(loads, 1e-9)) for x in beside(loads, 2.0))
            return move(left, right, own, key)

        def sacrifice(observation: jax.Array, key: jax.Array) -> jax.Array:
            own, loads, capacity = read(observation)
            filled = jnp.minimum(capacity * jnp.arange(1, num_sections), 1.0)
            across = jnp.cumsum(loads)[:-1] - filled  # share of agents that must cross each border to the right
            across = jnp.where(jnp.abs(across) * num_agents < 0.5, 0.0, across)  # less than half an agent
            left, right = (
                jnp.maximum(jnp.concatenate(x), 0) / jnp.maximum(loads, 1e-9)
                for x in ((jnp.zeros(1), -across), (across, jnp.zeros(1)))
            )
            total = jnp.maximum(left + right, 1.0)
            return move(left / total, right / total, own, key)

        def opportunist(observation: jax.Array, key: jax.Array) -> jax.Array:
            own, loads, capacity = read(observation)
            worth = section_worth(loads, jnp.maximum(capacity, 1e-9))
            after = section_worth(loads + 1 / num_agents, jnp.maximum(capacity, 1e-9))
            left_worth, right_worth = beside(after, -1.0)
            goes_left = (left_worth > worth + 1e-6) & (left_worth >= right_worth)
            goes_right = (right_worth > worth + 1e-6) & ~goes_left
            return move(0.2 * goes_left, 0.2 * goes_right, own, key)

        return {
            "random": random_player(self),
            "stay": lambda observation, key: jnp.ones((), jnp.int32),
            "crowding_averse": crowding_averse,
            "sacrifice": sacrifice,
            "opportunist": opportunist,
        }


# ---------------------------------------------------------------------- known answers
def section_worth(load: Any, capacity: Any) -> Any:
    """x exp(-x / c), what a section with x agents is worth; jax arrays give jax arrays, all else numpy ones."""
    xp = jnp if isinstance(load, jax.Array) else np
    return load * xp.exp(-load / capacity)


def best_load(capacity: float) -> int:
    """The whole number of agents at which a section is worth most: its capacity, when that is whole."""
    loads = np.array([max(1, int(np.floor(capacity))), int(np.ceil(capacity))])
    return int(loads[section_worth(loads, capacity).argmax()])


class BestLoads(NamedTuple):
    """How many agents lie in each section when the beach is worth most, and what it is worth."""

    loads: np.ndarray  # int [S], from the emptiest to the fullest section
    worth: float


def optimal_loads(num_agents: int, num_sections: int, capacity: float) -> BestLoads:
    """Loads with the greatest sum of worths, by dynamic programming over sections; O(S N^2).

    With many more agents than the beach can hold, all sections but one lie at their best and one takes the rest.
    """
    worth = section_worth(np.arange(num_agents + 1.0), capacity)
    best, chosen = np.where(np.arange(num_agents + 1) == 0, 0.0, -np.inf), []
    for _ in range(num_sections):
        # totals[n, x]: x agents in this section, n - x in those before
        others = np.subtract.outer(np.arange(num_agents + 1), np.arange(num_agents + 1))
        totals = np.where(others >= 0, best[np.maximum(others, 0)] + worth, -np.inf)
        best = totals.max(axis=1)
        chosen.append(totals.argmax(axis=1))
    loads, left = [], num_agents
    for choice in reversed(chosen):
        loads.append(int(choice[left]))
        left -= loads[-1]
    return BestLoads(np.sort(loads), float(best[num_agents]))


def is_equilibrium(loads: np.ndarray, capacity: float) -> bool:
    """Whether no agent gains by lying in any other section, when all are paid for their own one."""
    loads = np.asarray(loads, float)
    worth, joined = section_worth(loads, capacity), section_worth(loads + 1, capacity)
    gains = joined[None, :] - worth[:, None]
    return not np.any((gains > 1e-12) & (loads[:, None] > 0) & ~np.eye(len(loads), dtype=bool))
