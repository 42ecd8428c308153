"""Multi-agent PPO (MAPPO): actors see their own observations, critics the state of the whole game.

Yu et al. (2022), "The surprising effectiveness of PPO in cooperative multi-agent games". All is IPPO's but the critic's
input: V_i(s) in place of V_i(o_i), with s = `env.global_state`. Where interests differ, so do values, and the critic is
told whose is asked for; a reward that all share has one value, and then it is not.

With `normalise_values` the critic's outputs are in units of the standard deviation of its targets so far, around their
mean (their section 5.1), so that its learning rate, and the range that clips it, mean the same in every game.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.algorithm import EnvSpec, Learner, Metrics, Trajectory, static
from marl_suite.baselines.ppo import IPPO, PPO, Estimates, PPOState
from marl_suite.envs.environment import PyTree
from marl_suite.envs.reward_views import read_view
from marl_suite.envs.spaces import Box, Dict, Space
from marl_suite.learning.networks import SequenceNetwork


class MAPPO(IPPO):
    """Multi-agent proximal policy optimisation: critics see the state of the whole game."""

    trunk_can_be_shared: ClassVar[bool] = False

    critic_observes: bool = static(False)  # the critic sees the agent's own observation too
    normalise_values: bool = static(False)

    def build(self, spec: EnvSpec) -> Learner:
        return dataclasses.replace(CentralCritic(self, spec).learner(), needs_global_state=True)


class Moments(struct.PyTreeNode):
    """Of the value targets so far, a running mean per parameter set in which old ones fade."""

    mean: jax.Array  # float32 [P]
    square: jax.Array  # float32 [P]
    weight: jax.Array  # float32 [P] of what has been seen, 0 at the start, 1 in the end

    def updated(self, x: jax.Array, decay: float = 0.99) -> "Moments":
        """With one more batch [P, ...]."""
        x = x.reshape(len(x), -1)
        new = (x.mean(1), jnp.square(x).mean(1), jnp.ones(len(x)))
        return jax.tree.map(lambda old, seen: decay * old + (1 - decay) * seen, self, Moments(*new))

    def scale(self) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation [P]; 0 and 1 before the first batch."""
        weight = jnp.where(self.weight > 0, self.weight, 1.0)
        mean = self.mean / weight
        deviation = jnp.sqrt(jnp.maximum(self.square / weight - mean**2, 1e-4))
        return mean, jnp.where(self.weight > 0, deviation, 1.0)


class MAPPOState(PPOState):
    """PPO's state, and how large values are."""

    moments: Moments


@dataclasses.dataclass(frozen=True)
class CentralCritic(PPO):
    """PPO with a critic of the global state."""

    config: MAPPO

    # ------------------------------------------------------------------ what the critic sees
    @property
    def tells_whose(self) -> bool:
        """Whether agents may be paid differently, so that a value is somebody's."""
        return not read_view(self.config.reward_view).common

    @property
    def critic(self) -> SequenceNetwork:
        parts: dict[str, Space] = {"global_state": Box(-np.inf, np.inf, (self.spec.global_state_size,))}
        if self.config.critic_observes:
            parts["observation"] = self.spec.observation_space
        space = Dict(parts)
        return self.network(1, 1.0, self.identified(space) if self.tells_whose else space)

    def critic_inputs(self, trajectory: Trajectory) -> tuple[PyTree, PyTree]:
        def inputs(global_state: jax.Array | None, observation: PyTree) -> PyTree:
            assert global_state is not None
            time, envs, size = global_state.shape
            for_all = jnp.broadcast_to(global_state[:, :, None], (time, envs, self.spec.num_agents, size))
            seen = {"global_state": for_all} | ({"observation": observation} if self.config.critic_observes else {})
            return jax.tree.map(self.to_streams, self.with_id(seen) if self.tells_whose else seen)

        row = inputs(trajectory.global_state, trajectory.observation)
        return row, inputs(trajectory.next_global_state, trajectory.next_observation)

    # ------------------------------------------------------------------ the scale of values
    def init(self, key: jax.Array) -> MAPPOState:
        zeros = jnp.zeros(self.num_sets)
        return MAPPOState(**vars(super().init(key)), moments=Moments(zeros, zeros, zeros))

    def values(self, state: MAPPOState, trajectory: Trajectory) -> tuple[jax.Array, jax.Array, PyTree]:
        v_tm1, v_t, memories = super().values(state, trajectory)
        mean, deviation = state.moments.scale()  # [P], that is, one for all or one for each agent
        return mean + deviation * v_tm1, mean + deviation * v_t, memories

    def fit(
        self, state: MAPPOState, trajectory: Trajectory, estimates: Estimates, key: jax.Array
    ) -> tuple[MAPPOState, Metrics]:
        if self.config.normalise_values:
            state = state.replace(moments=state.moments.updated(self.to_streams(estimates.target)))
        mean, deviation = state.moments.scale()
        value, target = ((x - mean) / deviation for x in (estimates.value, estimates.target))
        return super().fit(state, trajectory, estimates.replace(value=value, target=target), key)
