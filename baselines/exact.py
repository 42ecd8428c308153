"""Exact opponent shaping: gradient rules on the exact values of memory-one play, without sampling.

Two players ascend V1(x, y) and V2(x, y). A naive player follows grad_1 V1 as if the other stood still; the others
reckon with the other's step y -> y + eta grad_2 V2, from here on "the step":

    lookahead  grad_1 V1(x, y + eta sg(grad_2 V2))                 the step is foreseen, but taken for fixed
    lola_a     grad_1 V1 + eta (grad_1 grad_2 V2) sg(grad_2 V1)    Foerster et al. (2018)
    lola_b     grad_1 [V1 + eta grad_2 V1 . grad_2 V2]             its surrogate, differentiated throughout
    lola_c     grad_1 V1(x, y + eta grad_2 V2(x, y))               the step is foreseen, and led
    sos        lola_b with its shaping term scaled by p            Letcher et al. (2019), algorithm 1

sg stops the gradient. The three LOLAs are different algorithms, with different fixed points: in the tandem game of
Letcher et al., losses (x + y)^2 - 2x and (x + y)^2 - 2y, they stop at 5/16, 4/9 and 0.4102 (eta = 0.1), where naive
players and SOS reach the equilibria's 0. All directions are those of simultaneous steps from the old parameters.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.lax import stop_gradient as sg

from marl_suite.algorithm import Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.envs.environment import PyTree, at_least, one_of
from marl_suite.envs.errors import InputError
from marl_suite.games.repeated import discounted_value
from marl_suite.policies import TablePolicy

Scalar: TypeAlias = jax.Array | float
Values: TypeAlias = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(x, y) -> (V1, V2), what each player wants more of; x and y are arrays of any shapes."""
Rule: TypeAlias = Callable[[Values, jax.Array, jax.Array, Scalar, int], tuple[jax.Array, jax.Array]]
"""(values, x, y, eta, lookaheads) -> ascent directions of x and y."""


