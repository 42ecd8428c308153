"""Appropriation from a common-pool resource by agents who may fine each other."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marl_suite.envs.commons.appropriation import Appropriation, AppropriationParams, check_rents
from marl_suite.envs.commons.sanctions import SanctionsGame, SanctionsState
from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, random_player
from marl_suite.envs.spaces import Discrete


class SanctionedAppropriationParams(AppropriationParams):
    """The same, and what sanctions cost, in cents."""

    fee: float = 20.0  # float []: what fining somebody costs
    fine: float = 80.0  # float []: what it takes from who is fined
    max_steps: int = 40  # int [], two a round


@dataclasses.dataclass(frozen=True)
class SanctionedAppropriation(SanctionsGame):
    """Common-pool resource with sanctions: fining whoever took too much serves all and costs who does it.

    Source: Ostrom, Walker and Gardner (1992), Covenants with and without a sword, American Political Science Review
    86.

    Rules: rounds of two steps. First everybody invests, as in `Appropriation`, and is paid. Then all investments are
    seen, and each agent may fine one other or nobody: that costs it a fee of 20 cents and the other a fine of 80,
    several fines add up, and payoffs may be negative. Laboratory ratios of fee to fine were 1 : 2 and 1 : 4.
    The best deviation from 4.5 each gains 62.02, so one fine of 80 takes all of it, and four of 20; nobody gains
    by fining, so in the symmetric equilibrium of a round that is perfect in its second stage nobody is fined and
    each invests 8. Truncated after `max_steps` (40), or terminated there with `known_end`.

    Shapes: action int32, 0 .. max(L, N) - 1 for L = `num_levels` (51), masked by stage. First 0 .. L - 1, the share
    a / (L - 1) of the endowment. Then 0 fines nobody and j = 1 .. N - 1 the agent j places further in turn. An
    action that the mask forbids invests everything in the first stage and fines nobody in the second. Observation
    float32 [4 + N + 2]: that of `Appropriation`; whether this is the second stage; the share of steps left (0 without
    `known_end`); each other agent's last investment in turn from oneself, as a share of the endowment; and the
    number of fines received in the last round as a share of N - 1. Reward float32 [N], cents: earnings in the first
    stage, fees and fines in the second. Metrics, tables show them per round: "investment" [N], tokens; "points"
    [N], fines given; "rent_efficiency"; "sanction_losses", fees and fines as a share of the greatest rents; and
    "net_rent_efficiency", the difference of both.

    Deviations: laboratory sessions began with rounds without sanctions. That each subject could fine one other a round,
    and not learn who had fined it, is how the source is remembered here, as are the amounts.

    Raises:
        InputError: for fewer than two agents or levels, an odd `max_steps`, or parameters without a rent.
    """

    name: str = "appropriation_with_sanctions"
    num_agents: int = 8
    num_levels: int = 51
    known_end: bool = False

    own_view_size: ClassVar[int] = 4
    exploiter: ClassVar[str | None] = "greedy"
    cooperator: ClassVar[str | None] = "fair"
    defector: ClassVar[str | None] = "nash"
    definitions: ClassVar[Mapping[str, str]] = {
        **{name: f"{text}, and fines nobody" for name, text in Appropriation.definitions.items()},
        "enforcer": "invests what is best for all, and fines the other that invested most, if more than that",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_levels", self.num_levels, 2)

    @property
    def default_params(self) -> SanctionedAppropriationParams:
        return SanctionedAppropriationParams()

    def check_params(self, params: SanctionedAppropriationParams) -> None:
        super().check_params(params)
        check_rents(self.name, params)

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(max(self.num_levels, self.num_agents))

    def action_mask(self, state: SanctionsState, params: PyTree = None) -> jax.Array:
        actions = np.arange(self.action_space().n)
        allowed = jnp.where(state.sanctioning, actions < self.num_agents, actions < self.num_levels)
        return jnp.broadcast_to(allowed, (self.num_agents, len(actions)))

    @property
    def game(self) -> Appropriation:
        return Appropriation(num_agents=self.num_agents, num_levels=self.num_levels)

    @property
    def most_points(self) -> int:
        return 1

    def read(self, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        points = (actions[:, None] == np.arange(1, self.num_agents)).astype(jnp.int32)
        return jnp.minimum(actions, self.num_levels - 1), points

    def shares(self, choices: jax.Array) -> jax.Array:
        return choices / np.float32(self.num_levels - 1)

    def own_view(self, state: SanctionsState, shares: jax.Array, params: PyTree) -> jax.Array:
        return self.game.view(state.choices, params)

    def sanction_metrics(
        self, choices: jax.Array, points: jax.Array, reward: jax.Array, params: SanctionedAppropriationParams
    ) -> Metrics:
        return {"sanction_losses": self.game.efficiency(-reward.sum(), params)}

    def derived_metrics(self, means: Metrics) -> Metrics:
        """Everything per round, and the efficiency that sanctions leave."""
        means = super().derived_metrics(means)
        return means | {"net_rent_efficiency": means["rent_efficiency"] - means["sanction_losses"]}

    @property
    def players(self) -> Mapping[str, Player]:
        """Those of `Appropriation`, who fine nobody, and `enforcer`, who fines the greediest (the first in turn)."""
        investors = {name: player for name, player in self.game.players.items() if name != "random"}
        half_a_step = 0.5 / (self.num_levels - 1)

        def forgiving(player: Player) -> Player:
            return lambda view, key: jnp.where(view[4] > 0, 0, player(view, key))

        def enforcer(view: jax.Array, key: jax.Array) -> jax.Array:
            others = view[6 : 6 + self.num_agents - 1]
            most = jnp.argmax(others).astype(jnp.int32)
            fined = jnp.where(jnp.max(others) > view[3] + half_a_step, 1 + most, 0)
            return jnp.where(view[4] > 0, fined, investors["fair"](view, key))

        forgivers = {name: forgiving(player) for name, player in investors.items()}
        return {"random": random_player(self)} | forgivers | {"enforcer": enforcer}
