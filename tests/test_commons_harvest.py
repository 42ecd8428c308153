"""Commons Harvest: its maps, its growth, its scripted players and the dilemma between them."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.movement import BACKWARD, FORWARD, NOOP

OPEN: Any = make("commons_harvest_open")
VARIANTS = ("open", "closed", "partnership")
PATCH = "#######\n#..A..#\n#.AAA.#\n#AAAAA#\n#.AAA.#\n#..A..#\n#PPPPP#\n#######"
DISC: Any = make("commons_harvest_open", num_agents=2, map=PATCH)


@partial(jax.jit, static_argnums=0)
def step(env, key, state, actions, params):
    return env.step_env(jax.random.key(key), state, jnp.asarray(actions), params)


def state_of(env, **changes):
    _, state = env.reset(jax.random.key(0))
    return state.replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def neighbours(cells):
    """How many of `cells` lie within a distance of 2 of each."""
    return {a: sum(0 < (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= 4 for b in cells) for a in cells}


def cells_of(env, symbols):
    return [tuple(cell) for cell in np.argwhere(env.grid.plane(symbols)).tolist()]


def reachable(env, start, closed=()):
    """The cells that one can walk to from `start`, by breadth-first search, without those `closed`."""
    walls = env.grid.plane("#")
    seen, border = {start}, [start]
    while border:
        around = [(r + i, c + j) for r, c in border for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        border = list({cell for cell in around if not walls[cell] and cell not in closed} - seen)
        seen.update(border)
    return seen


# ---------------------------------------------------------------------- maps
@pytest.mark.parametrize("variant, walls, inside", [("open", 80, 2), ("closed", 148, 0), ("partnership", 134, 0)])
def test_maps_have_melting_pots_numbers_of_cells(variant, walls, inside):
    env: Any = make(f"commons_harvest_{variant}")
    counts = collections.Counter("".join(env.grid.lines))
    assert env.grid.shape == (18, 24) and counts["A"] == 64 and counts["P"] == 60
    assert counts["#"] == walls and counts["Q"] == inside
    assert len(reachable(env, cells_of(env, "P")[0])) == 18 * 24 - walls


@pytest.mark.parametrize("variant", VARIANTS)
def test_four_discs_and_two_corners_grow_apart(variant):
    counts = collections.Counter(neighbours(cells_of(make(f"commons_harvest_{variant}"), "A")).values())
    assert counts == {3: 4, 4: 20, 5: 4, 7: 32, 12: 4}


def test_each_closed_chamber_has_one_door_and_the_partners_room_has_two():
    left, right, hall = (1, 1), (1, 22), (14, 2)
    closed, partnership = make("commons_harvest_closed"), make("commons_harvest_partnership")
    doors = [(11, 10), (11, 13)]
    assert hall not in reachable(closed, left, doors[:1]) and hall in reachable(closed, right, doors[:1])
    assert right not in reachable(closed, left, doors[:1])
    assert right in reachable(partnership, left, doors) and hall not in reachable(partnership, left, doors)
    assert all(hall in reachable(partnership, left, [door]) for door in doors)


def test_two_random_agents_start_inside_the_field():
    states = jax.jit(jax.vmap(lambda key: OPEN.reset(key)[1]))(jax.random.split(jax.random.key(0), 2_000))
    cells = np.asarray(states.position[..., 0] * 24 + states.position[..., 1])
    inside = np.isin(cells, OPEN.grid.sites("Q"))
    assert np.all(inside.sum(axis=1) == 2) and np.all(np.isin(cells[~inside], OPEN.grid.sites("P")))
    assert all(len(set(row)) == 7 for row in cells.tolist())
    assert np.all(abs(inside.mean(axis=0) - 2 / 7) < 4 * np.sqrt(2 / 7 * 5 / 7 / 2_000))


# ---------------------------------------------------------------------- growth
def test_growth_depends_on_live_neighbours_as_published():
    cells = cells_of(DISC, "A")
    for variant, lowest in (("open", 0.0025), ("closed", 0.001), ("partnership", 0.001)):
        env: Any = make(f"commons_harvest_{variant}", num_agents=2, map=PATCH)
        table = [0, lowest, 0.005, 0.025]
        for count in (0, 1, 2, 3, 5, 13):
            apples = np.arange(13) < count
            live = [cell for cell, alive in zip(cells, apples, strict=True) if alive]
            near = [sum(0 < (r - i) ** 2 + (c - j) ** 2 <= 4 for i, j in live) for r, c in cells]
            growth = env.growth(jnp.asarray(apples), env.default_params)
            np.testing.assert_allclose(growth, [table[min(n, 3)] for n in near])


def test_apples_return_at_the_rate_of_their_neighbours():
    cells = cells_of(DISC, "A")
    apples = np.array([cell in {(1, 3), (3, 1), (3, 5)} for cell in cells])  # three tips of the disc
    expected = np.array(DISC.growth(jnp.asarray(apples), DISC.default_params))
    np.testing.assert_allclose(np.unique(expected), [0, 0.0025, 0.005, 0.025])
    state = state_of(DISC, apples=apples, position=np.array([(6, 1), (6, 2)], np.int32))
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    grown = jax.jit(
        jax.vmap(lambda key: DISC.step_env(key, state, jnp.zeros(2, jnp.int32), DISC.default_params)[1].apples)
    )(keys)
    frequency = np.asarray(grown).mean(axis=0)
    assert np.all(frequency[apples] == 1)
    error = 4 * np.sqrt(expected * (1 - expected) / draws)
    assert np.all(abs(frequency - expected)[~apples] <= error[~apples])


def test_a_bare_patch_is_dead_for_ever_and_its_neighbours_are_not():
    params = OPEN.make_params(regrowth=[0, 1, 1, 1])
    cells = np.array(cells_of(OPEN, "A"))
    corner = (cells[:, 0] <= 3) & (cells[:, 1] >= 20)
    apples = ~corner & (np.arange(64) % 3 == 0)
    state, still = state_of(OPEN, apples=apples), jnp.zeros(7, jnp.int32)
    for key in range(12):
        _, state, *_ = step(OPEN, key, state, still, params)
    assert corner.sum() == 6 and np.asarray(state.apples).tolist() == (~corner).tolist()


# ---------------------------------------------------------------------- eating
def test_an_apple_pays_who_steps_on_it_and_only_then():
    params = DISC.make_params(regrowth=[0, 1, 1, 1], apple_reward=2.0)
    # Agent 0 walks on the disc from (6, 3); agent 1 stays on a spawn cell.
    state = state_of(DISC, position=np.array([(6, 3), (6, 1)], np.int32), heading=np.zeros(2, np.int32))
    rewards, eaten, alive = [], [], []
    for key, action in enumerate([FORWARD, NOOP, NOOP, FORWARD, BACKWARD]):
        _, state, reward, _, _, info = step(DISC, key, state, [action, NOOP], params)
        rewards.append(reward.tolist())
        eaten.append(info["metrics"]["eaten"].tolist())
        alive.append(float(info["metrics"]["apples"]))
    # With certain regrowth the apple under the agent is back at once, but only coming anew eats it.
    assert rewards == [[2, 0], [0, 0], [0, 0], [2, 0], [2, 0]]
    assert eaten == [[1, 0], [0, 0], [0, 0], [1, 0], [1, 0]] and alive == [13] * 5


def test_eaten_apples_are_gone_without_regrowth():
    params = DISC.make_params(regrowth=[0, 0, 0, 0])
    state = state_of(DISC, position=np.array([(6, 3), (6, 1)], np.int32), heading=np.zeros(2, np.int32))
    left = []
    for key, action in enumerate([FORWARD, FORWARD, BACKWARD, FORWARD]):
        _, state, _, _, _, info = step(DISC, key, state, [action, NOOP], params)
        left.append(float(info["metrics"]["apples"]))
    assert left == [12, 11, 11, 11]


def test_apples_and_bare_sites_are_seen_as_such():
    state = state_of(DISC, position=np.array([(6, 3), (6, 1)], np.int32), heading=np.zeros(2, np.int32))
    state = state.replace(apples=jnp.arange(13) % 6 == 0)
    view = np.asarray(DISC.observe(state, DISC.default_params)["view"][0, ..., 0])
    assert view[4:9, 5].tolist() == [4, 3, 4, 3, 4]  # the column ahead: sites 0, 2, 6, 10 and 12 of the disc
    assert view[3, 5] == 2 and view[9, 5] == 1 and not view[:3].any()


# ---------------------------------------------------------------------- settings and players
def test_socialjax_numbers():
    params = OPEN.socialjax_params()
    np.testing.assert_allclose(params.regrowth, [0, 0.001, 0.005, 0.025])
    assert (params.zap_cooldown, params.zap_timeout) == (0, 1)


def test_variants_have_their_own_beam():
    zaps: Any = {variant: make(f"commons_harvest_{variant}") for variant in VARIANTS}
    assert [zaps[v].beams[0].length for v in VARIANTS] == [3, 4, 4]
    assert [zaps[v].default_params.zap_timeout for v in VARIANTS] == [4, 100, 100]
    assert [zaps[v].default_params.zap_cooldown for v in VARIANTS] == [2, 1, 1]


def test_bad_settings_name_the_nearest_valid_one():
    with pytest.raises(
        InputError, match="variant must be one of open, closed, partnership, got 'opn'; closest: 'open'"
    ):
        make("commons_harvest_open", variant="opn")
    with pytest.raises(InputError, match="regrowth must be at most 1"):
        OPEN.make_params(regrowth=[0, 0, 0, 2])


def test_the_greedy_player_takes_the_last_apple_and_the_sustainable_one_does_not():
    last = np.arange(13) == 12  # the tip at (5, 3), right ahead of agent 0
    state = state_of(DISC, position=np.array([(6, 3), (6, 1)], np.int32), heading=np.zeros(2, np.int32))
    keys = jax.random.split(jax.random.key(0), 50)
    for apples, eats in (
        (last, {"greedy": True, "sustainable": False}),
        (np.ones(13, bool), dict.fromkeys(["greedy", "sustainable"], True)),
    ):
        seen = jax.tree.map(
            lambda leaf: leaf[0], DISC.observe(state.replace(apples=jnp.asarray(apples)), DISC.default_params)
        )
        for name, expected in eats.items():
            actions = np.asarray(jax.jit(jax.vmap(DISC.players[name], (None, 0)))(seen, keys))
            assert np.all((actions == FORWARD) == expected), name


def test_sparing_the_patches_pays_all_and_one_greedy_player_ruins_them():
    episodes, steps, greedy, sustainable = 3, 500, OPEN.players["greedy"], OPEN.players["sustainable"]

    def play(is_greedy, key):
        def turn(carry, key):
            obs, state = carry
            act_key, key = jax.random.split(key)
            keys = jax.random.split(act_key, 7)
            takes, spares = jax.vmap(greedy)(obs, keys), jax.vmap(sustainable)(obs, keys)
            obs, state, reward, *_ = OPEN.step_env(key, state, jnp.where(is_greedy, takes, spares), OPEN.default_params)
            return (obs, state), reward

        reset_key, key = jax.random.split(key)
        (_, state), rewards = jax.lax.scan(turn, OPEN.reset(reset_key), jax.random.split(key, steps))
        return rewards.sum(axis=0), state.apples.sum()

    teams = jnp.arange(7) < jnp.array([0, 1, 6, 7])[:, None]  # the first ones are greedy
    keys = jax.random.split(jax.random.key(0), (4, episodes))
    returns, left = jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(teams, keys)
    returns, left = np.asarray(returns).mean(axis=1), np.asarray(left)
    none, one, six, everybody = returns
    assert none.mean() > 3 * everybody.mean()  # mutual restraint beats mutual greed
    assert six[:6].mean() > six[6] and everybody.mean() > six[6]  # restraint among the greedy does not pay
    assert one[0] > 2 * one[1:].mean()  # the one who is greedy takes more than any other
    assert left[0].min() > 15 and left[3].max() == 0
