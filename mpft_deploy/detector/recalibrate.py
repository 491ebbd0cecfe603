"""A detector's calibration on someone's own images: shift and scale, threshold, unsure band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.dataset import Sample, fingerprint
from mpft_deploy.detector.calibrate import cross_measured, fit_calibration, measure_held_out
from mpft_deploy.detector.card import with_held_out, with_operating_point
from mpft_deploy.detector.evaluate import crop_logits
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.thresholds import (
    FalseAlarms,
    false_alarm_threshold,
    false_alarms,
    require_enough,
    unsure_edges,
)
from mpft_deploy.detector_folder import DetectorFolder, Golden, rewrite_detector
from mpft_deploy.errors import GateError, InputError, UsageError
from mpft_deploy.evaluate.metrics import METRICS, bootstrap, interval, measure
from mpft_deploy.evaluate.predictions import probabilities
from mpft_deploy.spec import Calibration, KeepRule, Record, ViewPolicy
from mpft_deploy.weights import F32

AUC = list(METRICS).index("auc")

SUSPECTED = 3
"""Times the false alarms of its threshold, a picture that would be one of so many is unsure."""


class Outcome(Record, frozen=True):
    """Calibrations before and after, and their figures on the images that were fitted to.

    Figures go by the names of METRICS; None where a class is missing.
    """

    before: Calibration
    after: Calibration
    keep: str
    real: int
    generated: int
    false_alarms: FalseAlarms
    figures_before: dict[str, float | None]
    figures_after: dict[str, float | None]

    @property
    def measured_only(self) -> bool:
        """Whether nothing changed but what the calibration is known to be worth."""
        return msgspec.structs.replace(self.before, held_out=self.after.held_out) == self.after

    def provenance(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What a spec says of it; `samples` are the images that were fitted to."""
        return {
            "keep": self.keep,
            "real": self.real,
            "generated": self.generated,
            "sets": sorted({sample.set for sample in samples}),
            "images": fingerprint(samples),
            "figures": self.figures_after,
            "false_alarms": msgspec.to_builtins(self.false_alarms),
        }


def require_possible(
    labels: Sequence[int],
    *,
    held_out: bool = False,
    false_alarm: float | None = None,
    unsure_error: float | None = None,
) -> None:
    """What is asked for can be had of images with these labels, whatever their logits.

    Args:
        held_out, false_alarm, unsure_error: as `recalibrate` takes them.

    Raises:
        InputError: no real images, or too few to bound that share.
        UsageError: real images alone, without `false_alarm` or with `unsure_error`; or one of them
            with `held_out`.
    """
    if 0 not in labels:
        raise InputError("calibration needs real images, or real and generated ones")
    if held_out:
        if false_alarm is not None or unsure_error is not None:
            raise UsageError("--held-out changes no threshold: pass it alone")
    elif 1 not in labels and (false_alarm is None or unsure_error is not None):
        raise UsageError(
            "with real images alone only a threshold can be set: pass --false-alarm, such as 5%, "
            "and no --unsure-error"
        )
    else:
        require_enough(labels, false_alarm, unsure_error)


