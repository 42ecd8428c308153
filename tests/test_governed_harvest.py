"""Governed harvest: who is fined by whom, which norm holds, and that fines turn greed into a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import make
from marl_suite.envs.commons.governed_harvest import GovernedHarvest, lower_median, sustainable_effort
from marl_suite.envs.errors import InputError
from marl_suite.games.schelling import Diagram, verdict

ENV = GovernedHarvest()
PLAYERS = [name for name in ENV.players if name != "random"]
"""None of them uses its key."""
EPISODES = 32


def _episodes(keys, seats, params):
    """Returns [E, N], lengths [E] and metrics [E, T] of episodes with the players of numbers `seats` [N]."""

    def episode(key):
        def step(carry, key):
            observation, state, running = carry
            choices = [jax.vmap(ENV.players[name], (0, None))(observation, key) for name in PLAYERS]
            chosen = jnp.stack(choices)[seats, jnp.arange(ENV.num_agents)]
            observation, state, reward, terminated, truncated, info = ENV.step_env(key, state, chosen, params)
            record = jax.tree.map(lambda x: x * running, {"reward": reward, "running": 1.0} | info["metrics"])
            return (observation, state, running & ~terminated & ~truncated), record

        start = (*ENV.reset(key, params), jnp.ones((), bool))
        return jax.lax.scan(step, start, jax.random.split(jax.random.fold_in(key, 1), 100))[1]

    return jax.vmap(episode)(keys)


_jitted = jax.jit(_episodes)


def play(seats, **numbers):
    where = np.array([PLAYERS.index(name) for name in seats])
    keys = jax.random.split(jax.random.key(5), EPISODES)
    record = jax.tree.map(np.asarray, _jitted(keys, where, ENV.make_params(**numbers)))
    return record | {"return": record["reward"].astype(float).sum(axis=1), "length": record["running"].sum(axis=1)}


# ---------------------------------------------------------------------- parts
@pytest.mark.parametrize("agents", [4, 5])
def test_the_norm_is_the_lower_median_of_the_proposals(agents):
    votes = np.random.default_rng(0).integers(0, 5, (40, agents))
    norms = jax.vmap(lower_median, (0, None))(jnp.asarray(votes), 5)
    assert norms.tolist() == [sorted(row)[(agents - 1) // 2] for row in votes.tolist()]


def test_the_effort_that_is_best_for_all_harvests_most():
    efforts = np.linspace(0, 0.5, 1001)
    harvest = efforts * 0.6 * (1 - efforts * 0.6 / 0.3)
    np.testing.assert_allclose(efforts[np.argmax(harvest)], sustainable_effort(0.3, 0.6), atol=1e-9)
    np.testing.assert_allclose(harvest.max(), 0.3 / 4)


def test_monitors_look_at_one_random_other_and_pay_for_what_they_fine():
    keys = jax.random.split(jax.random.key(0), 4000)
    look = jax.jit(jax.vmap(ENV.sanctions, (0, None, None)))
    everybody, first = np.ones(5, bool), np.arange(5) == 0
    fines, fees = map(np.asarray, look(keys, first, everybody))
    assert (fines[:, 1:] == 0).all() and (fees[:, 0] == 0).all() and (fines[:, 0] == fees.sum(axis=1)).all()
    np.testing.assert_allclose(fees.mean(axis=0)[1:], 1 / 4, atol=0.03)  # each of four others is as likely
    np.testing.assert_allclose(fines[:, 0].var(), 4 * 3 / 16, atol=0.06)  # independently: binomial of 4 and 1 / 4
    fines, fees = map(np.asarray, look(keys, everybody, first))
    assert (fees == first).all() and (fines[:, 0] == 0).all() and (fines.sum(axis=1) == 1).all()
    np.testing.assert_allclose(fines.mean(axis=0)[1:], 1 / 4, atol=0.03)
    assert np.asarray(look(keys, ~everybody, everybody)).sum() == 0


def test_play_of_two_follows_a_loop():
    # Two agents can only look at each other, so that nothing is random.
    env = GovernedHarvest(num_agents=2)
    params = env.make_params(harvest_rate=0.4, max_steps=40)
    step = jax.jit(env.step_env)
    _, state = env.reset(jax.random.key(0), params)
    rng = np.random.default_rng(4)
    stock, norm, total, fined = 0.5, 4, 0.0, 0
    for t in range(40):
        actions = rng.integers(0, (4, 2, 5), (2, 3))
        seen, state, reward, terminated, truncated, info = step(jax.random.key(t), state, actions, params)
        (one, watch_one, vote_one), (two, watch_two, vote_two) = actions.tolist()
        fine_one, fine_two = one > norm and watch_two == 1, two > norm and watch_one == 1
        gain_one, gain_two = (0.2 * effort / 4 * stock for effort in (one, two))
        expected = [gain_one - 0.06 * fine_one - 0.02 * fine_two, gain_two - 0.06 * fine_two - 0.02 * fine_one]
        np.testing.assert_allclose(reward, expected, atol=1e-6)
        metrics = jax.tree.map(np.asarray, info["metrics"])
        assert metrics["fines"].tolist() == [fine_one, fine_two] and metrics["norm"] == norm / 4
        assert metrics["compliance"].tolist() == [one <= norm, two <= norm]
        stock, norm = stock + 0.3 * stock * (1 - stock) - gain_one - gain_two, min(vote_one, vote_two)
        total, fined = total + gain_one + gain_two, fined + fine_one + fine_two
        np.testing.assert_allclose(metrics["stock"], stock, atol=1e-6)
        own, other = [stock, norm / 4, one / 4, two / 4, fine_one, 0.375], [stock, norm / 4, two / 4, one / 4, fine_two]
        np.testing.assert_allclose(seen, [own, [*other, 0.375]], atol=1e-6)
        over = t == 39
        assert (bool(terminated), bool(truncated), metrics["survived"]) == (False, over, over)
        np.testing.assert_allclose(metrics["efficiency"], total / (0.075 * 40) if over else 0, rtol=1e-5)
    assert fined > 3


# ---------------------------------------------------------------------- play
def test_full_effort_of_all_ends_the_game_in_five_rounds():
    record, stock = play(["greedy"] * 5), 0.5
    for t in range(5):
        stock = stock + 0.3 * stock * (1 - stock) - 0.6 * stock
        np.testing.assert_allclose(record["stock"][:, t], stock, rtol=1e-5)
    assert stock < 0.05 and (record["length"] == 5).all()
    assert record["survived"].sum() == 0 and (record["episodes"].sum(axis=1) == 1).all()


@pytest.mark.parametrize("player", ["fair_monitor", "fair"])
def test_the_best_effort_of_all_keeps_the_stock_and_harvests_most(player):
    record = play([player] * 5)
    np.testing.assert_allclose(record["return"], 100 * 0.075 / 5, rtol=1e-5)
    assert (record["survived"].sum(axis=1) == 1).all() and record["fines"].sum() == 0
    np.testing.assert_allclose(record["efficiency"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(record["norm"], np.tile([1.0] + [0.25] * 99, (EPISODES, 1)))


def test_greed_pays_without_fines_and_costs_with_them():
    seats = ["greedy"] + ["fair_monitor"] * 4
    without, with_fine = play(seats, fine=0.0, fee=0.0), play(seats)
    assert without["return"][:, 0].min() > 1.5 > 0 > with_fine["return"][:, 0].max()
    assert without["return"][:, 0].min() > without["return"][:, 1:].max()
    assert with_fine["return"][:, 0].max() < with_fine["return"][:, 1:].min()
    # Nobody is fined in the first round, and one of four looks at the first agent on average after it.
    np.testing.assert_allclose(with_fine["fines"].sum(axis=1).mean(axis=0), [99, 0, 0, 0, 0], atol=5)
    unwatched = play(["greedy"] + ["fair"] * 4)
    np.testing.assert_allclose(unwatched["return"], without["return"], rtol=1e-5)  # a norm that nobody upholds


def diagram(**numbers):
    cooperators, defectors = np.full((6, EPISODES), np.nan), np.full((6, EPISODES), np.nan)
    for k in range(6):
        returns = play([ENV.cooperator] * k + [ENV.defector] * (5 - k), **numbers)["return"]
        cooperators[k] = returns[:, :k].mean(axis=1) if k else np.nan
        defectors[k] = returns[:, k:].mean(axis=1) if k < 5 else np.nan
    return Diagram(cooperators, defectors)


def test_fines_take_greed_out_of_the_dilemma_but_not_fear():
    assert str(verdict(diagram(fine=0.0, fee=0.0))) == "a social dilemma of fear and greed"
    fined = diagram()
    assert str(verdict(fined)) == "a social dilemma of fear" and fined.equilibria() == [0, 5]


def test_a_follower_of_the_norm_is_never_fined():
    record = play(["norm_follower"] * 2 + ["fair_monitor"] * 3)
    assert record["fines"].sum() == 0
    np.testing.assert_allclose(record["effort"][:, :2], [[[1, 1, 0.25, 0.25, 0.25], [0.25] * 5]] * EPISODES)


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"growth": 2}, "growth must be at most 1"),
        ({"harvest_rate": 0}, "harvest_rate must be at least"),
        ({"fine": -0.1}, "fine must be at least 0, got -0.1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_numbers_that_make_no_game_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        ENV.make_params(**numbers)


@pytest.mark.parametrize("setting", ["num_agents", "num_levels"])
def test_one_agent_or_one_level_is_no_game(setting):
    with pytest.raises(InputError, match=f"{setting} must be at least 2, got 1"):
        make("governed_harvest", **{setting: 1})
