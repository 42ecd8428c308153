"""Scripted players as learners that do not learn: the controls of every table."""

from typing import ClassVar

from marl_suite.algorithm import ROLES, Configuration, EnvSpec, Learner, static
from marl_suite.envs.errors import InputError
from marl_suite.policies import ScriptedPolicy


class Scripted(Configuration):
    """A fixed rule of the game, the same for every agent."""

    group: ClassVar[str] = "scripted"

    player: str = static("random")  # one of the game's `players`, or of `ROLES`

    @property
    def summary(self) -> str:
        return f"The scripted player {self.player} of the game, the same for every agent."

    def build(self, spec: EnvSpec) -> Learner:
        players = dict(spec.players)
        if self.player not in players:
            names = sorted(players.keys() - set(ROLES))
            raise InputError(f"{spec.name} has no scripted player {self.player!r}; it has {', '.join(names)}")
        policy = ScriptedPolicy(self.player, players[self.player], spec.num_agents)
        return Learner(init=lambda key: (), act=lambda state, *args: policy.act(*args), export=lambda state: policy)
