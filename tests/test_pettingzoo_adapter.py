"""Games as PettingZoo environments: its own tests of every game, and play that is the game's, bit for bit."""

import dataclasses
import importlib
import sys
import warnings
from typing import Any

import jax
import numpy as np
import pytest

from marl_suite import make, registered
from marl_suite.envs import InputError
from marl_suite.envs.grid import drawing
from marl_suite.envs.two_step_game import TwoStepGame
from marl_suite.evaluation import evaluate, scripted, with_partner

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("pettingzoo")
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test  # noqa: E402
from pettingzoo.utils import parallel_to_aec  # noqa: E402

from marl_suite.envs.adapters.pettingzoo import to_pettingzoo  # noqa: E402

LENGTH = 4
ON_REQUEST = (  # games whose rules another one plays, with another map or other payoffs, and slow worlds
    *(f"{game}_in_the_matrix_{size}" for game in ("bach_stravinsky", "chicken", "pure_coordination", "stag_hunt")
      for size in ("arena", "repeated")),
    "prisoners_dilemma_in_the_matrix_arena",
    "running_with_scissors_in_the_matrix_repeated",
    *("chicken", "bach_stravinsky", "stag_hunt", "climbing", "penalty", "matrix_game", "pasture", "pollution"),
    *("allelopathic_harvest", "gift_refinements", "externality_mushrooms", "coop_mining"),
    "commons_harvest_closed",
    "commons_harvest_partnership",
    "territory_rooms",
)  # fmt: skip
EXPECTED = (  # what PettingZoo warns of although it is allowed, and meant
    "Observation is not a NumPy array",  # but a dict of them
    "Observation space for each agent probably should be",
    "Action space for each agent probably should be",
    "Observation numpy array is all zeros",
)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Programs that run for a few steps are compiled without much thought."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def short(name: str, **options):
    """The game `name` with episodes of `LENGTH` steps where its parameters say how long they are."""
    env = make(name)
    clocks = {"max_steps", "rounds"} & {field.name for field in dataclasses.fields(env.default_params)}
    return to_pettingzoo(env, env.make_params(**dict.fromkeys(clocks, LENGTH)), **options)


def sample(env, infos) -> dict:
    """An action for each agent, from those that its mask allows."""
    return {agent: env.action_space(agent).sample(infos[agent].get("action_mask")) for agent in env.agents}


# ---------------------------------------------------------------------- PettingZoo's own tests
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ON_REQUEST)) for name in registered()]
)
def test_pettingzoos_own_tests_pass(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for message in EXPECTED:
            warnings.filterwarnings("ignore", message)
        parallel_api_test(short(name), num_cycles=LENGTH + 2)
        parallel_seed_test(lambda: short(name), num_cycles=LENGTH)
        api_test(parallel_to_aec(short(name)), num_cycles=LENGTH + 2)


# ---------------------------------------------------------------------- the same play
def assert_same_observation(by_agent, joint):
    """What each agent sees is its row of what all see, equal to the last bit, in a numpy array of its own."""
    for i, own in enumerate(by_agent.values()):
        for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(joint), strict=True):
            assert isinstance(ours, np.ndarray) and ours.flags.writeable and ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs[i])


def assert_same_step(env, outcome, joint):
    """What `step` of `env` gave is what the game's own step gave, `joint`, equal to the last bit."""
    observations, rewards, terminations, truncations, infos = outcome
    observation, state, reward, terminated, truncated, info = joint
    assert_same_observation(observations, observation)
    assert list(rewards.values()) == reward.tolist() and {type(own) for own in rewards.values()} == {float}
    assert all(end is bool(terminated) for end in terminations.values())
    assert all(end is bool(truncated) for end in truncations.values())
    for i, own in enumerate(infos.values()):
        assert own["payoff"] == float(info["payoff"][i])
        assert own["metrics"] == {name: float(x[i] if x.ndim else x) for name, x in info["metrics"].items()}
    if env.game.masks_actions:
        masks = np.stack([np.hstack(own["action_mask"]) for own in infos.values()])
        np.testing.assert_array_equal(masks, env.game.action_mask(state, env.params))


@pytest.mark.parametrize(
    "name",
    [
        "coin_game",  # chance in every step
        "cournot",  # sees a number
        "harvest_dynamics",  # acts with one
        "two_step",  # ends by its rules
        "public_goods_with_punishment",  # forbids some of several choices at once
        "donor_game",  # forbids some of one choice
        "commons_harvest_open",  # sees a dict
    ],
)
def test_play_is_the_games_own_bit_for_bit(name):
    env = short(name, seed=5)
    game, params, stream = env.game, env.params, jax.random.key(5)
    reset, step = jax.jit(game.reset_env), jax.jit(game.step_env)
    for seed in (None, None, 7):  # the second episode goes on with the stream of keys, the third begins another
        observations, infos = env.reset(seed)
        stream, key = jax.random.split(stream if seed is None else jax.random.key(seed))
        observation, state = reset(key, params)
        assert_same_observation(observations, observation)
        while env.agents:
            actions = sample(env, infos)
            *_, infos = outcome = env.step(actions)
            stream, key = jax.random.split(stream)
            joint = step(key, state, np.stack(list(actions.values())), params)
            assert_same_step(env, outcome, joint)
            state = joint[1]


