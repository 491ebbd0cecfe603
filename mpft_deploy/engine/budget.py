"""What an engine may cost, and whether it keeps to that: kept, broken, or not known yet.

A budget speaks of all images; those at hand are a sample. So a term is *kept* only where its upper
bound is within the limit, *broken* only where its lower bound is over it, each bound exact and
one-sided at the confidence that is stated, and *undecided* otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mpft_deploy.bundle import Answer, Comparison, Finding
from mpft_deploy.errors import UsageError
from mpft_deploy.statistics import (
    CONFIDENCE,
    MOST_SAMPLES,
    auc_reach,
    samples_needed,
    samples_to_decide,
    share_bounds,
    share_is_within,
)

METRICS = {
    "flips": "decisions changed",
    "decisive": "verdicts crossed the whole unsure band",
    "logit": "largest absolute logit difference",
    "auc": "loss of AUC against the reference, where labels are known",
}
SHARES = ("flips", "decisive", "auc")

RARE = 0.01
"""No number of images bounds a maximum. A `logit` limit is kept where none of them exceeds it and
they are so many that at most this share of all images can."""

MOST_TIMES = 10_000
"""As many images again are no advice."""


@dataclass(frozen=True)
class Budget:
    """What an engine may cost, such as `flips<=1%,logit<=0.5`.

    terms: pairs of metric and largest allowed value; shares as fractions.
    """

    terms: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `METRIC<=LIMIT[%]`, separated by commas; a UsageError otherwise."""
        return cls(tuple(_parse_term(part.strip(), text) for part in text.split(",")))

    def __str__(self) -> str:
        return ",".join(_term(metric, limit) for metric, limit in self.terms)

    def judge(self, comparison: Comparison, confidence: float = CONFIDENCE) -> list[Finding]:
        """Each term, judged on a comparison, each bound at the confidence."""
        return [_judge(metric, limit, comparison, confidence) for metric, limit in self.terms]

    def images_needed(self, confidence: float = CONFIDENCE) -> int:
        """Fewest images that can keep it, if the engine changes nothing."""
        nothing = math.log(1 - confidence)

        def fewest(metric: str, limit: float) -> int:
            share = RARE if metric == "logit" else limit
            images = 1 if share >= 1 else math.ceil(nothing / math.log1p(-share) - 1e-9)
            return 2 * images if metric == "auc" else images

        return max(fewest(metric, limit) for metric, limit in self.terms)

    def exceeded(self, comparison: Comparison) -> list[str]:
        """Which limits what was seen is over, a sentence each: enough to choose by, no proof."""
        out = []
        if comparison.not_finite:
            out.append(f"{comparison.not_finite} logits are not finite")
        for metric, limit in self.terms:
            value = _measured(metric, comparison)
            if value is None or not value <= limit:
                shown = "unknown" if value is None else f"{value:.4g}"
                term = _term(metric, limit)
                out.append(f"{METRICS[metric]}: {shown}, {term} ({comparison.images} images)")
        return out


def default_budget(precision: str) -> Budget:
    """What an export is judged by when nothing else is asked for."""
    return Budget.parse("flips<=1%,logit<=0.001" if precision == "fp32" else "flips<=1%")


def overall(findings: Sequence[Finding], comparison: Comparison) -> Answer:
    """The answer to a whole budget; broken by any logit that is no finite number."""
    answers: set[Answer] = {one.answer for one in findings}
    if comparison.not_finite or "broken" in answers:
        return "broken"
    return "undecided" if "undecided" in answers else "kept"


def _parse_term(part: str, text: str) -> tuple[str, float]:
    match = re.fullmatch(r"([a-z]+)\s*<=\s*(\d+(?:\.\d*)?(?:e-?\d+)?)\s*(%?)", part, re.ASCII)
    where = f"budget {text!r} is not understood at {part!r}"
    if not match or match[1] not in METRICS:
        raise UsageError(
            f"{where}: write METRIC<=LIMIT with one of {', '.join(METRICS)}, for example flips<=1%"
        )
    metric, percent = match[1], bool(match[3])
    limit = float(match[2]) / (100 if percent else 1)
    if metric not in SHARES:
        if percent or not math.isfinite(limit):
            raise UsageError(f"{where}: {metric} is a difference, such as {metric}<=0.5")
        return metric, limit
    if limit > (1 if percent else 0.5):
        raise UsageError(
            f"{where}: {metric} is a share of all images; for {match[2]} in a hundred write "
            f"{metric}<={match[2]}%, at most 100%"
        )
    if limit < 1 / MOST_SAMPLES:
        raise UsageError(
            f"{where}: no reasonable number of images shows so small a share; write for example "
            f"{metric}<=0.1%, which {samples_needed(99.9)} images without one show"
        )
    return metric, limit


