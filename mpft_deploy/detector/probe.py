"""The head's start: a linear probe of the frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.batches import Masking
from mpft_deploy.detector.evaluate import centre_crops
from mpft_deploy.detector.model import NORM_EPS, Detector, encode

MOST = 4096
"""Images that the probe is fitted on; more change it little."""
INVERSE_PENALTY = 0.01


def fit_head(
    model: Detector,
    samples: Sequence[Sample],
    masking: Masking,
    *,
    seed: int,
    bf16: bool,
    after_batch: Callable[[], None] = lambda: None,
) -> None:
    """Set a model's head and the statistics before it from its features of training images.

    Starting from the probe spares the backbone the gradients of a random head (Kumar et al.,
    arXiv 2202.10054).

    Args:
        samples: both classes; at most MOST of them are used, drawn by `seed`.
        masking: how training views keep their cells.
        bf16: compute in bfloat16 where autocast does.
        after_batch: called after each batch; may raise.
    """
    order = np.random.default_rng((seed, 3)).permutation(len(samples))[:MOST]
    chosen = [samples[index] for index in sorted(order)]
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for crops in centre_crops(chosen, masking.size):
        patches, positions = encode(
            crops, masking.patch, masking.keep, seed=seed, zero_fill=masking.zero_fill
        )
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(model.features(patches.to(device), positions.to(device)).cpu().numpy())
        after_batch()
    features = np.concatenate(parts)
    centre, variance = features.mean(0), features.var(0)
    probe = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
    probe.fit(
        (features - centre) / np.sqrt(variance + NORM_EPS), [sample.label for sample in chosen]
    )
    running_mean, running_variance = model.norm_statistics()
    with torch.no_grad():
        for target, value in (
            (running_mean, centre),
            (running_variance, variance),
            (model.head.weight, probe.coef_),
            (model.head.bias, probe.intercept_),
        ):
            target.copy_(torch.from_numpy(value))
