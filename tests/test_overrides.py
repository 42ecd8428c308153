"""Overrides from the command line and the grids they make."""

import pytest

from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.experiments.overrides import grid, parse


def test_values_are_read_as_toml_and_words_stay_words():
    values = parse(["a=3", "b=1e-3", "c=true", "d=[64, 32]", "e=team", 'f="x,y"'])
    assert values == {"a": [3], "b": [1e-3], "c": [True], "d": [[64, 32]], "e": ["team"], "f": ["x,y"]}
    assert isinstance(values["a"][0], int) and isinstance(values["c"][0], bool)


def test_comma_lists_expand_to_every_combination():
    combinations = grid(parse(["lr=1e-3,3e-4", "sizes=[8, 8],[16]"]))
    assert combinations == [
        {"lr": 1e-3, "sizes": [8, 8]},
        {"lr": 1e-3, "sizes": [16]},
        {"lr": 3e-4, "sizes": [8, 8]},
        {"lr": 3e-4, "sizes": [16]},
    ]
    assert grid({}) == [{}]


@pytest.mark.parametrize("pairs", [["lr"], ["=3"], ["lr="], ["lr=1", "lr=2"]])
def test_malformed_overrides_are_refused_by_name(pairs):
    with pytest.raises(InputError, match=r"lr|=3"):
        parse(pairs)


def test_unknown_names_are_answered_with_the_nearest_valid_one():
    valid = ["learning_rate", "gamma", "num_envs"]
    assert "did you mean 'gamma'?" in str(unknown_name("setting", "gama", valid))
    assert "did you mean 'learning_rate'?" in str(unknown_name("setting", "lr", valid))
    assert "closest:" in str(unknown_name("setting", "xyzzy", valid))
