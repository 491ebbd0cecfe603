"""Logits of labelled images under any keep rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mpft_deploy.ahead import ahead
from mpft_deploy.dataset import Sample, pixel_digest
from mpft_deploy.detector.model import Detector, choose_device, encode
from mpft_deploy.detector.processes import ALONE, Processes, threads
from mpft_deploy.detector_folder import DetectorFolder
from mpft_deploy.evaluate.scores import mean_over_views
from mpft_deploy.files import display
from mpft_deploy.images import decode_image
from mpft_deploy.prepared import Prepared, prepare, turn_of
from mpft_deploy.spec import DetectorSpec, KeepRule, ViewPolicy
from mpft_deploy.views import views
from mpft_deploy.weights import F32

U8 = npt.NDArray[np.uint8]
T = TypeVar("T")

BATCH = 32


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


def batches_of(load: Callable[[Sample], T], samples: Sequence[Sample]) -> Iterator[list[T]]:
    """What `load` makes of the images, in order, BATCH at a time.

    The next BATCH is loaded while the consumer works.
    """
    with ThreadPoolExecutor(threads()) as pool:
        loaded = ahead(load, samples, pool, depth=BATCH)
        while part := list(islice(loaded, BATCH)):
            yield part


def centre_crops(samples: Sequence[Sample], size: int) -> Iterator[U8]:
    """Centre views u8 [n, size, size, 3] of the images in order, BATCH at a time, read ahead."""
    return map(np.concatenate, batches_of(lambda one: views(decode_image(one.path), size), samples))


def image_logits(
    model: Detector,
    samples: Sequence[Sample],
    rules: Sequence[KeepRule],
    *,
    seed: int = 0,
    zero_fill: Sequence[bool] = (),
    bf16: bool = False,
    after_batch: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> list[F32]:
    """Logits of the images' centres under each of the rules, from some processes to all of them.

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
    made = (
        [
            crop_logits(model, crops, rule, seed=seed, zero_fill=fill, bf16=bf16)
            for rule, fill in zip(rules, fills, strict=True)
        ]
        for crops in centre_crops(processes.own(samples, BATCH), model.tower.size)
    )
    parts = []
    for part in processes.in_turns(made, -(-len(samples) // BATCH)):
        parts.append(part)
        after_batch()
    return [np.concatenate(of_rule) for of_rule in zip(*parts, strict=True)]


def judged_logits(
    model: Detector,
    samples: Sequence[Sample],
    spec: DetectorSpec,
    policy: ViewPolicy,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[F32, list[str]]:
    """Logits of the images as screening takes them, by the spec's keep rule.

    Args:
        model: is put in evaluation mode.
        after_batch: called after each batch; may raise.

    Returns:
        f32 [n], each the mean over the views that tell something; and why no verdict is given of
        an image, "" where one is.
    """

    def load(sample: Sample) -> Prepared:
        frame = decode_image(sample.path)
        return prepare(spec, frame, policy, turn=turn_of(pixel_digest(frame)))

    model.eval()
    parts, reasons = [], []
    for batch in batches_of(load, samples):
        crops = np.concatenate([one.views[one.telling] for one in batch])
        logits = crop_logits(model, crops, spec.keep_rule, seed=spec.keep_seed)
        parts.append(mean_over_views(logits, [int(one.telling.sum()) for one in batch]))
        reasons += [one.reason for one in batch]
        after_batch()
    return np.concatenate(parts), reasons


class DetectorModel:
    """A PyTorch detector for `mpft_deploy.evaluate`, under any keep rules, in float32."""

    def __init__(
        self,
        model: Detector,
        folder: DetectorFolder,
        keeps: Sequence[str] = (),
        *,
        device: str = "auto",
    ) -> None:
        """A model in evaluation mode from what `Detector.from_folder` gives.

        Args:
            keeps: rules; none for the detector's own.
            device: `auto`, `cpu` or `cuda`.
        """
        self.spec = folder.spec
        rules = [KeepRule.parse(keep) for keep in keeps] or [self.spec.keep_rule]
        for rule in rules:
            rule.resolve(self.spec.cells)
        self._rules = list(dict.fromkeys(rules))
        self.keeps = [str(rule) for rule in self._rules]
        self.name = f"{display(folder.path.resolve().name)} (PyTorch float32)"
        self.identity = f"detector {folder.seal}"
        self._model = model.to(choose_device(device))

    def logits(self, crops: U8) -> F32:
        """Views u8 [n, S, S, 3] → logits f32 [rules, n]."""
        seed = self.spec.keep_seed
        return np.stack([crop_logits(self._model, crops, rule, seed=seed) for rule in self._rules])
