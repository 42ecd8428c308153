"""Exact values of memory-one policies in repeated matrix games.

When every player remembers only the last joint action, play is a Markov chain on the S = A**N joint actions: with
start distribution s0, transition matrix P and stage payoffs R_i, the discounted value is (Foerster et al., 2018,
Learning with Opponent-Learning Awareness; the chain is that of Press and Dyson, 2012)

    V_i = s0^T (I - gamma P)^{-1} R_i,    P[s, a] = prod_i pi_i(a_i | s).

Conventions, for N players with A actions each:

* `policies` float [N, S + 1, A]: action probabilities of each player in each of its own states. Rows are indexed in
  the first person: the player's own last action first, then those of players i + 1, i + 2, ... cyclically, as digits
  to the base A. For two players that is own * A + other. The last row is the start.
* `payoffs` float [N, A, ..., A]: payoffs[i, a_0, ..., a_{N-1}] is what player i gets.
* Joint states are indexed by (a_0, ..., a_{N-1}), player 0 first.

Everything is differentiable, and works under `jit` and `vmap`. float32 is fine up to a discount of about 0.96; for
0.99 and above prefer float64.
"""

from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.errors import unknown_name
from marl_suite.envs.matrix_games import STRATEGIES

Array: TypeAlias = jax.Array | np.ndarray


def joint_transition(policies: Array) -> tuple[jax.Array, jax.Array]:
    """The Markov chain of joint actions that memory-one policies make.

    Args:
        policies: float [N, S + 1, A], see the module.

    Returns:
        Start distribution s0 [S] and transition matrix P [S, S], rows summing to one.

    Raises:
        AssertionError: when the shape of `policies` is not [N, A**N + 1, A].
    """
    policies = jnp.asarray(policies)
    chex.assert_rank(policies, 3)
    num_players, _, num_actions = policies.shape
    num_states = num_actions**num_players
    chex.assert_shape(policies, (num_players, num_states + 1, num_actions))
    joint = jnp.ones((num_states + 1, 1), policies.dtype)
    for player, policy in enumerate(policies):
        own = _by_joint_action(policy, player, num_players)
        joint = (joint[:, :, None] * own[:, None, :]).reshape(num_states + 1, -1)
    return joint[-1], joint[:-1]


def _by_joint_action(policy: jax.Array, player: int, num_players: int) -> jax.Array:
    """Rows [S + 1, A] in the order of joint actions, from rows in the first person of `player`."""
    num_actions = policy.shape[-1]
    by_own_view = policy[:-1].reshape((num_actions,) * (num_players + 1))
    order = [(other - player) % num_players for other in range(num_players)]
    by_player = jnp.transpose(by_own_view, (*order, num_players))
    return jnp.concatenate([by_player.reshape(-1, num_actions), policy[-1:]])


def discounted_value(policies: Array, payoffs: Array, discount: float | jax.Array) -> jax.Array:
    """What each player expects from the start on: V_i = sum_t gamma^t E[r_i,t].

    Args:
        policies: float [N, S + 1, A], see the module.
        payoffs: float [N, A, ..., A].
        discount: gamma, 0 <= gamma < 1.

    Returns:
        Values [N], in the payoffs' units.

    Raises:
        AssertionError: when the shapes disagree.
    """
    start, transition = joint_transition(policies)
    stage = _stage_payoffs(policies, payoffs)
    # Solving for the occupancy of states, x^T = s0^T (I - gamma P)^{-1}, serves all players at once.
    occupancy = jnp.linalg.solve(jnp.eye(len(start), dtype=start.dtype) - discount * transition.T, start)
    return jnp.sum(stage * occupancy, axis=-1)


def average_value(policies: Array, payoffs: Array, discount: float | jax.Array) -> jax.Array:
    """`discounted_value` on the scale of one step's payoff: (1 - gamma) V [N]."""
    return (1 - discount) * discounted_value(policies, payoffs, discount)


def finite_horizon_value(policies: Array, payoffs: Array, discount: float | jax.Array, num_steps: int) -> jax.Array:
    """What each player expects from the first `num_steps` steps: sum_{t < T} gamma^t E[r_i,t].

    Args:
        policies: float [N, S + 1, A], see the module.
        payoffs: float [N, A, ..., A].
        discount: gamma; 1 is allowed.
        num_steps: T, static.

    Returns:
        Values [N], in the payoffs' units.

    Raises:
        AssertionError: when the shapes disagree.
    """
    start, transition = joint_transition(policies)
    stage = _stage_payoffs(policies, payoffs)

    def step(weight: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        following = discount * jnp.matmul(weight, transition, precision="highest")
        return following.astype(weight.dtype), weight

    _, weights = jax.lax.scan(step, start, None, length=num_steps)  # gamma^t P(state at t), [T, S]
    return jnp.sum(stage * jnp.sum(weights, axis=0), axis=-1)


def _stage_payoffs(policies: Array, payoffs: Array) -> jax.Array:
    """R [N, S] from payoffs [N, A, ..., A]."""
    num_players, _, num_actions = policies.shape
    chex.assert_shape(payoffs, (num_players,) + (num_actions,) * num_players)
    return jnp.asarray(payoffs).reshape(num_players, -1)


def memory_one_from_logits(logits: Array) -> jax.Array:
    """Policies [N, 5, 2] of the two-player, two-action game from logits [N, 5].

    Logits are those of cooperating (action 0) after CC, CD, DC, DD, own action first, and at the start, as in
    Foerster et al. (2018). Leading axes are free.
    """
    chex.assert_axis_dimension(logits, -1, 5)
    return jnp.stack([jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)], axis=-1)


def memory_one(*names: str) -> np.ndarray:
    """Policies [len(names), 5, 2] of named strategies in the two-player, two-action dilemma.

    The names are those of the scripted players: always_cooperate, always_defect, tit_for_tat, grim_trigger
    (cooperates at the start and after mutual cooperation only) and random (every action equally likely).

    Raises:
        InputError: for an unknown name.
    """
    rows = {name: np.eye(2, dtype=np.float32)[list(table)] for name, table in STRATEGIES.items()}
    rows["random"] = np.full((5, 2), 0.5, np.float32)
    for name in names:
        if name not in rows:
            raise unknown_name("memory-one strategy", name, rows)
    return np.stack([rows[name] for name in names])
