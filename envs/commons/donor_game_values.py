"""What constant givers earn in the donor game, worked out: wealth is linear in wealth, so means follow a recursion."""

from marl_suite.envs.environment import one_of

ROLES = ("alternating", "random")


def mean_final_wealth(
    share: float, rounds: int = 12, multiplier: float = 2.0, endowment: float = 10.0, roles: str = "alternating"
) -> float:
    """The (expected) mean wealth at the end of a generation in which every donor gives the same `share` of its wealth.

    Alternating halves, exactly: with mean wealths g of the half that gives and h of the other, a round makes them
    (1 - f) g and h + m f g, and then the halves swap. Random roles, in expectation: every agent donates with
    probability 1/2, so the mean grows by the factor 1 + f (m - 1) / 2 per round.

    Raises:
        InputError: for unknown `roles`.
    """
    one_of("roles", roles, ROLES)
    if roles == "random":
        return endowment * (1 + share * (multiplier - 1) / 2) ** rounds
    giving = receiving = float(endowment)
    for _ in range(rounds):
        giving, receiving = receiving + multiplier * share * giving, (1 - share) * giving
    return (giving + receiving) / 2


def lone_free_rider_wealth(
    share: float, rounds: int = 12, multiplier: float = 2.0, endowment: float = 10.0, num_agents: int = 12
) -> float:
    """The expected final wealth of the only free rider among agents that always give `share`, roles alternating.

    Its excess over `mean_final_wealth` is the temptation to be the first to defect. It is negative where gifts are so
    large that an agent's own come back to it: for N = 12 above a share of 0.7426.

    With n = N / 2 agents in each half, mean wealth g of the givers in the free rider's half, h of the other half and d
    of the free rider: when its half donates, one of the other half gets nothing, h <- h + m f g (n - 1) / n. When the
    other half donates, d and g grow by m f h; but in the second round of two, the one that gives to the free rider
    certainly got a gift in the first, so that its h exceeds the mean by m f g / n, and the other n - 1 gifts are
    smaller for that. The free rider's half is the first to donate with probability 1/2.
    """
    gift, n = multiplier * share, num_agents // 2
    finals = []
    for begins in (True, False):
        g = h = d = float(endowment)
        excess = 0.0  # of the one that gives to the free rider, over the mean of its half
        for time in range(rounds):
            if (time % 2 == 0) == begins:
                excess = gift * g / n
                g, h = (1 - share) * g, h + gift * g * (n - 1) / n
            else:
                excess = excess if time % 2 else 0.0
                d, g, h = d + gift * (h + excess), g + gift * (h - excess / (n - 1)), (1 - share) * h
        finals.append(d)
    return sum(finals) / 2