def gradient(values: Values, player: int, wrt: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(x, y) -> the gradient of the value of `player` in the parameters of `wrt`, both 0 or 1."""
    return jax.grad(lambda x, y: values(x, y)[player], argnums=wrt)


def mirrored(values: Values) -> Values:
    """The same game with the players' places exchanged."""

    def exchanged(y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = values(x, y)
        return second, first

    return exchanged


def for_both(direction: Callable[..., jax.Array]) -> Rule:
    """The rule by which both players move as `direction` tells the first."""

    @functools.wraps(direction)
    def rule(values: Values, x: jax.Array, y: jax.Array, eta: Scalar, lookaheads: int = 1):
        return direction(values, x, y, eta, lookaheads), direction(mirrored(values), y, x, eta, lookaheads)

    return rule


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The inner product of arrays of one shape."""
    return jnp.sum(a * b)


def stepped(values: Values, x: jax.Array, y: jax.Array, eta: Scalar, lookaheads: int) -> jax.Array:
    """The second player's parameters after naive steps, a function of the first's."""
    for _ in range(lookaheads):
        y = y + eta * gradient(values, 1, 1)(x, y)
    return y


def mixed_term(values: Values, x: jax.Array, y: jax.Array, player: int) -> jax.Array:
    """(grad_1 grad_2 V_player) grad_2 V_other: of player 1 the shaping term, how x turns the other's step to the first
    player's good; of player 0 how that step changes the first player's gradient.

    It is the gradient of one inner product: no Hessian is ever made.
    """
    fixed = sg(gradient(values, 1 - player, 1)(x, y))
    return jax.grad(lambda x: dot(gradient(values, player, 1)(x, y), fixed))(x)


@for_both
def naive(values, x, y, eta, lookaheads):
    """Independent gradient ascent, each as if the other stood still."""
    return gradient(values, 0, 0)(x, y)


@for_both
def lookahead(values, x, y, eta, lookaheads):
    """LookAhead, which foresees the other's step and takes it for fixed (Zhang and Lesser 2010)."""
    # Letcher et al. (2019) compare with its expansion to first order in eta, which SOS is built on.
    return gradient(values, 0, 0)(x, sg(stepped(values, x, y, eta, lookaheads)))


@for_both
def lola_a(values, x, y, eta, lookaheads):
    """LOLA as published (Foerster et al. 2018): the naive gradient and the shaping term."""
    return gradient(values, 0, 0)(x, y) + eta * mixed_term(values, x, y, 1)


@for_both
def lola_b(values, x, y, eta, lookaheads):
    """LOLA's first-order surrogate, differentiated throughout (Letcher et al. 2019)."""

    def surrogate(x):
        return values(x, y)[0] + eta * dot(gradient(values, 0, 1)(x, y), gradient(values, 1, 1)(x, y))

    return jax.grad(surrogate)(x)


@for_both
def lola_c(values, x, y, eta, lookaheads):
    """LOLA through the other's steps themselves (the exact limit of LOLA-DiCE, Foerster et al. 2018)."""
    return jax.grad(lambda x: values(x, stepped(values, x, y, eta, lookaheads))[0])(x)


def sos(values: Values, x: jax.Array, y: jax.Array, eta: Scalar, lookaheads: int = 1, a: float = 0.5, b: float = 0.1):
    """Stable opponent shaping, LOLA that keeps stable fixed points (Letcher et al. 2019)."""
    games = ((values, x, y), (mirrored(values), y, x))
    xi = [gradient(v, 0, 0)(own, other) for v, own, other in games]
    xi_0 = [g + eta * mixed_term(*game, 0) for g, game in zip(xi, games, strict=True)]
    chi = [eta * mixed_term(*game, 1) for game in games]
    # p1: shaping may turn LookAhead's direction, but not undo more than a share a of it. p2: it fades near a fixed
    # point. Signs differ from the source's, which descends on losses.
    along = sum(map(dot, chi, xi_0))
    most = a * sum(map(dot, xi_0, xi_0)) / jnp.where(along < 0, -along, 1.0)
    p1 = jnp.where(along < 0, jnp.minimum(1.0, most), 1.0)
    squared = sum(map(dot, xi, xi))
    p = jnp.minimum(p1, jnp.where(squared < b**2, squared, 1.0))
    return xi_0[0] + p * chi[0], xi_0[1] + p * chi[1]


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (naive, lookahead, lola_a, lola_b, lola_c, sos)}
SEVERAL_STEPS = ("lookahead", "lola_c")
"""The rules that can foresee more than one step of the other."""


def with_last_action(logits: jax.Array) -> jax.Array:
    """Logits [..., A] from those relative to the last action [..., A - 1], whose own is zero."""
    return jnp.concatenate([logits, jnp.zeros_like(logits[..., :1])], axis=-1)


def policies(logits: jax.Array) -> jax.Array:
    """Action probabilities [..., A] from logits [..., A - 1] relative to the last action."""
    return jax.nn.softmax(with_last_action(logits))


class ExactState(struct.PyTreeNode):
    """Memory-one policies of both players; states are in the first person, see `marl_suite.games.repeated`."""

    logits: jax.Array  # float32 [2, S + 1, A - 1] relative to the last action: with two actions those of the first
    optimiser: PyTree


class ExactShaping(Configuration):
    """Opponent shaping on exact values of memory-one play, for both players of a repeated matrix game.

    The defaults are Foerster et al.'s (2018): step sizes of one for *unnormalised* values, which are 1 / (1 - gamma)
    times those of a step. Episodes are played for the learning curve only; nothing is learned from them.
    """

    group: ClassVar[str] = "exact"

    rule: str = static("lola_a")  # one of RULES
    lr: float = 1.0
    lookahead_lr: float = 1.0  # eta, the other's step as foreseen
    lookaheads: int = static(1)  # steps of the other that are foreseen; lookahead and lola_c only
    gamma: float = 0.96  # discount
    optimiser: str = static("sgd")  # or adam
    initial_scale: float = 1.0  # standard deviation of the first logits
    num_envs: int = static(1)
    rollout_length: int = static(50)

    @property
    def summary(self) -> str:
        return f"On exact values of memory-one play: {(RULES[self.rule].__doc__ or '').strip()}"

    def check(self) -> None:
        one_of("exact.rule", self.rule, tuple(RULES))
        one_of("exact.optimiser", self.optimiser, ("sgd", "adam"))
        for field in ("num_envs", "rollout_length", "lookaheads"):
            at_least(f"exact.{field}", getattr(self, field), 1)
        for field in ("lr", "lookahead_lr", "initial_scale", "gamma"):
            at_least(f"exact.{field}", getattr(self, field), 0)
        if np.any(np.asarray(self.gamma) >= 1):
            raise InputError(f"exact.gamma must be below 1, where endless games have values, got {self.gamma}")
        if self.lookaheads > 1 and self.rule not in SEVERAL_STEPS:
            raise InputError(f"exact.lookaheads must be 1 for {self.rule}; {' and '.join(SEVERAL_STEPS)} take more")

    def build(self, spec: EnvSpec) -> Learner:
        if spec.joint is not None:
            raise InputError("exact learners move both players by one rule, so they cannot be part of a composition")
        payoffs = spec.stage_payoffs
        if payoffs is None or payoffs.ndim != 3:
            raise InputError(
                "exact learners need a repeated (not one-shot) two-player matrix game; "
                f"this {spec.name} has no closed form"
            )
        num_actions = payoffs.shape[-1]
        chex.assert_shape(payoffs, (2, num_actions, num_actions))
        optimiser = {"sgd": optax.sgd, "adam": optax.adam}[self.optimiser](self.lr)

        def values(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            first, second = discounted_value(policies(jnp.stack([x, y])), payoffs, self.gamma)
            return first, second

        def init(key: jax.Array) -> ExactState:
            logits = self.initial_scale * jax.random.normal(key, (2, num_actions**2 + 1, num_actions - 1))
            return ExactState(logits, optimiser.init(logits))

        def export(state: ExactState) -> TablePolicy:
            return TablePolicy(with_last_action(state.logits), spec.observation_space, spec.action_space)

        def update(
            state: ExactState, trajectory: Trajectory, key: jax.Array, simulate: Simulate
        ) -> tuple[ExactState, Metrics]:
            del trajectory, key, simulate
            x, y = state.logits
            ascent = jnp.stack(RULES[self.rule](values, x, y, self.lookahead_lr, self.lookaheads))
            shaping = ascent - jnp.stack(naive(values, x, y, 0.0, 1))
            steps, optimiser_state = optimiser.update(-ascent, state.optimiser)
            average = (1 - self.gamma) * jnp.stack(values(x, y))
            metrics = {"value": average.mean(), "shaping_norm": jnp.linalg.norm(shaping.ravel())}
            return ExactState(state.logits + steps, optimiser_state), metrics

        return Learner(
            init=init,
            act=lambda state, *args: export(state).act(*args),
            export=export,
            update=update,
            num_envs=self.num_envs,
            rollout_length=self.rollout_length,
        )
