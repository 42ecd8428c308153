"""Talk before action: who hears what and when, the game as it was, and a game that only talk can win."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import ProbeState, probe_params

from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import Environment, InputError, make
from marl_suite.envs.cheap_talk import CheapTalk
from marl_suite.envs.graphs import adjacency
from marl_suite.envs.spaces import Box, Discrete, MultiDiscrete, Space
from marl_suite.envs.testing import check_environment
from marl_suite.evaluation import evaluate, scripted, summarise
from marl_suite.experiments.suites import Cell
from marl_suite.training import Fit


@dataclasses.dataclass(frozen=True)
class Signalling(Environment):
    """Lewis (1969): agent 0 sees one of four states of the world, and both are paid when agent 1 acts on it."""

    num_agents: int = 2
    actions: str = "discrete"
    name = "signalling"

    @property
    def default_params(self) -> Any:
        return probe_params(1.0)

    @property
    def masks_actions(self) -> bool:  # type: ignore[override]
        return self.actions == "several"

    def observation_space(self, params=None) -> Space:
        return Box(0, 1, (4,))

    def action_space(self, params=None) -> Space:
        return {"discrete": Discrete(4), "several": MultiDiscrete((2, 4)), "numbers": Box(-1, 1, (2,))}[self.actions]

    def action_mask(self, state, params=None) -> jax.Array:
        if self.actions == "discrete":
            return super().action_mask(state, params)
        first = jnp.array([True, False])
        return jnp.tile(jnp.concatenate([first, jnp.arange(4) <= 2 + state.sign]), (self.num_agents, 1))

    def initial_state(self, key, params) -> ProbeState:
        return ProbeState(jax.random.randint(key, (), 0, 4), jnp.int32(0))

    def observe(self, state, params) -> jax.Array:
        return jax.nn.one_hot(state.sign, 4) * (jnp.arange(self.num_agents) == 0)[:, None]

    def transition(self, key, state, actions, params):
        act = actions if self.actions == "discrete" else actions[:, 1].astype(jnp.int32)
        reward = jnp.full(self.num_agents, act[1] == state.sign, jnp.float32)
        return state.replace(time=state.time + 1), reward, jnp.asarray(True), {"right": reward}

    def is_truncated(self, state, params):
        return jnp.asarray(False)


# ---------------------------------------------------------------------- the contract
@pytest.mark.parametrize("actions", ["several", "numbers"])
def test_talk_keeps_the_contract_in_games_of_several_choices_and_of_numbers(actions):
    check_environment(CheapTalk(Signalling(actions=actions), symbols=3), num_steps=12)


def test_masks_leave_symbols_in_talk_and_actions_in_action():
    def rows(env: CheapTalk) -> list[np.ndarray]:
        _, state = env.reset(jax.random.key(0))
        state = state.replace(game=ProbeState(jnp.int32(0), jnp.int32(0)))
        both = (state, state.replace(talking=jnp.asarray(False)))
        return [np.asarray(env.action_mask(each)).astype(int)[1] for each in both]

    talk, act = rows(CheapTalk(Signalling(), symbols=2))
    assert (talk == [1, 1, 0, 0]).all() and (act == [1, 1, 1, 1]).all()
    talk, act = rows(CheapTalk(Signalling(), symbols=5))
    assert (talk == [1, 1, 1, 1, 1]).all() and (act == [1, 1, 1, 1, 0]).all()
    talk, act = rows(CheapTalk(Signalling(actions="several"), symbols=3))
    np.testing.assert_array_equal(talk, [1, 1, 1, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(act, [1, 0, 0, 1, 0, 1, 1, 1, 0])


# ---------------------------------------------------------------------- the course of play
def play(env: Environment, actions: Any) -> list[Any]:
    """The outcomes of `actions` [T, N] from the start."""
    _, state = env.reset(jax.random.key(0))
    outcomes = []
    for action in jnp.asarray(actions):
        outcomes.append(env.step_env(jax.random.key(1), state, action, env.default_params))
        state = outcomes[-1][1]
    return outcomes


def test_the_game_is_as_it_was_but_for_the_talk_between_actions():
    game, talk = make("public_goods"), make("cheap_talk:public_goods", symbols=3)
    moves = np.random.default_rng(0).integers(0, 2, (4, 5))
    words = np.random.default_rng(1).integers(0, 3, (4, 5))
    plain = play(game, moves)
    spoken = play(talk, np.stack([words, moves], axis=1).reshape(8, 5))
    for t in range(4):
        before, after = spoken[2 * t], spoken[2 * t + 1]
        assert not before[2].any() and not before[5]["payoff"].any() and not before[5]["metrics"]["cooperation"].any()
        np.testing.assert_array_equal(after[2], plain[t][2])
        np.testing.assert_array_equal(after[0]["game"], plain[t][0])
        np.testing.assert_array_equal(after[5]["metrics"]["cooperation"], 2 * plain[t][5]["metrics"]["cooperation"])
        assert (before[0]["talking"] == 0).all() and (after[0]["talking"] == 1).all()
        for i in range(5):
            np.testing.assert_array_equal(before[0]["heard"][i].argmax(1), words[t][(i + np.arange(5)) % 5])
            np.testing.assert_array_equal(after[0]["heard"], before[0]["heard"])


def test_nothing_is_heard_before_the_first_word_and_only_along_the_graph():
    env = make("cheap_talk:public_goods", num_agents=4, symbols=2, talk_graph="0>1,2-3")
    observation, state = env.reset(jax.random.key(0))
    assert not observation["heard"].any() and (observation["talking"] == 1).all()
    observation, *_ = env.step(jax.random.key(1), state, jnp.array([1, 0, 1, 0]))
    heard = np.asarray(observation["heard"])  # [listener, in turn from oneself, K]
    who = {(i, (i + j) % 4): int(heard[i, j].argmax()) for i, j in np.argwhere(heard.any(-1))}
    assert who == {(0, 0): 1, (1, 1): 0, (2, 2): 1, (3, 3): 0, (1, 0): 1, (2, 3): 0, (3, 2): 1}


def test_scripted_players_and_means_over_steps_are_the_games():
    def summary(name: str) -> dict[str, Any]:
        env = make(name, num_agents=3)
        policy = scripted(env.players["conditional_cooperator"], 3)
        return summarise(env, evaluate(env, env.default_params, *policy, jax.random.key(0), 2))

    plain, spoken = summary("public_goods"), summary("cheap_talk:public_goods")
    assert spoken["episode_length"] == 2 * plain["episode_length"] == 100
    assert spoken["return"] == plain["return"] and spoken["cooperation"] == plain["cooperation"] == 1


# ---------------------------------------------------------------------- what it is for
@pytest.mark.parametrize("graph", ["complete", "none"])
def test_a_signalling_game_is_won_with_talk_and_by_chance_without(graph):
    env = CheapTalk(Signalling(), symbols=4, talk_graph=graph)
    config = IPPO(num_envs=128, rollout_length=4, hidden_sizes=(32,), lr=2e-2, minibatches=1, entropy_coefficient=0.03)
    *_, chunk = Fit(env, config, range(3), steps=60_000, chunks=3)
    right = chunk.logs["payoff"].mean(-1) * 2  # every second step is talk
    # One word for two states is an equilibrium, too: 0.75.
    assert np.all(right > 0.7) if graph == "complete" else np.all(np.abs(right - 0.25) < 0.05), right


def test_a_stored_cell_leads_back_to_the_same_game():
    talk = {"symbols": 2, "talk_graph": "ring", "num_agents": 3}
    cell = Cell("cheap_talk:public_goods", "random", "random", env=talk).check()
    stored = json.loads(json.dumps(cell.specification))["env"]
    assert talk.items() <= stored.items()
    assert make(cell.environment, **{key: value for key, value in stored.items() if key != "name"}) == cell.game


# ---------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        ("rings", "graph must be one of complete, none, ring, star, got 'rings'; closest: 'ring'"),
        ("0-1,1:2", "graph: an edge must read like 0-1 or 0>1, got '1:2'"),
        ("0-5", "graph: edge '0-5' names agent 5; the last one is 4"),
    ],
)
def test_a_graph_that_cannot_be_read_is_refused(graph, sentence):
    with pytest.raises(InputError, match=sentence):
        make("cheap_talk:public_goods", talk_graph=graph)


def test_settings_are_the_talks_or_the_games():
    with pytest.raises(InputError, match="setting of public_goods 'symbol'"):
        make("cheap_talk:public_goods", symbol=3)
    with pytest.raises(InputError, match="setting symbols must be a whole number, got 'four'"):
        make("cheap_talk:public_goods", symbols="four")
    with pytest.raises(InputError, match="cheap_talk:public_goods: symbols must be at least 1, got 0"):
        make("cheap_talk:public_goods", symbols=0)


def test_graphs_have_the_edges_that_their_names_say():
    assert adjacency("complete", 4).sum() == 12 and not adjacency("none", 4).any()
    np.testing.assert_array_equal(adjacency("ring", 5).sum(1), [2] * 5)
    np.testing.assert_array_equal(adjacency("ring", 2), adjacency("complete", 2))
    np.testing.assert_array_equal(adjacency("star", 4).sum(1), [3, 1, 1, 1])
    np.testing.assert_array_equal(np.argwhere(adjacency("0>2, 1-2", 3)), [[1, 2], [2, 0], [2, 1]])
