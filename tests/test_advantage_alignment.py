"""Advantage Alignment: the transform against sums written out, what it leaves alone, and the dilemma it solves."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import PROBES, Probe, assert_trees_equal
from test_ppo import hand_made_trajectory

from marl_suite import rollout
from marl_suite.algorithm import Configuration, Learner, Trajectory, env_spec
from marl_suite.baselines.advantage_alignment import (
    AdvantageAlignment,
    Aligned,
    AlignedState,
    GroupRelative,
    GroupRelativeAdvantageAlignment,
    Past,
    align,
)
from marl_suite.baselines.ppo import IPPO
from marl_suite.baselines.scripted import Scripted
from marl_suite.composition import Composition, restrict
from marl_suite.envs import Environment, InputError, make
from marl_suite.envs.environment import PyTree
from marl_suite.games import repeated
from marl_suite.training import Chunk, Fit, compiled

GAMMA, BETA = 0.9, 0.7
DILEMMA = make("prisoners_dilemma")


# ---------------------------------------------------------------------- the transform
def by_definition(advantage: np.ndarray, reset: np.ndarray, config: AdvantageAlignment) -> np.ndarray:
    """A*_i,t of advantages [T, E, N] with every sum written out; the first row begins an episode."""
    result = np.zeros(advantage.shape)
    num_agents = advantage.shape[2]
    for t, e, i in np.ndindex(*advantage.shape):
        first = max(k for k in range(t + 1) if k == 0 or reset[k, e])
        past = 0.0
        for k in range(first, t):
            weight = (GAMMA * config.past_decay) ** (t - k) * GAMMA if config.past == "discounted" else 1 / (t - first)
            past += weight * advantage[k, e, i]
        others = sum(advantage[t, e, j] for j in range(num_agents) if j != i)
        result[t, e, i] = advantage[t, e, i] + config.beta * past * others
    return result


class Case(NamedTuple):
    """Random advantages in which episodes end here and there, and what becomes of them."""

    advantage: np.ndarray  # [T, E, N]
    reset: np.ndarray  # bool [T, E]
    config: AdvantageAlignment
    wanted: np.ndarray  # [T, E, N]

    def align(self, rows: slice, past: Past | None = None) -> tuple[np.ndarray, Past]:
        c, (_, num_envs, num_agents) = self.config, self.advantage.shape
        past = Past.nothing(num_envs, num_agents) if past is None else past
        aligned, past = align(
            jnp.asarray(self.advantage[rows]), jnp.asarray(self.reset[rows]), past, c.beta, GAMMA, c.past_decay, c.past
        )
        return np.asarray(aligned), past


@pytest.fixture(scope="module", params=["two", "three", "decay", "mean of three"])
def case(request) -> Case:
    num_agents = {"three": 3, "mean of three": 3}.get(request.param, 2)
    past = "mean" if request.param.startswith("mean") else "discounted"
    config = AdvantageAlignment(beta=BETA, past=past, past_decay=0.8 if request.param == "decay" else 1.0)
    rng = np.random.default_rng(num_agents)
    advantage = rng.normal(0.2, 1.0, (17, 4, num_agents)).astype(np.float32)
    reset = rng.random((17, 4)) < [0.0, 0.1, 0.3, 1.0]  # one endless episode, two sorts of mixtures, single steps
    return Case(advantage, reset, config, by_definition(advantage, reset, config))


def test_aligned_advantages_are_the_double_sum_over_the_episodes_past_and_the_other_agents(case):
    np.testing.assert_allclose(case.align(slice(None))[0], case.wanted, rtol=1e-4, atol=1e-5)


def test_two_rollouts_in_a_row_are_aligned_like_one_long_one(case):
    head, past = case.align(slice(0, 7))
    tail, _ = case.align(slice(7, None), past)
    np.testing.assert_allclose(np.concatenate([head, tail]), case.wanted, rtol=1e-4, atol=1e-5)
    forgetful, _ = case.align(slice(7, None))
    assert np.abs(forgetful[:, 0] - tail[:, 0]).max() > 0.1, "the endless episode's past must matter"


def test_the_first_step_of_an_episode_has_no_alignment_term(case):
    aligned, past = case.align(slice(None))
    np.testing.assert_array_equal(aligned[0], case.advantage[0])
    np.testing.assert_array_equal(aligned[case.reset], case.advantage[case.reset])
    again = Case(case.advantage, np.ones_like(case.reset), *case[2:])
    np.testing.assert_array_equal(again.align(slice(0, 1), past)[0], case.advantage[:1], "not even with a past")


def test_the_others_do_not_include_oneself():
    # Nobody but agent 1 has advantages: it has no others to align with, and they have no past to align by.
    config = AdvantageAlignment(beta=BETA)
    alone = np.zeros((6, 1, 3), np.float32)
    alone[:, 0, 1] = [1, -2, 3, 4, -5, 6]
    lonely = Case(alone, np.zeros((6, 1), bool), config, alone)
    np.testing.assert_array_equal(lonely.align(slice(None))[0], alone)


@pytest.mark.parametrize(("mine", "theirs", "sign"), [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])
def test_past_and_effect_of_one_sign_encourage_and_of_different_signs_discourage(mine, theirs, sign):
    advantage = np.array([[[mine, 0]], [[0, theirs]]], np.float32)  # my past, then what I do to them
    config = AdvantageAlignment(beta=BETA)
    aligned, _ = Case(advantage, np.zeros((2, 1), bool), config, advantage).align(slice(None))
    np.testing.assert_allclose(aligned[1, 0, 0], sign * BETA * GAMMA * GAMMA, rtol=1e-5)


# ---------------------------------------------------------------------- one update, looked at closely
SMALL = AdvantageAlignment(
    lr=0.0,  # nothing moves, so that the gradient can be asked for later
    gamma=GAMMA,
    beta=BETA,
    num_envs=4,
    rollout_length=10,
    hidden_sizes=(6,),
    epochs=1,
    minibatches=1,
    entropy_coefficient=0.0,
    max_gradient_norm=1e9,
    clip_value=False,
    anneal=False,
)
GROUPS = GroupRelativeAdvantageAlignment(group_size=2).replace(**vars(SMALL))
RANDOM = Scripted(player="random")


class Played(NamedTuple):
    """Two rollouts in a row, episodes ending inside and going on between them, and the second update's gradient."""

    part: Aligned
    state: AlignedState  # with fresh moments, before the second update
    gradient: tuple[PyTree, PyTree]  # of actor and critic, [P, ...]
    trajectories: list[Trajectory]  # the whole game's


