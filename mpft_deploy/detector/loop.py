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
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.backbone import Backbone
from mpft_deploy.detector.batches import Batch, Masking, training_batches
from mpft_deploy.detector.evaluate import image_logits
from mpft_deploy.detector.features import look_features
from mpft_deploy.detector.folds import fit_on_looks
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.probe import INVERSE_PENALTY, at_most, fit_head
from mpft_deploy.detector.run_folder import CHECKPOINT, EpochReport, Progress, RunFolder, Tensors
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.errors import GateError, InputError
from mpft_deploy.evaluate.scores import score
from mpft_deploy.files import display
from mpft_deploy.spec import KeepRule
from mpft_deploy.weights import F32, Stored

WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)
"""Of AdamW, as CLIP's transformers were trained (arXiv 2103.00020)."""
CLIP_NORM = 1.0
WARM_UP = 0.3
"""Share of the steps in which the learning rate rises."""
CHECKPOINT_SECONDS = 600.0

LAST = ("ln_post", "proj")
"""Weights of the tower that come after its blocks."""

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
    """What is learnt from, and what is validated on."""

    train: list[Sample]
    val: list[Sample]


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


def one_cycle(done: float) -> float:
    """Factor of the learning rate when a share `done` of the steps is over.

    Rises by a half cosine from 1/25 to 1, then falls to almost 0 (Smith and Topin 1708.07120).
    """
    if done < WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / WARM_UP)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


class Loop:
    """The steps and epochs of a run, with all that changes from one to the next."""

    def __init__(
        self,
        model: Detector,
        images: Images,
        run: RunFolder,
        progress: Progress,
        reporter: Reporter,
    ) -> None:
        self.model, self.images, self.run_folder = model, images, run
        self.progress, self.reporter = progress, reporter
        self.settings = settings = progress.settings
        self.epoch_steps = math.ceil(len(images.train) / settings.batch)
        self.total = settings.epochs * self.epoch_steps
        self.optimiser = _optimiser(model, settings)
        self.device = next(model.parameters()).device
        self.bf16 = settings.precision == "bf16"
        self.masking = Masking.parse(
            settings.train_keep, model.tower, zero_fill=settings.fill == "zero"
        )
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
            self.images.train,
            masking,
            seed=self.settings.seed,
            bf16=self.bf16,
            inverse_penalty=inverse_penalty,
            after_batch=check,
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
        model = Detector(self.model.tower, self.model.depth, taps=settings.taps).to(self.device)
        model.visual.load_state_dict(self.model.visual.state_dict())
        if backbone is not None and settings.blend < 1 and settings.epochs:
            share = settings.blend
            self.reporter.line(f"blending: {share:g} fine-tuned, {1 - share:g} frozen backbone")
            with torch.no_grad():
                for name, weight in model.visual.named_parameters():
                    weight.lerp_(backbone.weights[name].to(weight), 1 - share)
        model.round_tower(stored)
        rule = KeepRule.parse(settings.keep)
        self.reporter.line(f"fitting the head for {rule}, blocks read: {settings.taps}")
        masking = Masking((rule,), False, self.masking.patch, self.masking.size)
        samples = at_most(self.images.train, settings.seed)
        if not settings.augment:
            self._fit_head(model, masking, check=check)
            return Finished(model, samples, None)

        def step(done: int, total: int) -> None:
            self.reporter.step(done, total, "views")
            check()

        kept = self.run_folder.features(stored)
        features = look_features(
            model, samples, masking, kept, seed=settings.seed, bf16=self.bf16, step=step
        )
        fit_on_looks(features, samples).put_into(model)
        return Finished(model, samples, features)

    def save(self) -> None:
        """Write the checkpoint."""
        tensors: dict[str, npt.NDArray[np.generic]] = {}
        for name, value in self.model.state_dict().items():
            tensors[f"model/{name}"] = value.cpu().numpy()
        for name, parameter in self.model.named_parameters():
            for moment in MOMENTS if parameter in self.optimiser.state else ():
                value = self.optimiser.state[parameter][moment]
                tensors[f"{moment}/{name}"] = value.cpu().numpy()
        self.run_folder.save(self.progress, tensors)
        self._saved_at = time.monotonic()

    def restore(self, tensors: Tensors) -> None:
        """Take model and optimiser from a checkpoint."""
        try:
            self.model.load_state_dict(
                {
                    name: torch.from_numpy(tensors[f"model/{name}"])
                    for name in self.model.state_dict()
                }
            )
            learnt = dict(self.model.named_parameters()) if self.progress.step else {}
            for name, parameter in learnt.items():
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.progress.step), device=self.device),
                    **{
                        moment: torch.from_numpy(tensors[f"{moment}/{name}"]).to(self.device)
                        for moment in MOMENTS
                    },
                }
        except KeyError as error:
            path = display(self.run_folder.path / CHECKPOINT)
            raise InputError(f"{path} lacks {error}; begin anew with --overwrite") from None

    def _step(self, batch: Batch) -> None:
        began, step = time.monotonic(), self.progress.step
        # Seeded by step, dropout is the same after a resume.
        torch.manual_seed(self.settings.seed * 2**31 + step)
        factor = one_cycle(step / self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = group["highest_lr"] * factor
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            feature = self.model.features(
                batch.patches.to(self.device), batch.positions.to(self.device)
            )
        labels = batch.labels.to(self.device)
        loss = functional.binary_cross_entropy_with_logits(self.model.judge(feature), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise GateError(
                f"the loss is {value} at step {step + 1}: lower --backbone-lr or --head-lr"
            )
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()
        seconds = time.monotonic() - began
        self.progress = msgspec.structs.replace(
            self.progress, step=step + 1, seconds=self.progress.seconds + seconds
        )
        self.run_folder.log(
            "step", step=step + 1, loss=value, factor=round(factor, 6), seconds=round(seconds, 3)
        )
        self.reporter.step(step + 1, self.total, f"loss {value:.3f}")

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
        )
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
        self.run_folder.draw()
        self.reporter.line(
            f"epoch {report.epoch} of {settings.epochs}: loss {report.loss:.3f}; validation AUC "
            f"{at_inference.auc:.4f} and balanced accuracy {at_inference.balanced_accuracy:.3f} "
            f"with {settings.keep}, AUC {report.train_rule_auc:.4f} with {rules[1]}, "
            f"{report.all_cells_auc:.4f} with all cells (the model in training: before blending, "
            "and with the head that it trains)"
        )


def _optimiser(model: Detector, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with separate rates for backbone and head; vectors (norms, biases) do not decay.

    From the last block to the first the backbone's rate shrinks by `layer_decay` each (as for
    ELECTRA, arXiv 2003.10555): early blocks see what all images share.
    """
    blocks = list(model.visual.transformer.resblocks)
    known = {id(p) for block in blocks for p in block.parameters()}
    last = [p for name, p in model.visual.named_parameters() if name.startswith(LAST)]
    first = [p for p in model.visual.parameters() if id(p) not in known.union(map(id, last))]
    layers = [first, *(list(block.parameters()) for block in blocks), last]
    rates = [settings.backbone_lr * settings.layer_decay**age for age in range(len(layers))]
    groups = []
    for parameters, rate in (
        *zip(reversed(layers), rates, strict=True),
        (list(model.head.parameters()), settings.head_lr),
    ):
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim >= 2) == decays]
            decay = WEIGHT_DECAY if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "highest_lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=BETAS, fused=True)
