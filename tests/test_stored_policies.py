"""Policies in files: they play as they were trained, need no training code, and execute nothing."""

import io
import json
import pickle
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_suite
from marl_suite import stored_policies
from marl_suite.algorithm import env_spec
from marl_suite.baselines import registry
from marl_suite.envs import InputError, make

E, SEEDS = 3, (4, 7)
SMALL = {"hidden_sizes": (8,)}
RECURRENT = {"recurrent": True, "share_parameters": True, "agent_id": True, **SMALL}
CASES = {
    "ippo": ("prisoners_dilemma", "ippo", SMALL),
    "recurrent, shared, with ids": ("public_goods", "ippo", RECURRENT),
    "a grid": ("coins", "ippo", {"shared_trunk": True, **SMALL}),
    "masks of several components": ("negotiation", "advantage_alignment", SMALL),
    "continuous": ("harvest_dynamics", "ippo", SMALL),
    "qmix": ("public_goods", "qmix", {"recurrent": True, **SMALL}),
    "lola, a table": ("prisoners_dilemma", "lola", {}),
    "lola, recurrent": ("rock_paper_scissors", "lola", {"recurrent": True, **SMALL}),
    "loqa": ("prisoners_dilemma", "loqa", SMALL),
    "exact": ("rock_paper_scissors", "exact_sos", {}),
    "q_learning": ("bertrand_pricing", "q_learning", {}),
    "a role": ("coin_game", "cooperator", {}),
    "a team": ("public_goods", "ippo+always_defect", SMALL),
}


def untrained(game: str, baseline: str, settings: dict) -> tuple:
    """A learner, its state for two seeds, and its policies as they would be stored."""
    env = make(game)
    params = env.default_params
    learner = registry.configuration(baseline, **settings).build(env_spec(env, params))
    state = learner.trained(jax.vmap(learner.init)(jax.vmap(jax.random.key)(jnp.asarray(SEEDS))))
    facts = {"environment": game, "env": env.static_values(), "params": {}, "version": env.version}
    facts |= {"baseline": baseline, "label": "row", "seeds": list(SEEDS)}
    assert learner.export
    policies = jax.vmap(learner.export)(state) if jax.tree.leaves(state) else learner.export(state)
    return env, params, learner, state, stored_policies.gather(policies, env, params, facts)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small file and what is in it."""
    stored = untrained(*CASES["ippo"])[-1]
    path = tmp_path_factory.mktemp("cell") / "policy.npz"
    path.write_bytes(stored_policies.to_bytes(stored))
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_back_what_the_learner_exported(case, tmp_path):
    env, params, learner, state, stored = untrained(*CASES[case])
    (tmp_path / "policy.npz").write_bytes(stored_policies.to_bytes(stored))
    policy = marl_suite.load(tmp_path, seed=7)
    exported = learner.export(jax.tree.map(lambda x: x[1], state))
    if "role" not in case and "team" not in case:  # scripted rules are made anew with the game
        assert jax.tree.structure(policy.plays) == jax.tree.structure(exported)
    for loaded, own in zip(jax.tree.leaves(policy.plays), jax.tree.leaves(exported), strict=True):
        np.testing.assert_array_equal(loaded, own)
    assert jax.tree.map(jnp.shape, policy.memory(E)) == jax.tree.map(jnp.shape, learner.memory(E))
    assert policy.game()[0] == env
    assert (policy.environment, policy.num_agents) == (env.name, env.num_agents)
    assert policy.observation_space == env.observation_space(params)
    assert policy.action_space == env.action_space(params)


def both_play(first, second, stored, env):
    """Actions of two act functions in two steps, the same observations and keys."""
    sample = jax.vmap(jax.vmap(env.observation_space(env.default_params).sample))
    keys = jax.random.split(jax.random.key(0), (E, env.num_agents))

    def two_steps(act):
        memory, observation, actions = stored.policies.memory(E), sample(keys), []
        for t in range(2):
            action, memory = act(memory, observation, jax.random.key(t))[:2]
            actions.append(action)
        return jnp.stack(actions)

    return jax.jit(lambda: (two_steps(first), two_steps(second)))()


@pytest.mark.parametrize("case", ["ippo", "lola, recurrent", "lola, a table", "exact", "a team"])
def test_a_loaded_policy_acts_as_the_learner_did(case, tmp_path):
    env, _, learner, state, stored = untrained(*CASES[case])
    (tmp_path / "policy.npz").write_bytes(stored_policies.to_bytes(stored))
    own = jax.tree.map(lambda x: x[0], state)
    expected, actions = both_play(partial(learner.act, own), marl_suite.load(tmp_path).act, stored, env)
    np.testing.assert_array_equal(actions, expected)


def test_greedy_policies_play_the_modes_and_seeds_differ(file):
    first, second = marl_suite.load(file), marl_suite.load(file, seed=7)
    observation = jnp.ones((1, 2, 5)) / 5
    greedy = [int(first.act((), observation, jax.random.key(k), greedy=True)[0][0, 0]) for k in range(4)]
    assert len(set(greedy)) == 1
    sampled = first.act((), jnp.repeat(observation, 64, 0), jax.random.key(0))[0]
    assert len(np.unique(sampled)) == 2  # untrained policies are near to uniform
    kernels = [policy.plays.params["params"]["Dense_0"]["kernel"] for policy in (first, second)]
    assert not np.array_equal(*kernels)


def test_past_selves_leave_the_current_self_in_every_seat():
    env, _, _, state, stored = untrained("public_goods", "ippo+past_self", SMALL)
    alone = untrained("public_goods", "ippo", {"share_parameters": True, **SMALL})[2]
    now = jax.tree.map(lambda x: x[0], state.now)
    expected, actions = both_play(alone.policy(now, False), stored.policy(4).act, stored, env)
    np.testing.assert_array_equal(actions, expected)


def test_a_file_can_be_played_with_numpy_alone(file):
    with np.load(file) as archive:
        facts = json.loads(str(archive["policy"]))
        layers = [
            (archive[f"{facts['policy']['arrays']}/params/Dense_{i}/kernel"], archive[f"0/params/Dense_{i}/bias"])
            for i in range(2)
        ]
    assert (facts["format"], facts["environment"], facts["seeds"]) == (1, "prisoners_dilemma", [4, 7])
    assert facts["action_space"] == {"discrete": 2, "dtype": "int32"}
    observation = np.eye(5, dtype=np.float32)[:, None].repeat(2, axis=1)  # every state, for both agents
    policy = marl_suite.load(file, seed=7)
    chosen = policy.act(policy.memory(5), observation, jax.random.key(0), greedy=True)[0]
    for agent in range(2):
        (w1, b1), (w2, b2) = [(kernel[1, agent], bias[1, agent]) for kernel, bias in layers]
        logits = np.tanh(observation[:, agent] @ w1 + b1) @ w2 + b2
        np.testing.assert_array_equal(chosen[:, agent], logits.argmax(-1))


def test_no_training_code_is_imported(file):
    code = f"""