def composed(config: AdvantageAlignment, env: Environment, slots: Sequence[int]) -> tuple[Configuration, Aligned]:
    """`config` in the seats `slots`, everybody else at random; and the functions of its part."""
    kind: Any = GroupRelative if isinstance(config, GroupRelativeAdvantageAlignment) else Aligned
    spec = env_spec(env, env.default_params)
    if len(slots) == env.num_agents:
        return config, kind(config, spec)
    assignment = tuple(int(i not in slots) for i in range(env.num_agents))
    return Composition(parts=(config, RANDOM), assignment=assignment), kind(config, restrict(spec, slots))


def moments(state: AlignedState) -> tuple[PyTree, PyTree]:
    """The gradients of the only update since the optimiser was fresh, from Adam's first moment (decay 0.9)."""
    return jax.tree.map(lambda x: x / 0.1, optax.tree.get(state.optimiser, "mu"))


def play_twice(config: AdvantageAlignment, env: Environment, slots: Sequence[int]) -> Played:
    configuration, part = composed(config, env, slots)
    learner = configuration.build(env_spec(env, env.default_params))
    params = env.default_params.replace(max_steps=4)
    alone = len(slots) == env.num_agents

    def update(carry: PyTree, keys: jax.Array) -> tuple[PyTree, tuple[AlignedState, Trajectory, PyTree]]:
        place, state, fresh = carry
        mine = (state if alone else state[0]).replace(optimiser=fresh)
        state = mine if alone else (mine, *state[1:])
        place, trajectory, _ = rollout.collect(env, params, learner, partial(learner.act, state), place, keys[0])
        state, _ = learner.update(state, trajectory, keys[1], no_simulation)
        return (place, state, fresh), (mine, trajectory, moments(state if alone else state[0]))

    def play(key: jax.Array) -> tuple[AlignedState, Trajectory, PyTree]:
        keys = jax.random.split(key, 6)
        state = learner.init(keys[0])
        carry = rollout.start(env, params, learner, keys[1]), state, (state if alone else state[0]).optimiser
        return jax.lax.scan(update, carry, keys[2:].reshape(2, 2))[1]

    states, trajectories, gradients = jax.tree.map(np.asarray, compiled(play)(jax.random.key(3)))
    first, second = (jax.tree.map(lambda x, i=i: x[i], trajectories) for i in range(2))
    state, gradient = (jax.tree.map(lambda x: x[1], tree) for tree in (states, gradients))
    return Played(part, state, gradient, [first, second])


