"""LOQA: its opponent term against the loss of the paper, its action values, and what it learns."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.algorithm import env_spec
from marl_suite.baselines import registry
from marl_suite.baselines.advantage_alignment import Past, align
from marl_suite.baselines.loqa import LOQA, OpponentAware, shape_opponents
from marl_suite.envs import InputError, make
from marl_suite.envs.spaces import Box
from marl_suite.experiments.run import train
from marl_suite.rollout import collect
from marl_suite.training import Fit

T, E, A = 7, 3, 4
GAMMA, DECAY, BETA, TEMPERATURE = 0.9, 0.8, 0.7, 1.3


def some_rollout(num_agents: int, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    advantage = random.normal(size=(T, E, num_agents)).astype(np.float32)
    surprise = random.uniform(size=(T, E, num_agents)).astype(np.float32)
    reset = np.zeros((T, E), bool)
    reset[0], reset[3, 1] = True, True
    return advantage, surprise, reset


@pytest.mark.parametrize("num_agents", [2, 4])
def test_the_past_counts_by_how_much_each_opponent_could_be_moved(num_agents):
    advantage, surprise, reset = some_rollout(num_agents)
    expected = advantage.copy()
    for k in range(T):
        for e in range(E):
            start = max(t for t in range(k + 1) if reset[t, e])
            for i in range(num_agents):
                for j in set(range(num_agents)) - {i}:
                    past = sum(
                        (GAMMA * DECAY) ** (k - t) * advantage[t, e, i] * surprise[t, e, j] for t in range(start, k)
                    )
                    expected[k, e, i] += BETA * advantage[k, e, j] * past
    nothing = jnp.zeros((E, num_agents, num_agents))
    found, _ = shape_opponents(advantage, surprise, reset, nothing, BETA, GAMMA * DECAY)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_two_rollouts_of_one_episode_are_one_rollout():
    advantage, surprise, reset = some_rollout(3)
    nothing = jnp.zeros((E, 3, 3))
    whole, end = shape_opponents(advantage, surprise, reset, nothing, BETA, GAMMA)
    first, carried = shape_opponents(advantage[:5], surprise[:5], reset[:5], nothing, BETA, GAMMA)
    second, last = shape_opponents(advantage[5:], surprise[5:], reset[5:], carried, BETA, GAMMA)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-6)
    np.testing.assert_allclose(last, end, rtol=1e-6)


def test_opponents_that_could_always_be_moved_alike_make_it_advantage_alignment():
    advantage, _, reset = some_rollout(3)
    found, _ = shape_opponents(advantage, jnp.ones_like(advantage), reset, jnp.zeros((E, 3, 3)), BETA, GAMMA * DECAY)
    # Alignment has one more gamma in front of its sum.
    expected, _ = align(advantage, reset, Past.nothing(E, 3), BETA / GAMMA, GAMMA, DECAY)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_its_policy_gradient_is_that_of_the_papers_loss():
    """The loss as it is written: the taken action's value carries a differentiable return, made by magic boxes."""
    advantage, _, _ = some_rollout(2)
    advantage = advantage[:, 0]  # one episode, [T, 2]
    random = np.random.default_rng(1)
    state, action = random.integers(5, size=T), random.integers(A, size=(T, 2))
    q = random.normal(size=(T, A)).astype(np.float32)  # the opponent's action values on the way

    def log_prob(theta: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(theta)[state, action[:, 0]]

    def paper(theta: jax.Array) -> jax.Array:
        own = log_prob(theta)
        magic = jnp.exp(own - jax.lax.stop_gradient(own))
        total = jnp.sum(advantage[:, 0] * own)
        for t in range(T):
            later = sum((GAMMA * DECAY) ** (k - t) * (magic[k] - 1) * advantage[k, 1] for k in range(t + 1, T))
            logits = jnp.asarray(q[t]).at[action[t, 1]].add(later) / TEMPERATURE
            total += BETA * advantage[t, 0] * jax.nn.log_softmax(logits)[action[t, 1]]
        return total

    taken = np.take_along_axis(np.asarray(jax.nn.softmax(q / TEMPERATURE)), action[:, 1:], 1)[:, 0]
    surprise = np.stack([np.full(T, np.nan), (1 - taken) / TEMPERATURE], axis=1)[:, None]
    surprise[..., 0] = 0.5  # one's own, which must not matter to oneself
    reset = jnp.arange(T)[:, None] == 0
    shaped, _ = shape_opponents(
        jnp.asarray(advantage[:, None]), jnp.asarray(surprise), reset, jnp.zeros((1, 2, 2)), BETA, GAMMA * DECAY
    )
    theta = random.normal(size=(5, A)).astype(np.float32)
    expected = jax.grad(paper)(theta)
    found = jax.grad(lambda theta: jnp.sum(shaped[:, 0, 0] * log_prob(theta)))(theta)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)
    alone = jax.grad(lambda theta: jnp.sum(advantage[:, 0] * log_prob(theta)))(theta)
    assert np.abs(expected - alone).max() > 0.1, "the opponent's term is not nothing"


