"""Train a detector, so that any interruption costs minutes and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import msgspec
import torch

from mpft_deploy import detector_folder
from mpft_deploy.dataset import (
    Sample,
    describe_sets,
    drop_contradicting,
    drop_shared,
    drop_unreadable,
    find_samples,
    fingerprint,
    require_both_classes,
)
from mpft_deploy.detector.backbone import Backbone, geometry, load_backbone
from mpft_deploy.detector.folds import require_families
from mpft_deploy.detector.interrupt import StopRequestedError, stop_signals
from mpft_deploy.detector.loop import Images, Loop, Reporter
from mpft_deploy.detector.model import Detector, has_bf16
from mpft_deploy.detector.probe import MOST, at_most
from mpft_deploy.detector.processes import Processes
from mpft_deploy.detector.publish import publish
from mpft_deploy.detector.run_folder import (
    FOLDS,
    OUTPUT,
    EpochReport,
    Progress,
    RunFolder,
    Tensors,
)
from mpft_deploy.detector.settings import GoldenSource, TrainSettings
from mpft_deploy.detector.thresholds import require_enough
from mpft_deploy.errors import MpftError, UsageError
from mpft_deploy.evaluate.scores import Score
from mpft_deploy.files import display
from mpft_deploy.finding import others_in
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
    micro_batch: int | None = None,
) -> Trained:
    """Teach a backbone's head, or fine-tune all of it, on labelled images; write a detector folder.

    The run's checkpoint, log and curves stay in `OUT.run`. Of several processes that `torchrun`
    started all are called alike; the first reads the data and the backbone, tells and writes.

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
        micro_batch: images that a process runs at a time; None for its share of a batch. Like the
            number of processes it changes nothing but time and memory.

    Raises:
        UsageError: settings that do not fit, or differ from those of the run that is resumed.
        InputError: data or backbone cannot be used.
        GateError: training diverged, or its logits rank no better than chance.
        InterruptedRunError: SIGINT or SIGTERM came; the checkpoint is written.
    """
    if settings.folds and val:
        raise UsageError("folds validate by the images of DATA: pass no --val, or no --folds")
    settings.require("epochs", *["micro_batch"] * (micro_batch is not None))
    run = RunFolder(out)
    tensors: Tensors = {}
    backbone: Backbone | None = None
    with Processes.join(device) as processes, ExitStack() as held:

        def begin() -> tuple[Images, Progress]:
            nonlocal tensors, backbone
            if settings.epochs and settings.batch < processes.count:
                raise UsageError(
                    f"a batch of {settings.batch} has no image for each of {processes.count} "
                    "processes: pass a larger --batch, or start fewer"
                )
            source = settings.backbone.partition("@")[2]
            inputs = (*data, *val, *([Path(source)] if source else ()))
            held.enter_context(
                reserve(out, detector_folder.OUTPUT, replace=overwrite, inputs=inputs)
            )
            held.enter_context(reserve(run.path, OUTPUT, inputs=inputs))
            # All that can be wrong comes before images are decoded.
            settings.blocks(geometry(settings.backbone.partition("@")[0]))
            run.check(resume=resume, overwrite=overwrite)
            found = _find_images(data, val, settings, reporter)
            progress = None
            if resume:
                progress, tensors = run.load()
            chosen = _with_precision(settings, progress, processes.device, reporter)
            if progress is not None:
                _require_same(progress.settings.differences(chosen))
            if chosen.needs_backbone(resume):
                backbone = load_backbone(chosen.backbone)
            images = _check_images(found, chosen, reporter)
            hashes = {"train": fingerprint(images.train), "val": fingerprint(images.val)}
            if progress is not None:
                _require_same(_other_images(progress, hashes))
            else:
                progress = Progress(settings=chosen, data=hashes)
                run.start()
            run.draw(progress)
            held.callback(run.close)
            return images, progress

        images, progress = processes.from_first(begin)
        settings = progress.settings
        tower = geometry(settings.backbone.partition("@")[0])
        model = Detector(tower, settings.blocks(tower), dropout=settings.dropout)
        if backbone is not None and not resume:
            model.take_backbone(backbone)
        loop = Loop(
            model.to(processes.device), images, run, progress, reporter,
            processes=processes, micro_batch=micro_batch,
        )  # fmt: skip
        if resume:
            loop.restore(tensors)
            reporter.line(f"resumed at step {progress.step} of {loop.total}")
        else:
            loop.start()
        loop.save()  # shows at once whether the folder can be written and has room
        with stop_signals() as requested:

            def check(together: bool = True) -> None:
                """Stop, where all processes are, or only this one is."""
                if processes.any(requested()) if together else requested():
                    raise StopRequestedError

            try:
                loop.run(check)
                finished = loop.finished(backbone, stored, check)
                learnt = images.train if settings.epochs else images.head
                spec, validation = processes.from_first(
                    lambda: publish(
                        finished, out, settings, learnt, images.val,
                        folds=run.path / FOLDS, stored=stored, golden=golden, overwrite=overwrite,
                        epochs=loop.progress.epochs, check=lambda: check(together=False),
                    )
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
        images = Images(find_samples(data), [], [])
        _require_folds(images.train, settings)
    else:
        train, held_out = find_samples(data, "train"), find_samples(val, "val")
        train = drop_shared(train, held_out, reporter.line, by=attrgetter("path"))
        images = Images(train, held_out, [])
        require_both_classes(held_out, VALIDATION)
    require_both_classes(images.train, TRAINING)
    if others := others_in(dict.fromkeys([*data, *val])):
        reporter.line(others)
    for samples, what in ((images.train, TRAINING), (images.val, VALIDATION)):
        if samples:
            reporter.line(f"{what}: {describe_sets(samples)}")
    return images


def _check_images(found: Images, settings: TrainSettings, reporter: Reporter) -> Images:
    """Decode some images: bad ones and copies are left out, and the others are what is asked.

    Those are what teaches the head, and what is validated on: at most MOST of each, so that nothing
    waits for a pass over the data. What fine-tuning alone reads is found out when it is read.
    """
    train, val = (at_most(samples, settings.seed) for samples in (found.train, found.val))
    reporter.line(f"decoding {len(train) + len(val)} images, to find bad ones and copies")
    head, kept = (
        drop_contradicting(drop_unreadable(samples, reporter.line), reporter.line)
        for samples in (train, val)
    )
    head = drop_shared(head, kept, reporter.line)
    require_both_classes(head, TRAINING)
    left_out = {sample.path for sample in train} - {sample.path for sample in head}
    images = Images([one for one in found.train if one.path not in left_out], kept, head)
    told = f"{len(images.train)} images to learn from"
    if len(found.train) > MOST:
        told += f", the head from {len(head)} of them"
    if settings.folds:
        _require_folds(head, settings)  # without those that were not drawn, or left out
        reporter.line(f"{told}, in {settings.folds} folds")
        return images
    require_both_classes(kept, VALIDATION)
    drawn = f" of {len(found.val)}" if len(found.val) > MOST else ""
    reporter.line(f"{told}, {len(kept)}{drawn} to validate on")
    return images


def _require_folds(samples: Sequence[Sample], settings: TrainSettings) -> None:
    """An InputError where images are too few for the folds, or for the threshold by these."""
    require_families(samples, settings.folds, settings.seed)
    require_enough([sample.label for sample in samples], settings.false_alarm, None)


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
