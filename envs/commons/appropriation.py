"""Appropriation from a common-pool resource, and its closed forms.

With n agents, endowment e, outside return w and group return F(X) = a X - b X^2 of the total investment X, agent i
earns w (e - x_i) + (x_i / X) F(X) = w e + x_i (a - w - b X). All closed forms follow from the capacity
c = (a - w) / b, the investment at which the resource pays no more than the outside: c = 72 in the laboratory.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.repeated_games import NOT_YET, RepeatedGame, RepeatedGameState
from marl_suite.envs.spaces import Box


class AppropriationParams(struct.PyTreeNode):
    """Endowment and investments in tokens, returns in cents."""

    endowment: float = 25.0  # float []: e, tokens per agent and round; 10 in the laboratory's other design
    outside_return: float = 5.0  # float []: w, cents per token that is not invested
    linear_return: float = 23.0  # float []: a of F(X) = a X - b X^2, cents
    quadratic_loss: float = 0.25  # float []: b
    max_steps: int = 20  # int []


# ---------------------------------------------------------------------- closed forms
def payoffs(investments: np.ndarray, params: AppropriationParams) -> np.ndarray:
    """Cents [..., n] from investments [..., n] in tokens: w (e - x_i) + (x_i / X) F(X), w e where nobody invests."""
    x = np.asarray(investments, float)
    pool = params.linear_return - params.quadratic_loss * x.sum(axis=-1, keepdims=True)  # F(X) / X
    return params.outside_return * (params.endowment - x) + x * pool


def capacity(params: AppropriationParams) -> Any:
    """c = (a - w) / b, the total at which all rents are gone; traced parameters too."""
    return (params.linear_return - params.outside_return) / params.quadratic_loss


def rents(total: Any, params: AppropriationParams) -> Any:
    """F(X) - w X = b X (c - X), what the resource yields above the outside return; traced arguments too."""
    return params.quadratic_loss * total * (capacity(params) - total)


def optimal_investment(num_agents: int, params: AppropriationParams) -> float:
    """Each agent's equal share of the total that is best for all, c / 2, at most its endowment."""
    return float(np.clip(capacity(params) / (2 * num_agents), 0, params.endowment))


def nash_investment(num_agents: int, params: AppropriationParams) -> float:
    """Each agent's investment in the symmetric Nash equilibrium of one round: c / (n + 1), at most the endowment."""
    return float(np.clip(capacity(params) / (num_agents + 1), 0, params.endowment))


def best_response(others_total: Any, params: AppropriationParams) -> np.ndarray:
    """What pays an agent most when the others invest Y together: (c - Y) / 2, within 0 and the endowment."""
    return np.clip((capacity(params) - np.asarray(others_total, float)) / 2, 0, params.endowment)


def deviation_gain(num_agents: int, params: AppropriationParams) -> float:
    """What the best response to the others' optimal investments earns above them, per round."""
    profile = np.full(num_agents, optimal_investment(num_agents, params))
    deviation = profile.copy()
    deviation[0] = best_response(profile[1:].sum(), params)
    return float(payoffs(deviation, params)[0] - payoffs(profile, params)[0])


def check_rents(name: str, params: AppropriationParams) -> None:
    """Raises `InputError` where there is nothing to invest, or no rent to be had."""
    floors = {"endowment": 0, "quadratic_loss": 0, "linear_return": params.outside_return}
    for field, floor in floors.items():
        value = getattr(params, field)
        if not isinstance(value, Tracer) and not np.all(np.asarray(value) > np.asarray(floor)):
            raise InputError(f"{name}: parameter {field} must be above {floor}, got {value}")
    at_least(f"{name}: parameter outside_return", params.outside_return, 0)


