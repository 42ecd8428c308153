"""Coins to split after cheap talk about secret hands."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_suite.envs.environment import Environment, Metrics, Player, PyTree, at_least, at_most, per_count
from marl_suite.envs.errors import InputError
from marl_suite.envs.markets.negotiation import shares, two_of_three
from marl_suite.envs.repeated_games import NOT_YET
from marl_suite.envs.spaces import Box, Discrete

HANDS = 3
"""Rock, paper, scissors: 0, 1, 2. Hand h beats hand h - 1 (mod 3)."""
STAGES = 3
CLAIM = 2
"""The last stage of a round; in stages 0 and 1 the first and the second speaker talk."""


def beats(hand: Any, other: Any) -> Any:
    """bool [...]: paper (1) beats rock (0), scissors (2) beat paper, rock beats scissors."""
    return (hand - other) % HANDS == 1


def round_payoffs(values: Any, claims: Any, coins: int = 10) -> Any:
    """v_i c s_i / max(c, s_0 + s_1) for values and claims [N, ...] of numpy or jax: what a round pays."""
    return values * (coins * shares(claims, coins))


def expected_payoffs(
    first: Sequence[int],
    second: Sequence[int],
    coins: int = 10,
    winner_value: float = 10.0,
    loser_value: float = 1.0,
) -> np.ndarray:
    """float64 [2]: mean payoffs per round of two agents whose claims are (when winning, when losing).

    With the default numbers (10, 0) against itself pays 50 each, (10, 10) against itself 27.5 each, and against each
    other they get 25 and 52.5.
    """
    claims = np.array([[first[0], first[1]], [second[1], second[0]]])  # [N, who wins]
    values = np.array([[winner_value, loser_value], [loser_value, winner_value]])
    return round_payoffs(values, claims, coins).mean(axis=1)


class TrustAndSplitState(struct.PyTreeNode):
    """This round's secret hands and messages, and all of the last round."""

    hands: jax.Array  # int32 [N]
    messages: jax.Array  # int32 [N], NOT_YET before they are sent
    first: jax.Array  # int32 [], who speaks first in this round
    phase: jax.Array  # int32 [], 0 first speaker, 1 second speaker, 2 claims
    last_hands: jax.Array  # int32 [N], NOT_YET in the first round, as are
    last_messages: jax.Array  # int32 [N]
    last_claims: jax.Array  # int32 [N], coins
    time: jax.Array  # int32 [], steps taken


class TrustAndSplitParams(struct.PyTreeNode):
    """Points per coin."""

    winner_value: float = 10.0  # float [], to whose hand wins
    loser_value: float = 1.0  # float []
    max_steps: int = 30  # int [], three to a round


class _View(NamedTuple):
    """One agent's observation, in whole numbers; NOT_YET for what is not there."""

    phase: jax.Array
    first: jax.Array
    hand: jax.Array
    heard: jax.Array
    last_hand: jax.Array
    last_hand_of_other: jax.Array
    last_claim: jax.Array  # float, a part of all coins, 0 in the first round
    last_claim_of_other: jax.Array

    @property
    def speaks(self) -> jax.Array:
        """Whether it is this agent's turn to talk."""
        return self.phase == 1 - self.first


