"""The command line: one line and exit code 2 for bad input, before anything is compiled or written."""

import pytest

from marl_suite import cli
from marl_suite.experiments import tables

BAD = [
    (["trian"], "did you mean 'train'"),
    (["train", "prisoners_dilemma"], "baseline"),
    (["train", "prisoner_dilemma", "ippo"], "did you mean 'prisoners_dilemma'"),
    (["train", "prisoners_dilemma", "ipo"], "did you mean 'ippo'"),
    (["train", "prisoners_dilemma", "ippo", "--sedes", "3"], "--seeds"),
    (["train", "prisoners_dilemma", "ippo", "--seeds", "x"], "--seeds"),
    (["train", "prisoners_dilemma", "ippo", "--seeds", "0"], "seeds must be a positive number"),
    (["train", "prisoners_dilemma", "ippo", "--steps", "-5"], "steps must be a positive whole number"),
    (["train", "prisoners_dilemma", "ippo", "--steps", "nan"], "steps must be a positive whole number"),
    (["train", "prisoners_dilemma", "ippo", "--chunks", "0"], "chunks must be a positive whole number"),
    (["train", "prisoners_dilemma", "ippo", "--set", "ppo.gama=0.9"], "did you mean 'gamma'"),
    (["train", "prisoners_dilemma", "ippo", "--set", "gamma"], "key=value"),
    (["train", "prisoners_dilemma", "ippo", "--set", "gamma=fast"], "gamma must be a number, got 'fast'"),
    (["train", "prisoners_dilemma", "ippo", "--set", "ppo.gamma=2"], "at most 1, got 2"),
    (["train", "prisoners_dilemma", "ippo", "--set", "minibatches=3"], "minibatches must divide"),
    (["train", "prisoners_dilemma", "ippo", "--env", "payoffs=lolla"], "lola"),
    (["train", "prisoners_dilemma", "ippo", "--env", "num_agents=3"], "got 3"),
    (["train", "prisoners_dilemma", "ippo", "--params", "max_steps=1.5"], "whole number"),
    (["train", "public_goods", "ippo", "--params", "max_step=5"], "did you mean 'max_steps'"),
    (["train", "matching_pennies", "always_defect"], "no scripted player"),
    (["train", "prisoners_dilemma", "ippo+tit_for_tatt"], "did you mean 'tit_for_tat'"),
    (["train", "prisoners_dilemma", "ippo+ippo+ippo"], "too few for 3 parts"),
    (["train", "prisoners_dilemma", "past_self"], "as in 'ippo+past_self'"),
    (["train", "public_goods", "exact_lola_a"], "no closed form"),
    (["train", "prisoners_dilemma", "advantage_alignment", "--set", "past=meen"], "closest: 'mean'"),
    (["train", "prisoners_dilemma", "ippo", "--best-response", "-1"], "best_response must be a number of steps"),
    (["train", "gymnax:CartPol-v1", "ippo"], "CartPole-v1"),
    (["sweep", "quik"], "did you mean 'quick'"),
    (["sweep", "matrix", "--only", "stag_hutn"], "did you mean 'stag_hunt'"),
    (["sweep", "none.toml"], "cannot read suite"),
    (["table", "nowhere"], "no results there"),
    (["evaluate", "nowhere"], "no stored policy in 'nowhere'"),
    (["speed", "coin_gaem"], "did you mean 'coin_game'"),
    (["list", "enviroments"], "environments"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_with_the_nearest_valid_value_and_exit_code_2(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert exit.value.code == 2
    assert printed.err.count("\n") == 1 and printed.err.startswith("marl-suite: ")
    assert message in printed.err
    assert printed.out == "" and not list(tmp_path.iterdir())


def test_list_names_everything(capsys):
    cli.main(["list"])
    printed = capsys.readouterr().out
    for name in ("prisoners_dilemma", "coin_game_two_coins", "ippo", "tit_for_tat", "quick"):
        assert name in printed


def test_train_runs_a_grid_and_table_shows_it_again(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--set", "num_envs=4", "rollout_length=5", "hidden_sizes=[8]", "minibatches=2", "ppo.gamma=0.5,0.9"]
    arguments = ["train", "stag_hunt", "ippo", "--seeds", "2", "--steps", "40", "--chunks", "1", "--episodes", "4"]
    arguments += ["--best-response", "0"]
    cli.main([*arguments, *small, "--params", "max_steps=5"])
    printed = capsys.readouterr().out
    assert "ippo ppo.gamma=0.5" in printed and "ippo ppo.gamma=0.9" in printed
    root = tmp_path / "runs" / "stag_hunt-ippo"
    assert (root / "learning_curves.png").exists()
    for name, render in tables.FORMATS.items():
        cli.main(["table", str(root), "--format", name])
        assert capsys.readouterr().out == render(tables.make_table(root))
    cli.main(["table", str(root), "--view", "robustness"])
    assert capsys.readouterr().out == tables.markdown(tables.make_robustness(root))
    cli.main(["evaluate", str(root), "--against", "always_defect", "--episodes", "4"])
    assert capsys.readouterr().out.count("| stag_hunt |") == 2
