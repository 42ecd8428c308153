"""Reading maps, and what a bad one is told."""

import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.grid.cells import look_up, spread
from marl_suite.envs.grid.maps import read_map

SMALL = """
    ####
    #PA#
    ####
"""


def test_symbols_become_planes_and_sites_in_reading_order():
    grid = read_map("map", SMALL, "#.PA")
    assert grid.shape == (3, 4) and grid.num_cells == 12
    assert grid.plane("P").tolist() == [[False] * 4, [False, True, False, False], [False] * 4]
    assert grid.sites("AP").tolist() == [5, 6]
    assert grid.numbered("AP")[1].tolist() == [2, 0, 1, 2]
    assert grid.plane("#").sum() == 10


def test_equal_texts_share_one_grid():
    assert read_map("map", SMALL, "#.PA") is read_map("map", SMALL, "#.PA")


def test_values_of_sites_return_to_their_cells():
    grid = read_map("map", SMALL, "#.PA")
    plane = np.asarray(spread(jnp.array([7, 9]), grid.numbered("PA"), elsewhere=1))
    assert plane.tolist() == [[1, 1, 1, 1], [1, 7, 9, 1], [1, 1, 1, 1]]
    assert look_up(plane, np.array([5, 6, 12]), beyond=4).tolist() == [7, 9, 4]


@pytest.mark.parametrize(
    "text, message",
    [
        ("###\n#P##\n###", "every line must have 3 cells as the first, but line 2 has 4: '#P##'"),
        ("###\n#X#\n###", "unknown symbol 'X' in line 2, column 2; use # . P"),
        ("  \n ", "has no cells"),
    ],
)
def test_a_map_that_cannot_be_read_names_the_bad_line(text, message):
    with pytest.raises(InputError) as error:
        read_map("my map", text, "#.P")
    assert message in str(error.value) and str(error.value).startswith("my map") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("commons_harvest_open", "#####\n#PPA#\n#####", "at least 3 cells 'P' (one to spawn on for each agent), got 2"),
        ("commons_harvest_open", "#####\n#PPP#\n#####", "at least 1 cells 'A' (an apple), got 0"),
        ("clean_up", "######\n#PPPA#\n######", "at least 1 cells '~' or 'D' (river), got 0"),
    ],
)
def test_a_map_on_which_the_game_cannot_be_played_is_refused(name, text, message):
    with pytest.raises(InputError, match=f"^{name}: map needs ") as error:
        make(name, num_agents=3, map=text)
    assert message in str(error.value)