def test_state_values_are_the_policys_mean_of_action_values_and_surprise_comes_from_their_softmax():
    env = make("prisoners_dilemma")
    config = LOQA(num_envs=4, rollout_length=6, temperature=2.0)
    spec = env_spec(env, env.default_params)
    algorithm = OpponentAware(config, spec)
    fit = Fit(env, config, [0], 24)
    state = jax.tree.map(lambda x: x[0], fit.start())
    act = lambda *args: algorithm.act(state.learner, *args)  # noqa: E731
    _, trajectory, _ = collect(env, env.default_params, fit.learner(), act, state.rollout, jax.random.key(1))
    estimates: Any = algorithm.estimate(state.learner, trajectory)
    for seat in range(2):
        critic, actor = (jax.tree.map(lambda x, s=seat: x[s], p) for p in (state.learner.critic, state.learner.actor))
        rows = (trajectory.observation[:, :, seat], jnp.zeros((6, 4), bool))
        q, logits = (net.apply(p, (), *rows)[0] for net, p in ((algorithm.critic, critic), (algorithm.actor, actor)))
        np.testing.assert_allclose(estimates.value[..., seat], np.sum(jax.nn.softmax(logits) * q, -1), rtol=1e-5)
        chosen = jnp.take_along_axis(jax.nn.softmax(q / 2.0), trajectory.action[:, :, seat, None], -1)[..., 0]
        np.testing.assert_allclose(estimates.surprise[..., seat], (1 - chosen) / 2.0, rtol=1e-5)


@pytest.mark.parametrize("team", ["loqa+always_defect", "loqa+ippo", "loqa+past_self"])
def test_it_plays_with_others(team):
    small = {"num_envs": 8, "rollout_length": 5, "hidden_sizes": (4,), "minibatches": 1, "recurrent": True}
    *_, chunk = Fit(make("coin_game"), registry.configuration(team, **small), [0], 160)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(chunk.state.learner))


def test_what_it_cannot_play_or_be_is_refused():
    env = make("prisoners_dilemma")
    spec = dataclasses.replace(env_spec(env, env.default_params), action_space=Box(-1, 1, (2,)))
    with pytest.raises(InputError, match="continuous"):
        LOQA().build(spec)
    for bad in ({"beta": -1.0}, {"temperature": 0.0}, {"decay": 1.5}):
        with pytest.raises(InputError, match=next(iter(bad))):
            registry.configuration("loqa", **bad)


@pytest.mark.slow
def test_it_learns_to_reciprocate_and_without_its_opponents_term_to_defect():
    settings = {"seeds": 5, "steps": 1.28e6, "best_response": 0, "lr": 5e-3, "hidden_sizes": (32,)}
    learned = train("prisoners_dilemma", "loqa", **settings)
    defector = learned.evaluations["always_defect"]
    assert np.sum(learned["return_per_step"] > -1.1) >= 4, learned["return_per_step"]
    assert np.sum((defector["own_per_step"] > -2.15) & (defector["partner_per_step"] < -1.75)) >= 4, defector
    naive = train("prisoners_dilemma", "loqa", beta=0.0, **settings)
    assert np.all(naive["return_per_step"] < -1.9), naive["return_per_step"]
