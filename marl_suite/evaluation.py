"""Playing whole episodes with fixed policies, and what they amount to.

An `act` function is what `learner.policy(state, greedy)` gives: (memory, observation [E, N, ...], key, mask) ->
actions [E, N], memory, record. Payoffs are material: what a reward view makes of them is for training only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.algorithm import Act, Learner, with_agent_axis
from marl_suite.envs.environment import Environment, Metrics, Player, PyTree
from marl_suite.metrics import social
from marl_suite.rollout import where_env
from marl_suite.training import compiled


class Episodes(struct.PyTreeNode):
    """E finished episodes."""

    returns: jax.Array  # float32 [E, N] undiscounted sums of material payoffs
    length: jax.Array  # int32 [E] steps; those cut by the evaluation's own limit end there
    finished: jax.Array  # bool [E] whether the game ended the episode
    collection: social.CollectionTimes  # when agents collected, for sustainability, [E, N]
    metrics: Metrics  # {name: float32 [E] or [E, N]} per-step means over the episode


class _Playing(struct.PyTreeNode):
    env_state: PyTree
    observation: PyTree
    memory: PyTree
    episodes: Episodes  # metrics hold sums until the end
    time: jax.Array


def evaluate(
    env: Environment,
    params: PyTree,
    act: Act,
    memory: PyTree,
    key: jax.Array,
    num_episodes: int,
    max_steps: int = 10_000,
) -> Episodes:
    """Plays `num_episodes` episodes side by side, each to its own end.

    Args:
        env: the game.
        params: its parameters.
        act: the policies of all agents.
        memory: [E, N, ...] their cleared memory, `learner.memory(num_episodes)`.
        key: used up.
        num_episodes: E.
        max_steps: where an endless episode is cut; `Episodes.finished` tells.

    Returns:
        the episodes.
    """
    reset_key, step_key = jax.random.split(key)
    reset_keys = jax.random.split(reset_key, num_episodes)
    observation, env_state = jax.vmap(env.reset_env, (0, None))(reset_keys, params)

    def play(playing: _Playing) -> tuple[_Playing, jax.Array, jax.Array, Metrics]:
        """One step of every environment: who stands where, payoffs [E, N], done [E] and metrics."""
        act_key, env_key = jax.random.split(jax.random.fold_in(step_key, playing.time))
        mask = jax.vmap(env.action_mask, (0, None))(playing.env_state, params) if env.masks_actions else None
        actions, memory, _ = act(playing.memory, playing.observation, act_key, mask)
        observation, env_state, _, terminated, truncated, info = jax.vmap(env.step_env, (0, 0, 0, None))(
            jax.random.split(env_key, num_episodes), playing.env_state, actions, params
        )
        moved = playing.replace(env_state=env_state, observation=observation, memory=memory, time=playing.time + 1)
        return moved, info["payoff"], terminated | truncated, info["metrics"]

    def step(playing: _Playing) -> _Playing:
        episodes = playing.episodes
        running = ~episodes.finished
        playing, payoff, done, metrics = play(playing)
        payoff = jnp.where(running[:, None], payoff, 0.0)
        episodes = Episodes(
            returns=episodes.returns + payoff,
            length=episodes.length + running,
            finished=episodes.finished | done,
            collection=jax.vmap(lambda times, reward: times.update(playing.time, reward))(episodes.collection, payoff),
            metrics=jax.tree.map(
                lambda x, total: total + where_env(running, x, jnp.zeros_like(x)), metrics, episodes.metrics
            ),
        )
        return playing.replace(episodes=episodes)

    episodes = Episodes(
        returns=jnp.zeros((num_episodes, env.num_agents)),
        length=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
        collection=jax.vmap(lambda _: social.CollectionTimes.start(env.num_agents))(jnp.arange(num_episodes)),
        metrics={},
    )
    start = _Playing(env_state, observation, memory, episodes, jnp.int32(0))
    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: play(start)[-1]))
    start = start.replace(episodes=episodes.replace(metrics=metrics))
    playing = jax.lax.while_loop(
        lambda playing: ~jnp.all(playing.episodes.finished) & (playing.time < max_steps),
        step,
        start,
    )
    episodes = playing.episodes
    means = jax.tree.map(
        lambda total: total / episodes.length.reshape((-1,) + (1,) * (total.ndim - 1)), episodes.metrics
    )
    return episodes.replace(metrics=means)


def opposed(env: Environment) -> bool:
    """Whether the mean return over agents says little, as in zero-sum games, and one agent's is shown as well."""
    return env.num_agents > 1 and not env.mixed_motive


def summarise(env: Environment, episodes: Episodes, apart: bool = False) -> Metrics:
    """The social metrics of a set of episodes.

    Returns:
        scalars `return` and `return_per_step` (per capita), `utilitarian_return` (sum over agents), `equality`
        (mean over the episodes in which it is defined), `sustainability`, `peace` (in games where agents can be timed
        out), `first_agent_return_per_step` (agent 0's, on request by `apart` or when `opposed`), `episode_length`,
        `finished` (share of episodes that the game ended), the game's own metrics averaged over agents, and
        `agent_return` [N].
    """
    length = episodes.length.astype(jnp.float32)
    means = jax.tree.map(lambda x: jnp.einsum("e,e...->...", length, x) / length.sum(), episodes.metrics)
    pooled = env.derived_metrics(means)
    summary = {
        "return": episodes.returns.mean(),
        "return_per_step": (episodes.returns.mean(1) / episodes.length).mean(),
        "utilitarian_return": social.utilitarian_return(episodes.returns).mean(),
        "equality": jnp.nanmean(social.equality(episodes.returns)),
        "sustainability": jnp.nanmean(jax.vmap(lambda times: times.result())(episodes.collection)),
        "episode_length": episodes.length.mean(dtype=jnp.float32),
        "finished": episodes.finished.mean(dtype=jnp.float32),
        "agent_return": episodes.returns.mean(0),
    }
    if apart or opposed(env):
        summary["first_agent_return_per_step"] = (episodes.returns[:, 0] / episodes.length).mean()
    if "timed_out" in pooled:
        timed_out = episodes.metrics["timed_out"] * episodes.length[:, None]
        summary["peace"] = social.peace(timed_out, episodes.length).mean()
    return summary | {name: jnp.mean(value) for name, value in pooled.items()}


