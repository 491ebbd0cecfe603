"""From trained weights to a detector folder: rounding, calibration, golden crops, model card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpft_deploy import __version__
from mpft_deploy.dataset import Sample
from mpft_deploy.detector.calibrate import fit_calibration
from mpft_deploy.detector.card import model_card
from mpft_deploy.detector.evaluate import crop_logits, image_logits
from mpft_deploy.detector.folds import LeftOut
from mpft_deploy.detector.golden import spread, synthetic_crops
from mpft_deploy.detector.loop import Finished
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.run_folder import EpochReport
from mpft_deploy.detector.settings import GoldenSource, TrainSettings
from mpft_deploy.detector_folder import Golden, write_detector
from mpft_deploy.evaluate.scores import Score, score, score_by_group, score_by_set
from mpft_deploy.files import write_atomic
from mpft_deploy.fitness import bounded_crop
from mpft_deploy.images import load_views
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32, Stored, dequantise, quantise


def publish(
    finished: Finished,
    out: Path,
    settings: TrainSettings,
    train: Sequence[Sample],
    val: Sequence[Sample],
    *,
    folds: Path,
    stored: Stored,
    golden: GoldenSource,
    overwrite: bool,
    epochs: Sequence[EpochReport],
    check: Callable[[], None] = lambda: None,
) -> tuple[DetectorSpec, Score]:
    """Calibrate a trained model and write its folder.

    The weights are rounded first, as `stored` says, so that everything measured here belongs to the
    weights as they read back.

    Args:
        val: validation images, which calibration and threshold follow from; none where `settings`
            ask for folds of what the head learnt from.
        folds: where the logits of folds are written.
        check: called between batches; may raise to stop before anything is written.

    Returns:
        The spec, and the validation score at the calibrated threshold.

    Raises:
        GateError: the logits rank no better than chance.
    """
    model = finished.model
    weights = dequantise(quantise(model.weights(), stored))
    spec = DetectorSpec(
        architecture=model.tower.architecture,
        depth=model.depth,
        patch=model.tower.patch,
        crop=bounded_crop(model.tower.size),
        train_keep=settings.train_keep,
        fill=settings.fill,
        keep=settings.keep,
        taps=model.taps,
        feature=model.feature,
    )
    rounded = Detector.from_spec(spec, weights, "the trained weights")
    rounded.to(next(model.parameters()).device)
    told: dict[str, Any] = {}
    stream = None
    if settings.folds:
        assert finished.features is not None  # settings without disturbed views have no folds
        val = finished.samples
        left_out = LeftOut.of(finished.features, val, settings.folds, settings.seed)
        write_atomic(folds, left_out.to_parquet())
        photo, of_streams = left_out.calibrations(spec.keep_rule, settings.false_alarm)
        logits, calibration, stream = left_out.means, photo.after, of_streams.after
        told["calibration"] = photo.provenance(val)
        told["stream calibration"] = of_streams.provenance(val)
    else:
        [logits] = image_logits(
            rounded, val, [spec.keep_rule], seed=spec.keep_seed, after_batch=check
        )
        calibration = fit_calibration([sample.label for sample in val], logits)
    threshold = calibration.logit_threshold
    validation = score([sample.label for sample in val], logits, threshold)
    told = {**provenance(settings, train, val, validation, epochs, stored), **told}
    spec = msgspec.structs.replace(spec, calibration=calibration, stream=stream, training=told)
    crops = _golden(rounded, spec, val, logits, golden, settings.seed)
    groups = score_by_group if settings.folds else score_by_set
    licences = _licences([*train, *(() if settings.folds else val)])
    card = model_card(spec, groups(val, logits, threshold), licences, golden)
    write_detector(out, spec, weights, crops, card, stored=stored, replace=overwrite)
    return spec, validation


def provenance(
    settings: TrainSettings,
    train: Sequence[Sample],
    val: Sequence[Sample],
    validation: Score,
    epochs: Sequence[EpochReport],
    stored: Stored,
) -> dict[str, Any]:
    """What a spec says of its training; names no folder of the machine."""
    told = msgspec.to_builtins(settings)
    name, _, source = settings.backbone.partition("@")
    told["backbone"] = f"{name}@{Path(source).name}" if source else name
    return {
        "settings": told,
        "stored_weights": stored,
        "train": _counts(train),
        "validation": _counts(val),
        "validation_score": msgspec.to_builtins(validation),
        "epochs": msgspec.to_builtins(list(epochs)),
        "versions": {
            "mpft-deploy": __version__,
            **{name: version(name) for name in ("torch", "open_clip_torch", "numpy")},
        },
    }


def _golden(
    model: Detector,
    spec: DetectorSpec,
    val: Sequence[Sample],
    logits: F32,
    source: GoldenSource,
    seed: int,
) -> Golden:
    """Golden crops with logits that the CPU gives in float32."""
    model.cpu()
    size, keep = spec.crop.size, spec.keep_rule
    if source == "validation":
        crops = load_views([val[index].path for index in spread(logits)], size)
    else:
        pool = synthetic_crops(size, seed=seed)
        crops = pool[spread(crop_logits(model, pool, keep, seed=spec.keep_seed))]
    return Golden(np.ascontiguousarray(crops), crop_logits(model, crops, keep, seed=spec.keep_seed))


def _counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Images of each class, by set."""
    counts = Counter((s.set, "generated" if s.label else "real") for s in samples)
    sets = sorted({name for name, _ in counts})
    return {name: {kind: counts[name, kind] for kind in ("real", "generated")} for name in sets}


def _licences(samples: Sequence[Sample]) -> dict[str, int]:
    """Images by the licence that a manifest states."""
    return dict(Counter(sample.licence or "not stated" for sample in samples).most_common())