def recalibrate(
    before: Calibration,
    labels: npt.ArrayLike,
    logits: F32,
    keep: KeepRule,
    *,
    sources: Sequence[str] = (),
    views: ViewPolicy = "centre",
    groups: Sequence[str] = (),
    held_out: bool = False,
    false_alarm: float | None = None,
    unsure_error: float | None = None,
) -> Outcome:
    """Fit a calibration to the logits of some images.

    With both classes, shift and scale are fitted and the threshold is one half, or wherever the
    wanted share of false alarms puts it. With real images alone only the threshold moves. With such
    a share the unsure band lies below the threshold, down to where SUSPECTED times as many false
    alarms would put it; else it keeps its distances from the threshold in log odds, unless
    `unsure_error` sets it.

    Args:
        labels: [n], 1 for generated.
        logits: f32 [n].
        keep: the rule that they were taken under.
        sources: [n], where each image comes from; or none, if that is not known.
        views: the policy that they are means over.
        groups: [n], names of what images share a camera, collection or generator with; then the
            calibration says what it is worth on other groups, each by a fit to the others.
        held_out: change nothing but that, which is measured as the calibration stands.
        false_alarm: the largest share of real images that may be called generated, as an upper
            bound for those to come.
        unsure_error: the largest share of each class that may be decided wrongly outside the band,
            likewise.

    Raises:
        GateError: the logits do not rank the images, or no threshold gives so few false alarms.
        InputError, UsageError: as `require_possible`.
    """
    truth, values = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    real, generated = (int((truth == label).sum()) for label in (0, 1))
    require_possible(
        truth.tolist(), held_out=held_out, false_alarm=false_alarm, unsure_error=unsure_error
    )
    fitted, band = before, None
    if held_out:
        odds = [before.log_odds(logit) for logit in values.tolist()]
        fitted = msgspec.structs.replace(before, held_out=measure_held_out(truth, odds, groups))
        band = before.unsure
    elif generated:
        _require_ranking(truth, values, logits, before)
        worth = cross_measured(truth, values, groups) if groups else None
        fitted = msgspec.structs.replace(fit_calibration(truth, values), held_out=worth)
    chances = probabilities(fitted, logits)
    of_real = [source for source, label in zip(sources, truth, strict=False) if label == 0]
    threshold = before.threshold if held_out else 0.5
    if false_alarm is not None:
        threshold = false_alarm_threshold(chances[truth == 0], false_alarm, of_real)
        if not 0 < threshold < 1:
            raise GateError(
                f"no probability below 1 gives {false_alarm:.2%} false alarms: "
                "the logits of the real images are too high for this scale"
            )
    if unsure_error is not None:
        low, high = unsure_edges(chances[truth == 0], chances[truth == 1], unsure_error)
        band = (min(low, threshold), max(high, threshold))
    elif false_alarm is not None:
        suspected = max(false_alarm, min(SUSPECTED * false_alarm, 0.5))
        low = false_alarm_threshold(chances[truth == 0], suspected, of_real)
        band = (min(low, threshold), threshold)
    else:
        band = band or _moved_band(before, threshold)
    after = msgspec.structs.replace(fitted, threshold=threshold, unsure=band, views=views)
    return Outcome(
        before=before,
        after=after,
        keep=str(keep),
        real=real,
        generated=generated,
        false_alarms=false_alarms(chances[truth == 0], threshold, of_real),
        figures_before=_figures(truth, logits, before),
        figures_after=_figures(truth, logits, after),
    )


def write_outcome(
    model: Detector, folder: DetectorFolder, outcome: Outcome, samples: Sequence[Sample]
) -> None:
    """Write the outcome into the detector's spec and model card; golden logits if the rule changed.

    What was fitted to views that move is the calibration of streams; it leaves that of pictures.

    Args:
        model: as it was read from `folder`.
        samples: the images, for the provenance.
    """
    spec, golden = folder.spec, None
    after = outcome.after
    of_streams = after.views == "moving"
    told = ("stream " if of_streams else "") + (
        "held_out" if outcome.measured_only else "calibration"
    )
    changed = msgspec.structs.replace(
        spec,
        keep=outcome.keep,
        calibration=spec.calibration if of_streams else after,
        stream=after if of_streams else spec.stream if outcome.keep == spec.keep else None,
        training={**spec.training, told: outcome.provenance(samples)},
    )
    if outcome.keep != spec.keep:
        crops = folder.golden.crops
        logits = crop_logits(model.cpu(), crops, changed.keep_rule, seed=spec.keep_seed)
        golden = Golden(crops, logits)
    unchanged = of_streams or outcome.measured_only
    card = folder.card if unchanged else with_operating_point(folder.card, changed)
    card = with_held_out(card, changed.calibration.held_out)
    rewrite_detector(folder.path, changed, golden=golden, card=card)


def _require_ranking(
    truth: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    logits: F32,
    calibration: Calibration,
) -> None:
    """A GateError unless the interval of the AUC lies above one half."""
    chances = probabilities(calibration, logits)
    point, samples = bootstrap(truth, values, chances, calibration, name="calibration")
    low, high = interval(samples[:, AUC])
    if not low > 0.5:
        raise GateError(
            f"the detector does not rank these images: AUC {point[AUC]:.3f}, 95 % interval "
            f"{low:.3f} to {high:.3f}, which does not lie above 0.5. Where ranking fails no "
            "calibration can help: train on data closer to these images, or give more of them"
        )


def _moved_band(before: Calibration, threshold: float) -> tuple[float, float]:
    """The unsure band around another threshold, at the same distances in log odds."""
    low, high = (
        threshold
        if edge == before.threshold
        else _chance(_log_odds(threshold) + _log_odds(edge) - _log_odds(before.threshold))
        for edge in before.unsure
    )
    return min(low, threshold), max(high, threshold)


def _log_odds(chance: float) -> float:
    bounded = min(max(chance, 1e-12), 1 - 1e-12)
    return math.log(bounded / (1 - bounded))


def _chance(log_odds: float) -> float:
    return Calibration().probability(log_odds)


def _figures(
    truth: npt.NDArray[np.int64], logits: F32, calibration: Calibration
) -> dict[str, float | None]:
    values = measure(
        truth, logits.astype(np.float64), probabilities(calibration, logits), calibration
    )[0]
    return {
        name: None if math.isnan(value) else float(value)
        for name, value in zip(METRICS, values.tolist(), strict=True)
    }
