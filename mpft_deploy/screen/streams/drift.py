"""Whether a camera still shows what it was taught by, as far as that hides generated streams.

The alarm of a taught camera (`decision`) asks whether frames score by d higher than known-real ones
did; d is how far the classes are apart. Should real frames score by d LOWER meanwhile, by night or
behind a dirty lens, a generated stream would score as real ones did, and never be found. So the
same test is made the other way: evidence that the mean is by d below the taught one, in runs of
`patience` or longer, to the same bound. By the same argument a camera that shows what it showed is
said to have drifted once in `false_alarms` at most, on average.

What scores higher needs no such test: it is what the alarm looks for.
"""

from __future__ import annotations

from dataclasses import replace

from mpft_deploy.screen.streams.hypothesis import AGAINST, LONGEST, Hypothesis, limits
from mpft_deploy.screen.streams.runs import Pool, Run


class Drift:
    """Of one stream.

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
        """Look afresh."""
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
