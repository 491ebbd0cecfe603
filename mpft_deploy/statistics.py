"""The few statistics that run without SciPy; tests hold them to scikit-learn and SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
F64 = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every bound that a gate or a budget is judged by; each bound by itself, one-sided."""

MOST_SAMPLES = 1_000_000
"""More are no advice."""


def binomial_cdf(hits: int, total: int, share: float) -> float:
    """P(X ≤ hits) of a binomial, summed in logarithms so that no factor underflows."""
    if hits < 0:
        return 0.0
    if hits >= total:
        return 1.0
    if share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    # The shorter tail has fewer terms and less rounding.
    lower = hits < total * share
    k = np.arange(0, hits + 1) if lower else np.arange(hits + 1, total + 1)
    log_factorial = _log_factorials(total)
    terms = (
        log_factorial[total]
        - log_factorial[k]
        - log_factorial[total - k]
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
    )
    tail = float(np.exp(terms).sum())
    return min(1.0, tail) if lower else max(0.0, 1.0 - tail)


@lru_cache(maxsize=2)
def _log_factorials(n: int) -> F64:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def samples_needed(percent: float) -> int:
    """Independent samples from which the largest is an upper bound of the percentile.

    Below that no order statistic bounds it at CONFIDENCE (and below `1 - share`, the lower
    percentiles, the same holds of the smallest).
    """
    share = max(percent, 100 - percent) / 100
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


def bounded(samples: int) -> list[int]:
    """Those of the usual percentiles that so many samples bound; see `samples_needed`."""
    return [percent for percent in (50, 90, 99) if samples >= samples_needed(percent)]


def share_bounds(hits: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact bounds of a share (Clopper and Pearson 1934), each one-sided at the confidence.

    The lower is the largest share that as many hits or more refute from below, the upper the
    smallest that as few or fewer refute from above. (0, 1) of no sample at all.
    """
    risk = 1 - confidence

    def solve(refuted: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if refuted(middle) else (middle, high)
        return low, high

    share = hits / total if total else 0.0
    lower, upper = 0.0, 1.0
    if hits > 0:
        lower, _ = solve(lambda p: 1 - binomial_cdf(hits - 1, total, p) > risk, 0.0, share)
    if hits < total:
        _, upper = solve(lambda p: binomial_cdf(hits, total, p) <= risk, share, 1.0)
    return lower, upper


def share_is_within(
    hits: int, total: int, limit: float, confidence: float = CONFIDENCE
) -> bool | None:
    """Whether a share is at most `limit`: True, False, or None where so few samples do not tell.

    The same as comparing the limit with `share_bounds`.
    """
    risk = 1 - confidence
    if limit >= 1 or (total and binomial_cdf(hits, total, limit) <= risk):
        return True
    if hits and 1 - binomial_cdf(hits - 1, total, limit) <= risk:
        return False
    return None


def samples_to_decide(
    hits: int, total: int, limit: float, confidence: float = CONFIDENCE
) -> int | None:
    """Samples in all from which `share_is_within` tells, if the share stays as it was seen.

    None if that takes more than MOST_SAMPLES.
    """
    rate = hits / total if total else 0.0

    def undecided(samples: int) -> bool:
        return share_is_within(round(rate * samples), samples, limit, confidence) is None

    low, high = total, max(2 * total, 16)
    while undecided(high):
        low, high = high, 2 * high
        if high > MOST_SAMPLES:
            return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if undecided(middle) else (low, middle)
    return high


def auc(labels: Array, scores: Array) -> float | None:
    """Area under the ROC curve; ties count half. None if a class is absent.

    Args:
        labels: [n], 1 for the positive class, 0 for the other.
        scores: [n], higher for the positive class.
    """
    positive = np.asarray(labels) == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse.ravel()][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def auc_change_error(labels: Array, before: Array, after: Array) -> float | None:
    """Standard error of AUC(after) − AUC(before) of the same images; None if a class is absent.

    By DeLong, DeLong and Clarke-Pearson 1988, from the place of each image among those of the other
    class, paired, so that what both scores have in common cancels.

    Args:
        labels: [n], 1 for the positive class, 0 for the other.
        before, after: scores [n], higher for the positive class.
    """
    positive = np.asarray(labels) == 1
    if positive.all() or not positive.any():
        return None
    moved = [
        a - b for a, b in zip(_places(positive, after), _places(positive, before), strict=True)
    ]
    return math.sqrt(sum(float(one.var(ddof=1)) / len(one) for one in moved if len(one) > 1))


def auc_reach(error: float, images: int, confidence: float = CONFIDENCE) -> float:
    """How far a bound of a change in AUC lies from the estimate, one-sided at the confidence.

    Args:
        error: of `auc_change_error`.
        images: of the smaller class. The bound is never nearer than
            1 − (1 − confidence)^(1/images): a kind of image as rare as that may be missing by
            chance, and be placed the other way.
    """
    rare = 1 - math.exp(math.log(1 - confidence) / images)
    return max(NormalDist().inv_cdf(confidence) * error, rare)


def _places(positive: npt.NDArray[np.bool_], scores: Array) -> tuple[F64, F64]:
    """Share of the negatives below each positive, and of the positives above each negative."""
    ones, zeros = np.sort(np.asarray(scores)[positive]), np.sort(np.asarray(scores)[~positive])
    of_ones, of_zeros = np.asarray(scores)[positive], np.asarray(scores)[~positive]
    below = np.searchsorted(zeros, of_ones, "left") + np.searchsorted(zeros, of_ones, "right")
    above = np.searchsorted(ones, of_zeros, "left") + np.searchsorted(ones, of_zeros, "right")
    return below / (2 * len(zeros)), 1 - above / (2 * len(ones))


def balanced_accuracy(labels: Array, decisions: Array) -> float | None:
    """Mean of the shares decided rightly in each class; None if a class is absent."""
    positive, decided = np.asarray(labels) == 1, np.asarray(decisions) == 1
    if positive.all() or not positive.any():
        return None
    return float((decided[positive].mean() + (~decided)[~positive].mean()) / 2)


def summary(values: Array, quantiles: Sequence[int] = (50, 90, 99)) -> dict[str, float]:
    """Mean, minimum, maximum and quantiles, keyed "mean", "min", "p50", …, "max"."""
    array = np.asarray(values, np.float64)
    points = np.percentile(array, list(quantiles))
    return {
        "mean": float(array.mean()),
        "min": float(array.min()),
        **{f"p{q}": float(point) for q, point in zip(quantiles, points, strict=True)},
        "max": float(array.max()),
    }
