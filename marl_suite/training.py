"""THE loop: one iteration is collect -> update, a chunk of iterations is one compiled scan.

Every learner of the suite runs here, and nothing here knows any of them, or any game, by name. `start` and `run` are
pure functions of one seed; `fit` vmaps them over seeds, shards the seeds over devices where there are several, and
hands control back to the host between chunks, so that nothing calls out of compiled code.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite import rollout
from marl_suite.algorithm import Act, Configuration, EnvSpec, Learner, Metrics, Trajectory, env_spec
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.errors import InputError
from marl_suite.envs.wrappers import RewardView, ViewedParams, reward_view, viewed_params


class LoopState(struct.PyTreeNode):
    """Everything a run needs to go on: saving and restoring it resumes bit for bit."""

    learner: PyTree
    rollout: rollout.RolloutState
    key: jax.Array


def start(env: Environment, params: PyTree, learner: Learner, key: jax.Array) -> LoopState:
    """The state before the first update of one seed, after the learner's warm-up."""
    learner_key, rollout_key, key = jax.random.split(key, 3)
    state = LoopState(learner.init(learner_key), rollout.start(env, params, learner, rollout_key), key)

    def warm(state: LoopState, _: None) -> tuple[LoopState, None]:
        collect_key, key = jax.random.split(state.key)
        act = partial(learner.act, state.learner)
        rollout_state, trajectory = rollout.collect(env, params, learner, act, state.rollout, collect_key)[:2]
        return LoopState(learner.absorb(state.learner, trajectory), rollout_state, key), None

    return jax.lax.scan(warm, state, None, length=learner.warm_up)[0] if learner.warm_up else state


def run(
    env: Environment, params: PyTree, learner: Learner, state: LoopState, num_updates: int
) -> tuple[LoopState, Metrics]:
    """`num_updates` iterations of one seed. Metrics are averaged, and episode counts summed, over them."""

    def iteration(state: LoopState, _: None) -> tuple[LoopState, tuple[Metrics, Metrics]]:
        collect_key, update_key, key = jax.random.split(state.key, 3)
        act = partial(learner.act, state.learner)
        rollout_state, trajectory, logs = rollout.collect(env, params, learner, act, state.rollout, collect_key)
        calls = []

        def simulate(act: Act, key: jax.Array, memory: PyTree = None) -> Trajectory:
            calls.append(act)
            return rollout.simulate(env, params, learner, act, key, memory)

        learner_state, metrics = learner.update(state.learner, trajectory, update_key, simulate)
        if (len(calls) > 0) != (learner.simulations > 0) or len(calls) > learner.simulations:
            raise ValueError(f"the learner declares {learner.simulations} simulations, its update made {len(calls)}")
        return LoopState(learner_state, rollout_state, key), (logs, metrics)

    state, (logs, metrics) = jax.lax.scan(iteration, state, None, length=num_updates)
    totals = {name: logs.pop(name).sum(0) for name in ("episodes", "episode_return", "episode_length")}
    return state, jax.tree.map(lambda x: x.mean(0), {**logs, "learner": metrics}) | totals


class Plan(NamedTuple):
    """How a budget of environment steps is divided."""

    spec: EnvSpec  # the game, with the number of updates for schedules
    updates_per_chunk: int
    num_chunks: int
    steps_per_chunk: int  # environment steps, simulated ones included
    warm_up_steps: int  # environment steps before the first chunk

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.env_steps(self.num_chunks)

    def env_steps(self, chunks: int) -> int:
        """Environment steps after so many chunks."""
        return self.warm_up_steps + chunks * self.steps_per_chunk


def plan(env: Environment, params: PyTree, configuration: Configuration, steps: float, chunks: int) -> Plan:
    """Divides what a warm-up leaves of `steps` into at most `chunks` equal parts, rounded up to whole chunks.

    Raises:
        InputError: for a budget below one step or below the warm-up, or a game that the configuration cannot play.
    """
    if steps < 1 or chunks < 1:
        raise InputError(f"a run needs at least one step and one chunk, got steps={steps}, chunks={chunks}")
    learner = configuration.build(env_spec(env, params))
    per_update, warm_up = learner.steps_per_update, learner.warm_up * learner.steps_per_rollout
    if steps <= warm_up:
        raise InputError(f"the warm-up takes {warm_up} environment steps, which leaves nothing of steps={steps:.0f}")
    updates = math.ceil((steps - warm_up) / per_update)
    chunks = min(chunks, updates)
    updates_per_chunk = math.ceil(updates / chunks)
    chunks = math.ceil(updates / updates_per_chunk)
    spec = env_spec(env, params, updates_per_chunk * chunks)
    return Plan(spec, updates_per_chunk, chunks, updates_per_chunk * per_update, warm_up)


class Chunk(NamedTuple):
    """What the host sees between two chunks."""

    number: int  # of this chunk, from 1
    num_chunks: int
    env_steps: int  # per seed, so far
    state: LoopState  # [S, ...]; donated to the next chunk, so copy what must outlive it
    logs: dict[str, Any]  # numpy, [S, ...]


