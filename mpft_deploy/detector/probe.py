"""The head's start: a linear probe of the frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from mpft_deploy.detector.batches import Masking
from mpft_deploy.detector.data import Sample
from mpft_deploy.detector.evaluate import centre_crops
from mpft_deploy.detector.model import Detector, encode

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
    """Set a model's head, `centre` and `spread` from its features of training images.

    Starting from the probe spares the backbone the gradients of a random head (Kumar et al.,
    arXiv 2202.10054). The features of early blocks are nearly constant (at depth 6 of CLIP B/16
    they have norm 9.9 and a standard deviation of 0.09), so dropout and AdamW only work well once
    they are standardised.

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
    centre, spread = features.mean(0), features.std(0) + 1e-6
    probe = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
    probe.fit((features - centre) / spread, [sample.label for sample in chosen])
    with torch.no_grad():
        for target, value in (
            (model.centre, centre),
            (model.spread, spread),
            (model.head.weight, probe.coef_),
            (model.head.bias, probe.intercept_),
        ):
            target.copy_(torch.from_numpy(value))