def no_simulation(*args: Any) -> Trajectory:
    raise AssertionError("Advantage Alignment needs no simulation")


PLAYS = {
    "two": (SMALL, DILEMMA, (0, 1)),
    "two with shared parameters": (SMALL.replace(share_parameters=True, past="mean"), DILEMMA, (0, 1)),
    "three": (SMALL.replace(past_decay=0.8), make("public_goods", num_agents=3), (0, 1, 2)),
    "first seat": (SMALL, DILEMMA, (0,)),
    "second seat": (SMALL, DILEMMA, (1,)),
    "two seats of five": (SMALL, make("public_goods"), (0, 2)),
    "groups": (GROUPS, make("public_goods", num_agents=3), (1, 2)),
}


@pytest.fixture(scope="module", params=PLAYS)
def played(request) -> Played:
    return play_twice(*PLAYS[request.param])


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1))) / x.std((0, 1))


def returns_to_go(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """sum_k gamma^(k - t) r_k up to the end of the episode or of the rollout, [T, E, N]."""
    result = np.zeros(reward.shape)
    for t, e in np.ndindex(*done.shape):
        for k in range(t, len(reward)):
            result[t, e] += GAMMA ** (k - t) * reward[k, e]
            if done[k, e]:
                break
    return result


def compared(returns: np.ndarray, group_size: int) -> np.ndarray:
    """G^k - mean_{m != k} G^m over consecutive groups of environments, [T, E, N]."""
    result = np.array(returns)
    for k in range(returns.shape[1]):
        first = k // group_size * group_size
        peers = [m for m in range(first, first + group_size) if m != k]
        result[:, k] -= np.mean([returns[:, m] for m in peers], axis=0)
    return result


def critic_of(part: Aligned, state: AlignedState, seat: int) -> PyTree:
    """The parameters of the critic of a seat of the whole game."""
    own = seat in part.spec.slots
    critics = state.critic if own else cast(Any, state.partners).critic
    index = 0 if part.config.share_parameters else (part.spec.slots if own else part.others).index(seat)
    return jax.tree.map(lambda x: x[index], critics)


def advantages(played: Played, trajectory: Trajectory) -> np.ndarray:
    """Everybody's normalised advantages [T, E, N], seat by seat."""
    part, state = played.part, played.state
    reward, done = np.asarray(trajectory.reward), np.asarray(trajectory.done)
    if isinstance(part, GroupRelative):
        return normalised(compared(returns_to_go(reward, done), part.config.group_size))
    critic: Any = part.critic.apply
    errors = []
    for seat in range(reward.shape[2]):
        params = critic_of(part, state, seat)
        v_tm1, v_t = (
            critic(params, (), x[:, :, seat], trajectory.reset)[0][..., 0]
            for x in (trajectory.observation, trajectory.next_observation)
        )
        errors.append(reward[..., seat] + GAMMA * v_t - v_tm1)  # the clock cuts these games, they never end
    return normalised(np.stack(errors, axis=-1))


def test_the_update_follows_the_policy_gradient_of_the_aligned_advantages(played):
    # On-policy and with one pass over everything at once the clipped surrogate's gradient is that of E A* log pi.
    part, (first, second) = played.part, played.trajectories
    everybody = np.concatenate([advantages(played, first), advantages(played, second)])
    aligned = by_definition(everybody, np.concatenate([first.reset, second.reset]), part.config)[10:]
    assert np.abs(aligned.mean((0, 1))).max() > 0.002, "centred again they would differ"

    def objective(actor: PyTree, seats: Sequence[int]) -> jax.Array:
        apply: Any = part.actor.apply
        total = jnp.zeros(())
        for seat in seats:
            logits, _ = apply(actor, (), second.observation[:, :, seat], second.reset)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), second.action[:, :, seat, None], -1)[..., 0]
            total += (aligned[..., seat] * chosen).mean() / len(seats)
        return total

    slots = part.spec.slots
    sets = [slots] if part.config.share_parameters else [(seat,) for seat in slots]
    for index, seats in enumerate(sets):
        actor = jax.tree.map(lambda x, i=index: x[i], played.state.actor)
        wanted = jax.grad(objective)(actor, seats)
        found = jax.tree.map(lambda x, i=index: -x[i], played.gradient[0])
        assert optax.tree.norm(wanted) > 0.01
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), found, wanted)


