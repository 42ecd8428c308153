"""The conformance suite: it passes every registered environment and names the rule that a broken one breaks."""

import dataclasses
import os
import pathlib
import subprocess
import sys
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from marl_suite.envs import Environment, InputError, make, registered
from marl_suite.envs.environment import random_player
from marl_suite.envs.grid.world import GridWorld
from marl_suite.envs.spaces import Box, Discrete
from marl_suite.envs.spaces import Dict as DictSpace
from marl_suite.envs.testing import check_environment

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Params(struct.PyTreeNode):
    rain: float = 0.4  # probability that a unit of water comes back in a step
    max_steps: int = 9


class State(struct.PyTreeNode):
    level: jax.Array  # int32 [], units of water
    drawn: jax.Array  # float32 [N], who drew in the last step
    time: jax.Array  # int32 []


@dataclasses.dataclass(frozen=True)
class Well(Environment):
    """Who draws gets a unit; the episode terminates when the well is dry."""

    num_agents: int = 2
    depth: int = 8
    name = "well"

    @property
    def default_params(self) -> Any:
        return Params()

    def observation_space(self, params=None) -> Any:
        return Box(0, 1, (2,))

    def action_space(self, params=None) -> Any:
        return Discrete(2)

    def initial_state(self, key, params) -> Any:
        level = jax.random.randint(key, (), self.depth // 2, self.depth + 1)
        return State(level=level, drawn=jnp.zeros(self.num_agents), time=jnp.int32(0))

    def transition(self, key, state, actions, params) -> Any:
        drawn = actions.astype(jnp.float32)
        level = state.level - actions.sum() + jax.random.bernoulli(key, params.rain)
        level = jnp.clip(level, 0, self.depth)
        metrics = {"level": level.astype(jnp.float32), "drawn": drawn}
        return State(level=level, drawn=drawn, time=state.time + 1), drawn, level == 0, metrics

    def observe(self, state, params) -> Any:
        level = jnp.full(self.num_agents, state.level / self.depth, jnp.float32)
        return jnp.stack([level, state.drawn], axis=1)


# ---------------------------------------------------------------------- good environments
CHECKED_GRIDS = ("prisoners_dilemma_in_the_matrix_arena",)
"""The grid world that is always checked, with beams, time-outs, freezing and marks. The others, which take some twenty
seconds each to compile and to run op by op, are checked on request (`-m slow`)."""


NAMESAKES = (
    *("pasture", "pollution", "stag_hunt", "chicken", "bach_stravinsky", "matching_pennies", "penalty"),
    *("appropriation", "coin_game_two_coins", "split_no_press"),
)
"""Games that are another one under another name, with other payoffs, or with less to it."""
LARGE = ("beach", "donor_game", "congestion")
"""Games of many agents, whose own tests replay them step by step."""


def takes_long(name: str) -> bool:
    return name in (*NAMESAKES, *LARGE) or (isinstance(make(name), GridWorld) and name not in CHECKED_GRIDS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if takes_long(name) else ()) for name in registered()]
)
def test_registered_environments_keep_the_contract(name):
    env = make(name)
    params = env.default_params
    if not isinstance(env, GridWorld) and getattr(params, "max_steps", 0) > 60:
        params = env.make_params(max_steps=60)  # an end to check, which takes worlds long
    check_environment(env, params)


@pytest.mark.filterwarnings("error")  # both ends of an episode are met, so nothing is left unchecked
@pytest.mark.parametrize("env", [Well(), Well(num_agents=1, depth=5)])
def test_a_correct_environment_passes(env):
    check_environment(env, num_steps=60, seed=1)


@dataclasses.dataclass(frozen=True)
class PumpedWell(Well):
    """Dictionaries of observations, continuous actions and a state that holds a random key."""

    def observation_space(self, params=None):
        return DictSpace({"level": Box(0, self.depth, (), np.int32), "drawn": Box(0, 1, (1,))})

    def action_space(self, params=None):
        return Box(0.0, 1.0, (1,))

    def initial_state(self, key, params):
        key, level_key = jax.random.split(key)
        return {"well": super().initial_state(level_key, params), "key": key}

    def transition(self, key, state, actions, params):
        next_key, rain_key = jax.random.split(state["key"])
        taken = (actions[:, 0] > 0.5).astype(jnp.int32)
        well, reward, terminated, metrics = super().transition(rain_key, state["well"], taken, params)
        return {"well": well, "key": next_key}, reward, terminated, metrics

    def is_truncated(self, state, params):
        return state["well"].time >= params.max_steps

    def observe(self, state, params):
        level = jnp.full(self.num_agents, state["well"].level)
        return {"level": level, "drawn": state["well"].drawn[:, None]}


