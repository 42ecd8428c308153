"""Choosing routes: a congestion game on roads whose travel time grows with their traffic, up to a million drivers."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, one_of, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.repeated_games import NOT_YET
from marl_suite.envs.spaces import Box, Discrete


class Network(NamedTuple):
    """Links and the routes over them; hashable. A link's travel time is constant + slope x (share of all drivers)."""

    constant: tuple[float, ...]  # [L], travel time of an empty link
    slope: tuple[float, ...]  # [L], what all drivers together add to it
    routes: tuple[tuple[int, ...], ...]  # [R], the links of each route

    @property
    def incidence(self) -> np.ndarray:
        """float64 [R, L]: 1 where a route uses a link."""
        return np.array([[float(link in route) for link in range(len(self.slope))] for route in self.routes])


NETWORKS: Mapping[str, Network] = {
    # Links 1-2, 2-4, 1-3, 3-4, 2-3; the last route zigzags over 1-2, 2-3, 3-4.
    "braess": Network((0.0, 10.0, 10.0, 0.0, 0.0), (10.0, 0.0, 0.0, 10.0, 0.0), ((0, 1), (2, 3), (0, 4, 3))),
    "braess_closed": Network((0.0, 10.0, 10.0, 0.0), (10.0, 0.0, 0.0, 10.0), ((0, 1), (2, 3))),
    "pigou": Network((0.0, 1.0), (1.0, 0.0), ((0,), (1,))),
}


class CongestionParams(struct.PyTreeNode):
    """The numbers of a network."""

    constant: np.ndarray  # float32 [L]: travel time of each link when it is empty
    slope: np.ndarray  # float32 [L]: what it adds to a link's travel time when all drivers take it
    toll: float  # float []: share of the marginal-cost toll that is charged
    max_steps: int  # int []


class CongestionState(struct.PyTreeNode):
    """The last routes, how many took each, and the clock."""

    last_routes: jax.Array  # int32 [N], NOT_YET at the start
    loads: jax.Array  # int32 [R], drivers on each route, 0 at the start
    time: jax.Array  # int32 [], steps taken


