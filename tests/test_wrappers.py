"""Wrappers and reward views, on a small orchard that two or more agents pick."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from marl_suite.envs import Environment, InputError
from marl_suite.envs.environment import random_player
from marl_suite.envs.spaces import Box, Discrete
from marl_suite.envs.testing import check_environment
from marl_suite.envs.wrappers import RewardView, ViewedState, Wrapper, reward_view


class Params(struct.PyTreeNode):
    price: float = 2.0  # payoff of one apple
    max_steps: int = 6


class State(struct.PyTreeNode):
    apples: jax.Array  # int32 []
    time: jax.Array  # int32 []


@dataclasses.dataclass(frozen=True)
class Orchard(Environment):
    """Every agent that picks gets an apple while there are enough for all; a few grow back at random."""

    num_agents: int = 3
    name = "orchard"
    version = 4
    mixed_motive = True
    exploiter = "greedy"
    masks_actions = True

    @property
    def default_params(self):
        return Params()

    @property
    def players(self):
        return {"random": random_player(self), "greedy": lambda observation, key: jnp.int32(1)}

    def check_params(self, params):
        if params.price < 0:
            raise InputError(f"price must not be negative, got {params.price}")

    def observation_space(self, params=None):
        return Box(0, 1, (1,))

    def action_space(self, params=None):
        return Discrete(2)

    def initial_state(self, key, params):
        return State(apples=jax.random.randint(key, (), 3, 10), time=jnp.int32(0))

    def transition(self, key, state, actions, params):
        enough = state.apples >= actions.sum()
        picked = jnp.where(enough, actions, 0)
        apples = jnp.clip(state.apples - picked.sum() + jax.random.randint(key, (), 0, 3), 0, 10)
        state = State(apples=apples, time=state.time + 1)
        return state, params.price * picked.astype(jnp.float32), apples == 0, {"apples": apples.astype(jnp.float32)}

    def observe(self, state, params):
        return jnp.full((self.num_agents, 1), state.apples / 10, jnp.float32)

    def action_mask(self, state, params=None):
        return jnp.stack([jnp.ones(self.num_agents, bool), jnp.full(self.num_agents, state.apples > 0)], axis=1)

    def global_state(self, state, params=None):
        return jnp.array([state.apples, state.time], jnp.float32)


@dataclasses.dataclass(frozen=True)
class TaxedOrchard(Orchard):
    """An orchard whose raw pair is its own: it starts full, and a tax of 1 is in the reward but not in the payoff."""

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return jnp.ones_like(observation), state.replace(apples=jnp.int32(10))

    def step_env(self, key, state, actions, params):
        observation, state, reward, terminated, truncated, info = super().step_env(key, state, actions, params)
        return observation, state, reward - 1, terminated, truncated, info


ACTIONS = np.random.default_rng(0).integers(0, 2, (20, 3)).astype(np.int32)


def play(env, params):
    """All outcomes of the fixed `ACTIONS`, over several episodes."""

    def step(state, inputs):
        outcome = env.step(*inputs[:1], state, inputs[1], params)
        return outcome[1], outcome

    start = env.reset(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(1), len(ACTIONS))
    return start, jax.jit(lambda: jax.lax.scan(step, start[1], (keys, ACTIONS))[1])()


@pytest.fixture(scope="module", params=[Orchard, TaxedOrchard])
def played(request):
    env = request.param()
    return env, play(env, env.default_params)


def assert_same(given, wanted):
    jax.tree.map(np.testing.assert_array_equal, given, wanted)


def test_a_bare_wrapper_plays_exactly_as_what_it_wraps(played):
    env, outcomes = played
    assert jnp.any(outcomes[1][3] | outcomes[1][4])  # it plays on after the end of an episode
    assert_same(play(Wrapper(env), env.default_params), outcomes)


def test_a_wrapper_says_what_the_wrapped_environment_says():
    env = Orchard()
    wrapped = Wrapper(Wrapper(env))
    for fact in (
        "name",
        "num_agents",
        "version",
        "mixed_motive",
        "exploiter",
        "masks_actions",
        "default_params",
        "summary",
    ):
        assert getattr(wrapped, fact) == getattr(env, fact)
    assert wrapped.observation_space() == env.observation_space()
    assert wrapped.action_space() == env.action_space()
    assert list(wrapped.players) == ["random", "greedy"]
    state = State(apples=jnp.int32(0), time=jnp.int32(2))
    assert wrapped.global_state(state).tolist() == [0.0, 2.0]
    assert wrapped.action_mask(state).tolist() == [[True, False]] * 3
    assert wrapped.observe(state, None).tolist() == [[0.0]] * 3
    assert wrapped.make_params(price=3).price == 3.0
    with pytest.raises(InputError, match="price must not be negative"):
        wrapped.make_params(price=-1.0)
    with pytest.raises(InputError, match="did you mean 'price'"):
        wrapped.make_params(prize=1.0)


def test_a_wrapper_forwards_every_member_of_the_contract():
    own = {"reset", "step", "auto_reset"}  # the base class's, over what is forwarded
    contract = {name for name in vars(Environment) if not name.startswith("_")} - own
    assert contract <= {*vars(Wrapper), *vars(Wrapper(Orchard()))}


def test_wrappers_are_equal_when_what_they_wrap_is():
    assert reward_view(Orchard(), "team") == reward_view(Orchard(), "team")
    assert hash(reward_view(Orchard(), "team")) == hash(reward_view(Orchard(), "team"))
    assert reward_view(Orchard(), "team") != reward_view(Orchard(num_agents=2), "team")
    assert Wrapper(Orchard()) != Wrapper(TaxedOrchard())


def test_a_team_is_rewarded_with_the_sum_of_payoffs(played):
    env, (start, outcomes) = played
    view = reward_view(env, "team")
    assert view.num_agents == env.num_agents and view.name == env.name
    team_start, team = play(view, env.default_params)
    payoffs = np.asarray(outcomes[5]["payoff"])
    assert len(np.unique(payoffs.sum(axis=1))) > 2
    assert team[2].dtype == jnp.float32
    assert team[2].tolist() == [[sum(row)] * 3 for row in payoffs.tolist()]
    # Nothing else changes, the material payoff included; a view without memory adds nothing to the state.
    assert_same(team_start, (start[0], ViewedState(game=start[1], trace=())))
    assert_same(team[:2], (outcomes[0], ViewedState(game=outcomes[1], trace=())))
    assert_same(team[3:], outcomes[3:])


def test_the_games_own_parameters_stand_for_the_views_defaults():
    view = reward_view(Orchard(), "self_interest:s=0.25")
    assert_same(play(view, Orchard().default_params), play(view, view.default_params))


def test_what_a_wrapped_environment_says_of_a_state_is_said_of_a_viewed_one():
    env = Orchard()
    view = Wrapper(reward_view(env, "inequity_aversion"))
    params = view.default_params
    inner = State(apples=jnp.int32(0), time=jnp.int32(6))
    state = ViewedState(game=inner, trace=jnp.ones(3))
    assert_same(view.observe(state, params), env.observe(inner, params.game))
    assert_same(view.global_state(state, params), env.global_state(inner, params.game))
    assert_same(view.action_mask(state), env.action_mask(inner))
    assert view.is_truncated(state, params) and not view.is_truncated(state.replace(game=inner.replace(time=5)), params)
    key, actions = jax.random.key(0), jnp.ones(3, jnp.int32)
    moved, reward, *_ = view.transition(key, state, actions, params)
    stepped = view.step_env(key, state, actions, params)
    assert_same((moved, reward), (stepped[1], stepped[2]))
    assert_same(view.initial_state(key, params), view.reset_env(key, params)[1])


def test_the_individual_view_is_the_environment_itself():
    env = Orchard()
    assert reward_view(env, "individual") is env
    rewards = play(RewardView(env, "individual"), env.default_params)[1][2]
    assert_same(rewards, play(env, env.default_params)[1][2])


def test_a_view_of_a_view_replaces_it():
    env = Orchard()
    wanted = RewardView(env, "self_interest:s=0.25")
    assert RewardView(RewardView(env, "team"), "self_interest:s=0.25") == wanted
    apart = RewardView(Wrapper(RewardView(env, "inequity_aversion")), "self_interest:s=0.25")
    played, expected = play(apart, apart.default_params)[1], play(wanted, wanted.default_params)[1]
    assert_same(played[2:], expected[2:])


def test_an_unknown_view_is_refused_with_the_nearest_name():
    for make in (reward_view, RewardView):
        with pytest.raises(InputError, match="unknown reward view 'teams'; did you mean 'team'"):
            make(Orchard(), "teams")


@pytest.mark.parametrize("env", [reward_view(Orchard(), "inequity_aversion"), Wrapper(TaxedOrchard(2))])
def test_wrapped_environments_keep_the_contract(env):
    check_environment(env, num_steps=20)
