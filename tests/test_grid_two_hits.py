"""Graduated sanctions: the first hit freezes and marks, the second takes out."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError
from marl_suite.envs.grid.beams import Beam
from marl_suite.envs.grid.movement import FORWARD, NOOP, TURN_LEFT
from marl_suite.envs.grid.two_hits import TwoHitsParams, TwoHitsState, TwoHitsWorld, sanction, taken_out

ZAP = 7


@dataclasses.dataclass(frozen=True)
class Range(TwoHitsWorld):
    """Agents that zap each other; whoever is taken out pays 3."""

    name: str = "range"
    num_agents: int = 3
    beams = (Beam("zap", 3, 0),)

    @property
    def own_map(self) -> str:
        return "#######\n#PPPPP#\n#.....#\n#######"

    @property
    def default_params(self) -> Any:
        return TwoHitsParams(zap_timeout=4, freeze_steps=3, mark_steps=5)

    def begin(self, key, base, params) -> Any:
        return TwoHitsState(**base, marked=jnp.zeros(self.num_agents, jnp.int32))

    def tile_plane(self, state) -> Any:
        return np.where(self.grid.plane("#"), 2, 1)

    def rules(self, key, state, events, params) -> Any:
        return state, -3.0 * taken_out(state, events), {"frozen": (state.frozen > 0) * 1.0}


ENV = Range()


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


def play(actions, **params):
    """Steps with `actions` [T, 3]: agent 0 at (2, 1) looks east at agent 1 at (2, 3); agent 2 is behind it, at (2, 5),
    and looks west."""
    params = ENV.make_params(**params)
    _, state = ENV.reset(jax.random.key(0), params)
    position, heading = np.array([(2, 1), (2, 3), (2, 5)], np.int32), np.array([1, 0, 3], np.int32)
    state = state.replace(position=jnp.asarray(position), heading=jnp.asarray(heading))
    history = []
    for t, joint in enumerate(actions):
        obs, state, reward, _, _, _ = step(ENV, t, state, joint, params)
        history.append((obs, state, reward))
    return zip(*jax.tree.map(np.asarray, history), strict=True)


def test_a_first_hit_freezes_and_marks_and_nothing_else():
    actions = [[ZAP, NOOP, NOOP]] + [[NOOP, TURN_LEFT, NOOP]] * 6
    obs, states, rewards = play(actions)
    assert [s.frozen[1] for s in states] == [3, 2, 1, 0, 0, 0, 0]
    assert [s.marked[1] for s in states] == [5, 4, 3, 2, 1, 0, 0]
    assert [s.heading[1] for s in states] == [0, 0, 0, 0, 3, 2, 1]  # able again after three steps
    assert not any(s.timeout.any() for s in states) and not np.any(rewards)
    frozen, marked = (np.stack([ENV.seen(o, plane)[:, 9, 5] for o in obs]) for plane in ("frozen", "marked"))
    assert frozen[:, 1].tolist() == [1, 1, 1, 0, 0, 0, 0] and marked[:, 1].tolist() == [1] * 5 + [0, 0]
    assert not frozen[:, [0, 2]].any() and not marked[:, [0, 2]].any()
    assert ENV.seen(obs[0], "marked")[0, 7, 5] == 1  # two cells ahead of agent 0


@pytest.mark.parametrize("wait, out", [(1, True), (5, True), (6, False)])
def test_a_second_hit_takes_out_as_long_as_the_mark_lasts(wait, out):
    actions = [[ZAP, NOOP, NOOP]] + [[NOOP] * 3] * (wait - 1) + [[ZAP, NOOP, NOOP]]
    _, states, rewards = play(actions)
    last = states[-1]
    assert (last.timeout[1], last.frozen[1], last.marked[1]) == ((4, 0, 0) if out else (0, 3, 5))
    assert rewards[-1].tolist() == [0, -3 if out else 0, 0] and not np.any(rewards[:-1])


def test_two_hits_in_one_step_take_out_at_once():
    _, states, rewards = play([[ZAP, NOOP, ZAP]])
    assert states[0].timeout.tolist() == [0, 4, 0] and rewards[0].tolist() == [0, -3, 0]


def test_who_returns_is_neither_frozen_nor_marked():
    actions = [[ZAP, NOOP, NOOP], [ZAP, NOOP, NOOP]] + [[NOOP, FORWARD, NOOP]] * 4
    _, states, rewards = play(actions)
    assert [s.timeout[1] for s in states] == [0, 4, 3, 2, 1, 0]
    assert states[-1].frozen[1] == states[-1].marked[1] == 0
    assert [r[1] for r in rewards] == [0, -3, 0, 0, 0, 0]


def test_a_longer_freeze_is_not_shortened():
    state = ENV.reset(jax.random.key(0))[1].replace(frozen=jnp.array([0, 9, 1]))
    hits = np.zeros((3, 3), bool)
    hits[0, 1:] = True
    after = sanction(state, jnp.asarray(hits), ENV.default_params)
    assert after.frozen.tolist() == [0, 9, 3] and after.marked.tolist() == [0, 5, 5]


def test_the_global_state_tells_how_long_marks_last():
    state = ENV.reset(jax.random.key(0))[1]
    marked = ENV.global_state(state.replace(marked=jnp.array([0, 1, 3])))
    assert marked[-3:].tolist() == [1, 0.5, 0.25]


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="mark_steps must be at least 0, got -1"):
        ENV.make_params(mark_steps=-1)
