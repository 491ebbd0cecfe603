"""Whether a picture was seen before, by the texture scores of its cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]

KEPT = 32
"""Pictures that are remembered; then the oldest gives way."""


def movement(before: I32, after: I32) -> float:
    """Share of the texture that changed, cell by cell: 0 for the same, about 1 for another picture.

    Args:
        before, after: i32, texture scores of the same cells; of unequal shapes the answer is 1.
    """
    if before.shape != after.shape:
        return 1.0
    changed = np.abs(after.astype(np.int64) - before).sum()
    return 2 * float(changed) / max(1.0, float(before.sum()) + float(after.sum()))


class Seen:
    """The pictures of a stream that are unlike each other, the newest KEPT.

    Args:
        apart: share of the texture by which a picture must differ from each of them to be another.
    """

    def __init__(self, apart: float) -> None:
        self._apart = apart
        self._kept = np.zeros((0, 0), np.float64)
        self._sums = np.zeros(0)
        self._next = 0

    def add(self, scores: I32) -> bool:
        """Whether a picture, i32 scores of its cells, is like none of these; then it is kept."""
        picture = scores.ravel().astype(np.float64)
        total = picture.sum()
        if self._kept.shape[1:] != picture.shape:
            self._kept, self._sums, self._next = np.zeros((0, len(picture))), np.zeros(0), 0
        changed = np.abs(self._kept - picture).sum(1)
        if (2 * changed < self._apart * np.maximum(1, self._sums + total)).any():
            return False
        if len(self._kept) < KEPT:
            self._kept = np.vstack([self._kept, picture])
            self._sums = np.append(self._sums, total)
        else:
            self._kept[self._next], self._sums[self._next] = picture, total
            self._next = (self._next + 1) % KEPT
        return True
