"""Percentiles and their intervals, against SciPy and against simulation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mpft_deploy.profile.percentiles import (
    autocorrelation_time,
    intervals,
    resample,
)


def test_percentiles_with_too_few_samples_are_left_out() -> None:
    values = np.random.default_rng(0).normal(10, 1, 298)
    assert "p99" not in intervals(values)
    assert "p99" in intervals(np.append(values, 10.0))


def autoregressive(rng: np.random.Generator, count: int, factor: float) -> np.ndarray:
    noise = rng.normal(0, 1, count)
    values = np.zeros(count)
    values[0] = noise[0] / np.sqrt(1 - factor**2)
    for index in range(1, count):
        values[index] = factor * values[index - 1] + noise[index]
    return values


def test_autocorrelation_time_of_known_processes() -> None:
    rng = np.random.default_rng(1)
    assert autocorrelation_time(rng.normal(0, 1, 5000)) < 1.3
    # An AR(1) process with factor f has (1 + f) / (1 - f).
    found = np.mean([autocorrelation_time(autoregressive(rng, 5000, 0.8)) for _ in range(10)])
    assert found == pytest.approx(9, rel=0.25)
    assert autocorrelation_time(np.ones(100)) == 1


def test_intervals_cover_the_truth_though_samples_are_correlated() -> None:
    rng = np.random.default_rng(2)
    covered = independent = 0
    for _ in range(100):
        values = 100 + autoregressive(rng, 600, 0.8)
        found = intervals(values, (50,))["p50"]
        covered += found.low <= 100 <= found.high
        # What a bootstrap of single samples would say, which this one must beat.
        drawn = np.median(rng.choice(values, (300, 600)), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        independent += low <= 100 <= high
    assert covered >= 84
    assert independent < 70


@pytest.mark.parametrize(("percent", "count"), [(50, 5), (90, 29), (99, 299), (99, 600)])
def test_as_few_samples_as_a_percentile_is_reported_by_cover_it(percent: int, count: int) -> None:
    """The slowest of 299 lies beyond the p99 in 19 of 20 cases, and no interval can do more."""
    true, covered = -np.log(1 - percent / 100), 0
    for seed in range(100):
        found = intervals(np.random.default_rng(seed).exponential(1, count), (percent,))
        one = found[f"p{percent}"]
        covered += one.low <= true <= one.high
    assert covered >= 90


def test_resampling_keeps_neighbours_together() -> None:
    values = np.repeat(np.arange(20.0), 50)
    [drawn] = resample(values, np.random.default_rng(0), 200)
    assert drawn.shape == (200, 1000)
    same = np.mean(drawn[:, 1:] == drawn[:, :-1])
    assert same > 0.9


def test_a_month_of_a_camera_fits_into_memory() -> None:
    """As `mpft profile events` has it: no more than some copies of what there is."""
    values = np.random.default_rng(4).exponential(1, 500_000)
    tracemalloc.start()
    found = intervals(values)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 60 * values.nbytes
    assert found["p99.9"].low < np.log(1000) < found["p99.9"].high


def test_the_same_samples_give_the_same_intervals() -> None:
    values = np.random.default_rng(3).exponential(1, 400)
    assert intervals(values) == intervals(values)
