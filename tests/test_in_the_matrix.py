"""In the matrix: its maps, resources, beams and interactions, and the games that its scripted players play."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.cells import random_order
from marl_suite.envs.grid.movement import FORWARD, NOOP, STEP_RIGHT, TURN_LEFT
from marl_suite.envs.substrates.in_the_matrix_meetings import pair_up
from marl_suite.envs.substrates.in_the_matrix_players import INTERACT

ROOM = """
    ###########
    #PPPPPPP..#
    #.........#
    #..A.B..B.#
    #.........#
    #.........#
    #....?....#
    #.........#
    ###########
"""
ENV: Any = make("prisoners_dilemma_in_the_matrix_arena", num_agents=4, map=ROOM)
ROLES: Any = make("bach_stravinsky_in_the_matrix_arena", num_agents=4, map=ROOM)
REPEATED: Any = make("prisoners_dilemma_in_the_matrix_repeated")
FAR = [(7, 1), (7, 3), (7, 6), (7, 8)]
"""Where agents stand that have nothing to do with a scene; all look north, and the nearest is four rows away."""
COOPERATE, DEFECT = [2, 1], [1, 2]  # inventories


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


@partial(jax.jit, static_argnums=1)
def many_steps(state, draws, params):
    """The states after `draws` times the same step without actions."""
    keys = jax.random.split(jax.random.key(0), draws)
    return jax.vmap(lambda key: ENV.step_env(key, state, jnp.zeros(4, jnp.int32), params)[1])(keys)


def state_of(*places, env=ENV, **changes):
    """A first state with agents 0, 1, ... at `places`, all looking north; every resource is of its class, "?" of A."""
    _, state = env.reset(jax.random.key(0))
    position = np.array([*places, *FAR[len(places) :]], np.int32)
    changes = {
        "position": position,
        "heading": np.zeros(4, np.int32),
        "kind": np.array([0, 1, 1, 0], np.int32),
    } | changes
    return state.replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def meeting(*inventories, env=ENV, **changes):
    """Agent 0 at (5, 3) looks north at agent 1 at (4, 3); agents 2, ... stand where nobody meets them."""
    inventory = np.array([*inventories, *[(1, 1)] * (4 - len(inventories))], np.int32)
    return state_of((5, 3), (4, 3), env=env, inventory=inventory, **changes)


def play(state, actions, env=ENV, key=0, params=None):
    """Steps with `actions` [T, N]: observations, states, rewards and metrics, one per step."""
    history = []
    for t, joint in enumerate(actions):
        obs, state, reward, _, _, info = step(env, key + t, state, joint, params or env.default_params)
        history.append((obs, state, reward, info["metrics"]))
    return zip(*jax.tree.map(np.asarray, history), strict=True)


def likely(frequency, probability, draws):
    """Whether a frequency lies in the 99.9 % interval of its probability."""
    return abs(frequency - probability) < 3.3 * np.sqrt(probability * (1 - probability) / draws)


# ---------------------------------------------------------------------- the games and their maps
@pytest.mark.parametrize(
    "game, arena, repeated",
    [
        ("prisoners_dilemma", "A13 B13 ?10", "A12 B12 ?12"),
        ("stag_hunt", "A23 B40 ?12", "A10 B25 ?12"),
        ("chicken", "A13 B13 ?10", "A12 B12 ?12"),
        ("bach_stravinsky", "A13 B13 ?10", "A12 B12 ?12"),
        ("pure_coordination", "A12 B12 C12 ?8", "A6 B6 C6 ?15"),
        ("running_with_scissors", "A12 B12 C12 ?8", "A6 B6 C6 ?15"),
    ],
)
def test_maps_have_melting_pots_sizes_and_resources(game, arena, repeated):
    for variant, composition, shape, agents, view in (
        ("arena", arena, (24, 25), 8, (11, 11)),
        ("repeated", repeated, (15, 23), 2, (5, 5)),
    ):
        env: Any = make(f"{game}_in_the_matrix_{variant}")
        counts = collections.Counter("".join(env.grid.lines))
        assert " ".join(f"{kind}{counts[kind]}" for kind in "ABC?" if counts[kind]) == composition
        assert env.grid.shape == shape and env.num_agents == agents and env.window.shape == view
        assert counts["P"] == (34 if variant == "arena" else 12)
        assert set("".join([*env.grid.lines[:: shape[0] - 1], *(row[:: shape[1] - 1] for row in env.grid.lines)])) == {
            "#"
        }


def test_the_published_payoffs_are_the_defaults():
    tables = {
        "prisoners_dilemma": [[3, 0], [5, 1]],
        "stag_hunt": [[4, 0], [2, 2]],
        "chicken": [[3, 2], [5, 0]],
        "pure_coordination": np.eye(3),
        "running_with_scissors": [[0, -10, 10], [10, 0, -10], [-10, 10, 0]],
    }
    for game, rows in tables.items():
        for variant in ("arena", "repeated"):
            env: Any = make(f"{game}_in_the_matrix_{variant}")
            np.testing.assert_array_equal(env.default_params.payoffs, [rows, np.transpose(rows)])
            assert env.mixed_motive == (env.cooperator is not None) == (game in list(tables)[:3])
    bach: Any = make("bach_stravinsky_in_the_matrix_arena")
    np.testing.assert_array_equal(bach.default_params.payoffs, [[[3, 0], [0, 2]], [[2, 0], [0, 3]]])


def test_the_numbers_of_both_variants_are_the_published_ones():
    def numbers(name):
        params: Any = make(name).default_params
        return (
            params.interact_cooldown,
            params.freeze,
            params.timeout,
            params.regrowth,
            params.regrowth_delay,
            params.refill,
        )

    assert numbers("chicken_in_the_matrix_arena") == (2, 16, 50, 0.04, 10, False)
    assert numbers("chicken_in_the_matrix_repeated") == (2, 16, 5, 0.02, 10, True)
    assert numbers("running_with_scissors_in_the_matrix_repeated") == (2, 16, 5, 0.02, 15, True)


def test_some_sites_have_a_fixed_class_and_the_others_a_random_one():
    draws = 2_000
    kinds = np.asarray(
        jax.jit(jax.vmap(lambda key: ENV.reset(key)[1].kind))(jax.random.split(jax.random.key(0), draws))
    )
    assert np.all(kinds[:, :3] == [0, 1, 1]) and likely(kinds[:, 3].mean(), 0.5, draws)


# ---------------------------------------------------------------------- resources
def test_stepping_on_a_resource_collects_it_and_makes_ready():
    state = state_of((4, 3))
    (obs, later), (after, end), _, (metrics, _) = play(state, [[FORWARD, 0, 0, 0], [NOOP] * 4])
    assert after.inventory.tolist() == [[2, 1], [1, 1], [1, 1], [1, 1]]
    assert metrics["collected_cooperate"].tolist() == [1, 0, 0, 0] and not metrics["collected_defect"].any()
    assert after.live.tolist() == [False, True, True, True] and metrics["resources"] == 3
    assert end.inventory.tolist() == after.inventory.tolist()  # nothing more for staying
    np.testing.assert_allclose(obs["inventory"], [[0.2, 0.1], [0.1, 0.1], [0.1, 0.1], [0.1, 0.1]])
    home = ENV.window.home
    marks = [ENV.seen(view, "ready")[i][home] for view in (obs, later) for i in range(4)]
    assert marks == [1, 0, 0, 0] * 2


def test_inventories_beyond_a_hundred_look_alike():
    state = state_of((4, 3), inventory=np.array([(1, 100), (1, 101), (100_000, 1), (7, 3)], np.int32))
    observed = ENV.observe(state, ENV.default_params)["inventory"]
    np.testing.assert_allclose(observed, [[0.1, 10], [0.1, 10], [10, 0.1], [0.7, 0.3]], rtol=1e-6)


def test_what_is_collected_can_grow_back_from_ten_steps_later_on_where_nobody_stands():
    params = ENV.make_params(regrowth=1.0)
    leaves = [[FORWARD, 0, 0, 0], [STEP_RIGHT, 0, 0, 0], *[[NOOP] * 4] * 11]
    _, states, _, _ = play(state_of((4, 3)), leaves, params=params)
    assert [bool(state.live[0]) for state in states] == [False] * 10 + [True] * 3
    stays = [[FORWARD, 0, 0, 0], *[[NOOP] * 4] * 12, [STEP_RIGHT, 0, 0, 0]]
    _, states, _, _ = play(state_of((4, 3)), stays, params=params)
    assert [bool(state.live[0]) for state in states] == [False] * 13 + [True]


def test_missing_resources_grow_back_at_the_rate():
    draws = 4_000
    state = state_of((3, 3), live=np.zeros(4, bool), rest=np.array([0, 0, 1, 2], np.int32))
    live = np.asarray(many_steps(state, draws, ENV.default_params).live)
    assert not live[:, [0, 3]].any()  # below agent 0, and resting
    assert likely(live[:, 1].mean(), 0.04, draws) and likely(live[:, 2].mean(), 0.04, draws)


def test_everything_grows_back_at_once_when_everybody_is_out_where_that_is_the_rule():
    gone = {"live": np.zeros(4, bool), "rest": np.full(4, 9, np.int32)}
    for refill, timeouts, expected in ((True, [3] * 4, True), (True, [3, 3, 3, 0], False), (False, [3] * 4, False)):
        state = state_of(timeout=np.array(timeouts, np.int32), **gone)
        _, after, *_ = step(ENV, 0, state, [NOOP] * 4, ENV.make_params(refill=refill))
        assert after.live.tolist() == [expected] * 4


# ---------------------------------------------------------------------- beams
def test_the_third_shot_destroys_a_resource_and_only_that_one_passes():
    # Agent 0 at (5, 3), the resource at (3, 3); behind it (2, 3). The beam fires in steps 0, 3 and 6.
    state = state_of((5, 3))
    obs, states, _, metrics = play(state, [[INTERACT, 0, 0, 0]] * 7)
    assert [m["destroyed"].tolist()[0] for m in metrics] == [0] * 6 + [1]
    assert [state.live[0] for state in states] == [True] * 6 + [False]
    assert [int(state.damage[0]) for state in states] == [1, 1, 1, 2, 2, 2, 0]
    assert [bool(state.beam[2, 3]) for state in states] == [False] * 6 + [True]
    assert [bool(state.beam[3, 3]) for state in states] == [True, False, False] * 2 + [True]
    home = ENV.window.home
    tiles = [int(ENV.seen(o, "tile")[0][home[0] - 2, home[1]]) for o in obs]
    assert tiles == [ENV.tile("damaged cooperate")] * 6 + [ENV.tile("bare")]


def test_a_beam_stops_at_a_resource_and_a_new_one_is_whole():
    state = state_of((4, 3), (2, 3), inventory=np.array([COOPERATE] * 4, np.int32))
    _, (after,), _, (metrics,) = play(state, [[INTERACT, 0, 0, 0]])
    assert not metrics["interactions"].any() and after.damage.tolist() == [1, 0, 0, 0]
    state = state.replace(damage=jnp.array([2, 0, 0, 0]))
    _, (after,), _, (metrics,) = play(state, [[INTERACT, 0, 0, 0]])
    assert metrics["interactions"].tolist() == [1, 1, 0, 0] and after.damage.tolist() == [0] * 4


# ---------------------------------------------------------------------- interactions
@pytest.mark.parametrize(
    "own, other, pays", [(COOPERATE, COOPERATE, (23 / 9, 23 / 9)), (COOPERATE, DEFECT, (13 / 9, 28 / 9))]
)
def test_an_interaction_pays_sixteen_steps_later_and_takes_both_out_for_fifty(own, other, pays):
    moves = [[FORWARD, FORWARD, 0, 0], [TURN_LEFT, STEP_RIGHT, 0, 0]] * 35
    obs, states, rewards, metrics = play(meeting(own, other), [[INTERACT, 0, 0, 0], *moves])
    assert [m["interactions"].tolist() for m in metrics] == [[1, 1, 0, 0]] + [[0] * 4] * 70
    np.testing.assert_allclose(metrics[0]["first_class"], [own[0] / 3, other[0] / 3, 0, 0], rtol=1e-6)
    assert [np.flatnonzero(r).tolist() for r in rewards] == [[]] * 16 + [[0, 1]] + [[]] * 54
    np.testing.assert_allclose(rewards[16][:2], pays, rtol=1e-6)
    assert all(s.position[:2].tolist() == [[5, 3], [4, 3]] and s.heading[:2].tolist() == [0, 0] for s in states[:17])
    assert [s.frozen[:2].tolist() for s in states[:18]] == [[16 - t] * 2 for t in range(17)] + [[0, 0]]
    assert [s.timeout[0] > 0 for s in states] == [False] * 16 + [True] * 50 + [False] * 5
    assert np.array_equal([s.timeout[0] for s in states], [s.timeout[1] for s in states])
    assert states[15].inventory[:2].tolist() == [own, other] and states[16].inventory.tolist() == [[1, 1]] * 4
    shown = [o["interaction"][:2] for o in obs]
    np.testing.assert_allclose(shown[0] * 10, [[own, other], [other, own]], rtol=1e-6)
    assert np.array_equal(shown[15], shown[0]) and not shown[16].any() and not obs[0]["interaction"][2:].any()
    home = ENV.window.home
    assert [int(ENV.seen(o, "frozen")[0][home]) for o in obs[:17]] == [1] * 16 + [0]
    assert not obs[16]["view"][:2].any() and obs[66]["view"][0].any()


def test_row_and_column_player_are_paid_by_their_own_matrices():
    numbers = np.random.default_rng(0)
    payoffs = numbers.normal(size=(2, 2, 2)).astype(np.float32)
    x, y = np.array([4, 1]), np.array([2, 7])
    state = meeting(x.tolist(), y.tolist())
    _, _, rewards, _ = play(state, [[INTERACT, 0, 0, 0], [NOOP] * 4], params=ENV.make_params(payoffs=payoffs, freeze=1))
    row = sum(x[k] / 5 * y[m] / 9 * payoffs[0, k, m] for k in range(2) for m in range(2))
    column = sum(x[k] / 5 * y[m] / 9 * payoffs[1, k, m] for k in range(2) for m in range(2))
    np.testing.assert_allclose(rewards[1], [row, column, 0, 0], rtol=1e-5)


def test_with_a_freeze_and_a_time_out_of_zero_an_interaction_is_over_at_once():
    params = ENV.make_params(freeze=0, timeout=0)
    _, (after,), (reward,), (metrics,) = play(meeting(COOPERATE, DEFECT), [[INTERACT, 0, 0, 0]], params=params)
    np.testing.assert_allclose(reward, [13 / 9, 28 / 9, 0, 0], rtol=1e-6)
    assert metrics["interactions"].tolist() == [1, 1, 0, 0] and not after.timeout.any() and not after.frozen.any()
    assert after.partner.tolist() == [-1] * 4 and after.inventory.tolist() == [[1, 1]] * 4


@pytest.mark.parametrize("inventories", [([1, 1], COOPERATE), (COOPERATE, [1, 1])])
def test_who_is_not_ready_neither_challenges_nor_is_challenged(inventories):
    _, (after,), _, (metrics,) = play(meeting(*inventories), [[INTERACT, 0, 0, 0]])
    assert not metrics["interactions"].any() and not after.frozen.any() and after.partner.tolist() == [-1] * 4


def test_who_collects_can_be_challenged_in_the_same_step():
    state = state_of((5, 3), (4, 3), inventory=np.array([COOPERATE, [1, 1], [1, 1], [1, 1]], np.int32))
    _, (after,), _, (metrics,) = play(state, [[INTERACT, FORWARD, 0, 0]])
    assert metrics["interactions"].tolist() == [1, 1, 0, 0] and after.inventory[1].tolist() == [2, 1]


@pytest.mark.parametrize("when", [1, 8, 16])
def test_who_interacts_cannot_be_challenged_by_a_third_even_in_the_last_step(when):
    inventory = np.array([COOPERATE, COOPERATE, DEFECT, [1, 1]], np.int32)
    state = state_of((5, 3), (4, 3), (4, 5), heading=np.array([0, 0, 3, 0], np.int32), inventory=inventory)
    actions = [[INTERACT, 0, 0, 0], *[[NOOP] * 4] * 16]
    actions[when] = [NOOP, NOOP, INTERACT, NOOP]
    _, states, rewards, metrics = play(state, actions)
    assert np.sum([m["interactions"] for m in metrics], axis=0).tolist() == [1, 1, 0, 0]
    assert states[when].timers[2, 0] == 2 and not states[when].frozen[2]
    np.testing.assert_allclose(sum(rewards), [23 / 9, 23 / 9, 0, 0], rtol=1e-6)


def test_of_two_who_hit_the_same_one_interacts_and_either_is_as_likely():
    # Agents 0, from the south, and 2, from the east, have agent 1 in reach and not each other.
    inventory, heading = np.array([COOPERATE] * 4, np.int32), np.array([0, 0, 3, 0], np.int32)
    state, chosen = state_of((6, 3), (4, 3), (4, 5), heading=heading, inventory=inventory), []
    for key in range(60):
        _, (after,), _, (metrics,) = play(state, [[INTERACT, 0, INTERACT, 0]], key=key)
        chosen.append(int(after.partner[1]))
        assert metrics["interactions"].sum() == 2 and after.frozen.sum() == 32
        assert after.partner[chosen[-1]] == 1 and after.row.tolist() == [i == chosen[-1] for i in range(4)]
    assert set(chosen) == {0, 2} and likely(np.mean(np.array(chosen) == 0), 0.5, 60)


def reference_pairs(turns, possible):
    """All pairs in the order of the shooters' and then of the others' turns, each kept if both are free."""
    pairs, taken = np.zeros_like(possible), set()
    for i, j in sorted(np.argwhere(possible).tolist(), key=lambda pair: (turns[pair[0]], turns[pair[1]])):
        if not {i, j} & taken:
            pairs[i, j], taken = True, taken | {i, j}
    return pairs


def test_pairs_are_those_of_a_random_order_of_all():
    numbers, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), 200)
    possible = (numbers.random((200, 8, 8)) < numbers.choice([0.05, 0.2, 0.9], (200, 1, 1))) & ~np.eye(8, dtype=bool)
    pairs = np.asarray(jax.jit(jax.vmap(pair_up))(keys, possible))
    turns = np.asarray(jax.jit(jax.vmap(lambda key: random_order(key, 8)))(keys))
    for drawn, given, expected in zip(pairs, possible, map(reference_pairs, turns, possible), strict=True):
        assert np.array_equal(drawn, expected)
        busy = drawn.any(axis=0) | drawn.any(axis=1)
        assert not np.any(given & ~busy[:, None] & ~busy)  # nobody is left over who could still interact


def test_who_shoots_first_of_two_that_hit_each_other_is_a_toss_up():
    both = jnp.zeros((3, 3), bool).at[0, 1].set(True).at[1, 0].set(True)
    pairs = np.asarray(jax.jit(jax.vmap(pair_up, (0, None)))(jax.random.split(jax.random.key(1), 4_000), both))
    assert np.all(pairs.sum((1, 2)) == 1) and likely(pairs[:, 0, 1].mean(), 0.5, 4_000)


@pytest.mark.parametrize(
    "shooter, other, pays", [(0, 1, (3 * 4 / 9 + 2 / 9, 2 * 4 / 9 + 3 / 9)), (1, 0, None), (0, 2, ())]
)
def test_in_bach_or_stravinsky_only_a_row_and_a_column_player_interact(shooter, other, pays):
    # Agents 0 and 2 are row players, 1 and 3 column players: whoever shoots, 0 is paid as the row player.
    position, inventory = [*FAR], [[2, 1]] * 4
    position[shooter], position[other] = (5, 3), (4, 3)
    actions = [NOOP] * 4
    actions[shooter] = INTERACT
    state = state_of(*position, env=ROLES, inventory=np.array(inventory, np.int32))
    params = ROLES.make_params(freeze=0)
    (obs,), _, (reward,), (metrics,) = play(state, [actions], env=ROLES, params=params)
    if pays == ():
        assert not metrics["interactions"].any() and not reward.any()
        return
    np.testing.assert_allclose(reward, [14 / 9, 11 / 9, 0, 0], rtol=1e-6)
    assert ROLES.seen(obs, "role")[2:, ROLES.window.home[0], ROLES.window.home[1]].tolist() == [1, 2]


def test_tables_show_the_share_of_the_first_class_at_interactions():
    means = {"first_class": jnp.array([0.2, 0.0]), "interactions": jnp.array([0.25, 0.0]), "destroyed": jnp.zeros(2)}
    derived = REPEATED.derived_metrics(means)
    assert set(derived) == {"cooperation", "interactions", "destroyed"}
    np.testing.assert_allclose(derived["cooperation"], [0.8, np.nan])
    coordination = make("pure_coordination_in_the_matrix_repeated").derived_metrics(means)
    assert set(coordination) == {"first_class", "interactions", "destroyed"}


# ---------------------------------------------------------------------- settings and players
@pytest.mark.parametrize(
    "make_bad, message",
    [
        (lambda: make("chicken_in_the_matrix_arena", game="checkers"), "game must be one of"),
        (lambda: make("chicken_in_the_matrix_arena", variant="arenas"), "closest: 'arena'"),
        (lambda: make("chicken_in_the_matrix_arena", num_agents=1), "num_agents must be at least 2"),
        (
            lambda: make("chicken_in_the_matrix_arena", num_agents=2, map=ROOM.replace("A", ".").replace("?", ".")),
            "class 'dove'",
        ),
        (lambda: make("chicken_in_the_matrix_arena", num_agents=2, map=ROOM.replace("A", "C")), "unknown symbol 'C'"),
        (lambda: ENV.make_params(regrowth=1.2), "regrowth must be at most 1"),
        (lambda: ENV.make_params(freeze=-1), "freeze must be at least 0"),
        (lambda: ENV.make_params(payoffs=np.eye(3)), "payoffs must have shape"),
    ],
)
def test_bad_settings_are_refused(make_bad, message):
    with pytest.raises(InputError, match=message):
        make_bad()


@pytest.fixture(scope="module")
def acts():
    """(name, state) -> the actions, of 40 keys, of agent 0 in it."""
    keys = jax.random.split(jax.random.key(0), 40)
    players = {name: jax.jit(jax.vmap(ENV.players[name], (None, 0))) for name in ("cooperator", "defector")}

    def act(name, state):
        seen = jax.tree.map(lambda leaf: leaf[0], ENV.observe(state, ENV.default_params))
        return set(np.asarray(players[name](seen, keys)).tolist())

    return act


def test_collectors_go_for_their_own_class_and_challenge_when_they_have_enough(acts):
    beside = state_of((5, 3))  # the nearest cooperative resource is ahead; a defective one is ahead to the right
    assert acts("cooperator", beside) == {FORWARD} and acts("defector", beside) <= {FORWARD, STEP_RIGHT}
    enough = meeting([5, 1], COOPERATE)
    assert acts("cooperator", enough) == {INTERACT}
    assert acts("cooperator", enough.replace(timers=enough.timers.at[0].set(1))) == {NOOP}
    for blocked in (meeting([4, 1], COOPERATE), meeting([5, 1], [1, 1]), meeting([1, 5], COOPERATE)):
        assert INTERACT not in acts("cooperator", blocked)
    assert acts("defector", meeting([1, 5], COOPERATE)) == {INTERACT}
    behind_a_resource = state_of((4, 3), (2, 3), inventory=np.array([[5, 1], *[COOPERATE] * 3], np.int32))
    assert INTERACT not in acts("cooperator", behind_a_resource)


def test_the_scripted_players_show_the_dilemma_of_each_matrix():
    # Two players for 500 steps, with the payoffs of each game: fear and greed, fear alone, greed alone.
    games = [
        make(f"{game}_in_the_matrix_repeated").default_params for game in ("prisoners_dilemma", "stag_hunt", "chicken")
    ]
    params = REPEATED.default_params.replace(payoffs=jnp.stack([game.payoffs for game in games]))
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) == 4 else None, params)

    def team(cooperates, params, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 2)
            first, second = (jax.vmap(REPEATED.players[name])(obs, keys) for name in ("cooperator", "defector"))
            obs, state, reward, *_ = REPEATED.step_env(key, state, jnp.where(cooperates, first, second), params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        return jax.lax.scan(turn, REPEATED.reset(reset_key, params), jax.random.split(key, 500))[1].sum(axis=0)

    teams, keys = jnp.array([[True, True], [True, False], [False, False]]), jax.random.split(jax.random.key(0), 16)
    each = jax.vmap(jax.vmap(jax.vmap(team, (None, None, 0)), (None, axes, None)), (0, None, None))
    returns = np.asarray(jax.jit(each)(teams, params, keys)).mean(axis=2)  # [team, game, player]
    both, alone, tempted, neither = returns[0].mean(-1), returns[1, :, 0], returns[1, :, 1], returns[2].mean(-1)
    assert np.all(both > 1.3 * neither) and np.all(both > 1.1 * alone)
    assert (neither > 1.2 * alone).tolist() == [True, True, False] and neither[2] < 0.8 * alone[2]  # fear
    assert (tempted > 1.2 * both).tolist() == [True, False, True] and tempted[1] < 0.95 * both[1]  # greed
