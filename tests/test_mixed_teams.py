"""Mixed teams: several baselines in one game, frozen policies, past selves, best responses."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Reinforce

from marl_suite.algorithm import Configuration, env_spec
from marl_suite.baselines import registry
from marl_suite.baselines.ppo import IPPO
from marl_suite.baselines.scripted import Scripted
from marl_suite.composition import Composition, Frozen, restrict
from marl_suite.envs import InputError, make
from marl_suite.experiments.best_response import best_response
from marl_suite.experiments.run import train
from marl_suite.past_selves import PastSelves
from marl_suite.training import Fit

DILEMMA = make("prisoners_dilemma")
SMALL = {"num_envs": 8, "rollout_length": 5, "hidden_sizes": (4,), "epochs": 1, "minibatches": 1}


# ---------------------------------------------------------------------- names
def test_a_team_is_named_by_its_parts():
    team = registry.configuration("ippo+tit_for_tat", lr=3e-4, **{"ppo.num_envs": 64})
    assert isinstance(team, Composition)
    assert team.parts == (IPPO(lr=3e-4, num_envs=64), Scripted(player="tit_for_tat"))


def test_a_number_addresses_one_part_alone():
    team: Any = registry.configuration("ippo+ippo", **{"1.ppo.lr": 3e-4, "ppo.gamma": 0.5})
    assert [(part.lr, part.gamma) for part in team.parts] == [(1e-3, 0.5), (3e-4, 0.5)]


@pytest.mark.parametrize("name", ["ippo", "tit_for_tat", "ippo+always_defect", "advantage_alignment+past_self"])
def test_settings_lead_back_to_the_configuration(name):
    prefix = "0." if "+" in name else ""
    changed = {} if name == "tit_for_tat" else {f"{prefix}lr": 0.125, f"{prefix}hidden_sizes": [3, 5]}
    config = registry.configuration(name, **changed)
    settings = registry.settings(name, config)
    assert registry.configuration(name, **settings) == config
    assert "player" not in str(settings), "what makes a name what it is cannot be set"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ippo+tit_for_tatt", {}, "tit_for_tat"),
        ("ippo+tit_for_tat", {"ppo.learning_rate": 1.0}, "learning_rate"),
        ("ippo+tit_for_tat", {"1.lr": 1.0}, "1.lr"),
        ("ippo+tit_for_tat", {"7.lr": 1.0}, "7.lr"),
        ("ippo+tit_for_tat", {"lr": -1.0}, "at least 0"),
        ("past_self", {}, "ippo+past_self"),
        ("ippo+ippo+past_self", {}, "ippo+past_self"),
        ("ippo+past_self", {"capacity": 0}, "past_self.capacity"),
        ("ippo+past_self", {"current": 2.0}, "past_self.current"),
    ],
)
def test_a_bad_team_is_refused_in_one_line(name, overrides, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        registry.configuration(name, **overrides)
    assert "\n" not in str(error.value)


def test_the_last_part_plays_the_agents_that_remain():
    env = make("public_goods", num_agents=4)
    spec = env_spec(env, env.default_params)
    team = registry.configuration("always_cooperate+always_defect").build(spec)
    observation = env.reset(jax.random.key(0))[0][None]
    actions, _, _ = team.act(team.init(jax.random.key(0)), team.memory(1), observation, jax.random.key(1))
    np.testing.assert_array_equal(actions, [[0, 1, 1, 1]])
    with pytest.raises(InputError, match="too few for 3 parts"):
        registry.configuration("random+random+random").build(env_spec(DILEMMA, DILEMMA.default_params))


def test_a_team_shows_what_each_side_gets():
    result = train("prisoners_dilemma", "always_defect+always_cooperate", seeds=1, steps=50)
    np.testing.assert_allclose(result["first_agent_return_per_step"], 0)
    np.testing.assert_allclose(result["agent_return"], [[0, -150]])
    assert set(result.evaluations) == {"self_play"}, "a team has no one policy to pair with others"


# ---------------------------------------------------------------------- frozen policies
def memory_one_weights(*tables: tuple[int, ...]) -> jax.Array:
    """Weights [len(tables), 2, 5, 2] of `Reinforce` with which both agents play memory-one `tables` for certain."""
    logits = 50.0 * jax.nn.one_hot(np.asarray(tables), 2)
    return jnp.broadcast_to(logits[:, None], (len(tables), 2, 5, 2))


ALL_C, ALL_D, TFT = (0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (0, 1, 0, 1, 0)


@pytest.mark.parametrize("slots", [(0,), (1,)])
def test_a_frozen_policy_plays_its_seat_as_it_was(slots):
    weights = memory_one_weights(TFT)[0].at[1].set(memory_one_weights(ALL_D)[0, 1])  # seats that differ
    spec = env_spec(DILEMMA, DILEMMA.default_params)
    frozen = Frozen(part=Reinforce(), state=weights).build(restrict(spec, slots))
    observation = jnp.eye(5)[:, None]  # all five states of one seat
    state = frozen.init(jax.random.key(0))
    actions, _, _ = frozen.act(state, frozen.memory(5), observation, jax.random.key(0))
    np.testing.assert_array_equal(actions[:, 0], [TFT, ALL_D][slots[0]])
    assert frozen.update(state, None, None, None) == (state, {})


def test_a_best_response_finds_what_memory_one_strategies_leave_to_be_gained():
    # Against ALL-C defect for 0 a step; against ALL-D nothing better than -2; tit-for-tat is best cooperated with.
    states = memory_one_weights(ALL_C, ALL_D, TFT)
    found = best_response(DILEMMA, DILEMMA.default_params, Reinforce(), states, [0, 1, 2], 1e5, 64)
    np.testing.assert_allclose(found["partner_per_step"], [0, -2, -1], atol=0.06)
    np.testing.assert_allclose(found["own_per_step"], [-3, -2, -1], atol=0.06)
    np.testing.assert_allclose(found["own"], 50 * found["own_per_step"], rtol=1e-4)


# ---------------------------------------------------------------------- past selves
def past_selves(**settings) -> Configuration:
    return registry.configuration("ippo+past_self", **SMALL, capacity=3, every=2, chunks=4, **settings)


def states_of(fit: Fit) -> list:
    return [jax.tree.map(np.array, chunk.state.learner) for chunk in fit]


@pytest.fixture(scope="module")
def history() -> list:
    """The state after each of ten updates."""
    return states_of(Fit(DILEMMA, past_selves(current=0.25), [0], 10 * 40, chunks=10))


def test_the_buffer_holds_every_other_self_the_oldest_going_first(history):
    kept = {0: 0, 1: 0, 2: 0}  # row of the buffer: the update whose self it holds
    for update, state in enumerate(history):
        if update % 2 == 0:
            kept[update // 2 % 3] = update
        for row in range(min(update // 2 + 1, 3)):
            past = jax.tree.map(lambda x, row=row: x[0, row], state.past.actor)
            jax.tree.map(
                np.testing.assert_array_equal, past, jax.tree.map(lambda x: x[0], history[kept[row]].now.actor)
            )


def test_opponents_are_drawn_among_the_selves_there_are(history):
    for update, state in enumerate(history):
        assert state.opponent.shape == (1, 4)
        assert np.all((state.opponent >= -1) & (state.opponent <= min(update // 2, 2)))
    drawn = np.concatenate([state.opponent.ravel() for state in history])
    assert -1 in drawn and np.any(drawn >= 0)


def test_each_chunk_meets_its_own_opponent_and_agent_zero_is_always_the_current_self():
    spec = env_spec(DILEMMA, DILEMMA.default_params)
    config = PastSelves(part=Reinforce(num_envs=8), capacity=2, chunks=4)
    learner = config.build(spec)
    rows = memory_one_weights(TFT, ALL_C, ALL_D)[:, :1]
    state = learner.init(jax.random.key(0)).replace(now=rows[0], past=rows[1:], opponent=jnp.array([-1, 0, 1, 0]))
    after_dc = jnp.broadcast_to(jnp.eye(5)[1], (8, 2, 5))  # "I cooperated, the other defected" for both
    actions, _, _ = learner.act(state, learner.memory(8), after_dc, jax.random.key(0))
    np.testing.assert_array_equal(actions[:, 0], 1)  # tit-for-tat
    np.testing.assert_array_equal(actions[:, 1], [1, 1, 0, 0, 1, 1, 0, 0])
    everywhere, _, _ = learner.policy(state, True)(learner.memory(6), after_dc[:6], jax.random.key(0))
    np.testing.assert_array_equal(everywhere, 1)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("ippo", marks=SLOW),
        "advantage_alignment",
        pytest.param("group_relative_advantage_alignment", marks=SLOW),
    ],
)
def test_recurrent_learners_play_their_past_in_games_of_several(part):
    env = make("public_goods", num_agents=3)
    settings = SMALL | ({"group_size": 2} if part.startswith("group") else {})
    config = registry.configuration(f"{part}+past_self", **settings, recurrent=True, every=1, chunks=4)
    *_, state = states_of(Fit(env, config, [0, 1], 4 * 40, chunks=2))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
    assert not np.array_equal(
        *(x[0] for x in (jax.tree.leaves(state.now.actor)[0], jax.tree.leaves(state.past.actor)[0][:, 0]))
    )


def test_chunks_that_do_not_divide_the_environments_are_refused():
    with pytest.raises(InputError, match=r"past_self\.chunks must divide 8"):
        registry.configuration("ippo+past_self", **SMALL, chunks=3).build(env_spec(DILEMMA, DILEMMA.default_params))


# ---------------------------------------------------------------------- players by role
def test_a_role_is_whoever_the_game_calls_so():
    env = make("public_goods", num_agents=4)
    team = registry.configuration("cooperator+exploiter").build(env_spec(env, env.default_params))
    observation = env.reset(jax.random.key(0))[0][None]
    actions, _, _ = team.act(team.init(jax.random.key(0)), team.memory(1), observation, jax.random.key(1))
    np.testing.assert_array_equal(actions, [[0, 1, 1, 1]])
    with pytest.raises(InputError, match="matching_pennies has no scripted player 'cooperator'"):
        registry.configuration("cooperator").build(env_spec(game := make("matching_pennies"), game.default_params))
