"""Does an engine give the trained model's verdicts? Smoke test, comparison, certificate.

The *smoke test* runs the detector's golden crops, a few dozen drawn pictures: it shows that the
engine computes what it should, and nothing about verdicts. Those are judged on images, by a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Bundle, Certificate, Comparison, Flip, Precision
from mpft_deploy.detector_folder import Golden
from mpft_deploy.engine import Engine, logits_of
from mpft_deploy.engine.budget import Budget, overall
from mpft_deploy.errors import InputError
from mpft_deploy.files import sha256
from mpft_deploy.spec import Calibration, DetectorSpec
from mpft_deploy.statistics import (
    CONFIDENCE,
    auc,
    auc_change_error,
    balanced_accuracy,
    bounded,
    share_bounds,
    summary,
)
from mpft_deploy.weights import F32

TRAINED = "PyTorch float32 on the drawn golden crops"

EXPORTED = "the engine where it was exported"
"""Whose logits are the golden ones of a bundle where logits are defined to the last bit."""

EXACT = 0.001
"""Logit difference that float32 engines may show: another order of summing."""

COARSE = 0.1
"""Mean logit difference, as a share of the golden logits' range, from which an engine of another
precision computes something else."""

REDRAWN = {"mean": 2.0, "p90": 3.0}
"""How many times the certified mean and p90 the differences may be on another device.

An ulp that crosses an edge of rounding is amplified through the blocks, so that every processor
draws int8's noise anew. Measured on the shipped detector in int8, `*.mlp.c_proj` in float, 32
crops: `ln_pre.bias` times 1 + k·1e-6, k from 0 to 4, gave means of 0.092, 0.104, 0.094, 0.121 and
0.129 and p90 of 0.15 to 0.29. So two draws differ by a factor e^0.21 in the mean and e^0.35 in the
p90 (standard deviations of the logarithm), and the limits are three of these. What is broken: the
scales of one layer 5 % off gave means of 0.34 (block7.mlp.c_fc), 0.20 (block4.attention.qkv), 0.19
(block0.mlp.c_fc), 0.18 (block6.mlp.c_proj) and 0.15 (block3.attention.out_proj), a bias of c_fc
left out 1.3 and 2.0. The faintest of these cannot be told from noise by 32 crops, nor can
products that saturate (0.15 here; int8 throughout 0.31 after 0.25): `tests/engine/test_ort.py`
asks the optimised graph for those."""

INFINITE = 1e300
"""Stands for infinity in differences, since a percentile between it and a number is a number."""


def compare(
    reference: F32,
    engine: F32,
    calibration: Calibration,
    *,
    names: Sequence[str],
    images_sha256: str,
    reference_name: str,
    labels: npt.NDArray[np.int_] | None = None,
    left_out: Mapping[str, int] | None = None,
) -> Comparison:
    """Compare an engine's logits with the reference's on the same views.

    A logit that is no finite number, on either side, is a decisive flip and an infinite difference.

    Args:
        reference, engine: logits f32 [n], n ≥ 1.
        calibration: whose threshold and unsure band decide.
        names: of the images, [n].
        images_sha256: over what was compared on.
        reference_name: what gave the reference logits.
        labels: [n], 1 for generated; None if not known.
        left_out: for the record: images that do not count, by reason.

    Raises:
        InputError: there is nothing to compare on.
    """
    if not len(reference):
        raise InputError(f"nothing to compare on: no image for {reference_name}")
    finite = np.isfinite(reference) & np.isfinite(engine)
    # Where either is not finite, the two are told apart by anything that uses them.
    old_logits = np.where(finite, reference, 0).astype(np.float64)
    new_logits = np.where(finite, engine, 0).astype(np.float64)
    before = np.array([calibration.probability(logit) for logit in old_logits])
    after = np.array([calibration.probability(logit) for logit in new_logits])
    low, high = calibration.unsure
    old, new = before >= calibration.threshold, after >= calibration.threshold
    flipped = ~finite | (old != new)
    sure, still = ((one <= low) | (one >= high) for one in (before, after))
    decisive = ~finite | ((old != new) & sure & still)
    difference = np.where(finite, np.abs(new_logits - old_logits), INFINITE)
    order = sorted(np.flatnonzero(flipped).tolist(), key=lambda i: -float(difference[i]))
    hits, total = int(flipped.sum()), len(reference)
    return Comparison(
        reference=reference_name,
        images=total,
        images_sha256=images_sha256,
        left_out={reason: count for reason, count in (left_out or {}).items() if count},
        flips=hits,
        flip_share=hits / total,
        flip_bounds=share_bounds(hits, total),
        decisive_flips=int(decisive.sum()),
        not_finite=int((~finite).sum()),
        logit_difference={
            name: value if value < INFINITE / total / 2 else None
            for name, value in summary(difference, bounded(total)).items()
        },
        **_changes(labels, finite, old_logits, new_logits, old, new),
        flipped=[
            Flip(
                image=names[i],
                reference_logit=_finite(reference[i]),
                engine_logit=_finite(engine[i]),
                decisive=bool(decisive[i]),
            )
            for i in order
        ],
    )


def _finite(logit: np.float32) -> float | None:
    return float(logit) if np.isfinite(logit) else None


def _changes(
    labels: npt.NDArray[np.int_] | None,
    finite: npt.NDArray[np.bool_],
    old_logits: npt.NDArray[np.float64],
    new_logits: npt.NDArray[np.float64],
    old: npt.NDArray[np.bool_],
    new: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """What labels tell of an engine, for a `Comparison`; None without two classes.

    An image without finite logits counts as placed best before and worst after.
    """
    positive = labels == 1 if labels is not None else None
    if labels is None or positive is None or positive.all() or not positive.any():
        return dict.fromkeys(
            ("auc_change", "auc_change_error", "balanced_accuracy_change", "classes")
        )
    best = np.where(positive, np.inf, -np.inf)
    scores = np.where(finite, old_logits, best), np.where(finite, new_logits, -best)
    decisions = np.where(finite, old, positive), np.where(finite, new, ~positive)
    return {
        "auc_change": _change(auc, labels, scores),
        "auc_change_error": auc_change_error(labels, *scores),
        "balanced_accuracy_change": _change(balanced_accuracy, labels, decisions),
        "classes": (int((~positive).sum()), int(positive.sum())),
    }


def _change(
    measure: Callable[[Any, Any], float | None], labels: Any, pair: tuple[Any, Any]
) -> float | None:
    before, after = (measure(labels, one) for one in pair)
    return None if before is None or after is None else after - before


def run_views(engine: Engine, spec: DetectorSpec, crops: npt.NDArray[np.uint8]) -> F32:
    """Logits f32 [n] of views u8 [n, S, S, 3], at the spec's keep rule, one view at a time.

    One at a time, since a dynamic int8 engine takes its scales from the whole batch and a camera
    shows it one frame.
    """
    return np.concatenate([logits_of(engine, spec, view[None]) for view in crops])


def smoke_test(
    logits: F32, golden: Golden, calibration: Calibration, reference: str = TRAINED
) -> Comparison:
    """Compare an engine's logits of the golden crops with those that `reference` gave them."""
    return compare(
        golden.logits,
        logits,
        calibration,
        names=[f"golden {index}" for index in range(len(golden.logits))],
        images_sha256=sha256(golden.crops.tobytes()),
        reference_name=reference,
    )


