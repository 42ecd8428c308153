"""The donor game: closed forms, an independent replay in plain Python, who meets whom, and what reputations do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.commons.donor_game import RECORD, DonorGame, act_by_image
from marl_suite.envs.commons.donor_game_values import lone_free_rider_wealth, mean_final_wealth
from marl_suite.envs.environment import random_player

N, ROUNDS, EPISODES = 12, 12, 512
ALTERNATING = DonorGame(punishment=True)
RANDOM_ROLES = DonorGame(punishment=True, roles="random", record="own")


@functools.cache
def program(env):
    """Plays EPISODES generations with given actions, from raw resets and steps, in one compiled program per game."""

    def play(key, actions, params):
        def step(carry, xs):
            key, actions = xs
            _, after, reward, terminated, truncated, info = env.step_env(key, carry, actions, params)
            return after, (carry, after, reward, terminated, truncated, info["metrics"], env.observe(carry, params))

        reset_key, key = jax.random.split(key)
        _, state = env.reset_env(reset_key, params)
        return jax.lax.scan(step, state, (jax.random.split(key, ROUNDS), actions))[1]

    return jax.jit(jax.vmap(play, (0, 0, None)))


def play(env, actions, seed=0, **params):
    """Everything of EPISODES generations: arrays [E, T, ...]; `actions` broadcast to [E, T, N]."""
    actions = np.broadcast_to(np.asarray(actions, np.int32), (EPISODES, ROUNDS, N))
    keys = jax.random.split(jax.random.key(seed), EPISODES)
    return jax.tree.map(np.asarray, program(env)(keys, actions, env.make_params(**params)))


@functools.cache
def random_play(env):
    """Uniform actions, those that are masked included."""
    actions = np.random.default_rng(1).integers(0, 9, (EPISODES, ROUNDS, N))
    return actions, play(env, actions, endowment=7.0, multiplier=3.0, punishment_factor=1.5, good_share=0.75)


# ---------------------------------------------------------------------- known answers
def test_mean_wealth_of_constant_givers_is_the_known_one():
    known = {0.0: 10.0, 0.25: 53.49, 0.5: 393.91, 0.75: 3482.67, 1.0: 30720.0}
    for level, (share, wealth) in enumerate(known.items()):
        assert mean_final_wealth(share) == pytest.approx(wealth, abs=5e-3)
        _, after, *_ = play(ALTERNATING, level)
        np.testing.assert_allclose(after.wealth[:, -1].mean(1), mean_final_wealth(share), rtol=1e-6)


def test_all_wealth_given_doubles_in_each_round_but_the_first():
    """By hand: 10 and 10, then 0 and 30, then 60 and 0, ..., so that the mean is 15, 30, 60, ..."""
    for rounds in range(1, 13):
        assert mean_final_wealth(1.0, rounds) == 7.5 * 2**rounds
    _, after, *_ = play(ALTERNATING, 4)
    np.testing.assert_array_equal(after.wealth.mean(2), np.tile(7.5 * 2.0 ** np.arange(1, 13), (EPISODES, 1)))


def test_pitfall_scheduling_roles_at_random_changes_the_outcome_tenfold():
    assert mean_final_wealth(1.0, roles="random") == pytest.approx(10 * 1.5**12)
    assert mean_final_wealth(1.0) > 20 * mean_final_wealth(1.0, roles="random")
    for level, share in ((1, 0.25), (2, 0.5)):
        _, after, *_ = play(RANDOM_ROLES, level)
        wealth = after.wealth[:, -1].mean(1)
        error = wealth.std() / np.sqrt(EPISODES)
        assert abs(wealth.mean() - mean_final_wealth(share, roles="random")) < 4 * error
        assert wealth.mean() + 4 * error < mean_final_wealth(share)


def test_a_lone_free_rider_earns_what_the_recursion_says():
    """Tempting among those who give half, not among those who give all."""
    for level, share in ((1, 0.25), (2, 0.5)):
        actions = np.full(N, level)
        actions[3] = 0
        _, after, *_ = play(ALTERNATING, actions, seed=3)
        wealth = after.wealth[:, -1, 3]
        assert abs(wealth.mean() - lone_free_rider_wealth(share)) < 4 * wealth.std() / np.sqrt(EPISODES)
    assert lone_free_rider_wealth(0.5) > 1.25 * mean_final_wealth(0.5)
    assert lone_free_rider_wealth(0.75) < mean_final_wealth(0.75)
    assert lone_free_rider_wealth(1.0) < 0.85 * mean_final_wealth(1.0)
    assert lone_free_rider_wealth(1.0, num_agents=24) > mean_final_wealth(1.0)


def test_two_rounds_of_a_lone_free_rider_by_hand():
    """Four agents give all of 10. A free rider in the first half: gets the 30 of the one that was given 20. In the
    second: gets 20 at once."""
    assert lone_free_rider_wealth(1.0, rounds=2, num_agents=4) == ((10 + 2 * 30) + (10 + 20)) / 2


# ---------------------------------------------------------------------- rules
def replay(actions, before, chain, endowment=7.0, multiplier=3.0, factor=1.5, good=0.75):
    """One generation in plain Python, who meets whom taken from the game: wealth, images, records after each round."""
    agents = [{"wealth": endowment, "image": 0, "met": 0, "record": []} for _ in range(N)]
    told = []
    for t in range(ROUNDS):
        seats = {int(place): agent for agent, place in enumerate(before.place[t])}
        changes = []
        for place in range(t % 2, N, 2):
            donor, recipient = seats[place], seats[(place + 1) % N]
            action = int(actions[t, donor])
            share = action / 4 if action <= 4 else -(action - 4) / 4
            x = abs(share) * agents[donor]["wealth"]
            tail = agents[recipient if chain else donor]["record"]
            changes.append((donor, recipient, share, x, agents[recipient]["image"], [share, *tail][:3]))
        for donor, recipient, share, x, met, record in changes:
            agents[donor]["wealth"] -= x
            got = multiplier * x if share > 0 else -factor * x
            agents[recipient]["wealth"] = max(agents[recipient]["wealth"] + got, 0)
            image = agents[donor]["image"] + (1 if share >= good else -1)
            agents[donor] |= {"image": min(max(image, -5), 5), "met": met, "record": record}
        told.append([dict(agent) for agent in agents])
    return told


@pytest.mark.parametrize("env", [ALTERNATING, RANDOM_ROLES], ids=["alternating, chain", "random, own"])
def test_random_play_equals_a_replay_in_plain_python(env):
    actions, (before, after, reward, *_) = random_play(env)
    for e in range(24):
        first, second = (jax.tree.map(lambda x: x[e], states) for states in (before, after))  # noqa: B023
        told = replay(actions[e], first, chain=env.record == "chain")
        for t, agents in enumerate(told):
            wealth = np.array([agent["wealth"] for agent in agents])
            np.testing.assert_allclose(second.wealth[t], wealth, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(second.image[t], [agent["image"] for agent in agents])
            np.testing.assert_array_equal(second.last_image[t], [agent["met"] for agent in agents])
            records = [agent["record"] for agent in agents]
            np.testing.assert_array_equal(second.known[t], [[i < len(r) for i in range(3)] for r in records])
            np.testing.assert_array_equal(second.record[t], [r + [0] * (3 - len(r)) for r in records])
    np.testing.assert_allclose(reward, after.wealth - before.wealth, rtol=1e-6)
    assert (np.minimum(after.wealth, after.image + 5) >= 0).all() and np.abs(after.image).max() == 5


def test_halves_take_turns_and_nobody_returns_what_it_just_got():
    _, (before, *_) = random_play(ALTERNATING)
    agents, donates = np.arange(N), (before.place + before.time[:, :, None]) % 2 == 0
    assert (np.sort(before.place, axis=2) == agents).all()
    assert (np.take_along_axis(before.partner, before.partner, 2) == agents).all()
    assert (np.take_along_axis(donates, before.partner, 2) == ~donates).all()
    assert (donates[:, 1:] == ~donates[:, :-1]).all()
    assert (before.partner[:, 1::2] != before.partner[:, ::2]).all()
    # Both halves and all pairs of one of each are as likely: 512 x 6 pairs of rounds.
    assert abs(donates[:, 0].mean(0) - 0.5).max() < 4 * 0.5 / np.sqrt(EPISODES)
    meetings = np.bincount(before.partner[:, ::2, 0].ravel(), minlength=N)
    assert meetings[0] == 0 and abs(meetings[1:] / (EPISODES * 6) - 1 / 11).max() < 0.03


def test_random_roles_do_not_alternate():
    _, (before, *_) = random_play(RANDOM_ROLES)
    donates = (before.place + before.time[:, :, None]) % 2 == 0
    assert (donates.sum(2) == 6).all()
    again = (donates[:, 1:] & donates[:, :-1]).mean()  # twice in a row, 1/2 of 1/2
    assert abs(again - 0.25) < 0.02


def test_what_a_recipient_does_counts_as_nothing():
    """Recipients are allowed action 0 only, and anything else is read as that."""
    actions, (before, after, *_) = random_play(ALTERNATING)
    state = jax.tree.map(lambda x: x[0, 4], before)
    mask = np.asarray(ALTERNATING.action_mask(state))
    donates = (state.place + state.time) % 2 == 0
    np.testing.assert_array_equal(mask[:, 1:], np.repeat(donates[:, None], 8, axis=1))
    assert mask[:, 0].all() and not donates.all()
    allowed = np.where((before.place + before.time[:, :, None]) % 2 == 0, actions, 0)
    _, obeyed, *_ = play(ALTERNATING, allowed, endowment=7.0, multiplier=3.0, punishment_factor=1.5, good_share=0.75)
    assert (actions != allowed).mean() > 0.4
    jax.tree.map(np.testing.assert_array_equal, obeyed, after)


def test_punishing_destroys_no_more_than_there_is():
    """Everybody spends half on destroying as much as it owns: 10 and 10 become 5 and 0, then 5 and 0."""
    _, after, *_ = play(ALTERNATING, 6)
    assert (np.sort(after.wealth[:, 0], axis=1) == [0] * 6 + [5] * 6).all()
    np.testing.assert_array_equal(after.wealth[:, 1], after.wealth[:, 0])
    np.testing.assert_array_equal(after.image.min(axis=2)[:, -1], -5)


def test_a_generation_terminates_after_its_rounds():
    _, (_, _, _, terminated, truncated, *_) = random_play(ALTERNATING)
    assert terminated[:, -1].all() and not terminated[:, :-1].any() and not truncated.any()


# ---------------------------------------------------------------------- what is seen and told
def test_a_donor_sees_its_recipients_record_and_a_recipient_sees_nothing():
    _, (before, *_, observation) = random_play(ALTERNATING)
    bound = 13 * np.log(4.0)  # multiplier 3
    wealth = np.log1p(before.wealth / 7.0) / bound
    donates = (before.place + before.time[:, :, None]) % 2 == 0
    cards = np.concatenate(
        [np.stack([wealth, before.image / 5, before.last_image / 5], 3), before.known, before.record], 3
    )
    seen = np.take_along_axis(cards, before.partner[..., None], 2) * donates[..., None]
    clock = np.broadcast_to(before.time[:, :, None] / 12, donates.shape)
    expected = np.concatenate([np.stack([clock, wealth, donates], 3), seen], 3)
    np.testing.assert_allclose(observation, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(observation).max() <= 1 and observation[..., 1].max() > 0.3


def test_without_reputation_nothing_is_known_of_others():
    _, (before, *_, observation) = random_play(ALTERNATING)
    state = jax.tree.map(lambda x: x[0, 7], before)
    params = ALTERNATING.make_params(endowment=7.0, multiplier=3.0)
    blind = np.asarray(DonorGame(punishment=True, reputation=False).observe(state, params))
    np.testing.assert_allclose(blind[:, :3], observation[0, 7, :, :3], rtol=1e-6)
    assert (blind[:, 3:] == 0).all() and (observation[0, 7, :, 3:] != 0).any()


def test_metrics_tell_shares_per_round_and_wealth_per_generation():
    actions, (before, after, *_, metrics, _) = random_play(ALTERNATING)
    donates = (before.place + before.time[:, :, None]) % 2 == 0
    given = np.where(donates & (actions <= 4), actions, 0).sum(2) / 4 / 6
    spent = np.where(donates & (actions > 4), actions - 4, 0).sum(2) / 4 / 6
    np.testing.assert_allclose(metrics["donation"], given, rtol=1e-6)
    np.testing.assert_allclose(metrics["punishment"], spent, rtol=1e-6)
    means = ALTERNATING.derived_metrics({name: jnp.mean(x) for name, x in metrics.items()})
    final = after.wealth[:, -1].astype(float)
    ranked, total = np.sort(final, axis=1), final.sum(1)
    gini = 2 * (ranked * np.arange(1, N + 1)).sum(1) / (N * np.maximum(total, 1e-9)) - (N + 1) / N
    assert set(means) == {"donation", "punishment", "final_wealth", "final_equality"}
    np.testing.assert_allclose(means["final_wealth"], final.mean(), rtol=1e-5)
    np.testing.assert_allclose(means["final_equality"], np.where(total > 0, 1 - gini, 0).mean(), rtol=1e-5)


# ---------------------------------------------------------------------- players and errors
def observed(donor=1, image=0.0):
    observation = np.zeros(RECORD + 6, np.float32)
    observation[[2, 4]] = donor, image
    return jnp.asarray(observation)


def test_players_do_what_their_definitions_say():
    expected = {  # for a bad, a blank and a good recipient
        "give_all": (4, 4, 4),
        "give_half": (2, 2, 2),
        "free_rider": (0, 0, 0),
        "image_scorer": (0, 4, 4),
        "punisher": (5, 4, 4),
    }
    players, key = ALTERNATING.players, jax.random.key(0)
    assert set(players) == {*expected, "random"} and set(ALTERNATING.definitions) == set(expected)
    assert "punisher" not in DonorGame().players
    for name, levels in expected.items():
        assert tuple(int(players[name](observed(image=i), key)) for i in (-0.2, 0.0, 0.2)) == levels
        assert int(players[name](observed(donor=0, image=1.0), key)) == 0
    assert int(act_by_image(np.array([3, 1, 2]), observed(image=0.4), key)) == 2
    assert int(players["random"](observed(), key)) == int(random_player(ALTERNATING)(observed(), key))


def test_what_does_not_make_sense_is_refused_in_one_line():
    settings = (
        {"num_agents": 7},
        {"num_agents": 2},
        {"num_levels": 1},
        {"memory": 0},
        {"roles": "alternate"},
        {"record": "chains"},
    )
    for setting in settings:
        with pytest.raises(InputError, match=f"donor_game: {next(iter(setting))}"):
            make("donor_game", **setting)
    with pytest.raises(InputError, match="closest: 8"):
        make("donor_game", num_agents=7)
    wrong = {"endowment": 0.0, "multiplier": -1.0, "punishment_factor": -1.0, "good_share": 1.5, "rounds": 0}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"donor_game: parameter {name}"):
            make("donor_game").make_params(**{name: value})
    with pytest.raises(InputError, match="closest: 'random'"):
        mean_final_wealth(0.5, roles="randomly")
