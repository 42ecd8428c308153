"""The loop: what a seed determines, how a budget is divided, and what may be traced, resumed and sharded."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Counter, Reinforce, Tagged, assert_trees_equal, host_copy, stacked

from marl_suite import training
from marl_suite.algorithm import Configuration, Learner, env_spec
from marl_suite.envs import InputError, make
from marl_suite.training import Fit

ENV = make("prisoners_dilemma")
LEARNER = Reinforce(num_envs=4, rollout_length=10)
SEEDS = (0, 1, 7)
STEPS = 4 * 10 * 12


@pytest.fixture(scope="module")
def fit() -> Fit:
    """Three seeds, twelve updates in four chunks."""
    return Fit(ENV, LEARNER, SEEDS, STEPS, chunks=4)


def play(fit: Fit, **settings) -> list[training.Chunk]:
    """All chunks, each with a state that outlives the next."""
    return [chunk._replace(state=host_copy(chunk.state)) for chunk in fit.chunks(**settings)]


@pytest.fixture(scope="module")
def chunks(fit) -> list[training.Chunk]:
    return play(fit)


def test_a_seed_fixes_everything_bit_for_bit(fit, chunks):
    for again, chunk in zip(play(fit), chunks, strict=True):
        assert_trees_equal((again.state, again.logs), (chunk.state, chunk.logs))


def test_different_seeds_give_different_runs(chunks):
    weights, loss = chunks[0].state.learner, chunks[0].logs["learner"]["loss"]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(weights[a], weights[b]) and loss[a] != loss[b]


def test_a_run_resumed_from_a_copied_state_ends_bit_for_bit_like_the_uninterrupted_one(fit, chunks):
    halfway = chunks[1]
    rest = play(fit, state=host_copy(halfway.state), done=halfway.number)
    assert [chunk.number for chunk in rest] == [3, 4]
    for resumed, chunk in zip(rest, chunks[2:], strict=True):
        assert resumed.env_steps == chunk.env_steps
        assert_trees_equal((resumed.state, resumed.logs), (chunk.state, chunk.logs))


def test_chunks_count_their_environment_steps(chunks):
    assert [(chunk.number, chunk.num_chunks, chunk.env_steps) for chunk in chunks] == [
        (1, 4, 120),
        (2, 4, 240),
        (3, 4, 360),
        (4, 4, 480),
    ]


@pytest.fixture(scope="module")
def alone() -> training.Chunk:
    """The last seed by itself, all updates in one chunk."""
    return play(Fit(ENV, LEARNER, SEEDS[-1:], STEPS, chunks=1))[-1]


def test_a_lane_of_several_seeds_is_that_seed_alone(chunks, alone):
    # Not bit for bit: XLA may sum the lanes of a batch in another order than a single one.
    np.testing.assert_allclose(alone.state.learner[0], chunks[-1].state.learner[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(alone.state.rollout.observation[0], chunks[-1].state.rollout.observation[-1])


def test_logs_are_means_over_the_chunks_updates_and_sums_of_episodes(chunks, alone):
    # One chunk of twelve updates against four chunks of three.
    parts = [jax.tree.map(lambda x: x[-1:], chunk.logs) for chunk in chunks]
    for name in ("payoff", "metrics", "learner"):
        mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *[logs[name] for logs in parts])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone.logs[name], mean)
    for name in ("episodes", "episode_return", "episode_length"):
        np.testing.assert_allclose(alone.logs[name], sum(logs[name] for logs in parts), rtol=1e-5)


def test_mean_returns_are_per_finished_episode_and_nan_without_one(chunks):
    # Rows are 10 long and episodes 50: within 3 updates none ends, within 6 every environment ends one.
    assert np.isnan(training.returns_of(chunks[0].logs)).all()
    returns, logs = training.returns_of(chunks[1].logs), chunks[1].logs
    np.testing.assert_array_equal(logs["episodes"], 4)
    np.testing.assert_array_equal(logs["episode_length"], 4 * 50)
    np.testing.assert_allclose(returns, logs["episode_return"] / 4)
    assert np.all(returns >= 50 * -3) and np.all(returns <= 0)


@pytest.mark.parametrize(
    ("steps", "chunks", "updates_per_chunk", "num_chunks"),
    [
        (1, 20, 1, 1),  # one update of 40 steps is the least
        (40, 20, 1, 1),
        (41, 20, 1, 2),  # rounded up to whole updates
        (400, 5, 2, 5),
        (400, 3, 4, 3),  # 10 updates in 3 chunks are 4 each: 12 updates
        (400, 8, 2, 5),  # 10 updates in 8 chunks are 2 each, which fills 5
        (400, 1, 10, 1),
    ],
)
def test_a_budget_is_rounded_up_to_whole_chunks(steps, chunks, updates_per_chunk, num_chunks):
    plan = training.plan(ENV, ENV.default_params, LEARNER, steps, chunks)
    assert (plan.updates_per_chunk, plan.num_chunks) == (updates_per_chunk, num_chunks)
    assert plan.steps_per_chunk == 40 * updates_per_chunk
    assert plan.spec.num_updates == updates_per_chunk * num_chunks
    assert steps <= plan.steps_per_chunk * plan.num_chunks


@pytest.mark.parametrize(("steps", "chunks"), [(0, 1), (-5, 1), (100, 0)])
def test_an_empty_budget_is_refused(steps, chunks):
    with pytest.raises(InputError, match=f"steps={steps}, chunks={chunks}"):
        training.plan(ENV, ENV.default_params, LEARNER, steps, chunks)


def test_a_run_without_seeds_is_refused():
    with pytest.raises(InputError, match="at least one seed"):
        Fit(ENV, LEARNER, [], STEPS)


def test_an_unknown_reward_view_is_refused_before_anything_runs():
    with pytest.raises(InputError, match="teem"):
        Fit(ENV, LEARNER.replace(reward_view="teem"), [0], STEPS)


def lanes() -> Fit:
    """One seed under three hyperparameters and games: no learning, learning, and no learning for ten times as much."""
    config = LEARNER.replace(lr=jnp.array([0.0, LEARNER.lr, 0.0]))
    axes = jax.tree.map(lambda _: None, LEARNER).replace(lr=0)
    params = [ENV.default_params.replace(payoffs=scale * ENV.default_params.payoffs) for scale in (1, 1, 10)]
    return Fit(ENV, config, SEEDS[:1] * 3, STEPS, stacked(params), chunks=4, axes=(axes, 0))


@pytest.fixture(scope="module")
def varied() -> training.Chunk:
    return play(lanes())[-1]


def test_hyperparameters_may_differ_between_the_lanes_of_one_program(fit, chunks, varied):
    weights = varied.state.learner
    np.testing.assert_array_equal(weights[0], fit.start().learner[0])
    np.testing.assert_allclose(weights[1], chunks[-1].state.learner[0], rtol=1e-5, atol=1e-6)


def test_game_parameters_may_differ_between_the_lanes_of_one_program(varied):
    payoff = varied.logs["payoff"]
    np.testing.assert_allclose(payoff[2], 10 * payoff[0], rtol=1e-5)


def test_a_team_is_paid_the_sum_and_logged_by_what_each_earned():
    logs = play(Fit(Tagged(), Counter(reward_view="team", rollout_length=24), [0], steps=1))[0].logs
    np.testing.assert_allclose(logs["learner"]["reward"][0], np.full(3, logs["payoff"].sum()), rtol=1e-5)
    # Agent i earns 100 i + 10 t + a_i in steps t < 4 with actions a < 5; the team earns more than 300 a step.
    returns = training.returns_of(logs)[0]
    for agent in range(3):
        assert 2 * 100 * agent + 10 <= returns[agent] <= 4 * 100 * agent + 60 + 16
    assert np.all(np.diff(logs["payoff"][0]) > 90)


def test_no_random_key_is_used_twice_in_a_chunk():
    learner = LEARNER.build(env_spec(ENV, ENV.default_params))

    def everything(key: jax.Array) -> jax.Array:
        state = training.start(ENV, ENV.default_params, learner, key)
        return training.run(ENV, ENV.default_params, learner, state, 2)[1]["payoff"]

    with jax.debug_key_reuse(True):
        assert np.isfinite(jax.jit(everything)(jax.random.key(0))).all()


# ---------------------------------------------------------------------- several devices
SHARDED = """
import json, sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
from test_training import ENV, LEARNER, SEEDS, STEPS, lanes, play
from marl_suite.training import Fit
assert jax.local_device_count() == 4
results = {}
for name, fit in {"seeds": Fit(ENV, LEARNER, SEEDS, STEPS, chunks=4), "lanes": lanes()}.items():
    last = play(fit)[-1]
    devices = len(last.state.learner.sharding.device_set)
    results[name] = [devices, np.asarray(last.state.learner).tolist(), last.logs["payoff"].tolist()]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def sharded() -> dict:
    """Final weights and payoffs of runs on four virtual devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    result = subprocess.run(
        [sys.executable, "-c", SHARDED, str(pathlib.Path(__file__).parent)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["seeds", "lanes"])
def test_what_differs_between_seeds_is_spread_over_devices_and_ends_alike(sharded, name, chunks, varied):
    last = chunks[-1] if name == "seeds" else varied
    devices, weights, payoff = sharded[name]
    assert devices == 3, "the most of 4 devices that divide 3 seeds"
    # Not bit for bit: a device's program has fewer lanes, and XLA may sum in another order.
    np.testing.assert_allclose(weights, last.state.learner, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(payoff, last.logs["payoff"], rtol=1e-5)


def test_a_learner_that_refuses_a_game_is_heard_before_anything_is_traced():
    class Duellist(Configuration):
        def build(self, spec) -> Learner:
            raise InputError(f"duellists need two agents, {spec.name} has {spec.num_agents}")

    with pytest.raises(InputError, match="tagged has 3"):
        Fit(Tagged(), Duellist(), [0], STEPS)
