"""Learning against one's past: a buffer of earlier selves plays the other seats of a symmetric game.

Fictitious self-play as opponent-shaping papers use it (the checkpoint buffers of LOQA, Aghajohari et al. 2024, and of
Advantage Alignment, Duque et al. 2025): the learner plays agent 0, and each chunk of environments draws, once per
update, who plays all other agents there, the current policy or a past one.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.algorithm import Act, ActResult, Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.composition import restrict, seats
from marl_suite.envs.environment import PyTree, at_least, at_most
from marl_suite.envs.errors import InputError
from marl_suite.policies import NetworkPolicy


class PastSelves(Configuration):
    """Self-play against a buffer of past selves: the learner plays agent 0."""

    group: ClassVar[str] = "past_self"

    part: Any = None  # the learner's configuration
    capacity: int = static(20)  # past selves kept, M; the oldest goes first
    every: int = static(10)  # updates between two of them
    chunks: int = static(8)  # environments are split into so many parts, each with one opponent at a time
    current: float = 0.5  # probability that the opponent is the current self

    def check(self) -> None:
        if self.part is None:
            raise InputError("past_self follows the baseline whose past it is, as in 'ippo+past_self'")
        self.part.check()
        for field in ("capacity", "every", "chunks"):
            at_least(f"past_self.{field}", getattr(self, field), 1)
        at_least("past_self.current", self.current, 0)
        at_most("past_self.current", self.current, 1)

    @property
    def summary(self) -> str:
        return "In a team's second place, a buffer of past selves of the first." + (
            f" {self.part.summary}" if self.part else ""
        )

    def build(self, spec: EnvSpec) -> Learner:
        if spec.num_agents < 2 or spec.joint is not None:
            raise InputError(f"past selves need another seat to play in; {spec.name} has one agent here")
        learner = self.part.build(restrict(spec, (0,)))
        if learner.buffer_bytes:
            raise InputError("past_self keeps whole learners, which is too much for one with a replay buffer")
        size, odd = divmod(learner.num_envs, self.chunks)
        if odd or size % learner.group_size:
            raise InputError(
                f"past_self.chunks must divide {learner.num_envs} environments into whole groups of "
                f"{learner.group_size}, got {self.chunks}"
            )
        return _SelfPlay(self, spec, learner).learner()


class PastSelvesState(struct.PyTreeNode):
    """The learner and those it was."""

    now: PyTree  # the learner's state
    past: PyTree  # [M, ...] earlier states
    updates: jax.Array  # int32 []
    opponent: jax.Array  # int32 [C] per chunk: index into `past`, -1 for the current self


@dataclasses.dataclass(frozen=True)
class _SelfPlay:
    """The functions of the learner."""

    config: PastSelves
    spec: EnvSpec
    part: Learner  # plays one agent, as if it were agent 0

    def init(self, key: jax.Array) -> PastSelvesState:
        now = self.part.init(key)
        past = jax.tree.map(lambda x: jnp.repeat(x[None], self.config.capacity, axis=0), now)
        return PastSelvesState(now, past, jnp.int32(0), jnp.full(self.config.chunks, -1, jnp.int32))

    def memory(self, num_envs: int) -> tuple[PyTree, PyTree]:
        """Agent 0's memory [E, 1, ...] and that of the others [E, N - 1, ...]."""
        others = self.part.memory(num_envs * (self.spec.num_agents - 1))
        return self.part.memory(num_envs), jax.tree.map(lambda m: self.unfold(m[None], num_envs), others)

    def fold(self, x: jax.Array, chunks: int) -> jax.Array:
        """[E, N - 1, ...] -> [C, B, 1, ...]: every seat of a chunk is one of B copies of a single agent."""
        return x.reshape(chunks, -1, 1, *x.shape[2:])

    def unfold(self, x: jax.Array, num_envs: int) -> jax.Array:
        """[C, B, 1, ...] -> [E, N - 1, ...]"""
        return x.reshape(num_envs, self.spec.num_agents - 1, *x.shape[3:])

    def joint(self, own: Act, other: Callable[[PyTree], Act], opponents: PyTree, chunks: int) -> Act:
        """Agent 0 by `own`, the others by `other` at the states `opponents` [C, ...] of their chunks."""

        def in_chunk(state: PyTree, memory: PyTree, observation: PyTree, key: jax.Array, mask) -> tuple:
            return other(state)(memory, observation, key, mask)[:2]

        def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
            own_key, key = jax.random.split(key)
            seen, allowed = (jax.tree.map(lambda x: x[:, :1], tree) for tree in (observation, mask))
            action, own_memory, record = own(memory[0], seen, own_key, allowed)
            rest = (memory[1], *(jax.tree.map(lambda x: x[:, 1:], tree) for tree in (observation, mask)))
            folded, seen, allowed = jax.tree.map(lambda x: self.fold(x, chunks), rest)
            keys = jax.random.split(key, chunks)
            actions, others_memory = jax.vmap(in_chunk)(opponents, folded, seen, keys, allowed)
            num_envs = action.shape[0]
            actions, others_memory = jax.tree.map(lambda x: self.unfold(x, num_envs), (actions, others_memory))
            return jnp.concatenate([action, actions], axis=1), (own_memory, others_memory), record

        return act

    def training_act(self, state: PastSelvesState, own: Act) -> Act:
        """`own` among the opponents that were drawn."""

        def chosen(past: jax.Array, now: jax.Array) -> jax.Array:
            drawn = state.opponent.reshape(-1, *(1,) * now.ndim)
            return jnp.where(drawn < 0, now, past[jnp.maximum(state.opponent, 0)])

        opponents = jax.tree.map(chosen, state.past, state.now)
        return self.joint(own, lambda s: partial(self.part.act, s), opponents, self.config.chunks)

    def act(self, state: PastSelvesState, memory, observation, key, mask=None) -> ActResult:
        return self.training_act(state, partial(self.part.act, state.now))(memory, observation, key, mask)

    def policy(self, state: PastSelvesState, greedy: bool) -> Act:
        """The current self in every seat."""
        now = jax.tree.map(lambda x: x[None], state.now)
        return self.joint(self.part.policy(state.now, greedy), lambda s: self.part.policy(s, greedy), now, 1)

    @property
    def export(self) -> Callable[[PastSelvesState], NetworkPolicy] | None:
        return (export := self.part.export) and (lambda state: everywhere(export(state.now), self.spec.num_agents))

    def update(
        self, state: PastSelvesState, trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[PastSelvesState, Metrics]:
        update_key, draw_key = jax.random.split(key)

        def own(trajectory: Trajectory) -> Trajectory:
            return seats(trajectory, (0,), trajectory.memory[0], trajectory.record)

        def simulate_own(act: Act, key: jax.Array, memory: PyTree = None) -> Trajectory:
            if memory is not None:
                return simulate(act, key, memory)
            return own(simulate(self.training_act(state, act), key))

        now, metrics = self.part.update(state.now, own(trajectory), update_key, simulate_own)
        keep, row = state.updates % self.config.every == 0, state.updates // self.config.every % self.config.capacity
        past = jax.tree.map(lambda b, x: b.at[row].set(jnp.where(keep, x, b[row])), state.past, now)
        kept = jnp.minimum(state.updates // self.config.every + 1, self.config.capacity)
        return PastSelvesState(now, past, state.updates + 1, self.draw(draw_key, kept)), metrics

    def draw(self, key: jax.Array, kept: jax.Array) -> jax.Array:
        """Opponents int32 [C] for the next rollout, among the current self and `kept` past ones."""
        coin_key, index_key = jax.random.split(key)
        current = jax.random.bernoulli(coin_key, self.config.current, (self.config.chunks,))
        return jnp.where(current, -1, jax.random.randint(index_key, (self.config.chunks,), 0, kept))

    def learner(self) -> Learner:
        return dataclasses.replace(
            self.part,
            init=self.init,
            act=self.act,
            policy=self.policy,
            update=self.update,
            memory=self.memory,
            export=self.export,
        )


def everywhere(policy: NetworkPolicy, num_agents: int) -> NetworkPolicy:
    """The policy of agent 0 in all seats, each of which it takes for agent 0's."""
    return policy.replace(agents=(0,) * num_agents, share_parameters=True)
