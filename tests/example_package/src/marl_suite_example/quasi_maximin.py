"""A reward view: what agents are paid, a function of everybody's material payoffs.

Used by its name, as in `marl-suite train travellers_dilemma reinforce --set reward_view=quasi_maximin:weight=0.5`.
"""

import jax

from marl_suite.envs.environment import at_least, at_most
from marl_suite.envs.reward_views import View


class QuasiMaximin(View):
    """Own payoff, the worst-off's and the sum: r_i = (1 - w) p_i + w (d min_j p_j + (1 - d) sum_j p_j).

    Source: Charness and Rabin (2002), Understanding social preferences with simple tests, appendix 1: w is their
    lambda, d their delta. The defaults are Rawls's (1971) maximin: all are paid what the worst-off gets.
    """

    name = "quasi_maximin"

    weight: float = 1.0  # float [], 0 .. 1, of what is not one's own payoff
    delta: float = 1.0  # float [], 0 .. 1, of the worst-off in it; the rest is efficiency's

    def reward(self, payoff: jax.Array) -> jax.Array:
        social = self.delta * payoff.min() + (1 - self.delta) * payoff.sum()
        return (1 - self.weight) * payoff + self.weight * social

    def check(self) -> None:
        for field in ("weight", "delta"):
            at_least(f"{self.name}: {field}", getattr(self, field), 0)
            at_most(f"{self.name}: {field}", getattr(self, field), 1)
