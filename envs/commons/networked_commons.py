"""Networked commons: a shared stock that regrows by a constant amount, on a graph of who sees whom.

A stock that is counted in floats ends some games a step late or early, where what is taken is exactly what is there:
0.5 - 5 * 0.1 is positive in double precision. Here it is counted in whole millionths of its capacity.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.environment import (
    Environment,
    Metrics,
    Player,
    at_least,
    at_most,
    one_of,
    per_episode,
    random_player,
)
from marl_suite.envs.graphs import adjacency, in_turn
from marl_suite.envs.repeated_games import NOT_YET
from marl_suite.envs.spaces import Box, Discrete

UNITS = 1_000_000
"""What the capacity of the resource, 1, is counted in."""
INFORMATION = ("own", "neighbours", "broadcast", "message")


# ---------------------------------------------------------------------- closed forms
def sustainable_restraint(regrowth: float, take: float = 0.1) -> float:
    """The least share of steps that all must wait for the resource not to shrink: max(0, 1 - regrowth / take)."""
    return max(0.0, 1 - regrowth / take)


def steps_to_collapse(regrowth: float, taken: float, start: float = 0.5) -> float:
    """The step at which a resource from which `taken` is taken in every step is empty, counted from 1.

    Before step n there is start - (n - 1) (taken - regrowth), so that n is the first whole number with
    n >= 1 + (start - taken) / (taken - regrowth). It is infinite where the resource regrows as fast.
    """
    if start <= taken:
        return 1
    if taken <= regrowth:
        return math.inf
    return 1 + math.ceil(round((start - taken) / (taken - regrowth), 9))


def most_takeable(
    regrowth: jax.Array | float, take: jax.Array | float, start: jax.Array | float, steps: jax.Array | float
) -> jax.Array:
    """What all can take together in `steps` steps and no more: min(take steps, start + regrowth (steps - 1)).

    What regrows after the last step comes too late. The second bound cannot be met, only approached, because a step
    that takes all that is left gives nothing.
    """
    return jnp.minimum(take * steps, start + regrowth * (steps - 1))


# ---------------------------------------------------------------------- the game
class NetworkedCommonsState(struct.PyTreeNode):
    """The stock, and what everybody did."""

    resource: jax.Array  # int32 [], millionths of the capacity; 0 once it has collapsed
    takes: jax.Array  # int32 [N], steps in which each agent got something
    last_actions: jax.Array  # int32 [N], NOT_YET at the start
    time: jax.Array  # int32 [], steps taken


class NetworkedCommonsParams(struct.PyTreeNode):
    """Amounts are shares of the resource's capacity."""

    neighbours: np.ndarray  # bool [N, N], whether agent i (row) sees agent j (column)
    regrowth: float = 0.053  # float [], rho, per step
    take: float = 0.1  # float [], what all take together in a step in which nobody waits
    start: float = 0.5  # float [], the resource at first
    sharing: float = 0.0  # float [], alpha, what an agent gets of each unit that a neighbour takes
    max_steps: int = 1000  # int []


