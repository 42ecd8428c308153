"""The learner contract: every baseline keeps it, and the unchanged loop runs learners written here: replay, lookahead
and mixed populations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from probes import PROBES, Counter, Probe, Reinforce, Tagged

from marl_suite import check_learner, training
from marl_suite.algorithm import Act, Configuration, EnvSpec, Learner, Simulate, Trajectory, env_spec, static
from marl_suite.baselines import registered
from marl_suite.baselines.ppo import IPPO
from marl_suite.baselines.registry import configuration
from marl_suite.baselines.scripted import Scripted
from marl_suite.composition import Composition, compose, frozen, restrict
from marl_suite.envs import InputError, make
from marl_suite.envs.environment import PyTree
from marl_suite.learning.distributions import num_outputs
from marl_suite.learning.networks import features, num_features
from marl_suite.training import Fit


def last_chunk(fit: Fit) -> training.Chunk:
    *_, chunk = fit
    return chunk


# ---------------------------------------------------------------------- the suite's own
BATCH: dict[str, Any] = {"num_envs": 4, "rollout_length": 6, "hidden_sizes": [4]}
PPO = BATCH | {"epochs": 1, "minibatches": 1}
REPLAY = BATCH | {"buffer_size": 4, "batch_size": 2, "gradient_steps": 1, "warm_up": 2, "epsilon_steps": 20.0}
MASKED, PAIR = "networked_commons", "prisoners_dilemma"
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "ippo": (MASKED, PPO | {"recurrent": True}),
    "mappo": (MASKED, PPO),
    "advantage_alignment": (PAIR, PPO),
    "group_relative_advantage_alignment": (PAIR, PPO | {"group_size": 2}),
    "lola": (PAIR, BATCH),
    "lola_pg": (PAIR, BATCH),
    "loqa": (PAIR, PPO),
    "iql": (MASKED, REPLAY),
    "vdn": ("two_step", REPLAY),
    "qmix": ("two_step", REPLAY),
    "q_learning": (PAIR, {}),
    "ippo+past_self": (PAIR, PPO | {"capacity": 2, "every": 1, "chunks": 2}),
    "tit_for_tat": (PAIR, {}),
    "random": (MASKED, {}),
} | {name: (PAIR, {"rollout_length": 2}) for name in registered() if name.startswith("exact_")}
"""Every algorithm, as small as it gets, in a game that it is for."""
QUICK = ("q_learning", "exact_sos", "tit_for_tat")
"""The others are checked on request (`-m slow`): they take some ten seconds each."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in BASELINES])
def test_baselines_keep_the_contract(name):
    game, settings = BASELINES[name]
    check_learner(configuration(name, **settings), make(game))


# ---------------------------------------------------------------------- replay: independent Q-learning, off policy
class Transition(struct.PyTreeNode):
    """What is replayed; a buffer holds M of them."""

    observation: jax.Array  # float32 [N, F]
    action: jax.Array  # int32 [N]
    reward: jax.Array  # float32 [N]
    discount: jax.Array  # float32 []
    next_observation: jax.Array  # float32 [N, F]


class QState(struct.PyTreeNode):
    """Linear action values, their slow copy, and a ring buffer."""

    weights: jax.Array  # float32 [N, F, A]
    target: jax.Array  # float32 [N, F, A]
    buffer: Transition  # [M, ...]
    size: jax.Array  # int32 [], transitions ever stored


