"""The learner contract: a baseline is a record of pure functions plus static facts.

    init(key)                                       -> state
    memory(num_envs)                                -> memory, [E, N, ...]
    act(state, memory, obs, key, mask)              -> actions, memory, record
    update(state, trajectory, key, simulate)        -> state, metrics
    export(state)                                   -> policy, one of `marl_suite.policies`
    policy(state, greedy)                           -> act function of (memory, obs, key, mask); made from `export`

Observations are `[E, N, ...]`, actions `[E, N]`, trajectories `[T, E, N, ...]`. The learner owns exploration,
minibatches, buffers, targets and losses; the loop owns stepping, resets, statistics and step accounting. A learner is
built from its configuration by `configuration.build(spec)`; numbers in a configuration are traced, whatever fixes a
shape is static.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
from flax import struct

from marl_suite.envs.environment import Environment, PyTree, in_every_seat
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Space

Metrics = dict[str, jax.Array]
ActResult = tuple[jax.Array, PyTree, PyTree]
Act = Callable[..., ActResult]
"""(memory, observation [E, N, ...], key, mask [E, N, A] or None) -> actions [E, N], memory, record."""


ROLES = ("cooperator", "defector", "exploiter")
"""What a game calls some of its scripted players."""


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """The static facts of a game that a learner is built for."""

    name: str
    num_agents: int
    observation_space: Space
    action_space: Space
    global_state_size: int
    mixed_motive: bool
    masks_actions: bool = False
    """Whether actions are ever forbidden, so that rows have action masks."""
    num_updates: int = 1
    """How many updates the run will make, for schedules."""
    players: tuple[tuple[str, Callable], ...] = ()
    """The scripted players by name, and those that the game calls its cooperator, defector and exploiter by role."""
    stage_payoffs: jax.Array | None = dataclasses.field(default=None, compare=False)
    """What joint actions pay, [N, A, ..., A], in repeated games with memory one; may be traced."""
    joint: "EnvSpec | None" = None
    """The whole game, when this learner controls only some of its agents (see `marl_suite.composition`)."""
    slots: tuple[int, ...] = ()
    """The agents of the whole game that this learner controls, in the order of its own agent axis."""

    @property
    def whole(self) -> "EnvSpec":
        """The game with all its agents."""
        return self.joint or self


def env_spec(env: Environment, params: PyTree, num_updates: int = 1) -> EnvSpec:
    """The specification of `env`."""
    state = jax.eval_shape(lambda: env.reset(jax.random.key(0), params)[1])
    global_state = jax.eval_shape(lambda s: env.global_state(s, params), state)
    players = dict(env.players)  # some games solve for an equilibrium to make them
    roles = {role: players[name] for role in ROLES if (name := getattr(env, role))}
    return EnvSpec(
        name=env.name,
        num_agents=env.num_agents,
        observation_space=env.observation_space(params),
        action_space=env.action_space(params),
        global_state_size=global_state.shape[0],
        mixed_motive=env.mixed_motive,
        masks_actions=env.masks_actions,
        num_updates=num_updates,
        players=tuple((players | roles).items()),
        stage_payoffs=env.stage_payoffs(params),
        slots=tuple(range(env.num_agents)),
    )


class Trajectory(struct.PyTreeNode):
    """Consecutive steps of E environments. Row t holds what was seen, done and caused at step t."""

    observation: PyTree  # [T, E, N, ...] what the agents saw before acting
    action: jax.Array  # [T, E, N]
    action_mask: jax.Array | None  # bool [T, E, N, A], None in games that forbid nothing
    reward: jax.Array  # float32 [T, E, N] caused by this row's actions
    terminated: jax.Array  # bool [T, E] the game ended with this row: its next state is worth nothing
    truncated: jax.Array  # bool [T, E] the clock ended the episode with this row: its next state keeps its value
    reset: jax.Array  # bool [T, E] this row is the first of an episode
    next_observation: PyTree  # [T, E, N, ...] the true successor, before any reset
    next_action_mask: jax.Array | None  # bool [T, E, N, A], of the true successor
    global_state: jax.Array | None  # float32 [T, E, S], None unless the learner asks for it
    next_global_state: jax.Array | None  # float32 [T, E, S], the true successor
    memory: PyTree  # [E, N, ...] the policy's memory before row 0
    record: PyTree  # [T, E, ...] whatever `act` gave to be stored
    joint: "Trajectory | None" = None  # the whole game's trajectory, when this one shows only some agents

    @property
    def done(self) -> jax.Array:
        """bool [T, E]: the row is the last of its episode, for either reason."""
        return self.terminated | self.truncated


class Simulate(Protocol):
    """Fresh episodes under hypothetical parameters, from the games' own initial states.

    `act` plays the learner's own agents. With a cleared `memory` [E, N, ...] it plays the whole game instead, also
    the agents of others, as somebody does who thinks ahead about them; the trajectory is then the whole game's.
    """

    def __call__(self, act: Act, key: jax.Array, memory: PyTree = None) -> Trajectory: ...


def no_update(state: PyTree, trajectory: Trajectory, key: jax.Array, simulate: Simulate) -> tuple[PyTree, Metrics]:
    """The update of a learner that does not learn."""
    del trajectory, key, simulate
    return state, {}


@dataclasses.dataclass(frozen=True)
class Learner:
    """The record. See the module docstring for the functions' signatures."""

    init: Callable[[jax.Array], PyTree]
    act: Callable[..., ActResult]
    policy: Callable[[PyTree, bool], Act] = None  # type: ignore[assignment]  # as `export` says
    update: Callable[..., tuple[PyTree, Metrics]] = no_update
    memory: Callable[[int], PyTree] = lambda num_envs: ()
    num_envs: int = 1
    """Parallel environments, E."""
    rollout_length: int = 1
    """Steps collected per update, T."""
    needs_global_state: bool = False
    simulations: int = 0
    """How many times one update calls `simulate`; each call is counted as T * E environment steps."""
    group_size: int = 1
    """Environments that share one random key (common random numbers); divides `num_envs`."""
    warm_up: int = 0
    """Rollouts collected and only absorbed, before the first update."""
    absorb: Callable[[PyTree, Trajectory], PyTree] = lambda state, trajectory: state
    """(state, trajectory) -> state that remembers it: how warm-up fills a replay buffer."""
    buffer_bytes: int = 0
    """What the learner's replay buffer holds in memory, per seed."""
    trained: Callable[[PyTree], PyTree] = lambda state: state
    """state -> what of it policies need: a replay buffer stays behind when training is over."""
    export: Callable[[PyTree], PyTree] | None = None
    """state -> the policy, as it is stored and played without the learner. Without it policies cannot be stored."""

    def __post_init__(self):
        if self.policy is None:
            if (export := self.export) is None:
                raise TypeError("a learner needs `export` or `policy`")
            object.__setattr__(self, "policy", lambda state, greedy: partial(export(state).act, greedy=greedy))
        if self.num_envs % self.group_size:
            raise InputError(f"group_size {self.group_size} must divide num_envs {self.num_envs}")

    @classmethod
    def of(cls, algorithm: Any, **facts: Any) -> "Learner":
        """The record of an object's methods `init`, `act`, `export`, `update` and `memory`, and these facts."""
        names = ("init", "act", "export", "update", "memory")
        return cls(**{name: getattr(algorithm, name) for name in names}, **facts)

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update costs, simulated ones included."""
        return self.steps_per_rollout * (1 + self.simulations)

    @property
    def steps_per_rollout(self) -> int:
        """Environment steps of one rollout."""
        return self.num_envs * self.rollout_length


def static(default: Any) -> Any:
    """A configuration field that fixes a shape or a branch of the program, so it is not traced."""
    return struct.field(pytree_node=False, default=default)


class Configuration(struct.PyTreeNode):
    """Base of every baseline's configuration: fields are hyperparameters, static where they fix a shape."""

    group: ClassVar[str] = ""
    """The prefix accepted before a key on the command line, as in `ppo.lr`."""

    reward_view: str = static("individual")
    """What agents are paid, a function of everybody's payoffs such as "team" or "self_interest:s=0.3" (see
    `marl_suite.envs.reward_views`)."""

    @property
    def summary(self) -> str:
        """The baseline in one sentence: the first line of the docstring."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    def check(self) -> None:
        """Raises `InputError` when a concrete value is out of range, before anything is traced."""

    def build(self, spec: EnvSpec) -> Learner:
        """The learner for a game.

        Raises:
            InputError: when this configuration cannot play it, in one sentence that says why.
        """
        raise NotImplementedError


def with_agent_axis(act: Callable, num_agents: int) -> Act:
    """An act function for all agents from a player of one: (observation, key) -> action."""

    seated = in_every_seat(act, num_agents)

    def act_all(memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None = None) -> ActResult:
        del mask
        return seated(observation, key), memory, ()

    return act_all
