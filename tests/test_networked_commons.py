"""Networked commons: published lengths, exact stocks, who sees whom, and what is a dilemma for whom."""

import itertools
from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import make
from marl_suite.envs.commons.networked_commons import (
    NetworkedCommons,
    most_takeable,
    steps_to_collapse,
    sustainable_restraint,
)
from marl_suite.envs.errors import InputError
from marl_suite.envs.reward_views import read_view
from marl_suite.envs.wrappers import reward_view
from marl_suite.games.schelling import Diagram, verdict
from marl_suite.metrics import social
from marl_suite.training import Fit

ENV = make("networked_commons")
PLAYERS = list(ENV.players)
STEPS = 1000
FIXED = len(PLAYERS)
"""The seat of an agent that plays the actions that are given, instead of a scripted player."""


@cache
def _program():
    def play(actions, seats, params):
        def step(carry, actions):
            observation, state = carry
            choices = [jax.vmap(ENV.players[name], (0, None))(observation, jax.random.key(0)) for name in PLAYERS]
            chosen = jnp.stack([*choices, actions])[seats, jnp.arange(ENV.num_agents)]
            observation, state, reward, terminated, truncated, info = ENV.step(jax.random.key(0), state, chosen, params)
            record = {"reward": reward, "terminated": terminated, "truncated": truncated, "next": state.resource}
            return (observation, state), record | info["metrics"]

        return jax.lax.scan(step, ENV.reset(jax.random.key(0), params), actions)[1]

    return jax.jit(play)


def play(seats, actions=None, **numbers):
    """The first `STEPS` steps with the players that `seats` name, or of `actions` [T, N] where these are given."""
    chosen = np.zeros((STEPS, 4), np.int32) if actions is None else np.asarray(actions, np.int32)
    where = np.array([FIXED if actions is not None else PLAYERS.index(name) for name in seats])
    return jax.tree.map(np.asarray, _program()(chosen, where, ENV.make_params(**numbers)))


def first_episode(record):
    length = int(np.argmax(record["terminated"] | record["truncated"])) + 1
    return length, record["reward"][:length].astype(float).sum(axis=0)


# ---------------------------------------------------------------------- known answers
@pytest.mark.parametrize(
    ("regrowth", "takers", "length", "each"),
    [
        (0.03, 4, 7, 0.15),
        (0.053, 4, 10, 0.225),
        (0.077, 4, 19, 0.45),
        (0.1, 4, 1000, 25.0),
        (0.03, 3, 11, 0.25),
        (0.03, 2, 24, 0.575),
        (0.03, 1, 1000, 25.0),
        (0.03, 0, 1000, 0.0),
    ],
)
def test_constant_takers_last_and_earn_what_the_arithmetic_says(regrowth, takers, length, each):
    actions = np.tile(np.arange(4) < takers, (STEPS, 1))
    record = play(range(4), actions, regrowth=regrowth)
    steps, returns = first_episode(record)
    assert steps == length == min(STEPS, steps_to_collapse(regrowth, takers * 0.025))
    np.testing.assert_allclose(returns, each * actions[0], rtol=1e-6)
    collapsed = length < STEPS
    last = {name: record[name][length - 1] for name in ("terminated", "survived", "episodes")}
    assert last == {"terminated": collapsed, "survived": not collapsed, "episodes": 1}
    assert record["episodes"][: length - 1].sum() == 0
    best = min(0.1 * STEPS, 0.5 + regrowth * (STEPS - 1))
    np.testing.assert_allclose(record["efficiency"][length - 1], each * takers / best, rtol=1e-5)


def test_nobody_gets_anything_in_the_step_of_the_collapse():
    record = play(["taker"] * 4)
    np.testing.assert_allclose(record["reward"][:9], 0.025)
    assert (record["reward"][9] == 0).all() and record["terminated"][9]
    np.testing.assert_array_equal(record["next"][:9], 500_000 - 47_000 * np.arange(1, 10))
    assert record["resource"][9] == 0 and record["next"][9] == 500_000  # gone, and a fresh start


def test_what_is_taken_to_the_last_bit_is_gone_where_floats_would_leave_some():
    left, naive = 0.5, 0
    while left > 0:
        left, naive = left - 0.1, naive + 1
    length, _ = first_episode(play(["taker"] * 4, regrowth=0.0))
    assert (length, naive, steps_to_collapse(0.0, 0.1)) == (5, 6, 5)


