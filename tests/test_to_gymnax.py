"""Games as gymnax environments, against the games themselves and driven by gymnax's own tools."""

import importlib
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from gymnax.environments import environment as gymnax_environment
from gymnax.environments import spaces as gymnax_spaces
from gymnax.wrappers import (
    FlattenObservationWrapper,
    GymnaxToDmEnvWrapper,
    GymnaxToGymWrapper,
    LegacyStepAPIWrapper,
    LogWrapper,
)
from probes import Tagged

import marl_suite
from marl_suite import make, stored_policies
from marl_suite.algorithm import env_spec
from marl_suite.baselines import registry
from marl_suite.envs import InputError, registered
from marl_suite.envs.adapters.to_gymnax import to_gymnax
from marl_suite.envs.spaces import Box

SEED = 5


class Counting:
    """A policy of N agents who count their steps from the last reset, E at a time, and play seat + count, modulo A."""

    def __init__(self, num_agents, num_actions):
        self.num_agents, self.num_actions = num_agents, num_actions

    def memory(self, num_envs):
        return jnp.zeros((num_envs, self.num_agents), jnp.int32)

    def act(self, memory, observation, key, mask):
        return (memory + jnp.arange(self.num_agents)) % self.num_actions, memory + 1, "more"


class HighestAllowed:
    """Everybody plays the highest action that the mask allows."""

    def memory(self, num_envs):
        return ()

    def act(self, memory, observation, key, mask):
        return mask.shape[-1] - 1 - jnp.argmax(mask[..., ::-1], axis=-1), memory


class Drawing:
    """Everybody draws one of two actions."""

    def memory(self, num_envs):
        return ()

    def act(self, memory, observation, key, mask):
        return jax.random.randint(key, observation.shape[:2], 0, 2), memory


def some_actions(env, num_steps):
    """Uniform actions [T, N, ...]."""
    space, random = env.action_space(), np.random.default_rng(SEED)
    shape = (num_steps, env.num_agents, *space.shape)
    if isinstance(space, Box):
        return random.uniform(space.low, space.high, shape).astype(space.dtype)
    return random.integers(0, getattr(space, "nvec", None) or space.n, shape, space.dtype)


@partial(jax.jit, static_argnums=0)
def play(env, keys, actions, params):
    """Observations before the steps and the outcomes of the steps, [T, ...], of one of ours or of gymnax's."""

    def step(carry, inputs):
        outcome = env.step(inputs[0], carry[1], inputs[1], params)
        return outcome[:2], (carry[0], outcome)

    return jax.lax.scan(step, env.reset(jax.random.key(SEED + 1), params), (keys, actions))[1]


def step_keys(num_steps):
    return jax.random.split(jax.random.key(SEED + 2), num_steps)


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---------------------------------------------------------------------- the same game
GAMES = {
    "prisoners_dilemma": {"max_steps": 7},
    "harvest_dynamics": {"max_steps": 7},  # numbers as actions
    "negotiation": {"max_steps": 7},  # actions of three parts
    "tagged": {},  # masks, and episodes that end in both ways
}
MORE_GAMES = {
    "public_goods": {"max_steps": 7},
    "coin_game": {"max_steps": 7},
    "coins": {"max_steps": 7, "min_steps": 7},  # a map
}


def played_alike(game, changed):
    env = Tagged() if game == "tagged" else make(game)
    params, agent, num_steps = env.make_params(**changed), env.num_agents - 1, 20
    keys, actions = step_keys(num_steps), some_actions(env, num_steps)
    ours = play(env, keys, actions, params)
    assert (ours[1][3] | ours[1][4]).sum() >= 2
    assert_equal(play(to_gymnax(env), keys, actions, params), ours)

    before, outcome = play(to_gymnax(env, agent=agent), keys, actions[:, agent], params)
    joint = outcome[5].pop("actions")
    np.testing.assert_array_equal(joint[:, agent], actions[:, agent])
    own = partial(jax.tree.map, lambda leaf: leaf[:, agent])
    our_before, ours = play(env, jax.vmap(jax.random.split)(keys)[:, 0], joint, params)
    ours[5]["final_observation"] = own(ours[5]["final_observation"])
    assert_equal(before, own(our_before))
    assert_equal((outcome[0], outcome[1].inner), (own(ours[0]), ours[1]))
    assert_equal(outcome[2:], (ours[2][:, agent], *ours[3:]))


