"""Tabular Q-learning, against the equation by hand, a plain Python learner and exact solutions."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from marl_suite import rollout, training
from marl_suite.algorithm import EnvSpec, Trajectory, env_spec
from marl_suite.baselines import registry
from marl_suite.baselines.q_learning import QLearning, QLearningState, any_allowed
from marl_suite.baselines.scripted import Scripted
from marl_suite.composition import Composition, restrict
from marl_suite.envs import Environment, InputError, make
from marl_suite.envs.markets.bertrand import Bertrand
from marl_suite.envs.spaces import Box, Discrete
from marl_suite.envs.wrappers import reward_view
from marl_suite.evaluation import evaluate
from marl_suite.training import Fit

SPEC = EnvSpec("probe", 2, Discrete(3), Discrete(2), global_state_size=1, mixed_motive=False)
TABLES = np.array([[[1, 5], [2, 4], [3, 7]], [[0.5, 0.25], [6, 1], [8, 9]]], np.float32)


def row(here, action, reward, following, mask=None, next_mask=None, **ends: bool) -> Trajectory:
    """One step of one environment."""
    flag = lambda name: jnp.array([[ends.get(name, False)]])  # noqa: E731
    return Trajectory(
        observation=jnp.array(here)[None, None],
        action=jnp.array(action)[None, None],
        reward=jnp.array(reward, jnp.float32)[None, None],
        next_observation=jnp.array(following)[None, None],
        terminated=flag("terminated"),
        truncated=flag("truncated"),
        reset=flag("reset"),
        action_mask=mask,
        next_action_mask=next_mask,
        global_state=None,
        next_global_state=None,
        memory=(),
        record=(),
    )


@jax.jit
def updated(config: QLearning, tables: jax.Array, trajectory: Trajectory) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Tables and metrics after one update."""
    state, metrics = config.build(SPEC).update(QLearningState(tables, jnp.int32(0)), trajectory, None, None)
    return state.tables, metrics


# ---------------------------------------------------------------------- the equation
CONFIG = QLearning(lr=0.3, gamma=0.9)


@pytest.mark.parametrize("end", ["none", "terminated", "truncated"])
def test_one_update_is_the_equation_and_a_time_limit_ends_no_value(end):
    ends = {} if end == "none" else {end: True}
    tables, metrics = updated(CONFIG, TABLES, row([2, 0], [1, 0], [1.0, -2.0], [0, 1], **ends))
    follows = 0 if end == "terminated" else 1
    wanted = TABLES.copy()
    errors = [1.0 + follows * 0.9 * 5 - 7, -2.0 + follows * 0.9 * 6 - 0.5]
    wanted[0, 2, 1] = 7 + 0.3 * errors[0]
    wanted[1, 0, 0] = 0.5 + 0.3 * errors[1]
    np.testing.assert_allclose(tables, wanted, rtol=1e-6)  # all else stays
    np.testing.assert_allclose(metrics["td_error"], np.abs(errors).mean(), rtol=1e-6)


def test_no_agents_table_depends_on_what_another_got():
    first, _ = updated(CONFIG, TABLES, row([2, 0], [1, 0], [1.0, -2.0], [0, 1]))
    second, _ = updated(CONFIG, TABLES, row([2, 1], [1, 1], [1.0, 50.0], [0, 2]))
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


def test_changes_of_the_greedy_action_are_counted_where_they_can_happen():
    stays = row([2, 0], [1, 0], [7.0, 0.5], [0, 0])
    assert float(updated(CONFIG, TABLES, stays)[1]["greedy_changed"]) == 0
    falls = row([2, 0], [1, 0], [-50.0, 0.5], [0, 0])  # of the first agent 7 falls below 3
    assert float(updated(CONFIG, TABLES, falls)[1]["greedy_changed"]) == 0.5


def test_forbidden_actions_count_neither_in_targets_nor_in_what_is_best():
    mask, next_mask = jnp.array([[[[True, False], [True, True]]]]), jnp.array([[[[True, False]] * 2]])
    seen = row([2, 0], [0, 0], [1.0, 80.0], [0, 1], mask, next_mask)
    tables, metrics = updated(CONFIG, TABLES, seen)
    np.testing.assert_allclose(tables[0, 2, 0], 3 + 0.3 * (1 + 0.9 * 1 - 3), rtol=1e-6)  # 1, not 5
    assert float(metrics["greedy_changed"]) == 0  # the second agent's best action was so before
    rises = row([1, 0], [0, 0], [50.0, 0.5], [0, 1], mask, next_mask)
    assert float(updated(CONFIG, TABLES, rises)[1]["greedy_changed"]) == 0  # the only action stays the best


# ---------------------------------------------------------------------- in the loop
MARKET = Bertrand(num_prices=3)


