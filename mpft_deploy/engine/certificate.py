"""Does an engine give the trained model's verdicts? Compare, count flips, judge by a budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Bundle, Certificate, Comparison, Flip
from mpft_deploy.detector_folder import Golden
from mpft_deploy.engine import Engine
from mpft_deploy.errors import UsageError
from mpft_deploy.files import sha256
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Calibration, DetectorSpec
from mpft_deploy.statistics import auc, balanced_accuracy, summary, wilson_interval
from mpft_deploy.weights import F32

CLEAR = 0.05
"""Golden crops nearer to the threshold than this share of the logits' range tell nothing: there
rounding decides, and one of 32 is a flip of 3 %. Flips near the threshold are counted on images."""

METRICS = {
    "flips": "share of images whose decision changed",
    "decisive": "share of images that crossed the whole unsure band",
    "logit": "largest absolute logit difference",
    "auc": "loss of AUC against the reference, where labels are known",
}


@dataclass(frozen=True)
class Budget:
    """What an engine may cost, such as `flips<=1%,logit<=0.5`.

    terms: pairs of metric and largest allowed value; shares as fractions.
    """

    terms: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `METRIC<=LIMIT[%]`, separated by commas; a UsageError otherwise."""
        terms = []
        for part in text.split(","):
            match = re.fullmatch(r"\s*([a-z]+)\s*<=\s*(\d+(?:\.\d*)?(?:e-?\d+)?)\s*(%?)\s*", part)
            if not match or match[1] not in METRICS:
                raise UsageError(
                    f"budget {text!r} is not understood at {part.strip()!r}: write METRIC<=LIMIT "
                    f"with one of {', '.join(METRICS)}, for example flips<=1%"
                )
            terms.append((match[1], float(match[2]) / (100 if match[3] else 1)))
        return cls(tuple(terms))

    def __str__(self) -> str:
        return ",".join(
            f"{metric}<={limit * 100:g}%" if metric in ("flips", "decisive") else
            f"{metric}<={limit:g}"
            for metric, limit in self.terms
        )  # fmt: skip

    def misses(self, comparison: Comparison) -> list[str]:
        """Why the comparison misses the budget, a sentence each; empty if it holds."""
        values = {
            "flips": comparison.flip_share,
            "decisive": comparison.decisive_flips / max(comparison.images, 1),
            "logit": comparison.logit_difference["max"],
            "auc": -comparison.auc_change if comparison.auc_change is not None else None,
        }
        out = []
        for metric, limit in self.terms:
            value = values[metric]
            if value is None:
                out.append(f"{metric} cannot be judged: the images have no two labelled classes")
            elif value > limit:
                shown = (
                    f"{value:.2%}, allowed {limit:.2%}"
                    if metric in ("flips", "decisive")
                    else f"{value:.4g}, allowed {limit:g}"
                )
                out.append(f"{METRICS[metric]}: {shown} ({comparison.images} images)")
        return out


def default_budget(precision: str) -> Budget:
    """What an export is judged by when nothing else is asked for."""
    return Budget.parse("flips<=0%,logit<=0.001" if precision == "fp32" else "flips<=1%")


def compare(
    reference: F32,
    engine: F32,
    calibration: Calibration,
    *,
    names: Sequence[str],
    views: npt.NDArray[np.uint8],
    reference_name: str,
    labels: npt.NDArray[np.int_] | None = None,
) -> Comparison:
    """Compare an engine's logits with the reference's on the same views.

    Args:
        reference, engine: logits f32 [n].
        calibration: whose threshold and unsure band decide.
        names: of the images, [n].
        views: u8 [n, S, S, 3], for the hash.
        reference_name: what gave the reference logits.
        labels: [n], 1 for generated; None if not known.
    """
    before = np.array([calibration.probability(float(logit)) for logit in reference])
    after = np.array([calibration.probability(float(logit)) for logit in engine])
    low, high = calibration.unsure
    old, new = before >= calibration.threshold, after >= calibration.threshold
    flipped = old != new
    decisive = ((before <= low) & (after >= high)) | ((before >= high) & (after <= low))
    difference = np.abs(engine.astype(np.float64) - reference)
    order = sorted(np.flatnonzero(flipped).tolist(), key=lambda i: -float(difference[i]))
    auc_change = accuracy_change = None
    if labels is not None:
        aucs = auc(labels, reference), auc(labels, engine)
        accuracies = balanced_accuracy(labels, old), balanced_accuracy(labels, new)
        if aucs[0] is not None and aucs[1] is not None:
            auc_change = aucs[1] - aucs[0]
        if accuracies[0] is not None and accuracies[1] is not None:
            accuracy_change = accuracies[1] - accuracies[0]
    return Comparison(
        reference=reference_name,
        images=len(reference),
        images_sha256=sha256(np.ascontiguousarray(views).tobytes()),
        flips=int(flipped.sum()),
        flip_share=float(flipped.mean()),
        flip_interval=wilson_interval(int(flipped.sum()), len(reference)),
        decisive_flips=int(decisive.sum()),
        logit_difference=summary(difference),
        auc_change=auc_change,
        balanced_accuracy_change=accuracy_change,
        flipped=[
            Flip(
                image=names[i],
                reference_logit=float(reference[i]),
                engine_logit=float(engine[i]),
                decisive=bool(decisive[i]),
            )
            for i in order
        ],
    )


