"""Is it a social dilemma? Schelling diagrams, and the inequalities of a sequential social dilemma.

Of N players, k cooperate and N - k defect, by two fixed policies. Rc(k) and Rd(k) are the mean returns of a cooperator
and of a defector among them. Hughes et al. (2018), "Inequity aversion improves cooperation in intertemporal social
dilemmas", definition 1 and equations 1 to 3, calls the game a sequential social dilemma when

1. Rc(N) > Rd(0): all cooperating is better than all defecting,
2. Rc(N) > Rc(1): a cooperator would rather not be the only one (the definition has Rc(0), which nobody can measure:
   the lone cooperator stands for it), and
3. fear, Rd(0) > Rc(1), or greed, Rd(N - 1) > Rc(N): one player gains by defecting where all others defect, or where all
   others cooperate. These are the ends of the gap g(j) = Rd(j) - Rc(j + 1), what defecting gains one player among j
   cooperating others (Schelling 1973).

Each difference of two means over independent episodes has Welch's interval. An inequality whose interval holds zero is
open, and so may be the verdict. A diagram speaks of the two policies it was drawn with: other policies may show a
dilemma where these show none.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from marl_suite.envs.errors import InputError


class Difference(NamedTuple):
    """A difference of two mean returns, and its interval."""

    mean: float
    low: float
    high: float

    @property
    def positive(self) -> bool | None:
        """True or False where the interval leaves no doubt, None where it holds zero. An exact zero is not positive."""
        if self.low > 0:
            return True
        return False if self.high < 0 or self.low == self.high == 0 else None


class Diagram(NamedTuple):
    """What k cooperators and N - k defectors earn, from E episodes for each k."""

    cooperators: np.ndarray  # float [N + 1, E], a cooperator's mean return in each episode; NaN for k = 0
    defectors: np.ndarray  # float [N + 1, E], a defector's; NaN for k = N

    @property
    def num_agents(self) -> int:
        """N."""
        return len(self.cooperators) - 1

    def gap(self, others: int, confidence: float = 0.95) -> Difference:
        """g(j), what defecting gains one player among j = `others` cooperators."""
        return difference(self.defectors[others], self.cooperators[others + 1], confidence)

    def equilibria(self, confidence: float = 0.95) -> list[int]:
        """The numbers k of cooperators from which nobody gains by changing sides, as far as intervals can tell.

        k is left out when a cooperator surely gains by defecting, g(k - 1) > 0, or a defector by cooperating, g(k) < 0.
        """
        gains = [self.gap(j, confidence).positive for j in range(self.num_agents)]
        losses = [self.gap(j, confidence).high < 0 for j in range(self.num_agents)]
        stays = [True, *(gain is not True for gain in gains)]
        joins = [*(not loss for loss in losses), True]
        return [k for k in range(self.num_agents + 1) if stays[k] and joins[k]]


class Verdict(NamedTuple):
    """The inequalities, each with its interval, and what follows."""

    better_together: Difference  # Rc(N) - Rd(0)
    worse_alone: Difference  # Rc(N) - Rc(1)
    fear: Difference  # g(0) = Rd(0) - Rc(1)
    greed: Difference  # g(N - 1) = Rd(N - 1) - Rc(N)

    @property
    def dilemma(self) -> bool | None:
        """Whether it is a social dilemma; None where the intervals leave it open."""
        tempted = _any(self.fear.positive, self.greed.positive)
        return _all(self.better_together.positive, self.worse_alone.positive, tempted)

    def __str__(self) -> str:
        kinds = [name for name, gain in (("fear", self.fear), ("greed", self.greed)) if gain.positive]
        if self.dilemma:
            return f"a social dilemma of {' and '.join(kinds)}"
        return "inconclusive: more episodes are needed" if self.dilemma is None else "no social dilemma"


def verdict(diagram: Diagram, confidence: float = 0.95) -> Verdict:
    """Tests the inequalities of a sequential social dilemma.

    Args:
        diagram: of at least two agents.
        confidence: of each interval, between 0 and 1.

    Raises:
        InputError: for fewer than two agents, or a confidence outside (0, 1).
    """
    last = diagram.num_agents
    if last < 2:
        raise InputError(f"a Schelling diagram needs at least 2 agents, got {last}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")
    together, alone = diagram.cooperators[last], diagram.cooperators[1]
    return Verdict(
        better_together=difference(together, diagram.defectors[0], confidence),
        worse_alone=difference(together, alone, confidence),
        fear=diagram.gap(0, confidence),
        greed=diagram.gap(last - 1, confidence),
    )


def difference(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> Difference:
    """mean(x) - mean(y) of two independent samples [E], with Welch's interval; without spread it is exact."""
    mean = float(x.mean() - y.mean())
    errors = [sample.var(ddof=1) / len(sample) if len(sample) > 1 else np.nan for sample in (x, y)]
    variance = sum(errors)
    if np.ptp(x) == np.ptp(y) == 0 and len(x) > 1 and len(y) > 1:
        return Difference(mean, mean, mean)
    if not variance > 0:  # a single episode says nothing about its spread
        return Difference(mean, -np.inf, np.inf)
    freedom = variance**2 / sum(e**2 / (len(s) - 1) for e, s in zip(errors, (x, y), strict=True))
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance))
    return Difference(mean, mean - reach, mean + reach)


def mean_interval(x: np.ndarray, confidence: float = 0.95) -> Difference:
    """mean(x) of a sample [E], with Student's interval."""
    if np.ptp(x) == 0:
        return Difference(float(x[0]), float(x[0]), float(x[0]))
    reach = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * stats.sem(x)
    return Difference(float(x.mean()), float(x.mean() - reach), float(x.mean() + reach))


def _all(*answers: bool | None) -> bool | None:
    return False if False in answers else None if None in answers else True


def _any(*answers: bool | None) -> bool | None:
    return True if True in answers else None if None in answers else False