@dataclasses.dataclass(frozen=True)
class Congestion(Environment):
    """Congestion game: each driver takes the fastest route for itself, and all take longer than they need to.

    Source: Rosenthal (1973), A class of games possessing pure-strategy Nash equilibria; Braess (1968), Ueber ein
    Paradoxon aus der Verkehrsplanung; the network Braess_1_4200_10_c1 of Ramos et al. (2020), as in MOMAland (Felten
    et al., 2024); Pigou (1920), The economics of welfare.

    Rules: N drivers choose one of R routes at once; a link's travel time is constant + slope x (drivers on it / N), a
    route's the sum over its links. A driver pays its travel time and the share `toll` (0) of the marginal-cost toll,
    slope x (drivers on it / N) on each of its links, which are what it costs the others. By `network`:

    * "braess": links 1-2 and 3-4 take 10 when all use them and nothing when empty, 1-3 and 2-4 always 10, 2-3
      nothing. Routes 1-2-4, 1-3-4 and the zigzag 1-2-3-4. In equilibrium all zigzag and take 20; half on each of the
      others would take 15 (price of anarchy 4/3).
    * "braess_closed": without link 2-3, where equilibrium and optimum are both 15: the added road does the harm.
    * "pigou": a link that takes 1 when all use it, beside one that always takes 1. Equilibrium 1, optimum 3/4.

    Or a `Network` of one's own. With toll 1 the optimum is an equilibrium. Truncated after `max_steps` (50).

    Shapes: action int32, the route. Observation float32 [3 R]: own last route one-hot, the share of drivers on each
    route, and what each route took, toll included, over the most it could; all 0 at the start. Reward float32 [N]:
    minus travel time and toll paid. Metrics: "travel_time" and "toll_paid" (means over drivers), "on_route_0" ...:
    shares of drivers. The global state holds what is common to all observations. Memory is linear in N.

    Deviations: 20 drivers by default, where the source has 4,200; travel times depend on shares, so that they are the
    source's for any N. The source's drivers see nothing, play once, and get time and toll as two objectives, each
    over the most a link can take. Tolls are not given back.

    Raises:
        InputError: for fewer than two drivers, an unknown network, or a route over a link that does not exist.
    """

    name: str = "congestion"
    num_agents: int = 20
    network: str | Network = "braess"

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "user_equilibrium"
    cooperator: ClassVar[str | None] = "system_optimal"
    defector: ClassVar[str | None] = "user_equilibrium"
    definitions: ClassVar[Mapping[str, str]] = {
        "system_optimal": "takes each route as often as the least total travel time needs, and leaves crowded ones",
        "user_equilibrium": "takes each route as often as drivers do of whom none gains by another route",
        "better_response": "moves to the route that was fastest with probability 0.1 where its own was slower",
    }

    def __post_init__(self) -> None:
        at_least(f"{self.name}: num_agents", self.num_agents, 2)
        if isinstance(self.network, str):
            one_of(f"{self.name}: network", self.network, NETWORKS)
        check_network(self.links)

    @property
    def links(self) -> Network:
        """The network with its default numbers."""
        return NETWORKS[self.network] if isinstance(self.network, str) else self.network

    @property
    def num_routes(self) -> int:
        """R."""
        return len(self.links.routes)

    @property
    def default_params(self) -> CongestionParams:
        constant, slope = (np.array(x, np.float32) for x in (self.links.constant, self.links.slope))
        return CongestionParams(constant=constant, slope=slope, toll=0.0, max_steps=50)

    def check_params(self, params: CongestionParams) -> None:
        for number in ("constant", "slope", "toll"):
            at_least(f"{self.name}: parameter {number}", getattr(params, number), 0)
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (3 * self.num_routes,))

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(self.num_routes)

    def initial_state(self, key: jax.Array, params: CongestionParams) -> CongestionState:
        del key, params  # the start is always the same
        last_routes = jnp.full(self.num_agents, NOT_YET, jnp.int32)
        loads = jnp.zeros(self.num_routes, jnp.int32)
        return CongestionState(last_routes=last_routes, loads=loads, time=jnp.zeros((), jnp.int32))

    def transition(
        self, key: jax.Array, state: CongestionState, actions: jax.Array, params: CongestionParams
    ) -> tuple[CongestionState, jax.Array, jax.Array, Metrics]:
        del key  # the rules are deterministic
        routes = actions.astype(jnp.int32)
        taken = routes[:, None] == jnp.arange(self.num_routes)
        loads = taken.sum(axis=0, dtype=jnp.int32)
        times, tolls = self.times_and_tolls(loads, params)
        reward = -jnp.where(taken, times + tolls, 0.0).sum(axis=1)
        shares = loads / self.num_agents
        metrics = {f"on_route_{r}": shares[r] for r in range(self.num_routes)}
        metrics |= {"travel_time": shares @ times, "toll_paid": shares @ tolls}
        state = CongestionState(last_routes=routes, loads=loads, time=state.time + 1)
        return state, reward, jnp.zeros((), bool), metrics

    def times_and_tolls(self, loads: jax.Array, params: CongestionParams) -> tuple[jax.Array, jax.Array]:
        """What each route takes and charges, float32 [R] each, at `loads` int32 [R]."""
        incidence = jnp.asarray(self.links.incidence, jnp.float32)
        share = (loads / self.num_agents) @ incidence  # of drivers on each link
        delay = params.slope * share
        return incidence @ (params.constant + delay), incidence @ (params.toll * delay)

    def _common(self, state: CongestionState, params: CongestionParams) -> jax.Array:
        """float32 [2 R]: loads as shares, and what routes took over the most they could; 0 at the start."""
        times, tolls = self.times_and_tolls(state.loads, params)
        longest = self.links.incidence.astype(np.float32) @ (params.constant + (1 + params.toll) * params.slope)
        took = (times + tolls) / jnp.maximum(longest.max(), 1e-30)
        return jnp.concatenate([state.loads / self.num_agents, took * (state.time > 0)])

    def observe(self, state: CongestionState, params: CongestionParams) -> jax.Array:
        own = state.last_routes[:, None] == jnp.arange(self.num_routes)
        common = self._common(state, params)
        seen_by_all = jnp.broadcast_to(common, (self.num_agents, common.size))
        return jnp.concatenate([own.astype(jnp.float32), seen_by_all], axis=1)

    def global_state(self, state: CongestionState, params: PyTree = None) -> jax.Array:
        return self._common(state, self.default_params if params is None else params)

    @property
    def players(self) -> Mapping[str, Player]:
        """`random` and those of `definitions`; the two that know the network know its default numbers.

        These draw their first route from the shares that they aim at. Later they stay, except that from a route with
        more than its share they leave with the probability that would undo the excess, for one with less.
        """
        num_routes = self.num_routes

        def aims_at(shares: np.ndarray) -> Player:
            def play(observation: jax.Array, key: jax.Array) -> jax.Array:
                own, loads = observation[:num_routes], observation[num_routes : 2 * num_routes]
                excess = loads - np.asarray(shares, np.float32)
                leaves = jnp.where(loads > 0, jnp.maximum(excess, 0) / jnp.maximum(loads, 1e-9), 0.0) @ own
                room = jnp.maximum(-excess, 0)
                room = room / jnp.maximum(room.sum(), 1e-9)  # at the start all have room, their shares
                chances = jnp.where(own.sum() > 0, (1 - leaves) * own + leaves * room, room)
                return jax.random.categorical(key, jnp.log(chances)).astype(jnp.int32)

            return play

        def better_response(observation: jax.Array, key: jax.Array) -> jax.Array:
            own, took = observation[:num_routes], observation[2 * num_routes :]
            draw_key, route_key = jax.random.split(key)
            slower = (own @ took > took.min() + 1e-6) & (jax.random.uniform(draw_key) < 0.1)
            chosen = jnp.where(slower, took.argmin(), own.argmax())
            anywhere = jax.random.randint(route_key, (), 0, num_routes)
            return jnp.where(own.sum() > 0, chosen, anywhere).astype(jnp.int32)

        return {
            "random": random_player(self),
            "system_optimal": aims_at(social_optimum(self.links).shares),
            "user_equilibrium": aims_at(user_equilibrium(self.links).shares),
            "better_response": better_response,
        }