def test_critics_learn_values_and_nothing_else_flows_into_them(played):
    part, trajectory = played.part, played.trajectories[1]
    if isinstance(part, GroupRelative) or part.config.share_parameters:
        pytest.skip("one critic per seat is what is looked at")
    apply: Any = part.critic.apply
    for index, seat in enumerate(part.spec.slots):
        critic = critic_of(part, played.state, seat)
        value = lambda params, x, seat=seat: apply(params, (), x[:, :, seat], trajectory.reset)[0][..., 0]  # noqa: E731
        target = trajectory.reward[..., seat] + GAMMA * value(critic, trajectory.next_observation)
        error = jax.grad(lambda c: 0.5 * jnp.square(value(c, trajectory.observation) - target).mean())  # noqa: B023
        wanted = jax.tree.map(lambda x: part.config.value_coefficient * x, error(critic))
        found = jax.tree.map(lambda x, i=index: x[i], played.gradient[1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, wanted)


def test_rewards_in_another_unit_leave_the_policys_update_as_it_was():
    # Zero critics make advantages proportional to rewards. Normalised after the product, or not at all, the alignment
    # term of rewards ten times as large would weigh ten times as much.
    part = composed(SMALL, DILEMMA, (0, 1))[1]
    learner = part.learner()

    def gradients(key: jax.Array) -> list[PyTree]:
        state = learner.init(key)
        state = state.replace(critic=jax.tree.map(jnp.zeros_like, state.critic))
        act = lambda *args: learner.act(state, *args)  # noqa: E731
        trajectory = rollout.simulate(DILEMMA, DILEMMA.default_params, learner, act, key)
        scaled = [trajectory.replace(reward=scale * trajectory.reward) for scale in (1, 10)]
        return [moments(learner.update(state, x, key, no_simulation)[0])[0] for x in scaled]

    plain, loud = compiled(gradients)(jax.random.key(0))
    assert optax.tree.norm(plain) > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain, loud)


# ---------------------------------------------------------------------- without alignment it is IPPO
LEARNING = SMALL.replace(
    lr=0.01, epochs=2, minibatches=2, entropy_coefficient=0.01, max_gradient_norm=0.5, clip_value=True, anneal=True
)
SLOW = pytest.mark.slow


def trained(config: IPPO, alone: bool, axes: Any = None) -> PyTree:
    """What two lanes of one seed know, and where their games stand, after four updates."""
    configuration = config if alone else Composition(parts=(config, Scripted(player="tit_for_tat")), assignment=(1, 0))
    if axes is not None and not alone:
        axes = jax.tree.map(lambda _: None, configuration).replace(parts=(axes, Scripted(player="tit_for_tat")))
    steps = 4 * config.num_envs * config.rollout_length
    *_, chunk = Fit(DILEMMA, configuration, [5, 5], steps, chunks=1, axes=(axes, None))
    own = chunk.state.learner if alone else chunk.state.learner[0]
    return {name: getattr(own, name) for name in ("actor", "critic", "optimiser", "critic_memory")}, chunk.state.rollout