@pytest.mark.parametrize("game", GAMES)
def test_all_agents_and_one_learner_play_the_game_itself_bit_for_bit_also_over_resets(game):
    played_alike(game, GAMES[game])


@pytest.mark.slow
@pytest.mark.parametrize("game", MORE_GAMES)
def test_more_games_are_played_bit_for_bit(game):
    played_alike(game, MORE_GAMES[game])


def test_random_partners_draw_from_the_second_half_of_the_key():
    env, keys = make("prisoners_dilemma"), step_keys(20)
    _, outcome = play(to_gymnax(env, agent=1), keys, np.zeros(20, np.int32), env.default_params)
    drawn = [env.action_space().sample(jax.random.split(jax.random.split(key)[1])[0]) for key in keys]
    assert 0 < sum(drawn) < 20
    assert outcome[5]["actions"][:, 0].tolist() == drawn


# ---------------------------------------------------------------------- partners
def test_tit_for_tat_does_what_the_learner_just_did_and_forgets_it_at_the_end():
    env, own = make("prisoners_dilemma"), some_actions(make("prisoners_dilemma"), 20)[:, 1]
    view = to_gymnax(env, env.make_params(max_steps=6), agent=1, partners="tit_for_tat")
    _, outcome = play(view, step_keys(20), own, None)
    expected = [0 if t % 6 == 0 else own[t - 1] for t in range(20)]
    assert outcome[5]["actions"][:, 0].tolist() == expected
    payoffs = {(0, 0): -1, (0, 1): 0, (1, 0): -3, (1, 1): -2}  # the other's action first
    assert outcome[2].tolist() == [payoffs[pair] for pair in zip(expected, own.tolist(), strict=True)]
    assert np.flatnonzero(outcome[4]).tolist() == [5, 11, 17]


def test_a_policy_plays_each_seats_own_part_and_its_memory_is_cleared_with_the_episode():
    env = Tagged()
    view = to_gymnax(env, agent=1, partners=Counting(3, 5))
    before, outcome = play(view, step_keys(30), np.full(30, 4, np.int32), env.default_params)
    time = before[:, 2]  # steps since the reset, as the game shows
    assert (time == 0).sum() > 5
    expected = np.stack([time % 5, np.full(30, 4), (time + 2) % 5], axis=1)
    np.testing.assert_array_equal(outcome[5]["actions"], expected)


def test_each_seat_may_have_a_partner_of_its_own_and_policies_see_what_is_allowed():
    env = Tagged()
    two = lambda observation, key: jnp.int32(2)  # noqa: E731
    view = to_gymnax(env, agent=0, partners=[HighestAllowed(), two])
    before, outcome = play(view, step_keys(30), np.zeros(30, np.int32), env.default_params)
    highest = np.where((before[:, 0] + 1) % 5 == 4, 3, 4)  # agent 1 may not play (tag + 1) mod 5
    assert set(highest) == {3, 4}
    expected = np.stack([np.zeros(30), highest, np.full(30, 2)], axis=1)
    np.testing.assert_array_equal(outcome[5]["actions"], expected)


@pytest.mark.parametrize(
    ("baseline", "settings"),
    [("lola", {}), pytest.param("ippo", {"recurrent": True, "hidden_sizes": (8,)}, marks=pytest.mark.slow)],
)
def test_a_loaded_policy_plays_as_it_does_elsewhere(baseline, settings, tmp_path):
    env = make("prisoners_dilemma")
    params = env.make_params(max_steps=6)
    learner = registry.configuration(baseline, **settings).build(env_spec(env, params))
    assert learner.export
    seeds = jax.vmap(jax.random.key)(jnp.array([3]))
    policies = learner.export(jax.jit(jax.vmap(lambda key: learner.trained(learner.init(key))))(seeds))
    facts = {"environment": env.name, "env": env.static_values(), "params": {}, "version": env.version}
    facts |= {"baseline": baseline, "label": baseline, "seeds": [3]}
    stored = stored_policies.gather(policies, env, params, facts)
    (tmp_path / "policy.npz").write_bytes(stored_policies.to_bytes(stored))
    policy = marl_suite.load(tmp_path)

    keys, own = step_keys(20), some_actions(env, 20)[:, 0]
    _, outcome = play(to_gymnax(env, params, agent=0, partners=policy), keys, own, params)
    act, memory, observation = jax.jit(policy.act), policy.memory(1), env.reset(jax.random.key(0), params)[0]
    expected = []
    for t in range(20):
        actions, memory = act(memory, observation[None], jax.random.split(keys[t])[1])
        expected.append(int(actions[0, 1]))
        observation = outcome[1].observation[t]
        memory = policy.memory(1) if t % 6 == 5 else memory
    assert 0 < sum(expected) < 20
    assert outcome[5]["actions"][:, 1].tolist() == expected