GAMMAS = np.array([0.8, 0.0], np.float32)


@pytest.fixture(scope="module")
def runs() -> tuple[np.ndarray, np.ndarray, Trajectory, dict[str, np.ndarray]]:
    """400 periods of two lanes with other discounts: tables before and after, rows and metrics, [2, ...] each."""
    params = MARKET.make_params(max_steps=5)

    def run(gamma: jax.Array) -> Any:
        learner = QLearning(lr=0.2, epsilon_decay=0.005).replace(gamma=gamma).build(env_spec(MARKET, params))

        def step(state: training.LoopState, key: jax.Array) -> tuple[training.LoopState, tuple[Trajectory, Any]]:
            act = partial(learner.act, state.learner)
            play, trajectory, _ = rollout.collect(MARKET, params, learner, act, state.rollout, key)
            learned, metrics = learner.update(state.learner, trajectory, None, None)
            return state.replace(learner=learned, rollout=play), (trajectory.replace(memory=None), metrics)

        start = training.start(MARKET, params, learner, jax.random.key(0))
        state, (rows, metrics) = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 400))
        return start.learner.tables, state.learner.tables, rows, metrics

    return jax.tree.map(np.asarray, training.compiled(jax.vmap(run))(GAMMAS))


@pytest.mark.parametrize("lane", [0, 1])
def test_a_run_is_that_of_a_plain_python_learner(runs, lane):
    first, last, rows, metrics = jax.tree.map(lambda x: x[lane], runs)
    here, action, reward, following = (
        x[:, 0, 0] for x in (rows.observation, rows.action, rows.reward, rows.next_observation)
    )
    tables, greedy = first.astype(float), np.zeros((400, 2), bool)
    for t in range(400):
        for i in range(2):
            s, a = here[t, i], action[t, i]
            greedy[t, i] = a == tables[i, s].argmax()
            target = reward[t, i] + GAMMAS[lane] * tables[i, following[t, i]].max()
            tables[i, s, a] = 0.8 * tables[i, s, a] + 0.2 * target
    np.testing.assert_allclose(last, tables, rtol=1e-4)
    np.testing.assert_array_equal(here[::5], 9)  # the start of every episode
    np.testing.assert_allclose(metrics["epsilon"], np.exp(-0.005 * np.arange(400)), rtol=1e-5)
    # A random action is the best one in a third of all cases.
    expected = 1 - np.exp(-0.005 * np.arange(400)) * 2 / 3
    np.testing.assert_allclose(greedy.mean(), expected.mean(), atol=0.07)


class ChainState(struct.PyTreeNode):
    place: jax.Array  # int32 []
    time: jax.Array  # int32 []


class ChainParams(struct.PyTreeNode):
    max_steps: int = 4


@dataclasses.dataclass(frozen=True)
class Chain(Environment):
    """Three places in a row: action 0 stays and pays what the place does; 1 goes on, and at the end, out, for 5."""

    name: str = "chain"
    num_agents: int = 1

    @property
    def default_params(self) -> Any:
        return ChainParams()

    def observation_space(self, params: Any = None) -> Any:
        return Discrete(3)

    def action_space(self, params: Any = None) -> Any:
        return Discrete(2)

    def initial_state(self, key: jax.Array, params: Any) -> ChainState:
        return ChainState(jax.random.randint(key, (), 0, 3), jnp.int32(0))

    def transition(self, key: jax.Array, state: ChainState, actions: jax.Array, params: Any) -> Any:
        place = state.place + actions[0]
        over = place > 2
        reward = jnp.where(actions == 0, jnp.array([0.4, 0.0, 0.3])[state.place], jnp.where(over, 5.0, -1.0))
        return ChainState(jnp.minimum(place, 2), state.time + 1), reward, over, {}

    def observe(self, state: ChainState, params: Any) -> jax.Array:
        return state.place[None]


def test_random_play_finds_the_values_of_the_endless_chain():
    pays, gamma = [0.4, 0.0, 0.3], 0.8
    values = np.zeros((3, 2))
    for _ in range(300):  # value iteration; episodes are cut after 4 steps, which no value knows
        best = values.max(axis=1)
        values = np.array([[pays[s] + gamma * best[s], 5.0 if s == 2 else -1 + gamma * best[s + 1]] for s in range(3)])
    assert values.argmax(axis=1).tolist() == [0, 1, 1] and abs(values[0, 0] - 2.0) < 1e-6
    *_, chunk = Fit(Chain(), QLearning(lr=1.0, gamma=gamma, epsilon_decay=0.0), [0], 3000, chunks=1)
    np.testing.assert_allclose(chunk.state.learner.tables[0, 0], values, rtol=1e-5)


