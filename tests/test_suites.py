"""Suites: what a TOML file may say, and the one line that answers what it may not."""

import pytest

from marl_suite.envs.errors import InputError
from marl_suite.experiments.suites import Cell, builtin_suites, from_table, load

SMALL = {
    "steps": 1000,
    "seeds": [3, 5],
    "environments": [{"id": "public_goods", "env": {"num_agents": 3}, "params": {"max_steps": 7}}],
    "baselines": [{"id": "ippo", "set": {"ppo.gamma": 0.5}}, {"id": "random"}],
}


def changed(**changes) -> dict:
    return {**SMALL, **changes}


def test_a_suite_is_every_baseline_in_every_environment():
    learner, control = from_table(SMALL)
    assert (learner.environment, learner.label, control.label) == ("public_goods", "ippo", "random")
    assert learner.seeds == (3, 5) and learner.steps == 1000
    assert learner.game.num_agents == 3 and learner.game_params.max_steps == 7
    assert learner.specification["set"]["gamma"] == 0.5
    assert learner.learns and not control.learns


def test_settings_of_an_environment_reach_the_baselines_of_that_group_only_and_yield_to_the_baselines_own():
    environment = {"id": "stag_hunt", "set": {"ppo.gamma": 0.1, "ppo.epochs": 2}}
    learner, control = from_table(changed(environments=[environment]))
    settings = learner.specification["set"]
    assert (settings["gamma"], settings["epochs"]) == (0.5, 2)
    assert control.specification["set"] == {"reward_view": "individual"}


def test_cells_are_told_apart_by_everything_that_determines_their_result():
    (cell, _), (same, _) = from_table(SMALL), from_table(dict(SMALL))
    assert cell.id == same.id
    for change in ({"steps": 2000}, {"seeds": [3, 6]}, {"episodes": 9}, {"chunks": 3}):
        assert from_table(changed(**change))[0].id != cell.id
    other = from_table(changed(environments=[{"id": "public_goods", "env": {"num_agents": 3}}]))[0]
    assert other.id != cell.id


