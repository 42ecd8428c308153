"""Aggregate statistics against scipy, plain loops and a simulation with a known truth."""

import numpy as np
import pytest
from scipy import stats

from marl_suite.envs import InputError
from marl_suite.metrics import statistics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_interquartile_mean_of_eight_scores_averages_the_middle_four():
    assert statistics.interquartile_mean([[0, 1], [2, 3], [4, 5], [6, 7]]) == 3.5  # (2 + 3 + 4 + 5) / 4
    assert statistics.interquartile_mean([-100, 1, 2, 900]) == 1.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 2), (7, 5), (10, 26)])
def test_the_interquartile_mean_is_scipys_trimmed_mean(shape, rng):
    scores = rng.normal(size=shape)
    expected = stats.trim_mean(scores.ravel(), 0.25)
    assert statistics.interquartile_mean(scores) == pytest.approx(expected)


def test_the_interquartile_mean_of_no_scores_is_missing():
    assert np.isnan(statistics.interquartile_mean([]))
    assert np.isnan(statistics.interquartile_mean(np.zeros((3, 0, 2)))).tolist() == [True] * 3


def test_the_optimality_gap_counts_shortfalls_only():
    assert statistics.optimality_gap([[0.5, 2.0], [1.0, 0.25]]) == pytest.approx((0.5 + 0 + 0 + 0.75) / 4)
    assert statistics.optimality_gap([[3.0, 1.0]], gamma=2.0) == pytest.approx(0.5)


def test_the_probability_of_improvement_counts_ties_half():
    assert statistics.probability_of_improvement([1, 2], [1, 2]) == 0.5
    assert statistics.probability_of_improvement([3, 4], [1, 2]) == 1.0
    assert statistics.probability_of_improvement([1, 3], [2, 3, 3]) == pytest.approx((1 + 0.5 + 0.5) / 6)


def test_the_probability_of_improvement_is_the_mean_mann_whitney_statistic_of_the_tasks(rng):
    x, y = rng.integers(0, 6, (7, 4)), rng.integers(0, 6, (5, 4))
    per_task = [np.asarray(stats.mannwhitneyu(x[:, k], y[:, k]))[0] / 35 for k in range(4)]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(per_task))


def test_the_probability_of_improvement_needs_the_same_tasks():
    with pytest.raises(InputError, match="same tasks, got 3 and 2"):
        statistics.probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 2)))


def test_a_performance_profile_is_the_fraction_of_runs_above_each_threshold():
    scores = [[0.0, 1.0], [0.5, 0.5]]
    profile = statistics.performance_profile(scores, [-1.0, 0.0, 0.5, 1.0])
    assert profile.tolist() == [1.0, 0.75, 0.25, 0.0]


def test_statistics_reduce_the_last_two_axes_only(rng):
    batch = rng.normal(size=(3, 6, 4))
    thresholds = np.linspace(-1, 1, 5)
    for function in (
        statistics.interquartile_mean,
        statistics.optimality_gap,
        lambda scores: statistics.performance_profile(scores, thresholds),
        lambda scores: statistics.probability_of_improvement(scores, batch[0]),
    ):
        np.testing.assert_allclose(function(batch), [function(scores) for scores in batch])


def test_a_missing_score_makes_every_result_missing(rng):
    scores = rng.normal(size=(8, 2))
    scores[3] = np.nan
    assert np.isnan(statistics.interquartile_mean(scores))
    assert np.isnan(statistics.optimality_gap(scores))
    assert np.isnan(statistics.probability_of_improvement(scores, np.zeros((4, 2))))
    assert np.isnan(statistics.performance_profile(scores, [0.0, 1.0])).all()
    assert np.isnan(statistics.stratified_bootstrap(scores)).all()


def test_the_interval_is_reproducible_and_surrounds_the_point(rng):
    scores = rng.normal(size=(10, 3))
    point, low, high = statistics.stratified_bootstrap(scores, seed=4)
    assert low < point < high
    assert point == statistics.interquartile_mean(scores)
    assert (point, low, high) == statistics.stratified_bootstrap(scores, seed=4)
    assert (low, high) != statistics.stratified_bootstrap(scores, seed=5)[1:]


