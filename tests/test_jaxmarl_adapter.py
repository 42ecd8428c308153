"""JaxMARL both ways: our games inside its wrappers and a loop in its style, its environments under our IPPO."""

import functools
import subprocess
import sys
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("jaxmarl")
import jaxmarl
from jaxmarl.environments import spaces
from jaxmarl.wrappers.baselines import CTRolloutManager, LogWrapper
from probes import assert_trees_equal

from marl_suite import make, registered
from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import InputError
from marl_suite.envs.adapters import jaxmarl as adapter
from marl_suite.envs.adapters import jaxmarl_games
from marl_suite.envs.adapters.jaxmarl import from_jaxmarl, to_jaxmarl
from marl_suite.envs.spaces import Box, Dict, Discrete, MultiDiscrete
from marl_suite.envs.testing import check_environment
from marl_suite.training import Fit

NUM_STEPS = 30
GAMES = {  # id: static settings
    "prisoners_dilemma": {},
    "public_goods": {"num_agents": 5},
    "coin_game": {},
    "level_based_foraging": {},
    "trust_and_split": {},
}


def random_actions(space, num_agents, seed=7):
    keys = jax.random.split(jax.random.key(seed), (NUM_STEPS, num_agents))
    return jax.vmap(jax.vmap(space.sample))(keys)


def step_keys(num_steps=NUM_STEPS):
    return jax.random.split(jax.random.key(3), num_steps)


def by_agent(names, values):
    return {name: values[i] for i, name in enumerate(names)}


# ---------------------------------------------------------------------- our games, seen by JaxMARL
def play_both(env, params):
    """What our `step` and the adapter's give for the same keys and actions, each with a leading axis [T]."""
    theirs = to_jaxmarl(env, params, final_observation=True)
    actions = random_actions(env.action_space(params), env.num_agents)

    def step(state, inputs):
        outcome = env.step(inputs[0], state, inputs[1], params)
        return outcome[1], outcome

    def their_step(state, inputs):
        outcome = theirs.step(inputs[0], state, by_agent(theirs.agents, inputs[1]))
        return outcome[1], outcome

    observation, state = env.reset(jax.random.key(0), params)
    their_observation, their_state = theirs.reset(jax.random.key(0))
    assert_trees_equal(their_state, state)
    assert_trees_equal(jnp.stack([their_observation[agent] for agent in theirs.agents]), observation)
    scan = functools.partial(jax.lax.scan, xs=(step_keys(), actions))
    return jax.jit(lambda s: scan(step, s)[1])(state), jax.jit(lambda s: scan(their_step, s)[1])(their_state)


@pytest.mark.parametrize("name", GAMES)
def test_our_games_play_the_same_bit_for_bit_behind_jaxmarl_also_over_resets(name):
    env = make(name, **GAMES[name])
    ours, theirs = play_both(env, env.make_params(max_steps=12))
    observation, state, reward, terminated, truncated, info = ours
    assert (terminated | truncated).sum() >= 2
    agents = [f"agent_{i}" for i in range(env.num_agents)]
    assert_trees_equal(theirs[1], state)
    for i, agent in enumerate(agents):
        np.testing.assert_array_equal(theirs[0][agent], observation[:, i])
        np.testing.assert_array_equal(theirs[2][agent], reward[:, i])
        np.testing.assert_array_equal(theirs[3][agent], terminated | truncated)
        np.testing.assert_array_equal(theirs[4]["final_observation"][agent], info["final_observation"][:, i])
    np.testing.assert_array_equal(theirs[3]["__all__"], terminated | truncated)
    assert {*theirs[3]} == {*agents, "__all__"}
    np.testing.assert_array_equal(theirs[4]["payoff"], info["payoff"])
    for i in range(env.num_agents):  # one number per agent, as their training loops expect of all of `info`
        np.testing.assert_array_equal(theirs[4]["terminated"][:, i], terminated)
        np.testing.assert_array_equal(theirs[4]["truncated"][:, i], truncated)


