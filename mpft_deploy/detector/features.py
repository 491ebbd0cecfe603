"""What the head reads of training images as they may arrive: computed once, kept in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.batches import COLOURED, U8, Masking, disturbed_crops
from mpft_deploy.detector.evaluate import BATCH
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.processes import ALONE, Processes
from mpft_deploy.files import explain_unwritable
from mpft_deploy.weights import F32

LOOKS = COLOURED + 1
"""Random views of each image; docs/method.md has what fewer are worth."""


def features_of(
    model: Detector, crops: Iterable[U8], masking: Masking, *, seed: int, bf16: bool
) -> Iterator[F32]:
    """What the head reads of views u8 [B, S, S, 3]: f32 [B, F], one batch after the other.

    Args:
        model: is put in evaluation mode.
        masking: how views keep their cells; `seed` decides of a random rule.
        bf16: compute in bfloat16 where autocast does.
    """
    device = next(model.parameters()).device
    model.eval()
    for part in crops:
        patches, positions = masking.encode(part, seed)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = model.features(patches.to(device), positions.to(device))
        yield features.cpu().numpy()


def look_features(
    model: Detector,
    samples: Sequence[Sample],
    masking: Masking,
    kept: Path,
    *,
    seed: int,
    bf16: bool,
    step: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes = ALONE,
) -> F32:
    """Features of LOOKS random views of each image as it may arrive; see `disturbed_crops`.

    Args:
        kept: a file of float32 that each batch is appended to, by the first process. What it holds
            is not computed again, so it must be of the same model, images, rule and seed.
        step: told how many views of how many are done; may raise.
        processes: among which the batches are shared out.

    Returns:
        f32 [LOOKS, n, F]; of other processes than the first, n is 0.
    """
    count, width = len(samples), model.head.in_features
    total, row = LOOKS * count, 4 * width
    target = kept if processes.first else Path(os.devnull)
    with explain_unwritable(kept), target.open("ab") as file:

        def begin() -> tuple[int, int]:
            look, first = divmod(min(file.tell() // row, total), count)
            first -= first % BATCH  # what a matmul gives depends on how many it is given
            file.truncate((look * count + first) * row)
            return look, first

        look, first = processes.from_first(begin)
        while look < LOOKS:
            places = range(first, count)
            crops = disturbed_crops(samples, masking.size, seed, look, processes.own(places, BATCH))
            made = features_of(model, crops, masking, seed=seed, bf16=bf16)
            for features in processes.in_turns(made, -(-len(places) // BATCH)):
                file.write(features.tobytes())
                file.flush()
                first += len(features)
                step(look * count + first, total)
            look, first = look + 1, 0
    read = np.fromfile(kept, np.float32) if processes.first else np.empty(0, np.float32)
    return read.reshape(LOOKS, -1, width)