class QLearning(Configuration):
    """Independent Q-learning with replay (Mnih et al. 2015), linear: as small as it gets."""

    lr: float = 0.2
    epsilon: float = 0.5
    num_envs: int = static(4)
    capacity: int = static(24)  # not a multiple of a rollout, so that the ring wraps in the middle of one
    batch_size: int = static(16)

    def build(self, spec: EnvSpec) -> Learner:
        space, num_agents = spec.observation_space, spec.num_agents
        num_actions = num_outputs(spec.action_space)
        num_inputs = num_features(space) + 1
        values = lambda weights, x: jnp.einsum("...nf,nfa->...na", x, weights)  # noqa: E731

        def seen(observation: PyTree) -> jax.Array:
            """Features and a constant, which a linear value needs to know that a reward is always the same."""
            x = features(space, observation)
            return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)

        def init(key: jax.Array) -> QState:
            weights = jnp.zeros((num_agents, num_inputs, num_actions))
            rows = jnp.zeros((self.capacity, num_agents, num_inputs))
            zeros = jnp.zeros((self.capacity, num_agents))
            buffer = Transition(rows, zeros.astype(jnp.int32), zeros, zeros[:, 0], rows)
            return QState(weights, weights, buffer, jnp.zeros((), jnp.int32))

        def policy(state: QState, greedy: bool) -> Act:
            def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None):
                best = values(state.weights, seen(observation)).argmax(-1)
                coin_key, action_key = jax.random.split(key)
                explore = jax.random.bernoulli(coin_key, 0.0 if greedy else self.epsilon, best.shape)
                return jnp.where(explore, jax.random.randint(action_key, best.shape, 0, num_actions), best), memory, ()

            return act

        def stored(state: QState, trajectory: Trajectory) -> QState:
            discount = 0.9 * (1.0 - trajectory.terminated)
            new = Transition(
                seen(trajectory.observation),
                trajectory.action,
                trajectory.reward,
                discount,
                seen(trajectory.next_observation),
            )
            new = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), new)
            where = (state.size + jnp.arange(len(new.discount))) % self.capacity
            buffer = jax.tree.map(lambda old, x: old.at[where].set(x), state.buffer, new)
            return state.replace(buffer=buffer, size=state.size + len(new.discount))

        def loss(weights: jax.Array, target: jax.Array, batch: Transition) -> jax.Array:
            value = jnp.take_along_axis(values(weights, batch.observation), batch.action[..., None], -1)[..., 0]
            future = values(target, batch.next_observation).max(-1)
            return jnp.square(batch.reward + batch.discount[:, None] * future - value).mean()

        def update(state: QState, trajectory: Trajectory, key: jax.Array, simulate: Simulate):
            state = stored(state, trajectory)
            rows = jax.random.randint(key, (self.batch_size,), 0, jnp.minimum(state.size, self.capacity))
            batch = jax.tree.map(lambda x: x[rows], state.buffer)
            error, gradient = jax.value_and_grad(loss)(state.weights, state.target, batch)
            weights = state.weights - self.lr * gradient
            target = 0.9 * state.target + 0.1 * weights
            return state.replace(weights=weights, target=target), {"loss": error}

        return Learner(
            init=init,
            act=lambda state, *args: policy(state, False)(*args),
            policy=policy,
            update=update,
            num_envs=self.num_envs,
        )


@pytest.fixture(scope="module")
def q_learning() -> training.Chunk:
    """The probe in which the action decides, learned and, in the second lane, not learned."""
    config = QLearning().replace(lr=jnp.array([0.2, 0.0]))
    axes = jax.tree.map(lambda _: None, QLearning()).replace(lr=0)
    return last_chunk(Fit(Probe(), config, [0, 0], 4 * 300, PROBES["action"], chunks=2, axes=(axes, None)))


INPUTS = np.array([[-1, 0, 1], [1, 0, 1]])
"""What the linear learner sees of the two observations of a one-step probe."""


def test_an_off_policy_learner_with_replay_solves_a_bandit_in_the_unchanged_loop(q_learning):
    learned, unlearned = INPUTS @ np.asarray(q_learning.state.learner.weights)[:, 0]
    np.testing.assert_allclose(learned, [[-1, 1], [-1, 1]], atol=0.05)
    assert np.all(unlearned.argmax(-1) == 0), "without learning the first action, the bad one, stays"
    # Half of all actions are random, so the better behaviour earns 0.75 - 0.25.
    np.testing.assert_allclose(q_learning.logs["payoff"][:, 0], [0.5, -0.5], atol=0.15)


def test_the_ring_buffer_holds_the_last_transitions_only(q_learning):
    state = q_learning.state.learner
    np.testing.assert_array_equal(state.size, 4 * 300)
    assert state.buffer.reward.shape == (2, QLearning().capacity, 1)
    np.testing.assert_array_equal(state.buffer.reward, 2 * state.buffer.action - 1)