def test_random_play_follows_an_exact_loop_through_collapses_and_clocks():
    actions = np.random.default_rng(3).random((STEPS, 4)) < np.linspace(0.1, 0.9, STEPS)[:, None]
    record = play(range(4), actions, max_steps=80)
    resource, takes, time = Fraction(1, 2), 0, 0
    ends = {"terminated": 0, "truncated": 0, "full": 0}
    for t, took in enumerate(actions):
        left = resource - Fraction(int(took.sum()), 40)
        over, time = left <= 0, time + 1
        takes += 0 if over else int(took.sum())
        resource = min(Fraction(1), left + Fraction(53, 1000))
        ends["full"] += resource == 1
        np.testing.assert_allclose(record["resource"][t], 0.0 if over else float(resource), atol=1e-7)
        np.testing.assert_allclose(record["reward"][t], 0.0 if over else 0.025 * took, atol=1e-8)
        np.testing.assert_array_equal(record["restraint"][t], 1 - took)
        assert (record["terminated"][t], record["truncated"][t]) == (over, not over and time == 80)
        if over or time == 80:
            ends["terminated" if over else "truncated"] += 1
            efficiency = float(takes / 40 / (0.5 + 0.053 * 79))
            np.testing.assert_allclose(record["efficiency"][t], efficiency, rtol=1e-5)
            resource, takes, time = Fraction(1, 2), 0, 0
        else:
            assert record["efficiency"][t] == record["survived"][t] == 0
    assert min(ends.values()) > 0, ends


@pytest.mark.parametrize(
    ("agents", "steps", "take", "regrowth"), [(2, 6, 0.2, 0.05), (2, 6, 0.2, 0.25), (3, 5, 0.3, 0.1)]
)
def test_what_can_be_taken_is_what_the_best_of_all_plans_takes(agents, steps, take, regrowth):
    def total(plan):
        left, taken = 0.5, 0.0
        for takers in plan:
            left -= takers * take / agents
            if left < 1e-9:
                return taken
            left, taken = min(1.0, left + regrowth), taken + takers * take / agents
        return taken

    best = max(total(plan) for plan in itertools.product(range(agents + 1), repeat=steps))
    bound = float(most_takeable(regrowth, take, 0.5, steps))
    assert best <= bound + 1e-6 and bound - best <= take / agents + 1e-6


# ---------------------------------------------------------------------- what they are said to do
def test_pitfall_5_restraint_and_sustainability_are_the_published_ones():
    record = play(["taker"] * 4, regrowth=0.1)
    # Perolat et al. (2017): the mean time of a reward, 3 of 5 steps; not the number of rewards, 5.
    assert social.sustainability(jnp.asarray(record["reward"][:5])) == 3.0
    assert record["restraint"].mean() == sustainable_restraint(0.1) == 0.0
    for share in (6, 7):  # of 20 steps, spread out, all at once: 30 % sustain the resource and 35 % do not
        waits = share * np.arange(STEPS)[:, None] % 20 >= share
        record = play(range(4), np.tile(~waits, (1, 4)), regrowth=0.03)
        steps, _ = first_episode(record)
        restraint = record["restraint"][:steps].mean(axis=0)
        np.testing.assert_allclose(restraint, waits[:steps].mean(), rtol=1e-6)  # (T - takes) / T
        assert (steps == STEPS) == (restraint[0] >= sustainable_restraint(0.03) - 1e-6) == (share == 6)
    np.testing.assert_allclose(sustainable_restraint(0.053), 0.47)


def diagram(cooperator, defector, **numbers):
    cooperators, defectors = np.full((5, 2), np.nan), np.full((5, 2), np.nan)
    for k in range(5):
        _, returns = first_episode(play([cooperator] * k + [defector] * (4 - k), **numbers))
        cooperators[k] = returns[:k].mean() if k else np.nan
        defectors[k] = returns[k:].mean() if k < 4 else np.nan
    return Diagram(cooperators, defectors)


def test_pitfall_4_greed_depends_on_whether_cooperators_react():
    steadfast, reacting = (diagram(name, "taker", regrowth=0.03) for name in ("quota", "sustainer"))
    # One taker among three that go on taking 30 % needs 0.0475 per step: the stock of 0.5 is gone, its own part too.
    np.testing.assert_allclose(steadfast.cooperators[4, 0], 7.5, rtol=1e-5)
    assert str(verdict(steadfast)) == "a social dilemma of fear" and steadfast.equilibria() == [0, 4]
    # Where the others keep the stock above its start, one taker needs 0.025 of 0.03 per step and takes for ever.
    np.testing.assert_allclose(reacting.defectors[3, 0], 25, rtol=1e-5)
    assert str(verdict(reacting)) == "a social dilemma of fear and greed" and 4 not in reacting.equilibria()


def test_by_default_there_is_fear_and_greed():
    result = diagram(ENV.cooperator, ENV.defector)
    np.testing.assert_allclose(result.cooperators[1:, 0], [0, 1.5, 9.325, 13.25], rtol=1e-5)
    np.testing.assert_allclose(result.defectors[:4, 0], [0.225, 0.5, 25, 25], rtol=1e-5)
    assert str(verdict(result)) == "a social dilemma of fear and greed"


def test_where_regrowth_allows_it_taking_always_is_no_dilemma():
    assert "no " in str(verdict(diagram("quota", "taker", regrowth=0.077)))
    assert "no " in str(verdict(diagram("sustainer", "taker", regrowth=0.1)))


