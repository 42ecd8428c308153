"""Aggregate statistics over runs and tasks, with stratified bootstrap intervals, in numpy.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". Scores are
[..., runs, tasks]: every statistic reduces the last two axes, so that all resamples of a bootstrap are computed in
one call. Scores without a task axis, [runs], are one task. A missing score (NaN) makes the result NaN: a run that
crashed is left out by the caller, knowingly, or not at all.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from marl_suite.envs.errors import InputError


def interquartile_mean(scores: ArrayLike) -> np.ndarray:
    """The mean of the middle half of all scores, runs and tasks pooled (the 25 % trimmed mean).

    As `scipy.stats.trim_mean(x, 0.25)`, it drops int(n / 4) scores at either end.

    Args:
        scores: [..., runs, tasks].

    Returns:
        [...]; NaN when there are no scores.
    """
    pooled = np.sort(_pool(scores), axis=-1)
    if pooled.shape[-1] == 0:
        return np.full(pooled.shape[:-1], np.nan)
    cut = pooled.shape[-1] // 4
    middle = pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(pooled[..., -1]), np.nan, middle)  # NaN sorts last, where the trimming would lose it


def optimality_gap(scores: ArrayLike, gamma: float = 1.0) -> np.ndarray:
    """How far scores fall short of `gamma` on average: gamma - mean(min(x, gamma)). Lower is better.

    Args:
        scores: [..., runs, tasks], normalised such that `gamma` is the goal.
        gamma: the score beyond which improvement does not count.

    Returns:
        [...].
    """
    return gamma - np.minimum(_pool(scores), gamma).mean(axis=-1)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """How likely a run of X beats a run of Y on a random task: the mean over tasks of U / (runs_x runs_y).

    U is the Mann-Whitney statistic, in which a tie counts one half.

    Args:
        x: [..., runs_x, tasks].
        y: [..., runs_y, tasks], on the same tasks.

    Returns:
        [...]; 0.5 when the two are alike.
    """
    x, y = _with_tasks(x), _with_tasks(y)
    if x.shape[-1] != y.shape[-1]:
        raise InputError(f"x and y must have the same tasks, got {x.shape[-1]} and {y.shape[-1]}")
    # The sign is 1, 0 or -1 where x wins, ties or loses, and NaN where a score is missing.
    sign = np.sign(x[..., :, None, :] - y[..., None, :, :])
    return 0.5 + 0.5 * sign.mean(axis=(-3, -2, -1))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """The fraction of runs whose score exceeds each threshold, runs and tasks pooled.

    Args:
        scores: [..., runs, tasks].
        thresholds: [K].

    Returns:
        [..., K].
    """
    pooled = _pool(scores)[..., None, :]
    above = (pooled > np.asarray(thresholds)[:, None]).mean(axis=-1)
    return np.where(np.isnan(pooled).any(axis=-1), np.nan, above)


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic and its percentile bootstrap interval; runs are resampled independently within each task.

    Args:
        scores: [runs, tasks], or [runs] for one task.
        statistic: maps [B, runs, tasks] to [B, ...] and [runs, tasks] to [...], as those of this module do.
        confidence: the interval's nominal coverage, between 0 and 1.
        resamples: the number B of resampled score matrices.
        seed: of the resampling.

    Returns:
        point, low and high, each of the statistic's shape [...]. The interval is NaN for a single run, which
        says nothing about the spread of runs, and all three are NaN when any score is.

    Raises:
        InputError: for a confidence outside (0, 1), no resamples, or scores that are not a filled matrix.
    """
    scores = _with_tasks(scores)
    if scores.ndim != 2 or scores.size == 0:
        raise InputError(f"scores must be a filled matrix [runs, tasks], got shape {scores.shape}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    runs, tasks = scores.shape
    point = np.asarray(statistic(scores), float)[()]  # [()]: a plain number rather than an array of rank 0
    unknown = np.full_like(point, np.nan)[()]
    if np.isnan(scores).any():
        return unknown, unknown, unknown
    if runs == 1:
        return point, unknown, unknown
    drawn = np.random.default_rng(seed).integers(runs, size=(resamples, runs, tasks))
    statistics = np.asarray(statistic(scores[drawn, np.arange(tasks)]))
    if statistics.shape != (resamples, *point.shape):
        raise InputError(
            f"statistic must map [B, runs, tasks] to [B, ...]; its {resamples} resamples gave {statistics.shape}"
        )
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return point, low, high


def _with_tasks(scores: ArrayLike) -> np.ndarray:
    scores = np.asarray(scores, float)
    return scores[:, None] if scores.ndim == 1 else scores


def _pool(scores: ArrayLike) -> np.ndarray:
    scores = _with_tasks(scores)
    return scores.reshape(*scores.shape[:-2], -1)
