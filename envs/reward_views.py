"""What agents are rewarded for: functions of everybody's material payoffs, payoff [N] -> reward [N].

A view is named by text, such as "team", "self_interest:s=0.3" or "inequity_aversion:alpha=5:beta=0.05", which
`read_view` reads. Its numbers are pytree leaves, so that they may be traced and swept within one program.
`marl_suite.envs.wrappers.RewardView` puts a view around an environment. p_i is the material payoff of agent i, r_i
its reward, N the number of agents.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from marl_suite.envs.environment import PyTree, at_least, at_most
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.plugins import Registry


class View(struct.PyTreeNode):
    """Base of reward views: fields are numbers, and `reward` is all that a view without memory adds."""

    name: ClassVar[str]
    common: ClassVar[bool] = False
    """Whether all agents get the same reward, so that they have one interest."""

    @classmethod
    def summary(cls) -> str:
        """The view in one line, and its numbers with their defaults."""
        numbers = ", ".join(f"{field.name}={field.default:.4g}" for field in dataclasses.fields(cls))
        return (cls.__doc__ or "").strip().splitlines()[0] + (f" ({numbers})" if numbers else "")

    def initial(self, num_agents: int) -> PyTree:
        """What is remembered when an episode begins; `()` where nothing is."""
        del num_agents
        return ()

    def __call__(self, payoff: jax.Array, trace: PyTree) -> tuple[jax.Array, PyTree]:
        """The rewards float32 [N] of one step's payoffs float32 [N], and what is remembered after it."""
        return self.reward(payoff), trace

    def reward(self, payoff: jax.Array) -> jax.Array:
        """float32 [N] -> float32 [N]."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises `InputError` when a concrete number is out of range."""

    def with_numbers(self, **numbers: Any) -> "View":
        """This view with some numbers replaced; text is read as a number.

        Raises:
            InputError: for an unknown number, something that is not a finite number, or one that is out of range.
        """
        for key, value in numbers.items():
            if key not in (known := numbers_of(self)):
                raise unknown_name(f"number of reward view {self.name}:", key, known)
            numbers[key] = _finite(f"{self.name}: {key}", value)
        view = self.replace(**numbers)
        view.check()
        return view


def numbers_of(view: View) -> tuple[str, ...]:
    """The names of a view's numbers."""
    return tuple(field.name for field in dataclasses.fields(view))