def test_every_game_of_the_suite_has_the_spaces_and_shapes_that_its_adapter_states():
    for name in registered():
        env = to_jaxmarl(make(name))

        def start_and_step(key, env=env):
            observation, state = env.reset(key)
            shape = make(env.name).action_space().shape
            actions = {agent: jnp.zeros(shape, jnp.int32) for agent in env.agents}
            return observation, env.step(key, state, actions)

        observation, outcome = jax.eval_shape(start_and_step, jax.random.key(0))
        for agent in env.agents:
            space = env.observation_space(agent)
            assert isinstance(space, spaces.Box), name
            for view in (observation[agent], outcome[0][agent]):
                assert (view.shape, view.dtype) == (space.shape, space.dtype), name
        assert {leaf.shape for leaf in jax.tree.leaves(outcome[2:4])} == {()}, name
        assert {leaf.shape for leaf in jax.tree.leaves(outcome[4])} == {(env.num_agents,)}, name


def test_dictionaries_become_vectors_in_which_categories_are_one_hot():
    space = Dict({"view": Box(0, [2, 1], (1, 2, 2), np.uint8), "ready": Box(0, 1, (1,)), "last": Discrete(3)})
    observation = {
        "view": jnp.array([[[[2, 0], [0, 1]]]], jnp.uint8),
        "ready": jnp.array([[0.5]]),
        "last": jnp.array([1]),
    }
    # each cell has two places for the kinds 1 and 2 of its first plane and one for the kind 1 of its second
    expected = [0, 1, 0, 0, 0, 1, 0.5, 0, 1, 0]
    np.testing.assert_array_equal(adapter._vector(space, observation), [expected])
    assert adapter._vector_space(space).shape == (10,)


def test_spaces_are_jaxmarls():
    names = "public_goods", "negotiation", "harvest_dynamics"
    discrete, several, continuous = (to_jaxmarl(make(name)).action_space("agent_1") for name in names)
    own = [make(name).action_space() for name in names]
    assert isinstance(discrete, spaces.Discrete) and discrete.n == 2
    assert isinstance(own[1], MultiDiscrete) and isinstance(several, spaces.MultiDiscrete)
    assert several.num_categories.tolist() == [*own[1].nvec]
    assert isinstance(continuous, spaces.Box) and continuous.shape == own[2].shape


def test_equal_games_are_equal_so_that_they_share_compilations():
    env = make("public_goods")
    assert to_jaxmarl(env) == to_jaxmarl(make("public_goods"), env.default_params)
    assert hash(to_jaxmarl(env)) == hash(to_jaxmarl(make("public_goods")))
    assert to_jaxmarl(env) != to_jaxmarl(env, env.make_params(endowment=2.0))
    assert to_jaxmarl(env) != to_jaxmarl(make("public_goods", num_agents=4))
    with pytest.raises(InputError, match="max_steps"):
        to_jaxmarl(env, env.default_params.replace(max_steps=0))


def test_the_log_wrapper_sums_returns_and_starts_anew_after_the_clock():
    """Five steps of always defecting against always cooperating pay 0 and -3 each."""
    env = make("prisoners_dilemma")
    wrapped = LogWrapper(to_jaxmarl(env, env.make_params(max_steps=5)))
    _, state = wrapped.reset(jax.random.key(0))
    actions = {"agent_0": jnp.array([1]), "agent_1": jnp.array([0])}  # with an axis too many, as their loops have it
    for t, key in enumerate(step_keys(7)):
        _, state, reward, done, info = wrapped.step(key, state, actions)
        assert (float(reward["agent_0"]), float(reward["agent_1"])) == (0.0, -3.0)
        assert bool(done["__all__"]) == (t == 4)
        assert info["truncated"].tolist() == [t == 4] * 2 and not info["terminated"].any()
        if t >= 4:
            assert info["returned_episode_returns"].tolist() == [0.0, -15.0]
            assert info["returned_episode_lengths"].tolist() == [5, 5]
    assert state.episode_lengths.tolist() == [2, 2]