@pytest.mark.parametrize(
    ("recurrent", "shared", "alone"),
    [
        (False, False, True),
        pytest.param(True, True, True, marks=SLOW),
        pytest.param(False, False, False, marks=SLOW),
        pytest.param(True, False, True, marks=SLOW),
        pytest.param(False, True, True, marks=SLOW),
        pytest.param(True, False, False, marks=SLOW),
        pytest.param(True, True, False, marks=SLOW),
    ],
)
def test_without_alignment_it_trains_bit_for_bit_like_ippo_and_with_it_does_not(recurrent, shared, alone):
    config = LEARNING.replace(recurrent=recurrent, share_parameters=shared)
    common = {field.name: getattr(config, field.name) for field in dataclasses.fields(IPPO)}
    betas = config.replace(beta=jnp.array([0.0, 0.5]))
    aligned = trained(betas, alone, jax.tree.map(lambda _: None, config).replace(beta=0))
    zero, half = (jax.tree.map(lambda x, lane=lane: x[lane], aligned) for lane in (0, 1))
    assert_trees_equal(zero, jax.tree.map(lambda x: x[0], trained(IPPO(**common), alone)))
    kernels = [knowledge["actor"]["params"]["Dense_0"]["kernel"] for knowledge, _ in (zero, half)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


# ---------------------------------------------------------------------- seats that others play
@dataclasses.dataclass(frozen=True)
class Salaries(Probe):
    """Agent i is paid i at every step, whatever anybody does; the clock cuts episodes of ten steps."""

    num_agents: int = 5

    def transition(self, key: jax.Array, state, actions: jax.Array, params: PyTree):
        del key, actions
        return state.replace(time=state.time + 1), jnp.arange(5.0), jnp.asarray(False), {}

    def observe(self, state, params: PyTree) -> jax.Array:
        return jnp.ones((5, 2))


@pytest.fixture(scope="module")
def employed() -> tuple[Aligned, AlignedState, AlignedState]:
    """Seats 0 and 2 align themselves with three scripted players: the functions, before and after training."""
    config = LEARNING.replace(lr=0.05, gamma=0.5, hidden_sizes=(8,), max_gradient_norm=10.0, clip_value=False)
    configuration, part = composed(config, Salaries(), (0, 2))
    fit = Fit(Salaries(), configuration, [0], 150 * 40, PROBES["truncated"], chunks=1)
    before = fit.start().learner[0]
    *_, chunk = fit
    first = lambda tree: jax.tree.map(lambda x: np.asarray(x[0]), tree)  # noqa: E731
    return part, first(before), first(chunk.state.learner[0])


def test_critics_of_partners_learn_what_their_seats_are_worth(employed):
    part, _, state = employed
    apply: Any = part.critic.apply
    for seat in range(5):
        value, _ = apply(critic_of(part, state, seat), (), np.ones((1, 1, 2)), np.zeros((1, 1), bool))
        np.testing.assert_allclose(value.item(), seat / (1 - 0.5), atol=0.1, err_msg=f"of seat {seat}")


def test_policies_of_partners_are_not_trained(employed):
    _, before, after = employed
    assert_trees_equal(before.partners.actor, after.partners.actor)
    assert not np.array_equal(before.actor["params"]["Dense_0"]["bias"], after.actor["params"]["Dense_0"]["bias"])


def test_partners_have_critics_only_where_there_are_partners(employed):
    assert jax.tree.leaves(employed[2].partners.critic)[0].shape[0] == 3
    alone = jax.eval_shape(composed(SMALL, DILEMMA, (0, 1))[1].init, jax.random.key(0))
    assert alone.partners is None


# ---------------------------------------------------------------------- groups
@pytest.fixture(scope="module")
def coins() -> dict[int, list[Trajectory]]:
    """The coin game with groups of 1 and 4: the same moves in all eight environments, and the learner's own."""
    env = make("coin_game")
    params = env.default_params.replace(max_steps=5)

    def moves(memory: PyTree, observation: PyTree, key: jax.Array, mask=None):
        return jnp.broadcast_to(jax.random.randint(key, (2,), 0, 4), (8, 2)), memory, ()

    def play(learner: Learner, key: jax.Array) -> list[Trajectory]:
        state = learner.init(key)
        acts = (moves, lambda *args: learner.act(state, *args))
        return [rollout.simulate(env, params, learner, act, key) for act in acts]

    found = {}
    for size in (1, 4):
        learner = GROUPS.replace(num_envs=8, rollout_length=12, group_size=size).build(env_spec(env, params))
        found[size] = jax.tree.map(
            np.asarray, compiled(lambda key, learner=learner: play(learner, key))(jax.random.key(0))
        )
    return found


def twins(trajectory: Trajectory) -> np.ndarray:
    """bool [E, E]: which environments saw and paid the same all the time."""
    num_envs = trajectory.reward.shape[1]
    seen = np.asarray(trajectory.observation), np.asarray(trajectory.reward)
    rows = [np.moveaxis(x, 1, 0).reshape(num_envs, -1) for x in seen]
    rows = np.concatenate(rows, axis=1)
    return (rows[:, None] == rows[None]).all(-1)


def test_the_same_moves_lead_to_the_same_episodes_within_a_group_only(coins):
    assert coins[4][0].done[:-1].any(), "later episodes begin alike, too"
    np.testing.assert_array_equal(twins(coins[4][0]), np.kron(np.eye(2), np.ones((4, 4))))
    np.testing.assert_array_equal(twins(coins[1][0]), np.eye(8))


def test_members_of_a_group_act_each_on_its_own(coins):
    np.testing.assert_array_equal(coins[4][1].observation[0, 0], coins[4][1].observation[0, 3])
    np.testing.assert_array_equal(twins(coins[4][1]), np.eye(8))


@pytest.fixture(scope="module")
def grouped() -> tuple[Trajectory, np.ndarray]:
    """Rewards of 9 steps in 6 environments for 2 agents, with ends that fall together in groups of 3; the returns."""
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(9, 6, 2)).astype(np.float32)
    terminated, truncated = (np.repeat(rng.random((9, 2)) < 0.2, 3, axis=1) for _ in range(2))
    assert terminated[:-1].any() and truncated[:-1].any()
    one = hand_made_trajectory([0], [0], [0.0])
    return one.replace(reward=reward, terminated=terminated, truncated=truncated), returns_to_go(
        reward, terminated | truncated
    )


