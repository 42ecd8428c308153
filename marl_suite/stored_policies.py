"""Policies in files, to be played elsewhere.

    policy = marl_suite.load("runs/quick/cells/ID")      # or the policy.npz in it, or a results folder of one cell
    memory = policy.memory(num_envs)                     # cleared, as when an episode begins
    actions, memory = policy.act(memory, observation, key)

A file, format 1, is a numpy archive (.npz) without pickles; nothing in it is executed. Its entry `policy` is JSON:

    format           1
    environment      the game's name, with its static settings `env`, its `params` and its `version`
    baseline, label  who learned, and the name of its row in tables
    seeds            [S] of the runs, whose policies are all here
    num_agents, observation_space, action_space
    policy           {"kind": "network", "arrays": "0", hidden_sizes, recurrent, ...: the fields of `NetworkPolicy`}
                     {"kind": "table", "arrays": "0", "always_greedy": ...}
                     {"kind": "scripted", "player": the name or role of a scripted player of the game}
                     {"kind": "team", "slots": the seats of each part, "parts": [such descriptions]}

All other entries are arrays with a leading axis of seeds, S. Those of a network are called by its number and their
place in flax's tree, as in `0/params/Dense_0/kernel`, and have P parameter sets behind the seeds; a table's is
`0/tables`, [S, N, states, actions].
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from marl_suite.algorithm import ROLES
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.registry import make
from marl_suite.envs.spaces import Space, describe, described
from marl_suite.learning.networks import ENCODERS
from marl_suite.policies import NetworkPolicy, ScriptedPolicy, TablePolicy, TeamPolicy

FORMAT = 1
FILE = "policy.npz"
_DERIVED = ("params", "tables", "observation_space", "action_space", "rule")
"""Fields that are not described with a policy: arrays, what is the same for all, and what the game knows."""


class Stored(NamedTuple):
    """What a file holds."""

    facts: Mapping[str, Any]  # the JSON text
    policies: PyTree  # one of `marl_suite.policies`, with arrays [S, ...]
    path: Path | None = None

    @property
    def seeds(self) -> list[int]:
        """[S] the seeds of the runs."""
        return self.facts["seeds"]

    @property
    def settings(self) -> dict[str, Any]:
        """The game's static settings, as `make` takes them beside its name."""
        return {key: value for key, value in self.facts["env"].items() if key != "name"}

    def game(self) -> tuple[Environment, PyTree]:
        """The game that the policies were trained in, and its parameters.

        Raises:
            InputError: when its rules have changed since, or there is no such game here.
        """
        game = make(self.facts["environment"], **self.settings)
        if game.version != (version := self.facts["version"]):
            where = self.path or "the policy"
            raise InputError(f"{where} was made with version {version} of {game.name}, this is {game.version}")
        return game, game.make_params(**self.facts["params"])

    def policy(self, seed: int | None = None) -> "Policy":
        """The policy of one run, the first one's when None; raises `InputError` when there is no such seed."""
        if seed is not None and seed not in self.seeds:
            raise InputError(
                f"{self.path or 'these runs'} had the seeds {', '.join(map(str, self.seeds))}, got {seed!r}"
            )
        index = 0 if seed is None else self.seeds.index(seed)
        return Policy(self, self.seeds[index], jax.tree.map(lambda x: x[index], self.policies))


