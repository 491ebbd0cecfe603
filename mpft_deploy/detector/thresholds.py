"""Thresholds that keep a share of mistakes on images to come, and what may be promised of them.

The share that was seen on some images says little of the next ones: of a threshold that 5 % of 100
images pass, more than 5 % of the images to come pass in six cases of ten. So the edge is put where
the exact upper bound of the share (Clopper and Pearson 1934) is what was asked for. The edge is one
of the images, and the share beyond the k-th of n has a beta distribution whatever the logits' own,
so that holds although the edge is chosen on the very images (Wilks 1941).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom

from mpft_deploy.errors import InputError
from mpft_deploy.spec import Record

CONFIDENCE = 0.95
"""Of the bounds, one-sided."""

MANY_SOURCES = 20
"""From which on their differences say how those to come may differ."""

RESAMPLES = 4000

F64 = npt.NDArray[np.float64]


class FalseAlarms(Record, frozen=True):
    """Real images that a threshold calls generated, and how many more there may be.

    Attributes:
        bound: upper bound of the share, for images that are as independent as those that were
            given were of each other.
        sources: how many sources these come from, images of one being alike.
        source_bound: upper bound of the mean share over sources, each counting by the root of its
            images, see `mean_bound`; None where they are not known.
    """

    images: int
    called_generated: int
    bound: float
    sources: int
    source_bound: float | None


def false_alarms(chances: F64, threshold: float, sources: Sequence[str]) -> FalseAlarms:
    """What a threshold means for some real images.

    Args:
        chances: [n], probabilities of real images.
        sources: [n], where each comes from; or none, or "" of all, if that is not known.
    """
    called = np.asarray(chances) >= threshold
    known = any(sources)
    shares, weights = _shares(called[:, None], sources) if known else (np.empty((0, 1)),) * 2
    return FalseAlarms(
        images=len(called),
        called_generated=int(called.sum()),
        bound=upper_bound(int(called.sum()), len(called)),
        sources=len(shares),
        source_bound=float(mean_bound(shares, weights)[0]) if len(shares) else None,
    )


def mean_bound(shares: F64, weights: F64) -> F64:
    """Upper bounds [T] of the mean share over sources, from the shares [S, T] of some sources.

    Of MANY_SOURCES or more by their bootstrap, whose 95 % cover nine in ten (the shares are skewed;
    a test simulates it), and fewer where some twenty differ much: a loud one may be none of them.
    Of fewer, a source is one draw that is all or nothing.

    Args:
        weights: [S, 1], what each source counts, where there are many.
    """
    count = len(shares)
    if count < MANY_SOURCES:
        hits = np.ceil(shares.sum(0) - 1e-9).astype(int)
        return np.array([upper_bound(int(one), count) for one in hits])
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    means = drawn @ (shares * weights) / (drawn @ weights)
    return np.asarray(np.quantile(means, CONFIDENCE, axis=0))


def _shares(called: npt.NDArray[np.bool_], sources: Sequence[str]) -> tuple[F64, F64]:
    """The share of each source's images [S, T] that are called, of bool [n, T], and what it counts.

    That is the root of its images, f64 [S, 1]: all of one image are one draw, and no mean.
    """
    names, places = np.unique(np.asarray(sources), return_inverse=True)
    sums = np.zeros((len(names), called.shape[1]))
    np.add.at(sums, places, called)
    counts = np.bincount(places)[:, None].astype(np.float64)
    return sums / counts, np.sqrt(counts)


def upper_bound(hits: int, total: int) -> float:
    """Exact upper bound of a share at CONFIDENCE."""
    return 1.0 if hits >= total else float(beta.ppf(CONFIDENCE, hits + 1, total - hits))


def images_needed(share: float) -> int:
    """The fewest images by which a share can be bounded, if none of them is past the edge."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share)) if share < 1 else 1


def false_alarm_threshold(real: F64, share: float, sources: Sequence[str] = ()) -> float:
    """The probability from which at most `share` of the real images to come lie, at CONFIDENCE.

    Where there are MANY_SOURCES or more, the mean share over sources is bounded by `share` too.

    Args:
        real: [n], probabilities of real images.
        sources: [n], where each comes from; or none, if that is not known.

    Raises:
        InputError: too few images for that share.
    """
    falling = np.sort(real)[::-1]
    first_right = falling[_allowed(len(real), share, "real")]
    if len(set(sources)) >= MANY_SOURCES:
        # From an image on that is called real, those above it are called generated.
        tried = np.unique(real[real >= first_right])
        bounds = mean_bound(*_shares(real[:, None] > tried, sources))
        first_right = tried[np.argmax(bounds <= share)]  # at the highest one none is called
    above = falling[falling > first_right]
    # Half way to the next image; ties at the edge all stay real.
    middle = (first_right + above[-1]) / 2 if len(above) else first_right
    return float(max(middle, np.nextafter(first_right, 2)))


def unsure_edges(real: F64, generated: F64, share: float) -> tuple[float, float]:
    """The unsure band outside which at most `share` of each class to come is decided wrongly.

    Raises:
        InputError: too few images of a class for that share.
    """
    low = np.sort(generated)[_allowed(len(generated), share, "generated")]
    high = np.sort(real)[::-1][_allowed(len(real), share, "real")]
    edges = np.clip([np.nextafter(low, -1), np.nextafter(high, 2)], 0, 1)
    return float(edges[0]), float(edges[1])


def require_enough(
    labels: Sequence[int], false_alarm: float | None, unsure_error: float | None
) -> None:
    """An InputError where images of these labels are too few to bound the shares asked for."""
    real, generated = (sum(label == wanted for label in labels) for wanted in (0, 1))
    if false_alarm is not None and real:
        _allowed(real, false_alarm, "real")
    if unsure_error is not None and real and generated:
        _allowed(generated, unsure_error, "generated")
        _allowed(real, unsure_error, "real")


def _allowed(total: int, share: float, what: str) -> int:
    """How many of `total` images may be past an edge that bounds the share of those to come."""
    tail = 1 - CONFIDENCE
    most = int(binom.ppf(tail, total, share))
    most -= bool(binom.cdf(most, total, share) > tail)
    if most < 0:
        raise InputError(
            f"{total} {what} images are too few for {share:.2%}: to bound that share at "
            f"{CONFIDENCE:.0%} confidence takes {images_needed(share)}, of sources as different as "
            "those to come"
        )
    return most