# ---------------------------------------------------------------------- lookahead: an opponent that learns
class Lookahead(Configuration):
    """LOLA by sampling (Foerster et al. 2018) on a one-shot game: each agent anticipates the other's naive step.

    Parameters are one logit per agent, of action 0. Nothing is differentiated through the game: what was sampled
    is held fixed, and its probability is computed again from the stored actions under the parameters in question,
    as exp(log p - stop(log p)) (DiCE, Foerster et al. 2018).
    """

    opponent_rate: float = 5.0
    num_envs: int = static(4096)
    declared: int = static(2)
    called: int = static(2)

    def build(self, spec: EnvSpec) -> Learner:
        def act_with(logits: jax.Array) -> Act:
            def act(memory: PyTree, observation: jax.Array, key: jax.Array, mask=None):
                first = jax.random.bernoulli(key, jax.nn.sigmoid(logits), observation.shape[:2])
                return jnp.where(first, 0, 1), memory, ()

            return act

        def objective(logits: jax.Array, trajectory: Trajectory, agent: int) -> jax.Array:
            """The agent's mean reward, differentiable any number of times in both logits."""
            signs = 1.0 - 2.0 * trajectory.action
            log_prob = jax.nn.log_sigmoid(signs * logits).sum(-1)
            return (jnp.exp(log_prob - jax.lax.stop_gradient(log_prob)) * trajectory.reward[..., agent]).mean()

        def gradients(logits: jax.Array, trajectory: Trajectory, agent: int, key: jax.Array, simulate: Simulate):
            other = 1 - agent

            def stepped(own: jax.Array) -> jax.Array:
                """Both logits after the other's naive step, as a function of my own."""
                now = logits.at[agent].set(own)
                step = jax.grad(lambda theirs: objective(now.at[other].set(theirs), trajectory, other))(now[other])
                return now.at[other].add(self.opponent_rate * step)

            after = jax.lax.stop_gradient(stepped(logits[agent]))
            sampled = simulate(act_with(after), key)
            held = lambda own: stepped(own).at[other].set(after[other])  # noqa: E731
            return {
                "full": jax.grad(lambda own: objective(stepped(own), sampled, agent))(logits[agent]),
                "stopped": jax.grad(lambda own: objective(held(own), sampled, agent))(logits[agent]),
                "naive": jax.grad(lambda own: objective(after.at[agent].set(own), sampled, agent))(logits[agent]),
            }

        def update(logits: jax.Array, trajectory: Trajectory, key: jax.Array, simulate: Simulate):
            keys = jax.random.split(key, 2)
            found = [gradients(logits, trajectory, agent, keys[agent], simulate) for agent in range(self.called)]
            return logits, jax.tree.map(lambda *x: jnp.stack(x), *found) if found else {}

        return Learner(
            init=lambda key: jnp.array(LOGITS),
            act=lambda logits, *args: act_with(logits)(*args),
            policy=lambda logits, greedy: act_with(logits),
            update=update,
            num_envs=self.num_envs,
            simulations=self.declared,
        )


LOGITS = (0.5, -0.3)
PENNIES = make("matching_pennies", one_shot=True)


def exact_lookahead_gradient(agent: int, shaping: bool) -> float:
    """d/d theta_i V_i(theta_i, theta_j + eta dV_j / d theta_j) in closed form for matching pennies.

    V_0 = (2p - 1)(2q - 1) = -V_1, and the derivative of 2p - 1 in the logit of p is 2p(1 - p).
    """
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    mean = lambda x: 2 * sigmoid(x) - 1  # noqa: E731
    slope = lambda x: 2 * sigmoid(x) * (1 - sigmoid(x))  # noqa: E731
    own, other = LOGITS[agent], LOGITS[1 - agent]
    sign, eta = (1 if agent == 0 else -1), Lookahead().opponent_rate
    after = other + eta * -sign * mean(own) * slope(other)
    naive = sign * slope(own) * mean(after)
    return naive + shaping * sign * mean(own) * slope(after) * eta * -sign * slope(own) * slope(other)


@pytest.fixture(scope="module")
def looked_ahead() -> dict[str, np.ndarray]:
    """The three gradients [N] of one update."""
    logs = last_chunk(Fit(PENNIES, Lookahead(), [0], steps=1, chunks=1)).logs["learner"]
    return {name: value[0] for name, value in logs.items()}


def test_shaping_an_opponent_needs_the_gradient_through_its_step(looked_ahead):
    assert np.all(np.abs(looked_ahead["full"] - looked_ahead["naive"]) > 0.05)
    np.testing.assert_array_equal(looked_ahead["stopped"], looked_ahead["naive"])


def test_sampled_lookahead_gradients_are_the_exact_ones(looked_ahead):
    for name, shaping in (("full", True), ("naive", False)):
        wanted = [exact_lookahead_gradient(agent, shaping) for agent in range(2)]
        np.testing.assert_allclose(looked_ahead[name], wanted, atol=0.04, err_msg=name)  # 4,096 games


