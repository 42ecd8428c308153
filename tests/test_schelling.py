"""Schelling diagrams and the inequalities of a social dilemma, against games whose answers are worked out by hand."""

import csv
import io

import numpy as np
import pytest
from scipy import stats

from marl_suite import cli
from marl_suite.envs import InputError, make, registered
from marl_suite.envs.matrix_games import MatrixGame
from marl_suite.experiments import schelling
from marl_suite.games.schelling import Diagram, difference, mean_interval, verdict


def exact(cooperators, defectors, episodes=4):
    """A diagram without spread, from Rc(1), ..., Rc(N) and Rd(0), ..., Rd(N - 1)."""
    first, second = np.array([np.nan, *cooperators]), np.array([*defectors, np.nan])
    return Diagram(np.repeat(first[:, None], episodes, axis=1), np.repeat(second[:, None], episodes, axis=1))


def answers(diagram):
    result = verdict(diagram)
    return [result.better_together.positive, result.worse_alone.positive, result.fear.positive, result.greed.positive]


# Each row: Rc(1..N), Rd(0..N-1), the four answers, the verdict, the equilibria. Hughes et al. (2018), Schelling (1973).
KNOWN = {
    "prisoner's dilemma 3, 0, 5, 1": ([0, 3], [1, 5], [True] * 4, True, [0]),
    "stag hunt 4, 0, 3, 2": ([0, 4], [2, 3], [True, True, True, False], True, [0, 2]),
    "chicken 3, 2, 5, 0": ([2, 3], [0, 5], [True, True, False, True], True, [1]),
    "harmony": ([2, 4], [0, 3], [True, True, False, False], False, [2]),
    "public goods, 5 players, r = 2": (
        [0.4, 0.8, 1.2, 1.6, 2.0],
        [1, 1.4, 1.8, 2.2, 2.6],
        [True] * 4,
        True,
        [0],
    ),
    "public goods, 5 players, r = 5.5": (
        [1.1, 2.2, 3.3, 4.4, 5.5],
        [1, 2.1, 3.2, 4.3, 5.4],
        [True, True, False, False],
        False,
        [5],
    ),
    "a lake that one greedy fisher ruins": ([10, 20, 60], [16, 30, 40], [True, True, True, False], True, [0, 3]),
    "all the same": ([1, 1], [1, 1], [False] * 4, False, [0, 1, 2]),
    "defection is best for all": ([0, 1], [2, 3], [False, True, True, True], False, [0]),
}


@pytest.mark.parametrize("game", KNOWN)
def test_known_games_get_their_known_verdict(game):
    cooperators, defectors, inequalities, dilemma, equilibria = KNOWN[game]
    diagram = exact(cooperators, defectors)
    assert answers(diagram) == inequalities
    assert verdict(diagram).dilemma is dilemma and diagram.equilibria() == equilibria


def test_the_verdict_is_open_where_an_interval_holds_zero():
    diagram = exact([0, 3], [1, 5], episodes=6)
    noise = np.array([-30, 30, -30, 30, -30, 30.0])
    noisy = Diagram(diagram.cooperators + noise * [[0], [0], [1]], diagram.defectors)
    assert answers(noisy) == [None, None, True, None]
    assert verdict(noisy).dilemma is None and "inconclusive" in str(verdict(noisy))
    assert noisy.equilibria() == [0, 2]  # that defecting pays at the end is no longer sure


def test_one_sure_temptation_is_enough_and_a_sure_failure_decides():
    noise = np.array([-30, 30, -30, 30, -30, 30.0])
    diagram = exact([0, 30], [10, 500], episodes=6)
    afraid = Diagram(diagram.cooperators + noise * [[0], [1], [0]], diagram.defectors)
    assert answers(afraid) == [True, None, None, True] and verdict(afraid).dilemma is None
    hopeless = Diagram(afraid.cooperators, afraid.defectors + 1000)
    assert verdict(hopeless).dilemma is False


def test_intervals_are_those_of_welch_and_student():
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 3, 20), rng.normal(1, 1, 35)
    test = stats.ttest_ind(x, y, equal_var=False)
    interval = test.confidence_interval(0.9)
    np.testing.assert_allclose(difference(x, y, 0.9), [x.mean() - y.mean(), *interval])
    np.testing.assert_allclose(mean_interval(x)[1:], stats.ttest_1samp(x, 0).confidence_interval(0.95))
    assert difference(np.ones(3), np.zeros(2)) == (1, 1, 1)
    assert difference(np.ones(1), np.zeros(1)) == (1, -np.inf, np.inf)


