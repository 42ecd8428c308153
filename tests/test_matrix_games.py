"""Matrix games and n-player dilemmas against hand-written tables and enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.matrix_games import MatrixGame
from marl_suite.envs.testing import check_environment

MATRIX_GAMES = (
    "prisoners_dilemma",
    "stag_hunt",
    "chicken",
    "bach_stravinsky",
    "matching_pennies",
    "rock_paper_scissors",
    "pure_coordination",
    "climbing",
    "penalty",
    "matrix_game",
)
N_PLAYER_GAMES = ("public_goods", "n_player_prisoners_dilemma", "volunteers_dilemma")
TWO_BY_TWO_DILEMMAS = ("prisoners_dilemma", "stag_hunt", "chicken")


def joint_actions(env):
    """Every joint action [A**N, N], the first agent's slowest."""
    return np.array(list(itertools.product(range(env.action_space().n), repeat=env.num_agents)), np.int32)


def penalty_table(k):
    """What both get after 00, 01, 02, 10, ..."""
    return [(k, k), (0, 0), (10, 10), (0, 0), (2, 2), (0, 0), (10, 10), (0, 0), (k, k)]


def first_steps(env, params=None, actions=None):
    """The outcome of each joint action at the first step of an episode; of all of them by default."""
    actions = joint_actions(env) if actions is None else np.asarray(actions, np.int32)
    return _first_steps(env, env.default_params if params is None else params, actions)


@functools.partial(jax.jit, static_argnums=0)
def _first_steps(env, params, actions):
    _, state = env.reset(jax.random.key(0), params)
    return jax.vmap(lambda a: env.step(jax.random.key(1), state, a, params))(actions)


def rewards(env, params=None, actions=None):
    return np.asarray(first_steps(env, params, actions)[2])


def play(env, actions, params=None):
    """The outcome of every step of one run."""
    keys = jax.random.split(jax.random.key(1), len(actions))

    def step(state, inputs):
        outcome = env.step(inputs[0], state, inputs[1], params)
        return outcome[1], outcome

    return jax.lax.scan(step, env.reset(jax.random.key(0), params)[1], (keys, jnp.asarray(actions, jnp.int32)))[1]


# ---------------------------------------------------------------------- payoffs
@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [  # (reward of agent 0, reward of agent 1) after CC, CD, DC, DD
        ("prisoners_dilemma", "lola", [(-1, -1), (-3, 0), (0, -3), (-2, -2)]),
        ("prisoners_dilemma", "melting_pot", [(3, 3), (0, 5), (5, 0), (1, 1)]),
        ("prisoners_dilemma", "contribution", [(0.33, 0.33), (-0.335, 0.665), (0.665, -0.335), (0, 0)]),
        ("prisoners_dilemma", "pax", [(2, 2), (0, 3), (3, 0), (1, 1)]),
        ("stag_hunt", "standard", [(4, 4), (0, 3), (3, 0), (2, 2)]),
        ("stag_hunt", "melting_pot", [(4, 4), (0, 2), (2, 0), (2, 2)]),
        ("stag_hunt", "pax", [(4, 4), (1, 3), (3, 1), (2, 2)]),
        ("chicken", "melting_pot", [(3, 3), (2, 5), (5, 2), (0, 0)]),
        ("chicken", "pax", [(0, 0), (-1, 1), (1, -1), (-2, -2)]),
        ("chicken", "m_fos", [(0, 0), (-1, 1), (1, -1), (-100, -100)]),
        ("bach_stravinsky", "melting_pot", [(3, 2), (0, 0), (0, 0), (2, 3)]),
        ("bach_stravinsky", "pax", [(3, 2), (0, 0), (0, 0), (2, 3)]),
        ("matching_pennies", "lola", [(1, -1), (-1, 1), (-1, 1), (1, -1)]),
        (
            "rock_paper_scissors",
            "standard",
            [(0, 0), (-1, 1), (1, -1), (1, -1), (0, 0), (-1, 1), (-1, 1), (1, -1), (0, 0)],
        ),
        (
            "rock_paper_scissors",
            "melting_pot",
            [(0, 0), (-10, 10), (10, -10), (10, -10), (0, 0), (-10, 10), (-10, 10), (10, -10), (0, 0)],
        ),
        ("pure_coordination", "melting_pot", [(int(a == b),) * 2 for a in range(3) for b in range(3)]),
        ("pure_coordination", "rationalizable", [(a + 1 if a == b else 0,) * 2 for a in range(3) for b in range(3)]),
        (
            "climbing",
            "standard",
            [(11, 11), (-30, -30), (0, 0), (-30, -30), (7, 7), (0, 0), (0, 0), (6, 6), (5, 5)],
        ),
        *(("penalty", f"k_{k}", penalty_table(k)) for k in (-100, -75, -50, -25, 0)),
        ("matrix_game", "zeros", [(0, 0)] * 4),
    ],
)
def test_every_joint_action_pays_what_the_published_table_says(name, preset, expected):
    np.testing.assert_allclose(rewards(make(name, payoffs=preset)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("prisoners_dilemma", "lola"),
        ("stag_hunt", "standard"),
        ("chicken", "melting_pot"),
        ("matching_pennies", "lola"),
        ("rock_paper_scissors", "standard"),
        ("pure_coordination", "melting_pot"),
        ("climbing", "standard"),
        ("penalty", "k_-100"),
        ("n_player_prisoners_dilemma", "linear"),
    ],
)
def test_the_default_preset_is_the_documented_one(name, preset):
    assert make(name) == make(name, payoffs=preset)
    assert getattr(make(name), "payoffs") == preset  # noqa: B009