@dataclasses.dataclass(frozen=True)
class NetworkedCommons(Environment):
    """Networked commons: who takes gains at once, but a stock that all take from all the time is soon gone.

    Source: the "tragedy" environment of EGTA-NMARL (empirical game-theoretic analysis of networked multi-agent
    reinforcement learning, public code), with its four agents.

    Rules: in each step every agent waits or takes take / N = 0.025. All that is taken leaves the resource, which is
    0.5 at first. If nothing is left, the game terminates and nobody gets anything in this step. Else takers get
    what they took, and the resource grows by rho, to at most 1. Truncated after `max_steps` (1000). The source's rho
    are .03, .042, .053, .065, .077, .088 and .1; .053 is the default. At .1 there is no dilemma: all may take always.

    With rho = .03, .053, .077 and .1 the game lasts 7, 10, 19 and 1000 steps and pays 0.15, 0.225, 0.45 and 25 to each
    if all always take; at .053 four `sustainer` players earn 13.25 each. A `taker` among three of them earns 25
    (greed), and a lone `sustainer` among three takers nothing (fear). Whether there is greed depends on the cooperator:
    at rho = .03 one `taker` among `quota` players, which do not react, ruins itself too.

    Settings: `graph` says who sees whom: "complete", "ring", "star" (about agent 0), "none", or edges such as "0-1,1-2"
    (see `marl_suite.envs.graphs`). It becomes the parameter `neighbours`, so that graphs can be swept. `information`:

    * "own": nobody sees anybody else;
    * "neighbours", the default: neighbours' last actions and their shares of steps;
    * "broadcast": the same of everybody;
    * "message": nobody sees actions, but everyone sends one of `num_symbols` K symbols with each action, which its
      neighbours see in the next step.

    Shapes: action int32, 1 takes and 0 waits; with messages 2 symbol + take, 0 .. 2 K - 1. Observation float32
    [3 + (N - 1) F]: the resource, the share of past steps in which one got something (0 at first), and
    min(1, rho / take), the share in which all could for ever; then for agents i + 1, i + 2, ... (modulo N) whether one
    sees it (zeros follow if not) and its last action (1 took, 0 waited) and share of steps, F = 3, or its last symbol
    one-hot, F = 1 + K. With "own", F = 0. Reward float32 [N], in capacities of the resource.

    Metrics: "restraint" [N], the share of steps in which one waits (1 - rho / take sustains the resource; the source
    calls agents under .25 defectors and over .35 cooperators); "resource" after the step; of whole episodes "survived"
    and "efficiency", all that was taken over `most_takeable`.

    Deviations: the source shares rewards, r_i + alpha sum of r_j over neighbours j. What it adds is not taken from
    anybody, so it changes what learners want and not what there is to get; that is a reward view here: on a complete
    graph "self_interest:s=..." with s = 1 / (1 + alpha (N - 1)) is the source's reward over 1 + alpha (N - 1), a factor
    by which it normalises too (alpha = .1 and 1: s = .769 and .25; "team" is its global sum). For other graphs
    `sharing`, 0 by default, is alpha as a material rule, so that payoffs include it; metrics never do. One sees shares
    of steps where the source shows totals, and is told rho. Seeing others' policies or hidden states is left to
    learners. Amounts are rounded to whole millionths. A multiplicative regrowth that the source never uses is left out.

    Raises:
        InputError: for fewer than two agents or symbols, or an unknown graph or kind of information.
    """

    name: str = "networked_commons"
    num_agents: int = 4
    graph: str = "complete"
    information: str = "neighbours"
    num_symbols: int = 2

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "taker"
    cooperator: ClassVar[str | None] = "sustainer"
    defector: ClassVar[str | None] = "taker"
    definitions: ClassVar[Mapping[str, str]] = {
        "sustainer": "takes whenever more than half of the capacity is there",
        "quota": "takes in the share of steps in which all could for ever, whatever the others do",
        "reciprocator": "takes as often as those that it sees do on average, and at least its quota",
        "taker": "always takes",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_symbols", self.num_symbols, 2)
        one_of(f"{self.name}: information", self.information, INFORMATION)
        adjacency(self.graph, self.num_agents)

    @property
    def default_params(self) -> NetworkedCommonsParams:
        return NetworkedCommonsParams(neighbours=adjacency(self.graph, self.num_agents))

    def check_params(self, params: NetworkedCommonsParams) -> None:
        for field in ("regrowth", "take", "start"):
            at_least(f"{self.name}: parameter {field}", getattr(params, field), 0 if field == "regrowth" else 1e-6)
            at_most(f"{self.name}: parameter {field}", getattr(params, field), 1)
        if not isinstance(params.neighbours, Tracer):
            at_most(f"{self.name}: parameter neighbours, of an agent and itself,", np.diagonal(params.neighbours), 0)
        at_least(f"{self.name}: parameter sharing", params.sharing, 0)
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)

    # ------------------------------------------------------------------ spaces
    @property
    def seen_of_another(self) -> int:
        """F, how many numbers an agent sees of another."""
        return {"own": 0, "message": 1 + self.num_symbols}.get(self.information, 3)

    def observation_space(self, params: NetworkedCommonsParams | None = None) -> Box:
        return Box(0, 1, (3 + (self.num_agents - 1) * self.seen_of_another,))

    def action_space(self, params: NetworkedCommonsParams | None = None) -> Discrete:
        return Discrete(2 * self.num_symbols if self.information == "message" else 2)

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: NetworkedCommonsParams) -> NetworkedCommonsState:
        del key  # the start is always the same
        nobody = jnp.zeros(self.num_agents, jnp.int32)
        return NetworkedCommonsState(
            resource=_units(params.start), takes=nobody, last_actions=nobody + NOT_YET, time=jnp.zeros((), jnp.int32)
        )

    def transition(
        self, key: jax.Array, state: NetworkedCommonsState, actions: jax.Array, params: NetworkedCommonsParams
    ) -> tuple[NetworkedCommonsState, jax.Array, jax.Array, Metrics]:
        del key  # the rules are deterministic
        actions = actions.astype(jnp.int32)
        took = actions % 2
        portion = _units(params.take / self.num_agents)
        left = state.resource - took.sum() * portion
        collapsed = left <= 0
        state = NetworkedCommonsState(
            resource=jnp.where(collapsed, 0, jnp.minimum(left + _units(params.regrowth), UNITS)),
            takes=state.takes + jnp.where(collapsed, 0, took),
            last_actions=actions,
            time=state.time + 1,
        )
        of_neighbours = jnp.matmul(jnp.asarray(params.neighbours, jnp.float32), took.astype(jnp.float32))
        reward = jnp.where(collapsed, 0.0, portion / UNITS * (took + params.sharing * of_neighbours))
        return state, reward, collapsed, self.metrics(state, took, collapsed, params)

    def metrics(
        self, state: NetworkedCommonsState, took: jax.Array, collapsed: jax.Array, params: NetworkedCommonsParams
    ) -> Metrics:
        """What a step shows, and on an episode's last step what the whole of it does."""
        over = collapsed | self.is_truncated(state, params)
        taken = state.takes.sum() * params.take / self.num_agents
        best = most_takeable(params.regrowth, params.take, params.start, params.max_steps)
        return {
            "restraint": 1.0 - took,
            "resource": state.resource / UNITS,
            "episodes": over.astype(jnp.float32),
            "survived": (over & ~collapsed).astype(jnp.float32),
            "efficiency": jnp.where(over, taken / best, 0.0),
        }

    def derived_metrics(self, means: Metrics) -> Metrics:
        return per_episode(means, "survived", "efficiency")

    # ------------------------------------------------------------------ what is seen
    def observe(self, state: NetworkedCommonsState, params: NetworkedCommonsParams) -> jax.Array:
        rates = state.takes / jnp.maximum(state.time, 1)
        shared = jnp.stack([state.resource / UNITS, jnp.minimum(params.regrowth / params.take, 1.0)])
        own = jnp.stack(
            [jnp.full_like(rates, shared[0]), rates, jnp.full_like(rates, shared[1])], axis=1, dtype=jnp.float32
        )
        if self.information == "own":
            return own
        if self.information == "message":  # before the first step the symbol is -1, and its one-hot all zero
            shown = jax.nn.one_hot(state.last_actions // 2, self.num_symbols)
        else:
            shown = jnp.stack([(state.last_actions == 1).astype(jnp.float32), rates], axis=1)
        return jnp.concatenate([own, self.of_others(shown, params)], axis=1)

    def of_others(self, shown: jax.Array, params: NetworkedCommonsParams) -> jax.Array:
        """[N, (N - 1) F]: what each agent sees of those after it, from what everybody shows [N, F - 1]."""
        n = np.arange(self.num_agents)[:, None]
        others = (n + np.arange(1, self.num_agents)) % self.num_agents  # [N, N - 1]
        sees = jnp.asarray(params.neighbours, jnp.float32)[n, others][..., None]
        if self.information == "broadcast":
            sees = jnp.ones_like(sees)
        return jnp.concatenate([sees, in_turn(shown)[:, 1:] * sees], axis=2).reshape(self.num_agents, -1)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`; of messages they send symbol 0 and ignore what they get."""

        def quota(observation: jax.Array, key: jax.Array) -> jax.Array:
            everybody_always = observation[2] > 1 - 1e-6
            return (everybody_always | (observation[1] < observation[2] - 1e-4)).astype(jnp.int32)

        def reciprocator(observation: jax.Array, key: jax.Array) -> jax.Array:
            if self.information in ("own", "message"):
                return quota(observation, key)
            others = observation[3:].reshape(-1, 3)
            mean = others[:, 2].sum() / jnp.maximum(others[:, 0].sum(), 1)
            return quota(observation, key) | (observation[1] < mean - 1e-4).astype(jnp.int32)

        return {
            "random": random_player(self),
            "sustainer": lambda observation, key: (observation[0] > 0.5 + 1e-6).astype(jnp.int32),
            "quota": quota,
            "reciprocator": reciprocator,
            "taker": lambda observation, key: jnp.ones((), jnp.int32),
        }


def _units(amount: jax.Array | float) -> jax.Array:
    """An amount as a whole number of `UNITS`."""
    return jnp.round(jnp.asarray(amount) * UNITS).astype(jnp.int32)
