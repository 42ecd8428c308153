"""Who plays the other seats when a game of N agents is shown to one learner."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.environment import Environment, Player, PyTree, in_every_seat
from marl_suite.envs.errors import InputError, unknown_name


@runtime_checkable
class Policy(Protocol):
    """A policy for all N seats of a game; what `marl_suite.load` gives is one."""

    def memory(self, num_envs: int, /) -> PyTree:
        """What the N agents remember when an episode begins, [E, N, ...] or nothing."""
        ...

    def act(self, memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None, /) -> tuple:
        """Actions [E, N, ...], the next memory, and more, which is ignored. `mask` is bool [E, N, A] or None."""
        ...


Partner: TypeAlias = str | Player | Policy
"""A scripted player's name, a scripted player, or a policy."""


class Scripted:
    """A scripted player as a policy: it sits in every seat, each with a key of its own."""

    def __init__(self, player: Player, num_agents: int):
        self.player, self.num_agents = player, num_agents

    def memory(self, num_envs: int, /) -> PyTree:
        del num_envs
        return ()

    def act(self, memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None, /) -> tuple:
        """In one environment agent i draws from `split(key, N)[i]`."""
        del mask
        return in_every_seat(self.player, self.num_agents)(observation, key), memory


@dataclasses.dataclass(frozen=True, eq=False)
class Partners:
    """Policies, and for each seat which of them plays there. Seats with the same policy share its memory."""

    policies: tuple[Policy, ...]
    seats: tuple[int, ...]  # [N] index into `policies`; -1 where nobody of them plays

    def memory(self) -> PyTree:
        """What they remember when an episode begins, one environment's."""
        return tuple(policy.memory(1) for policy in self.policies)

    def act(
        self, memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None, actions: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """What everybody does in one environment.

        Args:
            memory: theirs.
            observation: [N, ...] or a dict of such.
            key: used up. A policy that plays all of these seats gets it as it is, several get a part of a split each.
            mask: bool [N, A], or None where every action is allowed.
            actions: [N, ...], of which the seats that are not theirs are kept.

        Returns:
            actions [N, ...] and memory.
        """
        keys = [key] if len(self.policies) == 1 else jax.random.split(key, len(self.policies))
        observation, mask = jax.tree.map(lambda leaf: leaf[None], (observation, mask))
        memories = []
        for index, (policy, own, policy_key) in enumerate(zip(self.policies, memory, keys, strict=False)):
            chosen, own = policy.act(own, observation, policy_key, mask)[:2]
            plays = (np.asarray(self.seats) == index).reshape(-1, *[1] * (actions.ndim - 1))
            actions = jnp.where(plays, chosen[0].astype(actions.dtype), actions)
            memories.append(own)
        return actions, tuple(memories)


def seat(env: Environment, params: PyTree, agent: int, partners: Partner | Sequence[Partner]) -> Partners:
    """The partners of `agent` in `env`.

    Args:
        env: the game.
        params: its parameters.
        agent: whose seat stays free.
        partners: one for all other seats, or a list of N - 1, in the order of these seats.

    Raises:
        InputError: for an unknown scripted player, something that is no partner, a wrong number of them, or one
            whose actions are not those of the game.
    """
    others = [seat for seat in range(env.num_agents) if seat != agent]
    each = as_tuple(partners)
    if len(each) not in (1, len(others)):
        raise InputError(f"{env.name}: partners must be one, or a list of {len(others)}, one per seat; got {len(each)}")
    each = each * len(others) if len(each) == 1 else each
    distinct = {identity(partner): partner for partner in each}
    seats = [-1] * env.num_agents
    for other, partner in zip(others, each, strict=False):
        seats[other] = list(distinct).index(identity(partner))
    return Partners(tuple(_policy(env, params, partner) for partner in distinct.values()), tuple(seats))


def as_tuple(partners: Any) -> tuple[Partner, ...]:
    """A list of partners, or one, as a tuple."""
    if isinstance(partners, (str, Policy)) or not isinstance(partners, Sequence):
        return (partners,)
    return tuple(partners)


def identity(partner: Partner) -> Hashable:
    """What is equal for equal partners. A policy that holds arrays equals itself alone."""
    try:
        hash(partner)
    except TypeError:
        return id(partner)
    return partner


def _policy(env: Environment, params: PyTree, partner: Partner) -> Policy:
    """`partner` as a policy, tried on abstract values."""
    if isinstance(partner, str):
        if partner not in env.players:
            raise unknown_name(f"scripted player of {env.name}", partner, env.players)
        return Scripted(env.players[partner], env.num_agents)
    if not isinstance(partner, Policy) and not callable(partner):
        raise InputError(
            f"{env.name}: a partner is a scripted player ({', '.join(env.players)}), a function (observation, key) -> "
            f"action or a policy with memory and act, got {partner!r}"
        )
    policy = partner if isinstance(partner, Policy) else Scripted(partner, env.num_agents)
    name = getattr(partner, "__name__", type(partner).__name__)
    try:
        shape = jax.eval_shape(lambda: _first_actions(env, params, policy)).shape
    except Exception as error:  # whatever somebody else's code raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{env.name}: the partner {name} cannot play: {reason}") from error
    expected = (1, env.num_agents, *env.action_space(params).shape)
    if shape != expected:
        raise InputError(f"{env.name}: all agents' actions must be {expected}, those of the partner {name} are {shape}")
    return policy


def _first_actions(env: Environment, params: PyTree, policy: Policy) -> jax.Array:
    reset_key, key = jax.random.split(jax.random.key(0))
    observation, state = env.reset(reset_key, params)
    mask = env.action_mask(state, params) if env.masks_actions else None
    observation, mask = jax.tree.map(lambda leaf: leaf[None], (observation, mask))
    return policy.act(policy.memory(1), observation, key, mask)[0]