def test_a_matrix_game_plays_the_table_it_is_given():
    env = make("matrix_game", num_actions=3)
    payoffs = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    expected = [(payoffs[0, a, b], payoffs[1, a, b]) for a in range(3) for b in range(3)]
    np.testing.assert_array_equal(rewards(env, env.make_params(payoffs=payoffs)), expected)


def test_a_vmap_over_payoff_tables_gives_each_tables_rewards():
    env = make("matrix_game")
    tables = np.random.default_rng(1).normal(size=(5, 2, 2, 2)).astype(np.float32)
    params = jax.vmap(lambda payoffs: env.default_params.replace(payoffs=payoffs))(tables)
    _, state = env.reset(jax.random.key(0))
    step = jax.jit(jax.vmap(lambda p: env.step(jax.random.key(0), state, jnp.array([0, 1]), p)[2]))
    np.testing.assert_array_equal(step(params), tables[:, :, 0, 1])


def test_pure_coordination_takes_any_number_of_actions():
    actions = [(4, 4), (4, 3)]
    plain, ranked = (make("pure_coordination", num_actions=5, payoffs=p) for p in ("melting_pot", "rationalizable"))
    np.testing.assert_array_equal(rewards(plain, actions=actions), [(1, 1), (0, 0)])
    np.testing.assert_array_equal(rewards(ranked, actions=actions), [(5, 5), (0, 0)])