def test_dictionaries_continuous_actions_and_keys_in_the_state_pass():
    check_environment(PumpedWell(), num_steps=60)


def test_it_warns_when_no_episode_ends():
    with pytest.warns(UserWarning, match="well: no episode ended within 5 steps"):
        check_environment(Well(depth=40), num_steps=5)


@pytest.mark.filterwarnings("error")
def test_the_parameters_that_are_given_are_played():
    check_environment(Well(depth=40), Params(max_steps=3), num_steps=5)


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="num_steps must be at least 1, got 0"):
        check_environment(Well(), num_steps=0)


# ---------------------------------------------------------------------- its broken twins
@dataclasses.dataclass(frozen=True)
class DeviceDefaults(Well):
    @property
    def default_params(self):
        return Params(rain=cast(float, jnp.float32(0.4)))


@dataclasses.dataclass(frozen=True)
class WithArray(Well):
    rates: Any = dataclasses.field(default_factory=lambda: (1, jnp.ones(2)))


class Plain(Environment):
    name = "well"
    num_agents = 2


@dataclasses.dataclass
class Thawed(Environment):
    num_agents: int = 2
    name = "well"


class ByIdentity(Well):
    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


class IntegerReward(Well):
    def transition(self, key, state, actions, params):
        state, _, terminated, metrics = super().transition(key, state, actions, params)
        return state, actions, terminated, metrics


class TeamReward(Well):
    def transition(self, key, state, actions, params):
        state, reward, terminated, metrics = super().transition(key, state, actions, params)
        return state, reward.sum(), terminated, metrics


class EndPerAgent(Well):
    def transition(self, key, state, actions, params):
        state, reward, terminated, metrics = super().transition(key, state, actions, params)
        return state, reward, jnp.full(self.num_agents, terminated), metrics


class WordyMetrics(Well):
    def transition(self, key, state, actions, params):
        state, reward, terminated, _ = super().transition(key, state, actions, params)
        return state, reward, terminated, {"time": state.time}


class ExtraInfo(Well):
    def step_env(self, key, state, actions, params) -> Any:
        *outcome, info = super().step_env(key, state, actions, params)
        return *outcome, {**info, "discount": 1.0}


class FloatClock(Well):
    def transition(self, key, state, actions, params):
        state, *rest = super().transition(key, state, actions, params)
        return state.replace(time=state.time + 1.0), *rest


class Unscaled(Well):
    def observe(self, state, params):
        return super().observe(state, params) * self.depth


class Transposed(Well):
    def observe(self, state, params):
        return super().observe(state, params).T[:, :1]


class Branches(Well):
    def transition(self, key, state, actions, params):
        if state.level > 3:
            actions = actions * 0
        return super().transition(key, state, actions, params)


class EndsTwice(Well):
    def step_env(self, key, state, actions, params):
        observation, state, reward, _, _, info = super().step_env(key, state, actions, params)
        over = self.is_truncated(state, params)
        return observation, state, reward, over, over, {**info, "terminated": over, "truncated": over}


class SaysOtherwise(Well):
    def step_env(self, key, state, actions, params) -> Any:
        *outcome, info = super().step_env(key, state, actions, params)
        return *outcome, {**info, "truncated": jnp.asarray(False)}


class InfiniteReward(Well):
    def transition(self, key, state, actions, params):
        state, reward, *rest = super().transition(key, state, actions, params)
        return state, jnp.where(state.level == 0, jnp.inf, reward), *rest


class ReusesKey(Well):
    def transition(self, key, state, actions, params):
        actions = jnp.where(jax.random.bernoulli(key, 0.1), 0, actions)
        return super().transition(key, state, actions, params)


class Moody(Well):
    def transition(self, key, state, actions, params):
        shape = jax.ShapeDtypeStruct((), np.float32)
        mood = jax.pure_callback(lambda: np.float32(np.random.rand()), shape, vmap_method="sequential")
        state, reward, *rest = super().transition(key, state, actions, params)
        return state, reward + mood, *rest


class EagerMetric(Well):
    def transition(self, key, state, actions, params):
        state, reward, terminated, metrics = super().transition(key, state, actions, params)
        if not isinstance(terminated, Tracer) and not terminated:
            metrics["water_left"] = jnp.float32(1)
        return state, reward, terminated, metrics


class EagerReward(Well):
    def transition(self, key, state, actions, params):
        state, reward, *rest = super().transition(key, state, actions, params)
        return state, reward if isinstance(reward, Tracer) else reward + 1, *rest


@custom_vmap
def _mean(x):
    return x


@_mean.def_vmap
def _mean_of_batch(axis_size, in_batched, x):
    return jnp.broadcast_to(x.mean(axis=0), x.shape), in_batched[0]


