"""How long a frame takes to be judged, and what follows: full batches, and frames too old."""

from __future__ import annotations

import math

WEIGHT = 0.1
"""Of the newest duration in a mean."""

BATCH_SECONDS = 0.25
"""A batch is full with as many frames as are judged in this time."""


MOST = 8
"""Frames that are decoded at a time, at most: hundreds of keyframes of 1080p a second."""


class Mean:
    """A running mean of durations, in seconds; 0 before the first."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = False

    def add(self, seconds: float) -> None:
        """One more."""
        weight = WEIGHT if self._begun else 1.0
        self.seconds += weight * (seconds - self.seconds)
        self._begun = True


class Pace:
    """What a scheduler and its decoders know of the engine's speed.

    Args:
        batch: frames that are judged at once, at most.
        max_age: seconds that a verdict's frame may be old.

    Attributes:
        judging: how long the engine takes for one frame, as a part of its batch.
        decoding: how long a frame takes that waits coded.
    """

    def __init__(self, batch: int, max_age: float) -> None:
        self._batch, self._max_age = batch, max_age
        self.judging, self.decoding = Mean(), Mean()

    @property
    def batch(self) -> int:
        """Frames of a full batch."""
        seconds = self.judging.seconds
        return min(self._batch, math.ceil(BATCH_SECONDS / seconds)) if seconds else self._batch

    @property
    def ahead(self) -> int:
        """Frames that are to be decoded, or are, while the engine judges a batch."""
        judging = self.judging.seconds
        return self.batch + (math.ceil(self.decoding.seconds / judging) if judging else MOST)

    @property
    def oldest(self) -> float:
        """How old a frame may be at its turn to be no older than `max_age` at its verdict.

        At least half of `max_age`: an engine that takes longer than that must judge all the same.
        """
        return self._max_age - min(self.batch * self.judging.seconds, self._max_age / 2)