def relative(trajectory: Trajectory, group_size: int) -> np.ndarray:
    config = GROUPS.replace(num_envs=6, group_size=group_size)
    part = composed(config, DILEMMA, (0, 1))[1]
    zeros = jnp.zeros(trajectory.reward.shape)
    return np.asarray(part.advantages(trajectory, zeros, zeros))


@pytest.mark.parametrize("group_size", [2, 3, 6])
def test_group_relative_advantages_are_returns_less_the_mean_of_the_others(grouped, group_size):
    trajectory, returns = grouped
    found = relative(trajectory, group_size)
    np.testing.assert_allclose(found, compared(returns, group_size), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reshape(9, -1, group_size, 2).sum(2), 0, atol=1e-5)


def test_a_group_of_one_has_its_returns_for_advantages_and_these_stop_at_either_end(grouped):
    trajectory, returns = grouped
    found = relative(trajectory, 1)
    np.testing.assert_allclose(found, returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[trajectory.done], trajectory.reward[trajectory.done], rtol=1e-6)


def test_what_everybody_in_a_group_is_paid_makes_no_difference(grouped):
    trajectory, _ = grouped
    gift = np.repeat(np.random.default_rng(1).normal(0, 10, (9, 2, 2)), 3, axis=1)  # by step, group and agent
    gifted = trajectory.replace(reward=np.float32(trajectory.reward + gift))
    np.testing.assert_allclose(relative(gifted, 3), relative(trajectory, 3), atol=1e-4)


def test_the_group_relative_form_has_no_critic():
    part = composed(GROUPS, make("public_goods"), (0, 2))[1]
    state = jax.eval_shape(part.init, jax.random.key(0))
    assert jax.tree.leaves(state.actor) and not jax.tree.leaves((state.critic, state.critic_memory, state.partners))
    moment = optax.tree.get(state.optimiser, "mu")
    assert jax.tree.structure(moment) == jax.tree.structure((state.actor, state.critic))


