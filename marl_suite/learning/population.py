"""N agents and their networks: one parameter set for each agent, or one that all share.

With P parameter sets (1 when shared, else N) and B streams of experience for each (E environments, times N agents
when shared), `[T, E, N, ...]` becomes `[P, T, B, ...]`, and whatever is done for one set is a `vmap` over P. Sharing is
this change of shape and no other code.

With `agent_id` a network sees, beside the observation, which agent it plays for (one-hot): agents that share their
parameters can then differ. It is added here and not by a wrapper around the game, because policies are evaluated,
paired and exported in the bare game.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.algorithm import EnvSpec
from marl_suite.envs.environment import PyTree
from marl_suite.envs.spaces import Box, Dict, Space
from marl_suite.learning.networks import SequenceNetwork


@dataclasses.dataclass(frozen=True)
class Population:
    """The agents of `spec`, as `config` wants them: `share_parameters`, `agent_id`, `hidden_sizes`, `recurrent`,
    `activation`, `encoder` and `num_envs` are read."""

    config: Any
    spec: EnvSpec

    # ------------------------------------------------------------------ shapes
    @property
    def num_sets(self) -> int:
        """P, the number of parameter sets."""
        return 1 if self.config.share_parameters else self.spec.num_agents

    @property
    def num_streams(self) -> int:
        """B, the streams of experience of each parameter set."""
        return self.config.num_envs * self.spec.num_agents // self.num_sets

    def to_streams(self, x: jax.Array) -> jax.Array:
        """[T, E, N, ...] -> [P, T, B, ...]: the experience of each parameter set."""
        if self.config.share_parameters:
            return x.reshape(1, x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
        return jnp.moveaxis(x, 2, 0)

    def to_agents(self, x: jax.Array) -> jax.Array:
        """[P, T, B, ...] -> [T, E, N, ...], the inverse of `to_streams`."""
        if self.config.share_parameters:
            return x[0].reshape(x.shape[1], -1, self.spec.num_agents, *x.shape[3:])
        return jnp.moveaxis(x, 0, 2)

    def row_reset(self, reset: jax.Array) -> jax.Array:
        """[T, E] -> [T, B]"""
        return jnp.repeat(reset, self.spec.num_agents // self.num_sets, axis=1)

    @property
    def sharing(self) -> dict[str, bool]:
        """Whether agents share their parameters, and whether networks see which agent they play for."""
        return {name: getattr(self.config, name) for name in ("share_parameters", "agent_id")}

    # ------------------------------------------------------------------ what networks see
    def identified(self, space: Space) -> Space:
        """`space` and beside it an agent's id."""
        return Dict({"observation": space, "agent_id": Box(0, 1, (self.spec.whole.num_agents,))})

    def with_id(self, observation: PyTree) -> PyTree:
        """[T, E, N, ...] observations and beside them each agent's id."""
        ids = jax.nn.one_hot(np.asarray(self.spec.slots), self.spec.whole.num_agents)
        lead = jax.tree.leaves(observation)[0].shape[:2]
        return {"observation": observation, "agent_id": jnp.broadcast_to(ids, (*lead, *ids.shape))}

    @property
    def input_space(self) -> Space:
        """What a network sees of one agent's observation."""
        space = self.spec.observation_space
        return self.identified(space) if self.config.agent_id else space

    def inputs(self, observation: PyTree) -> PyTree:
        """Observations [T, E, N, ...] -> what networks see, [P, T, B, ...]."""
        seen = self.with_id(observation) if self.config.agent_id else observation
        return jax.tree.map(self.to_streams, seen)

    # ------------------------------------------------------------------ networks
    def network(
        self, num_outputs: int, head_gain: float, space: Space | None = None, value_head: bool = False
    ) -> SequenceNetwork:
        """A network of one parameter set, over inputs in `space`: one agent's inputs when None."""
        config = self.config
        return SequenceNetwork(
            space=space or self.input_space,
            num_outputs=num_outputs,
            hidden_sizes=config.hidden_sizes,
            recurrent=config.recurrent,
            activation=config.activation,
            head_gain=head_gain,
            encoder=config.encoder,
            value_head=value_head,
        )

    def one_step(
        self, network: SequenceNetwork, params: PyTree, memory: PyTree, observation: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Outputs [E, N, F] of every agent's network at one step, and its memory [E, N, H] after it."""
        inputs = self.inputs(jax.tree.map(lambda x: x[None], observation))
        memory = jax.tree.map(lambda m: self.to_streams(m[None])[:, 0], memory)
        no_reset = jnp.zeros(jax.tree.leaves(inputs)[0].shape[1:3], bool)  # the loop has cleared the memory already
        outputs, memory = jax.vmap(network.apply, (0, 0, 0, None))(params, memory, inputs, no_reset)
        return self.to_agents(outputs)[0], jax.tree.map(lambda m: self.to_agents(m)[0], memory)

    def outputs(
        self,
        network: SequenceNetwork,
        params: PyTree,
        memory: PyTree,
        rows: PyTree,
        successors: PyTree,
        reset: jax.Array,
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        """Outputs [T, E, N, F] at every row and at its successor, and the memory after every row [P, T, B, H]."""
        apply = jax.vmap(network.rows_and_successors, (0, 0, 0, 0, None))
        outputs, following, memories = apply(params, memory, rows, successors, reset)
        return self.to_agents(outputs), self.to_agents(following), memories