@dataclasses.dataclass(frozen=True)
class Policy:
    """The trained policy of all agents of a game, ready to play."""

    stored: Stored
    seed: int
    plays: PyTree  # what acts: one of `marl_suite.policies`, a pytree

    @property
    def environment(self) -> str:
        """The name of the game, as `marl_suite.make` takes it."""
        return self.stored.facts["environment"]

    @property
    def num_agents(self) -> int:
        """N."""
        return self.stored.facts["num_agents"]

    @property
    def observation_space(self) -> Space:
        """Of one agent's observation."""
        return described(self.stored.facts["observation_space"])

    @property
    def action_space(self) -> Space:
        """Of one agent's action."""
        return described(self.stored.facts["action_space"])

    def game(self) -> tuple[Environment, PyTree]:
        """The game it was trained in, and its parameters; raises `InputError` when its rules have changed since."""
        return self.stored.game()

    def memory(self, num_envs: int = 1) -> PyTree:
        """Cleared memory [E, N, ...], for the beginning of an episode; empty where policies have none."""
        return self.plays.memory(num_envs)

    def act(
        self, memory: PyTree, observation: PyTree, key: jax.Array, mask: jax.Array | None = None, greedy: bool = False
    ) -> tuple[jax.Array, PyTree]:
        """One step of all agents.

        Args:
            memory: [E, N, ...], what the last step gave; `memory(E)` when episodes begin.
            observation: [E, N, ...] or a dict of such.
            key: used up.
            mask: bool [E, N, A] of allowed actions, in games that forbid some.
            greedy: the policies' modes instead of samples.

        Returns:
            actions [E, N, ...] and memory.
        """
        return self.plays.act(memory, observation, key, mask, greedy)[:2]


def load(path: str | Path, seed: int | None = None) -> Policy:
    """The policy in a file, in a cell's folder, or in a results folder of one cell.

    Args:
        path: of a `policy.npz`, or of a folder that holds one.
        seed: of the run whose policy it is; the first one's when None.

    Raises:
        InputError: when there is no such file or seed, there are several files, or it cannot be read.
    """
    return read(find(Path(path))).policy(seed)


def find(path: Path, environment: str | None = None) -> Path:
    """The one policy file at or below `path`, of the game `environment` if that is given.

    Raises:
        InputError: when there is none, or more than one.
    """
    found = files(path)
    fitting = [file for file in found if environment is None or facts(file)["environment"] == environment]
    if len(fitting) == 1:
        return fitting[0]
    what = f"policies of {environment}" if environment else "policies"
    if found and not fitting:
        games = ", ".join(sorted({facts(file)["environment"] for file in found}))
        raise InputError(f"{str(path)!r} holds no {what}, but of {games}")
    if fitting:
        names = ", ".join(file.parent.name for file in fitting)
        raise InputError(
            f"{str(path)!r} holds {len(fitting)} {what}; name one, as in {fitting[0].parent}; it has {names}"
        )
    raise InputError(f"no stored policy in {str(path)!r}")


def files(path: Path) -> list[Path]:
    """The policy files at `path`: itself, that in a cell's folder, or those of the cells of a results folder."""
    if path.is_file():
        return [path]
    if (path / FILE).is_file():
        return [path / FILE]
    return sorted(path.glob(f"cells/[!.]*/{FILE}"))


# ---------------------------------------------------------------------- writing
def gather(policies: PyTree, game: Environment, params: PyTree, facts: Mapping[str, Any]) -> Stored:
    """Policies and what a file says of them.

    Args:
        policies: what `Learner.export` gave, with arrays [S, ...].
        game: that they were trained in.
        params: its parameters.
        facts: `environment`, `env`, `params`, `version`, `baseline`, `label` and `seeds`, JSON-able.
    """
    spaces = {"observation_space": game.observation_space(params), "action_space": game.action_space(params)}
    words = {name: describe(space) for name, space in spaces.items()}
    return Stored({"format": FORMAT, **facts, "num_agents": game.num_agents, **words}, policies)