@pytest.mark.parametrize(
    ("name", "settings", "actions", "expected"),
    [  # the returns that benchmarks of 25 repetitions tell apart
        ("penalty", {"payoffs": "k_0"}, (0, 2), 250),
        ("penalty", {"payoffs": "k_-25"}, (2, 0), 250),
        ("penalty", {}, (1, 1), 50),
        ("penalty", {}, (2, 2), -2500),
        ("climbing", {}, (0, 0), 275),
        ("climbing", {}, (1, 1), 175),
        ("climbing", {}, (2, 1), 150),
        ("climbing", {}, (2, 2), 125),
    ],
)
def test_constant_play_of_the_common_payoff_games_returns_what_benchmarks_report(name, settings, actions, expected):
    _, _, reward, terminated, truncated, _ = play(make(name, **settings), [actions] * 25)
    np.testing.assert_array_equal(reward.sum(axis=0), [expected, expected])
    assert not np.any(terminated)
    np.testing.assert_array_equal(np.flatnonzero(truncated), [24])


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [  # 25 times the sum of the nine cells over nine
        ("climbing", {}, -31 / 9 * 25),
        ("penalty", {}, -178 / 9 * 25),
        ("penalty", {"payoffs": "k_0"}, 22 / 9 * 25),
    ],
)
def test_random_play_of_the_common_payoff_games_is_worth_the_mean_cell(name, settings, expected):
    env = make(name, **settings)
    worth = rewards(env).mean(axis=0) * env.default_params.max_steps
    np.testing.assert_allclose(worth, [expected, expected], rtol=1e-6)
    actions = np.random.default_rng(0).integers(0, 3, (25 * 2000, 2))
    returns = np.asarray(play(env, actions)[2][:, 0]).reshape(2000, 25).sum(axis=1)
    assert returns.mean() == pytest.approx(expected, abs=4 * returns.std() / np.sqrt(2000))


def test_optimal_play_is_measured_against_the_payoffs_that_are_played():
    env = make("penalty", payoffs="k_0")
    payoffs = env.default_params.payoffs.copy()
    payoffs[:, 1, 1] = 12
    optimal = first_steps(env, env.make_params(payoffs=payoffs))[5]["metrics"]["optimal"]
    np.testing.assert_array_equal(optimal, [[a == b == 1] * 2 for a in range(3) for b in range(3)])


def test_changing_the_default_payoffs_in_place_leaves_the_game_alone():
    env = make("prisoners_dilemma")
    env.default_params.payoffs[:] = 7
    np.testing.assert_array_equal(env.default_params.payoffs[0], [[-1, -3], [0, -2]])


# ---------------------------------------------------------------------- the two-step game
def two_steps(params=None):
    """The outcome of both steps [16, 2, ...] of all sixteen sequences, and the sequences [16, 2, N]."""
    env = make("two_step")
    sequences = np.array(list(itertools.product((0, 1), repeat=4)), np.int32).reshape(16, 2, 2)
    return sequences, jax.jit(jax.vmap(lambda actions: play(env, actions, params)))(sequences)


def test_the_two_step_game_pays_the_chosen_matrix_to_both_and_terminates_at_step_two():
    sequences, (_, _, reward, terminated, truncated, _) = two_steps()
    expected = [7 if first == 0 else {0: 0, 1: 1, 2: 8}[a + b] for (first, _), (a, b) in sequences.tolist()]
    np.testing.assert_array_equal(reward[:, 0], 0)
    np.testing.assert_array_equal(reward[:, 1], np.stack([expected, expected], axis=1))
    np.testing.assert_array_equal(terminated, [[False, True]] * 16)
    assert not np.any(truncated)
    assert sorted(expected) == [0] * 2 + [1] * 4 + [7] * 8 + [8] * 2


def test_the_two_step_game_shows_both_agents_its_state_and_starts_again():
    env = make("two_step")
    start, state = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(start, [[1, 0, 0]] * 2)
    np.testing.assert_array_equal(env.global_state(state), [1, 0, 0])
    sequences, (observation, state, _, _, _, info) = two_steps()
    matrix = [[[0, 0, 1]] * 2 if first else [[0, 1, 0]] * 2 for first in sequences[:, 0, 0]]
    np.testing.assert_array_equal(observation[:, 0], matrix)
    np.testing.assert_array_equal(info["final_observation"][:, 1], matrix)
    np.testing.assert_array_equal(observation[:, 1], [start] * 16)
    np.testing.assert_array_equal(state.stage, [(1 + first, 0) for first in sequences[:, 0, 0]])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(env.global_state))(state), observation[:, :, 0])