def best_responses(seeds: int = 2) -> np.ndarray:
    """[3, S, 5] greedy actions, own and other's last action first, against tit for tat: farsighted, myopic, idle."""
    player = QLearning(epsilon_decay=1e-3).replace(
        gamma=jnp.repeat(jnp.array([0.95, 0.0, 0.95]), seeds), lr=jnp.repeat(jnp.array([0.15, 0.15, 0.0]), seeds)
    )
    config = Composition(parts=(player, Scripted(player="tit_for_tat")))
    axes = jax.tree.map(lambda _: None, config)
    axes = axes.replace(parts=(axes.parts[0].replace(gamma=0, lr=0), axes.parts[1]))
    env = make("prisoners_dilemma")
    params = env.make_params(max_steps=5)  # many starts
    fit = Fit(env, config, list(range(seeds)) * 3, 6000, params, chunks=1, axes=(axes, None))
    *_, chunk = fit
    return np.asarray(chunk.state.learner[0].tables).argmax(-1).reshape(3, seeds, 5)


def test_against_tit_for_tat_the_farsighted_cooperate_and_the_myopic_defect():
    farsighted, myopic, idle = best_responses()
    start, both_cooperated = 4, 0
    np.testing.assert_array_equal(farsighted[:, [start, both_cooperated]], 0)
    np.testing.assert_array_equal(myopic[:, [start, both_cooperated]], 1)
    np.testing.assert_array_equal(idle, 1)  # what is best against random play, unlearned


# ---------------------------------------------------------------------- how tables begin
def initial_tables(config: QLearning, spec: EnvSpec) -> np.ndarray:
    return np.asarray(config.build(spec).init(jax.random.key(0)).tables)


def test_values_begin_with_those_against_random_rivals():
    spec = env_spec(MARKET, MARKET.default_params)
    tables = initial_tables(QLearning(gamma=0.9), spec)
    assert tables.shape == (2, 10, 3)
    prices = MARKET.prices()
    profits = [[MARKET.profits(np.array([own, other]), MARKET.default_params)[0] for other in prices] for own in prices]
    np.testing.assert_allclose(tables, np.broadcast_to(np.mean(profits, axis=1) / 0.1, (2, 10, 3)), rtol=1e-5)
    seat = initial_tables(QLearning(gamma=0.9), restrict(spec, [1]))
    np.testing.assert_array_equal(seat, tables[1:])


def test_each_seat_begins_with_its_own_payoffs():
    payoffs = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2).sum(axis=3)  # [2, 2, 2]
    spec = dataclasses.replace(SPEC, stage_payoffs=jnp.asarray(payoffs), slots=(0, 1))
    tables = initial_tables(QLearning(gamma=0.5), spec)
    np.testing.assert_allclose(tables[0, 0], payoffs[0].mean(axis=1) * 2)
    np.testing.assert_allclose(tables[1, 2], payoffs[1].mean(axis=0) * 2)


def test_values_begin_with_a_constant_on_request_and_where_payoffs_are_unknown():
    spec = env_spec(MARKET, MARKET.default_params)
    np.testing.assert_array_equal(initial_tables(QLearning(initial="constant", initial_value=7.0), spec), 7)
    np.testing.assert_array_equal(initial_tables(QLearning(), SPEC), np.zeros((2, 3, 2)))


def test_a_reward_view_changes_what_values_begin_with():
    team = reward_view(MARKET, "team")
    tables = initial_tables(QLearning(), env_spec(team, team.default_params))
    payoffs = np.asarray(MARKET.stage_payoffs())
    np.testing.assert_allclose(tables[0, 0], payoffs.sum(axis=0).mean(axis=1) * 20, rtol=1e-5)


# ---------------------------------------------------------------------- acting
def chosen(config: QLearning, tables, time: int, mask=None, num_envs: int = 3000) -> np.ndarray:
    """[E, N] actions of agents who see 1 and 2."""
    learner, state = config.build(SPEC), QLearningState(jnp.asarray(tables), jnp.int32(time))
    observation = jnp.tile(jnp.array([1, 2]), (num_envs, 1))
    mask = None if mask is None else jnp.tile(jnp.array(mask), (num_envs, 1, 1))
    return np.asarray(jax.jit(learner.act)(state, (), observation, jax.random.key(0), mask)[0])


def test_exploration_falls_exponentially_and_is_uniform():
    config = QLearning(epsilon_decay=0.01)
    for time in (0, 100, 2000):
        epsilon = np.exp(-0.01 * time)
        actions = chosen(config, TABLES, time)
        np.testing.assert_allclose((actions == 0).mean(axis=0), epsilon / 2, atol=0.03)
    assert np.all(actions == 1)  # the best of [2, 4] and of [8, 9]


