"""Tabular Q-learning, every agent with a table of its own (Watkins and Dayan, 1992; Calvano et al., 2020).

After every period t, for each agent i by itself, with the state s it saw, its action a, its reward r and the state s'
that it saw next,

    Q_i(s, a) <- (1 - alpha) Q_i(s, a) + alpha (r + gamma (1 - terminated) max_a' Q_i(s', a')),

and nothing else changes. In period t = 0, 1, .. an agent acts at random, each allowed action as likely, with
probability epsilon_t = exp(-beta t), and else takes its best action; of equals the first (the cheapest price, in a
market). A time limit ends no value: s' is then the last state, and the next episode starts wherever the game starts it.

This is the pricing algorithm of Calvano, Calzolari, Denicolo and Pastorello (2020, section II): alpha = 0.15,
gamma = 0.95 and beta = 4e-6 are theirs. They begin with what an action is worth for ever if all others act at random,

    Q_i(s, a) = mean_{a_-i} r_i(a, a_-i) / (1 - gamma),

which needs the game's payoffs; where these are unknown a constant takes its place.

Deviations: they play one endless game, here the memory starts anew where the game's clock says so.
"""

import dataclasses
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.algorithm import ActResult, Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.envs.environment import PyTree, at_least, at_most, one_of
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Discrete
from marl_suite.policies import TablePolicy, state_numbers

INITIAL = ("auto", "random_rivals", "constant")


class QLearning(Configuration):
    """Tabular Q-learning: every agent keeps a table of what each action is worth in each state."""

    group: ClassVar[str] = "q_learning"

    lr: float = 0.15  # alpha, how far a value moves towards its target
    gamma: float = 0.95  # discount
    epsilon_decay: float = 4e-6  # beta, per period; 0 acts at random for ever
    initial: str = static(
        "auto"
    )  # values against random rivals, or a constant; auto: the first where payoffs are known
    initial_value: float = 0.0  # the constant; one above all values is optimistic, and explores by itself

    def build(self, spec: EnvSpec) -> Learner:
        return Tables(self, spec).learner()

    def check(self) -> None:
        one_of("q_learning.initial", self.initial, INITIAL)
        at_least("q_learning.epsilon_decay", self.epsilon_decay, 0)
        for field in ("lr", "gamma"):
            at_least(f"q_learning.{field}", getattr(self, field), 0)
            at_most(f"q_learning.{field}", getattr(self, field), 1)


class QLearningState(struct.PyTreeNode):
    """The tables and the clock."""

    tables: jax.Array  # float32 [N, S, A]
    time: jax.Array  # int32 [], periods played


