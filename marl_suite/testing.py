"""Whether a learner keeps the contract of `marl_suite.algorithm`: a public conformance suite.

Use it in the tests of a learner of your own, in games that it is made for; one that masks actions, such as
"networked_commons", checks more than one that does not::

    import marl_suite

    def test_my_learner_keeps_the_contract():
        marl_suite.check_learner(MyConfiguration(num_envs=4), marl_suite.make("prisoners_dilemma"))
"""

import contextlib
import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite import rollout, training
from marl_suite.algorithm import Act, Configuration, EnvSpec, Learner, Trajectory, env_spec, no_update
from marl_suite.envs.environment import Environment, PyTree, at_least
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Discrete, MultiDiscrete, Space
from marl_suite.envs.testing_forms import form, require, require_equal, require_form, rows
from marl_suite.envs.wrappers import reward_view, viewed_params
from marl_suite.policies import NetworkPolicy, ScriptedPolicy, TablePolicy, TeamPolicy

_FACTS = {"num_envs": 1, "rollout_length": 1, "group_size": 1, "simulations": 0, "warm_up": 0, "buffer_bytes": 0}
"""The whole numbers among a learner's facts, and the least each can be."""
_KINDS = (NetworkPolicy, TablePolicy, ScriptedPolicy, TeamPolicy)
"""What can be exported, that is, stored."""
_TOLERANCE = 1e-3  # between a run alone and beside another: they round differently, and learning amplifies it


class _Subject(NamedTuple):
    """What is checked, with its name for messages."""

    name: str
    env: Environment  # under the learner's reward view
    spec: EnvSpec

    def build(self, configuration: Configuration, params: PyTree) -> Learner:
        """The learner, as the loop builds it."""
        spec = dataclasses.replace(self.spec, stage_payoffs=self.env.stage_payoffs(params))
        return configuration.build(spec)


class _Played(NamedTuple):
    """What a short run shows. Policies act once in all environments, after it."""

    state: PyTree  # the learner's, trained
    metrics: dict[str, jax.Array]  # of its updates
    actions: dict[str, jax.Array]  # [..., E, N, ...] by who chose them
    masks: dict[str, jax.Array | None]  # bool [..., E, N, A], likewise
    greedy: dict[str, jax.Array]  # [E, N, ...] what the greedy policy does, in ways that should not differ


def check_learner(
    configuration: Configuration, env: Environment, params: PyTree = None, num_updates: int = 2, seed: int = 0
) -> None:
    """Trains for `num_updates` in `env` and compares everything that the learner says and does with the contract.

    It checks that static fields hash and the others can be traced; the facts; shapes, dtypes and structures of all
    that the functions take and give; declared simulations; that a key is used once; that metrics and states are
    finite and actions lie in their space and are allowed; that equal keys give equal runs, and lanes of a `vmap` over
    keys and configurations what each gives alone; that greedy policies depend on neither key nor batch; and that
    `trained` keeps what policies need. Greedy play of learners that do not learn may be random, so it is not compared.

    Args:
        configuration: of the learner, with concrete numbers; the smaller its sizes, the sooner this is done.
        env: a game that it can play.
        params: concrete parameters of the game; its defaults when None.
        num_updates: updates to make.
        seed: of all random numbers.

    Raises:
        AssertionError: with one sentence that names the first rule that is broken, and where.
        InputError: when the configuration is out of range, or cannot play the game.
    """
    at_least("num_updates", num_updates, 1)
    name = f"{type(configuration).__name__} in {env.name}"
    _check_configuration(name, configuration)
    env = reward_view(env, configuration.reward_view)
    params = viewed_params(env, env.default_params if params is None else params)
    subject = _Subject(name, env, env_spec(env, params, num_updates))
    _check_facts(subject, configuration, params)
    _check_forms(subject, configuration, params)
    play = partial(_play, subject, num_updates)
    alone = _check_runs(subject, play, configuration, params, seed)
    _check_lanes(subject, play, configuration, params, seed, alone)


# ---------------------------------------------------------------------- before anything is traced
def _check_configuration(name: str, configuration: Any) -> None:
    """Fields: static ones hash, the others hold numbers."""
    subject = _Subject(name, None, None)  # type: ignore[arg-type]
    require(subject, isinstance(configuration, Configuration), "a configuration must subclass Configuration")
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        if field.metadata.get("pytree_node", True):
            numbers = all(isinstance(x, (bool, int, float, np.ndarray, np.generic, jax.Array)) for x in _leaves(value))
            rule = f"field {field.name} is traced, so it must hold numbers, got {value!r}; else declare it static(...)"
            require(subject, numbers, rule)
        else:
            rule = f"field {field.name} is static, so it must be hashable, got {value!r}"
            require(subject, _hashable(value), rule)
    configuration.check()