def test_each_key_is_used_once():
    view = to_gymnax(Tagged(), agent=1, partners=["random", Drawing()])
    state = view.reset(jax.random.key(SEED))[1]
    with jax.debug_key_reuse(True):
        view.step(jax.random.key(SEED + 1), state, 0)


def test_the_masks_are_the_games():
    env, key = Tagged(), jax.random.key(SEED)
    for agent in (None, 2):
        observation, state = to_gymnax(env, agent=agent).reset(key)
        tag = int(observation[..., 0].max())
        forbidden = (tag + np.arange(3)) % 5
        expected = np.arange(5) != forbidden[:, None]
        mask = LogWrapper(to_gymnax(env, agent=agent)).action_mask(state)
        np.testing.assert_array_equal(mask, expected if agent is None else expected[agent])


# ---------------------------------------------------------------------- one object, one compilation
def test_equal_arguments_give_one_object_and_one_compilation():
    traced = []

    def cooperator(observation, key):
        traced.append(observation)
        return jnp.int32(0)

    def one_step():
        env = make("prisoners_dilemma")
        view = to_gymnax(env, env.make_params(max_steps=9), agent=0, partners=cooperator)
        view.step(jax.random.key(SEED), view.reset(jax.random.key(SEED))[1], 0)
        return view

    view, times = one_step(), len(traced)
    assert one_step() is view
    assert len(traced) == times
    env = make("prisoners_dilemma")
    assert to_gymnax(env, agent=0, partners="tit_for_tat") is to_gymnax(env, agent=0, partners=["tit_for_tat"])
    assert to_gymnax(env, agent=0) is to_gymnax(env, agent=0, partners="random")


def test_different_arguments_give_different_objects():
    env = make("prisoners_dilemma")
    views = [
        to_gymnax(env),
        to_gymnax(env, five_tuple=True),
        to_gymnax(env, env.make_params(max_steps=9)),
        to_gymnax(make("stag_hunt")),
        to_gymnax(env, agent=0),
        to_gymnax(env, agent=1),
        to_gymnax(env, agent=0, partners="tit_for_tat"),
        to_gymnax(env, agent=0, partners=Counting(2, 2)),
    ]
    assert len(set(map(id, views))) == len(views)
    assert views[2].default_params.max_steps == 9


# ---------------------------------------------------------------------- what is refused
class Alone:
    """A policy for one agent in a game of more."""

    def memory(self, num_envs):
        return ()

    def act(self, memory, observation, key, mask):
        return jnp.zeros((1, 1), jnp.int32), memory


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"agent": 2}, "prisoners_dilemma: agent must be a seat from 0 to 1, got 2"),
        ({"agent": "first"}, "agent must be a seat from 0 to 1, got 'first'"),
        ({"agent": 0, "partners": "tit_for_tit"}, "scripted player .* 'tit_for_tit'; did you mean 'tit_for_tat'"),
        ({"agent": 0, "partners": ["random", "random"]}, "partners must be one, or a list of 1, one per seat; got 2"),
        ({"agent": 0, "partners": []}, "got 0"),
        ({"agent": 0, "partners": 3}, "a partner is a scripted player .*tit_for_tat.*, got 3"),
        ({"agent": 0, "partners": lambda observation: 0}, "the partner <lambda> cannot play: TypeError"),
        ({"agent": 0, "partners": Alone()}, r"actions must be \(1, 2\), those of the partner Alone .* \(1, 1\)"),
        ({"partners": "tit_for_tat"}, "give its seat, such as agent=0"),
    ],
)
def test_what_cannot_be_played_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        to_gymnax(make("prisoners_dilemma"), **arguments)


