"""Fine-tune a detector, so that any interruption costs minutes and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpft_deploy.dataset import (
    drop_unreadable,
    find_samples,
    fingerprint,
    require_both_classes,
    require_disjoint,
)
from mpft_deploy.detector.backbone import geometry, load_backbone
from mpft_deploy.detector.interrupt import StopRequestedError, stop_signals
from mpft_deploy.detector.loop import Images, Loop, Reporter
from mpft_deploy.detector.model import Detector, choose_device
from mpft_deploy.detector.publish import publish
from mpft_deploy.detector.run_folder import EpochReport, Progress, RunFolder
from mpft_deploy.detector.settings import GoldenSource, TrainSettings
from mpft_deploy.errors import MpftError, UsageError
from mpft_deploy.evaluate.scores import Score
from mpft_deploy.files import check_free, display
from mpft_deploy.spec import Calibration
from mpft_deploy.weights import Stored


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
    """Fine-tune a backbone on labelled images and write a detector folder.

    The run's checkpoint, log and curves stay in `OUT.run`.

    Args:
        data: folders or manifests to learn from, see `find_samples`; split `train` where stated.
        val: the same to validate and calibrate on; split `val` where stated.
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
    check_free(out, replace=overwrite)
    tower = geometry(settings.backbone.partition("@")[0])
    depth = settings.blocks(tower)
    target = choose_device(device)
    run = RunFolder(out)
    images = _load_images(data, val, reporter)
    hashes = {"train": fingerprint(images.train), "val": fingerprint(images.val)}
    backbone = load_backbone(settings.backbone) if settings.needs_backbone(resume) else None
    if resume:
        progress, tensors = run.load()
        _require_same(progress, settings, hashes)
        model = Detector(tower, depth, dropout=settings.dropout)
    else:
        assert backbone is not None
        model = Detector.from_backbone(backbone, depth, dropout=settings.dropout)
        progress, tensors = Progress(settings=settings, data=hashes), None
        run.start(overwrite=overwrite)
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
                loop.finished(backbone, check), out, settings, images.train, images.val,
                stored=stored, golden=golden, overwrite=overwrite,
                epochs=loop.progress.epochs, check=check,
            )  # fmt: skip
        except StopRequestedError:
            loop.save()
            raise InterruptedRunError(
                f"interrupted at step {loop.progress.step} of {loop.total}; the checkpoint is in "
                f"{display(run.path)}. Go on with the same command and --resume."
            ) from None
    step_seconds = loop.progress.seconds / max(1, loop.progress.step)
    return Trained(out, validation, spec.calibration, loop.progress.epochs, step_seconds)


def _load_images(data: Sequence[Path], val: Sequence[Path], reporter: Reporter) -> Images:
    """Find, check and decode all images."""
    train_samples, val_samples = find_samples(data, "train"), find_samples(val, "val")
    require_disjoint(train_samples, val_samples)
    reporter.line(f"decoding {len(train_samples) + len(val_samples)} images once, to find bad ones")
    images = []
    for samples, what in (
        (train_samples, "the training data"),
        (val_samples, "the validation data"),
    ):
        readable = drop_unreadable(samples, reporter.line)
        require_both_classes(readable, what)
        images.append(readable)
    reporter.line(f"{len(images[0])} images to learn from, {len(images[1])} to validate on")
    return Images(*images)


def _require_same(progress: Progress, settings: TrainSettings, data: dict[str, str]) -> None:
    """A UsageError that names what differs from the run that is resumed."""
    differences = progress.settings.differences(settings)
    for name, what in (("train", "training"), ("val", "validation")):
        if progress.data.get(name) != data[name]:
            differences.append(f"the {what} images are not those of the run")
    if differences:
        raise UsageError(
            "the run cannot be resumed with other settings: " + "; ".join(differences)
            + ". Use the same, or begin anew with --overwrite."
        )  # fmt: skip
