"""Metrics of two classes, of a set of images and of thousands of its resamples at once.

There is one computation, over the distinct logits in ascending order and the weight that each has
in each class. With weights of one it gives the figure of the images themselves (tests hold it equal
to scikit-learn's), with the counts of a bootstrap sample that sample's figure.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from mpft_deploy.spec import Calibration

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

METRICS = {
    "real_accuracy": "accuracy on real",
    "generated_accuracy": "accuracy on generated",
    "balanced_accuracy": "balanced accuracy",
    "accuracy_half": "accuracy at 0.5",
    "auc": "AUC",
    "ap": "AP",
    "eer": "EER",
    "detection_1": "detection at 1 % false alarms",
    "detection_5": "detection at 5 % false alarms",
    "detection_10": "detection at 10 % false alarms",
    "ece": "calibration error",
    "coverage": "coverage",
    "decided_accuracy": "accuracy where decided",
}
"""Name → what it is called. Real accuracy needs real images, generated accuracy generated ones,
coverage and accuracy where decided either, all others both.

`accuracy_half`: share of all images, whatever their class, on the right side of a probability of
one half, which is what papers report. `ece`: expected calibration error over BINS bins of equal
width, each class weighing one half.
`coverage`: share of a class outside the unsure band, `decided_accuracy`: the share of those on the
right side of the threshold, each as the mean over the classes.
"""

FALSE_ALARMS = (0.01, 0.05, 0.10)
BINS = 15
RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 20260103

CHUNK = 2**21
"""Numbers in a block of resamples: bounds memory."""


def measure(
    labels: I64, logits: F64, chances: F64, calibration: Calibration, weights: F64 | None = None
) -> F64:
    """All metrics of some images, or of resamples of them.

    Args:
        labels: [n], 1 for generated.
        logits: [n].
        chances: [n], probabilities that rise with the logit.
        calibration: whose threshold and unsure band decide.
        weights: [R, n], how often each image is in each resample; each class must be in all of
            them or in none. None for the images themselves.

    Returns:
        [R, len(METRICS)], or [1, …] without weights; NaN where a class is missing.
    """
    if weights is None:
        weights = np.ones((1, len(labels)))
    order = np.argsort(logits, kind="stable")
    _, starts = np.unique(logits[order], return_index=True)
    ordered_chances = chances[order][starts]
    step = max(1, CHUNK // max(len(labels), 1))
    parts = []
    for first in range(0, len(weights), step):
        block = weights[first : first + step, order]
        by_class = [
            np.add.reduceat(block * (labels[order] == label), starts, axis=1) for label in (0, 1)
        ]
        parts.append(_measure(by_class[0], by_class[1], ordered_chances, calibration))
    return np.concatenate(parts)


def _measure(real: F64, generated: F64, chances: F64, calibration: Calibration) -> F64:
    """Metrics of weights [R, U] of either class at U distinct logits in ascending order."""
    count_real, count_generated = real.sum(1, keepdims=True), generated.sum(1, keepdims=True)
    # A missing class makes its shares NaN, and whatever needs them.
    with np.errstate(invalid="ignore", divide="ignore"):
        share_real, share_generated = real / count_real, generated / count_generated
        below_real, below_generated = share_real.cumsum(1), share_generated.cumsum(1)
        called = chances >= calibration.threshold
        real_accuracy = share_real @ ~called
        generated_accuracy = share_generated @ called
        half = chances >= 0.5
        accuracy_half = (real @ ~half + generated @ half) / (count_real + count_generated)[:, 0]
        auc = (share_generated * (below_real - share_real / 2)).sum(1)

        hits = count_generated - (below_generated - share_generated) * count_generated
        alarms = count_real - (below_real - share_real) * count_real
        precision = np.where(generated > 0, hits / (hits + alarms), 0)
        ap = (share_generated * precision).sum(1) + 0 * auc

        # Thresholds from below all logits to above all of them.
        origin = np.zeros((len(real), 1))
        missed = np.hstack([origin, below_generated])
        false_alarms = 1 - np.hstack([origin, below_real])
        eer = _equal_error(missed, false_alarms) + 0 * auc
        detection = [
            1 - np.take_along_axis(missed, _first(false_alarms <= rate + 1e-9), 1)[:, 0] + 0 * auc
            for rate in FALSE_ALARMS
        ]
        ece = _calibration_error(share_real, share_generated, chances)

        low, high = calibration.unsure
        decided = (chances <= low) | (chances >= high)
        covered = np.stack([share_real @ decided, share_generated @ decided])
        right = np.stack([share_real @ (decided & ~called), share_generated @ (decided & called)])
        coverage, decided_accuracy = _class_mean(covered), _class_mean(right / covered)
    columns = (
        real_accuracy,
        generated_accuracy,
        (real_accuracy + generated_accuracy) / 2,
        accuracy_half + 0 * auc,
        auc,
        ap,
        eer,
        *detection,
        ece,
        coverage,
        decided_accuracy,
    )
    return np.stack(columns, axis=1)


def _first(condition: npt.NDArray[np.bool_]) -> I64:
    """Index [R, 1] of the first true column of each row."""
    index: I64 = condition.argmax(1)[:, None]
    return index


def _equal_error(missed: F64, false_alarms: F64) -> F64:
    """Where the two rates are equal, on straight lines between the thresholds."""
    gap = missed - false_alarms
    after = np.maximum(_first(gap >= 0), 1)
    before_gap, after_gap = (np.take_along_axis(gap, at, 1) for at in (after - 1, after))
    before, behind = (np.take_along_axis(missed, at, 1) for at in (after - 1, after))
    way = -before_gap / (after_gap - before_gap)
    result: F64 = (before + way * (behind - before))[:, 0]
    return result


def bin_of(chances: F64) -> I64:
    """Bin of each probability: BINS of equal width, the last one with 1."""
    return np.minimum((chances * BINS).astype(np.int64), BINS - 1)


def _calibration_error(share_real: F64, share_generated: F64, chances: F64) -> F64:
    """Mean over bins, by weight, of how far the mean probability is from the share generated."""
    bins = np.eye(BINS)[bin_of(chances)]
    generated = share_generated / 2 @ bins
    expected = ((share_real + share_generated) / 2 * chances) @ bins
    error: F64 = np.abs(generated - expected).sum(1)
    return error


def _class_mean(shares: F64) -> F64:
    """Mean over the classes [2, R] that are there; NaN if none is."""
    there = ~np.isnan(shares)
    mean: F64 = np.where(there, shares, 0).sum(0) / there.sum(0)
    return mean


def resample(labels: I64, count: int, rng: np.random.Generator) -> F64:
    """Bootstrap weights [count, n]: each class is drawn with replacement to its own size."""
    weights = np.zeros((count, len(labels)), np.float32)
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        if not len(members):
            continue
        drawn = rng.integers(len(members), size=(count, len(members)))
        drawn += np.arange(count)[:, None] * len(members)
        counts = np.bincount(drawn.ravel(), minlength=count * len(members))
        weights[:, members] = counts.reshape(count, len(members))
    return weights.astype(np.float64)


def bootstrap(
    labels: I64,
    logits: F64,
    chances: F64,
    calibration: Calibration,
    *,
    name: str,
    resamples: int = RESAMPLES,
) -> tuple[F64, F64]:
    """Metrics [M] of some images, and [resamples, M] of bootstrap samples of them.

    Args:
        name: seeds the draw, so that the same images are drawn alike under all protocols.
    """
    rng = generator(name)
    step = max(1, CHUNK // max(len(labels), 1))
    samples = [
        measure(labels, logits, chances, calibration, resample(labels, min(step, left), rng))
        for left in range(resamples, 0, -step)
    ]
    return measure(labels, logits, chances, calibration)[0], np.concatenate(samples)


def generator(name: str) -> np.random.Generator:
    """Chance that follows from a name alone."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


def interval(samples: F64) -> tuple[float, float]:
    """The percentile interval of CONFIDENCE of some resamples [R]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)
