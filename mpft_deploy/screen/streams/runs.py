"""What the frames of a stream weigh together: their mean, and how far it may be off.

All values are log odds. A `Run` holds a stretch of a stream in constant memory; frames are pooled
by the second first, so that a burst of frames is no crowd of witnesses.

The variance of the mean of a correlated sequence is estimated in three ways, and the largest
counts:

- What has not shown itself is still to come. Of a mean of n values with variance σ² each,
  E[variance within the run] = σ² − Var(mean), whatever the correlation. So σ², known from other
  pictures, less what was seen within this run is what the mean itself may be off: all of σ² for
  one frame, for a still picture, and for a correlation that is longer than the run. What was seen
  is uncertain itself, by √(2 / n) of it for n independent values, so of few less counts.
- Batch means (Conway 1963; Steiger and Wilson 2001 on their sizes): where the means of longer
  batches scatter more than independent values would, as under a drift, their scatter counts.
- As many pictures as there were: n frames of m pictures are m opinions at most. Whether a picture
  was seen before is told by the texture scores of its cells.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]

KEPT = 32
"""Pictures that are remembered; then the oldest gives way."""

FEWEST = 4
"""Batches below which their scatter says nothing."""

MANY = 16
"""Batches by which independent values are counted: of fewer, the largest scatter is chance."""

SEEN = 0.7
"""What counts at least of the variance that was seen: a short run shows too much or too little of
it by chance, and too much would make its mean too sure."""

DOUBT = 2.0
"""Standard errors of the variance that was seen, √(2 / n) of it for n independent values, that are
taken off it; of many values more counts than SEEN."""


def movement(before: I32, after: I32) -> float:
    """Share of the texture that changed, cell by cell: 0 for the same, about 1 for another picture.

    Args:
        before, after: i32, texture scores of the same cells; of unequal shapes the answer is 1.
    """
    return float(_movements([before], after)[0]) if before.shape == after.shape else 1.0


def _movements(before: Sequence[I32], after: I32) -> npt.NDArray[np.float64]:
    """`movement` from each of some pictures, [n], all of one shape."""
    scores, cells = np.asarray(before, np.int64), tuple(range(1, after.ndim + 1))
    changed = np.abs(scores - after).sum(cells)
    return np.asarray(2.0 * changed / np.maximum(1, scores.sum(cells) + after.sum(dtype=np.int64)))


class Seen:
    """The pictures of a stream that are unlike each other, the newest KEPT.

    Args:
        apart: share of the texture by which a picture must differ from each of them to be another.
    """

    def __init__(self, apart: float) -> None:
        self._apart = apart
        self._kept = deque[I32](maxlen=KEPT)

    def add(self, scores: I32) -> bool:
        """Whether a picture, i32 scores of its cells, is like none of these; then it is kept."""
        alike = [one for one in self._kept if one.shape == scores.shape]
        if alike and _movements(alike, scores).min() < self._apart:
            return False
        self._kept.append(scores)
        return True


class Second(NamedTuple):
    """The frames of one second: when it was, mean and mean square, frames, and new pictures."""

    time: float
    mean: float
    square: float
    frames: int
    pictures: int


class Pool:
    """Gathers frames to seconds."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._time = self._total = self._squares = 0.0
        self._frames = self._pictures = 0

    def add(self, value: float, new: bool, now: float) -> Second | None:
        """Take a frame; the second before, where this one begins another.

        Args:
            value: its log odds.
            new: whether its picture is unlike all earlier ones.
            now: monotonic, in seconds.
        """
        number, done = math.floor(now), None
        if number != self._number:
            done = self.close()
            self._number, self._time = number, now
        self._frames += 1
        self._pictures += new
        self._total += value
        self._squares += value * value
        return done

    def close(self) -> Second | None:
        """The second that is gathered, and none is any more; None if none was."""
        if not self._frames:
            return None
        n = self._frames
        done = Second(self._time, self._total / n, self._squares / n, n, self._pictures)
        self._number = None
        self._total = self._squares = 0.0
        self._frames = self._pictures = 0
        return done


class Run:
    """Log odds of a stretch of a stream, in constant memory.

    Attributes:
        began, last: first and last second, by the monotonic clock.
        seconds: how many seconds had frames.
        frames: how many frames there were.
        pictures: how many of them were unlike all earlier ones.
        mean: of the seconds' means.
    """

    def __init__(self) -> None:
        self.began = self.last = 0.0
        self.seconds = self.frames = self.pictures = 0
        self._total = self._squares = 0.0
        self._batches: list[list[float]] = []  # by doubling size: number, sum, squares, half or nan

    @property
    def age(self) -> float:
        return self.last - self.began

    @property
    def mean(self) -> float:
        """Of the seconds' means; 0 before the first."""
        return self._total / self.seconds if self.seconds else 0.0

    @property
    def within(self) -> float:
        """Variance of the frames about that mean."""
        return max(0.0, self._squares / max(1, self.seconds) - self.mean**2)

    def add(self, second: Second) -> None:
        if not self.seconds:
            self.began = second.time
        self.last = second.time
        self.seconds += 1
        self.frames += second.frames
        self.pictures += second.pictures
        self._total += second.mean
        self._squares += second.square
        value = second.mean
        for batch in self._batches:
            batch[0] += 1
            batch[1] += value
            batch[2] += value * value
            half = batch[3]
            if half != half:
                batch[3] = value
                return
            batch[3] = math.nan
            value = (half + value) / 2
        self._batches.append([1, value, value * value, value])

    def variance(self, spread: float, correlation: float = 0.0) -> float:
        """How far the mean may be off, as a variance.

        Args:
            spread: standard deviation of the log odds of pictures, in general or of this camera.
            correlation: time constant in seconds, where it is known.
        """
        total, within, scatter = spread * spread, self.within, self.scatter()
        pictures = max(1, self.pictures)
        off = max(self.scatter(MANY), within / pictures)  # as of within / off independent values
        seen = max(SEEN, 1 - DOUBT * math.sqrt(2 * off / within)) if off < within else SEEN
        return max(
            total - seen * min(total, within),
            scatter,
            max(total, within) / pictures,
            total * 2 * correlation / (self.age + 2 * correlation) if correlation else 0.0,
        )

    def independent(self, spread: float) -> float:
        """As many independent frames as this is worth, at the best guess.

        Args:
            spread: as for `variance`.
        """
        total, within = spread * spread, self.within
        off = max(total - within, self.scatter() * total / max(total, within))
        return min(total / off if off > 0 else math.inf, self.pictures, self.seconds)

    def scatter(self, fewest: int = FEWEST) -> float:
        """Variance of the mean by batches of doubling size: the largest of any size; 0 of few."""
        largest = 0.0
        for number, total, squares, _ in self._batches:
            if number < fewest:
                break
            scatter = (squares - total * total / number) / (number * (number - 1))
            # Few batches may scatter little by chance.
            largest = max(largest, scatter * (number + 3) / (number - 1))
        return largest
