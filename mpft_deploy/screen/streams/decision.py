"""From frames to a stream's verdict: what may be believed of many frames of one camera.

**A frame** is worth its calibrated log odds l, less those of the calibration's prior: 0 is where
the detector says neither. The operating threshold decides frames alone; it has no part here.

**What is assumed.** Real streams have a mean log odds of −d/2 + b, generated ones of +d/2 + b. d is
how far the classes were apart on held-out images (`HeldOut.separation`), and b an offset that the
detector has on this camera, lens and encoder for good: a random effect (Laird and Ware 1982) of
standard deviation `HeldOut.error`, as the means of held-out groups scatter. About the mean frames
scatter by `HeldOut.spread`, correlated for any length of time.

**Evidence** is the log-likelihood ratio of the mean m of n frames, with the offset integrated out:

    d · m / (error² + V),    V = how far the mean of these frames may be off

Where V is at least the variance of the mean, E[exp(evidence)] ≤ 1 for real streams, and more frames
only take V away: error² stays, so that no number of frames of one camera makes surer than about
d² / (2 · error²). V comes from the stream itself (`runs`): all of spread² until frames have
shown that they scatter, and as many opinions as there were different pictures.

**A camera that was taught** (`baseline`) has a known mean μ for real frames, and a spread and
correlation of its own. Evidence for "generated" is then d · (m − μ − d/2) / (e² + V), where e is
the error of μ and a QUARTER of the held-out error: an hour shows neither night nor winter. Evidence
for "no sign" stays as it was, for what a generator shows on this camera nobody taught.

**The alarm.** Wald (1945) bounds a ratio once. A stream goes on for weeks, so the promise is a mean
time T between false alarms (the ARL of Page 1954, Lorden 1971, Siegmund 1985). Evidence is gathered
in runs, each at least U (`patience`) long. A run that speaks for nothing by then is replaced, as in
Page's test; one that reaches ln(T / U) at that age or later is an alarm and ends. By Ville's
inequality (1939) a run gets there with probability at most U / T, and in time t there are at most
t / U runs, so at most t / T false alarms are expected, whatever is cut, lost or connected anew: a
run that is dropped earlier had no chance. With T = 30 days it is one a month.

**For whom that holds.** For the average over cameras whose offsets scatter as the held-out groups
do. A single camera with an unlucky offset has more alarms; an alarm stands until a run of its own
speaks against it by ln 10, so such a camera has one long alarm and not many. For a camera that was
taught it holds for that camera, as long as it shows what it showed then.

**"No sign"** of generation is the same test the other way, by `misses`, for generated streams whose
detector scores as on the held-out generators; it needs `least` independent frames besides. Nothing
proves a stream real. It is taken back when a run speaks for "generated" by ln 10.

**Regions.** A source with R regions has R streams. It is called generated where one of them is, so
that their false alarms add up, however they depend on each other: each is to reach ln(R · T / U)
instead, and the promise stays the source's. It has "no sign" only where all have, which a source
whose generated part lies in one region has no more often than that region alone: by its promise.

**Afresh** begins all of it after `gap` without frames, or without any that can be judged, when the
picture has another size, and when settings change. A cut within a stream begins nothing afresh: it
gives the run another opinion, and no further chance of an alarm.
"""

from __future__ import annotations

import math

import msgspec

from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.hypothesis import AGAINST, LONGEST, Drift, Hypothesis, limits
from mpft_deploy.screen.streams.records import Reason
from mpft_deploy.screen.streams.runs import I32, Pool, Run, Second, Seen
from mpft_deploy.screen.streams.settings import DecisionSettings, seconds
from mpft_deploy.spec import Calibration, StreamVerdict, Verdict

LOOKS = 20
"""How often within `patience` evidence is weighed."""

QUARTER = 0.25
"""Share of the held-out error that a camera keeps which was taught."""

LEAST_ERROR = 0.3
"""The held-out error counts as so much of the spread at least: no detector is free of offsets."""

UNMEASURED = (
    "nobody measured what this detector is worth on held-out images: "
    "mpft calibrate DETECTOR IMAGES --held-out, then export it again"
)