def test_a_pair_that_cannot_be_played_is_kept_with_its_reason():
    cells = from_table(changed(environments=[{"id": "matching_pennies"}], baselines=[{"id": "always_defect"}]))
    assert "no scripted player 'always_defect'" in str(cells[0].impossible)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": -1}, "steps must be a positive whole number, got -1"),
        ({"steps": "many"}, "steps must be a positive whole number, got 'many'"),
        ({"seeds": 0}, "seeds must be a positive number"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"environments": []}, "at least one"),
        ({"environments": [{"id": "publik_goods"}]}, "did you mean 'public_goods'"),
        ({"environments": [{"id": "public_goods", "env": {"num_agent": 3}}]}, "did you mean 'num_agents'"),
        ({"environments": [{"id": "public_goods", "env": {"num_agents": "x"}}]}, "num_agents must be a whole number"),
        ({"environments": [{"id": "public_goods", "params": {"max_step": 3}}]}, "did you mean 'max_steps'"),
        ({"environments": [{"id": "public_goods", "params": {"max_steps": 0}}]}, "max_steps must be at least 1"),
        ({"environments": [{"id": "public_goods", "params": {"max_steps": "x"}}]}, "must be a number"),
        ({"environments": [{"id": "public_goods", "set": {"gamma": 0.1}}]}, "keys like 'ppo.gamma'"),
        ({"environments": [{"id": "public_goods", "env": 3}]}, "must be a table"),
        ({"environments": [{"id": "public_goods", "baselines": ["ipo"]}]}, "did you mean 'ippo'"),
        ({"environments": [{"id": "public_goods", "baselines": "ippo"}]}, "must be a list of names"),
        ({"environments": [{"id": "stag_hunt", "published": {"ipo": "3"}}]}, "did you mean 'ippo'"),
        ({"environments": [{"id": "stag_hunt", "published": {"ippo": "3"}}]}, "need their source"),
        ({"best_response": -1}, "best_response must be a number of steps"),
        ({"baselines": [{"id": "ippo+ranom"}]}, "did you mean 'random'"),
        ({"baselines": [{"id": "ipo"}]}, "did you mean 'ippo'"),
        ({"baselines": [{"id": "ippo", "set": {"ppo.gama": 0.1}}]}, "did you mean 'gamma'"),
        ({"baselines": [{"id": "ippo", "set": {"gamma": 1.5}}]}, "ppo.gamma must be at most 1, got 1.5"),
        ({"baselines": [{"id": "ippo", "set": {"epochs": 1.5}}]}, "epochs must be a whole number, got 1.5"),
        ({"baselines": [{"id": "ippo", "set": {"reward_view": "teem"}}]}, "did you mean 'team'"),
        ({"baselines": [{"id": "ippo", "set": {"hidden_sizes": []}}]}, "hidden_sizes needs positive sizes"),
        ({"baselines": [{"id": "ippo"}, {"id": "ippo"}]}, "twice"),
    ],
)
def test_bad_input_is_named_with_the_nearest_valid_value(change, message):
    with pytest.raises(InputError) as error:
        from_table(changed(**change))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unreadable_files_and_unknown_suites_are_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'quick'"):
        load("quik")
    with pytest.raises(InputError, match="cannot read suite"):
        load(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(InputError, match="not valid TOML"):
        load(str(tmp_path / "bad.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read suite"):
        load(str(tmp_path / "binary.toml"))


def test_the_built_in_suites_are_valid_and_have_titles():
    assert "quick" in builtin_suites()
    for name, title in builtin_suites().items():
        assert title and all(cell.id for cell in load(name))


def test_an_environment_may_have_baselines_of_its_own():
    environment = {"id": "stag_hunt", "baselines": ["short"]}
    rows = [{"id": "ippo"}, {"id": "ippo", "label": "short", "set": {"gamma": 0.5}}, {"id": "random"}]
    labels = [cell.label for cell in from_table(changed(environments=[environment], baselines=rows))]
    assert labels == ["short"]
    environment = {"id": "stag_hunt", "baselines": ["ippo"]}
    labels = [cell.label for cell in from_table(changed(environments=[environment], baselines=rows))]
    assert labels == ["ippo", "short"], "an id stands for all of its rows"


def test_of_an_environments_and_a_baselines_own_steps_the_larger_count():
    games = [{"id": "stag_hunt", "steps": 300}, {"id": "chicken"}]
    rows = [{"id": "ippo"}, {"id": "lola", "steps": 500}, {"id": "random", "steps": 200}]
    cells = from_table(changed(environments=games, baselines=rows))
    assert [cell.steps for cell in cells] == [300, 500, 300, 1000, 500, 200]


def test_settings_of_an_environment_pass_over_baselines_of_the_group_that_do_not_have_them():
    environment = {"id": "stag_hunt", "set": {"ppo.beta": 2}}
    rows = [{"id": "ippo"}, {"id": "advantage_alignment"}]
    ippo, aligned = from_table(changed(environments=[environment], baselines=rows))
    assert "beta" not in ippo.specification["set"] and aligned.specification["set"]["beta"] == 2
    with pytest.raises(InputError, match=r"ppo\.beta"):
        from_table(changed(environments=[{"id": "stag_hunt", "set": {"ppo.betta": 2}}], baselines=rows))


def test_settings_of_an_environment_reach_the_parts_of_a_team():
    environment = {"id": "stag_hunt", "set": {"ppo.gamma": 0.1}}
    (team,) = from_table(changed(environments=[environment], baselines=[{"id": "ippo+always_defect"}]))
    assert team.specification["set"]["0.gamma"] == 0.1 and team.mixed_team and team.learns


def test_long_episodes_of_many_agents_are_evaluated_fewer_times():
    episodes = {name: Cell(name, "ippo", "").check().episodes for name in ("prisoners_dilemma", "two_step", "clean_up")}
    assert episodes == {"prisoners_dilemma": 128, "two_step": 128, "clean_up": 2**16 // 7000}
    assert Cell("clean_up", "ippo", "", params={"max_steps": 10_000}).check().episodes == 8
    assert Cell("clean_up", "ippo", "", episodes=77).check().episodes == 77