def test_the_two_step_game_plays_the_payoffs_it_is_given():
    env = make("two_step")
    payoffs = np.arange(8, dtype=np.float32).reshape(2, 2, 2)[::-1]
    sequences, (_, _, reward, _, _, info) = two_steps(env.make_params(payoffs=payoffs))
    expected = [(0 if first else 4) + 2 * a + b for (first, _), (a, b) in sequences.tolist()]
    np.testing.assert_array_equal(reward[:, 1], np.stack([expected, expected], axis=1))
    np.testing.assert_array_equal(info["metrics"]["optimal"][:, 1], np.array(expected) == 7)


def test_metrics_of_the_two_step_game_are_shares_of_episodes():
    env = make("two_step")
    sequences, outcome = two_steps()
    shares = env.derived_metrics(jax.tree.map(lambda x: x.mean(axis=1), outcome[5]["metrics"]))
    np.testing.assert_array_equal(shares["risky"], sequences[:, 0, 0])
    np.testing.assert_array_equal(shares["optimal"], [s[0, 0] == s[1, 0] == s[1, 1] == 1 for s in sequences])
    assert not env.mixed_motive


@pytest.mark.parametrize(("name", "expected"), [("safe", 7), ("risky", 8)])
def test_pairs_of_a_scripted_player_of_the_two_step_game_get_the_safe_or_the_best_return(name, expected):
    env = make("two_step")
    player = env.players[name]
    observation, state = env.reset(jax.random.key(0))
    total = 0
    for _ in range(2):
        actions = jax.vmap(player, in_axes=(0, None))(observation, jax.random.key(0))
        observation, state, reward, *_ = env.step(jax.random.key(0), state, actions)
        total += reward
    np.testing.assert_array_equal(total, [expected, expected])


# ---------------------------------------------------------------------- public goods
def test_public_goods_pay_e_minus_x_plus_the_shared_pot():
    env = make("public_goods", num_agents=3, num_levels=3)
    params = env.make_params(endowment=10, multiplication_factor=1.5)
    expected = []
    for actions in joint_actions(env):
        given = [{0: 10, 1: 5, 2: 0}[int(a)] for a in actions]
        expected.append([10 - x + 1.5 / 3 * sum(given) for x in given])
    np.testing.assert_allclose(rewards(env, params), expected, rtol=1e-6)


def test_defecting_from_a_public_good_gains_three_fifths_whatever_the_others_do():
    env = make("public_goods")
    table = dict(zip(map(tuple, joint_actions(env).tolist()), rewards(env), strict=True))
    gaps = [table[(1, *rest)][0] - table[(0, *rest)][0] for rest in itertools.product((0, 1), repeat=4)]
    np.testing.assert_allclose(gaps, 0.6, rtol=1e-5)
    np.testing.assert_allclose(table[(0,) * 5], 2, rtol=1e-6)
    np.testing.assert_allclose(table[(1,) * 5], 1, rtol=1e-6)


def test_public_good_levels_show_in_observation_and_metric():
    env = make("public_goods", num_agents=3, num_levels=3)
    observation, _, _, _, _, info = first_steps(env, actions=[(0, 1, 2)])
    expected = [  # start, own action, share of the others per action
        [0, 1, 0, 0, 0, 0.5, 0.5],
        [0, 0, 1, 0, 0.5, 0, 0.5],
        [0, 0, 0, 1, 0.5, 0.5, 0],
    ]
    np.testing.assert_allclose(observation[0], expected)
    np.testing.assert_allclose(info["metrics"]["cooperation"][0], [1, 0.5, 0])


# ---------------------------------------------------------------------- n-player prisoner's dilemma
@pytest.mark.parametrize(
    ("preset", "by_defectors"),
    [  # (cooperator's, defector's) payoff when 0, 1, 2, 3 agents defect
        ("pax", [(4, None), (2, 5), (0, 3), (None, 1)]),
        ("magic", [(2, None), (0, 4), (0, 2), (None, 1)]),
        ("linear", [(1, None), (0, 2), (-1, 1), (None, 0)]),
    ],
)
def test_three_player_dilemmas_pay_by_the_number_of_defectors(preset, by_defectors):
    env = make("n_player_prisoners_dilemma", payoffs=preset)
    expected = [[by_defectors[actions.sum()][a] for a in actions] for actions in joint_actions(env)]
    np.testing.assert_array_equal(rewards(env), np.array(expected, float))