def scripted(player: Player, num_agents: int) -> tuple[Act, PyTree]:
    """A scripted player in every seat, and its memory."""
    return with_agent_axis(player, num_agents), ()


def with_partner(
    act: Act, partners: Sequence[Act], num_agents: int, slot: jax.Array | int, which: jax.Array | int = 0
) -> Act:
    """`act` for everybody but the agent `slot`, who is played by `partners[which]`.

    Every act plays, with a memory of its own, as if all seats were its: (memory of `act`, *memories of the partners).
    """

    def mixed(memory, observation, key, mask=None):
        keys = jax.random.split(key, 1 + len(partners))
        results = [a(m, observation, k, mask) for a, m, k in zip((act, *partners), memory, keys, strict=True)]
        actions = jnp.stack([result[0] for result in results[1:]])[which]
        here = (jnp.arange(num_agents) == slot).reshape((1, -1) + (1,) * (actions.ndim - 2))
        return jnp.where(here, actions, results[0][0]), tuple(result[1] for result in results), results[0][2]

    return mixed


def robustness(
    env: Environment,
    params: PyTree,
    policy: tuple[Act, PyTree],
    partners: Mapping[str, tuple[Act, PyTree]],
    key: jax.Array,
    num_episodes: int,
) -> dict[str, Metrics]:
    """What policies earn when somebody else takes one of their places, averaged over the places.

    Args:
        env: the game.
        params: its parameters.
        policy: act function of all agents, and its cleared memory [E, N, ...].
        partners: the same of those who take a place.
        key: used up.
        num_episodes: E, per partner and place.

    Returns:
        per partner `own` and `partner`, mean return per episode of a remaining agent and of the newcomer, and both
        per step.
    """
    acts, memories = [act for act, _ in partners.values()], [memory for _, memory in partners.values()]

    def play(which: jax.Array, slot: jax.Array, key: jax.Array) -> Metrics:
        mixed = with_partner(policy[0], acts, env.num_agents, slot, which)
        episodes = evaluate(env, params, mixed, (policy[1], *memories), key, num_episodes)
        newcomer = jnp.arange(env.num_agents) == slot

        def shares(returns: jax.Array) -> tuple[jax.Array, jax.Array]:
            theirs = (returns * newcomer).sum(-1)
            return (returns.sum(-1) - theirs).mean() / (env.num_agents - 1), theirs.mean()

        own, theirs = shares(episodes.returns)
        own_step, their_step = shares(episodes.returns / episodes.length[:, None])
        return {"own": own, "partner": theirs, "own_per_step": own_step, "partner_per_step": their_step}

    # One program for all partners and places: lanes differ by two indices.
    lanes = jnp.stack(jnp.meshgrid(jnp.arange(len(acts)), jnp.arange(env.num_agents), indexing="ij"))
    which, slot = lanes.reshape(2, -1)
    results = jax.vmap(play)(which, slot, jax.random.split(key, len(which)))
    means = jax.tree.map(lambda x: x.reshape(len(acts), env.num_agents).mean(1), results)
    return {name: {what: x[i] for what, x in means.items()} for i, name in enumerate(partners)}


ANOTHER_SEED = "another_seed"
"""The evaluation with the policy of another seed in one place."""


def evaluator(
    env: Environment,
    learner: Learner,
    num_episodes: int,
    greedy: bool = False,
    partners: Sequence[str] = (),
    another_seed: bool = False,
    apart: bool = False,
) -> Callable[[PyTree, PyTree, jax.Array], dict[str, Any]]:
    """A compiled function of (params, learner states [S, ...], keys [S]) that evaluates every seed's policies.

    Its result holds `self_play`, the summary of episodes among themselves (`apart`: with agent 0's return), and the
    `robustness` with each of the game's scripted `partners` and, on request, with `another_seed` (of seed s with
    that of seed s + 1) in one place; each entry has a leading seed axis.
    """

    def one(params: PyTree, state: PyTree, other: PyTree, key: jax.Array) -> dict[str, Metrics]:
        self_key, key = jax.random.split(key)
        memory = learner.memory(num_episodes)
        policy = learner.policy(state, greedy), memory
        episodes = evaluate(env, params, *policy, self_key, num_episodes)
        places = {name: scripted(env.players[name], env.num_agents) for name in partners}
        if another_seed:
            places = {ANOTHER_SEED: (learner.policy(other, greedy), memory)} | places
        results = {"self_play": summarise(env, episodes, apart)}
        return results | (robustness(env, params, policy, places, key, num_episodes) if places else {})

    def all_seeds(params: PyTree, states: PyTree, keys: jax.Array) -> dict[str, Metrics]:
        others = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), states)
        return jax.vmap(one, in_axes=(None, 0, 0, 0))(params, states, others, keys)

    return compiled(all_seeds)
