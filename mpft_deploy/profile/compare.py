"""Did it get slower? Two results, and a percentile with the slowdown that must not go unseen.

The interval of the change decides. Its scatter is that of both results' block bootstraps, and of
one run against the next, which no sample of either can tell.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.profile.percentiles import is_percentile, percentile_name, resample
from mpft_deploy.profile.records import Gate, Profile, Run
from mpft_deploy.profile.slo import used_samples
from mpft_deploy.profile.wording import title
from mpft_deploy.statistics import samples_needed

CONFIDENCE = 0.99
"""Of the change's interval: a gate runs often, and must not cry wolf."""

RUN_TO_RUN = 0.005
"""Standard deviation of a percentile from one run to the next on a quiet machine, as a share:
where memory came to lie, which core was warm. Two runs then agree within 2 % nearly always."""


@dataclass(frozen=True)
class Limit:
    """A slowdown of `percent`, as a share, that must be caught."""

    percent: float
    slowdown: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read `p50:5%`, also of p0.01 to p99.99; a UsageError otherwise."""
        match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)\s*%", text.strip())
        if not match or not is_percentile(match[1]) or not 0 < float(match[2]) <= 1000:
            raise UsageError(
                f"limit {text!r} is not understood: write a percentile and a slowdown, such as "
                "p50:5%"
            )
        return cls(float(match[1]), float(match[2]) / 100)

    def __str__(self) -> str:
        return f"{percentile_name(self.percent)}:{100 * self.slowdown:g}%"


def compare(limit: Limit, old: Profile, new: Profile) -> list[Gate]:
    """Judge every run that both results have; an InputError if there is none or devices differ."""
    if old.environment.device != new.environment.device:
        raise InputError(
            f"the results cannot be compared: the old one is of "
            f"{old.environment.device}, this one of {new.environment.device}"
        )
    earlier = {_setting(run): run for run in old.runs}
    pairs = [(earlier[_setting(run)], run) for run in new.runs if _setting(run) in earlier]
    if not pairs:
        raise InputError(
            "the results cannot be compared: they share no scenario with the same batch and "
            f"threads; the old one has {'; '.join(title(run) for run in old.runs)}"
        )
    return [_compare_runs(limit, before, after) for before, after in pairs]


def _setting(run: Run) -> tuple[object, ...]:
    stages = tuple(stage.name for stage in run.stages)
    return run.scenario, run.views, run.batch, run.threads, stages


def _compare_runs(limit: Limit, old: Run, new: Run) -> Gate:
    gate = f"{limit} against the older result, {title(new)}"
    for name, run in (("the older result", old), ("this one", new)):
        if run.state == "disturbed":
            reason = f"{name} was disturbed ({'; '.join(run.reasons)}): repeat it"
            return Gate(gate=gate, verdict="undecided", reason=reason)
    return judge_change(limit, used_samples(old), used_samples(new), gate)


def judge_change(limit: Limit, old: npt.ArrayLike, new: npt.ArrayLike, gate: str = "") -> Gate:
    """Fail if it is slower for certain and by `limit` perhaps; pass if `limit` is ruled out.

    So a slowdown of `limit` is caught, no change passes, and what samples cannot tell apart is
    undecided.

    Args:
        old, new: milliseconds, in the order in which they were measured.
    """
    before, after = np.asarray(old, np.float64), np.asarray(new, np.float64)
    gate = gate or str(limit)
    needed = samples_needed(limit.percent)
    if min(len(before), len(after)) < needed:
        short = "the older result" if len(before) < needed else "this one"
        missing = needed - min(len(before), len(after))
        return Gate(
            gate=gate,
            verdict="undecided",
            reason=f"{short} has too few samples, {missing} more are needed",
            more=missing,
        )
    change = math.log(_point(after, limit) / _point(before, limit))
    own = _variance(before, limit) + _variance(after, limit)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    reach = z * math.sqrt(own + 2 * RUN_TO_RUN**2)
    low, high = math.expm1(change - reach), math.expm1(change + reach)
    seen = (
        f"{percentile_name(limit.percent)} {_point(before, limit):.3f} → "
        f"{_point(after, limit):.3f} ms, {math.expm1(change):+.1%} "
        f"({CONFIDENCE:.0%} interval {low:+.1%} to {high:+.1%})"
    )
    if high < limit.slowdown:
        return Gate(gate=gate, verdict="pass", reason=seen)
    if low > 0:
        return Gate(gate=gate, verdict="fail", reason=seen)
    room = (math.log1p(limit.slowdown) / z) ** 2 - 2 * RUN_TO_RUN**2
    if room <= 0 or own <= room:
        return Gate(gate=gate, verdict="undecided", reason=f"{seen}: too close to tell")
    more = math.ceil(len(after) * (own / room - 1))
    reason = f"{seen}: too noisy to tell, about {more} more samples of each decide"
    return Gate(gate=gate, verdict="undecided", reason=reason, more=more)


def _point(times: npt.NDArray[np.float64], limit: Limit) -> float:
    return float(np.percentile(times, limit.percent))


def _variance(times: npt.NDArray[np.float64], limit: Limit) -> float:
    """Of the percentile's logarithm, by the block bootstrap."""
    parts = resample(times, np.random.default_rng(len(times)))
    drawn = np.concatenate([np.percentile(part, limit.percent, axis=1) for part in parts])
    return float(np.log(drawn).var())
