"""Graduated sanctions: the first hit of a zapping beam freezes and marks, another while the mark lasts takes out.

Melting Pot's rule (Leibo et al. 2021) in externality mushrooms, territory and allelopathic harvest. Hits of one step
count one by one, so two of them take out at once.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from marl_suite.envs.environment import at_least
from marl_suite.envs.grid.state import Events, GridState, ZapParams
from marl_suite.envs.grid.world import GridWorld


class TwoHitsState(GridState):
    """See `GridState`."""

    marked: jax.Array  # int32 [N], steps that an agent's mark lasts, 0 without one


class TwoHitsParams(ZapParams):
    """The clock, the zapping beam, and what the first of two hits does; `zap_timeout` is what the second does."""

    freeze_steps: int = 25  # [], steps that whoever is hit for the first time cannot act
    mark_steps: int = 50  # [], steps after it in which another hit is a second one


def sanction(state: Any, hits: jax.Array, params: Any) -> Any:
    """The state after agents in play were hit, bool [N, N] by whom, first: warned, or taken out."""
    count = hits.sum(axis=0, dtype=jnp.int32)
    second = (count > 1) | ((count == 1) & (state.marked > 0))
    first = (count == 1) & ~second
    marked = jnp.where(first, params.mark_steps, jnp.maximum(state.marked - 1, 0))
    frozen = jnp.where(first, jnp.maximum(state.frozen, params.freeze_steps), state.frozen)
    return state.replace(
        marked=jnp.where(second, 0, marked),
        frozen=jnp.where(second, 0, frozen),
        timeout=jnp.where(second, params.zap_timeout, state.timeout),
    )


def taken_out(state: Any, events: Events) -> jax.Array:
    """bool [N]: who was hit for the second time in this step, whose rules are being carried out."""
    return events.hits["zap"].any(axis=0) & (state.timeout > 0)


@dataclasses.dataclass(frozen=True)
class TwoHitsWorld(GridWorld):
    """A world with a beam "zap" of this kind, a state that extends `TwoHitsState` and such parameters.

    Views show who is frozen and who is marked, also oneself, at home.
    """

    freezes: ClassVar[bool] = True

    def check_params(self, params: Any) -> None:
        super().check_params(params)
        for name in ("freeze_steps", "mark_steps"):
            at_least(f"{self.name}: {name}", getattr(params, name), 0)

    def strike(self, state: Any, hits: dict[str, jax.Array], params: Any) -> Any:
        return sanction(state, hits["zap"], params)

    def mark_limits(self) -> dict[str, int]:
        return {**super().mark_limits(), "marked": 1}

    def marks(self, state: Any) -> dict[str, jax.Array]:
        return {**super().marks(state), "marked": state.marked > 0}

    def state_features(self, state: Any, params: Any) -> list[jax.Array]:
        """1 / (1 + the steps that a mark lasts), per agent."""
        return [1 / (1 + state.marked)]