@dataclasses.dataclass(frozen=True)
class TrustAndSplit(Environment):
    """Trust and Split: who tells its hand and leaves the coins to the winner trusts the other to do so in its turn.

    Source: Piche et al. (2025), Learning Robust Social Strategies with Large Language Models: Trust-and-Split with
    rock, paper and scissors.

    Rules, a round in three steps: two different hands of rock, paper and scissors are drawn, each agent sees its own.
    (1) The first speaker sends one of K = 3 symbols, (2) the second answers with one; symbol 0, 1, 2 says "I hold
    rock, paper, scissors", truly or not. (3) Both claim s in 0 .. 10 of 10 coins at once, and get v_i 10 s_i /
    max(10, s_0 + s_1) with v = 10 for the winning hand and 1 for the losing one. Then hands, messages and claims of the
    round are shown and the other agent speaks first; who does so in the first round is drawn. Claiming 10 dominates in
    a single round: 27.5 each on average (winner 50, loser 5). Leaving all to the winner is worth 50 each, and only
    messages tell who that is.

    An agent that is not to speak may only choose action 0, and whatever it does is ignored; a speaker may only choose
    0 .. K - 1, and any other action is read modulo K. Truncated after `max_steps` (30), that is 10 rounds.

    Shapes: action int32, 0 .. 10. Observation float32 [16 + 4 K], each 0 .. 1 and hands, symbols and stage one-hot:
    stage (3), whether I speak first (1), my hand (3), my message (K) and the other's (K), zeros before they are sent;
    of the last round, zeros in the first: whether there was one (1), my hand (3), the other's (3), my message (K), the
    other's (K), my claim / 10 (1), the other's (1). Reward float32 [N], points, 0 in the stages of talk.

    Metrics, per round: "efficiency", payoffs as part of what the winner alone would get, "to_winner", coins that went
    to the winner as part of all, "honesty" [N], who named its own hand, and "claims" [N] in coins.

    Deviations: the source's messages are free text of up to 500 characters; K symbols here, of which those from 3 on
    have no meaning of their own. Its agents are told all earlier rounds; here the last one.

    Raises:
        InputError: for other than two agents, fewer than three symbols, or more symbols than actions.
    """

    name: str = "trust_and_split"
    num_agents: int = 2
    num_symbols: int = 3
    coins: int = 10

    mixed_motive: ClassVar[bool] = True
    masks_actions: ClassVar[bool] = True
    exploiter: ClassVar[str | None] = "liar"
    cooperator: ClassVar[str | None] = "honest"
    defector: ClassVar[str | None] = "greedy"
    definitions: ClassVar[Mapping[str, str]] = {
        "honest": "tells its hand, and claims all coins if it wins by the other's word, none if it loses",
        "greedy": "tells its hand and claims all coins",
        "liar": "claims all coins, and says that it beats what the other said, or the truth when it speaks first",
        "tit_for_tat": "is honest, but claims all coins after a round whose loser claimed more than half",
    }

    def __post_init__(self) -> None:
        if self.num_agents != 2:
            raise InputError(f"{self.name} is a game of 2 agents, got num_agents={self.num_agents}; use 2")
        at_least(f"{self.name}: num_symbols", self.num_symbols, HANDS)
        at_least(f"{self.name}: coins", self.coins, 2)
        at_most(f"{self.name}: num_symbols", self.num_symbols, self.coins + 1)

    @property
    def default_params(self) -> TrustAndSplitParams:
        return TrustAndSplitParams()

    def check_params(self, params: TrustAndSplitParams) -> None:
        at_least(f"{self.name}: parameter max_steps", params.max_steps, 1)
        at_least(f"{self.name}: parameter loser_value", params.loser_value, 0)
        gap = params.winner_value - params.loser_value
        at_least(f"{self.name}: parameter winner_value minus loser_value", gap, 0)

    def action_space(self, params: PyTree = None) -> Discrete:
        return Discrete(self.coins + 1)

    def observation_space(self, params: PyTree = None) -> Box:
        return Box(0, 1, (sum(self._sizes),))

    # ------------------------------------------------------------------ rules
    def initial_state(self, key: jax.Array, params: TrustAndSplitParams) -> TrustAndSplitState:
        chance = jax.random.uniform(key, (2,))
        none = jnp.full(2, NOT_YET, jnp.int32)
        return TrustAndSplitState(
            hands=two_of_three(chance[0]),
            messages=none,
            first=(chance[1] < 0.5).astype(jnp.int32),
            phase=jnp.zeros((), jnp.int32),
            last_hands=none,
            last_messages=none,
            last_claims=none,
            time=jnp.zeros((), jnp.int32),
        )

    def speaking(self, state: TrustAndSplitState) -> jax.Array:
        """bool [N]: whose turn it is to talk."""
        return ((state.first + state.phase) % 2 == np.arange(2)) & (state.phase != CLAIM)

    def action_mask(self, state: TrustAndSplitState, params: PyTree = None) -> jax.Array:
        limit = jnp.where(self.speaking(state), self.num_symbols, 1)
        limit = jnp.where(state.phase == CLAIM, self.coins + 1, limit)
        return limit[:, None] > np.arange(self.coins + 1)

    def transition(
        self, key: jax.Array, state: TrustAndSplitState, actions: jax.Array, params: TrustAndSplitParams
    ) -> tuple[TrustAndSplitState, jax.Array, jax.Array, Metrics]:
        claims = state.phase == CLAIM
        actions = actions.astype(jnp.int32)
        messages = jnp.where(self.speaking(state), actions % self.num_symbols, state.messages)
        wins = beats(state.hands, state.hands[::-1])
        payoff = round_payoffs(jnp.where(wins, params.winner_value, params.loser_value), actions, self.coins)
        metrics = {
            "rounds": jnp.ones(()),
            "efficiency": payoff.sum() / (self.coins * params.winner_value),
            "to_winner": (wins * shares(actions, self.coins)).sum(),
            "honesty": (state.messages == state.hands).astype(jnp.float32),
            "claims": actions.astype(jnp.float32),
        }
        metrics = {name: jnp.where(claims, metric, 0.0) for name, metric in metrics.items()}
        hand = two_of_three(jax.random.uniform(key))
        state = TrustAndSplitState(
            hands=jnp.where(claims, hand, state.hands),
            messages=jnp.where(claims, NOT_YET, messages),
            first=jnp.where(claims, 1 - state.first, state.first),
            phase=(state.phase + 1) % STAGES,
            last_hands=jnp.where(claims, state.hands, state.last_hands),
            last_messages=jnp.where(claims, state.messages, state.last_messages),
            last_claims=jnp.where(claims, actions, state.last_claims),
            time=state.time + 1,
        )
        return state, jnp.where(claims, payoff, 0.0), jnp.zeros((), bool), metrics

    def derived_metrics(self, means: Metrics) -> Metrics:
        return per_count("rounds", means)

    # ------------------------------------------------------------------ views
    @property
    def _sizes(self) -> tuple[int, ...]:
        """Of the parts of an observation, in the order of `_View` but for the flag of a first round."""
        symbols = self.num_symbols
        return STAGES, 1, HANDS, symbols, symbols, 1, HANDS, HANDS, symbols, symbols, 1, 1

    def observe(self, state: TrustAndSplitState, params: TrustAndSplitParams) -> jax.Array:
        symbols = np.arange(self.num_symbols)
        hands, message, last_hand, last_message = (
            (x[:, None] == values).astype(jnp.float32)
            for x, values in (
                (state.hands, np.arange(HANDS)),
                (state.messages, symbols),
                (state.last_hands, np.arange(HANDS)),
                (state.last_messages, symbols),
            )
        )
        stage = jnp.broadcast_to((state.phase == np.arange(STAGES)).astype(jnp.float32), (2, STAGES))
        first = (state.first == np.arange(2)).astype(jnp.float32)[:, None]
        played = (state.last_claims >= 0).astype(jnp.float32)[:, None]
        claim = jnp.maximum(state.last_claims, 0)[:, None] / self.coins
        talk = [stage, first, hands, message, message[::-1]]
        last = [played, last_hand, last_hand[::-1], last_message, last_message[::-1], claim, claim[::-1]]
        return jnp.concatenate(talk + last, axis=1)

    def _view(self, observation: jax.Array) -> _View:
        parts = jnp.split(observation, np.cumsum(self._sizes)[:-1])
        which = [jnp.sum(part * np.arange(1, part.size + 1)).astype(jnp.int32) - 1 for part in parts]
        stage, first, hand, _, heard, _, last_hand, last_hand_of_other, *_ = which
        return _View(
            phase=stage,
            first=first + 1,  # a flag
            hand=hand,
            heard=heard,
            last_hand=last_hand,
            last_hand_of_other=last_hand_of_other,
            last_claim=parts[10][0],
            last_claim_of_other=parts[11][0],
        )

    # ------------------------------------------------------------------ scripted players
    @property
    def players(self) -> Mapping[str, Player]:
        return {
            "random": lambda observation, key: self._random(self._view(observation), key),
            "honest": lambda observation, key: self._honest(self._view(observation)),
            "greedy": lambda observation, key: self._greedy(self._view(observation)),
            "liar": lambda observation, key: self._liar(self._view(observation)),
            "tit_for_tat": lambda observation, key: self._tit_for_tat(self._view(observation)),
        }

    def _answer(self, view: _View, message: jax.Array, claim: jax.Array | int) -> jax.Array:
        return jnp.where(view.phase == CLAIM, claim, jnp.where(view.speaks, message, 0)).astype(jnp.int32)

    def _random(self, view: _View, key: jax.Array) -> jax.Array:
        chance = jax.random.uniform(key)
        message, claim = (jnp.floor(chance * n).astype(jnp.int32) for n in (self.num_symbols, self.coins + 1))
        return self._answer(view, message, claim)

    def _greedy(self, view: _View) -> jax.Array:
        return self._answer(view, view.hand, self.coins)

    def _honest(self, view: _View) -> jax.Array:
        """Half of the coins where the other's word cannot be true: it names my own hand, or none."""
        believed = (view.heard < HANDS) & (view.heard != view.hand)
        sure = jnp.where(beats(view.hand, view.heard), self.coins, 0)
        return self._answer(view, view.hand, jnp.where(believed, sure, self.coins // 2))

    def _liar(self, view: _View) -> jax.Array:
        """An honest speaker who is told that it loses claims nothing, whatever I hold."""
        told = (view.heard >= 0) & (view.heard < HANDS)
        return self._answer(view, jnp.where(told, (view.heard + 1) % HANDS, view.hand), self.coins)

    def _tit_for_tat(self, view: _View) -> jax.Array:
        """A winner's claims tell nothing of its greed, so that a loser's are what counts: if the other lost, it was
        greedy; if I lost, I was already answering greed."""
        lost = beats(view.last_hand_of_other, view.last_hand)
        of_loser = jnp.where(lost, view.last_claim, view.last_claim_of_other)
        return jnp.where(of_loser > 0.5, self._greedy(view), self._honest(view))
