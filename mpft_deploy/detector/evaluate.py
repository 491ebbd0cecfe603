"""Logits of labelled images under any keep rule, and how well they tell the classes apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.model import Detector, encode
from mpft_deploy.images import decode_image, views
from mpft_deploy.spec import KeepRule, Record
from mpft_deploy.weights import F32

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

BATCH = 32


class Score(Record, frozen=True):
    """How a set of images was told apart.

    auc: area under the ROC curve; None where a class is missing.
    balanced_accuracy: mean of the two below, None where a class is missing.
    real_accuracy, generated_accuracy: share of each class on its side of the threshold, or None.
    """

    real: int
    generated: int
    auc: float | None
    balanced_accuracy: float | None
    real_accuracy: float | None
    generated_accuracy: float | None


def crop_logits(
    model: Detector,
    crops: U8,
    keep: KeepRule,
    *,
    seed: int = 0,
    zero_fill: bool = False,
    bf16: bool = False,
) -> F32:
    """Logits f32 [B] of crops u8 [B, S, S, 3]; the model must be in evaluation mode."""
    device = next(model.parameters()).device
    out = np.empty(len(crops), np.float32)
    for start in range(0, len(crops), BATCH):
        part = crops[start : start + BATCH]
        patches, positions = encode(part, model.tower.patch, keep, seed=seed, zero_fill=zero_fill)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(patches.to(device), positions.to(device))
        out[start : start + BATCH] = logits.cpu().numpy()
    return out


def centre_crops(samples: Sequence[Sample], size: int) -> Iterator[U8]:
    """Centre views u8 [n, size, size, 3] of the images in order, BATCH at a time, read ahead."""
    with ThreadPoolExecutor(2) as pool:
        starts = range(0, len(samples), BATCH)
        parts = (samples[start : start + BATCH] for start in starts)
        for part in parts:
            frames = pool.map(lambda sample: views(decode_image(sample.path), size)[0], part)
            yield np.stack(list(frames))


def image_logits(
    model: Detector,
    samples: Sequence[Sample],
    rules: Sequence[KeepRule],
    *,
    seed: int = 0,
    zero_fill: Sequence[bool] = (),
    bf16: bool = False,
    after_batch: Callable[[], None] = lambda: None,
) -> list[F32]:
    """Logits of the images' centre views under each of the rules.

    Args:
        model: is put in evaluation mode.
        zero_fill: for each rule whether the other cells are blanked, not dropped; none by default.
        bf16: compute in bfloat16 where autocast does.
        after_batch: called after each batch; may raise.

    Returns:
        For each rule f32 [n].
    """
    model.eval()
    fills = zero_fill or [False] * len(rules)
    parts: list[list[F32]] = [[] for _ in rules]
    for crops in centre_crops(samples, model.tower.size):
        for part, rule, fill in zip(parts, rules, fills, strict=True):
            logits = crop_logits(model, crops, rule, seed=seed, zero_fill=fill, bf16=bf16)
            part.append(logits)
        after_batch()
    return [np.concatenate(part) for part in parts]


def score(labels: npt.ArrayLike, logits: npt.ArrayLike, threshold: float = 0.0) -> Score:
    """Score logits against labels, 0 real and 1 generated; from `threshold` on called generated."""
    truth, values = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    called = values >= threshold
    real, generated = truth == 0, truth == 1
    both = bool(real.any() and generated.any())
    real_accuracy = float((~called[real]).mean()) if real.any() else None
    generated_accuracy = float(called[generated].mean()) if generated.any() else None
    return Score(
        real=int(real.sum()),
        generated=int(generated.sum()),
        auc=float(roc_auc_score(truth, values)) if both else None,
        balanced_accuracy=(
            (real_accuracy + generated_accuracy) / 2
            if real_accuracy is not None and generated_accuracy is not None
            else None
        ),
        real_accuracy=real_accuracy,
        generated_accuracy=generated_accuracy,
    )


def score_by_set(
    samples: Sequence[Sample], logits: npt.ArrayLike, threshold: float = 0.0
) -> dict[str, Score]:
    """Score of each set, by name in order."""
    values = np.asarray(logits)
    names = np.array([sample.set for sample in samples])
    labels = np.array([sample.label for sample in samples])
    return {
        name: score(labels[names == name], values[names == name], threshold)
        for name in sorted(set(names.tolist()))
    }