class Fit:
    """A run of several seeds, chunk by chunk: iterate over it.

    Args:
        env: the game.
        configuration: of the learner. Its numbers, and those of `params`, are traced.
        seeds: one run per seed, all in one program.
        steps: environment steps per seed.
        params: the game's parameters; its defaults when None. To vary a reward view's numbers, its `ViewedParams`.
        chunks: how often the host gets control; also the resolution of the learning curve.
        axes: `jax.vmap` axes, 0 or None, of (configuration, params) or of their fields, for numbers that differ
            between seeds.

    Raises:
        InputError: when the game cannot be played by the learner, nothing would be run, or the replay buffers of all
            seeds do not fit into memory.
    """

    def __init__(
        self,
        env: Environment,
        configuration: Configuration,
        seeds: Sequence[int],
        steps: float,
        params: PyTree = None,
        chunks: int = 20,
        axes: tuple[Any, Any] = (None, None),
    ):
        if not len(seeds):
            raise InputError("a run needs at least one seed, got none")
        configuration.check()
        env = reward_view(env, configuration.reward_view)
        if isinstance(env, RewardView) and not isinstance(params, ViewedParams):
            params, axes = viewed_params(env, params), (axes[0], ViewedParams(game=axes[1], view=None))
        self.env, self.configuration, self.seeds = env, configuration, tuple(seeds)
        self.params = env.default_params if params is None else params
        self._one = _first_lane((configuration, self.params), axes)
        self.plan = plan(env, self._one[1], self._one[0], steps, chunks)
        check_memory(len(self.seeds) * self.learner().buffer_bytes)

        def spec_for(params):
            return dataclasses.replace(self.plan.spec, stage_payoffs=env.stage_payoffs(params))

        def start_one(configuration, params, key):
            return start(env, params, configuration.build(spec_for(params)), key)

        def run_one(configuration, params, state):
            return run(env, params, configuration.build(spec_for(params)), state, self.plan.updates_per_chunk)

        self._start_seeds = _over_seeds(start_one, (*axes, 0), len(seeds))
        self._start = compiled(self._start_seeds)
        self._run = compiled(_over_seeds(run_one, (*axes, 0), len(seeds)), donate_argnums=2)

    def learner(self) -> Learner:
        """The learner that is being trained, on the host; with the first seed's numbers where they differ."""
        return self._one[0].build(self.plan.spec)

    def start(self) -> LoopState:
        """The state [S, ...] before the first chunk."""
        return self._start(self.configuration, self.params, self._keys())

    def shapes(self) -> LoopState:
        """The shapes and dtypes of the state, without computing it."""
        return jax.eval_shape(self._start_seeds, self.configuration, self.params, self._keys())

    def _keys(self) -> jax.Array:
        return jax.vmap(jax.random.key)(np.asarray(self.seeds, np.uint32))

    def chunks(self, state: LoopState | None = None, done: int = 0) -> Iterator[Chunk]:
        """Runs the chunks after the first `done`, from `state`."""
        current = self.start() if state is None else state
        for number in range(done + 1, self.plan.num_chunks + 1):
            current, logs = self._run(self.configuration, self.params, current)
            logs = jax.tree.map(np.asarray, logs)  # waits for the device
            yield Chunk(number, self.plan.num_chunks, self.plan.env_steps(number), current, logs)

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks()


def free_memory() -> int | None:
    """Bytes that a device has free for arrays; None where nobody says. Of the whole machine on CPU."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def check_memory(buffer_bytes: int) -> None:
    """Raises `InputError` when replay buffers of this size, of all seeds, do not fit into memory."""
    free = free_memory() if buffer_bytes else None
    if free is not None and buffer_bytes > free * jax.local_device_count():
        raise InputError(
            f"the replay buffers need {in_bytes(buffer_bytes)} and {in_bytes(free)} are free; "
            "a smaller buffer_size or fewer seeds would fit"
        )


def in_bytes(number: int) -> str:
    """`number` of bytes in a unit that people read: "3.1 MiB"."""
    power = min(max(number.bit_length() - 1, 0) // 10, 4)
    return f"{number / 1024**power:.{min(power, 1)}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def compiled(function: Callable, **options: Any) -> Callable:
    """`jax.jit` for large programs: on CPU with LLVM's first optimisation level.

    It halves compile time, which is most of a short run, and the programs run as fast (measured on IPPO's).
    """
    level = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=level, **options)


def _over_seeds(function, axes: tuple, num_seeds: int):
    """`function` vmapped over seeds, the seeds spread over as many devices as divide them evenly."""
    mapped = jax.vmap(function, in_axes=axes)
    num_devices = max(d for d in range(1, jax.local_device_count() + 1) if num_seeds % d == 0)
    if num_devices == 1:
        return mapped
    mesh = jax.make_mesh((num_devices,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    # An entry of `axes` may be a tree, as vmap's: learning rates differ between seeds, the discount does not.
    specs = jax.tree.map(lambda axis: jax.P() if axis is None else jax.P("seeds"), axes, is_leaf=lambda a: a is None)
    return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=jax.P("seeds"), check_vma=False)


def _first_lane(trees: tuple, axes: tuple) -> tuple:
    """`trees` without the seed axis that `axes` gives to some of their leaves."""

    def pick(axis: int | None, tree: PyTree) -> PyTree:
        return tree if axis is None else jax.tree.map(lambda x: np.asarray(x)[0], tree)

    return jax.tree.map(pick, axes, trees, is_leaf=lambda axis: axis is None)


def returns_of(logs: dict[str, Any]) -> np.ndarray:
    """Mean return per finished episode and agent, [S, N], from a chunk's logs; NaN where no episode finished."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(logs["episode_return"] / logs["episodes"][..., None])


def first_seed(tree: PyTree) -> PyTree:
    """The first lane of a tree with a leading seed axis."""
    return jax.tree.map(lambda x: jnp.asarray(x)[0], tree)