def test_what_is_no_game_and_traced_numbers_are_refused():
    with pytest.raises(InputError, match=r"takes a game, such as make\(.*, got 'stag_hunt'"):
        to_gymnax("stag_hunt")  # pyright: ignore[reportArgumentType]
    env = make("prisoners_dilemma")
    with pytest.raises(InputError, match=r"params must be those of the game, .*'max_steps'"):
        to_gymnax(env, {"max_steps": 5})
    with pytest.raises(InputError, match="max_steps must be at least 1, got 0"):
        to_gymnax(env, env.default_params.replace(max_steps=0))
    with pytest.raises(InputError, match="give traced ones to reset and step"):
        jax.eval_shape(lambda payoffs: to_gymnax(env, env.make_params(payoffs=payoffs)), jnp.zeros((2, 2, 2)))


def test_without_gymnax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax.environments", None)
    monkeypatch.delitem(sys.modules, "marl_suite.envs.adapters.to_gymnax")
    with pytest.raises(InputError, match="pip install"):
        importlib.import_module("marl_suite.envs.adapters.to_gymnax")


# ---------------------------------------------------------------------- what gymnax asks for
def games_of_each_kind():
    """One registered id per class of game."""
    return list({type(make(game)): game for game in registered()}.values())


def shapes_of(space):
    if isinstance(space, gymnax_spaces.Dict):
        return {name: shapes_of(part) for name, part in space.spaces.items()}
    return jax.ShapeDtypeStruct(space.shape, space.dtype)


def assert_keeps_gymnaxs_contract(game, agent):
    view = to_gymnax(make(game), agent=agent)
    assert isinstance(view, gymnax_environment.Environment)
    assert (view.name, view.num_actions > 0) == (game, True)
    params = view.default_params
    action_space = view.action_space(params)

    def play(key):
        observation, state = view.reset(key, params)
        action = action_space.sample(key)
        return observation, state, action, view.step(key, state, action, params)

    observation, state, action, outcome = jax.eval_shape(play, jax.random.key(0))
    leaves = partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
    assert leaves(observation) == leaves(shapes_of(view.observation_space(params)))
    assert leaves(action) == leaves(shapes_of(action_space))
    assert leaves((observation, state)) == leaves(outcome[:2])
    assert leaves(outcome[5]["final_observation"]) == leaves(observation)
    assert outcome[2].shape == (() if agent is not None else (make(game).num_agents,))
    assert outcome[3].shape == outcome[4].shape == ()


@pytest.mark.parametrize("agent", [None, 0])
def test_every_kind_of_game_keeps_gymnaxs_contract(agent):
    for game in games_of_each_kind():
        assert_keeps_gymnaxs_contract(game, agent)


@pytest.mark.slow
@pytest.mark.parametrize("agent", [None, 1])
def test_every_game_keeps_gymnaxs_contract(agent):
    for game in registered():
        assert_keeps_gymnaxs_contract(game, agent)


def test_spaces_hold_the_agents_values_and_draw_all_of_them():
    joint, single = to_gymnax(make("rock_paper_scissors")), to_gymnax(make("rock_paper_scissors"), agent=0)
    assert (single.action_space().n, single.num_actions, joint.num_actions) == (3, 3, 3)
    space = joint.action_space()
    assert (space.low, space.high, space.shape, space.dtype) == (0, 2, (2,), np.int32)
    drawn = jax.vmap(space.sample)(jax.random.split(jax.random.key(SEED), 100))
    assert set(np.unique(drawn)) == {0, 1, 2}
    assert space.contains(jnp.array([0, 2])) and not space.contains(jnp.array([0, 3]))
    offers = to_gymnax(make("split_no_press"), agent=0).action_space()
    assert (offers.low, offers.high, offers.shape) == (0, 10, (3,))  # how many of 10 items of 3 kinds
    tiles = to_gymnax(make("coins")).observation_space()
    assert {part.shape[0] for part in tiles.spaces.values()} == {2}


# ---------------------------------------------------------------------- gymnax's tools
def own_returns(rewards, done):
    """The return of the last finished episode and its length at each step, 0 where none has ended just now."""
    total, length, ends = 0.0 * rewards[0], 0, []
    for reward, over in zip(rewards, done, strict=True):
        total, length = total + reward, length + 1
        ends.append((total, length) if over else None)
        total, length = (0.0 * total, 0) if over else (total, length)
    return ends