def _leaves(value: Any) -> list[Any]:
    return jax.tree.leaves(value)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_facts(subject: _Subject, configuration: Configuration, params: PyTree) -> None:
    """The facts, and the cleared memory."""
    learner = subject.build(configuration, params)
    require(subject, isinstance(learner, Learner), f"build must return a Learner, got {type(learner).__name__}")
    _check_numbers(subject, learner)
    for leaf in _leaves(learner.memory(3)):
        leads = jnp.shape(leaf)[:1] == (3,)
        require(subject, leads, f"memory(num_envs) must have num_envs as its first axis, got {form(leaf)} for 3")
        same = np.array_equal(np.asarray(leaf), np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))
        require(subject, same, "memory(num_envs) must be the same for every environment: it begins an episode in each")


def _check_numbers(subject: _Subject, learner: Learner) -> None:
    for fact, least in _FACTS.items():
        value = getattr(learner, fact)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        rule = f"{fact} must be a whole number of at least {least}, made of static fields alone, got {value!r}"
        require(subject, whole, rule)


# ---------------------------------------------------------------------- from tracing alone
def _check_forms(subject: _Subject, configuration: Configuration, params: PyTree) -> None:
    """Shapes, dtypes and structures; nothing is compiled."""

    def everything(configuration: Configuration, params: PyTree, key: jax.Array) -> None:
        learner, keys = subject.build(configuration, params), jax.random.split(key, 4)
        _check_numbers(subject, learner)
        state = learner.init(keys[0])
        for leaf in _leaves(state):
            require(subject, isinstance(leaf, jax.Array | np.ndarray), f"the state must hold arrays, got {leaf!r}")
        _check_acting(subject, learner, params, state, keys[1])
        _check_update(subject, learner, params, state, keys[2])

    try:
        jax.eval_shape(everything, configuration, params, jax.random.key(0))
    except jax.errors.JAXTypeError as error:  # a branch on a traced value, and its kin
        reason = str(error).splitlines()[0]
        rule = f"it cannot be traced by jax, and what fixes a shape or a branch must be static(...): {reason}"
        raise AssertionError(f"{subject.name}: {rule}") from error


def _check_acting(subject: _Subject, learner: Learner, params: PyTree, state: PyTree, key: jax.Array) -> None:
    """`act` in the learner's environments, and policies in any number of them."""
    start = rollout.start(subject.env, params, learner, key)
    seen = {learner.num_envs: (start.observation, _masks(subject.env, start.env_state, params))}
    more = learner.num_envs + 1
    seen[more] = jax.tree.map(lambda x: jnp.zeros((more, *x.shape[1:]), x.dtype), seen[learner.num_envs])
    _check_act(subject, "act", partial(learner.act, state), learner.memory(learner.num_envs), *seen[learner.num_envs])
    trained = learner.trained(state)
    if learner.export:
        exported, kinds = learner.export(trained), ", ".join(kind.__name__ for kind in _KINDS)
        rule = f"export(state) must be one of marl_suite.policies, {kinds}, got {type(exported).__name__}"
        require(subject, isinstance(exported, _KINDS), rule)
    for num_envs, (observation, mask) in seen.items():
        for greedy in (False, True):
            act = learner.policy(trained, greedy)
            _check_act(subject, f"policy(state, {greedy})", act, learner.memory(num_envs), observation, mask)


def _check_act(subject: _Subject, what: str, act: Act, memory: PyTree, observation: PyTree, mask: Any) -> None:
    result = act(memory, observation, jax.random.key(0), mask)
    triple = isinstance(result, tuple) and len(result) == 3
    require(subject, triple, f"{what} must return actions, memory and record, got {type(result).__name__}")
    actions, after, record = result
    num_envs, space = _leaves(observation)[0].shape[0], subject.spec.action_space
    shape, kind = (num_envs, subject.spec.num_agents, *space.shape), _kind(space)
    fits = jnp.shape(actions) == shape and jnp.issubdtype(jnp.result_type(actions), kind)
    require(subject, fits, f"{what} must give {kind.__name__} actions {list(shape)}, got {form(actions)}")
    require_form(subject, f"{what} must return a memory of the form that it is given", after, memory)
    for leaf in _leaves(record) if what == "act" else ():
        leads = jnp.shape(leaf)[:1] == (num_envs,)
        require(subject, leads, f"what act records must have the environments as its first axis, got {form(leaf)}")


