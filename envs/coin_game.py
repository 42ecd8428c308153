"""The Coin Game: two agents on a small torus, where taking the other's coins pays the taker and hurts the owner.

Two rule sets are in use, and their numbers must not be mixed:

* `one_coin` (Foerster et al. 2018, LOLA, after Lerer & Peysakhovich 2017): one coin lies on the board and its
  colour alternates. The variants of DiCE, POLA (Zhao et al. 2022) and LOQA (Aghajohari et al. 2024) reward both
  agents that reach the coin together; LOLA's own rewards red alone.
* `two_coins` (Lu et al. 2022, M-FOS; Willi et al. 2023, PAX; Rutherford et al. 2024, JaxMARL): a red and a blue
  coin always lie on the board and agents may stay.

What the scripted players earn per agent and step in 50 steps of `one_coin`: simulated in the league of LOQA and
Advantage Alignment (Duque et al. 2025), and exactly, from the Markov chain over both cells, the coin's and its
colour, for the default rules and for two that are one rule away:

    ====================  ==============  ==============  ================  ===============
    pair                  published       default         colour="random"   tie="red"
    ====================  ==============  ==============  ================  ===============
    cooperate, cooperate  .347            .3486           .3486             .3486
    defect, defect        .00             0               0                 .6454, -.6454
    defect, cooperate     .631, -.269     .6367, -.2657   .6500, -.2886     .6367, -.4248
    random, random        .00             0               0                 .0126, -.0126
    ====================  ==============  ==============  ================  ===============

The first row follows by hand. A cooperator keeps two steps away from the other's coin, so it is two steps from
the other when that coin is taken. Of the seven free cells four are then one step away and three are two: one coin
every 10/7 steps, .35 per agent and step, less what the first and the last coin of an episode cost. A cooperator
that merely avoids the other's coin would earn .3344. The zeros follow from symmetry: greedy and random play
ignore colour, so half of the coins that the other takes are mine, and at +1 and -2 my reward is P(I take) -
P(the other takes). Under "red" greedy agents soon share a cell, and from then on every coin is red's.

With `two_coins` (simulated, 50 steps) two cooperators earn .61 each, greedy against cooperator .71 and -.15, and
greedy and random pairs 0 again. One in ten coins that a cooperator takes is the other's: it lay under its own.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, at_least, one_of, random_player
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Box, Discrete


class CoinGameState(struct.PyTreeNode):
    """A cell is numbered row * grid_size + column."""

    agents: jax.Array  # int32 [N], cell of red and of blue
    coins: jax.Array  # int32 [N], cell of the red and of the blue coin, -1 where that coin is not on the board
    time: jax.Array  # int32 [], steps taken


class CoinGameParams(struct.PyTreeNode):
    """Rewards in points per coin."""

    take_reward: float = 1.0  # [], to whoever takes a coin
    mismatch_penalty: float = -2.0  # [], to the owner of a coin that the other takes
    max_steps: int = 50  # [], POLA, LOQA and Advantage Alignment; LOLA played 150


@dataclasses.dataclass(frozen=True)
class CoinGame(Environment):
    """Social dilemma: any coin is worth a point to its taker, but taking the other's coin costs the other two.

    Both agents move at once and may share a cell; the board wraps around. Whoever arrives on a coin takes it and
    it reappears elsewhere:

    * `one_coin`: 4 moves. The coin has the other colour now (`colour="alternate"`) or a random one, and lies on
      any cell without an agent. Agents start on distinct cells.
    * `two_coins`: 4 moves and stay. Each coin has its colour for ever and lies on any cell, occupied or not, so
      coins may share a cell and one move may take both. Every starting cell is drawn independently.

    Attributes:
        rules: "one_coin" or "two_coins".
        tie: whom a coin rewards when both arrive at once: "both" (DiCE, POLA, LOQA) or "red" (LOLA; one_coin only).
            Under "both" the owner gets `take_reward + mismatch_penalty`.
        colour: of the next coin under one_coin, "alternate" (LOLA, POLA, LOQA) or "random".
        egocentric: whether views are shifted so that oneself is at cell (grid_size // 2, grid_size // 2).
        grid_size: side of the board in cells.

    Observation: uint8 [grid_size, grid_size, 4] of 0 and 1, planes (oneself, the other, my coin, the other's coin),
    so that one policy can play both colours. Actions: (right, left, down, up[, stay]), that is column +1, column
    -1, row +1, row -1. Reward: points [N]. Metrics [N], per step: `coins` taken and `own_coins` taken; the share
    of own coins is the ratio of their sums.

    Deviations: LOLA shows both agents the same, colour-fixed planes; POLA and LOQA may start both agents on one
    cell; JaxMARL drops the reward of an episode's last step, here it counts. The clock truncates.

    Raises:
        InputError: for other than two agents, an unknown rule, or a one_coin rule asked of two_coins.
    """

    name: str = "coin_game"
    num_agents: int = 2
    rules: str = "one_coin"
    tie: str = "both"
    colour: str = "alternate"
    egocentric: bool = False
    grid_size: int = 3

    mixed_motive: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "always_defect"
    cooperator: ClassVar[str | None] = "always_cooperate"
    defector: ClassVar[str | None] = "always_defect"
    definitions: ClassVar[Mapping[str, str]] = {
        "always_cooperate": "takes its own coins only, and keeps away from the other's",
        "always_defect": "takes the nearest coin, whosever it is",
    }

    def __post_init__(self):
        if self.num_agents != 2:
            raise InputError(f"{self.name} is a game of 2 agents, got num_agents={self.num_agents}; use 2")
        one_of(f"{self.name}: rules", self.rules, ("one_coin", "two_coins"))
        one_of(f"{self.name}: tie", self.tie, ("both", "red"))
        one_of(f"{self.name}: colour", self.colour, ("alternate", "random"))
        at_least(f"{self.name}: grid_size", self.grid_size, 2)
        for setting, only in (("tie", "both"), ("colour", "alternate")):
            if self.rules == "two_coins" and getattr(self, setting) != only:
                value = getattr(self, setting)
                raise InputError(f"{self.name}: {setting}={value!r} needs rules='one_coin'; two_coins has {only!r}")

    @property
    def default_params(self) -> CoinGameParams:
        return CoinGameParams()

    def check_params(self, params: CoinGameParams) -> None:
        at_least(f"{self.name}: max_steps", params.max_steps, 1)

    def observation_space(self, params: Any = None) -> Box:
        return Box(0, 1, (self.grid_size, self.grid_size, 4), np.uint8)

    def action_space(self, params: Any = None) -> Discrete:
        return Discrete(4 if self.rules == "one_coin" else 5)

    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": random_player(self),
            "always_cooperate": partial(always_cooperate, self),
            "always_defect": partial(always_defect, self),
        }

    def derived_metrics(self, means: Metrics) -> Metrics:
        """`coins` [N] and `own_coin_share` [N], own ones among the coins that each agent took (NaN for none)."""
        return {"coins": means["coins"], "own_coin_share": means["own_coins"] / means["coins"]}

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: CoinGameParams) -> CoinGameState:
        cells = self.grid_size**2
        draws = jax.random.uniform(key, (4,))
        time = jnp.zeros((), jnp.int32)
        if self.rules == "two_coins":
            anywhere = _pick(draws, cells)
            return CoinGameState(agents=anywhere[:2], coins=anywhere[2:], time=time)
        red, blue = _pick(draws[0], cells), _pick(draws[1], cells - 1)
        agents = jnp.stack([red, blue + (blue >= red)])
        coins = _one_of_two(_pick(draws[3], 2), self._free_cell(draws[2], agents))
        return CoinGameState(agents=agents, coins=coins, time=time)

    def transition(
        self, key: jax.Array, state: CoinGameState, actions: jax.Array, params: CoinGameParams
    ) -> tuple[CoinGameState, jax.Array, jax.Array, Metrics]:
        agents = self.move(state.agents, actions)
        takes = agents[:, None] == state.coins[None, :]  # [taker, colour]; a missing coin's -1 matches no cell
        coins = self._respawn(key, agents, state.coins, takes.any(axis=0))
        if self.tie == "red":
            takes = takes & jnp.stack([jnp.ones(2, bool), ~takes[0]])
        taken = takes.astype(jnp.float32)
        robbed = jnp.stack([taken[1, 0], taken[0, 1]])
        reward = params.take_reward * taken.sum(axis=1) + params.mismatch_penalty * robbed
        metrics = {"coins": taken.sum(axis=1), "own_coins": jnp.diagonal(taken)}
        return CoinGameState(agents, coins, state.time + 1), reward, jnp.zeros((), bool), metrics

    def move(self, cells: jax.Array, actions: jax.Array) -> jax.Array:
        """The cells that `actions` lead to from `cells`, elementwise."""
        rows = cells // self.grid_size + (actions == 2) - (actions == 3)
        columns = cells % self.grid_size + (actions == 0) - (actions == 1)
        return rows % self.grid_size * self.grid_size + columns % self.grid_size

    def _respawn(self, key: jax.Array, agents: jax.Array, coins: jax.Array, taken: jax.Array) -> jax.Array:
        """The coins after those of the colours `taken`, bool [N], were taken."""
        draws = jax.random.uniform(key, (2,))
        if self.rules == "two_coins":
            return jnp.where(taken, _pick(draws, self.grid_size**2), coins)
        colour = _pick(draws[1], 2) if self.colour == "random" else (coins[0] >= 0).astype(jnp.int32)
        return jnp.where(taken.any(), _one_of_two(colour, self._free_cell(draws[0], agents)), coins)

    def _free_cell(self, draw: jax.Array, agents: jax.Array) -> jax.Array:
        """A cell without an agent, uniform when `draw` is uniform in [0, 1)."""
        low, high = agents.min(), agents.max()
        apart = (low != high).astype(jnp.int32)
        cell = _pick(draw, self.grid_size**2 - 1 - apart)
        cell = cell + (cell >= low)
        return cell + apart * (cell >= high)

    # ------------------------------------------------------------------ views
    def observe(self, state: CoinGameState, params: CoinGameParams) -> jax.Array:
        things = jnp.concatenate([state.agents, state.coins])
        things = jnp.stack([things, things[np.array([1, 0, 3, 2])]])  # [N, 4], each in its agent's order of planes
        if self.egocentric:
            things = jnp.where(things < 0, things, self._centred(things, state.agents[:, None]))
        board = np.arange(self.grid_size**2, dtype=np.int32).reshape(1, self.grid_size, self.grid_size, 1)
        return (things[:, None, None, :] == board).astype(jnp.uint8)

    def _centred(self, cells: jax.Array, middle: jax.Array) -> jax.Array:
        """`cells` on the board shifted so that `middle` is its middle cell."""
        size = self.grid_size
        rows = (cells // size - middle // size + size // 2) % size
        columns = (cells % size - middle % size + size // 2) % size
        return rows * size + columns


def _pick(draw: jax.Array, count: int | jax.Array) -> jax.Array:
    """int32 in 0 .. count - 1 from a uniform float in [0, 1); of its 2^23 values each gets the same number +- 1."""
    return jnp.floor(draw * count).astype(jnp.int32)


def _one_of_two(colour: jax.Array, cell: jax.Array) -> jax.Array:
    """`CoinGameState.coins` with one coin on the board."""
    return jnp.where(np.arange(2) == colour, cell, -1)


# ---------------------------------------------------------------------- scripted players
def always_cooperate(env: CoinGame, observation: jax.Array, key: jax.Array) -> jax.Array:
    """Takes its own coins only: a shortest way to its own coin, and away from the other's when there is none.

    It steps onto the other's coin only where its own lies on the same cell: two cooperators who both declined
    that cell would wait for ever. Going as far away as one move can is what the cooperator of the LOQA league does.
    """
    mine, others = _distances(env, observation)
    robs = (others == 0) & (mine > 0)
    idle = (np.arange(env.action_space().n) == 4) & (mine > 0)  # rather around the other's coin than in front of it
    cost = mine + 2 * env.grid_size * robs + 2 * idle
    return _least(key, jnp.where(observation[..., 2].any(), cost, -others))


def always_defect(env: CoinGame, observation: jax.Array, key: jax.Array) -> jax.Array:
    """Takes whatever it can: a shortest way to the nearest coin of either colour."""
    mine, others = _distances(env, observation)
    return _least(key, jnp.minimum(mine, others))


def _distances(env: CoinGame, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Steps to the nearest coin of one's own and of the other's colour after each action: int32 [A] twice.

    A coin that is not on the board is further away than any cell.
    """
    planes = observation.reshape(env.grid_size**2, 4)
    reached = env.move(jnp.argmax(planes[:, 0]), jnp.arange(env.action_space().n))
    steps = jnp.asarray(_torus_distances(env.grid_size))[reached]  # [A, cells]
    mine, others = (jnp.where(planes[:, plane] > 0, steps, 2 * env.grid_size).min(axis=1) for plane in (2, 3))
    return mine, others


def _torus_distances(size: int) -> np.ndarray:
    """int32 [cells, cells]: the number of moves between any two cells."""
    rows, columns = np.divmod(np.arange(size**2), size)
    rows, columns = (np.abs(x[:, None] - x[None, :]) for x in (rows, columns))
    return (np.minimum(rows, size - rows) + np.minimum(columns, size - columns)).astype(np.int32)


def _least(key: jax.Array, cost: jax.Array) -> jax.Array:
    """The action of least whole-numbered cost, ties broken uniformly."""
    return jnp.argmin(cost + jax.random.uniform(key, cost.shape)).astype(jnp.int32)