def test_log_wrapper_counts_the_learners_returns():
    view = LogWrapper(to_gymnax(Tagged(), agent=2, partners=Counting(3, 5)))
    _, (_, _, reward, terminated, truncated, info) = play(view, step_keys(30), some_actions(Tagged(), 30)[:, 2], None)
    ends = own_returns(np.asarray(reward), np.asarray(terminated | truncated))
    assert sum(end is not None for end in ends) > 5
    for t, end in enumerate(ends):
        assert info["returned_episode"][t] == (end is not None)
        if end is not None:
            assert (info["returned_episode_returns"][t], info["returned_episode_lengths"][t]) == end


def test_log_wrapper_counts_all_agents_returns():
    view, actions, keys = LogWrapper(to_gymnax(Tagged())), some_actions(Tagged(), 30), step_keys(30)

    @jax.jit
    def scanned():
        state = view.reset(jax.random.key(SEED))[1]
        state = state.replace(episode_returns=jnp.zeros(3), returned_episode_returns=jnp.zeros(3))

        def step(state, inputs):
            _, state, *outcome = view.step(inputs[0], state, inputs[1])
            return state, outcome

        return jax.lax.scan(step, state, (keys, actions))[1]

    reward, terminated, truncated, info = scanned()
    ends = own_returns(np.asarray(reward), np.asarray(terminated | truncated))
    finished = [t for t, end in enumerate(ends) if end is not None]
    assert len(finished) > 5
    for t in finished:
        np.testing.assert_array_equal(info["returned_episode_returns"][t], ends[t][0])


def test_observations_are_flattened_by_gymnaxs_wrapper():
    view = FlattenObservationWrapper(to_gymnax(make("coin_game"), agent=0))
    observation, state = jax.eval_shape(view.reset, jax.random.key(SEED))
    assert observation.shape == view.observation_space(None).shape == (36,)
    outcome = jax.eval_shape(view.step, jax.random.key(SEED), state, 0)
    assert outcome[0].shape == outcome[5]["final_observation"].shape == (36,)


def test_the_five_tuple_is_that_of_gymnaxs_own_wrapper():
    actions = some_actions(Tagged(), 30)

    def five(view):
        """A consumer as before gymnax 1.0, which also made its keys in another way."""
        state = view.reset(jax.random.PRNGKey(SEED), view.default_params)[1]

        def step(state, inputs):
            observation, state, reward, done, info = view.step(inputs[0], state, inputs[1], view.default_params)
            return state, (observation, reward, done, info)

        return jax.lax.scan(step, state, (jax.random.split(jax.random.PRNGKey(SEED + 1), 30), actions))[1]

    ours = jax.jit(lambda: five(to_gymnax(Tagged(), five_tuple=True)))()
    assert_equal(ours, jax.jit(lambda: five(LegacyStepAPIWrapper(to_gymnax(Tagged()))))())
    terminated, truncated = ours[3]["terminated"], ours[3]["truncated"]
    assert terminated.any() and truncated.any()
    np.testing.assert_array_equal(ours[2], terminated | truncated)


def test_gymnaxs_gym_and_dm_env_wrappers_drive_a_learner():
    env = make("prisoners_dilemma")
    view = to_gymnax(env, env.make_params(max_steps=2), agent=0, partners="tit_for_tat")
    gym = GymnaxToGymWrapper(view)
    observation, _ = gym.reset(seed=SEED)
    assert gym.observation_space.contains(np.asarray(observation)) and str(gym.action_space) == "Discrete(2)"
    steps = [gym.step(np.int64(1)) for _ in range(4)]
    assert [(float(reward), bool(over)) for _, reward, _, over, _ in steps] == [(0, False), (-2, True)] * 2
    dm_env = GymnaxToDmEnvWrapper(view)
    timestep = dm_env.reset(jax.random.key(SEED))
    rewards = []
    for key in jax.random.split(jax.random.key(SEED + 1), 2):
        timestep = dm_env.step(key, timestep, 1)
        rewards.append(float(timestep.reward))
    assert (rewards, float(timestep.discount)) == ([0, -2], 1.0)  # the clock truncates


# ---------------------------------------------------------------------- a learner that knows gymnax only
class ActorCritic(nn.Module):
    """Logits of the actions, and the value."""

    num_actions: int

    @nn.compact
    def __call__(self, observation):
        actor, critic = (nn.tanh(nn.Dense(16)(observation)) for _ in range(2))
        logits = nn.Dense(self.num_actions, kernel_init=nn.initializers.zeros)(actor)  # a coin flip at first
        return logits, nn.Dense(1)(critic)[..., 0]