def _kind(space: Space) -> Any:
    return jnp.integer if np.issubdtype(space.dtype, np.integer) else jnp.floating


def _check_update(subject: _Subject, learner: Learner, params: PyTree, state: PyTree, key: jax.Array) -> None:
    """`absorb`, `update` and its metrics, and how often it simulates."""
    env, calls = subject.env, []
    keys = jax.random.split(key, 3)
    start = rollout.start(env, params, learner, keys[0])
    trajectory = rollout.collect(env, params, learner, partial(learner.act, state), start, keys[1])[1]
    absorbed = learner.absorb(state, trajectory)
    require_form(subject, "absorb must return a state of the form that init gives", absorbed, state)

    def simulate(act: Act, key: jax.Array, memory: PyTree = None) -> Trajectory:
        calls.append(act)
        return rollout.simulate(env, params, learner, act, key, memory)

    result = learner.update(state, trajectory, keys[2], simulate)
    require(subject, isinstance(result, tuple) and len(result) == 2, "update must return the state and metrics")
    after, metrics = result
    require_form(subject, "update must return a state of the form that init gives", after, state)
    declared, made = learner.simulations, len(calls)
    kept = made <= declared and (made > 0) == (declared > 0)
    require(subject, kept, f"simulations declares {declared} calls of simulate, but update makes {made}")
    require(subject, isinstance(metrics, dict), f"metrics must be a dict, got {type(metrics).__name__}")
    for name, value in metrics.items():
        shaped = jnp.shape(value) in ((), (subject.spec.num_agents,))
        kept = shaped and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        require(subject, kept, f"metric {name!r} must be a float scalar or [N], got {form(value)}")


# ---------------------------------------------------------------------- from short runs
def _masks(env: Environment, env_state: PyTree, params: PyTree) -> jax.Array | None:
    """bool [E, N, A], or None in games that forbid nothing."""
    return jax.vmap(env.action_mask, (0, None))(env_state, params) if env.masks_actions else None


def _play(subject: _Subject, num_updates: int, configuration: Configuration, params: PyTree, key: jax.Array) -> _Played:
    """A run, as the loop makes it, and then policies on what is seen last."""
    env, learner = subject.env, subject.build(configuration, params)
    start_key, loop_key, sample_key, *greedy_keys = jax.random.split(key, 8)
    begun = training.start(env, params, learner, start_key)

    def iteration(carry: tuple[PyTree, Any], keys: jax.Array) -> tuple[Any, Any]:  # as the loop's
        collect_key, update_key = keys
        act = partial(learner.act, carry[0])
        reached, trajectory, _ = rollout.collect(env, params, learner, act, carry[1], collect_key)
        simulate = partial(rollout.simulate, env, params, learner)
        state, metrics = learner.update(carry[0], trajectory, update_key, simulate)
        return (state, reached), (trajectory.action, trajectory.action_mask, metrics)

    keys = jax.random.split(loop_key, (num_updates, 2))
    (state, last), (actions, masks, metrics) = jax.lax.scan(iteration, (begun.learner, begun.rollout), keys)
    seen, mask = (last.memory, last.observation), _masks(env, last.env_state, params)
    trained = learner.trained(state)
    greedy = learner.policy(trained, True)
    ways = {
        "with a key": greedy(*seen, greedy_keys[0], mask),
        "with another key": greedy(*seen, greedy_keys[1], mask),
        "alone": greedy(*jax.tree.map(lambda x: x[:1], seen), greedy_keys[2], None if mask is None else mask[:1]),
        "before trained()": learner.policy(state, True)(*seen, greedy_keys[3], mask),
    }
    if learner.export:
        ways["exported"] = learner.export(trained).act(*seen, greedy_keys[4], mask, greedy=True)
    return _Played(
        state=state,
        metrics=jax.tree.map(lambda x: x.mean(0), metrics),
        actions={
            "act": actions,
            "the policy": learner.policy(trained, False)(*seen, sample_key, mask)[0],
            "the greedy policy": ways["with a key"][0],
        },
        masks={"act": masks, "the policy": mask, "the greedy policy": mask},
        greedy={way: actions for way, (actions, *_) in ways.items()},
    )


