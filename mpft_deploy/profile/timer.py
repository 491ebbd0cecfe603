"""The timer, what it costs, and quiet around it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

Now = Callable[[], int]
"""Nanoseconds of a clock that never goes back."""

now: Now = time.perf_counter_ns


@dataclass(frozen=True)
class Timer:
    """A calibrated timer: its smallest step seen, and what a reading costs, in nanoseconds."""

    resolution_ns: int
    cost_ns: float


READINGS = 20_000


def calibrate(clock: Now = now) -> Timer:
    """Read the clock in a row: the smallest step that is no zero, and the mean of all."""
    marks = [clock() for _ in range(READINGS)]
    steps = np.diff(np.array(marks, np.int64))
    moved = steps[steps > 0]
    resolution = int(moved.min()) if len(moved) else 0
    return Timer(resolution, float((marks[-1] - marks[0]) / (READINGS - 1)))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, and not within the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
