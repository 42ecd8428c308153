"""What a trained learner leaves behind: who acts, and how. No training code is needed to play it.

A learner's `export(state)` gives one of the kinds below. All are pytrees with two methods,

    memory(num_envs)                                        -> memory, [E, N, ...]
    act(memory, observation, key, mask=None, greedy=False)  -> actions [E, N, ...], memory, ()

of which `learner.policy` and what `marl_suite.load` gives are made, so that a stored policy plays as it was evaluated.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.algorithm import Act, ActResult, EnvSpec, static, with_agent_axis
from marl_suite.envs.environment import Player, PyTree
from marl_suite.envs.spaces import Discrete, Space
from marl_suite.learning.distributions import num_outputs, policy_distribution
from marl_suite.learning.networks import SequenceNetwork
from marl_suite.learning.population import Population


def choose(space: Space, outputs: jax.Array, key: jax.Array, mask: jax.Array | None, greedy: bool) -> jax.Array:
    """The modes of, or samples from, the distributions that `outputs` [..., F] describe; more outputs are left out."""
    distribution = policy_distribution(space, outputs[..., : num_outputs(space)], mask)
    return distribution.mode() if greedy else distribution.sample(seed=key)


def state_numbers(space: Space, observation: jax.Array) -> jax.Array:
    """int32 [...] of observations of a table's states: `Discrete` ones as they are, or one-hot [..., S]."""
    return observation if isinstance(space, Discrete) else observation.argmax(-1)


class NetworkPolicy(struct.PyTreeNode):
    """A network for each agent, or one that they share, whose outputs describe distributions over actions."""

    params: PyTree  # [P, ...] variables of a `SequenceNetwork`, P = 1 when shared, else N
    observation_space: Space = static(None)
    action_space: Space = static(None)
    agents: tuple[int, ...] = static(())  # [N] which agent of the game a network that sees ids takes each seat for
    num_agents: int = static(1)  # of the whole game
    share_parameters: bool = static(False)
    agent_id: bool = static(False)  # whether networks see it
    hidden_sizes: tuple[int, ...] = static(())
    recurrent: bool = static(False)
    activation: str = static("tanh")
    encoder: str = static("flat")
    use_bias: bool = static(True)  # of the head
    value_head: bool = static(False)
    always_greedy: bool = static(False)  # outputs are values, and the best action is taken

    @classmethod
    def of(cls, spec: EnvSpec, network: SequenceNetwork, params: PyTree, **facts: Any) -> "NetworkPolicy":
        """The agents of `spec` with the parameters [P, ...] of `network`, and further fields."""
        names = ("recurrent", "activation", "encoder", "use_bias", "value_head")
        return cls(
            params=params,
            observation_space=spec.observation_space,
            action_space=spec.action_space,
            agents=spec.slots,
            num_agents=spec.whole.num_agents,
            hidden_sizes=tuple(network.hidden_sizes),
            **{name: getattr(network, name) for name in names},
            **facts,
        )

    @property
    def population(self) -> Population:
        """The agents and what they see."""
        spaces = self.observation_space, self.action_space
        whole = EnvSpec("", self.num_agents, *spaces, global_state_size=0, mixed_motive=False)
        seats = EnvSpec("", len(self.agents), *spaces, 0, False, joint=whole, slots=self.agents)
        return Population(self, seats)

    @property
    def network(self) -> SequenceNetwork:
        """That of one parameter set."""
        outputs = num_outputs(self.action_space)
        return self.population.network(outputs, 1.0, value_head=self.value_head).clone(use_bias=self.use_bias)

    def memory(self, num_envs: int) -> PyTree:
        return self.network.initial_memory(num_envs, len(self.agents))

    def act(self, memory: PyTree, observation: PyTree, key: jax.Array, mask=None, greedy: bool = False) -> ActResult:
        outputs, memory = self.population.one_step(self.network, self.params, memory, observation)
        return choose(self.action_space, outputs, key, mask, greedy or self.always_greedy), memory, ()


class TablePolicy(struct.PyTreeNode):
    """A table for each agent: logits, or values, of every action in every state that it can observe."""

    tables: jax.Array  # float32 [N, S, A]
    observation_space: Space = static(None)  # Discrete, or one-hot
    action_space: Space = static(None)
    always_greedy: bool = static(False)  # these are values, and the best action is taken

    def memory(self, num_envs: int) -> PyTree:
        del num_envs
        return ()

    def act(self, memory: PyTree, observation: PyTree, key: jax.Array, mask=None, greedy: bool = False) -> ActResult:
        outputs = self.tables[np.arange(self.tables.shape[0]), state_numbers(self.observation_space, observation)]
        return choose(self.action_space, outputs, key, mask, greedy or self.always_greedy), memory, ()


class ScriptedPolicy(struct.PyTreeNode):
    """A scripted player of the game in every seat."""

    player: str = static("random")  # its name there, or its role
    rule: Player = static(None)
    num_agents: int = static(1)  # N

    def memory(self, num_envs: int) -> PyTree:
        del num_envs
        return ()

    def act(self, memory: PyTree, observation: PyTree, key: jax.Array, mask=None, greedy: bool = False) -> ActResult:
        del greedy
        return with_agent_axis(self.rule, self.num_agents)(memory, observation, key, mask)


class TeamPolicy(struct.PyTreeNode):
    """Several policies in one game, each with seats of its own."""

    parts: tuple[PyTree, ...]
    slots: tuple[tuple[int, ...], ...] = static(())  # the seats of each part

    def memory(self, num_envs: int) -> PyTree:
        return tuple(part.memory(num_envs) for part in self.parts)

    def act(self, memory: PyTree, observation: PyTree, key: jax.Array, mask=None, greedy: bool = False) -> ActResult:
        acts = [partial(part.act, greedy=greedy) for part in self.parts]
        return joint(acts, self.slots)(memory, observation, key, mask)


def joint(acts: Sequence[Act], slots: Sequence[Sequence[int]]) -> Act:
    """The act function of all agents from those of parts, which play the seats `slots` of each."""
    order = np.argsort([agent for seats in slots for agent in seats])  # where each agent stands among all parts' seats

    def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
        keys = jax.random.split(key, len(acts))
        results = [
            part(m, columns(observation, s, axis=1), k, columns(mask, s, axis=1))
            for part, m, s, k in zip(acts, memory, slots, keys, strict=True)
        ]
        actions, memories, records = zip(*results, strict=True)
        return jnp.concatenate(actions, axis=1)[:, order], memories, records

    return act


def columns(tree: PyTree, slots: Sequence[int], axis: int) -> PyTree:
    """The agents `slots` of every leaf."""
    return jax.tree.map(lambda x: jnp.take(x, np.asarray(slots), axis=axis), tree)