# ---------------------------------------------------------------------- the game
@dataclasses.dataclass(frozen=True)
class Appropriation(RepeatedGame):
    """Common-pool resource: the more all invest in it the less a token returns, and each invests too much.

    Source: Ostrom, Gardner and Walker (1994), Rules, games, and common-pool resources, chapter 5; Walker, Gardner
    and Ostrom (1990), Rent dissipation in a limited-access common-pool resource.

    Rules: each of N = 8 agents splits e = 25 tokens a round. A token kept outside returns w = 5 cents; the
    resource returns F(X) = 23 X - 0.25 X^2 cents on the total X, in proportion to investments: w (e - x_i) +
    (x_i / X) F(X). In equilibrium each invests 8 and earns 141; 4.5 each would earn 165.5, and the equilibrium keeps
    128 of 324 cents of rent, 39.5 %. Where all others invest 4.5, investing 20.25 earns 227.5. Action a invests
    x = e a / (num_levels - 1): 0 nothing, the last one everything, in steps of half a token for 51 levels.
    Truncated after `max_steps` (20); a one-shot game terminates after its only step.

    Shapes: action int32, 0 .. L - 1 for L = `num_levels` (51). Observation float32 [4]: start flag, own last
    investment and the others' mean one, as shares of the endowment, and c / (2 N e), at most 1, for c = (a - w) / b:
    the share that is best for all if everybody invests it, from which, knowing N, follow the equilibrium and every
    best response. Reward float32 [N], cents. Metrics: "investment" [N], tokens; "rent_efficiency", rents as a share
    of the greatest ones, negative where the resource returns less than the outside.

    Players: best responses of three or more `greedy` agents overshoot and cycle (each answers with half of what
    the others change), while a lone one settles at once.

    Deviations: laboratory tokens are whole, and subjects had tables of F, for which the last number of the
    observation stands.

    Raises:
        InputError: for fewer than two agents or levels, or parameters without a rent.
    """

    name: str = "appropriation"
    num_agents: int = 8
    num_levels: int = 51
    one_shot: bool = False

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "greedy"
    cooperator: ClassVar[str | None] = "fair"
    defector: ClassVar[str | None] = "nash"
    definitions: ClassVar[Mapping[str, str]] = {
        "fair": "invests what is best for all when everybody does so",
        "nash": "invests what is best for itself when everybody does so, as in the one-round equilibrium",
        "greedy": "gives the best response to the others' last investments, at first the equilibrium's",
        "conditional": "invests what the others did on average, between the fair and the equilibrium's amount",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_levels", self.num_levels, 2)
        object.__setattr__(self, "num_actions", self.num_levels)

    @property
    def default_params(self) -> AppropriationParams:
        return AppropriationParams(max_steps=1) if self.one_shot else AppropriationParams()

    def check_params(self, params: AppropriationParams) -> None:
        super().check_params(params)
        check_rents(self.name, params)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (4,))

    def investments(self, actions: jax.Array, params: AppropriationParams) -> jax.Array:
        """float32 [N], in tokens."""
        return params.endowment * (actions / np.float32(self.num_levels - 1))

    def payoff(self, actions: jax.Array, params: AppropriationParams) -> jax.Array:
        x = self.investments(actions, params)
        pool = params.linear_return - params.quadratic_loss * x.sum()  # F(X) / X
        return params.outside_return * (params.endowment - x) + x * pool

    def fair_share(self, params: AppropriationParams) -> jax.Array:
        """`optimal_investment` as a share of the endowment, c / (2 N e) but at most 1."""
        return jnp.minimum(capacity(params) / (2 * self.num_agents * params.endowment), 1.0)

    def efficiency(self, rents_left: jax.Array, params: AppropriationParams) -> jax.Array:
        """`rents_left` as a share of the greatest rents."""
        best = self.num_agents * params.endowment * self.fair_share(params)
        return (rents_left / rents(best, params)).astype(jnp.float32)

    def metrics(self, actions: jax.Array, params: AppropriationParams) -> Metrics:
        x = self.investments(actions, params)
        return {"investment": x, "rent_efficiency": self.efficiency(rents(x.sum(), params), params)}

    def observe(self, state: RepeatedGameState, params: AppropriationParams) -> jax.Array:
        return self.view(state.last_actions, params)

    def view(self, last_actions: jax.Array, params: AppropriationParams) -> jax.Array:
        """float32 [N, 4]: what is observed after these actions, which are `NOT_YET` at the start."""
        started = last_actions != NOT_YET
        own = jnp.where(started, last_actions, 0)
        # Means of whole numbers, so that rounding never takes them out of 0 .. 1.
        others = (own.sum() - own) / np.float32((self.num_agents - 1) * (self.num_levels - 1))
        fair = jnp.broadcast_to(self.fair_share(params), others.shape)
        return jnp.stack([1.0 - started, own / np.float32(self.num_levels - 1), others, fair], axis=1)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`; amounts are rounded to the nearest level, ties towards less."""
        n = self.num_agents

        def invest(share: jax.Array) -> jax.Array:
            level = jnp.clip(share, 0, 1) * (self.num_levels - 1)
            return jnp.ceil(level - 0.5 - 1e-4).astype(jnp.int32)  # the margin keeps ties ties in float32

        def nash_share(view: jax.Array) -> jax.Array:
            return jnp.minimum(view[3] * (2 * n / (n + 1)), 1)

        def greedy(view: jax.Array, key: jax.Array) -> jax.Array:
            response = n * view[3] - (n - 1) / 2 * view[2]
            return invest(jnp.where(view[0] > 0, nash_share(view), response))

        return {
            "random": random_player(self),
            "fair": lambda view, key: invest(view[3]),
            "nash": lambda view, key: invest(nash_share(view)),
            "greedy": greedy,
            "conditional": lambda view, key: invest(jnp.clip(view[2], view[3], nash_share(view))),
        }