@pytest.mark.parametrize("num_agents", [2, 3, 6])
def test_the_linear_dilemma_is_a_dilemma_for_every_group_size(num_agents):
    env = make("n_player_prisoners_dilemma", num_agents=num_agents)
    table = dict(zip(map(tuple, joint_actions(env).tolist()), rewards(env), strict=True))
    gaps = [table[(1, *rest)][0] - table[(0, *rest)][0] for rest in itertools.product((0, 1), repeat=num_agents - 1)]
    np.testing.assert_allclose(gaps, 1, rtol=1e-5)
    np.testing.assert_allclose(table[(0,) * num_agents], 1, rtol=1e-6)
    np.testing.assert_allclose(table[(1,) * num_agents], 0, atol=1e-6)


def test_impossible_entries_of_the_payoff_table_are_never_read():
    env = make("n_player_prisoners_dilemma", payoffs="pax")
    payoffs = env.default_params.payoffs.copy()
    payoffs[0, 1] = payoffs[3, 0] = 1e6
    np.testing.assert_array_equal(rewards(env, env.make_params(payoffs=payoffs)), rewards(env))


# ---------------------------------------------------------------------- volunteer's dilemma
def test_one_volunteer_provides_for_all_and_each_volunteer_pays():
    expected = {(1, 1, 1): (0, 0, 0), (0, 1, 1): (0.7, 1, 1), (1, 0, 0): (1, 0.7, 0.7), (0, 0, 0): (0.7, 0.7, 0.7)}
    env = make("volunteers_dilemma", num_agents=3)
    np.testing.assert_allclose(rewards(env, actions=list(expected)), list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize(("num_agents", "equilibrium"), [(2, 0.7), (3, 0.45228), (5, 0.2599)])
def test_volunteers_are_indifferent_at_the_mixed_equilibrium(num_agents, equilibrium):
    x = 1 - 0.3 ** (1 / (num_agents - 1))
    assert x == pytest.approx(equilibrium, abs=5e-5)
    env = make("volunteers_dilemma", num_agents=num_agents)
    expected = np.zeros(2)
    for actions, reward in zip(joint_actions(env), rewards(env), strict=True):
        chance = np.prod([x if a == 0 else 1 - x for a in actions[1:]])
        expected[actions[0]] += chance * reward[0]
    np.testing.assert_allclose(expected, [0.7, 0.7], atol=1e-5)


# ---------------------------------------------------------------------- observations
def test_each_agent_reads_its_own_action_first():
    env = make("prisoners_dilemma")
    observation = first_steps(env)[0]
    assert observation.shape == (4, 2, 5)
    np.testing.assert_array_equal(observation.sum(axis=-1), 1)
    # CC, CD, DC, DD: what agent 0 calls CD, agent 1 calls DC
    np.testing.assert_array_equal(np.argmax(observation, axis=-1), [(0, 0), (1, 2), (2, 1), (3, 3)])


def test_observations_index_all_joint_actions_and_the_start():
    env = make("rock_paper_scissors")
    start, _ = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(start, np.eye(10)[[9, 9]])
    expected = [(3 * a + b, 3 * b + a) for a in range(3) for b in range(3)]
    np.testing.assert_array_equal(np.argmax(first_steps(env)[0], axis=-1), expected)


def test_n_player_observations_show_own_action_and_the_shares_of_the_others():
    env = make("volunteers_dilemma", num_agents=5)
    start, _ = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(start, [[1, 0, 0, 0, 0]] * 5)
    observation = first_steps(env, actions=[(0, 1, 1, 1, 0)])[0][0]
    volunteer, shirker = [0, 1, 0, 0.25, 0.75], [0, 0, 1, 0.5, 0.5]
    np.testing.assert_allclose(observation, [volunteer, shirker, shirker, shirker, volunteer])


def test_the_start_does_not_depend_on_the_key():
    for env in (make("chicken"), make("public_goods")):
        first, second = (env.reset(jax.random.key(seed)) for seed in (0, 1))
        jax.tree.map(np.testing.assert_array_equal, first, second)


# ---------------------------------------------------------------------- the clock
@pytest.mark.parametrize("name", ["stag_hunt", "public_goods"])
def test_a_repeated_game_truncates_when_its_clock_runs_out(name):
    env = make(name)
    actions = np.zeros((7, env.num_agents))
    _, state, _, terminated, truncated, info = play(env, actions, env.make_params(max_steps=3))
    assert not np.any(terminated)
    np.testing.assert_array_equal(truncated, [False, False, True, False, False, True, False])
    np.testing.assert_array_equal(info["truncated"], truncated)
    np.testing.assert_array_equal(state.time, [1, 2, 0, 1, 2, 0, 1])


def test_the_reset_shows_the_start_and_the_final_observation_the_last_joint_action():
    env = make("prisoners_dilemma")
    observation, _, _, _, _, info = play(env, [(0, 0), (0, 1), (1, 1)], env.make_params(max_steps=2))
    seen = np.argmax(observation, axis=-1)
    final = np.argmax(info["final_observation"], axis=-1)
    np.testing.assert_array_equal(seen, [(0, 0), (4, 4), (3, 3)])
    np.testing.assert_array_equal(final, [(0, 0), (1, 2), (3, 3)])


@pytest.mark.parametrize("name", ["prisoners_dilemma", "volunteers_dilemma"])
def test_a_one_shot_game_terminates_at_once_and_never_truncates(name):
    env = make(name, one_shot=True)
    observation, state, reward, terminated, truncated, _ = play(env, np.ones((3, env.num_agents)))
    assert np.all(terminated) and not np.any(truncated)
    np.testing.assert_array_equal(state.time, 0)
    np.testing.assert_array_equal(reward, rewards(make(name), actions=np.ones((3, env.num_agents))))
    np.testing.assert_array_equal(observation, np.stack([env.reset(jax.random.key(0))[0]] * 3))


def test_horizons_default_to_fifty_or_twenty_five_steps_and_to_one_when_one_shot():
    for name in (*MATRIX_GAMES, *N_PLAYER_GAMES):
        assert make(name).default_params.max_steps == (25 if name in ("climbing", "penalty") else 50)
        assert make(name, one_shot=True).default_params.max_steps == 1


# ---------------------------------------------------------------------- metrics
@pytest.mark.parametrize(
    ("name", "actions", "expected"),
    [
        ("prisoners_dilemma", (0, 1), {"cooperation": [1, 0]}),
        ("stag_hunt", (0, 0), {"cooperation": [1, 1]}),
        ("chicken", (1, 0), {"cooperation": [0, 1]}),
        ("bach_stravinsky", (0, 1), {"bach": [1, 0]}),
        ("matching_pennies", (1, 0), {"heads": [0, 1]}),
        ("rock_paper_scissors", (0, 2), {"rock": [1, 0], "paper": [0, 0], "scissors": [0, 1]}),
        ("pure_coordination", (2, 2), {"coordination": [1, 1]}),
        ("pure_coordination", (2, 1), {"coordination": [0, 0]}),
        ("matrix_game", (1, 0), {"action_0": [0, 1], "action_1": [1, 0]}),
        ("climbing", (0, 0), {"optimal": [1, 1], "action_0": [1, 1], "action_1": [0, 0], "action_2": [0, 0]}),
        ("climbing", (1, 1), {"optimal": [0, 0], "action_0": [0, 0], "action_1": [1, 1], "action_2": [0, 0]}),
        ("penalty", (2, 0), {"optimal": [1, 1], "action_0": [0, 1], "action_1": [0, 0], "action_2": [1, 0]}),
        ("n_player_prisoners_dilemma", (0, 1, 0), {"cooperation": [1, 0, 1]}),
        ("volunteers_dilemma", (0, 1, 1, 1, 1), {"cooperation": [1, 0, 0, 0, 0]}),
    ],
)
def test_metrics_count_the_named_actions_of_each_agent(name, actions, expected):
    metrics = first_steps(make(name), actions=[actions])[5]["metrics"]
    assert set(metrics) == set(expected)
    for metric, values in expected.items():
        np.testing.assert_array_equal(metrics[metric][0], values)


# ---------------------------------------------------------------------- scripted players
@pytest.mark.parametrize("name", TWO_BY_TWO_DILEMMAS)
def test_scripted_players_of_dilemmas_follow_their_decision_tables(name):
    expected = {  # after CC, CD, DC, DD, own action first, and at the start
        "always_cooperate": [0, 0, 0, 0, 0],
        "always_defect": [1, 1, 1, 1, 1],
        "tit_for_tat": [0, 1, 0, 1, 0],
        "grim_trigger": [0, 1, 1, 1, 0],
    }
    players = make(name).players
    assert set(players) == {"random", *expected}
    for player, table in expected.items():
        np.testing.assert_array_equal([players[player](row, jax.random.key(0)) for row in jnp.eye(5)], table)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("bach_stravinsky", ["always_bach", "always_stravinsky"]),
        ("matching_pennies", ["always_heads", "always_tails"]),
        ("rock_paper_scissors", ["always_rock", "always_paper", "always_scissors"]),
        ("pure_coordination", []),
        ("climbing", ["always_action_0", "always_action_1", "always_action_2"]),
        ("matrix_game", []),
    ],
)
def test_other_games_have_a_constant_player_per_named_action(name, constants):
    env = make(name)
    assert set(env.players) == {"random", *constants}
    observation = env.reset(jax.random.key(0))[0][0]
    for action, player in enumerate(constants):
        assert env.players[player](observation, jax.random.key(0)) == action