def _run_twice(
    subject: _Subject, play: Any, configuration: Configuration, params: PyTree, seed: int
) -> tuple[_Played, _Played]:
    """A run, made twice, in which each key is used once; that is unchecked where jax cannot tell."""
    jitted = training.compiled(play)

    def twice() -> tuple[_Played, _Played]:
        first, second = (jitted(configuration, params, jax.random.key(seed)) for _ in range(2))
        return first, second

    try:
        with jax.debug_key_reuse(True):
            return twice()
    except jax.errors.KeyReuseError as error:
        # jax (0.10) takes keys that are transposed for used, as those of a scan under vmap are.
        if not _transposes_keys(jax.make_jaxpr(play)(configuration, params, jax.random.key(seed)).jaxpr):
            reason = str(error).splitlines()[0]
            raise AssertionError(f"{subject.name}: a random key is used more than once: {reason}") from error
    return twice()


def _transposes_keys(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "transpose" and _is_key(equation.invars[0].aval):
            return True
        inner = [getattr(x, "jaxpr", x) for x in _leaves(equation.params)]
        if any(_transposes_keys(x) for x in inner if hasattr(x, "eqns")):
            return True
    return False


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _check_runs(subject: _Subject, play: Any, configuration: Configuration, params: PyTree, seed: int) -> _Played:
    """What one run shows."""
    played, again = _run_twice(subject, play, configuration, params, seed)
    require_equal(subject, "equal keys must give equal runs", again, played, tolerance=0.0)
    for what, values in (("metric", played.metrics), ("the state", played.state)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(values):
            finite = not jnp.issubdtype(leaf.dtype, jnp.floating) or np.all(np.isfinite(np.asarray(leaf)))
            require(subject, finite, f"{what}{jax.tree_util.keystr(path)} must be finite after an update")
    for who, actions in played.actions.items():
        _check_actions(subject, who, np.asarray(actions), played.masks[who])
    if subject.build(configuration, params).update is not no_update:
        _check_greedy(subject, played.greedy)
    return played


def _check_actions(subject: _Subject, who: str, actions: np.ndarray, mask: jax.Array | None) -> None:
    """Actions [..., N, ...] lie in their space, and `mask` [..., N, A] allows them."""
    space = subject.spec.action_space
    if not isinstance(space, Discrete | MultiDiscrete):
        require(subject, np.all(np.isfinite(actions)), f"{who} gives an action that is not finite")
        return
    highest = np.asarray(space.n if isinstance(space, Discrete) else space.nvec)
    inside = (actions >= 0) & (actions < highest)
    require(subject, np.all(inside), f"{who} gives an action outside {space}: {actions[~inside][:1]}")
    if mask is not None:
        allowed = np.asarray(space.by_component(mask, False))
        kept = np.take_along_axis(allowed, actions[..., None], axis=-1)[..., 0]
        require(subject, np.all(kept), f"{who} gives an action that the mask forbids: {actions[~kept][:1]}")


def _check_greedy(subject: _Subject, greedy: dict[str, jax.Array]) -> None:
    """The greedy policy's actions, whatever they must not depend on."""
    wanted = greedy["with a key"]
    rules = {
        "with another key": ("the greedy policy must not depend on its key", wanted),
        "alone": ("a policy must do in one environment what it does beside others", wanted[:1]),
        "before trained()": ("trained(state) must keep what policies need, so that they act the same", wanted),
        "exported": ("export(state) must play as policy(state) does", wanted),
    }
    for way in [way for way in rules if way in greedy]:
        require_equal(subject, rules[way][0], greedy[way], rules[way][1])


def _another(configuration: Configuration) -> Configuration:
    """The same with every float a tenth smaller, where its own check allows that."""
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        if field.metadata.get("pytree_node", True) and isinstance(value, float):
            changed = configuration.replace(**{field.name: 0.9 * value})
            with contextlib.suppress(InputError):
                changed.check()
                configuration = changed
    return configuration


def _check_lanes(
    subject: _Subject, play: Any, configuration: Configuration, params: PyTree, seed: int, alone: _Played
) -> None:
    """Two seeds and configurations side by side; a lane's result is its own."""
    lanes = training.compiled(jax.vmap(play, in_axes=(0, None, 0)))

    def beside(configurations: tuple[Configuration, ...], *seeds: int) -> _Played:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return lanes(jax.tree.map(lambda *x: np.stack(x), *configurations), params, keys)

    one = beside((configuration, _another(configuration)), seed, seed + 1)
    twin = beside((configuration, configuration), seed, seed)
    rule = "a lane of a vmapped run must not depend on the other lanes"
    require_equal(subject, rule, rows(twin, 0), rows(one, 0), tolerance=0.0)
    rule = "a lane of a vmapped run must give what it gives alone"
    require_equal(subject, rule, rows(one.metrics, 0), alone.metrics, tolerance=_TOLERANCE)