def test_runs_are_resampled_within_tasks_only():
    scores = np.tile([0.0, 10.0, 100.0], (5, 1))  # runs of a task are alike, tasks are not
    point, low, high = statistics.stratified_bootstrap(scores, lambda s: s.mean(axis=(-2, -1)))
    assert point == pytest.approx(110 / 3)
    assert low == pytest.approx(point) and high == pytest.approx(point)


def test_tasks_are_resampled_independently():
    # Whole runs would give a mean of 1/2 every time. Drawn apart, both tasks get two zeros (or two ones) with
    # probability 1/16 each, which is more than the 2.5 % beyond either end of the interval.
    interval = statistics.stratified_bootstrap([[0.0, 1.0], [1.0, 0.0]], lambda s: s.mean(axis=(-2, -1)))
    assert interval == (0.5, 0.0, 1.0)


def test_the_interval_of_a_mean_has_the_width_of_the_normal_approximation(rng):
    scores = rng.normal(size=(200, 1))
    _, low, high = statistics.stratified_bootstrap(scores, lambda s: s.mean(axis=(-2, -1)), confidence=0.9)
    expected = 2 * 1.6449 * scores.std() / np.sqrt(200)
    assert high - low == pytest.approx(expected, rel=0.08)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    # For 20 runs the interval is sqrt(19/20) as wide as it should be, hence 94.4 % where 95 % are nominal. The
    # binomial standard error of 400 repetitions is 1.15 %; three of them are allowed on either side.
    rng = np.random.default_rng(1)
    covered = 0
    for repetition in range(400):
        scores = rng.normal(size=(20, 3))  # symmetric around 0, so the interquartile mean is 0
        _, low, high = statistics.stratified_bootstrap(scores, resamples=500, seed=repetition)
        covered += low <= 0 <= high
    assert 0.944 - 0.035 < covered / 400 < 0.944 + 0.035


def test_the_interval_widens_with_fewer_runs():
    scores = np.random.default_rng(2).normal(size=(80, 2))
    widths = [np.ptp(statistics.stratified_bootstrap(scores[:runs])[1:]) for runs in (80, 20, 5)]
    assert widths[0] < widths[1] < widths[2]


def test_a_single_run_has_a_point_but_no_interval():
    point, low, high = statistics.stratified_bootstrap([[1.0, 3.0]])
    assert point == 2.0
    assert np.isnan([low, high]).all()


def test_statistics_with_several_values_get_an_interval_each(rng):
    scores = rng.uniform(size=(12, 2))
    point, low, high = statistics.stratified_bootstrap(
        scores, lambda s: statistics.performance_profile(s, [0.25, 0.5, 0.75])
    )
    assert point.shape == low.shape == high.shape == (3,)
    assert np.all((low <= point) & (point <= high))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 95}, "confidence must lie between 0 and 1"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"statistic": np.mean}, r"must map \[B, runs, tasks\] to \[B, ...\]"),
        ({"scores": np.zeros((0, 2))}, r"filled matrix \[runs, tasks\], got shape \(0, 2\)"),
    ],
)
def test_bad_bootstrap_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        statistics.stratified_bootstrap(**{"scores": np.eye(3), **arguments})


def test_points_and_intervals_agree_with_rliable(rng):
    metrics = pytest.importorskip("rliable.metrics")
    try:  # rliable 1.2.0 may be installed and yet not import: its bootstrap breaks beside pandas 3
        from rliable import library  # pyright: ignore[reportMissingImports]
    except TypeError as error:
        pytest.skip(f"rliable does not import: {error}")
    scores, other = rng.normal(size=(10, 4)), rng.normal(size=(6, 4))
    assert statistics.interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    assert statistics.optimality_gap(scores) == pytest.approx(metrics.aggregate_optimality_gap(scores))
    improvement = metrics.probability_of_improvement(scores, other)
    assert statistics.probability_of_improvement(scores, other) == pytest.approx(improvement)
    np.random.seed(0)  # rliable draws from the global generator
    interval = library.get_interval_estimates(
        {"all": scores}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=4000
    )[1]["all"]
    _, low, high = statistics.stratified_bootstrap(scores, resamples=4000)
    np.testing.assert_allclose([low, high], interval[:, 0], atol=0.03)