def test_the_rollout_manager_pads_names_agents_and_takes_masks():
    env = to_jaxmarl(make("trust_and_split"))
    inner: Any = LogWrapper(env)
    manager = CTRolloutManager(inner, batch_size=3)
    manager.get_valid_actions = jax.vmap(env.get_avail_actions)
    observation, state = manager.batch_reset(jax.random.key(0))
    width = make("trust_and_split").observation_space().shape[0]
    plain = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3))[0]
    for i, agent in enumerate(env.agents):
        np.testing.assert_array_equal(observation[agent][:, :width], plain[agent])
        np.testing.assert_array_equal(observation[agent][:, width:], np.tile(np.eye(2)[i], (3, 1)))
    both = np.concatenate([plain[agent] for agent in env.agents], -1)
    np.testing.assert_array_equal(observation["__all__"], both)
    valid = manager.get_valid_actions(state.env_state)
    masks = jax.vmap(make("trust_and_split").action_mask)(state.env_state)
    assert not masks.all()
    actions = {agent: valid[agent].argmax(-1) for agent in env.agents}
    for i, agent in enumerate(env.agents):
        np.testing.assert_array_equal(valid[agent], masks[:, i])
    observation, state, reward, _, _ = manager.batch_step(jax.random.key(1), state, actions)
    assert observation["agent_0"].shape == (3, width + 2)
    np.testing.assert_array_equal(reward["__all__"], reward["agent_0"] + reward["agent_1"])


def test_an_episode_can_be_made_to_begin_in_a_given_state():
    env = make("prisoners_dilemma")
    game = to_jaxmarl(env, env.make_params(max_steps=1))
    start = game.reset(jax.random.key(0))[1].replace(time=jnp.array(-7))
    actions = {agent: jnp.array(0) for agent in game.agents}
    _, state, _, done, _ = game.step(jax.random.key(1), game.reset(jax.random.key(0))[1], actions, start)
    assert bool(done["__all__"]) and int(state.time) == -7


# ---------------------------------------------------------------------- a training loop in JaxMARL's style
class ActorCritic(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(32)(x))
        logits = nn.Dense(self.num_actions, kernel_init=nn.initializers.orthogonal(0.01))(hidden)
        return logits, nn.Dense(1)(nn.tanh(nn.Dense(32)(x)))[..., 0]


class Transition(NamedTuple):
    done: jax.Array
    action: jax.Array
    value: jax.Array
    reward: jax.Array
    log_prob: jax.Array
    obs: jax.Array
    info: Any


def batchify(x, agents):
    """[N * E, ...] from a dictionary of [E, ...]."""
    return jnp.stack([x[agent] for agent in agents]).reshape(len(agents) * len(x[agents[0]]), -1)


def unbatchify(x, agents):
    """A dictionary of [E, 1] from [N * E]."""
    return dict(zip(agents, x.reshape(len(agents), -1, 1), strict=True))


def log_prob_of(logits, action):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], -1)[:, 0]


