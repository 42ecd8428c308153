"""The learner's conformance suite: it passes good learners and names the rule that a broken one breaks."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from jax.custom_batching import custom_vmap

from marl_suite import check_learner
from marl_suite.algorithm import Configuration, EnvSpec, Learner, static
from marl_suite.envs import Environment, InputError
from marl_suite.envs.spaces import Discrete
from marl_suite.policies import TablePolicy

NEVER = -1e9


class Params(struct.PyTreeNode):
    max_steps: int = 3


@dataclasses.dataclass(frozen=True)
class Musical(Environment):
    """Two agents walk around three chairs, one of which is taken in turn; without chance, so that it compiles soon."""

    name: str = "musical_chairs"
    num_agents: int = 2
    masks_actions: ClassVar[bool] = True

    @property
    def default_params(self) -> Params:
        return Params()

    def observation_space(self, params=None) -> Discrete:
        return Discrete(4)

    def action_space(self, params=None) -> Discrete:
        return Discrete(3)

    def action_mask(self, state, params=None) -> jax.Array:
        """Agent i may not sit on chair (time + i) mod 3."""
        return jnp.arange(3) != (state["time"] + jnp.arange(2)[:, None]) % 3

    def initial_state(self, key, params) -> dict[str, jax.Array]:
        return {"time": jnp.int32(0)}

    def transition(self, key, state, actions, params) -> Any:
        state = {"time": state["time"] + 1}
        return state, actions.astype(jnp.float32), jnp.zeros((), bool), {}

    def is_truncated(self, state, params) -> jax.Array:
        return state["time"] >= params.max_steps

    def observe(self, state, params) -> jax.Array:
        return jnp.full(2, state["time"])


GAME = Musical()


class State(struct.PyTreeNode):
    values: jax.Array  # float32 [N, A], what each action paid lately
    rollouts: jax.Array  # int32 [], of no use after training


class Good(Configuration):
    """Keeps a running mean of what each action pays, and takes the best that is allowed, or a random one."""

    lr: float = 0.5
    num_envs: int = static(3)
    rollout_length: int = static(2)

    def build(self, spec: EnvSpec) -> Learner:
        return Learner(**self.parts(spec))

    def parts(self, spec: EnvSpec) -> dict[str, Any]:
        space: Any = spec.action_space

        def init(key):
            return State(jax.random.normal(key, (spec.num_agents, space.n)), jnp.int32(0))

        def policy(state, greedy):
            def act(memory, observation, key, mask: Any = None):
                values = jnp.broadcast_to(state.values, (*observation.shape[:2], space.n))
                allowed = jnp.where(mask, values, NEVER)
                actions = allowed.argmax(-1) if greedy else jax.random.categorical(key, allowed)
                return actions, memory + 1, {"time": memory}

            return act

        def update(state, trajectory, key, simulate):
            chosen = jax.nn.one_hot(trajectory.action, space.n)
            paid = (chosen * trajectory.reward[..., None]).mean((0, 1))
            values = (1 - self.lr) * state.values + self.lr * paid
            return State(values, state.rollouts + 1), {"paid": paid.sum(-1)}

        return {
            "init": init,
            "act": lambda state, *args: policy(state, False)(*args),
            "policy": policy,
            "update": update,
            "memory": lambda num_envs: jnp.zeros((num_envs, spec.num_agents), jnp.int32),
            "num_envs": self.num_envs,
            "rollout_length": self.rollout_length,
        }


def but(change: Any) -> Configuration:
    """The good learner with some parts changed, as `change(configuration, its parts)` says."""

    def parts(self: Good, spec: EnvSpec) -> dict[str, Any]:
        good = Good.parts(self, spec)
        return good | change(self, good)

    return type("Bad", (Good,), {"parts": parts})()


def acting(change: Any) -> Configuration:
    """The good learner, but `change(actions, memory, record, key, mask)` is what it plays, greedily too."""

    def changed(config: Good, good: dict[str, Any]) -> dict[str, Any]:
        def policy(state, greedy):
            def act(memory, observation, key, mask: Any = None):
                return change(*good["policy"](state, greedy)(memory, observation, key, mask), key, mask)

            return act

        return {"policy": policy, "act": lambda state, *args: policy(state, False)(*args)}

    return but(changed)


def greedily(change: Any) -> Configuration:
    """The good learner, but `change(actions, key, mask)` is what its greedy policy plays."""

    def changed(config: Good, good: dict[str, Any]) -> dict[str, Any]:
        def policy(state, greedy):
            def act(memory, observation, key, mask: Any = None):
                actions, memory, record = good["policy"](state, greedy)(memory, observation, key, mask)
                return (change(actions, key, mask) if greedy else actions), memory, record

            return act

        return {"policy": policy}

    return but(changed)


def updating(change: Any) -> Configuration:
    """The good learner, but `change(state, metrics, key, simulate, act, config)` is what an update gives."""

    def changed(config: Good, good: dict[str, Any]) -> dict[str, Any]:
        def update(state, trajectory, key, simulate):
            result = good["update"](state, trajectory, key, simulate)
            return change(*result, key, simulate, good["policy"](state, False), config)

        return {"update": update}

    return but(changed)


def twice(state, metrics, key, *_):
    noise = jax.random.normal(key) + jax.random.uniform(key)
    return state, {"noise": noise}


@custom_vmap
def alone(x):
    return x


@alone.def_vmap
def beside_others(axis_size, in_batched, x):
    return x + 1, True


@custom_vmap
def together(x):
    return x


@together.def_vmap
def added_up(axis_size, in_batched, x):
    return jnp.full_like(x, x.sum()), True


def upside_down(state):
    return TablePolicy(jnp.repeat(-state.values[:, None], 4, axis=1), Discrete(4), GAME.action_space())


class Listed(Good):
    sizes: Any = static(())


class Worded(Good):
    optimiser: str = "adam"


class Branching(Good):
    def parts(self, spec):
        return super().parts(spec) | ({"rollout_length": 3} if self.lr > 1 else {})


class Sized(Good):
    """Its rollout length is traced."""

    length: int = 3

    def parts(self, spec):
        return super().parts(spec) | {"rollout_length": self.length}


class Unbuilt(Good):
    def build(self, spec) -> Any:
        return self.parts(spec)


FORMS = {
    "field sizes is static, so it must be hashable": Listed(sizes=[4, 4]),
    "field optimiser is traced, so it must hold numbers, got 'adam'": Worded(),
    "build must return a Learner, got dict": Unbuilt(),
    "rollout_length must be a whole number of at least 1, .* got 0": Good(rollout_length=0),
    r"memory\(num_envs\) must have num_envs as its first axis": but(lambda c, g: {"memory": lambda n: jnp.zeros(2)}),
    "must be the same for every environment": but(lambda c, g: {"memory": jnp.arange}),
    r"cannot be traced by jax, and what fixes a shape or a branch must be static\(...\)": Branching(),
    "rollout_length must be a whole number of at least 1, made of static fields alone, got .*Trace": Sized(),
    "the state must hold arrays, got 'a'": but(lambda c, g: {"init": lambda key: {"name": "a"}}),
    "act must return actions, memory and record, got tuple": acting(lambda a, m, *_: (a, m)),
    r"act must give integer actions \[3, 2\], got int32\[2, 3\]": acting(lambda a, m, r, *_: (a.T, m, r)),
    r"act must give integer actions \[3, 2\], got float32": acting(lambda a, m, r, *_: (a * 1.0, m, r)),
    "act must return a memory of the form that it is given": acting(lambda a, m, r, *_: (a, m * 1.0, r)),
    "records must have the environments as its first axis": acting(lambda a, m, r, *_: (a, m, a.T)),
    r"policy\(state, True\) must give integer actions \[3, 2\]": greedily(lambda a, *_: a[:1]),
    r"policy\(state, True\) must give integer actions \[4, 2\]": greedily(lambda a, *_: a[:3]),
    "export.state. must be one of marl_suite.policies": but(lambda c, g: {"export": lambda state: state}),
    "absorb must return a state of the form": but(lambda c, g: {"absorb": lambda state, t: state.values}),
    "update must return the state and metrics": updating(lambda s, *_: s),
    "update must return a state of the form that init gives": updating(lambda s, m, *_: (s.values, m)),
    "declares 0 calls of simulate, but update makes 1": updating(lambda s, m, key, ask, act, c: (s, ask(act, key))),
    "declares 1 calls of simulate, but update makes 0": but(lambda c, g: {"simulations": 1}),
    "metrics must be a dict, got float": updating(lambda s, m, *_: (s, 1.0)),
    r"metric 'x' must be a float scalar or \[N\], got": updating(lambda s, m, *_: (s, {"x": jnp.zeros(3)})),
}  # fmt: skip
"""What tracing alone tells."""

RUNS = {
    "a random key is used more than once": updating(twice),
    r"metric\['x'\] must be finite": updating(lambda s, m, *_: (s, {"x": jnp.log(-1 - s.values[0, 0] ** 2)})),
    r"the state.values must be finite": updating(lambda s, m, *_: (s.replace(values=s.values / 0), m)),
    "act gives an action outside Discrete": acting(lambda a, m, r, *_: (a + 9, m, r)),
    "act gives an action that the mask forbids": acting(lambda a, m, r, key, mask: ((~mask).argmax(-1), m, r)),
    "the greedy policy gives an action outside": greedily(lambda a, *_: -1 - a),
    "the greedy policy must not depend on its key": greedily(
        lambda a, key, mask: jnp.where(mask, jax.random.uniform(key, mask.shape), NEVER).argmax(-1)
    ),
    "a policy must do in one environment what it does beside others": greedily(
        lambda a, key, mask: mask.argmax(-1) if len(a) == 1 else 2 - mask[..., ::-1].argmax(-1)
    ),
    r"trained\(state\) must keep what policies need": but(
        lambda c, g: {"trained": lambda state: state.replace(values=-state.values)}
    ),
    r"export\(state\) must play as policy\(state\) does": but(lambda c, g: {"export": upside_down}),
    "a lane of a vmapped run must not depend on the other lanes": updating(
        lambda s, m, *_: (s, {"x": together(s.values[0, 0])})
    ),
    "a lane of a vmapped run must give what it gives alone": updating(
        lambda s, m, *_: (s, {"x": alone(s.values[0, 0])})
    ),
}
"""What a short run tells."""


@pytest.mark.parametrize("rule", FORMS)
def test_a_form_that_is_broken_is_named(rule):
    with pytest.raises(AssertionError, match=rule) as caught:
        check_learner(FORMS[rule], GAME)
    assert "\n" not in str(caught.value)


ALWAYS = ("key is used", "mask", r"metric\['x'\]", "greedy policy must not", "other lanes")
"""What is always tried; the others, a few seconds each, on request (`-m slow`)."""


@pytest.mark.parametrize(
    "rule", [pytest.param(r, marks=() if any(part in r for part in ALWAYS) else pytest.mark.slow) for r in RUNS]
)
def test_a_rule_that_runs_break_is_named(rule):
    with pytest.raises(AssertionError, match=rule) as caught:
        check_learner(RUNS[rule], GAME, num_updates=1)
    assert "\n" not in str(caught.value)


def test_a_good_learner_passes():
    check_learner(Good(), GAME)


def test_a_game_that_it_cannot_play_is_no_broken_rule():
    class Choosy(Good):
        def build(self, spec):
            raise InputError("only alone")

    with pytest.raises(InputError, match="only alone"):
        check_learner(Choosy(), GAME)
    with pytest.raises(InputError, match="num_updates must be at least 1"):
        check_learner(Good(), GAME, num_updates=0)