def test_simulated_steps_are_paid_from_the_budget():
    config, params = Lookahead(num_envs=8), PENNIES.default_params
    assert config.build(env_spec(PENNIES, params)).steps_per_update == 8 * (1 + 2)
    plan = training.plan(PENNIES, params, config, steps=100, chunks=1)
    assert (plan.updates_per_chunk, plan.steps_per_chunk) == (5, 5 * 24)  # 100 / 24, rounded up


@pytest.mark.parametrize(("declared", "called"), [(1, 2), (0, 1), (2, 0)])
def test_simulating_more_than_was_declared_or_nothing_at_all_is_refused(declared, called):
    config = Lookahead(num_envs=8, declared=declared, called=called)
    with pytest.raises(ValueError, match=f"declares {declared} simulations, its update made {called}"):
        trace_one_update(PENNIES, config)


def test_simulating_less_than_was_declared_is_fine():
    trace_one_update(PENNIES, Lookahead(num_envs=8, declared=2, called=1))


def trace_one_update(env: Any, config: Configuration) -> training.LoopState:
    """The shapes of the state after an update; nothing is compiled."""
    params = env.default_params
    learner = config.build(env_spec(env, params))
    begun = lambda key: training.start(env, params, learner, key)  # noqa: E731
    return jax.eval_shape(lambda key: training.run(env, params, learner, begun(key), 1)[0], jax.random.key(0))


# ---------------------------------------------------------------------- several learners in one game
@pytest.fixture(scope="module")
def mixed() -> training.Chunk:
    """Three agents: the second learns by itself, the first and the third share a learner."""
    parts = (Counter(needs_global_state=True), Counter(num_envs=4))
    return last_chunk(Fit(Tagged(), Composition(parts=parts, assignment=(1, 0, 1)), [0], steps=1, chunks=1))


def test_each_part_is_shown_its_own_columns_and_the_whole_game_beside_them(mixed):
    logs = mixed.logs["learner"]
    np.testing.assert_array_equal(logs["0/agents"][0], [1])
    np.testing.assert_array_equal(logs["1/agents"][0], [0, 2])
    for part in (0, 1):
        np.testing.assert_array_equal(logs[f"{part}/whole"][0], [0, 1, 2])
    np.testing.assert_allclose(logs["0/reward"][0], mixed.logs["payoff"][0, [1]])
    np.testing.assert_allclose(logs["1/reward"][0], mixed.logs["payoff"][0, [0, 2]])


def test_every_part_is_updated_once_per_iteration(mixed):
    assert [int(state[0]) for state in mixed.state.learner] == [1, 1]


@pytest.mark.parametrize("assignment", [(1, 0, 1), (0, 1, 2), (2, 0, 1), (0, 0, 1)])
def test_actions_memories_and_records_come_back_in_the_agents_own_order(assignment):
    env = Tagged()
    num_parts = max(assignment) + 1
    composed = Composition(parts=(Counter(),) * num_parts, assignment=assignment)
    learner = composed.build(env_spec(env, env.default_params))
    state, memory = learner.init(jax.random.key(0)), learner.memory(4)
    observation = jnp.zeros((4, 3, 5), jnp.int32).at[..., 1].set(jnp.arange(3))
    mask = jnp.broadcast_to(jnp.arange(5) != jnp.arange(3)[:, None], (4, 3, 5))
    _, memory, records = learner.act(state, memory, observation, jax.random.key(1), mask)
    for part, record in enumerate(records):
        own = [agent for agent in range(3) if assignment[agent] == part]
        np.testing.assert_array_equal(record["agent"], np.tile(own, (4, 1)))
        np.testing.assert_array_equal(record["mask"], mask[:, own])
        np.testing.assert_array_equal(memory[part], np.ones((4, len(own))))


def constant(action: int) -> Learner:
    """Plays one action for as many agents as it is given."""

    def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None):
        return jnp.full(observation.shape[:2], action), memory, ()

    return Learner(init=lambda key: (), act=lambda state, *args: act(*args), policy=lambda state, greedy: act)


@pytest.mark.parametrize("assignment", [(0, 1), (1, 0), (1, 0, 2, 0), (2, 2, 0, 1)])
def test_each_agent_plays_its_own_learners_action(assignment):
    learner = compose([constant(10), constant(11), constant(12)][: max(assignment) + 1], assignment)
    observation = jnp.zeros((3, len(assignment), 1))
    actions, _, _ = learner.act(learner.init(jax.random.key(0)), learner.memory(3), observation, jax.random.key(1))
    np.testing.assert_array_equal(actions, np.tile(10 + np.array(assignment), (3, 1)))


SMALL = IPPO(num_envs=16, rollout_length=10, hidden_sizes=(8,), epochs=2, minibatches=1, clip_value=False)


