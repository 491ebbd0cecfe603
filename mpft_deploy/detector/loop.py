"""The steps and epochs of fine-tuning, resumable at any step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.backbone import Backbone
from mpft_deploy.detector.batches import Batch, Masking, training_batches
from mpft_deploy.detector.evaluate import image_logits
from mpft_deploy.detector.features import look_features
from mpft_deploy.detector.folds import fit_on_looks
from mpft_deploy.detector.lora import adapt, merged
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.optimiser import Tower, optimise, schedule
from mpft_deploy.detector.probe import INVERSE_PENALTY, Probe, fit_head
from mpft_deploy.detector.processes import ALONE, Processes
from mpft_deploy.detector.run_folder import CHECKPOINT, EpochReport, Progress, RunFolder, Tensors
from mpft_deploy.errors import GateError, InputError
from mpft_deploy.evaluate.scores import score
from mpft_deploy.files import display
from mpft_deploy.spec import KeepRule
from mpft_deploy.weights import F32, Stored

CLIP_NORM = 1.0
CHECKPOINT_SECONDS = 600.0

START_INVERSE_PENALTY = 1e-3
"""Of the probe that fine-tuning starts from. A probe of 0.1 is so sure of itself that what it gets
wrong drowns the rest: after one epoch the loss of nine blocks was 0.90 from such
a start, and 0.57 from this one (learning from `faces`, masked views)."""

MOMENTS = ("exp_avg", "exp_avg_sq")


class Reporter(Protocol):
    """Who is told how a run goes."""

    def line(self, text: str) -> None:
        """Something worth a line."""

    def step(self, done: int, total: int, text: str) -> None:
        """A step was done, `text` of it."""


@dataclass(frozen=True)
class Images:
    """What is learnt from, what is validated on, and those of the first that teach the head."""

    train: list[Sample]
    val: list[Sample]
    head: list[Sample]


@dataclass(frozen=True)
class Finished:
    """The model to keep.

    samples: the images that its head was fitted on.
    features: f32 [looks, n, F], what it reads of random views of them; None if it was fitted on
        their centres alone.
    """

    model: Detector
    samples: list[Sample]
    features: F32 | None


class Loop:
    """The steps and epochs of a run, with all that changes from one to the next.

    A step's batch is shared out among the processes, and each takes its share in parts. The head,
    with the normalisation before it, sees the features of the whole batch on every process, so that
    neither how many processes there are nor how large the parts are changes what is learnt.
    """

    def __init__(
        self,
        model: Detector,
        images: Images,
        run: RunFolder,
        progress: Progress,
        reporter: Reporter,
        *,
        processes: Processes = ALONE,
        micro_batch: int | None = None,
    ) -> None:
        """Args: micro_batch, images that a process runs at a time; None for its whole share."""
        self.model, self.images, self.run_folder = model, images, run
        self.progress, self.reporter, self.processes = progress, reporter, processes
        self.settings = settings = progress.settings
        self.epoch_steps = math.ceil(len(images.train) / settings.batch)
        self.total = settings.epochs * self.epoch_steps
        self.device = next(model.parameters()).device
        self.bf16 = settings.precision == "bf16"
        self.masking = Masking.parse(
            settings.train_keep, model.tower, zero_fill=settings.fill == "zero"
        )
        self.share = processes.share(settings.batch)
        largest = -(-settings.batch // processes.count)
        self.micro_batch = micro_batch or largest
        self.in_parts = self.micro_batch < largest  # on all processes, if on any
        if settings.lora:
            torch.manual_seed(settings.seed)
            adapt(model.visual, settings.lora)
        tower = Tower(model)
        self.optimiser = optimise(tower, model.head, settings)
        self.schedule = schedule(self.optimiser, self.total)
        self.average = ModelEmaV3(model.visual, settings.ema) if settings.ema else None
        several = processes.count > 1 and self.total
        self.tower: nn.Module = DistributedDataParallel(tower) if several else tower
        self._saved_at = time.monotonic()

    def run(self, check: Callable[[], None]) -> None:
        """Go on from where the progress stands to the end; `check` raises to stop."""
        for epoch in range(len(self.progress.epochs), self.settings.epochs):
            batches = training_batches(
                self.images.train,
                self.masking,
                batch=self.settings.batch,
                seed=self.settings.seed,
                first=self.progress.step,
                stop=(epoch + 1) * self.epoch_steps,
                augment=self.settings.augment,
                share=self.share,
                report=self.reporter.line,
            )
            with contextlib.closing(batches):
                for batch in batches:
                    self._step(batch)
                    check()
                    if time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                        self.save()
            self._end_epoch(epoch, check)
            self.save()

    def start(self) -> None:
        """Begin from a linear probe."""
        if not self.total:
            return  # the head is fitted at the end
        self.reporter.line("fitting the head on the frozen backbone")
        self._align()
        self._fit_head(self.model, self.masking, START_INVERSE_PENALTY)

    def _fit_head(
        self,
        model: Detector,
        masking: Masking,
        inverse_penalty: float = INVERSE_PENALTY,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        fit_head(
            model,
            self.images.head,
            masking,
            seed=self.settings.seed,
            bf16=self.bf16,
            inverse_penalty=inverse_penalty,
            after_batch=check,
            processes=self.processes,
        )

    def finished(
        self, backbone: Backbone | None, stored: Stored, check: Callable[[], None]
    ) -> Finished:
        """The model to keep: blended with the backbone, rounded, its head fitted for inference.

        Fine-tuning itself reads the last block alone: a loss on middle blocks makes them forget
        what they were to be read for (docs/method.md).

        Args:
            backbone: None where nothing is blended.
            stored: how its weights are rounded before the head is fitted.
            check: called between batches; may raise.
        """
        settings = self.settings
        depth = self.model.depth
        model = Detector(self.model.tower, depth, taps=settings.read(depth)).to(self.device)
        learnt = self.average.module if self.average else self.model.visual
        model.visual.load_state_dict(merged(learnt))
        if settings.blends:
            share = settings.blend
            self.reporter.line(f"blending: {share:g} fine-tuned, {1 - share:g} frozen backbone")
            if backbone is not None:  # of the first process, which the others then follow
                for name, weight in model.visual.named_parameters():
                    weight.data.lerp_(backbone.weights[name].to(weight), 1 - share)
        model.round_tower(stored)
        self.processes.align(model.visual.state_dict().values())
        rule = KeepRule.parse(settings.keep)
        self.reporter.line(f"fitting the head for {rule}, blocks read: {model.taps}")
        masking = Masking((rule,), False, self.masking.patch, self.masking.size)
        samples = self.images.head
        if not settings.augment:
            self._fit_head(model, masking, check=check)
            return Finished(model, samples, None)

        def step(done: int, total: int) -> None:
            self.reporter.step(done, total, "views")
            check()

        features = look_features(
            model,
            samples,
            masking,
            self.run_folder.features(stored),
            seed=settings.seed,
            bf16=self.bf16,
            step=step,
            processes=self.processes,
        )

        def fit() -> Probe:
            return fit_on_looks(features, samples)

        self.processes.from_first(fit).put_into(model)
        return Finished(model, samples, features)

    def save(self) -> None:
        """Write the checkpoint."""
        if self.processes.first:
            tensors = {name: value.cpu().numpy() for name, value in self._state().items()}
            self.run_folder.save(self.progress, tensors)
        self._saved_at = time.monotonic()

    def restore(self, tensors: Tensors) -> None:
        """Take all that changes from a checkpoint; on other processes than the first, from that."""
        for parameter in self._learnt().values() if self.progress.step else ():
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(self.progress.step), device=self.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }

        def take() -> None:
            try:
                for name, value in self._state().items():
                    value.copy_(torch.from_numpy(tensors[name]))
            except (KeyError, RuntimeError) as error:
                path = display(self.run_folder.path / CHECKPOINT)
                raise InputError(f"{path} lacks {error}; begin anew with --overwrite") from None

        self.processes.from_first(take)
        self._align()

    def _learnt(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.model.named_parameters() if one.requires_grad}

    def _state(self) -> dict[str, torch.Tensor]:
        """All that a checkpoint holds, by name, to be read or set in place."""
        state = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self._learnt().items():
            for moment in MOMENTS if parameter in self.optimiser.state else ():
                state[f"{moment}/{name}"] = self.optimiser.state[parameter][moment]
        if self.average:
            state |= {f"ema/{k}": value for k, value in self.average.module.state_dict().items()}
        return state

    def _align(self) -> None:
        """Give all processes what the first one has."""
        self.processes.align(self._state().values())

    def _step(self, batch: Batch) -> None:
        began, step = time.monotonic(), self.progress.step
        # Seeded by step, dropout is the same after a resume.
        torch.manual_seed(self.settings.seed * 2**31 + step)
        self.schedule.step_update(step + 1)
        self.model.train()
        parts = [
            (patches.to(self.device), positions.to(self.device))
            for patches, positions in zip(
                torch.split(batch.patches, self.micro_batch),
                torch.split(batch.positions, self.micro_batch),
                strict=True,
            )
        ]
        # Of parts no graph is kept: their features are made again for the way back.
        with torch.set_grad_enabled(not self.in_parts):
            made = [self._features(*part) for part in parts]
        features = torch.zeros(len(batch.labels), made[0].shape[1], device=self.device)
        own = slice(self.share.start, self.share.stop)
        features[own] = torch.cat(made).detach()
        self.processes.sum(features).requires_grad_()
        loss = functional.binary_cross_entropy_with_logits(
            self.model.judge(features), batch.labels.to(self.device)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise GateError(
                f"the loss is {value} at step {step + 1}: lower --backbone-lr or --head-lr"
            )
        assert features.grad is not None
        # The gradients of processes are averaged, and this loss is a mean over all of them already.
        gradients = torch.split(features.grad[own] * self.processes.count, self.micro_batch)
        for at, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
            with self._unsynchronised(at + 1 < len(parts)):
                feature = self._features(*part) if self.in_parts else made[0]
                feature.backward(gradient)  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average:
            self.average.update(self.model.visual)
        seconds = time.monotonic() - began
        self.progress = msgspec.structs.replace(
            self.progress, step=step + 1, seconds=self.progress.seconds + seconds
        )
        if self.processes.first:
            rate = self.optimiser.param_groups[-1]["lr"]
            self.run_folder.log(
                "step", step=step + 1, loss=value, head_lr=rate, seconds=round(seconds, 3)
            )
        self.reporter.step(step + 1, self.total, f"loss {value:.3f}")

    def _features(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            feature: torch.Tensor = self.tower(patches, positions)
        return feature

    def _unsynchronised(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Whether gradients are kept until those of a later part go to the other processes."""
        if wanted and isinstance(self.tower, DistributedDataParallel):
            return self.tower.no_sync()
        return contextlib.nullcontext()

    def _end_epoch(self, epoch: int, check: Callable[[], None]) -> None:
        """Validate, log, draw and report."""
        settings, done = self.settings, self.progress.step
        rules = [KeepRule.parse(settings.keep), self.masking.rules[0], KeepRule("all")]
        logits = image_logits(
            self.model,
            self.images.val,
            rules,
            zero_fill=[False, self.masking.zero_fill, False],
            bf16=self.bf16,
            after_batch=check,
            processes=self.processes,
        )
        if not self.processes.first:
            return
        labels = [sample.label for sample in self.images.val]
        at_inference, at_training, at_all = (score(labels, values) for values in logits)
        losses = [
            event["loss"]
            for event in self.run_folder.events
            if event["event"] == "step" and event["step"] > done - self.epoch_steps
        ]
        report = EpochReport(
            epoch=epoch + 1,
            loss=float(np.mean(losses)),
            validation=at_inference,
            train_rule_auc=at_training.auc or 0.0,
            all_cells_auc=at_all.auc or 0.0,
        )
        self.progress = msgspec.structs.replace(
            self.progress, epochs=(*self.progress.epochs, report)
        )
        self.run_folder.log(
            "epoch",
            epoch=report.epoch,
            step=done,
            loss=report.loss,
            auc=at_inference.auc,
            balanced_accuracy=at_inference.balanced_accuracy,
            train_rule_auc=report.train_rule_auc,
            all_cells_auc=report.all_cells_auc,
        )
        self.reporter.line(
            f"epoch {report.epoch} of {settings.epochs}: loss {report.loss:.3f}; validation AUC "
            f"{at_inference.auc:.4f} and balanced accuracy {at_inference.balanced_accuracy:.3f} "
            f"with {settings.keep}, AUC {report.train_rule_auc:.4f} with {rules[1]}, "
            f"{report.all_cells_auc:.4f} with all cells (the model in training: before blending, "
            "and with the head that it trains)"
        )
