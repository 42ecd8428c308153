"""How far a trained policy can be exploited by somebody who learns to: a short best response."""

from collections.abc import Sequence

import jax
import numpy as np

from marl_suite.algorithm import Configuration
from marl_suite.baselines.ppo import IPPO
from marl_suite.composition import Composition, Frozen
from marl_suite.envs.environment import Environment, PyTree
from marl_suite.evaluation import evaluator
from marl_suite.training import Fit

BEST_RESPONSE = "best_response"
"""The evaluation with it in one place."""
RESPONDER = IPPO(lr=5e-3, num_envs=32, hidden_sizes=(32,))
"""Small and quick: what it finds is a lower bound on what can be gained."""


def best_response(
    env: Environment,
    params: PyTree,
    configuration: Configuration,
    states: PyTree,
    seeds: Sequence[int],
    steps: float,
    num_episodes: int,
    responder: Configuration = RESPONDER,
) -> dict[str, np.ndarray]:
    """Trains `responder` as agent 0, for its own payoff, against every seed's frozen policies, and lets them play.

    Args:
        env: the game, of two or more agents.
        params: its parameters.
        configuration: what the policies were trained with.
        states: the learner's state per seed, [S, ...].
        seeds: [S], of the responders.
        steps: environment steps to learn for, per seed.
        num_episodes: of the evaluation.
        responder: the configuration that learns.

    Returns:
        `partner` and `own`, [S]: mean return per episode of the responder and of a frozen agent; both also per step.
    """
    frozen = Frozen(part=configuration, state=states)
    team = Composition(parts=(responder, frozen))
    axes = team.replace(parts=(None, frozen.replace(part=None, state=0)))
    fit = Fit(env, team, seeds, steps, params, chunks=1, axes=(axes, None))
    (chunk,) = fit
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 0xBE57))(np.asarray(seeds, np.uint32))
    played = evaluator(env, fit.learner(), num_episodes)(params, chunk.state.learner, keys)["self_play"]
    by_agent, length = np.asarray(played["agent_return"]), np.asarray(played["episode_length"])
    returns = {"own": by_agent[:, 1:].mean(1), "partner": by_agent[:, 0]}
    return returns | {f"{name}_per_step": value / length for name, value in returns.items()}