def ippo(env, lr, key, num_envs=16, num_steps=16, num_updates=30, epochs=4, gamma=0.9, gae_lambda=0.95, clip=0.2):
    """Independent PPO with shared parameters on any JaxMARL environment; the logged metrics of every update."""
    env = LogWrapper(env)
    num_actors = env.num_agents * num_envs
    network: Any = ActorCritic(env.action_space(env.agents[0]).n)
    optimiser = optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(eps=1e-5))
    key, network_key, reset_key = jax.random.split(key, 3)
    params = network.init(network_key, jnp.zeros(env.observation_space(env.agents[0]).shape).ravel())
    obs, env_state = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))

    def env_step(carry, _):
        params, env_state, obs, key = carry
        key, action_key, step_key = jax.random.split(key, 3)
        obs_batch = batchify(obs, env.agents)
        logits, value = network.apply(params, obs_batch)
        action = jax.random.categorical(action_key, logits)
        obs, env_state, reward, done, info = jax.vmap(env.step)(
            jax.random.split(step_key, num_envs), env_state, unbatchify(action, env.agents)
        )
        info = jax.tree.map(lambda x: x.reshape(num_actors), info)
        done, reward = (batchify(x, env.agents).squeeze(-1) for x in (done, reward))
        row = Transition(done, action, value, reward, log_prob_of(logits, action), obs_batch, info)
        return (params, env_state, obs, key), row

    def loss(params, batch, advantage, target):
        logits, value = network.apply(params, batch.obs)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        ratio = jnp.exp(log_prob_of(logits, batch.action) - batch.log_prob)
        actor = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage).mean()
        entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
        return actor + 0.5 * jnp.square(value - target).mean() - 0.01 * entropy

    def update(carry, _):
        params, moments, env_state, obs, key = carry
        (_, env_state, obs, key), rows = jax.lax.scan(env_step, (params, env_state, obs, key), None, num_steps)
        last_value = network.apply(params, batchify(obs, env.agents))[1]

        def backward(carry, row):
            gae, next_value = carry
            delta = row.reward + gamma * next_value * (1 - row.done) - row.value
            gae = delta + gamma * gae_lambda * (1 - row.done) * gae
            return (gae, row.value), gae

        advantage = jax.lax.scan(backward, (jnp.zeros(num_actors), last_value), rows, reverse=True)[1]
        batch = jax.tree.map(
            lambda x: x.reshape(num_steps * num_actors, *x.shape[2:]), (rows, advantage, advantage + rows.value)
        )

        def epoch(carry, _):
            params, moments = carry
            gradient, moments = optimiser.update(jax.grad(loss)(params, *batch), moments)
            return (jax.tree.map(lambda p, g: p - lr * g, params, gradient), moments), None

        (params, moments), _ = jax.lax.scan(epoch, (params, moments), None, epochs)
        return (params, moments, env_state, obs, key), {**rows.info, "reward": rows.reward}

    carry = (params, optimiser.init(params), env_state, obs, key)
    return jax.lax.scan(update, carry, None, num_updates)[1]


def test_ippo_in_jaxmarls_style_learns_to_coordinate_and_does_not_without_a_learning_rate():
    """Three actions, a point each for the same one: chance gives 1/3, and a mixture whose favourite has probability p
    at most p^2 + (1 - p)^2, so 0.9 takes a favourite played with probability 0.947."""
    env = make("pure_coordination")
    env = to_jaxmarl(env, env.make_params(max_steps=10))
    train = jax.jit(jax.vmap(lambda lr: ippo(env, lr, jax.random.key(0))))
    logs = train(jnp.array([1e-2, 0.0]))
    learned, frozen = logs["reward"].mean((2, 3))
    assert learned[-5:].mean() > 0.9
    assert abs(frozen.mean() - 1 / 3) < 0.05  # of 7680 pairs of actions, from a start near uniform
    returns = logs["returned_episode_returns"][:, -1].mean((1, 2))
    assert returns[0] > 9.0 and returns[1] < 5.0  # of episodes of ten steps


