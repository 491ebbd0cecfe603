"""The default recipe, that of the shipped detector (docs/method.md says why)."""

from __future__ import annotations

from typing import Literal


class Recipe:
    """Defaults of `TrainSettings`, which says what they mean, and of `mpft train`.

    Plain values, so that the command's help loads nothing.
    """

    backbone = "ViT-B-16-quickgelu@openai"
    train_keep = "all"
    fill: Literal["drop", "zero"] = "drop"
    keep = "textured:143"
    depth: int | None = None
    taps: int | None = None
    epochs = 0
    batch = 32
    backbone_lr = 2e-5
    head_lr = 1e-3
    layer_decay = 0.8
    lora = 0
    ema = 0.0
    augment = 0.5
    dropout = 0.1
    blend = 0.5
    folds = 0
    false_alarm = 0.03
    seed = 0
    precision: Literal["auto", "bf16", "f32"] = "auto"