def allowed(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`values` [..., A], with those of forbidden actions below all others."""
    return values if mask is None else jnp.where(mask, values, jnp.finfo(values.dtype).min)


def any_allowed(uniform: jax.Array, mask: jax.Array | None, num_actions: int) -> jax.Array:
    """int32 [...]: one of the actions that `mask` [..., A] allows, each as likely, from numbers [...] in [0, 1)."""
    if mask is None:
        return (uniform * num_actions).astype(jnp.int32)
    number = (uniform * mask.sum(-1)).astype(jnp.int32)  # the how manieth of the allowed
    return (mask & (mask.cumsum(-1) == number[..., None] + 1)).argmax(-1)


@dataclasses.dataclass(frozen=True)
class Tables:
    """The algorithm for one game; its methods are the learner's pure functions. `config` may hold traced numbers."""

    config: QLearning
    spec: EnvSpec

    @property
    def num_states(self) -> int:
        """S, of one agent's table."""
        space = self.spec.observation_space
        return space.n if isinstance(space, Discrete) else space.shape[0]

    def states(self, observation: jax.Array) -> jax.Array:
        """int32 [...] of observations."""
        return state_numbers(self.spec.observation_space, observation)

    def init(self, key: jax.Array) -> QLearningState:
        del key
        action_space: Any = self.spec.action_space
        shape = (self.spec.num_agents, self.num_states, action_space.n)
        values = self.initial_values()[:, None]  # the same in every state
        return QLearningState(tables=jnp.broadcast_to(values, shape), time=jnp.zeros((), jnp.int32))

    def initial_values(self) -> jax.Array:
        """[N, A], or [N, 1] where all actions are worth the same."""
        payoffs = self.spec.stage_payoffs
        if payoffs is None or self.config.initial == "constant":
            return jnp.full((self.spec.num_agents, 1), self.config.initial_value, jnp.float32)
        others = [tuple(axis for axis in range(payoffs.ndim - 1) if axis != i) for i in self.spec.slots]
        means = [payoffs[i].mean(axes) for i, axes in zip(self.spec.slots, others, strict=True)]
        return jnp.stack(means) / (1 - self.config.gamma)

    # ------------------------------------------------------------------ acting
    def epsilon(self, state: QLearningState) -> jax.Array:
        return jnp.exp(-self.config.epsilon_decay * state.time)

    def values(self, state: QLearningState, observation: jax.Array) -> jax.Array:
        """[E, N, A]: what every agent's actions are worth where it is."""
        return state.tables[np.arange(self.spec.num_agents), self.states(observation)]

    def act(
        self, state: QLearningState, memory: PyTree, observation: jax.Array, key: jax.Array, mask: Any = None
    ) -> ActResult:
        values = self.values(state, observation)
        draws = jax.random.uniform(key, (*values.shape[:-1], 2))
        explores, drawn = draws[..., 0] < self.epsilon(state), any_allowed(draws[..., 1], mask, values.shape[-1])
        return jnp.where(explores, drawn, allowed(values, mask).argmax(-1)), memory, ()

    def export(self, state: QLearningState) -> TablePolicy:
        # Always the best: exploration is part of learning, not of what was learned.
        return TablePolicy(state.tables, self.spec.observation_space, self.spec.action_space, always_greedy=True)

    # ------------------------------------------------------------------ learning
    def update(
        self, state: QLearningState, trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[QLearningState, Metrics]:
        del key, simulate
        chex.assert_shape([trajectory.reward, trajectory.action], (1, 1, self.spec.num_agents))
        row = jax.tree.map(lambda x: x[0], trajectory.replace(memory=None, record=None, joint=None))
        here, action = self.states(row.observation)[0], row.action[0]  # [N]
        before = self.values(state, row.observation)[0]  # [N, A]
        following = allowed(self.values(state, row.next_observation), row.next_action_mask)[0].max(-1)
        target = row.reward[0] + self.config.gamma * (1.0 - row.terminated[0]) * following
        taken = jnp.arange(before.shape[-1]) == action[:, None]
        error = jnp.where(taken, target[:, None] - before, 0.0)
        after = before + self.config.lr * error
        tables = state.tables.at[np.arange(self.spec.num_agents), here].set(after)
        mask = None if row.action_mask is None else row.action_mask[0]
        changed = allowed(after, mask).argmax(-1) != allowed(before, mask).argmax(-1)
        metrics = {
            "epsilon": self.epsilon(state),
            "td_error": jnp.abs(error).sum(-1).mean(),
            "greedy_changed": changed.mean(dtype=jnp.float32),
        }
        return QLearningState(tables=tables, time=state.time + 1), metrics

    def learner(self) -> Learner:
        """The record of these functions.

        Raises:
            InputError: where there are no states or actions to put into a table, or no values to begin with.
        """
        name, space, payoffs = self.spec.name, self.spec.observation_space, self.spec.stage_payoffs
        if not isinstance(self.spec.action_space, Discrete):
            raise InputError(
                f"Q-learning needs a value for each action; {name} has actions in {self.spec.action_space}"
            )
        if not isinstance(space, Discrete) and payoffs is None:
            raise InputError(
                "tables need states that can be numbered, Discrete or the last joint action of a repeated matrix game; "
                f"{name} shows {type(space).__name__}{list(space.shape)}"
            )
        if self.config.initial == "random_rivals" and payoffs is None:
            raise InputError(f"the payoffs of {name} are not known beforehand; closest initial: 'constant'")
        endless = not isinstance(self.config.gamma, Tracer) and np.any(np.asarray(self.config.gamma) >= 1)
        if self.config.initial != "constant" and payoffs is not None and endless:
            raise InputError(
                f"values against random rivals need q_learning.gamma below 1, got {self.config.gamma}; "
                "closest initial: 'constant'"
            )
        return Learner(init=self.init, act=self.act, export=self.export, update=self.update)
