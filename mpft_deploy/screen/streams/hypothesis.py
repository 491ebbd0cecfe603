"""A test of a stream's mean log odds: what it is compared with, and how much evidence is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpft_deploy.screen.streams.runs import Run

AGAINST = math.log(10)
"""Evidence by which a new run takes a verdict back."""

LONGEST = 32
"""Times `patience` after which a run for "generated" is replaced: what it began with is history."""

TAIL = 2.0
"""Standard deviations beyond a class's mean at which a frame's log odds are clipped."""


@dataclass(frozen=True)
class Hypothesis:
    """One of the two tests: what a run's mean is compared with; all in log odds.

    sign: 1 for evidence of "generated", −1 for "no sign".
    separation: between the classes' means.
    middle: of them.
    error, spread, correlation: of the class that the verdict would be wrong about.
    bound: evidence at which it is reached.
    """

    sign: int
    separation: float
    middle: float
    error: float
    spread: float
    correlation: float
    bound: float

    def evidence(self, run: Run) -> float:
        """For this verdict, as a log-likelihood ratio."""
        variance = self.error**2 + run.variance(self.spread, self.correlation)
        return self.sign * self.separation * (run.mean - self.middle) / variance

    def reach(self, mean: float) -> float:
        """Evidence that no number of frames with this mean gets beyond."""
        return self.sign * self.separation * (mean - self.middle) / self.error**2


def limits(tests: Sequence[Hypothesis]) -> tuple[float, float]:
    """Log odds that no frame goes beyond: the edges of what either class was seen to score."""
    edges = [
        test.middle + sign * (test.separation / 2 + TAIL * math.hypot(test.error, test.spread))
        for test in tests
        for sign in (-1, 1)
    ]
    return min(edges, default=-math.inf), max(edges, default=math.inf)