def _finite(what: str, value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise InputError(f"{what} must be finite, got {value!r}")
    return number


def others_mean(payoff: jax.Array) -> jax.Array:
    """float32 [N]: what the others get on average, for each of two or more agents."""
    return (payoff.sum() - payoff) / (len(payoff) - 1)


# ---------------------------------------------------------------------- whose payoffs count
class Individual(View):
    """Each agent is rewarded with its own payoff: r_i = p_i."""

    name = "individual"

    def reward(self, payoff: jax.Array) -> jax.Array:
        return payoff


class Team(View):
    """Each agent is rewarded with the sum of all payoffs: r_i = sum_j p_j."""

    name = "team"
    common = True

    def reward(self, payoff: jax.Array) -> jax.Array:
        return jnp.full_like(payoff, payoff.sum())


class TeamMean(View):
    """Each agent is rewarded with the mean of all payoffs: r_i = (1 / N) sum_j p_j."""

    name = "team_mean"
    common = True

    def reward(self, payoff: jax.Array) -> jax.Array:
        return jnp.full_like(payoff, payoff.mean())


class SelfInterest(View):
    """Each agent keeps a share s and gives the rest to the others: r_i = s p_i + (1 - s) / (N - 1) sum_{j!=i} p_j.

    Source: Willis, Du, Leibo and Luck (2024), Resolving social dilemmas with minimal reward transfer. What is given,
    in equal parts, is received, so that rewards add up to payoffs. The largest s at which cooperation is weakly
    dominant is the game's symmetrical self-interest level: 0.6 in the prisoner's dilemma 3, 0, 5, 1, and r / N in
    linear public goods. s = 1 is "individual", s = 1 / N is "team_mean". The default is nobody's published value.
    """

    name = "self_interest"

    s: float = 0.5  # float [], 0 .. 1

    def reward(self, payoff: jax.Array) -> jax.Array:
        return self.s * payoff + (1 - self.s) * others_mean(payoff)

    def check(self) -> None:
        at_least(f"{self.name}: s", self.s, 0)
        at_most(f"{self.name}: s", self.s, 1)


class SocialValueOrientation(View):
    """Each agent pays for how far payoffs are from the split it likes: r_i = p_i - w |theta - atan2(q_i, p_i)|.

    Source: McKee, Gemp, McWilliams, Duenez-Guzman, Hughes and Leibo (2020), Social diversity and social preferences
    in mixed-motive reinforcement learning: its reward angle and the utility made of it. q_i is the mean payoff of the
    others, theta the preferred angle: 0 is selfish, 45 likes equality, 90 is altruistic.

    Choices: `angle` is in degrees and `weight` per radian, so that a split that is 90 degrees off costs pi / 2 times
    it; its default is nobody's published value. Angles of payoffs that are not negative lie between 0 and 90 degrees;
    atan2 goes on from there into the other quadrants, and the deviation is the shorter way round, at most 180 degrees.
    Where an agent gets nothing, and the others nothing on average, there is no angle and nothing is paid, so that idle
    steps cost nothing. The weight is not multiplied by N, as it is in SocialJax (Guo et al. 2025).
    """

    name = "social_value_orientation"

    angle: float = 45.0  # float [], degrees, -180 .. 180
    weight: float = 0.2  # float [], in units of payoff per radian

    def reward(self, payoff: jax.Array) -> jax.Array:
        others = others_mean(payoff)
        deviation = jnp.abs(jnp.arctan2(others, payoff) - jnp.deg2rad(self.angle))
        deviation = jnp.minimum(deviation, 2 * jnp.pi - deviation)
        return payoff - self.weight * jnp.where((payoff == 0) & (others == 0), 0.0, deviation)

    def check(self) -> None:
        at_least(f"{self.name}: angle", self.angle, -180)
        at_most(f"{self.name}: angle", self.angle, 180)
        at_least(f"{self.name}: weight", self.weight, 0)


# ---------------------------------------------------------------------- inequity
def inequity(standing: jax.Array, alpha: jax.Array | float, beta: jax.Array | float) -> jax.Array:
    """float32 [N]: alpha times how far others are ahead on average, plus beta times how far they are behind."""
    lead = standing[None, :] - standing[:, None]  # [i, j]: by how much j is ahead of i
    envy, guilt = jnp.maximum(lead, 0).sum(1), jnp.maximum(-lead, 0).sum(1)
    return (alpha * envy + beta * guilt) / (len(standing) - 1)


class FehrSchmidt(View):
    """Envy and guilt: r_i = p_i - (alpha sum_j max(p_j - p_i, 0) + beta sum_j max(p_i - p_j, 0)) / (N - 1).

    Source: Fehr and Schmidt (1999), A theory of fairness, competition, and cooperation, equation (1) (two players: 2).
    alpha is the dislike of being behind, beta that of being ahead. The defaults are the means of their table III,
    where alpha is 0, 0.5, 1 or 4 for 30, 30, 30 and 10 percent of people and beta 0, 0.25 or 0.6 for 30, 30 and 40.
    """

    name = "fehr_schmidt"

    alpha: float = 0.85  # float [], envy
    beta: float = 0.315  # float [], guilt

    def reward(self, payoff: jax.Array) -> jax.Array:
        return payoff - inequity(payoff, self.alpha, self.beta)

    def check(self) -> None:
        for field in ("alpha", "beta"):
            at_least(f"{self.name}: {field}", getattr(self, field), 0)


class InequityAversion(FehrSchmidt):
    """Envy and guilt over time: r_i = p_i - (alpha sum_j max(e_j - e_i, 0) + beta sum_j max(e_i - e_j, 0)) / (N - 1).

    The smoothed payoffs are e_i(t) = decay e_i(t - 1) + p_i(t), with e_i = 0 before the first step of an episode.

    Source: Hughes et al. (2018), Inequity aversion improves cooperation in intertemporal social dilemmas: the
    subjective reward and the smoothed rewards it compares. decay is gamma lambda there, with gamma = 0.99 and lambda =
    0.975; alpha = 5 and beta = 0.05. An idle step costs nothing while the traces are equal. Deviation: the source lets
    agents see the smoothed rewards; here observations are the game's own.
    """

    name = "inequity_aversion"

    alpha: float = 5.0  # float [], envy
    beta: float = 0.05  # float [], guilt
    decay: float = 0.99 * 0.975  # float [], 0 .. 1, of the smoothed payoffs per step

    def initial(self, num_agents: int) -> jax.Array:
        """float32 [N]: the smoothed payoffs e."""
        return jnp.zeros(num_agents)

    def __call__(self, payoff: jax.Array, trace: jax.Array) -> tuple[jax.Array, jax.Array]:
        trace = self.decay * trace + payoff
        return payoff - inequity(trace, self.alpha, self.beta), trace

    def check(self) -> None:
        super().check()
        at_least(f"{self.name}: decay", self.decay, 0)
        at_most(f"{self.name}: decay", self.decay, 1)


# ---------------------------------------------------------------------- by name
REWARD_VIEWS: Mapping[str, type[View]] = {
    view.name: view
    for view in (Individual, Team, TeamMean, SelfInterest, SocialValueOrientation, FehrSchmidt, InequityAversion)
}
"""The suite's own reward views by name; the first line of a view's docstring is its formula."""

_REGISTRY = Registry("reward view", "marl_suite.reward_views", View)
register, registered = _REGISTRY.register, _REGISTRY.names
for _name, _view in REWARD_VIEWS.items():
    register(_name, _view)


def listing() -> dict[str, str]:
    """Every name with the view in one line, or with why it is unusable."""
    return _REGISTRY.listing(lambda name: _REGISTRY.find(name)[0].summary())


def read_view(text: str) -> View:
    """The view that `text` names: a name of `registered()`, then ":number=value" for those that differ from defaults.

    Raises:
        InputError: for an unknown or unusable view, or a number that is unknown, given twice, not a number or out of
            range.
    """
    name, *settings = text.split(":")
    cls, defaults = _REGISTRY.find(name)
    numbers: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"a number of reward view {name} is written name=value, got {setting!r}")
        if key in numbers:
            raise InputError(f"{name}: {key} is given twice")
        numbers[key] = value
    return cls().with_numbers(**{**defaults, **numbers})