def test_reciprocators_keep_their_quota_among_themselves_and_follow_a_taker():
    steps, returns = first_episode(play(["reciprocator"] * 4))
    assert steps == STEPS
    np.testing.assert_allclose(returns, 13.25, rtol=1e-5)
    record = play(["reciprocator"] * 3 + ["taker"], regrowth=0.077)
    steps, _ = first_episode(record)
    assert record["restraint"][: steps - 1].sum(axis=0).tolist() == [1, 1, 1, 0]
    alone = play(["reciprocator"] * 3 + ["taker"], regrowth=0.077, neighbours=np.zeros((4, 4), bool))
    assert alone["restraint"][:10].sum(axis=0)[:3].min() >= 2  # they see nobody, so they keep their quota


# ---------------------------------------------------------------------- graphs, messages, sharing
def test_sharing_follows_the_graph_and_is_a_reward_view_where_all_are_neighbours():
    actions = np.random.default_rng(0).integers(0, 2, (STEPS, 4))
    taken = 0.025 * actions[:5]
    ring = make("networked_commons", graph="ring").default_params.neighbours
    beside = taken + 0.1 * (np.roll(taken, 1, axis=1) + np.roll(taken, -1, axis=1))
    record = play(range(4), actions, sharing=0.1, neighbours=ring)
    np.testing.assert_allclose(record["reward"][:5], beside, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(play(range(4), actions)["reward"][:5], taken, rtol=1e-5, atol=1e-8)
    view = read_view(f"self_interest:s={1 / (1 + 0.1 * 3)}")
    viewed = 1.3 * np.array([view.reward(jnp.asarray(row, jnp.float32)) for row in taken])
    np.testing.assert_allclose(play(range(4), actions, sharing=0.1)["reward"][:5], viewed, rtol=1e-5, atol=1e-8)


def seen(information, graph="ring", actions=(1, 0, 1, 1), **settings):
    """Observation [N, ...] after one step, with rho / take = .53."""
    env = NetworkedCommons(information=information, graph=graph, **settings)
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    state, _, _, _ = env.transition(jax.random.key(0), state, jnp.array(actions), params)
    observation = np.asarray(env.observe(state, params))
    assert observation.shape == (4, *env.observation_space().shape)
    np.testing.assert_allclose(observation[:, 0], 0.5 - 0.075 + 0.053, atol=1e-6)
    np.testing.assert_allclose(observation[:, 2], 0.53, atol=1e-6)
    return observation[:, 1], observation[:, 3:].reshape(4, 3, env.seen_of_another)


def test_agents_see_what_the_setting_says_of_those_after_them_in_turn():
    own, others = seen("own")
    assert own.tolist() == [1, 0, 1, 1] and others.size == 0
    yes, no, unseen = [1, 1, 1], [1, 0, 0], [0, 0, 0]
    _, others = seen("neighbours")
    assert others[0].tolist() == [no, unseen, yes] and others[1].tolist() == [yes, unseen, yes]
    _, others = seen("neighbours", graph="0-1")
    assert others[0].tolist() == [no, unseen, unseen] and others[2].tolist() == [unseen] * 3
    _, others = seen("broadcast", graph="none")
    assert others[0].tolist() == [no, yes, yes] and others[1].tolist() == [yes, yes, yes]


def test_messages_reach_neighbours_in_the_next_step_and_nothing_else_does():
    symbols = np.array([2, 0, 1, 2])
    _, others = seen("message", actions=2 * symbols + np.array([1, 0, 1, 1]), num_symbols=3, graph="star")
    assert others[0].tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    assert others[1].tolist() == [[0] * 4, [0] * 4, [1, 0, 0, 1]]
    env = NetworkedCommons(information="message", num_symbols=3)
    start, _ = env.reset(jax.random.key(0))
    assert env.action_space().n == 6 and np.asarray(start)[:, 3:].reshape(4, 3, 4)[..., 1:].sum() == 0


# ---------------------------------------------------------------------- learning
@pytest.mark.slow
def test_selfish_learners_empty_the_resource_and_a_team_sustains_it():
    def last_returns(view):
        config = IPPO(num_envs=32, rollout_length=64, gamma=0.96, share_parameters=True)
        *_, last = Fit(reward_view(ENV, view), config, (0, 1), 3e5, chunks=4)
        return last.logs["episode_return"].mean(axis=-1) / last.logs["episodes"]

    assert np.all(last_returns("individual") < 0.3) and np.all(last_returns("team_mean") > 5)


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_agents": 1}, "num_agents must be at least 2, got 1"),
        ({"graph": "rnig"}, "'rnig'; closest: 'ring'"),
        ({"graph": "0-4"}, "4"),
        ({"information": "neighbors"}, "closest: 'neighbours'"),
        ({"information": "message", "num_symbols": 1}, "num_symbols must be at least 2, got 1"),
    ],
)
def test_settings_that_make_no_game_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        make("networked_commons", **settings)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"regrowth": -0.1}, "regrowth must be at least 0"),
        ({"take": 0}, "take must be at least"),
        ({"start": 1.5}, "start must be at most 1"),
        ({"sharing": -1}, "sharing must be at least 0"),
        ({"neighbours": np.eye(4)}, "neighbours, of an agent and itself, must be at most 0"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_numbers_that_make_no_game_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        ENV.make_params(**numbers)