class MixesTheBatch(Well):
    def transition(self, key, state, actions, params):
        state, reward, *rest = super().transition(key, state, actions, params)
        return state, _mean(reward), *rest


class NeverResets(Well):
    def auto_reset(self, key, done, observation, state, params):
        return observation, state


class ResetsTooEarly(Well):
    def auto_reset(self, key, done, observation, state, params):
        return super().auto_reset(key, done | (state.time == 2), observation, state, params)


class ForgetsTheLast(Well):
    def step(self, key, state, actions, params=None) -> Any:
        *outcome, info = super().step(key, state, actions, params)
        return *outcome, {**info, "final_observation": outcome[0]}


class IntegerGlobalState(Well):
    def global_state(self, state, params=None):
        return state.level[None]


class SecretMask(Well):
    def action_mask(self, state, params=None):
        return jnp.stack([jnp.ones(self.num_agents, bool), jnp.full(self.num_agents, state.level > 2)], axis=1)


class NoWayOut(Well):
    masks_actions = True

    def action_mask(self, state, params=None):
        return jnp.full((self.num_agents, 2), state.level > 2)


class Overdraws(Well):
    @property
    def players(self):
        return {"random": random_player(self), "greedy": lambda observation, key: jnp.int32(2)}


class Undecided(Well):
    @property
    def players(self):
        return {"half": lambda observation, key: jnp.float32(0.5)}


@pytest.mark.parametrize(
    ("twin", "sentence"),
    [
        (DeviceDefaults, "default_params must hold Python and numpy numbers"),
        (WithArray, "field rates holds a jax array"),
        (Plain, "Plain must be a dataclass"),
        (Thawed, "Thawed must be hashable"),
        (ByIdentity, "an equal copy must be equal and hash alike"),
        (IntegerReward, r"the reward must be float32\[2\], got int32\[2\]"),
        (TeamReward, r"the reward must be float32\[2\], got float32\[\]"),
        (EndPerAgent, r"terminated must be bool\[\], got bool\[2\]"),
        (WordyMetrics, r"metric 'time' must be a float scalar or \[2\], got int32\[\]"),
        (ExtraInfo, "info must be a dict with exactly the keys .* got .*discount"),
        (FloatClock, r"the state after a step .* \.time is float32\[\], not int32\[\]"),
        (Unscaled, r"an observation lies outside observation_space: .* agent 0 at step 0"),
        (Transposed, r"the observation must be float32\[2, 2\], got float32\[2, 1\]"),
        (Branches, "cannot be traced by jax: Attempted boolean conversion"),
        (EndsTwice, r"terminated and truncated must never both be true, as at step \[8\]"),
        (SaysOtherwise, r"info\['terminated'\] and info\['truncated'\] must be those that step returns"),
        (InfiniteReward, "every reward must be finite"),
        (ReusesKey, "a random key is used more than once"),
        (Moody, "equal keys must give equal steps"),
        (EagerMetric, "jitted or not, step must return the same form: .*water_left"),
        (EagerReward, "jitted or not, step must return the same, but not at step 0"),
        (MixesTheBatch, "a vmapped step must equal single steps"),
        (NeverResets, "where an episode ends, step must return the observation and state of a fresh start"),
        (ResetsTooEarly, "where no episode ends, step must return the observation and state of step_env"),
        (ForgetsTheLast, r"info\['final_observation'\] must be the observation of step_env"),
        (IntegerGlobalState, r"global_state must be float32 \[S\], got int32\[1\]"),
        (SecretMask, "action_mask forbids an action, so masks_actions must be True"),
        (NoWayOut, "action_mask must allow every agent some action"),
        (Overdraws, "the scripted player 'greedy' gives an action outside Discrete"),
        (Undecided, r"the actions of the scripted player 'half' must be int32\[2\], got float32\[2\]"),
    ],
)
def test_a_broken_twin_is_told_which_rule_it_breaks(twin, sentence):
    with pytest.raises(AssertionError, match=rf"^well: .*{sentence}"):
        check_environment(twin(), num_steps=40)


# ---------------------------------------------------------------------- importing
def test_importing_the_environments_touches_no_device_and_no_heavy_library():
    program = "\n".join(
        (
            "import sys, marl_suite.envs, marl_suite.envs.testing, marl_suite.envs.wrappers",
            "made = [marl_suite.envs.make(name) for name in marl_suite.envs.registered()]",
            "assert len(made) > 5 and [env.default_params for env in made]",
            "heavy = {'distrax', 'gymnax', 'matplotlib', 'tensorflow_probability'} & set(sys.modules)",
            "assert not heavy, heavy",
        )
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    environ = {**os.environ, "JAX_PLATFORMS": "none_such"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