class Change(msgspec.Struct, frozen=True):
    """A stream's verdict changed; see `StreamEvent` for the fields."""

    verdict: StreamVerdict
    previous: StreamVerdict
    evidence: float
    frames: int
    independent: float
    seconds: float
    reason: Reason


def hypotheses(
    settings: DecisionSettings,
    calibration: Calibration,
    baseline: Baseline | None,
    regions: int = 1,
) -> tuple[Hypothesis, Hypothesis] | None:
    """The tests for "generated" and for "no sign"; None if nobody measured the calibration.

    Args:
        regions: how many of a source are decided, for all of which together alarms are promised.
    """
    held = calibration.held_out
    if held is None:
        return None
    error = max(held.error, LEAST_ERROR * held.spread)
    patience = seconds(settings.patience)
    alarm, miss = (
        math.log(chances * seconds(time) / patience)
        for chances, time in ((regions, settings.false_alarms), (1, settings.misses))
    )
    clear = Hypothesis(-1, held.separation, 0.0, error, held.spread, 0.0, miss)
    if baseline is None:
        return Hypothesis(1, held.separation, 0.0, error, held.spread, 0.0, alarm), clear
    taught = Hypothesis(
        sign=1,
        separation=held.separation,
        middle=baseline.offset + held.separation / 2,
        error=math.hypot(baseline.error, QUARTER * error),
        spread=baseline.spread,
        correlation=baseline.correlation,
        bound=alarm,
    )
    return taught, clear