# ---------------------------------------------------------------------- JaxMARL's environments, seen by us
@pytest.mark.parametrize(
    ("env_id", "settings", "length"),
    [
        ("MPE_simple_spread_v3", {"max_steps": 10}, 11),  # MPE reads its clock before it advances it
        ("coin_game", {"num_inner_steps": 4, "num_outer_steps": 3}, 12),
    ],
)
def test_jaxmarls_environments_play_the_same_bit_for_bit_here_and_are_cut_by_their_clock(env_id, settings, length):
    env, game = from_jaxmarl(env_id, **settings), jaxmarl.make(env_id, **settings)
    step, game_step = jax.jit(env.step), jax.jit(game.step_env)
    observation, state = env.reset(jax.random.key(0))
    their_observation, their_state = game.reset(jax.random.key(0))
    cuts = []
    for key, action in zip(step_keys(), random_actions(Discrete(5), env.num_agents), strict=True):
        for i, agent in enumerate(game.agents):
            np.testing.assert_array_equal(observation[i], their_observation[agent])
        assert_trees_equal(state.inner, their_state)
        observation, state, reward, terminated, truncated, info = step(key, state, action)
        step_key, reset_key = jax.random.split(key)  # as every step of ours does
        outcome = game_step(step_key, their_state, by_agent(game.agents, action))
        their_observation, their_state, rewards, dones, _ = outcome
        np.testing.assert_array_equal(reward, [rewards[agent] for agent in game.agents])
        for i, agent in enumerate(game.agents):
            np.testing.assert_array_equal(info["final_observation"][i], their_observation[agent])
        assert (bool(truncated), bool(terminated)) == (bool(dones["__all__"]), False)
        cuts.append(bool(truncated))
        if dones["__all__"]:
            their_observation, their_state = game.reset(reset_key)
    assert np.flatnonzero(cuts).tolist() == [length - 1, 2 * length - 1]


def test_what_done_means_can_be_said():
    env = from_jaxmarl("coin_game", num_inner_steps=1, num_outer_steps=1, done_is="terminated")
    state = env.reset(jax.random.key(0))[1]
    _, _, _, terminated, truncated, _ = jax.jit(env.step)(jax.random.key(1), state, jnp.zeros(2, jnp.int32))
    assert bool(terminated) and not bool(truncated)
    with pytest.raises(InputError, match="done_is must be one of auto, terminated, truncated, got 'clock'"):
        make("jaxmarl:coin_game", done_is="clock")


@pytest.mark.parametrize(("alive", "cut"), [([1, 0, 0, 1], True), ([0, 0, 1, 1], False), ([1, 1, 0, 0], False)])
def test_the_clock_ends_battles_in_which_both_teams_live(alive, cut):
    game = types.SimpleNamespace(num_allies=2)
    battle = types.SimpleNamespace(unit_alive=jnp.array(alive, bool))
    assert bool(jaxmarl_games.both_teams_live(game, battle)) == cut
    assert bool(jaxmarl_games.both_teams_live(game, types.SimpleNamespace(state=battle))) == cut


@pytest.mark.parametrize(("arrived", "crashed", "cut"), [([1, 0], [0, 0], True), ([1, 0], [0, 1], False)])
def test_the_clock_ends_drives_in_which_somebody_is_still_on_the_way(arrived, crashed, cut):
    none = jnp.zeros(2, bool)
    state = types.SimpleNamespace(goal_reached=jnp.array(arrived, bool), move_term=jnp.array(crashed, bool), term=none)
    assert bool(jaxmarl_games.somebody_drives(None, state)) == cut


def test_agents_that_see_and_do_less_than_others_are_padded_and_masked():
    """The speaker sees 3 numbers and has 3 words, the listener sees 11 and has 5 moves."""
    env = from_jaxmarl("MPE_simple_speaker_listener_v4")
    observation, state = env.reset(jax.random.key(0))
    speaker, listener = env.game.env.reset(jax.random.key(0))[0].values()
    speaker, listener = sorted((speaker, listener), key=len)
    assert env.masks_actions and env.action_space() == Discrete(5) and env.observation_space().shape == (11,)
    np.testing.assert_array_equal(observation, [[*speaker, *np.zeros(8)], listener])
    assert env.action_mask(state).tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    parts = jaxmarl_games.own_parts(env.game, jnp.array([4, 4]))
    assert {name: int(part) for name, part in parts.items()} == {"speaker_0": 2, "listener_0": 4}


