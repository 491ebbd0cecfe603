"""What a frozen backbone sees with all cells, for a detector to learn with few of them.

Across the training sets a frozen backbone ranks unseen generators best by the class token and the
mean patch token of a middle block (docs/method.md, which also says where that did not hold). The
detector learns to give those, from a disturbed view and the kept cells alone: feature distillation
(Romero et al., arXiv 1412.6550) of a whole view into part of one. Labels fit linear probes alone:
the head, and the direction that the loss weighs more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.backbone import Backbone
from mpft_deploy.detector.batches import Masking
from mpft_deploy.detector.evaluate import centre_crops
from mpft_deploy.detector.model import Detector, encode
from mpft_deploy.images import U8
from mpft_deploy.spec import KeepRule
from mpft_deploy.weights import F32

EPS = 1e-3
PROBE_PENALTY = 0.3
RIDGE = 300.0
"""Penalty of the regression that the detector's projection starts from."""

SHARE = 0.3
"""Weight of the probe's direction in the loss, against the mean over all components."""

STATE = ("centre", "projection", "direction")


class Teacher:
    """The first blocks of a frozen backbone, and the space in which their features are compared.

    The features of a view are its class token and the mean of its patch tokens. They are
    standardised over the training images and turned onto their first E principal components, E
    being the size of a detector's feature.
    """

    def __init__(self, backbone: Backbone, depth: int) -> None:
        """A teacher of `depth` blocks whose space is yet to be fitted or taken from `state`."""
        self.model = Detector.from_backbone(backbone, depth).eval().requires_grad_(False)
        width = self.model.tower.architecture.width
        size = self.model.tower.architecture.output_dim
        self.centre = torch.zeros(2 * width)
        self.projection = torch.zeros(2 * width, size)
        self.direction = torch.zeros(size)

    def features(self, crops: U8, *, bf16: bool) -> torch.Tensor:
        """Views u8 [B, S, S, 3] → f32 [B, 2·W]."""
        patches, positions = encode(crops, self.model.tower.patch, KeepRule("all"))
        device = next(self.model.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            tokens = self.model.tokens(patches.to(device), positions.to(device)).float()
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)

    def targets(self, crops: U8, *, bf16: bool) -> torch.Tensor:
        """Views u8 [B, S, S, 3] → what a detector's feature should be, f32 [B, E]."""
        features = self.features(crops, bf16=bf16)
        return (features - self.centre.to(features)) @ self.projection.to(features)

    def loss(self, feature: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared difference; along the probe's direction it counts once more.

        Args: features and targets, f32 [B, E].
        """
        difference = feature - targets
        along = difference @ self.direction.to(difference)
        return (difference**2).mean() + (along**2).mean()

    def fit(
        self,
        student: Detector,
        samples: Sequence[Sample],
        masking: Masking,
        *,
        bf16: bool,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Fit the space on training images, and start the student's projection within it.

        Args:
            masking: of the student.
            after_batch: called after each batch; may raise.
        """
        device = next(student.parameters()).device
        raw, seen = [], []
        for crops in centre_crops(samples, masking.size):
            raw.append(self.features(crops, bf16=bf16).cpu().numpy())
            patches, positions = masking.encode(crops, 0)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                token = student.class_token(patches.to(device), positions.to(device))
            seen.append(_normalised(token.float().cpu().numpy()))
            after_batch()
        features = np.concatenate(raw)
        centre, deviation = features.mean(0), features.std(0) + EPS
        standard = (features - centre) / deviation
        axes = np.linalg.svd(standard, full_matrices=False)[2][: self.projection.shape[1]]
        targets = standard @ axes.T
        probe = LogisticRegression(C=PROBE_PENALTY, class_weight="balanced", max_iter=3000)
        probe.fit(targets, [sample.label for sample in samples])
        direction = probe.coef_[0] / np.std(targets @ probe.coef_[0]) * SHARE**0.5
        self.centre = torch.from_numpy(centre)
        self.projection = torch.zeros_like(self.projection)
        self.projection[:, : len(axes)] = torch.from_numpy((axes / deviation).T)
        self.direction = torch.zeros_like(self.direction)
        self.direction[: len(axes)] = torch.from_numpy(direction).float()
        _start(student, np.concatenate(seen), targets)

    def state(self) -> dict[str, F32]:
        """What `fit` found, for a checkpoint."""
        return {name: getattr(self, name).numpy() for name in STATE}

    def load_state(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take what `state` gave; a KeyError if it lacks something."""
        for name in STATE:
            setattr(self, name, torch.from_numpy(state[name]))


def _normalised(token: F32) -> F32:
    """Layer normalisation without weights, f32 [n, W]."""
    centred = token - token.mean(1, keepdims=True)
    scaled: F32 = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return scaled


def _start(student: Detector, seen: F32, targets: F32) -> None:
    """Set a student's last normalisation and projection to the regression of targets on tokens.

    Args:
        seen: normalised class tokens, f32 [n, W]. targets: f32 [n, up to E].
    """
    mean, deviation = seen.mean(0), seen.std(0) + EPS
    regression = Ridge(alpha=RIDGE).fit((seen - mean) / deviation, targets)
    matrix = np.zeros(student.visual.proj.shape, np.float32)  # [W, E]
    matrix[:, : targets.shape[1]] = (regression.coef_ / deviation).T
    offset = np.zeros(matrix.shape[1], np.float32)
    offset[: targets.shape[1]] = regression.intercept_
    # The projection has no bias of its own; that of the normalisation before it serves.
    wanted = offset - mean @ matrix
    bias = np.linalg.lstsq(matrix.T, wanted, rcond=None)[0]
    with torch.no_grad():
        student.visual.ln_post.weight.fill_(1)
        student.visual.ln_post.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
        student.visual.proj.copy_(torch.from_numpy(matrix))