def check_network(network: Network) -> None:
    """Raises `InputError` for a network without links or routes, or whose parts do not fit together."""
    num_links = len(network.slope)
    if len(network.constant) != num_links or not num_links:
        raise InputError(f"a network needs a constant for each of its {num_links} slopes, got {network.constant}")
    if not network.routes or not all(network.routes):
        raise InputError(f"a network needs routes of at least one link each, got {network.routes}")
    for link in (link for route in network.routes for link in route):
        if not 0 <= link < num_links:
            raise InputError(f"links of routes are numbered 0 to {num_links - 1}, got {link}")


# ---------------------------------------------------------------------- known answers
class Flow(NamedTuple):
    """How many drivers, of very many, take each route, and how long they take."""

    shares: np.ndarray  # float64 [R], of drivers
    times: np.ndarray  # float64 [R], travel time of each route, without tolls
    mean_time: float  # over drivers


def user_equilibrium(network: Network, toll: float = 0.0) -> Flow:
    """The flow from which no driver gains by changing its route (Wardrop 1952, first principle), in the limit N -> oo.

    It has the least sum over links of the integral of cost (Beckmann et al., 1956), and is found by path equilibration
    (Dafermos and Sparrow, 1969): over and over drivers move from the dearest used route to the cheapest until both
    cost the same. `toll` is the share of the marginal-cost toll that they pay.

    Raises:
        ArithmeticError: when that takes too long.
    """
    check_network(network)
    routes, slope = network.incidence, np.array(network.slope) * (1 + toll)
    shares = np.full(len(routes), 1 / len(routes))
    scale = max(1e-300, (routes @ (slope + network.constant)).max())
    for _ in range(100_000):
        costs = routes @ (network.constant + slope * (shares @ routes))
        worst, best = np.where(shares > 0, costs, -np.inf).argmax(), costs.argmin()
        if costs[worst] - costs[best] <= 1e-13 * scale:
            times = routes @ (network.constant + np.array(network.slope) * (shares @ routes))
            return Flow(shares, times, float(shares @ times))
        curvature = slope @ (routes[worst] - routes[best]) ** 2
        moved = min(shares[worst], (costs[worst] - costs[best]) / max(curvature, 1e-300))
        shares[best] += moved
        shares[worst] -= moved
    raise ArithmeticError(f"no equilibrium of {network} within 100,000 changes of routes")


def social_optimum(network: Network) -> Flow:
    """The flow with the least mean travel time: the equilibrium under full marginal-cost tolls (Pigou 1920)."""
    return user_equilibrium(network, toll=1.0)


def price_of_anarchy(network: Network) -> float:
    """Mean travel time in equilibrium over the least possible; at most 4/3 (Roughgarden and Tardos, 2002)."""
    return user_equilibrium(network).mean_time / social_optimum(network).mean_time


def marginal_cost_tolls(network: Network, shares: np.ndarray) -> np.ndarray:
    """float64 [L]: f dl/df of every link, what one driver costs all others there, when `shares` take each route."""
    return np.array(network.slope) * (np.asarray(shares, float) @ network.incidence)


def rosenthal_potential(network: Network, loads: np.ndarray, toll: float = 0.0) -> float:
    """sum over links of sum_{k = 1}^{n} cost(k) for whole numbers of drivers `loads` [R] (Rosenthal 1973).

    When one driver changes its route the potential changes by as much as what that driver pays.
    """
    loads = np.asarray(loads, float)
    drivers, on_link = loads.sum(), loads @ network.incidence
    slope = np.array(network.slope) * (1 + toll)
    return float(np.sum(network.constant * on_link + slope * on_link * (on_link + 1) / (2 * drivers)))