def test_random_players_play_every_action():
    player = make("rock_paper_scissors").players["random"]
    draws = jax.vmap(player, in_axes=(None, 0))(jnp.zeros(10), jax.random.split(jax.random.key(0), 300))
    np.testing.assert_allclose(np.bincount(draws, minlength=3), 100, atol=35)  # over four standard deviations


@pytest.mark.parametrize(
    ("others", "expected"),
    [((0, 0, 0, 0), 0), ((0, 0, 0, 1), 0), ((0, 0, 1, 1), 0), ((0, 1, 1, 1), 1), ((1, 1, 1, 1), 1)],
)
def test_conditional_cooperators_do_as_at_least_half_of_the_others_did(others, expected):
    env = make("public_goods")
    assert set(env.players) == {"random", "always_cooperate", "always_defect", "conditional_cooperator"}
    player = env.players["conditional_cooperator"]
    observation = first_steps(env, actions=[(1, *others)])[0][0, 0]
    assert player(observation, jax.random.key(0)) == expected


def test_conditional_cooperators_match_the_mean_level_and_begin_by_giving_all():
    env = make("public_goods", num_agents=7, num_levels=5)
    player = env.players["conditional_cooperator"]
    assert player(env.reset(jax.random.key(0))[0][0], jax.random.key(0)) == 0
    joint = [(0, 1, 1, 1, 1, 1, 1), (0, 4, 4, 4, 4, 3, 3), (0, 4, 4, 4, 3, 3, 3), (0, 4, 4, 4, 4, 4, 4)]
    observations = first_steps(env, actions=joint)[0][:, 0]  # means of the others: 1, 3.67, 3.5, 4
    np.testing.assert_array_equal([player(o, jax.random.key(0)) for o in observations], [1, 4, 3, 4])
    assert env.players["always_defect"](observations[0], jax.random.key(0)) == 4


