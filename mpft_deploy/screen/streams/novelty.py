"""Whether a picture was seen before, by the texture scores of its cells."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

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
