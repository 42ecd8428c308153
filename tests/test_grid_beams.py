"""Footprints drawn by hand, what stops a beam, and how often it fires."""

import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs.grid.beams import (
    Beam,
    agents_hit,
    cells_hit,
    crossed,
    footprint,
    pull_trigger,
    readiness,
    shoot,
)

SHAPE = (9, 9)
HEADINGS = range(4)


def fire(walls=(), others=(), heading=0, length=3, radius=1, at=(5, 4), stops_at_agents=True, present=True):
    """Fires one beam from `at`; the shot, the agents' positions and who is there."""
    position = jnp.asarray([at, *others], jnp.int32)
    stops = np.zeros(SHAPE, bool)
    for cell in walls:
        stops[cell] = True
    here = jnp.asarray([True] + [present] * len(others))
    fired = jnp.arange(len(position)) == 0
    beam = Beam("beam", length, radius, stops_at_agents)
    return shoot(beam, fired, position, jnp.full(len(position), heading), here, stops), position, here


def drawn(shot):
    """The hit cells as a picture."""
    return ["".join(".x"[int(hit)] for hit in row) for row in np.asarray(crossed(shot, SHAPE))]


@pytest.mark.parametrize(
    "length, radius, size", [(3, 1, 9), (4, 1, 12), (2, 1, 6), (5, 0, 5), (1, 0, 1), (3, 2, 13), (2, 2, 8), (3, 3, 15)]
)
def test_the_number_of_cells_is_length_plus_two_columns_per_radius(length, radius, size):
    assert len(footprint(length, radius).forward) == size
    assert size == length + sum(2 * (length - r + 1) for r in range(1, radius + 1))


def test_the_footprint_of_length_three_and_radius_one():
    assert drawn(fire()[0])[2:6] == ["....x....", "...xxx...", "...xxx...", "...x.x..."]


def test_the_footprint_of_length_three_and_radius_two():
    assert drawn(fire(radius=2)[0])[2:6] == ["....x....", "...xxx...", "..xxxxx..", "..xx.xx.."]


def test_footprints_turn_with_the_heading():
    north = np.asarray(crossed(fire(at=(4, 4), radius=2)[0], SHAPE))
    for heading in HEADINGS:
        turned = np.asarray(crossed(fire(at=(4, 4), radius=2, heading=heading)[0], SHAPE))
        assert np.array_equal(turned, np.rot90(north, -heading))


def test_a_ray_hits_the_cell_that_stops_it_and_none_behind():
    assert drawn(fire(walls=[(4, 4)])[0])[2:6] == [".........", "...x.x...", "...xxx...", "...x.x..."]
    assert drawn(fire(walls=[(4, 5)])[0])[2:6] == ["....x....", "...xx....", "...xxx...", "...x.x..."]


def test_a_blocked_first_cell_beside_the_shooter_stops_the_columns_further_out():
    # The wall itself is hit; neither the rest of its column nor the second column on that side is.
    assert drawn(fire(walls=[(5, 5)], radius=2)[0])[2:6] == ["....x....", "...xx....", "..xxx....", "..xx.x..."]


def test_a_blocked_later_cell_does_not_stop_the_columns_further_out():
    assert drawn(fire(walls=[(4, 5)], radius=2)[0])[2:6] == ["....x....", "...xx....", "..xxxxx..", "..xx.xx.."]


def test_beams_end_at_the_border_and_never_wrap():
    for at, heading in (((0, 4), 0), ((8, 4), 2), ((4, 0), 3), ((4, 8), 1)):
        assert crossed(fire(at=at, heading=heading)[0], SHAPE).sum() == 2  # the two cells beside the shooter
    corner = drawn(fire(at=(0, 0), heading=0)[0])
    assert corner[0] == ".x......." and all(row == "." * 9 for row in corner[1:])


def test_the_first_agent_in_a_ray_is_hit_and_shields_those_behind():
    shot, position, here = fire(others=[(4, 4), (3, 4), (4, 3), (5, 5)])
    assert agents_hit(shot, position, here, SHAPE)[0].tolist() == [False, True, False, True, True]


def test_agents_that_are_out_are_not_hit_and_shield_nobody():
    shot, position, here = fire(others=[(4, 4)], present=False)
    assert not agents_hit(shot, position, here, SHAPE).any()
    assert crossed(shot, SHAPE)[2, 4]


def test_a_beam_may_pass_agents():
    shot, position, here = fire(others=[(4, 4), (3, 4)], stops_at_agents=False)
    assert agents_hit(shot, position, here, SHAPE)[0].tolist() == [False, True, True]


def test_only_cells_that_hold_a_thing_are_counted():
    things = np.zeros(SHAPE, bool)
    things[4, 3:6] = things[5, 4] = things[0, 0] = True  # in front of the shooter, under it and far away
    shot, *_ = fire()
    assert cells_hit(shot, things).sum(axis=1).tolist() == [3]


def test_who_does_not_fire_hits_nothing():
    shot, *_ = fire(others=[(8, 8)])
    assert shot.reached.sum(axis=1).tolist() == [9, 0]


@pytest.mark.parametrize("cooldown", [0, 1, 2, 10])
def test_a_trigger_held_down_fires_every_cooldown_plus_one_steps(cooldown):
    timer, fired, ready = jnp.zeros(1, jnp.int32), [], []
    for _ in range(40):
        ready.append(float(readiness(timer, cooldown)[0]))
        shot, timer = pull_trigger(timer, jnp.ones(1, bool), cooldown)
        fired.append(bool(shot[0]))
    assert np.flatnonzero(fired).tolist() == list(range(0, 40, cooldown + 1))
    assert [r == 1 for r in ready] == fired and min(ready) >= 0
    if cooldown:
        np.testing.assert_allclose(ready[1 : cooldown + 1], np.arange(cooldown) / cooldown, atol=1e-6)


def test_timers_run_down_while_nobody_asks():
    timer = jnp.full(1, 3)
    for left in (2, 1, 0, 0):
        fired, timer = pull_trigger(timer, jnp.zeros(1, bool), 5)
        assert not fired[0] and timer.tolist() == [left]
