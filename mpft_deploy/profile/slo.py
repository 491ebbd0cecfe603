"""Service-level objectives: does a percentile keep its limit? Told at a confidence or not at all.

"p99 <= 15 ms" says that at most 1 % of queries take longer than 15 ms. The number that did is
binomial, so pass and fail are each claimed only where the other is refuted at CONFIDENCE; this is
how MLPerf's early stopping decides when it has seen enough.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError
from mpft_deploy.profile.percentiles import (
    autocorrelation_time,
    is_percentile,
    percentile_name,
)
from mpft_deploy.profile.records import Gate, Run
from mpft_deploy.profile.wording import title
from mpft_deploy.statistics import CONFIDENCE, samples_to_decide, share_is_within

_UNITS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Objective:
    """At most `1 - percent / 100` of the queries take longer than `limit_ms`."""

    percent: float
    limit_ms: float

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read `p99<=15ms`, also in us or s, and p0.01 to p99.99; a UsageError otherwise."""
        match = re.fullmatch(
            r"p(\d{1,2}(?:\.\d+)?)\s*<=?\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|s)", text.strip().lower()
        )
        if not match or not is_percentile(match[1]) or float(match[2]) <= 0:
            raise UsageError(
                f"objective {text!r} is not understood: write a percentile and a limit, such as "
                "p99<=15ms"
            )
        return cls(float(match[1]), float(match[2]) * _UNITS[match[3]])

    def __str__(self) -> str:
        return f"{percentile_name(self.percent)}<={self.limit_ms:g}ms"


def judge_run(objective: Objective, run: Run) -> Gate:
    """Judge a run; one that was disturbed decides nothing."""
    gate = f"{objective}, {title(run)}"
    if run.state == "disturbed":
        reason = f"the run was disturbed ({'; '.join(run.reasons)}): repeat it on a quiet machine"
        return Gate(gate=gate, verdict="undecided", reason=reason)
    return msgspec.structs.replace(judge(objective, used_samples(run)), gate=gate)


def used_samples(run: Run) -> npt.NDArray[np.float64]:
    """The samples that a run's figures rest on, in milliseconds and in order."""
    times = np.array(run.sample_ms, np.float64)
    if run.state == "disturbed":
        return times
    quiet = np.array([not block.disturbed for block in run.blocks], bool)
    kept: npt.NDArray[np.float64] = times[quiet[np.array(run.sample_block, np.int64)]]
    return kept


def judge(objective: Objective, milliseconds: npt.ArrayLike) -> Gate:
    """Pass, fail, or undecided with how many more samples would decide, going by those seen."""
    times = np.asarray(milliseconds, np.float64)
    over = times > objective.limit_ms
    # Slow queries that come in bursts tell less than as many that come apart.
    effective = len(times) / autocorrelation_time(over)
    total, share = math.floor(effective), 1 - objective.percent / 100
    hits = round(float(over.mean()) * total)
    seen = (
        f"{int(over.sum())} of {len(times)} queries took longer than {objective.limit_ms:g} ms, "
        f"{100 * share:g} % may"
    )
    if total < len(times):
        seen += f"; correlated as they are, they count as {total}"
    verdict = share_is_within(hits, total, share)
    if verdict is not None:
        return Gate(gate=str(objective), verdict="pass" if verdict else "fail", reason=seen)
    needed = samples_to_decide(hits, total, share)
    if needed is None:
        return Gate(
            gate=str(objective),
            verdict="undecided",
            reason=f"{seen}: too close to the limit for any reasonable number of samples",
        )
    more = math.ceil((needed - total) * len(times) / max(1, total))
    reason = f"{seen}: too few samples for {CONFIDENCE:.0%} confidence, about {more} more decide"
    return Gate(gate=str(objective), verdict="undecided", reason=reason, more=more)