def test_two_learners_and_a_scripted_player_share_a_game_and_the_learners_learn():
    # A cooperator in the middle of a public goods game, between two learners that find out not to give.
    env = make("public_goods", num_agents=3)
    parts = (SMALL.replace(lr=0.02), Scripted(player="always_cooperate"), SMALL.replace(lr=0.03))
    fit = Fit(env, Composition(parts=parts, assignment=(2, 1, 0)), [0, 1], steps=160 * 60, chunks=6)
    cooperation = last_chunk(fit).logs["metrics"]["cooperation"]
    np.testing.assert_array_equal(cooperation[:, 1], 1)
    assert np.all(cooperation[:, [0, 2]] < 0.15), cooperation


@pytest.mark.parametrize("assignment", [(0, 1), (1, 0)])
def test_two_ppo_learners_of_different_sizes_compose_either_way_round(assignment):
    parts = (SMALL, SMALL.replace(hidden_sizes=(6,)))
    state = trace_one_update(make("prisoners_dilemma"), Composition(parts=parts, assignment=assignment))
    sizes = [part.actor["params"]["Dense_0"]["bias"].shape for part in state.learner]
    assert sizes == [(1, 8), (1, 6)]


def test_a_frozen_learner_acts_as_it_did_and_never_learns():
    env = make("prisoners_dilemma")
    learner = Reinforce(num_envs=4).build(env_spec(env, env.default_params))
    always_defect = jnp.zeros((2, 5, 2)).at[..., 1].set(50.0)
    still = frozen(learner, always_defect)
    state = training.start(env, env.default_params, still, jax.random.key(0))
    state, logs = jax.jit(lambda state: training.run(env, env.default_params, still, state, 2))(state)
    np.testing.assert_array_equal(state.learner, always_defect)
    np.testing.assert_array_equal(logs["payoff"], [-2, -2])


def test_a_parts_simulation_plays_the_others_as_they_are():
    """The first agent asks what happens if it plays 7, against somebody who plays 11."""
    env, seen = Tagged(num_agents=2), []

    def update(state, trajectory, key, simulate):
        seen.append(simulate(constant(7).policy((), True), key))
        return state, {"whole": seen[-1].joint.action.mean((0, 1)), "own": seen[-1].action.mean((0, 1))}

    asking = dataclasses.replace(constant(10), update=update, simulations=1, num_envs=2, rollout_length=3)
    learner = compose([constant(11), asking], (1, 0))
    assert learner.simulations == 1 and learner.num_envs == 2
    state = training.start(env, env.default_params, learner, jax.random.key(0))
    _, logs = jax.jit(lambda state: training.run(env, env.default_params, learner, state, 1))(state)
    np.testing.assert_array_equal(logs["learner"]["1/whole"], [7, 11])
    np.testing.assert_array_equal(logs["learner"]["1/own"], [7])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ((0, 2), "must index the 2 parts"),
        ((0, -1), "must index the 2 parts"),
        ((0, 0), "leaves part 1 without an agent"),
        ((0, 1, 0), "has 2 agents"),
        ((0,), "has 2 agents"),
    ],
)
def test_a_bad_assignment_is_refused_in_one_sentence(assignment, message):
    composition = Composition(parts=(SMALL, SMALL), assignment=assignment)
    with pytest.raises(InputError, match=message) as caught:
        Fit(make("prisoners_dilemma"), composition, [0], steps=1)
    assert "\n" not in str(caught.value)


def test_learning_parts_must_agree_on_what_is_collected_and_on_whose_reward_counts():
    game = make("prisoners_dilemma")
    with pytest.raises(InputError, match=r"agree on num_envs, got \[8, 16\]"):
        Fit(game, Composition(parts=(SMALL, SMALL.replace(num_envs=8)), assignment=(0, 1)), [0], steps=1)
    with pytest.raises(InputError, match="one reward view"):
        Fit(game, Composition(parts=(SMALL, SMALL.replace(reward_view="team")), assignment=(0, 1)), [0], steps=1)


def test_a_restricted_specification_keeps_the_whole_one():
    spec = env_spec(Tagged(), Tagged().default_params)
    part = restrict(spec, [2, 0])
    assert (part.num_agents, part.slots, part.joint) == (2, (2, 0), spec)


def test_a_group_must_divide_the_environments():
    with pytest.raises(InputError, match="group_size 3 must divide num_envs 4"):
        dataclasses.replace(constant(0), num_envs=4, group_size=3)