# ---------------------------------------------------------------------- refusals
def test_groups_must_divide_the_environments():
    with pytest.raises(InputError, match="group_size 4 must divide num_envs 6"):
        Fit(DILEMMA, GROUPS.replace(num_envs=6, group_size=4), [0], 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMALL.replace(beta=-0.5), "ppo.beta must be at least 0, got -0.5"),
        (SMALL.replace(past="meen"), "'meen'; closest: 'mean'"),
        (SMALL.replace(past_decay=1.5), "ppo.past_decay must be at most 1, got 1.5"),
        (SMALL.replace(past_decay=-0.1), "ppo.past_decay must be at least 0, got -0.1"),
        (SMALL.replace(gamma=1.5), "ppo.gamma must be at most 1"),
        (GROUPS.replace(group_size=0), "ppo.group_size must be at least 1, got 0"),
        (GROUPS.replace(beta=-1.0), "ppo.beta must be at least 0, got -1.0"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(config, message):
    with pytest.raises(InputError, match=message) as caught:
        config.check()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- the prisoner's dilemma
NET = AdvantageAlignment(lr=5e-3, hidden_sizes=(32,))
CC, CD, _, DD, START = range(5)


class Learned(NamedTuple):
    """What became of several seeds; payoffs are exact, per step of fifty."""

    cooperation: np.ndarray  # [S, 2, 5] probability in each memory-one state
    together: np.ndarray  # [S] mean payoff of the two agents
    own: np.ndarray  # [S] mean payoff of the two against always_defect
    defector: np.ndarray  # [S] what always_defect gets from them


def learned(config: AdvantageAlignment, seeds: int, steps: float) -> Learned:
    fit = Fit(DILEMMA, config, range(seeds), steps, chunks=1)
    *_, chunk = cast(list[Chunk], list(fit))
    part = Aligned(config, fit.plan.spec)
    states = jnp.broadcast_to(jnp.eye(5)[:, None], (5, 2, 5))

    def policies(state: AlignedState) -> jax.Array:
        distribution, _ = part.distribution(state.actor, (), states, None)
        return jnp.exp(jnp.asarray(distribution.log_prob(jnp.zeros((5, 2), jnp.int32)))).T  # [2, 5]

    def payoffs(pair: jax.Array) -> jax.Array:
        return repeated.finite_horizon_value(pair, DILEMMA.default_params.payoffs, 1.0, 50) / 50

    def look(state: AlignedState) -> tuple[jax.Array, ...]:
        chance = policies(state)
        pair = jnp.stack([chance, 1 - chance], axis=-1)
        defect = jnp.asarray(repeated.memory_one("always_defect"))
        opposed = jnp.stack([payoffs(jnp.concatenate([pair[i, None], defect])) for i in range(2)]).mean(0)
        return chance, payoffs(pair).mean(), opposed[0], opposed[1]

    return Learned(*map(np.asarray, compiled(jax.vmap(look))(chunk.state.learner)))


QUICK = AdvantageAlignment(lr=0.01, hidden_sizes=(16,), num_envs=64)


def cooperates_and_is_not_exploited(found: Learned, least: int) -> None:
    """At least `least` seeds earn more than -1.3, where defection earns -2; always_defect (at -2 among itself) gains
    little."""
    assert np.sum(found.together > -1.3) >= least, found.together
    assert found.own.mean() >= -2.15 and found.defector.mean() <= -1.75, (found.own, found.defector)


@SLOW
def test_in_ci_aligned_learners_cooperate_in_the_prisoners_dilemma_and_are_not_exploited():
    cooperates_and_is_not_exploited(learned(QUICK, 5, 6.4e5), least=4)


@pytest.fixture(scope="module")
def ten() -> Learned:
    return learned(NET, 10, 1.92e6)


@SLOW
def test_ten_seeds_cooperate_and_are_not_exploited(ten):
    cooperates_and_is_not_exploited(ten, least=8)


@SLOW
def test_the_learned_policy_reciprocates(ten):
    chance = ten.cooperation.mean((0, 1))
    assert chance[CC] > 0.9 and chance[START] > 0.9 and chance[CD] < 0.25 and chance[DD] < 0.1, chance


@SLOW
def test_without_alignment_the_same_learners_defect():
    assert np.all(learned(NET.replace(beta=0.0), 10, 1.92e6).together < -1.9)


@SLOW
def test_aligned_by_the_mean_of_the_past_they_cooperate_as_well():
    cooperates_and_is_not_exploited(learned(QUICK.replace(past="mean", beta=10.0), 5, 6.4e5), least=4)


@SLOW
def test_learners_that_compare_themselves_in_groups_cooperate_without_a_critic():
    # Returns that stop with the episode make its last steps selfish, and a policy without a clock does not know which
    # these are: a short discount keeps them few. Still -1.25 rather than -1.
    config = GroupRelativeAdvantageAlignment(
        lr=0.01, gamma=0.9, hidden_sizes=(16,), num_envs=64, group_size=64, minibatches=1
    )
    found = learned(config, 5, 6.4e5)
    assert np.sum(found.together > -1.4) >= 4, found.together
    assert found.cooperation.mean((0, 1))[CC] > 0.95
    assert found.own.mean() >= -2.15 and found.defector.mean() <= -1.75, (found.own, found.defector)


def test_minibatches_must_divide_the_streams_of_the_partners_as_well():
    # With shared parameters two seats have 12 streams and the partner's critic has 6.
    config = SMALL.replace(num_envs=6, minibatches=4, share_parameters=True)
    env = make("public_goods", num_agents=3)
    with pytest.raises(InputError, match="minibatches must divide the 6 streams"):
        composed(config, env, (0, 1))[0].build(env_spec(env, env.default_params))
