"""What a training run is told: every choice that the result depends on, besides the data."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from mpft_deploy.detector.backbone import Geometry
from mpft_deploy.detector.recipe import Recipe
from mpft_deploy.errors import UsageError
from mpft_deploy.spec import KeepRule, Record, parse_mixture

Precision = Literal["auto", "bf16", "f32"]
GoldenSource = Literal["validation", "synthetic"]


IDLE = {
    "epochs": ("train_keep", "fill", "batch", "backbone_lr", "head_lr", "layer_decay", "lora",
               "ema", "dropout", "blend"),
    "folds": ("false_alarm",),
}  # fmt: skip
"""Setting → those that do nothing without it."""


class TrainSettings(Record, frozen=True):
    """Settings of a run. The paper's abstract fixes none of them: the defaults are ours, those of
    the shipped detector (docs/method.md).

    Attributes:
        backbone: NAME[@SOURCE], see `load_backbone`.
        train_keep, fill: cells kept while fine-tuning (several rules joined by `+` take turns), and
            whether the others are dropped or their pixels zeroed.
        keep: cells kept at inference; validation and calibration go by it.
        depth: how many of the backbone's blocks are used; None for two thirds of them.
        taps: after how many of these, the last ones, the class token is read at inference; None for
            three quarters of them.
        epochs, batch: passes over the training images; images a step, of all processes together.
            Without any, the backbone stays as it is and the head alone is fitted.
        backbone_lr, head_lr: highest learning rates of the schedule.
        layer_decay: factor of the backbone's rate from a block to the one before it.
        lora: rank of the updates of its matrices that are learnt in place of the backbone; 0: all
            of it is.
        ema: share of itself that a moving average of the weights keeps at each step; that is what
            is blended and kept. 0: the last weights are.
        augment: share of training images that are resized, blurred or re-saved.
        dropout: share of the normalised feature that is zeroed before the head while training.
        blend: share of the fine-tuned weights in those that are kept; the rest are the backbone's,
            and the head is fitted anew. Between the two lies what generalises best (WiSE-FT,
            Wortsman et al., arXiv 2109.01903).
        folds: of which each is left out once while a head learns from the others; what they say of
            the images is what calibration and threshold follow from, and all images teach the
            head that is kept. Of a frozen backbone alone; 0: validation images are asked instead.
        false_alarm: largest share of an average source's real images that the threshold of folds
            may call generated, as an upper bound.
        seed: decides order, crops, flips, random cells and dropout; 0 to 2³² − 1.
        precision: `bf16` computes matmuls in bfloat16 while fine-tuning; weights stay float32.
            `auto`: whichever the device is built for; a run records which it was.
    """

    backbone: str = Recipe.backbone
    train_keep: str = Recipe.train_keep
    fill: Literal["drop", "zero"] = Recipe.fill
    keep: str = Recipe.keep
    depth: int | None = Recipe.depth
    taps: int | None = Recipe.taps
    epochs: int = Recipe.epochs
    batch: int = Recipe.batch
    backbone_lr: float = Recipe.backbone_lr
    head_lr: float = Recipe.head_lr
    layer_decay: float = Recipe.layer_decay
    lora: int = Recipe.lora
    ema: float = Recipe.ema
    augment: float = Recipe.augment
    dropout: float = Recipe.dropout
    blend: float = Recipe.blend
    folds: int = Recipe.folds
    false_alarm: float = Recipe.false_alarm
    seed: int = Recipe.seed
    precision: Precision = Recipe.precision

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("batch", self.batch >= 2, "2 or more"),
            ("backbone_lr", self.backbone_lr >= 0, "0 or more"),
            ("head_lr", self.head_lr > 0, "above 0"),
            ("layer_decay", 0 < self.layer_decay <= 1, "above 0, to 1"),
            ("lora", self.lora >= 0, "0 or more"),
            ("ema", 0 <= self.ema < 1, "from 0 to below 1"),
            ("augment", 0 <= self.augment <= 1, "from 0 to 1"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("blend", 0 <= self.blend <= 1, "from 0 to 1"),
            ("folds", self.folds == 0 or self.folds >= 2, "0, or 2 or more"),
            ("false_alarm", 0 < self.false_alarm < 1, "above 0, below 1"),
            ("seed", 0 <= self.seed < 2**32, "0 to 2**32 - 1"),
        ):
            if not good:
                raise UsageError(f"{name} must be {wanted}, got {getattr(self, name)}")
        for name, names in IDLE.items():
            changed = [one for one in names if getattr(self, one) != getattr(Recipe, one)]
            self.require(name, *changed)
        if self.folds and (self.epochs or not self.augment):
            raise UsageError(
                "folds are of a frozen backbone whose head learns from disturbed views: pass "
                "--epochs 0 and an --augment above 0, or no --folds"
            )

    def require(self, name: str, *options: str) -> None:
        """A UsageError if there are options that do nothing without this setting, and it is 0."""
        if options and not getattr(self, name):
            told = ", ".join(f"--{one.replace('_', '-')}" for one in options)
            raise UsageError(f"{told}: without effect without --{name}: give both, or neither")

    def blocks(self, tower: Geometry) -> int:
        """How many blocks are used of a tower; a UsageError if it has fewer, or too few cells."""
        KeepRule.parse(self.keep).resolve(tower.cells)
        parse_mixture(self.train_keep, tower.cells)
        layers = tower.architecture.layers
        depth = math.ceil(2 / 3 * layers) if self.depth is None else self.depth
        if not 1 <= depth <= layers:
            raise UsageError(f"depth {depth}: {tower.architecture.name} has 1 to {layers} blocks")
        if not 1 <= self.read(depth) <= depth:
            raise UsageError(f"taps {self.taps}: read 1 to {depth} blocks, those that are run")
        return depth

    def read(self, depth: int) -> int:
        """After how many of `depth` blocks the class token is read."""
        return max(1, round(depth * 3 / 4)) if self.taps is None else self.taps

    @property
    def blends(self) -> bool:
        """Whether the weights that are kept lie between what was learnt and the backbone's."""
        return self.epochs > 0 and self.blend < 1

    def needs_backbone(self, resumed: bool) -> bool:
        """Whether the backbone's weights are read: a resumed run has its own, unless it also needs
        those that it started from."""
        return not resumed or self.blends

    def differences(self, other: TrainSettings) -> list[str]:
        """The settings in which `other` differs, each as "name: ours, other's"."""
        mine, theirs = msgspec.to_builtins(self), msgspec.to_builtins(other)
        return [
            f"{name}: {mine[name]}, now {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]