def test_components_that_an_agent_lacks_are_left_out():
    agents = types.SimpleNamespace(agents=["lead", "other"])
    parts = jaxmarl_games.own_parts(
        jaxmarl_games.Game(agents, Box(0, 1, (1,)), Box(0, 1, (3,)), (3, 2), None), jnp.ones((2, 3))
    )
    assert {name: part.shape for name, part in parts.items()} == {"lead": (3,), "other": (2,)}


@pytest.mark.slow
def test_masks_are_jaxmarls_own():
    env = from_jaxmarl("hanabi")
    state = env.reset(jax.random.key(0))[1]
    legal = env.game.env.get_legal_moves(state.inner)
    mask = env.action_mask(state)
    assert env.masks_actions and mask.any(1).all() and not mask.all()
    np.testing.assert_array_equal(mask, np.stack([legal["agent_0"], legal["agent_1"]]).astype(bool))


@pytest.mark.parametrize(
    ("env_id", "settings"),
    [
        ("MPE_simple_spread_v3", {"num_agents": 2, "local_ratio": 0.25}),
        ("coin_game", {"payoff_matrix": [[1, 1, -3], [1, 1, -3]], "done_is": "terminated"}),
        ("storm_2p", {"payoff_matrix": [[[4, 0], [5, 1]], [[4, 5], [0, 1]]]}),
        pytest.param("HeuristicEnemySMAX", {"scenario": "3m"}, marks=pytest.mark.slow),
    ],
)
def test_an_environment_is_made_again_from_its_name_and_static_values(env_id, settings):
    env = make(f"jaxmarl:{env_id}", **settings)
    assert isinstance(env, adapter.JaxMARL)
    values = {name: value for name, value in env.static_values().items() if name != "name"}
    assert {name: values[name] for name in settings} == {
        name: adapter._freeze(value) for name, value in settings.items()
    }
    again = make(env.name, **values)
    assert again == env and hash(again) == hash(env)
    assert isinstance(again, adapter.JaxMARL) and again.game is env.game
    assert env != make(f"jaxmarl:{env_id}")