import sys, jax, jax.numpy as jnp, marl_suite
policy = marl_suite.load({str(file)!r})
actions, _ = policy.act(policy.memory(4), jnp.zeros((4, 2, 5)), jax.random.key(0))
assert actions.shape == (4, 2)
banned = ("marl_suite.training", "marl_suite.rollout", "marl_suite.baselines", "marl_suite.experiments", "flashbax")
assert not [name for name in sys.modules if name.startswith(banned)], sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---------------------------------------------------------------------- bad files
def archive(**entries) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **entries)
    return buffer.getvalue()


class Malicious:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return exec, ("import marl_suite; marl_suite.was_executed = True",)


def test_a_pickle_in_a_file_is_refused_and_not_executed(tmp_path):
    payload = np.array([Malicious()], dtype=object)
    pickle.loads(pickle.dumps(Malicious()))  # it would work
    assert marl_suite.__dict__.pop("was_executed")
    for name, content in {"inside": archive(policy=payload), "plain": pickle.dumps(Malicious())}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is not a stored policy"):
            marl_suite.load(tmp_path / name)
    assert "was_executed" not in vars(marl_suite)


def changed(file, **words) -> bytes:
    """The file with other words about its policy, or (`facts`) about everything."""
    with np.load(file) as old:
        entries = {name: old[name] for name in old.files}
    facts = json.loads(str(entries.pop("policy"))) | words.pop("facts", {})
    facts["policy"] |= words
    return archive(policy=np.array(json.dumps(facts)), **entries)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"facts": {"format": 2}}, "policy format 2, this version of marl_suite reads 1"),
        ({"kind": "netwerk"}, "kind of policy 'netwerk'.*'network'"),
        ({"hidden_sizes": [9]}, "its arrays have shapes"),
        ({"encoder": "os.system"}, "unknown encoder 'os.system'"),
        ({"arrays": "5"}, "not a whole policy"),
        ({"surprise": 1}, "surprise"),
        ({"facts": {"action_space": {}}}, "not a whole policy"),
    ],
)
def test_a_file_that_does_not_hold_what_it_says_is_refused_in_one_line(file, tmp_path, change, says):
    bad = tmp_path / "policy.npz"
    bad.write_bytes(changed(file, **change))
    with pytest.raises(InputError, match=says) as error:
        marl_suite.load(bad)
    assert "\n" not in str(error.value)


def test_cut_files_and_others_are_refused(file, tmp_path):
    for content in (file.read_bytes()[:-200], b"", b"PK\x03\x04 not an archive", archive(other=np.zeros(3))):
        (tmp_path / "policy.npz").write_bytes(content)
        with pytest.raises(InputError, match="is not a stored policy"):
            marl_suite.load(tmp_path)


def test_rules_that_have_changed_since_are_refused(file, tmp_path):
    (tmp_path / "policy.npz").write_bytes(changed(file, facts={"version": 99}))
    policy = marl_suite.load(tmp_path)  # it can still play wherever its observations fit
    with pytest.raises(InputError, match="was made with version 99 of prisoners_dilemma, this is 1"):
        policy.game()


def test_missing_and_ambiguous_policies_are_named(file, tmp_path):
    with pytest.raises(InputError, match=r"no stored policy in .*nowhere"):
        marl_suite.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="had the seeds 4, 7, got 5"):
        marl_suite.load(file, seed=5)
    for name, game in (("a", "prisoners_dilemma"), ("b", "prisoners_dilemma"), (".c.partial", "chicken")):
        (tmp_path / "cells" / name).mkdir(parents=True)
        content = changed(file, facts={"environment": game})
        (tmp_path / "cells" / name / "policy.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"holds 2 policies; name one, as in .*cells/a; it has a, b"):
        marl_suite.load(tmp_path)
    with pytest.raises(InputError, match=re.escape("holds no policies of chicken, but of prisoners_dilemma")):
        stored_policies.find(tmp_path, "chicken")
    assert stored_policies.find(tmp_path / "cells" / "b").parent.name == "b"