def test_welch_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = [low <= 1 <= high for _, low, high in (difference(*_draw(rng), confidence=0.8) for _ in range(2000))]
    assert abs(np.mean(hits) - 0.8) < 3.3 * np.sqrt(0.8 * 0.2 / 2000)


def _draw(rng):
    return rng.normal(1, 2, 8), rng.normal(0, 1, 12)


# ---------------------------------------------------------------------- played
def test_public_goods_are_played_to_their_payoffs():
    env = make("public_goods", num_agents=4)
    params = env.make_params(max_steps=10)
    diagram = schelling.play(env, params, ("always_cooperate", "always_defect"), episodes=3)
    shares = np.arange(5) * 2.0 / 4
    np.testing.assert_allclose(diagram.cooperators[1:], np.tile(10 * shares[1:, None], 3), rtol=1e-5)
    np.testing.assert_allclose(diagram.defectors[:-1], np.tile(10 * (1 + shares[:-1, None]), 3), rtol=1e-5)
    assert np.isnan(diagram.cooperators[0]).all() and np.isnan(diagram.defectors[-1]).all()
    assert str(verdict(diagram)) == "a social dilemma of fear and greed"


def test_who_cooperates_is_drawn_anew_for_each_episode():
    payoffs = np.zeros((2, 2, 2), np.float32)
    payoffs[0, 0, 1], payoffs[1, 1, 0] = 1, 2  # what a lone cooperator earns in the first place and in the second
    players = {"first": lambda observation, key: np.int32(0), "second": lambda observation, key: np.int32(1)}
    env = type("Seats", (MatrixGame,), {"players": players})()
    params = env.make_params(payoffs=payoffs, max_steps=1)
    earned = schelling.play(env, params, ("first", "second"), episodes=400).cooperators[1]
    assert set(earned.tolist()) == {1, 2} and abs(np.mean(earned == 2) - 0.5) < 3.3 * 0.5 / 20


def test_tables_hold_the_means_and_their_intervals():
    diagram = exact([0, 3], [1, 5])
    table = list(csv.DictReader(io.StringIO(schelling.to_csv(diagram))))
    assert [row["cooperators"] for row in table] == ["0", "1", "2"]
    assert [row["cooperator_return"] for row in table] == ["nan", "0.0", "3.0"]
    assert [row["defector_high"] for row in table] == ["1.0", "5.0", "nan"]
    text = schelling.report(make("prisoners_dilemma"), ("always_cooperate", "always_defect"), diagram)
    assert "| 1 of 2 | 0.00 | 5.00 |" in text and "| fear, Rd(0) - Rc(1) | 1.00 | yes |" in text
    assert "always_defect (defector): always plays action 1" in text


# ---------------------------------------------------------------------- the command line
def test_the_command_prints_a_verdict_and_draws_a_picture(tmp_path, capsys):
    out = tmp_path / "new" / "hunt.png"
    cli.main(["schelling", "stag_hunt", "--episodes", "4", "--params", "max_steps=5", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "stag_hunt: a social dilemma of fear. Numbers of cooperators from which nobody gains by changing: 0, 2." in (
        printed
    )
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.with_suffix(".csv").read_text().startswith("cooperators,cooperator_return,")
    assert sorted(path.name for path in out.parent.iterdir()) == ["hunt.csv", "hunt.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stag_hnt"], "did you mean 'stag_hunt'"),
        (["climbing"], "climbing names no cooperator and defector; give two of always_action_0"),
        (["stag_hunt", "--cooperator", "tit_for_tit"], "did you mean 'tit_for_tat'"),
        (["stag_hunt", "--cooperator", "always_defect"], "cooperator and defector must differ"),
        (["stag_hunt", "--episodes", "1"], "episodes must be at least 2, got 1"),
        (["stag_hunt", "--out", "a.pdf"], "out must end in .png, got 'a.pdf'"),
        (["stag_hunt", "--params", "max_steps=5,6"], "override 'max_steps' takes one value here, got 5, 6"),
        (["public_goods", "--params", "max_step=5"], "did you mean 'max_steps'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["schelling", *arguments])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1


def test_one_agent_is_refused():
    env = make("commons_harvest_open", num_agents=1)
    with pytest.raises(InputError, match="needs at least 2 agents, got 1"):
        schelling.the_two(env)


def test_games_name_players_that_they_have_and_define():
    games = [make(name) for name in registered()]
    named = [env for env in games if env.cooperator]
    assert len(named) >= 10
    for env in named:
        assert {env.cooperator, env.defector} <= set(env.players) and env.cooperator != env.defector
        assert {env.cooperator, env.defector} <= set(env.definitions), env.name