def to_bytes(stored: Stored) -> bytes:
    """The file's content."""
    arrays: dict[str, np.ndarray] = {}
    facts = {**stored.facts, "policy": _describe(stored.policies, arrays)}
    buffer = io.BytesIO()
    np.savez(buffer, policy=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _describe(policy: PyTree, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The policy in words; its arrays are added to `arrays`."""
    if isinstance(policy, TeamPolicy):
        return {"kind": "team", "slots": policy.slots, "parts": [_describe(part, arrays) for part in policy.parts]}
    fields = dataclasses.fields(policy)
    words = {field.name: getattr(policy, field.name) for field in fields if field.name not in _DERIVED}
    if isinstance(policy, ScriptedPolicy):
        return {"kind": "scripted"} | words
    number = str(len({name.partition("/")[0] for name in arrays}))
    if isinstance(policy, TablePolicy):
        arrays[f"{number}/tables"] = np.asarray(policy.tables)
        return {"kind": "table", "arrays": number} | words
    flat = flatten_dict(policy.params, sep="/")
    arrays |= {f"{number}/{name}": np.asarray(leaf) for name, leaf in flat.items()}
    return {"kind": "network", "arrays": number} | words


# ---------------------------------------------------------------------- reading
def facts(path: Path) -> dict[str, Any]:
    """The JSON part of a file.

    Raises:
        InputError: when it is not one, or of another format.
    """
    return _open(path, only="policy")[0]


def read(path: Path) -> Stored:
    """What a file holds.

    Raises:
        InputError: when it cannot be read, or does not hold what it says.
    """
    facts, arrays = _open(path)
    try:
        policies = _policy(facts["policy"], Stored(facts, (), path), arrays)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a whole policy: {type(error).__name__} {error}") from None
    return Stored(facts, policies, path)


def _open(path: Path, only: str = "") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON part and the arrays; of all entries `only` this one is read, if it is given."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if only in ("", name)}
        facts = json.loads(str(arrays.pop("policy")))
    except OSError as error:
        raise InputError(f"cannot read the policy {str(path)!r}: {error.strerror or error}") from None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} is not a stored policy: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        number = facts.get("format") if isinstance(facts, dict) else None
        raise InputError(f"{str(path)!r} has policy format {number!r}, this version of marl_suite reads {FORMAT}")
    return facts, arrays


def _policy(words: Mapping[str, Any], stored: Stored, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The policy that `words` describe."""
    facts = stored.facts
    if words["kind"] == "team":
        parts = tuple(_policy(part, stored, arrays) for part in words["parts"])
        return TeamPolicy(parts, tuple(map(tuple, words["slots"])))
    if words["kind"] == "scripted":
        game = make(facts["environment"], **stored.settings)
        name = getattr(game, words["player"]) if words["player"] in ROLES else words["player"]
        return ScriptedPolicy(words["player"], game.players[name], words["num_agents"])
    spaces = {name: described(facts[name]) for name in ("observation_space", "action_space")}
    prefix = f"{words['arrays']}/"
    own = {name.removeprefix(prefix): jnp.asarray(x) for name, x in arrays.items() if name.startswith(prefix)}
    if words["kind"] == "table":
        return TablePolicy(own["tables"], **spaces, always_greedy=words["always_greedy"])
    if words["kind"] != "network":
        raise unknown_name("kind of policy", words["kind"], ("network", "table", "scripted", "team"))
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in words.items() if k not in ("kind", "arrays")
    }
    policy = NetworkPolicy(unflatten_dict(own, sep="/"), **spaces, **given)
    _check_shapes(policy, len(stored.seeds))
    return policy


def _check_shapes(policy: NetworkPolicy, num_seeds: int) -> None:
    """Raises `InputError` when the arrays are not those of the network that is described."""
    if policy.encoder not in (known := ("auto", *ENCODERS)):
        raise unknown_name("encoder", policy.encoder, known)
    wanted = jax.eval_shape(policy.network.fresh, jax.random.key(0))
    lead = (num_seeds, policy.population.num_sets)
    shapes = jax.tree.map(lambda x: (*lead, *x.shape), wanted)
    given = jax.tree.map(lambda x: x.shape, policy.params)
    if given != shapes:
        raise ValueError(f"its arrays have shapes {given}, its network needs {shapes}")
