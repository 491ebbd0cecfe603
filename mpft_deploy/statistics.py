"""The few statistics that run without SciPy; tests hold them to scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share (Wilson 1927); sound for few hits and small totals."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = hits / total, z * z / total
    centre = share + spread / 2
    margin = z * (share * (1 - share) / total + spread / (4 * total)) ** 0.5
    low, high = (centre - margin) / (1 + spread), (centre + margin) / (1 + spread)
    return (0.0 if hits == 0 else low), (1.0 if hits == total else high)


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