def test_only_dilemmas_are_mixed_motive_and_their_exploiter_is_a_player():
    for env in map(make, (*MATRIX_GAMES, *N_PLAYER_GAMES)):
        is_dilemma = env.name in (*TWO_BY_TWO_DILEMMAS, *N_PLAYER_GAMES)
        assert env.mixed_motive == is_dilemma
        assert env.exploiter == ("always_defect" if is_dilemma else None)
        assert env.exploiter is None or env.exploiter in env.players


# ---------------------------------------------------------------------- the contract and bad input
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("matching_pennies", {"one_shot": True}),
        ("public_goods", {"num_levels": 3}),
    ],
)
def test_the_environment_contract_is_kept(name, settings):
    check_environment(make(name, **settings), num_steps=60)


@pytest.mark.parametrize("name", ["chicken", "public_goods", "n_player_prisoners_dilemma"])
def test_jitted_play_equals_play_op_by_op(name):
    env = make(name)
    actions = np.random.default_rng(0).integers(0, 2, (5, env.num_agents))
    params = env.make_params(max_steps=3)
    jitted = jax.jit(lambda p: play(env, actions, p))(params)
    with jax.disable_jit():
        eager = play(env, actions, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jitted, eager)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("prisoners_dilemma", {"payoffs": "melting_pod"}, "closest: 'melting_pot'"),
        ("chicken", {"payoffs": "mfos"}, "closest: 'm_fos'"),
        ("n_player_prisoners_dilemma", {"payoffs": "linar"}, "closest: 'linear'"),
        ("n_player_prisoners_dilemma", {"payoffs": "pax", "num_agents": 4}, "num_agents 3, got 4; closest: 'linear'"),
        ("prisoners_dilemma", {"num_agents": 3}, "num_agents must be 2, got 3"),
        ("penalty", {"payoffs": "k_100"}, "closest: 'k_-100'"),
        ("climbing", {"num_actions": 2}, "climbing: num_actions must be 3, got 2"),
        ("two_step", {"num_agents": 3}, "two_step: num_agents must be 2, got 3"),
        ("two_step", {"payoff": 1}, "setting of two_step"),
        ("climbin", {}, "did you mean 'climbing'"),
        ("twostep", {}, "did you mean 'two_step'"),
        ("prisoners_dilemma", {"num_actions": 3}, "num_actions must be 2, got 3"),
        ("matrix_game", {"num_actions": 1}, "num_actions must be at least 2, got 1"),
        ("matrix_game", {"num_actions": -2}, "num_actions must be at least 2, got -2"),
        ("public_goods", {"num_agents": 1}, "num_agents must be at least 2, got 1"),
        ("public_goods", {"num_levels": 1}, "num_levels must be at least 2, got 1"),
        ("volunteers_dilemma", {"num_agents": 0}, "num_agents must be at least 2, got 0"),
    ],
)
def test_bad_settings_are_refused_with_the_nearest_valid_value(name, settings, message):
    with pytest.raises(InputError, match=message):
        make(name, **settings)


def test_an_unknown_matrix_game_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'stag_hunt'"):
        MatrixGame(name="stag_hunts")


@pytest.mark.parametrize(
    ("name", "settings", "overrides", "message"),
    [
        ("stag_hunt", {}, {"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ("stag_hunt", {"one_shot": True}, {"max_steps": 5}, "max_steps of a one_shot game must be at most 1, got 5"),
        ("matrix_game", {}, {"payoffs": [[1, 2], [3, 4]]}, r"payoffs must have shape \(2, 2, 2\)"),
        ("two_step", {}, {"payoffs": [[7, 7], [1, 8]]}, r"payoffs must have shape \(2, 2, 2\)"),
        ("two_step", {}, {"max_steps": 3}, "parameter of two_step"),
        ("public_goods", {}, {"endowment": -1}, "endowment must be at least 0"),
        ("public_goods", {}, {"multiplication_factor": -1}, "multiplication_factor must be at least 0"),
        ("volunteers_dilemma", {}, {"cost": -0.1}, "cost must be at least 0"),
    ],
)
def test_bad_parameters_are_refused(name, settings, overrides, message):
    with pytest.raises(InputError, match=message):
        make(name, **settings).make_params(**overrides)
