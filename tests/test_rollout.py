"""Rows of a trajectory line up: each says in which episode, for which agent and when it was seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Counter, Tagged

from marl_suite import rollout
from marl_suite.algorithm import Learner, Trajectory, env_spec
from marl_suite.rollout import RolloutState

ENV = Tagged()
PARAMS = ENV.default_params
N = ENV.num_agents
TAG, AGENT, TIME, LAST_ACTION, NOISE = range(5)


def counter(**settings) -> Learner:
    return Counter(**settings).build(env_spec(ENV, PARAMS))


def play(learner: Learner, seed: int, times: int) -> tuple[RolloutState, list[tuple[Trajectory, dict]]]:
    """The state after, and what came of, `times` collections in a row."""
    state = rollout.start(ENV, PARAMS, learner, jax.random.key(seed))
    act = lambda *args: learner.act((), *args)  # noqa: E731
    collect = jax.jit(lambda state, key: rollout.collect(ENV, PARAMS, learner, act, state, key))
    results = []
    for key in jax.random.split(jax.random.key(seed + 1), times):
        state, trajectory, logs = collect(state, key)
        results.append((trajectory, logs))
    return state, jax.tree.map(np.asarray, results)


@pytest.fixture(scope="module")
def collected():
    """Two collections of 12 steps in 4 environments, with global states."""
    return play(counter(needs_global_state=True), seed=0, times=2)[1]


@pytest.fixture(scope="module")
def rows(collected) -> Trajectory:
    """The two collections as one of 24 steps."""
    trajectories = [trajectory.replace(memory=None) for trajectory, _ in collected]
    return jax.tree.map(lambda *x: np.concatenate(x), *trajectories)


def test_every_kind_of_ending_occurs(rows):
    assert rows.terminated.any() and rows.truncated.any() and not (rows.terminated & rows.truncated).any()
    assert len({tuple(column) for column in rows.done.T}) > 1, "environments must not end in step"


def test_each_agent_sees_itself_in_its_own_column(rows):
    np.testing.assert_array_equal(rows.observation[..., AGENT], np.broadcast_to(np.arange(N), rows.action.shape))


def test_next_observation_is_the_true_successor_before_any_reset(rows):
    np.testing.assert_array_equal(rows.next_observation[..., TAG], rows.observation[..., TAG])
    np.testing.assert_array_equal(rows.next_observation[..., TIME], rows.observation[..., TIME] + 1)
    np.testing.assert_array_equal(rows.next_observation[..., LAST_ACTION], rows.action)


def test_the_next_row_shows_the_successor_or_a_new_episode(rows):
    done = rows.done[:-1]
    now, before = rows.observation[1:], rows.next_observation[:-1]
    np.testing.assert_array_equal(now[~done], before[~done])
    assert np.all(now[done][..., TIME] == 0) and np.all(now[done][..., LAST_ACTION] == -1)
    assert np.all(now[done][..., TAG] != before[done][..., TAG])


def test_reset_marks_the_first_rows_of_episodes(rows):
    assert rows.reset[0].all()
    np.testing.assert_array_equal(rows.reset[1:], rows.done[:-1])
    np.testing.assert_array_equal(rows.reset, rows.observation[:, :, 0, TIME] == 0)


def test_reward_is_what_this_rows_actions_caused(rows):
    wanted = 100 * np.arange(N) + 10 * rows.observation[..., TIME] + rows.action
    np.testing.assert_array_equal(rows.reward, wanted)


def test_episodes_end_when_their_tag_says(rows):
    tag, time = rows.observation[:, :, 0, TAG], rows.observation[:, :, 0, TIME]
    over = time + 1 == 2 + tag % 3
    np.testing.assert_array_equal(rows.terminated, over & (tag % 2 == 1))
    np.testing.assert_array_equal(rows.truncated, over & (tag % 2 == 0))


def test_the_policys_memory_is_cleared_exactly_where_an_episode_begins(rows):
    # The memory counts the calls since it was cleared, which is the time of the episode.
    np.testing.assert_array_equal(rows.record["memory"], rows.observation[..., TIME])


def test_the_first_memory_is_the_one_the_previous_rollout_left(collected):
    (first, _), (second, _) = collected
    np.testing.assert_array_equal(first.memory, 0)
    np.testing.assert_array_equal(second.memory, second.observation[0][..., TIME])
    assert second.memory.any(), "some episode must run across the border"


def test_global_states_are_of_the_same_environment_before_and_after_the_step(rows):
    flat = lambda x: x.reshape(*x.shape[:2], -1).astype(np.float32)  # noqa: E731
    np.testing.assert_array_equal(rows.global_state, flat(rows.observation))
    np.testing.assert_array_equal(rows.next_global_state, flat(rows.next_observation))


def test_action_masks_belong_to_the_observation_in_their_row(rows):
    forbidden = (rows.observation[..., TAG] + np.arange(N)) % 5
    np.testing.assert_array_equal(rows.action_mask, np.arange(5) != forbidden[..., None])
    np.testing.assert_array_equal(rows.next_action_mask, rows.action_mask)  # of the successor, also at an end


def test_episode_statistics_equal_a_plain_loop(collected, rows):
    length, environments = len(collected[0][0].reward), rows.reward.shape[1]
    running, clock = np.zeros((environments, N)), np.zeros(environments)
    totals = [{"episodes": 0, "episode_return": np.zeros(N), "episode_length": 0} for _ in collected]
    for t in range(len(rows.reward)):
        for e in range(environments):
            running[e] += rows.reward[t, e]
            clock[e] += 1
            if rows.done[t, e]:
                total = totals[t // length]
                total["episodes"] += 1
                total["episode_return"] += running[e]
                total["episode_length"] += clock[e]
                running[e], clock[e] = 0, 0
    for (trajectory, logs), wanted in zip(collected, totals, strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(logs[name], value, err_msg=name)
        np.testing.assert_allclose(logs["payoff"], trajectory.reward.mean((0, 1)), rtol=1e-6)
        np.testing.assert_allclose(logs["metrics"]["acted"], trajectory.action.mean((0, 1)), rtol=1e-6)


def test_no_global_state_is_computed_for_a_learner_that_wants_none():
    learner = counter()
    shapes = jax.eval_shape(
        lambda key: rollout.simulate(ENV, PARAMS, learner, lambda *args: learner.act((), *args), key), jax.random.key(0)
    )
    assert shapes.global_state is None and shapes.next_global_state is None


def test_environments_of_a_group_share_their_luck_and_groups_differ():
    # Under identical actions the two of a group must not differ in anything, through several resets.
    (trajectory, _), (later, _) = play(counter(num_envs=6, group_size=2), seed=3, times=2)[1]
    assert trajectory.done.any()
    for rows in (trajectory, later):
        for observation in (rows.observation, rows.next_observation):
            np.testing.assert_array_equal(observation[:, 0::2], observation[:, 1::2])
        for column in (TAG, NOISE):
            values = rows.observation[0, ::2, 0, column]
            assert len(set(values.tolist())) == 3, "each group draws its own"


def test_ungrouped_environments_all_differ(rows):
    for column in (TAG, NOISE):
        assert len(set(rows.observation[0, :, 0, column].tolist())) == rows.reward.shape[1]


def test_simulated_episodes_are_fresh_and_leave_the_rollout_alone():
    learner = counter()
    state = rollout.start(ENV, PARAMS, learner, jax.random.key(0))
    act = lambda *args: learner.act((), *args)  # noqa: E731
    trajectory = jax.jit(lambda key: rollout.simulate(ENV, PARAMS, learner, act, key))(jax.random.key(5))
    assert trajectory.reset[0].all() and not jnp.any(trajectory.memory)
    assert np.all(trajectory.observation[0, ..., TIME] == 0)
    assert not np.intersect1d(trajectory.observation[..., TAG], state.observation[..., TAG]).size


def test_every_random_key_is_used_once():
    learner = counter(num_envs=2, rollout_length=3)
    act = lambda *args: learner.act((), *args)  # noqa: E731
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: rollout.simulate(ENV, PARAMS, learner, act, key).reward)(jax.random.key(0))
