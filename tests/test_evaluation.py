"""Whole episodes with fixed policies: returns, lengths and intruders' earnings that can be worked out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Reinforce, Tagged

from marl_suite import evaluation
from marl_suite.algorithm import Act, env_spec
from marl_suite.envs import Environment, make
from marl_suite.envs.wrappers import reward_view
from marl_suite.evaluation import Episodes
from marl_suite.metrics.social import CollectionTimes

ENV = Tagged()
PARAMS = ENV.default_params
N, E = 3, 16
AGENTS = np.arange(N)


def count_steps(memory, observation, key, mask=None):
    """Plays the number of steps since its memory was cleared."""
    return memory, memory + 1, ()


def break_rules(memory, observation, key, mask):
    """Plays the one action that the mask forbids."""
    return jnp.argmin(mask, axis=-1), memory, ()


def play(act: Act, env: Environment = ENV, **settings) -> Any:
    """Finished episodes, in numpy."""
    memory = jnp.zeros((E, N), jnp.int32)
    run = jax.jit(lambda key: evaluation.evaluate(env, PARAMS, act, memory, key, E, **settings))
    return jax.tree.map(np.asarray, run(jax.random.key(0)))


@pytest.fixture(scope="module")
def episodes() -> Any:
    return play(count_steps)


def lengths(episodes: Any) -> np.ndarray:
    """[E] what the rules say about episodes of these tags; the tag is a metric that is constant in an episode."""
    return (2 + episodes.metrics["tag"] % 3).astype(int)


def test_every_episode_is_played_to_its_own_end(episodes):
    assert episodes.finished.all() and len(set(lengths(episodes))) == 3
    np.testing.assert_array_equal(episodes.length, lengths(episodes))


def test_returns_are_sums_over_the_episode_and_nothing_after_it(episodes):
    # Agent i earns 100 i + 10 t + a_t at step t, and a_t is t.
    wanted = np.array([[sum(100 * i + 11 * t for t in range(n)) for i in AGENTS] for n in lengths(episodes)])
    np.testing.assert_allclose(episodes.returns, wanted)


def test_metrics_are_means_over_the_episodes_own_steps(episodes):
    wanted = (lengths(episodes) - 1) / 2  # of the actions 0 .. length - 1
    np.testing.assert_allclose(episodes.metrics["acted"], np.tile(wanted[:, None], N), rtol=1e-6)


def test_collection_times_are_those_of_positive_payoffs(episodes):
    for length, times, counts in zip(
        lengths(episodes), episodes.collection.time_sum, episodes.collection.count, strict=True
    ):
        every = length * (length + 1) // 2
        np.testing.assert_array_equal(times, [every - 1, every, every])  # agent 0 earns nothing at the first step
        np.testing.assert_array_equal(counts, [length - 1, length, length])


def test_returns_are_material_whatever_agents_are_trained_on(episodes):
    np.testing.assert_array_equal(play(count_steps, reward_view(ENV, "team")).returns, episodes.returns)


def test_an_episode_longer_than_the_limit_is_cut_and_says_so():
    cut = play(count_steps, max_steps=3)
    full = lengths(cut)
    np.testing.assert_array_equal(cut.length, np.minimum(full, 3))
    np.testing.assert_array_equal(cut.finished, full <= 3)
    np.testing.assert_allclose(cut.returns[full == 4], np.tile([33, 333, 633], ((full == 4).sum(), 1)))


def test_policies_are_told_the_mask_of_their_own_state():
    episodes = play(break_rules)
    wanted = (episodes.metrics["tag"][:, None] + AGENTS) % 5
    np.testing.assert_allclose(episodes.metrics["acted"], wanted, rtol=1e-6)


def test_every_random_key_is_used_once():
    with jax.debug_key_reuse(True):
        play(count_steps, max_steps=2)


# ---------------------------------------------------------------------- summaries
def test_a_summary_says_what_its_episodes_amount_to():
    returns = jnp.array([[4.0, 0.0, 2.0], [3.0, 3.0, 3.0], [-1.0, 1.0, 0.0]])
    length = jnp.array([2, 3, 5])
    episodes = Episodes(
        returns=returns,
        length=length,
        finished=jnp.array([True, True, False]),
        collection=jax.vmap(lambda _: CollectionTimes.start(3).update(2, jnp.array([1.0, 0.0, 1.0])))(length),
        metrics={"acted": jnp.array([[1.0, 2, 3], [0, 0, 0], [4, 5, 6]]), "timed_out": jnp.full((3, 3), 0.25)},
    )
    summary = evaluation.summarise(ENV, episodes)
    wanted = {
        "return": (6 + 9 + 0) / 9,
        "return_per_step": (2 / 2 + 3 / 3 + 0 / 5) / 3,
        "utilitarian_return": (6 + 9 + 0) / 3,
        # One minus the Gini coefficient: 1 - (2 * (4 + 2 + 2)) / (2 * 3 * 6), then 1, then undefined.
        "equality": (1 - 16 / 36 + 1) / 2,
        "sustainability": 2,
        "episode_length": 10 / 3,
        "finished": 2 / 3,
        "acted": (2 * 6 + 3 * 0 + 5 * 15) / (3 * 10),  # of all steps, not of episodes
        "peace": 0.75,
        "timed_out": 0.25,
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(summary[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(summary["agent_return"], [2, 4 / 3, 5 / 3], rtol=1e-6)
    np.testing.assert_allclose(summary["first_agent_return_per_step"], (4 / 2 + 3 / 3 - 1 / 5) / 3, rtol=1e-6)


def test_games_that_never_time_anybody_out_have_no_peace(episodes):
    assert "peace" not in jax.eval_shape(lambda: evaluation.summarise(ENV, jax.tree.map(jnp.asarray, episodes)))


# ---------------------------------------------------------------------- intruders
def always(action: int):
    return lambda memory, observation, key, mask=None: (jnp.full(observation.shape[:2], action), memory, ())


@pytest.mark.parametrize("slot", range(N))
def test_an_intruder_takes_one_place_only(slot):
    players = [lambda observation, key: 20 + observation[1], lambda observation, key: 7 + observation[1]]
    partners = [evaluation.scripted(player, N)[0] for player in players]
    mixed = evaluation.with_partner(always(1), partners, N, jnp.int32(slot), jnp.int32(1))
    observation = jnp.zeros((4, N, 5), jnp.int32).at[..., 1].set(AGENTS)
    actions, _, _ = mixed(((), (), ()), observation, jax.random.key(0))
    np.testing.assert_array_equal(actions, np.tile(np.where(slot == AGENTS, 7 + slot, 1), (4, 1)))


def test_everybody_keeps_a_memory_of_their_own():
    def counting(step: int):
        return lambda memory, observation, key, mask=None: (
            jnp.full(observation.shape[:2], memory[0]),
            memory + step,
            (),
        )

    mixed = evaluation.with_partner(counting(1), [counting(10), counting(100)], N, 1, 1)
    memory = tuple(jnp.zeros(1, jnp.int32) for _ in range(3))
    _, memory, _ = mixed(memory, jnp.zeros((2, N, 5)), jax.random.key(0))
    actions, memory, _ = mixed(memory, jnp.zeros((2, N, 5)), jax.random.key(0))
    np.testing.assert_array_equal([m[0] for m in memory], [2, 20, 200])
    np.testing.assert_array_equal(actions, np.tile([1, 100, 1], (2, 1)))


def test_a_free_rider_among_contributors_earns_what_the_payoffs_say():
    # Four of five give 1, the pot of 4 doubles and is shared: 1.6 each, and the free rider keeps its own 1.
    env = make("public_goods", num_agents=5)
    partners = {name: evaluation.scripted(env.players[name], 5) for name in ("always_cooperate", "always_defect")}
    found = jax.jit(lambda key: evaluation.robustness(env, env.default_params, (always(0), ()), partners, key, 2))
    results = found(jax.random.key(0))
    assert list(results) == ["always_cooperate", "always_defect"]
    np.testing.assert_allclose(results["always_cooperate"]["partner_per_step"], 2.0, rtol=1e-5)
    result = results["always_defect"]
    np.testing.assert_allclose(result["own_per_step"], 1.6, rtol=1e-5)
    np.testing.assert_allclose(result["partner_per_step"], 2.6, rtol=1e-5)
    np.testing.assert_allclose(result["own"], 1.6 * 50, rtol=1e-5)
    np.testing.assert_allclose(result["partner"], 2.6 * 50, rtol=1e-5)


@pytest.mark.parametrize("greedy", [False, True])
def test_the_evaluator_plays_every_seeds_policy_and_its_exploiter(greedy):
    env = make("prisoners_dilemma")
    learner = Reinforce().build(env_spec(env, env.default_params))
    # Logits of (cooperate, defect): certain cooperation, certain defection, and a slight preference to cooperate.
    preference = jnp.array([[50.0, 0.0], [0.0, 50.0], [0.1, 0.0]])
    weights = jnp.broadcast_to(preference[:, None, None], (3, 2, 5, 2))
    evaluate = evaluation.evaluator(env, learner, 40, greedy, ["always_defect"], another_seed=True)
    results = evaluate(env.default_params, weights, jax.random.split(jax.random.key(0), 3))
    results = jax.tree.map(np.asarray, results)
    own, exploiter = (results["always_defect"][f"{who}_per_step"] for who in ("own", "partner"))
    cooperation, returns = results["self_play"]["cooperation"], results["self_play"]["return_per_step"]
    np.testing.assert_allclose(cooperation[:2], [1, 0])
    np.testing.assert_allclose(returns[:2], [-1, -2], rtol=1e-5)
    np.testing.assert_allclose(own[:2], [-3, -2], rtol=1e-5)
    np.testing.assert_allclose(exploiter[:2], [0, -2], rtol=1e-5, atol=1e-6)
    p = 1.0 if greedy else 1 / (1 + np.exp(-0.1))  # 4,000 choices
    np.testing.assert_allclose(cooperation[2], p, atol=0.03)
    np.testing.assert_allclose(own[2], -3 * p - 2 * (1 - p), atol=0.03)
    np.testing.assert_allclose(exploiter[2], 0 * p - 2 * (1 - p), atol=0.06)
    # Of seed s with seed s + 1 in one place: the cooperator with the defector, and the other way round.
    cross = results["another_seed"]
    np.testing.assert_allclose(cross["own_per_step"][:2], [-3, 0 * p - 2 * (1 - p)], atol=0.06)
    np.testing.assert_allclose(cross["partner_per_step"][:2], [0, -3 * p - 2 * (1 - p)], atol=0.06)
    np.testing.assert_array_equal(results["self_play"]["episode_length"], 50)
    assert results["self_play"]["agent_return"].shape == (3, 2)