def test_no_forbidden_action_is_ever_taken():
    mask = [[True, False], [True, True]]
    for time in (0, 100, 2000):
        actions = chosen(QLearning(epsilon_decay=0.01), TABLES, time, mask)
        np.testing.assert_array_equal(actions[:, 0], 0)
        assert np.any(actions[:, 1] == 1)


def test_each_allowed_action_is_as_likely():
    uniform = jax.random.uniform(jax.random.key(0), (8000,))
    mask = jnp.tile(jnp.array([False, True, True, False, True]), (8000, 1))
    counts = np.bincount(any_allowed(uniform, mask, 5), minlength=5)
    np.testing.assert_allclose(counts / 8000, [0, 1 / 3, 1 / 3, 0, 1 / 3], atol=0.02)
    counts = np.bincount(any_allowed(uniform, None, 5), minlength=5)
    np.testing.assert_allclose(counts / 8000, np.full(5, 0.2), atol=0.02)
    assert int(any_allowed(jnp.float32(1 - 2**-24), None, 5)) == 4


def test_of_equal_values_the_first_is_taken():
    assert np.all(chosen(QLearning(epsilon_decay=1.0), np.zeros((2, 3, 2), np.float32), 200) == 0)


def test_policies_do_not_explore():
    learner, state = QLearning().build(SPEC), QLearningState(jnp.asarray(TABLES), jnp.int32(0))
    observation = jnp.tile(jnp.array([0, 1]), (50, 1))
    for greedy in (False, True):
        actions = learner.policy(state, greedy)((), observation, jax.random.key(0), None)[0]
        np.testing.assert_array_equal(actions, np.tile([1, 0], (50, 1)))


# ---------------------------------------------------------------------- numbers, names and refusals
def test_it_has_a_name_and_the_numbers_of_the_source():
    config: Any = registry.configuration("q_learning")
    assert (config.lr, config.gamma, config.epsilon_decay) == (0.15, 0.95, 4e-6)
    learner = config.build(SPEC)
    assert (learner.num_envs, learner.rollout_length) == (1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 1.5}, "q_learning.lr must be at most 1, got 1.5"),
        ({"gamma": -0.1}, "q_learning.gamma must be at least 0, got -0.1"),
        ({"epsilon_decay": -1.0}, "q_learning.epsilon_decay must be at least 0, got -1"),
        ({"initial": "random"}, "initial must be one of auto, random_rivals, constant, got 'random'"),
    ],
)
def test_numbers_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        registry.configuration("q_learning", **values)


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (dataclasses.replace(SPEC, action_space=Box(0, 1, ())), {}, "needs a value for each action"),
        (dataclasses.replace(SPEC, observation_space=Box(0, 1, (4,))), {}, r"probe shows Box\[4\]"),
        (SPEC, {"initial": "random_rivals"}, "payoffs of probe are not known"),
    ],
)
def test_games_without_tables_are_refused_in_one_sentence(spec, values, message):
    with pytest.raises(InputError, match=message) as caught:
        QLearning(**values).build(spec)
    assert "\n" not in str(caught.value)


def test_games_that_do_not_fit_are_refused_before_anything_is_traced():
    for game in (make("bertrand_pricing", num_agents=4), make("public_goods"), make("penalty", one_shot=True)):
        with pytest.raises(InputError, match="tables need states that can be numbered"):
            Fit(game, QLearning(), [0], 10)
    with pytest.raises(InputError, match=r"need q_learning\.gamma below 1, got 1.0; closest initial: 'constant'"):
        Fit(MARKET, QLearning(gamma=1.0), [0], 10)
    assert QLearning(gamma=1.0, initial="constant").build(env_spec(MARKET, MARKET.default_params))


# ---------------------------------------------------------------------- what it is for
@pytest.mark.slow
def test_in_ci_farsighted_pricing_algorithms_collude_and_myopic_ones_do_not():
    # A twentieth of the exploration of Calvano et al. (2020) and 200,000 periods; five sessions each.
    env, seeds = make("bertrand_pricing"), 5
    config = QLearning(epsilon_decay=4e-5).replace(gamma=jnp.repeat(jnp.array([0.95, 0.0]), seeds))
    axes = jax.tree.map(lambda _: None, config).replace(gamma=0)
    fit = Fit(env, config, list(range(seeds)) * 2, 2e5, chunks=10, axes=(axes, None))
    *_, chunk = fit

    def greedy_play(state: QLearningState) -> jax.Array:
        act = fit.learner().policy(state, True)
        return evaluate(env, env.default_params, act, (), jax.random.key(0), 1).metrics["collusion_index"].mean()

    farsighted, myopic = np.asarray(jax.jit(jax.vmap(greedy_play))(chunk.state.learner)).reshape(2, seeds)
    assert farsighted.mean() >= 0.5, farsighted
    assert myopic.mean() <= 0.35, myopic