def test_scripted_players_earn_what_our_own_evaluation_says():
    env = short("prisoners_dilemma")
    names, game = ("tit_for_tat", "always_defect"), env.game
    returns, (observations, _) = np.zeros(2), env.reset()
    while env.agents:
        actions = {
            agent: game.players[name](observations[agent], jax.random.key(0))
            for agent, name in zip(env.agents, names, strict=True)
        }
        observations, rewards, *_ = env.step(actions)
        returns += list(rewards.values())
    (first, _), (second, _) = (scripted(game.players[name], 2) for name in names)
    act = with_partner(first, [second], 2, slot=1)
    episodes = evaluate(game, env.params, act, ((), ()), jax.random.key(0), num_episodes=1)
    assert returns.tolist() == episodes.returns[0].tolist() == [-3 - 2 * (LENGTH - 1), 0 - 2 * (LENGTH - 1)]


@pytest.mark.parametrize(("name", "length", "terminates"), [("two_step", 2, True), ("coin_game", LENGTH, False)])
def test_episodes_end_by_the_rules_or_by_the_clock_and_then_nobody_is_left(name, length, terminates):
    env = short(name)
    _, infos = env.reset()
    for step in range(1, length + 1):
        assert env.agents == ["player_0", "player_1"]
        _, _, terminations, truncations, infos = env.step(sample(env, infos))
        assert set(terminations.values()) == {step == length and terminates}
        assert set(truncations.values()) == {step == length and not terminates}
    assert env.agents == [] and env.step({}) == ({}, {}, {}, {}, {})
    env.reset()
    assert env.num_agents == 2


def test_the_state_is_the_global_one():
    env = short("coin_game")
    env.reset(seed=3)
    _, key = jax.random.split(jax.random.key(3))
    _, state = env.game.reset(key, env.params)
    np.testing.assert_array_equal(env.state(), env.game.global_state(state, env.params))
    assert env.state_space.contains(env.state())


def test_spaces_are_gymnasiums_of_the_same_dtype_and_one_object_per_agent():
    spaces = gymnasium.spaces
    assert short("cournot").observation_space("player_0") == spaces.Discrete(31**2 + 1, dtype=np.int32)
    assert short("split_no_press").action_space("player_1") == spaces.MultiDiscrete([11, 11, 11], dtype=np.int32)
    harvest, commons = short("harvest_dynamics"), short("commons_harvest_open")
    assert harvest.action_space("player_1") == spaces.Box(0, 1, (), np.float32)
    views: Any = commons.observation_space("player_6")
    assert type(views) is spaces.Dict and views["view"].dtype == np.uint8
    assert commons.observation_space("player_6") is views
    assert commons.action_space("player_6") is not commons.action_space("player_5")


def test_equal_games_are_compiled_once():
    traced = []

    @dataclasses.dataclass(frozen=True)
    class Counted(TwoStepGame):
        def transition(self, key, state, actions, params):
            traced.append(self)
            return super().transition(key, state, actions, params)

    for _ in range(2):
        env = to_pettingzoo(Counted())
        _, infos = env.reset()
        env.step(sample(env, infos))
    assert len(traced) == 1


def test_grid_worlds_can_be_seen():
    env = short("commons_harvest_open", render_mode="rgb_array")
    env.reset(seed=2)
    _, key = jax.random.split(jax.random.key(2))
    game: Any = env.game
    scene = jax.jit(lambda key: drawing.scene(game, game.reset_env(key, env.params)[1]))(key)
    np.testing.assert_array_equal(env.render(), drawing.paint(game, scene))
    with pytest.warns(UserWarning, match="without a render mode"):
        assert short("commons_harvest_open").render() is None


# ---------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"player_0": 1}, "player_1 has no action; everybody acts at every step"),
        ({"player_0": 1, "player_1": 0, "player_2": 0}, "unknown agent of two_step_v1 'player_2'; did you mean"),
        ({"player_0": 1, "player_1": 2}, r"player_1's action must lie in Discrete\(2, int32\), got 2"),
        ({"player_0": 0.5, "player_1": 0}, r"player_0's action must lie in Discrete\(2, int32\), got 0.5"),
        ({"player_0": [1], "player_1": 0}, r"player_0's action must lie in Discrete\(2, int32\), got \[1\]"),
    ],
)
def test_joint_actions_that_are_none_are_refused(actions, message):
    env = short("two_step")
    env.reset()
    with pytest.raises(InputError, match=message):
        env.step(actions)


def test_nothing_can_be_done_before_the_first_reset():
    env = short("two_step")
    for refused in (lambda: env.step({"player_0": 0}), env.state):
        with pytest.raises(InputError, match=r"two_step_v1: .*call reset\(\) first"):
            refused()


def test_only_grid_worlds_have_a_render_mode():
    with pytest.raises(InputError, match="unknown render mode of two_step 'rgb_array'; there are none"):
        short("two_step", render_mode="rgb_array")
    with pytest.raises(InputError, match=r"unknown render mode of coins 'human'; .*'rgb_array'"):
        short("coins", render_mode="human")


def test_parameters_outside_the_games_domain_are_refused():
    env = make("bertrand_pricing")
    with pytest.raises(InputError, match="bertrand_pricing"):
        to_pettingzoo(env, env.default_params.replace(max_steps=0))


def test_without_pettingzoo_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.delitem(sys.modules, "marl_suite.envs.adapters.pettingzoo")
    with pytest.raises(InputError, match=r'pip install "marl-suite\[pettingzoo\]"'):
        importlib.import_module("marl_suite.envs.adapters.pettingzoo")
