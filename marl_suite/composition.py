"""Several learners in one game: LOLA against naive, a best response to a frozen policy, scripted partners.

A composition is itself a learner, so the loop does not know about it. Each part is built for its own agents only and
is shown their columns of the trajectory; what the others did stands in `trajectory.joint`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.algorithm import (
    Act,
    ActResult,
    Configuration,
    EnvSpec,
    Learner,
    Metrics,
    Simulate,
    Trajectory,
    no_update,
    static,
)
from marl_suite.envs.environment import PyTree
from marl_suite.envs.errors import InputError
from marl_suite.policies import TeamPolicy, columns, joint


def frozen(learner: Learner, state: PyTree) -> Learner:
    """`learner` with its parameters fixed at `state`: it acts and never learns."""
    shapes = {fact: getattr(learner, fact) for fact in ("num_envs", "rollout_length", "group_size")}
    return Learner(lambda key: state, learner.act, learner.policy, memory=learner.memory, **shapes)


class Frozen(Configuration):
    """A trained policy that no longer learns."""

    part: Any = None  # the configuration it was trained with, for the whole game
    state: PyTree = None  # the state of its learner

    def build(self, spec: EnvSpec) -> Learner:
        """The policy in the seats `spec.slots`: it is shown, and acts for, these only."""
        whole = spec.whole
        learner, slots = self.part.build(whole), np.asarray(spec.slots)

        def all_seats(x: jax.Array) -> jax.Array:
            return jnp.zeros((x.shape[0], whole.num_agents, *x.shape[2:]), x.dtype).at[:, slots].set(x)

        def policy(state: PyTree, greedy: bool) -> Act:
            play = learner.policy(state, greedy)

            def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
                # Seats that are not ours see nothing and may do anything: ~mask would else forbid them every action.
                mask = None if mask is None else ~all_seats(~mask)
                actions, memory, _ = play(memory, jax.tree.map(all_seats, observation), key, mask)
                return actions[:, slots], memory, ()

            return act

        return Learner(
            init=lambda key: self.state,
            act=lambda state, *args: policy(state, False)(*args),
            policy=policy,
            memory=learner.memory,
        )


def restrict(spec: EnvSpec, slots: Sequence[int]) -> EnvSpec:
    """The game as the learner of the agents `slots` sees it."""
    return dataclasses.replace(spec, num_agents=len(slots), joint=spec, slots=tuple(slots))


def compose(learners: Sequence[Learner], assignment: Sequence[int]) -> Learner:
    """One learner out of several: agent i is played, and learned for, by `learners[assignment[i]]`.

    Args:
        learners: each built for as many agents as `assignment` gives it, with `restrict(spec, slots)`.
        assignment: [N] index into `learners` per agent.

    Returns:
        a learner whose state and memory are tuples, one entry per part. A part's `simulate` plays the other agents
        as they are; metrics are prefixed with the part's index.

    Raises:
        InputError: when an index is out of range, a part plays nobody, or the parts that learn disagree about the
            number of environments, the rollout length or the group size.
    """
    slots = _slots(assignment, len(learners))
    # Who never learns needs no rollouts: a scripted partner goes along with whatever the others collect.
    learners = tuple(learners)
    learning = tuple(learner for learner in learners if learner.update is not no_update)
    for fact in ("num_envs", "rollout_length", "group_size"):
        if len(values := {getattr(learner, fact) for learner in learning or learners}) > 1:
            raise InputError(f"composed learners must agree on {fact}, got {sorted(values)}")
    team, first = _Team(learners, slots), (learning or learners)[0]
    learner = Learner.of(
        team,
        policy=team.policy,
        num_envs=first.num_envs,
        rollout_length=first.rollout_length,
        group_size=first.group_size,
        warm_up=max(learner.warm_up for learner in learners),
        absorb=team.absorb,
        trained=team.trained,
        buffer_bytes=sum(learner.buffer_bytes for learner in learners),
        needs_global_state=any(learner.needs_global_state for learner in learners),
        simulations=sum(learner.simulations for learner in learners),
    )
    return learner if learning else dataclasses.replace(learner, update=no_update)


class Composition(Configuration):
    """Several configurations in one game: agent i is played by `parts[assignment[i]]`. See `compose`.

    Without an assignment the parts take one agent each, in order, and the last part all that remain.
    """

    parts: tuple[Configuration, ...] = ()
    assignment: tuple[int, ...] = static(())

    @property
    def summary(self) -> str:
        return "A mixed team, by seat: " + " ".join(part.summary for part in self.parts)

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def build(self, spec: EnvSpec) -> Learner:
        if not self.assignment and len(self.parts) > spec.num_agents:
            raise InputError(f"{spec.name} has {spec.num_agents} agents, too few for {len(self.parts)} parts")
        assignment = self.assignment or tuple(min(i, len(self.parts) - 1) for i in range(spec.num_agents))
        if len(assignment) != spec.num_agents:
            raise InputError(f"{spec.name} has {spec.num_agents} agents, the assignment is {assignment}")
        slots = _slots(assignment, len(self.parts))
        learners = [part.build(restrict(spec, s)) for part, s in zip(self.parts, slots, strict=True)]
        learning = (part for part, learner in zip(self.parts, learners, strict=True) if learner.update is not no_update)
        if views := {part.reward_view for part in learning} - {self.reward_view}:
            raise InputError(f"composed learners share one reward view, {self.reward_view!r}, got {sorted(views)}")
        return compose(learners, assignment)


def _slots(assignment: Sequence[int], num_parts: int) -> tuple[tuple[int, ...], ...]:
    """The agents of each part; raises `InputError` when an index is out of range or a part plays nobody."""
    if any(index not in range(num_parts) for index in assignment):
        raise InputError(f"assignment {tuple(assignment)} must index the {num_parts} parts given")
    slots = tuple(tuple(i for i, part in enumerate(assignment) if part == index) for index in range(num_parts))
    if () in slots:
        raise InputError(f"assignment {tuple(assignment)} leaves part {slots.index(())} without an agent")
    return slots


@dataclasses.dataclass(frozen=True)
class _Team:
    """The functions of a composed learner."""

    learners: tuple[Learner, ...]
    slots: tuple[tuple[int, ...], ...]

    def init(self, key: jax.Array) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, len(self.learners))
        return tuple(learner.init(k) for learner, k in zip(self.learners, keys, strict=True))

    def memory(self, num_envs: int) -> tuple[PyTree, ...]:
        return tuple(learner.memory(num_envs) for learner in self.learners)

    def acts(self, state: tuple[PyTree, ...]) -> list[Act]:
        """Each part's own act function at its current state."""

        def bind(learner: Learner, state: PyTree) -> Act:
            return lambda memory, observation, key, mask=None: learner.act(state, memory, observation, key, mask)

        return [bind(learner, s) for learner, s in zip(self.learners, state, strict=True)]

    def act(self, state, memory, observation, key, mask=None) -> ActResult:
        return joint(self.acts(state), self.slots)(memory, observation, key, mask)

    def policy(self, state: tuple[PyTree, ...], greedy: bool) -> Act:
        parts = [learner.policy(s, greedy) for learner, s in zip(self.learners, state, strict=True)]
        return joint(parts, self.slots)

    @property
    def export(self) -> Callable[[PyTree], TeamPolicy] | None:
        exports = [learner.export for learner in self.learners if learner.export is not None]
        if len(exports) < len(self.learners):
            return None
        return lambda state: TeamPolicy(tuple(e(s) for e, s in zip(exports, state, strict=True)), self.slots)

    def part(self, trajectory: Trajectory, index: int) -> Trajectory:
        """What part `index` sees of the whole game's trajectory."""
        return seats(trajectory, self.slots[index], trajectory.memory[index], trajectory.record[index])

    def absorb(self, state: tuple[PyTree, ...], trajectory: Trajectory) -> tuple[PyTree, ...]:
        """Every part remembers what it saw."""
        parts = enumerate(zip(self.learners, state, strict=True))
        return tuple(learner.absorb(s, self.part(trajectory, i)) for i, (learner, s) in parts)

    def trained(self, state: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        return tuple(learner.trained(s) for learner, s in zip(self.learners, state, strict=True))

    def update(
        self, state: tuple[PyTree, ...], trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[tuple[PyTree, ...], Metrics]:
        """Every part learns from the same trajectory and from the others as they were before the update."""
        keys = jax.random.split(key, len(self.learners))
        states, metrics = [], {}
        for index, learner in enumerate(self.learners):

            def simulate_part(act: Act, key: jax.Array, memory: PyTree = None, index: int = index) -> Trajectory:
                if memory is not None:
                    return simulate(act, key, memory)
                acts = self.acts(state)
                acts[index] = act
                return self.part(simulate(joint(acts, self.slots), key), index)

            new, logs = learner.update(state[index], self.part(trajectory, index), keys[index], simulate_part)
            states.append(new)
            metrics |= {f"{index}/{name}": value for name, value in logs.items()}
        return tuple(states), metrics


def seats(trajectory: Trajectory, slots: Sequence[int], memory: PyTree, record: PyTree) -> Trajectory:
    """What the agents `slots` saw and did in the whole game's trajectory, with their own memory and record."""
    names = ("observation", "action", "action_mask", "reward", "next_observation", "next_action_mask")
    theirs = {name: columns(getattr(trajectory, name), slots, axis=2) for name in names}
    return trajectory.replace(**theirs, memory=memory, record=record, joint=trajectory)