def test_settings_reach_jaxmarls_constructor():
    assert make("jaxmarl:MPE_simple_spread_v3", num_agents=5).num_agents == 5
    assert make("jaxmarl:coin_game", cnn=True).observation_space().shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("env_id", "settings", "message"),
    [
        ("MPE_simple_spred_v3", {}, "unknown jaxmarl environment .*; did you mean 'MPE_simple_spread_v3'"),
        ("MPE_simple_spread_v3", {"num_agent": 2}, "unknown setting .*'num_agent'; did you mean 'num_agents'"),
        ("coin_game", {"num_agents": 2}, "jaxmarl:coin_game: .*unexpected keyword argument 'num_agents'"),
        ("HeuristicEnemySMAX", {"scenario": "4m"}, "unknown scenario of jaxmarl:HeuristicEnemySMAX '4m'"),
        ("MPE_simple_spread_v3", {"landmarks": {"a": 1}}, "settings must be numbers, words or lists"),
        ("JaxRobotarium_rware", {}, "requires the jaxrobotarium package"),
        ("storm", {}, "jaxmarl:storm: its observations cannot be told apart by agent"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(env_id, settings, message):
    with pytest.raises(InputError, match=message) as error:
        make(f"jaxmarl:{env_id}", **settings)
    assert "\n" not in str(error.value)


def test_without_jaxmarl_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    for module in ("jaxmarl", "jaxmarl_games"):
        monkeypatch.delitem(sys.modules, f"marl_suite.envs.adapters.{module}")
    monkeypatch.delattr("marl_suite.envs.adapters.jaxmarl_games")
    with pytest.raises(InputError, match=r'pip install "marl-suite\[jaxmarl\]"'):
        make("jaxmarl:coin_game")


def test_the_suite_does_not_import_jaxmarl_by_itself_and_its_import_leaves_what_is_printed_alone():
    code = "import contextlib, io, sys, marl_suite.envs; assert 'jaxmarl' not in sys.modules\n"
    code += "with contextlib.redirect_stdout(io.StringIO()) as said:\n"
    code += "    import marl_suite.envs.adapters.jaxmarl\n    print('here')\n"
    code += "assert said.getvalue() == 'here\\n' and 'jaxmarl' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b""


# ---------------------------------------------------------------------- trained here
def reward_of_standing_still(num_samples=200_000):
    """What simple spread pays an agent and step that stays where it is: half of minus the collisions it is in (circles
    of radius 0.15), half of minus each landmark's distance to the nearest agent; all uniform on [-1, 1]^2."""
    agents, landmarks = np.random.default_rng(0).uniform(-1, 1, (2, num_samples, 3, 2))
    nearest = np.linalg.norm(landmarks[:, :, None] - agents[:, None], axis=-1).min(2).sum(1)
    apart = np.linalg.norm(agents[:, :, None] - agents[:, None], axis=-1)
    collisions = ((apart < 0.3).sum((1, 2)) - 3) / 3
    return -0.5 * nearest.mean() - 0.5 * collisions.mean()


def train_spread(learning_rates, steps):
    """Payoff per step and agent in the last of five chunks, for each learning rate, all in one program."""
    config = IPPO(reward_view="team", share_parameters=True, num_envs=32, rollout_length=26, gamma=0.95)
    axes = jax.tree.map(lambda _: None, config).replace(lr=0)
    config = config.replace(lr=np.asarray(learning_rates))
    env, seeds = make("jaxmarl:MPE_simple_spread_v3"), [0] * len(learning_rates)
    *_, chunk = Fit(env, config, seeds, steps, chunks=5, axes=(axes, None))
    return chunk.logs["payoff"].mean(1)


@pytest.mark.slow
def test_in_ci_our_ippo_covers_landmarks_of_simple_spread_better_than_standing_still_and_random_moves_do_not():
    """Standing still pays -1.026. Random moves drift away from where agents start and pay less."""
    still = reward_of_standing_still()
    learned, frozen = train_spread([3e-3, 0.0], 8e4)
    assert learned > still + 0.1
    assert frozen < still + 0.02


@pytest.mark.slow
def test_our_ippo_goes_on_learning_simple_spread():
    """The nearest agent is at least a third closer to each landmark than where agents start."""
    assert train_spread([3e-3], 1e6)[0] > reward_of_standing_still() * 2 / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "env_id", ["MPE_simple_spread_v3", "coin_game", "MPE_simple_speaker_listener_v4", "switch_riddle", "hanabi"]
)
def test_jaxmarl_environments_keep_the_contract(env_id):
    check_environment(from_jaxmarl(env_id), num_steps=120)


@pytest.mark.slow
def test_a_world_with_a_map_plays_the_same_bit_for_bit_behind_jaxmarl():
    env = make("coins")
    params = env.make_params(max_steps=12)
    theirs = to_jaxmarl(env, params)
    actions = random_actions(env.action_space(params), env.num_agents)
    step, their_step = jax.jit(env.step), theirs.step
    (observation, state), (views, their_state) = env.reset(jax.random.key(0), params), theirs.reset(jax.random.key(0))
    for key, action in zip(step_keys(), actions, strict=True):
        assert_trees_equal(their_state, state)
        for i, agent in enumerate(theirs.agents):
            view = np.concatenate(
                [(np.asarray(observation["view"])[i, ..., c, None] == np.arange(1, 6)) for c in range(2)], -1
            )
            flat = [view.ravel(), observation["colour"][i], observation["partner_mismatched"][i]]
            np.testing.assert_array_equal(views[agent], np.concatenate(flat))
        observation, state, reward, terminated, truncated, _ = step(key, state, action, params)
        views, their_state, rewards, dones, _ = their_step(key, their_state, by_agent(theirs.agents, action))
        np.testing.assert_array_equal([rewards[agent] for agent in theirs.agents], reward)
        assert bool(dones["__all__"]) == bool(terminated | truncated)