def smoke_faults(
    now: Comparison, golden: Golden, precision: Precision, certified: Comparison | None = None
) -> list[str]:
    """What a smoke test shows to be wrong, a sentence each; empty if nothing is.

    Flips are not asked for: on a few dozen crops they show only what the differences show sooner,
    and which crop flips is drawn anew by every processor.

    Args:
        certified: the smoke test where the engine was certified, to compare with.
    """
    out = []
    if now.not_finite:
        out.append(f"{now.not_finite} of {now.images} logits of the smoke test are not finite")
    exact = set(precision.types) == {"float32"}
    limits = {"mean": EXACT if exact else COARSE * float(np.ptp(golden.logits))}
    if certified is not None:
        for name, factor in REDRAWN.items():
            before = certified.logit_difference.get(name)
            if before is not None:
                limit = max(EXACT, factor * before)
                limits[name] = min(limit, limits.get(name, limit))
    for name, limit in limits.items():
        value = now.logit_difference[name]
        if value is None or not value <= limit:
            shown = "infinite" if value is None else f"{value:.3g}"
            out.append(
                f"logits of the smoke test differ from {now.reference} by {shown} ({name}), "
                f"allowed {limit:.3g}"
            )
    return out


def certify(
    spec: DetectorSpec,
    smoke: Comparison,
    faults: Sequence[str],
    images: Comparison | None = None,
    budget: Budget | None = None,
    confidence: float = CONFIDENCE,
    *,
    published: str | None = None,
    not_judged: str | None = None,
) -> Certificate:
    """What the comparisons say of an engine, judged by the budget where there are images.

    Args:
        published, not_judged: see `Certificate`.
    """
    findings = budget.judge(images, confidence) if images is not None and budget else []
    judged = images is not None and budget is not None
    return Certificate(
        threshold=spec.calibration.threshold,
        unsure=spec.calibration.unsure,
        answer=overall(findings, images) if images is not None and budget else "unproven",
        budget=str(budget) if judged else None,
        confidence=confidence if judged else None,
        findings=findings,
        smoke_test=smoke,
        smoke_faults=list(faults),
        images=images,
        published=published,
        not_judged=not_judged,
    )


def not_run(spec: DetectorSpec, reason: str) -> Certificate:
    """Of an engine that cannot run where it was built; `mpft verify` runs it where it can."""
    return Certificate(
        threshold=spec.calibration.threshold,
        unsure=spec.calibration.unsure,
        answer="unproven",
        budget=None,
        confidence=None,
        findings=[],
        smoke_test=None,
        smoke_faults=[],
        images=None,
        not_run=reason,
    )


def recheck(engine: Engine, bundle: Bundle) -> tuple[Comparison, list[str]]:
    """Run a bundle's smoke test on this device; the comparison, and what it shows to be wrong."""
    certified, precision = bundle.certificate.smoke_test, bundle.info.precision
    reference = certified.reference if certified is not None else TRAINED
    if precision.defined:
        reference = EXPORTED
    logits = run_views(engine, bundle.spec, bundle.golden.crops)
    now = smoke_test(logits, bundle.golden, bundle.spec.calibration, reference)
    if precision.defined:
        return now, unequal(logits, bundle.golden.logits, reference)
    return now, smoke_faults(now, bundle.golden, precision, certified)


def unequal(logits: F32, expected: F32, whose: str) -> list[str]:
    """What is wrong with logits of the golden crops that must be `whose` in every bit, if any."""
    if np.array_equal(logits, expected):
        return []
    largest = np.abs(logits.astype(np.float64) - expected).max()
    return [
        f"logits of the smoke test are not those of {whose} in every bit, but differ by up to "
        f"{largest:.3g}"
    ]
