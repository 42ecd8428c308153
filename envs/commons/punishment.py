"""The public goods game in which givers can make free riders pay, and its closed forms."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.commons.sanctions import SanctionsGame, SanctionsState
from marl_suite.envs.environment import Metrics, Player, PyTree, at_least, random_player
from marl_suite.envs.graphs import in_turn
from marl_suite.envs.n_player_dilemmas import PublicGoods
from marl_suite.envs.repeated_games import NOT_YET
from marl_suite.envs.spaces import MultiDiscrete


class PunishmentParams(struct.PyTreeNode):
    """The numbers of the public goods game with punishment, in money units."""

    endowment: float = 20.0  # float []: e, what an agent can give per round
    multiplication_factor: float = 1.6  # float []: r; each unit given returns r / N = 0.4 to everybody
    fee: float = 1.0  # float []: what a deduction point costs who gives it
    fine: float = 3.0  # float []: what it takes from who gets it
    max_steps: int = 12  # int [], two a round


def free_riding_gain(num_agents: int, params: PunishmentParams) -> float:
    """What giving nothing earns above giving everything in one first stage, whatever others do: e (1 - r / N)."""
    return float(params.endowment * (1 - params.multiplication_factor / num_agents))


@dataclasses.dataclass(frozen=True)
class PublicGoodsWithPunishment(SanctionsGame):
    """Public goods with punishment: punishing free riders makes giving pay, but costs who does it.

    Source: Fehr and Gaechter (2002), Altruistic punishment in humans, Nature 415.

    Rules: rounds of two steps. First each of N = 4 agents gives x_i out of e = 20 as in `PublicGoods` and gets
    e - x_i + (r / N) sum_j x_j with r = 1.6, so that a unit given returns 0.4 to everybody. Then all contributions
    are seen, and each agent gives each other one 0 to 10 deduction points: a point costs the giver 1 and takes 3
    from the other. Fines take no more than the first stage earned; what giving points costs comes off in any case.
    Giving nothing gains 12 in the first stage; four points take all of it, so that free riding no longer pays, and
    five make it a loss. Points only cost who gives them, so in the one subgame-perfect equilibrium nobody
    punishes and nobody gives. Action level a gives x = e (1 - a / (num_levels - 1)): 0 all, the last one nothing.
    Six rounds, as the players know: with `known_end` the game terminates after `max_steps` (12), else the clock
    truncates it.

    Shapes: action int32 [N]: a level 0 .. L - 1 for L = `num_levels` (21), and 0 .. P points for P = `max_points` (10)
    to each other agent in turn from oneself. The mask allows points of 0 alone in the first stage, and level 0 alone
    in the second; what comes anyway is ignored. Observation float32 [N + 4]: start flag; own last contribution, as a
    share of the endowment; whether this is the second stage; the share of steps left (0 without `known_end`); the
    others' last contributions in turn from oneself; and the points received in the last round as a share of
    P (N - 1). Reward float32 [N], money units: earnings in the first stage, costs and fines in the second. Metrics,
    which tables show per round: "cooperation" [N], share contributed; "points" [N], given; "antisocial_points" [N],
    given to agents that contributed at least as much as the giver.

    Deviations: the laboratory's groups were new in each round, these stay together, so a mere fear of revenge may
    keep agents from punishing. That fines stop at zero is the rule of Herrmann, Thoeni and Gaechter (2008), who
    repeated the experiment in 16 cities. Players learn how many points they got, not from whom.

    Raises:
        InputError: for fewer than two agents or levels, no point to give, or an odd `max_steps`.
    """

    name: str = "public_goods_with_punishment"
    num_agents: int = 4
    num_levels: int = 21
    max_points: int = 10
    known_end: bool = True

    own_view_size: ClassVar[int] = 2
    exploiter: ClassVar[str | None] = "free_rider"
    cooperator: ClassVar[str | None] = "contributor"
    defector: ClassVar[str | None] = "free_rider"
    definitions: ClassVar[Mapping[str, str]] = {
        "contributor": "gives all it can in every round, and punishes nobody",
        "free_rider": "gives and punishes nothing",
        "altruistic_punisher": "gives all, and who gave less gets points for it: three for giving nothing",
        "deterred_free_rider": "gives nothing until it is punished, and everything from then on",
        "conditional_cooperator": "gives all at first, then what the others gave on average, and punishes nobody",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        at_least(f"{self.name}: num_levels", self.num_levels, 2)
        at_least(f"{self.name}: max_points", self.max_points, 1)

    @property
    def default_params(self) -> PunishmentParams:
        return PunishmentParams()

    def check_params(self, params: PunishmentParams) -> None:
        super().check_params(params)
        at_least(f"{self.name}: parameter endowment", params.endowment, 0)
        at_least(f"{self.name}: parameter multiplication_factor", params.multiplication_factor, 0)

    def action_space(self, params: PyTree = None) -> MultiDiscrete:
        return MultiDiscrete((self.num_levels, *(self.max_points + 1,) * (self.num_agents - 1)))

    def action_mask(self, state: SanctionsState, params: PyTree = None) -> jax.Array:
        levels, *points = (np.arange(n) == 0 for n in self.action_space().nvec)
        first = np.concatenate([np.ones_like(levels), *points])
        second = np.concatenate([levels, *(np.ones_like(point) for point in points)])
        return jnp.broadcast_to(jnp.where(state.sanctioning, second, first), (self.num_agents, len(first)))

    @property
    def game(self) -> PublicGoods:
        return PublicGoods(num_agents=self.num_agents, num_levels=self.num_levels)

    @property
    def most_points(self) -> int:
        return self.max_points

    def read(self, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return actions[:, 0], actions[:, 1:]

    def shares(self, choices: jax.Array) -> jax.Array:
        return (self.num_levels - 1 - choices) / np.float32(self.num_levels - 1)

    def losses(self, fines: jax.Array, earned: jax.Array) -> jax.Array:
        """Fines take no more than the first stage earned."""
        return jnp.minimum(fines, earned)

    def own_view(self, state: SanctionsState, shares: jax.Array, params: PyTree) -> jax.Array:
        return jnp.stack([(state.choices == NOT_YET).astype(jnp.float32), shares], axis=1)

    def sanction_metrics(
        self, choices: jax.Array, points: jax.Array, reward: jax.Array, params: PunishmentParams
    ) -> Metrics:
        gave_as_much = in_turn(choices)[:, 1:] <= choices[:, None]
        return {"antisocial_points": jnp.sum(points * gave_as_much, axis=1).astype(jnp.float32)}

    @property
    def players(self) -> Mapping[str, Player]:
        """`random`, and those of `definitions`.

        With the source's numbers, three `altruistic_punisher`s leave a free rider 17 a round and themselves 21; where
        nobody punishes it earns 44 and the three others 24.
        """
        nobody = np.zeros(self.num_agents - 1, np.int32)

        def giving(share: jax.Array | float, view: jax.Array, points: jax.Array | np.ndarray = nobody) -> jax.Array:
            """The action of who gives a share, rounded to a level with ties towards giving, and then these points."""
            level = jnp.ceil((1 - jnp.asarray(share)) * (self.num_levels - 1) - 0.5 - 1e-4).astype(jnp.int32)
            second = view[2] > 0
            return jnp.concatenate([jnp.where(second, 0, level)[None], jnp.where(second, points, 0)])

        def altruistic_punisher(view: jax.Array, key: jax.Array) -> jax.Array:
            missing = jnp.maximum(view[1] - view[4:-1], 0)
            points = jnp.ceil(3 * missing - 1e-4).astype(jnp.int32)
            return giving(1.0, view, jnp.minimum(points, self.max_points))

        def deterred_free_rider(view: jax.Array, key: jax.Array) -> jax.Array:
            return giving(((view[1] > 0) | (view[-1] > 0)).astype(jnp.float32), view)

        def conditional_cooperator(view: jax.Array, key: jax.Array) -> jax.Array:
            return giving(jnp.where(view[0] > 0, 1.0, view[4:-1].mean()), view)

        return {
            "random": random_player(self),
            "contributor": lambda view, key: giving(1.0, view),
            "free_rider": lambda view, key: giving(0.0, view),
            "altruistic_punisher": altruistic_punisher,
            "deterred_free_rider": deterred_free_rider,
            "conditional_cooperator": conditional_cooperator,
        }