class StreamDecision:
    """Decides one stream.

    Args:
        settings: what is promised.
        calibration: of the detector, with its prior and what it is worth on held-out images.
        baseline: of the camera, if it was taught.
        regions: of its source, each decided by itself.
    """

    def __init__(
        self,
        settings: DecisionSettings,
        calibration: Calibration,
        baseline: Baseline | None = None,
        regions: int = 1,
    ) -> None:
        self._settings, self._calibration, self._baseline = settings, calibration, baseline
        self._gap, self._patience = seconds(settings.gap), seconds(settings.patience)
        self._tests = hypotheses(settings, calibration, baseline, regions)
        self._limits = limits(self._tests or ())
        self._drift = None
        if baseline is not None and self._tests is not None:
            self._drift = Drift(self._tests[0], self._patience)
        self.verdict: StreamVerdict = "unsure"
        """Of the stream so far."""
        self._reason = ""
        self._received = self._judged = -math.inf
        self._begin()

    @property
    def evidence(self) -> float:
        """Log-likelihood ratio, above 0 for generated: of the two tests, the one that says more."""
        return self._alarm if self._alarm >= abs(self._clear) else -self._clear

    @property
    def independent(self) -> float:
        """As many independent frames it rests on."""
        if self._tests is None:
            return 0.0
        return max(run.independent(self._tests[1].spread) for run in self._runs)

    @property
    def looked_for(self) -> float:
        """Seconds that this takes in."""
        return max(run.age for run in self._runs)

    @property
    def bounds(self) -> tuple[float, float] | tuple[None, None]:
        """Evidence from which on it may be generated, and down from which there may be no sign."""
        return (self._tests[0].bound, -self._tests[1].bound) if self._tests else (None, None)

    @property
    def reach(self) -> float | None:
        """Evidence that an average generated stream gets to, however long one looks."""
        held = self._calibration.held_out
        return self._tests[0].reach(held.separation / 2) if self._tests and held else None

    @property
    def drifted(self) -> bool:
        """Whether its camera does not show any more what it was taught by; see `Drift`."""
        return self._drift is not None and self._drift.drifted

    @property
    def looking(self) -> bool:
        """Whether the verdict is unsure only for want of evidence, which may still come."""
        return self.verdict == "unsure" and self._tests is not None and not self._reason

    @property
    def undecided(self) -> str:
        """Why the verdict is unsure; empty if it is not."""
        if self.verdict != "unsure":
            return ""
        if self._tests is None:
            return UNMEASURED
        if self._reason:
            return f"nothing to judge: {self._reason}"
        age, (up, down) = self.looked_for, self._tests
        if age < self._patience:
            return f"looked at for {age:.0f} of {self._patience} s"
        enough = self._runs[1].independent(down.spread) >= self._settings.least
        return (
            f"evidence {self.evidence:+.1f}, generated from {up.bound:.1f}, "
            f"no sign from {-down.bound:.1f}"
            + ("" if enough else f" and {self._settings.least:.0f} independent frames")
        )

    def add(self, logit: float, scores: I32, now: float, reason: str = "") -> list[Change]:
        """Take a judged frame; the changes of the verdict that it makes, mostly none.

        Args:
            logit: of the frame, before calibration.
            scores: i32 [N] or [V, N], texture of the frame's cells.
            now: when it was received, by the monotonic clock, in seconds.
            reason: why this frame cannot be judged; then it says nothing.
        """
        changes = self._resume(now)
        self._received, self._reason = now, reason
        if reason or self._tests is None:
            return changes
        self._judged = now
        value, new = self._calibration.log_odds(logit), self._seen.add(scores)
        if self._drift is not None and self._drift.add(value, new, now):
            return [*changes, self._turn("unsure", "drift", self._runs[0]), *self.restart("drift")]
        low, high = self._limits
        second = self._pool.add(max(low, min(high, value)), new, now)
        return changes if second is None else changes + self._weigh(second)

    def of_frame(self, verdict: Verdict, probability: float) -> Verdict:
        """The verdict of a frame: a camera that was taught may have a threshold of its own."""
        baseline = self._baseline
        return verdict if baseline is None else baseline.of_frame(verdict, probability)

    def restart(self, reason: Reason) -> list[Change]:
        """Forget what was seen; the change of the verdict, if there was one."""
        changes = [] if self.verdict == "unsure" else [self._turn("unsure", reason, self._runs[0])]
        self._begin()
        return changes

    def _begin(self) -> None:
        self._pool, self._seen = Pool(), Seen(self._settings.movement)
        self._runs = [Run(), Run()]
        self._alarm = self._clear = 0.0
        self._next = -math.inf
        if self._drift is not None:
            self._drift.begin()

    def _resume(self, now: float) -> list[Change]:
        """Begin afresh if there was nothing to judge for too long."""
        if now - self._judged <= self._gap or self._judged == -math.inf:
            return []
        self._judged = -math.inf
        away = now - self._received > self._gap
        return self.restart("reconnect" if away else "nothing to judge")

    def _weigh(self, second: Second) -> list[Change]:
        """Take a second into the runs; the changes that it makes."""
        assert self._tests is not None
        (up, down), (for_it, against) = self._tests, self._runs
        for_it.add(second)
        against.add(second)
        if second.time < self._next:
            return []
        self._next = second.time + self._patience / LOOKS
        self._alarm, self._clear = up.evidence(for_it), down.evidence(against)
        ripe = [run.age >= self._patience for run in self._runs]
        stale = self._alarm <= 0
        if self.verdict == "generated":
            if ripe[0] and self._alarm <= -AGAINST:
                change = self._turn("unsure", "evidence", for_it)
                self._runs[0] = Run()
                return [change]
            stale = self._alarm >= 0
        elif ripe[0] and self._alarm >= up.bound:
            change = self._turn("generated", "evidence", for_it)
            self._runs = [Run(), Run()]
            return [change]
        elif self.verdict == "no sign":
            if ripe[0] and self._alarm >= AGAINST:
                change = self._turn("unsure", "evidence", for_it)
                self._runs[1] = Run()
                return [change]
        elif (
            ripe[1]
            and self._clear >= down.bound
            and against.independent(down.spread) >= self._settings.least
        ):
            return [self._turn("no sign", "evidence", against)]
        if ripe[0] and (stale or for_it.age >= LONGEST * self._patience):
            self._runs[0] = Run()
        if ripe[1] and self._clear <= 0:
            self._runs[1] = Run()
        return []

    def _turn(self, verdict: StreamVerdict, reason: Reason, run: Run) -> Change:
        previous, self.verdict = self.verdict, verdict
        return Change(
            verdict, previous, self.evidence, run.frames, self.independent, run.age, reason
        )