def ppo(env, learning_rate, num_updates=20, num_envs=16, num_steps=50, epochs=4, gamma=0.95, trace=0.9):
    """Proximal policy optimisation in the manner of PureJaxRL: each update's mean return of finished episodes."""
    env = LogWrapper(FlattenObservationWrapper(env))
    params = env.default_params
    network = ActorCritic(env.num_actions)
    optimiser = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate))

    def forward(weights, observation) -> Any:
        return network.apply(weights, observation)

    def log_prob(logits, action):
        return jnp.take_along_axis(nn.log_softmax(logits), action[..., None], -1)[..., 0]

    def collect(carry, key):
        weights, observation, state = carry
        act_key, step_key = jax.random.split(key)
        logits, value = forward(weights, observation)
        action = jax.random.categorical(act_key, logits)
        step_keys = jax.random.split(step_key, num_envs)
        outcome = jax.vmap(env.step, (0, 0, 0, None))(step_keys, state, action, params)
        next_observation, state, reward, terminated, truncated, info = outcome
        final_value = forward(weights, info["final_observation"])[1]
        reward = reward + gamma * jnp.where(truncated, final_value, 0.0)  # the clock is no part of the game
        step = (observation, action, reward, terminated | truncated, value, log_prob(logits, action), info)
        return (weights, next_observation, state), step

    def advantages(last_value, steps):
        def back(carry, step):
            advantage, next_value = carry
            reward, done, value = step
            error = reward + gamma * next_value * ~done - value
            advantage = error + gamma * trace * ~done * advantage
            return (advantage, value), advantage

        _, _, reward, done, value, _, _ = steps
        return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), (reward, done, value), reverse=True)[1]

    def loss(weights, steps, advantage):
        observation, action, _, _, old_value, old_log_prob, _ = steps
        logits, value = forward(weights, observation)
        ratio = jnp.exp(log_prob(logits, action) - old_log_prob)
        scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        actor = -jnp.minimum(ratio * scaled, ratio.clip(0.8, 1.2) * scaled).mean()
        critic = jnp.square(value - (old_value + advantage)).mean()
        entropy = -(nn.softmax(logits) * nn.log_softmax(logits)).sum(-1).mean()
        return actor + 0.5 * critic - 0.01 * entropy

    def update(carry, key):
        weights, memory, observation, state = carry
        keys = jax.random.split(key, num_steps)
        (_, observation, state), steps = jax.lax.scan(collect, (weights, observation, state), keys)
        advantage = advantages(forward(weights, observation)[1], steps)

        def epoch(carry, _):
            weights, memory = carry
            gradient = jax.grad(loss)(weights, steps, advantage)
            change, memory = optimiser.update(gradient, memory)
            return (optax.apply_updates(weights, change), memory), None

        (weights, memory), _ = jax.lax.scan(epoch, (weights, memory), None, epochs)
        ended, returns = steps[-1]["returned_episode"], steps[-1]["returned_episode_returns"]
        return (weights, memory, observation, state), (returns * ended).sum() / ended.sum()

    network_key, reset_key, update_key = jax.random.split(jax.random.key(SEED), 3)
    observation, state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, num_envs), params)
    weights = network.init(network_key, observation)
    carry = (weights, optimiser.init(weights), observation, state)
    return jax.lax.scan(update, carry, jax.random.split(update_key, num_updates))[1]


def test_ppo_that_knows_gymnax_only_learns_to_cooperate_with_tit_for_tat():
    """Payoffs (own action first) CC -1, CD -3, DC 0, DD -2, 50 steps, and the partner repeats what one just did.

    Cooperation throughout returns -50, defection 0 - 49 x 2 = -98. A coin flip expects (-1 + 0) / 2 at the first
    step and (-1 - 3 + 0 - 2) / 4 at each other: -74.
    """
    view = to_gymnax(make("prisoners_dilemma"), agent=0, partners="tit_for_tat")
    trained, untrained = jax.jit(jax.vmap(partial(ppo, view)))(jnp.array([0.02, 0.0]))
    assert trained[-5:].mean() > -53
    assert abs(untrained.mean() + 74) < 1
