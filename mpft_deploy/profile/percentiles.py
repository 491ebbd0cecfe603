"""Percentiles of correlated samples: how many are needed, and how sure they are.

Queries that follow each other are alike: a slow second makes many of them slow. So intervals come
from a block bootstrap (Künsch 1989), which draws runs of consecutive samples; those of percentiles
are no narrower than by order statistics. Counts are divided by the autocorrelation time before a
binomial law is asked about them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpft_deploy.statistics import CONFIDENCE, F64, samples_needed, share_bounds

RESAMPLES, MOST_DRAWS = 1000, 4_000_000
UNSTABLE = 0.25
"""A figure whose interval reaches further than this share to a side is not reported."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Interval:
    """A figure with its interval."""

    value: float
    low: float
    high: float

    @property
    def unstable(self) -> bool:
        """Whether the interval is too wide for the figure to mean anything."""
        reach = max(self.high - self.value, self.value - self.low)
        return reach > UNSTABLE * abs(self.value)


def percentile_name(percent: float) -> str:
    """`p50`, `p99.9`."""
    return f"p{percent:g}"


def is_percentile(text: str) -> bool:
    """Whether a number is a percentile that some tens of thousands of samples bound."""
    return 0.01 <= float(text) <= 99.99


def autocorrelation_time(values: npt.ArrayLike) -> float:
    """How many samples in a row count as one: 1 for independent ones.

    One and twice the sum of the autocorrelations, over Geyer's initial positive pairs; those within
    the noise of independent samples count as none.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    x = x - x.mean() if n else x
    variance = float(x @ x)
    if n < 8 or variance <= 0:
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(x, size)) ** 2
    correlation = np.fft.irfft(spectrum, size)[: n // 2] / variance
    time = 1.0
    for first in range(1, len(correlation) - 1, 2):
        pair = float(correlation[first] + correlation[first + 1])
        if pair <= 2 / math.sqrt(n):
            break
        time += 2 * pair
    return min(time, n / 4)


def block_length(values: F64) -> int:
    """Samples a block of the bootstrap: n^⅓, or more where they hang together for longer."""
    n = len(values)
    ranks = np.argsort(np.argsort(values))  # an outlier must not hide the rest
    length = max(n ** (1 / 3), 2 * autocorrelation_time(ranks))
    return int(max(1, min(math.ceil(length), n // 5 or 1)))


def resample(
    values: F64, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Iterator[F64]:
    """Block-bootstrap samples of `values`: parts f64 [r, n]; blocks wrap around the end.

    Fewer, but at least 100, where n is large; parts bound their memory.
    """
    n = len(values)
    length = block_length(values)
    count = -(-n // length)
    rows = MOST_DRAWS // max(1, n)
    resamples = max(100, min(resamples, rows))
    starts = generator.integers(0, n, (resamples, count))
    for first in range(0, resamples, max(1, rows)):
        index = (starts[first : first + max(1, rows), :, None] + np.arange(length)) % n
        yield values[index.reshape(len(index), -1)[:, :n]]


def intervals(
    values: npt.ArrayLike, percents: Sequence[float] = PERCENTILES
) -> dict[str, Interval]:
    """Percentiles, "mean", "sd" and "min" with intervals at CONFIDENCE; same input, same figures.

    Percentiles that have too few samples are left out; see `samples_needed`.
    """
    x = np.asarray(values, np.float64)
    enough = [p for p in percents if len(x) >= samples_needed(p)]

    def figures(of: F64) -> F64:
        return np.stack([*np.percentile(of, enough, -1), of.mean(-1), of.std(-1), of.min(-1)])

    drawn = np.hstack([figures(part) for part in resample(x, np.random.default_rng(len(x)))])
    names = [*map(percentile_name, enough), "mean", "sd", "min"]
    found = {
        name: _interval(float(point), row)
        for name, point, row in zip(names, figures(x), drawn, strict=True)
    }
    for percent in enough:
        name = percentile_name(percent)
        found[name] = _no_narrower(found[name], x, percent)
    return found


def _no_narrower(interval: Interval, x: F64, percent: float) -> Interval:
    """Than by the order statistics of independent samples: a bootstrap draws nothing beyond the
    slowest of them, and of a high percentile too seldom these."""
    first, last = share_bounds(round(len(x) * percent / 100), len(x), (1 + CONFIDENCE) / 2)
    low = float(np.quantile(x, first, method="lower"))
    high = float(np.quantile(x, last, method="higher"))
    return Interval(interval.value, min(interval.low, low), max(interval.high, high))


def _interval(value: float, drawn: F64) -> Interval:
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))