def telling(logits: F32, threshold: float) -> npt.NDArray[np.int64]:
    """Indices, ascending, of the logits that are CLEAR of a threshold; all if none is."""
    found = np.flatnonzero(np.abs(logits - threshold) >= CLEAR * np.ptp(logits))
    return found if len(found) else np.arange(len(logits))


def compare_golden(engine: Engine, spec: DetectorSpec, golden: Golden) -> Comparison:
    """Compare an engine with the logits that the trained model gave on the telling golden crops."""
    chosen = telling(golden.logits, spec.calibration.logit_threshold)
    crops = golden.crops[chosen]
    return compare(
        golden.logits[chosen],
        run_views(engine, spec, crops),
        spec.calibration,
        names=[f"golden {index}" for index in chosen],
        views=crops,
        reference_name="PyTorch float32, golden crops",
    )


def run_views(engine: Engine, spec: DetectorSpec, crops: npt.NDArray[np.uint8]) -> F32:
    """Logits f32 [n] of views u8 [n, S, S, 3], at the spec's keep rule, one view at a time.

    One at a time, since a dynamic int8 engine takes its scales from the whole batch and a camera
    shows it one frame.
    """
    logits = []
    for view in crops:
        cut = texture_patchify(view[None], spec.patch, spec.keep_rule, spec.keep_seed)
        logits.append(engine.run(cut.patches, cut.positions))
    return np.concatenate(logits)


def judge(
    golden: Comparison, images: Comparison | None, budget: Budget, calibration: Calibration
) -> Certificate:
    """Judge by the images where there are any, else by the golden crops."""
    reasons = budget.misses(images if images is not None else golden)
    return Certificate(
        threshold=calibration.threshold,
        unsure=calibration.unsure,
        golden=golden,
        images=images,
        budget=str(budget),
        passed=not reasons,
        reasons=reasons,
    )


def unproven(budget: Budget, calibration: Calibration, reason: str) -> Certificate:
    """Of an engine that cannot run where it was built; `mpft verify` judges it where it can."""
    return Certificate(
        threshold=calibration.threshold,
        unsure=calibration.unsure,
        golden=None,
        images=None,
        budget=str(budget),
        passed=False,
        reasons=["run `mpft verify` on its device"],
        not_run=reason,
    )


def worse_than_certified(now: Comparison, certificate: Certificate) -> list[str]:
    """Why an engine does worse on the golden crops than its certificate allows, if it does.

    It holds if the certified budget holds on the golden crops, or if they do no worse than where
    the engine was certified (a budget judged on many images may hold although one golden crop in a
    few dozen flips, and an engine may have been written over its budget on purpose). One without
    proof has to keep its budget.
    """
    certified = certificate.golden
    if certified is None:
        return Budget.parse(certificate.budget).misses(now)
    more_flips = now.flips > certified.flips or now.decisive_flips > certified.decisive_flips
    judged_by_golden = certificate.passed and certificate.images is None
    if more_flips or judged_by_golden:
        return Budget.parse(certificate.budget).misses(now)
    return []


def reverify(engine: Engine, bundle: Bundle) -> tuple[Comparison, list[str]]:
    """Run a bundle's golden crops on this device; the comparison and why it fails, if it does."""
    now = compare_golden(engine, bundle.spec, bundle.golden)
    reasons = [] if bundle.certificate.passed else ["the engine was written over its budget"]
    return now, reasons + worse_than_certified(now, bundle.certificate)
