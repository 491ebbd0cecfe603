"""From frames to a stream's verdict: a sequential test over tempered evidence.

**Evidence of a frame.** A calibrated probability p of "generated" is worth the log-likelihood ratio
logit(p) − logit(threshold): 0 where the frame itself is undecided, so that frames and streams agree
on which side they are. `largest` bounds what one frame can say.

**The test** is Wald's (1945): evidence is summed until it passes ln((1 − misses) / false_alarms)
for "generated" or ln(misses / (1 − false_alarms)) for "real". No test with these error rates needs
fewer independent frames on average (Wald and Wolfowitz 1948).

**Frames of one stream are no independent frames.** A hundred pictures of the same wall are one
opinion. A sequence with correlation ρ from one member to the next is worth (1 − ρ) / (1 + ρ)
independent members each (the effective sample size of a first-order autoregression). Here
ρ = exp(−x), x = min(time since the last frame / `seconds`, movement since then / `movement`), so a
frame's evidence counts with weight tanh(x / 2): a frame adds what both the clock and the picture
moved on. The first frame of a scene counts whole; a picture that is repeated adds nothing, however
long. Movement is the change of the cells' texture scores, relative to their sum.
Multiplying a log-likelihood ratio by a weight below 1 keeps Wald's bound: by Jensen's inequality
E[exp(w·l)] ≤ E[exp(l)]ʷ = 1 for real frames, so exp(sum) stays a supermartingale, which passes 1/α
with probability α at most (Ville 1939).

**A stream goes on after it was decided.** The sum is kept within ±`ceiling`, as in a CUSUM test
(Page 1954), so that a change shows after a bounded amount of evidence. Hysteresis: a verdict stands
until the sum is back at 0, not merely below the bound that it passed.

**A new scene starts afresh.** When the distribution of the texture scores jumps, or the picture
has another size, what was seen before says nothing about what is seen now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mpft_deploy.screen.streams.settings import DecisionSettings
from mpft_deploy.spec import Verdict

I32 = npt.NDArray[np.int32]

HEADROOM = math.log(10)
"""Evidence that is kept beyond the bounds: a verdict is ten times surer than asked for, no more."""

_EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1: none is surer than that."""


@dataclass(frozen=True)
class Change:
    """A stream's verdict changed; see `StreamEvent` for the fields."""

    verdict: Verdict
    previous: Verdict
    evidence: float
    frames: int
    seconds: float
    reason: Literal["evidence", "scene change", "restart"]


class SequentialTest:
    """Wald's test with a ceiling and hysteresis, over weighted log-likelihood ratios."""

    def __init__(self, false_alarms: float, misses: float) -> None:
        self.upper = math.log((1 - misses) / false_alarms)
        self.lower = math.log(misses / (1 - false_alarms))
        self.evidence = 0.0
        self.verdict: Verdict = "unsure"

    def add(self, ratio: float, weight: float = 1.0) -> Verdict:
        """Take a frame's log-likelihood ratio, above 0 for generated; the verdict now."""
        total = self.evidence + weight * ratio
        self.evidence = max(self.lower - HEADROOM, min(self.upper + HEADROOM, total))
        if self.evidence >= self.upper:
            self.verdict = "generated"
        elif self.evidence <= self.lower:
            self.verdict = "real"
        elif (self.verdict == "generated" and self.evidence <= 0) or (
            self.verdict == "real" and self.evidence >= 0
        ):
            self.verdict = "unsure"
        return self.verdict


class StreamDecision:
    """Decides one stream.

    Args:
        settings: error rates and scales.
        threshold: probability at which a frame says neither.
    """

    def __init__(self, settings: DecisionSettings, threshold: float = 0.5) -> None:
        self._settings = settings
        self._neutral = _logit(threshold)
        self._test = self._new_test()
        self._scores: I32 | None = None
        self._time = self._began = 0.0
        self._frames = 0

    @property
    def verdict(self) -> Verdict:
        """Of the stream so far."""
        return self._test.verdict

    @property
    def evidence(self) -> float:
        """Log-likelihood ratio, above 0 for generated."""
        return self._test.evidence

    def add(self, probability: float, scores: I32, now: float) -> list[Change]:
        """Take a judged frame; the changes of the verdict that it makes, mostly none.

        Args:
            probability: calibrated, of "generated".
            scores: i32 [N] or [V, N], of the frame's cells.
            now: when it was received, by the monotonic clock, in seconds.
        """
        changes = []
        if self._scores is not None and scene_distance(self._scores, scores) > self._settings.scene:
            changes += self.restart("scene change")
        weight = self._weight(scores, now)
        if self._frames == 0:
            self._began = now
        self._frames += 1
        self._scores, self._time = scores, now
        previous = self._test.verdict
        ratio = _logit(probability) - self._neutral
        largest = self._settings.largest
        verdict = self._test.add(max(-largest, min(largest, ratio)), weight)
        if verdict != previous:
            changes.append(self._change(verdict, previous, "evidence"))
        return changes

    def restart(self, reason: Literal["scene change", "restart"]) -> list[Change]:
        """Forget what was seen; the change of the verdict, if there was one."""
        previous = self._test.verdict
        changes = [self._change("unsure", previous, reason)] if previous != "unsure" else []
        self._test, self._scores, self._frames = self._new_test(), None, 0
        return changes

    def _new_test(self) -> SequentialTest:
        return SequentialTest(self._settings.false_alarms, self._settings.misses)

    def _weight(self, scores: I32, now: float) -> float:
        """How many independent frames this one is worth, 0 to 1."""
        if self._scores is None:
            return 1.0
        time = max(0.0, now - self._time) / self._settings.seconds
        moved = movement(self._scores, scores) / self._settings.movement
        return math.tanh(min(time, moved) / 2)

    def _change(
        self,
        verdict: Verdict,
        previous: Verdict,
        reason: Literal["evidence", "scene change", "restart"],
    ) -> Change:
        seconds = self._time - self._began if self._frames else 0.0
        return Change(verdict, previous, self._test.evidence, self._frames, seconds, reason)


def movement(before: I32, after: I32) -> float:
    """Share of the texture that changed, cell by cell: 0 for the same, about 1 for another picture.

    Args:
        before, after: i32, texture scores of the same cells; of unequal shapes the answer is 1.
    """
    if before.shape != after.shape:
        return 1.0
    changed = np.abs(after.astype(np.int64) - before).sum()
    return 2 * float(changed) / max(1.0, float(before.sum()) + float(after.sum()))


def scene_distance(before: I32, after: I32) -> float:
    """How unlike the textures of two pictures are, wherever in the picture: 0 to 1.

    The distance of their scores' distributions (Wasserstein 1), relative to their sum: what moves
    within a scene changes little of it.
    """
    if before.shape != after.shape:
        return 1.0
    old, new = np.sort(before, axis=None), np.sort(after, axis=None)
    total = float(old.sum(dtype=np.int64)) + float(new.sum(dtype=np.int64))
    return float(np.abs(new.astype(np.int64) - old).sum()) / max(1.0, total)


def _logit(probability: float) -> float:
    p = min(1 - _EDGE, max(_EDGE, probability))
    return math.log(p / (1 - p))
