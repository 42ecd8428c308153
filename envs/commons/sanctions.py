"""What games with sanctions share: rounds of two steps, a choice that all see and then points against others."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.environment import Environment, Metrics, PyTree, at_least, per_count
from marl_suite.envs.errors import InputError
from marl_suite.envs.graphs import in_turn
from marl_suite.envs.repeated_games import NOT_YET, RepeatedGame
from marl_suite.envs.spaces import Box


class SanctionsState(struct.PyTreeNode):
    """The last choices, the last sanctions, and the clock."""

    choices: jax.Array  # int32 [N], of the last first stage, NOT_YET at the start
    received: jax.Array  # int32 [N], points that each agent got in the last second stage, 0 at the start
    sanctioning: jax.Array  # bool [], whether the next step is a second stage
    time: jax.Array  # int32 [], steps taken, two a round


class SanctionsGame(Environment):
    """A round is a simultaneous choice, which pays, and then a stage in which agents give each other points.

    A point costs `params.fee` to whoever gives it and `params.fine` to whoever gets it. What an action says about the
    other stage is ignored. With `known_end` the players see how many steps are left, and the game terminates after
    `max_steps`; without, the clock truncates it there and they do not.

    A subclass adds `game`, `read`, `most_points`, `shares`, `own_view` [N, V], `own_view_size` V and
    `sanction_metrics`.
    Observation float32 [V + N + 2], all within 0 and 1: the subclass's V numbers, whether this is the second stage, the
    share of steps left (0 without `known_end`), the last choice of each other agent in turn from oneself, as a
    share of the endowment, and the points received in the last second stage, as a share of the most possible.
    """

    known_end: bool
    own_view_size: ClassVar[int]
    mixed_motive: ClassVar[bool] = True
    masks_actions: ClassVar[bool] = True

    @property
    def game(self) -> RepeatedGame:
        """The first stage alone."""
        raise NotImplementedError

    @property
    def most_points(self) -> int:
        """The most that one agent may give to one other."""
        raise NotImplementedError

    def read(self, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The choices int32 [N] and the points int32 [N, N - 1], to each other in turn, that actions stand for."""
        raise NotImplementedError

    def shares(self, choices: jax.Array) -> jax.Array:
        """Choices as shares of the endowment, float32 [N]."""
        raise NotImplementedError

    def own_view(self, state: SanctionsState, shares: jax.Array, params: PyTree) -> jax.Array:
        """What observations begin with, float32 [N, V], given the last `shares` (0 at the start)."""
        raise NotImplementedError

    def sanction_metrics(self, choices: jax.Array, points: jax.Array, reward: jax.Array, params: PyTree) -> Metrics:
        """What a second stage says about the play, besides "points"; a first stage counts as `game` says."""
        raise NotImplementedError

    def losses(self, fines: jax.Array, earned: jax.Array) -> jax.Array:
        """What fines [N] take from those who earned [N] in the first stage: all of them."""
        del earned
        return fines

    def check_params(self, params: PyTree) -> None:
        steps = params.max_steps
        at_least(f"{self.name}: parameter max_steps", steps, 2)
        if not isinstance(steps, Tracer) and np.any(np.asarray(steps) % 2):
            closest = np.asarray(steps) // 2 * 2
            raise InputError(
                f"{self.name}: parameter max_steps must be even, 2 a round, got {steps}; closest: {closest}"
            )
        at_least(f"{self.name}: parameter fee", params.fee, 0)
        at_least(f"{self.name}: parameter fine", params.fine, 0)

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: PyTree) -> SanctionsState:
        del key, params  # the start is always the same
        return SanctionsState(
            choices=jnp.full(self.num_agents, NOT_YET, jnp.int32),
            received=jnp.zeros(self.num_agents, jnp.int32),
            sanctioning=jnp.zeros((), bool),
            time=jnp.zeros((), jnp.int32),
        )

    def transition(
        self, key: jax.Array, state: SanctionsState, actions: jax.Array, params: PyTree
    ) -> tuple[SanctionsState, jax.Array, jax.Array, Metrics]:
        del key  # the rules are deterministic
        second = state.sanctioning
        choices, points = self.read(actions.astype(jnp.int32))
        choices = jnp.where(second, state.choices, choices)
        dealt, received = points.sum(axis=1), points_received(points)
        earned = self.game.payoff(choices, params)
        lost = self.losses(params.fine * received, earned)
        reward = jnp.where(second, -params.fee * dealt - lost, earned).astype(jnp.float32)
        counted = {"rounds": jnp.ones(()), "points": dealt.astype(jnp.float32)}
        counted |= self.sanction_metrics(choices, points, reward, params)
        metrics = {name: jnp.where(second, value, 0.0) for name, value in counted.items()}
        metrics |= {name: jnp.where(second, 0.0, value) for name, value in self.game.metrics(choices, params).items()}
        received = jnp.where(second, received, state.received)
        state = SanctionsState(choices, received, ~second, state.time + 1)
        return state, reward, self.known_end & (state.time >= params.max_steps), metrics

    def derived_metrics(self, means: Metrics) -> Metrics:
        """Everything per round instead of per step."""
        return per_count("rounds", means)

    # ------------------------------------------------------------------ views
    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (self.own_view_size + self.num_agents + 2,))

    def observe(self, state: SanctionsState, params: PyTree) -> jax.Array:
        shares = jnp.where(state.choices == NOT_YET, 0.0, self.shares(state.choices))
        left = (params.max_steps - state.time) / params.max_steps * self.known_end
        common = jnp.stack([state.sanctioning.astype(jnp.float32), left.astype(jnp.float32)])
        received = state.received / np.float32(self.most_points * (self.num_agents - 1))
        return jnp.concatenate(
            [
                self.own_view(state, shares, params),
                jnp.broadcast_to(common, (self.num_agents, 2)),
                in_turn(shares)[:, 1:],
                received[:, None],
            ],
            axis=1,
        )


def points_received(points: jax.Array) -> jax.Array:
    """int32 [N]: what each agent gets, of the points [N, N - 1] that each gives to the others in turn from itself."""
    return sum((jnp.roll(points[:, j], j + 1) for j in range(1, points.shape[1])), jnp.roll(points[:, 0], 1))


def deterring_points(gain: float, fine: float) -> int:
    """The smallest number of points whose fines take all of what a deviation gains: ceil(gain / fine)."""
    return int(np.ceil(gain / fine - 1e-9))
