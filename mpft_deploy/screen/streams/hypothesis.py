"""A test of a stream's mean log odds: against what, what evidence is enough; and drift by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpft_deploy.screen.streams.runs import Pool, Run

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


class Drift:
    """Whether a camera still shows what it was taught by, as far as that hides generated streams.

    The alarm of a taught camera (`decision`) asks whether frames score by d higher than known-real
    ones did; d is how far the classes are apart. Should real frames score by d LOWER meanwhile, by
    night or behind a dirty lens, a generated stream would score as real ones did, and never be
    found. So the same test is made the other way: evidence that the mean is by d below the taught
    one, in runs of `patience` or longer, to the same bound. By the same argument a camera that
    shows what it showed is said to have drifted once in `false_alarms` at most, on average.

    What scores higher needs no such test: it is what the alarm looks for.

    Args:
        alarm: the test for "generated" of a camera that was taught.
        patience: seconds for which it is looked at, at least.

    Attributes:
        drifted: whether it has, and nothing spoke against that since.
    """

    def __init__(self, alarm: Hypothesis, patience: float) -> None:
        self._test = replace(alarm, sign=-1, middle=alarm.middle - alarm.separation)
        self._limits = limits((alarm, self._test))
        self._patience = patience
        self.drifted = False
        self.begin()

    def begin(self) -> None:
        self._pool, self._run = Pool(), Run()

    def add(self, value: float, new: bool, now: float) -> bool:
        """Take a frame, as `Pool.add` does; whether its camera is found to have drifted now."""
        low, high = self._limits
        second = self._pool.add(max(low, min(high, value)), new, now)
        if second is None:
            return False
        self._run.add(second)
        if self._run.age < self._patience:
            return False
        evidence = self._test.evidence(self._run)
        turned = evidence <= -AGAINST if self.drifted else evidence >= self._test.bound
        idle = evidence >= 0 if self.drifted else evidence <= 0
        if turned:
            self.drifted = not self.drifted
        if turned or idle or self._run.age >= LONGEST * self._patience:
            self._run = Run()
        return turned and self.drifted