def _term(metric: str, limit: float) -> str:
    return f"{metric}<={limit * 100:g}%" if metric in SHARES else f"{metric}<={limit:g}"


def _measured(metric: str, comparison: Comparison) -> float | None:
    """What a term limits, as seen; None where that cannot be told or is not finite."""
    if metric == "auc":
        return None if comparison.auc_change is None else -comparison.auc_change
    if metric == "logit":
        return comparison.logit_difference["max"]
    return _hits(metric, comparison) / comparison.images


def _hits(metric: str, comparison: Comparison) -> int:
    return comparison.flips if metric == "flips" else comparison.decisive_flips


def _judge(metric: str, limit: float, comparison: Comparison, confidence: float) -> Finding:
    judge = {"logit": _judge_largest, "auc": _judge_auc}.get(metric, _judge_share)
    within, bounds, needed, told = judge(metric, limit, comparison, confidence)
    answer: Answer = "undecided" if within is None else "kept" if within else "broken"
    more = max(1, needed - comparison.images) if within is None and needed is not None else None
    if more is not None:
        told += f"; about {more} more like these would decide"
    elif within is None and bounds is not None:
        told += "; too close to the limit for any reasonable number of images"
    return Finding(
        term=_term(metric, limit),
        answer=answer,
        measured=_measured(metric, comparison),
        bounds=bounds,
        more_images=more,
        reason=f"{_term(metric, limit)} {answer}: {told}",
    )


_Judged = tuple[bool | None, tuple[float, float] | None, int | None, str]
"""Whether a term is kept, bounds, images in all that would decide, and what is known in words."""


def _at(confidence: float) -> str:
    return f"at {100 * confidence:.4g} % confidence"


def _judge_share(metric: str, limit: float, comparison: Comparison, confidence: float) -> _Judged:
    hits, total = _hits(metric, comparison), comparison.images
    low, high = share_bounds(hits, total, confidence)
    within = share_is_within(hits, total, limit, confidence)
    bound = f"at least {low:.2%}" if within is False else f"at most {high:.2%}"
    told = f"{hits} of {total} {METRICS[metric]}, of all {bound} {_at(confidence)}"
    return within, (low, high), samples_to_decide(hits, total, limit, confidence), told


def _judge_largest(metric: str, limit: float, comparison: Comparison, confidence: float) -> _Judged:
    largest, total = _measured(metric, comparison), comparison.images
    shown = "not finite" if largest is None else f"{largest:.4g}"
    told = f"{METRICS[metric]} {shown} in {total} images"
    if largest is None or not largest <= limit:
        return False, None, None, told
    low, high = share_bounds(0, total, confidence)
    told += f", of all at most {high:.2%} exceed {limit:g} {_at(confidence)}"
    within = share_is_within(0, total, RARE, confidence)
    return within, (low, high), samples_to_decide(0, total, RARE, confidence), told


def _judge_auc(metric: str, limit: float, comparison: Comparison, confidence: float) -> _Judged:
    loss, error = _measured(metric, comparison), comparison.auc_change_error
    if loss is None or error is None or comparison.classes is None:
        return None, None, None, "the images have no two labelled classes"
    fewest = min(comparison.classes)
    reach = auc_reach(error, fewest, confidence)
    low, high = max(-1.0, loss - reach), min(1.0, loss + reach)
    within = True if high <= limit else False if low > limit else None
    bound = f"at least {low:.4f}" if within is False else f"at most {high:.4f}"
    told = f"AUC lost {loss:.4f} in {comparison.images} images, of all {bound} {_at(confidence)}"
    times = 1
    while times <= MOST_TIMES and auc_reach(error / times**0.5, fewest * times, confidence) > abs(
        limit - loss
    ):
        times += 1
    needed = comparison.images * times if times <= MOST_TIMES else None
    return within, (low, high), needed, told
