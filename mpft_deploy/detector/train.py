"""Train a detector, so that any interruption costs minutes and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from mpft_deploy import detector_folder
from mpft_deploy.dataset import (
    describe_sets,
    drop_contradicting,
    drop_shared,
    drop_unreadable,
    find_samples,
    fingerprint,
    require_both_classes,
)
from mpft_deploy.detector.backbone import geometry, load_backbone
from mpft_deploy.detector.folds import require_families
from mpft_deploy.detector.interrupt import StopRequestedError, stop_signals
from mpft_deploy.detector.loop import Images, Loop, Reporter
from mpft_deploy.detector.model import Detector, choose_device, has_bf16
from mpft_deploy.detector.publish import publish
from mpft_deploy.detector.run_folder import FOLDS, OUTPUT, EpochReport, Progress, RunFolder
from mpft_deploy.detector.settings import GoldenSource, TrainSettings
from mpft_deploy.errors import MpftError, UsageError
from mpft_deploy.evaluate.scores import Score
from mpft_deploy.files import display
from mpft_deploy.images import others_in
from mpft_deploy.outputs import reserve
from mpft_deploy.spec import Calibration
from mpft_deploy.weights import Stored

TRAINING, VALIDATION = "the training data", "the validation data"


class InterruptedRunError(MpftError):
    """The run was stopped by a signal after its checkpoint was written."""

    exit_code = 130


@dataclass(frozen=True)
class Trained:
    """What a finished run gives.

    validation: of the stored weights, in float32, at the inference rule and calibrated threshold.
    step_seconds: mean time of a training step.
    """

    path: Path
    validation: Score
    calibration: Calibration
    epochs: tuple[EpochReport, ...]
    step_seconds: float


def train(
    data: Sequence[Path],
    val: Sequence[Path],
    out: Path,
    settings: TrainSettings,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stored: Stored = "float32",
    golden: GoldenSource = "validation",
    device: str = "auto",
) -> Trained:
    """Teach a backbone's head, or fine-tune all of it, on labelled images; write a detector folder.

    The run's checkpoint, log and curves stay in `OUT.run`.

    Args:
        data: folders or manifests to learn from, see `find_samples`; split `train` where stated.
        val: the same to validate and calibrate on; split `val` where stated. None with folds, for
            which images of all splits are learnt from.
        out: the detector folder.
        resume: go on with the run in `OUT.run`.
        overwrite: replace a detector, or a run unless it is resumed.
        stored: how matrices are stored; calibration and golden logits come from them as they read
            back.
        golden: where the golden crops come from.
        device: `auto`, or a torch device such as `cpu` or `cuda`.

    Raises:
        UsageError: settings that do not fit, or differ from those of the run that is resumed.
        InputError: data or backbone cannot be used.
        GateError: training diverged, or its logits rank no better than chance.
        InterruptedRunError: SIGINT or SIGTERM came; the checkpoint is written.
    """
    if settings.folds and val:
        raise UsageError("folds validate by the images of DATA: pass no --val, or no --folds")
    run = RunFolder(out)
    source = settings.backbone.partition("@")[2]
    inputs = (*data, *val, *([Path(source)] if source else ()))
    with (
        reserve(out, detector_folder.OUTPUT, replace=overwrite, inputs=inputs),
        reserve(run.path, OUTPUT, inputs=inputs),
    ):
        # All that can be wrong comes before the images are decoded, which may take hours.
        tower = geometry(settings.backbone.partition("@")[0])
        depth = settings.blocks(tower)
        target = choose_device(device)
        run.check(resume=resume, overwrite=overwrite)
        found = _find_images(data, val, settings, reporter)
        progress, tensors = run.load() if resume else (None, None)
        settings = _with_precision(settings, progress, target, reporter)
        if progress is not None:
            _require_same(progress.settings.differences(settings))
        backbone = load_backbone(settings.backbone) if settings.needs_backbone(resume) else None
        images = _load_images(found, settings, reporter)
        hashes = {"train": fingerprint(images.train), "val": fingerprint(images.val)}
        if progress is not None:
            _require_same(_other_images(progress, hashes))
            model = Detector(tower, depth, dropout=settings.dropout)
        else:
            assert backbone is not None
            model = Detector.from_backbone(backbone, depth, dropout=settings.dropout)
            progress = Progress(settings=settings, data=hashes)
            run.start()
        loop = Loop(model.to(target), images, run, progress, reporter)
        if tensors is not None:
            loop.restore(tensors)
            reporter.line(f"resumed at step {progress.step} of {loop.total}")
        else:
            loop.start()
        loop.save()  # shows at once whether the folder can be written and has room
        with stop_signals() as check:
            try:
                loop.run(check)
                spec, validation = publish(
                    loop.finished(backbone, stored, check), out, settings, images.train, images.val,
                    folds=run.path / FOLDS, stored=stored, golden=golden, overwrite=overwrite,
                    epochs=loop.progress.epochs, check=check,
                )  # fmt: skip
            except StopRequestedError:
                loop.save()
                raise InterruptedRunError(
                    f"interrupted at step {loop.progress.step} of {loop.total}; the checkpoint is "
                    f"in {display(run.path)}. Go on with the same command and --resume."
                ) from None
        step_seconds = loop.progress.seconds / max(1, loop.progress.step)
        return Trained(out, validation, spec.calibration, loop.progress.epochs, step_seconds)


def _find_images(
    data: Sequence[Path], val: Sequence[Path], settings: TrainSettings, reporter: Reporter
) -> Images:
    """All images by what their folders and manifests say, none of them opened."""
    if settings.folds:
        images = Images(find_samples(data), [])
        require_families(images.train, settings.folds, settings.seed)
    else:
        images = Images(find_samples(data, "train"), find_samples(val, "val"))
        require_both_classes(images.val, VALIDATION)
    require_both_classes(images.train, TRAINING)
    if others := others_in(dict.fromkeys([*data, *val])):
        reporter.line(others)
    for samples, what in ((images.train, TRAINING), (images.val, VALIDATION)):
        if samples:
            reporter.line(f"{what}: {describe_sets(samples)}")
    return images


def _load_images(found: Images, settings: TrainSettings, reporter: Reporter) -> Images:
    """Decode all images once: those that can be used, none of them twice over."""
    count = len(found.train) + len(found.val)
    reporter.line(f"decoding {count} images once, to find bad ones and copies")
    train, val = (
        drop_contradicting(drop_unreadable(samples, reporter.line), reporter.line)
        for samples in (found.train, found.val)
    )
    train = drop_shared(train, val, reporter.line)
    require_both_classes(train, TRAINING)
    if settings.folds:
        reporter.line(f"{len(train)} images to learn from, in {settings.folds} folds")
        return Images(train, val)
    require_both_classes(val, VALIDATION)
    reporter.line(f"{len(train)} images to learn from, {len(val)} to validate on")
    return Images(train, val)


def _with_precision(
    settings: TrainSettings, progress: Progress | None, device: torch.device, reporter: Reporter
) -> TrainSettings:
    """The settings with a precision in place of `auto`, told; that of the run which is resumed."""
    wanted, able = settings.precision, has_bf16(device)
    what = "has bf16 instructions" if able else "has no bf16 instructions"
    if wanted == "auto":
        chosen = progress.settings.precision if progress else "bf16" if able else "f32"
        settings = msgspec.structs.replace(settings, precision=chosen)
    text = f"matmuls in {settings.precision}: this device ({device.type}) {what}"
    if settings.precision == "bf16" and not able:
        text += "; f32 would be faster"
    reporter.line(text)
    return settings


def _other_images(progress: Progress, data: dict[str, str]) -> list[str]:
    return [
        f"the {what} images are not those of the run"
        for name, what in (("train", "training"), ("val", "validation"))
        if progress.data.get(name) != data[name]
    ]


def _require_same(differences: Sequence[str]) -> None:
    """A UsageError that names what differs from the run that is resumed, if anything."""
    if differences:
        raise UsageError(
            "the run cannot be resumed with other settings: " + "; ".join(differences)
            + ". Use the same, or begin anew with --overwrite."
        )  # fmt: skip
