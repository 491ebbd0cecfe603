"""The detector: the first blocks of CLIP's image tower over the kept cells, and a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn
from torch.nn import functional

from mpft_deploy.bundle import Device
from mpft_deploy.detector.backbone import Backbone, Geometry, check_weights, shapes
from mpft_deploy.detector_folder import DetectorFolder, read_detector
from mpft_deploy.errors import UsageError
from mpft_deploy.files import display
from mpft_deploy.kernels.texture_patchify import texture_patchify
from mpft_deploy.spec import CLIP_MEAN, CLIP_STD, DetectorSpec, Feature, KeepRule, feature_width
from mpft_deploy.weights import F32, Stored, dequantise, quantise

NORM_EPS = 1e-6
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"


class Detector(nn.Module):
    """Logit of "generated" from the kept cells of a view.

    What the head reads is the class token after each of the last `taps` blocks, normalised as after
    the tower's last one: middle blocks see traces that later ones give up for meaning (RINE,
    Koutlis and Papadopoulos, arXiv 2402.19091). CLIP's projection, which is made for meaning, would
    take a third of its dimensions away, and traces with them (docs/method.md).

    Cells are embedded one by one, so those that are left out cost nothing in any block. `visual` is
    open_clip's own tower, so weights go by open_clip's names.

    Between feature and head stands a batch normalisation without weights, as is usual for linear
    heads on frozen encoders (MAE, arXiv 2111.06377). The features of early blocks are nearly
    constant (norm 9.9, standard deviation 0.09 at depth 6 of CLIP B/16), and every step of the
    backbone moves all of them alike by more than they differ; batch statistics take that out.
    `weights` folds the normalisation into the head, so a stored detector knows nothing of it.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        tower: Geometry,
        depth: int,
        *,
        taps: int = 1,
        feature: Feature = "token",
        dropout: float = 0.0,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        """A detector with random weights.

        Args:
            tower: geometry of the backbone.
            depth: how many of its first blocks are run, 1 to `architecture.layers`.
            taps: after how many of these, the last ones, the class token is read.
            feature: what the head reads of it; see `DetectorSpec`.
            dropout: share of the normalised feature that is zeroed while training.
            mean, std: normalisation of RGB in 0..1.
        """
        super().__init__()
        arch = tower.architecture
        self.tower, self.depth, self.taps, self.feature = tower, depth, taps, feature
        self.visual = VisionTransformer(
            image_size=tower.size,
            patch_size=tower.patch,
            width=arch.width,
            layers=depth,
            heads=arch.heads,
            # open_clip truncates width · mlp_ratio: the half keeps it at `hidden`.
            mlp_ratio=(arch.hidden + 0.5) / arch.width,
            output_dim=arch.output_dim,
            act_layer=QuickGELU if arch.activation == "quick_gelu" else nn.GELU,
        )
        if feature == "token":
            self.visual.proj = None
        width = taps * feature_width(arch, feature)
        self.norm = nn.BatchNorm1d(width, eps=NORM_EPS, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        depth: int,
        *,
        taps: int = 1,
        feature: Feature = "token",
    ) -> Detector:
        """A detector with a backbone's first `depth` blocks and a head of zeros."""
        detector = cls(backbone.geometry, depth, taps=taps, feature=feature)
        detector.take_backbone(backbone)
        return detector

    def take_backbone(self, backbone: Backbone) -> None:
        """Take a backbone's first blocks, and a head of zeros."""
        self.visual.load_state_dict({name: backbone.weights[name] for name in self._tower_shapes()})
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_spec(cls, spec: DetectorSpec, weights: Mapping[str, F32], where: str) -> Detector:
        """A detector in evaluation mode from a spec and weights, checked; `where` is for errors."""
        tower = Geometry(spec.architecture, spec.patch, spec.crop.size)
        detector = cls(
            tower,
            spec.depth,
            taps=spec.taps,
            feature=spec.feature,
            mean=spec.mean,
            std=spec.std,
        )
        detector.set_weights(weights, where)
        return detector.eval()

    @classmethod
    def from_folder(cls, path: Path) -> tuple[Detector, DetectorFolder]:
        """Read, verify and check a detector folder; the model in evaluation mode."""
        folder = read_detector(path)
        return cls.from_spec(folder.spec, folder.weights, display(path)), folder

    def weights(self) -> dict[str, F32]:
        """float32 copies of all weights, by the names of a detector folder."""
        with torch.no_grad():
            mean, variance = self.norm_statistics()
            weight = self.head.weight / torch.sqrt(variance + NORM_EPS)
            bias = self.head.bias - weight @ mean
        tensors = {**self.visual.state_dict(), HEAD_WEIGHT: weight, HEAD_BIAS: bias}
        return {name: value.float().cpu().numpy().copy() for name, value in tensors.items()}

    def set_weights(self, weights: Mapping[str, F32], where: str) -> None:
        """Take weights by the names of a detector folder; an InputError if they do not fit."""
        expected = self._tower_shapes()
        expected[HEAD_WEIGHT] = (1, self.head.in_features)
        expected[HEAD_BIAS] = (1,)
        writable = {key: np.require(value, requirements="W") for key, value in weights.items()}
        tensors = {key: torch.from_numpy(value) for key, value in writable.items()}
        checked = check_weights(tensors, expected, where)
        head = {name: checked.pop(f"head.{name}") for name in ("weight", "bias")}
        self.visual.load_state_dict(checked)
        self.head.load_state_dict(head)
        mean, variance = self.norm_statistics()
        mean.zero_()
        variance.fill_(1 - NORM_EPS)

    def _tower_shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes(self.tower, self.depth, projected=self.feature != "token")

    def round_tower(self, stored: Stored) -> None:
        """Round all weights but the head's as they will be stored, so that it learns from that."""
        device = next(self.parameters()).device
        tower = {name: value.cpu().numpy() for name, value in self.visual.state_dict().items()}
        rounded = dequantise(quantise(tower, stored))
        self.visual.load_state_dict(
            {name: torch.from_numpy(value).to(device) for name, value in rounded.items()}
        )

    def norm_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Running mean and variance of the feature, f32 [taps · F] each, to be set in place."""
        return (
            cast(torch.Tensor, self.norm.running_mean),
            cast(torch.Tensor, self.norm.running_var),
        )

    def forward(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits f32 [B] of some views; arguments as for `features`."""
        return self.judge(self.features(patches, positions))

    def judge(self, feature: torch.Tensor) -> torch.Tensor:
        """Logits f32 [B] of features f32 [B, taps · F]."""
        with torch.autocast(feature.device.type, enabled=False):
            return cast(torch.Tensor, self.head(self.dropout(self.norm(feature)))[:, 0])

    def features(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the head reads after the last `taps` blocks, one after the other.

        Args:
            patches: u8 [B, K, 3·p·p], pixels in the order row, column, channel.
            positions: i32 or i64 [B, K], index of each cell in raster order.

        Returns:
            f32 [B, taps · F].
        """
        return self.features_from(self._embed(patches, positions))

    def features_from(self, tokens: torch.Tensor, done: int = 0) -> torch.Tensor:
        """As `features`, from `tokens` after the first `done` blocks."""
        tokens = self._class_tokens(tokens, done)
        # The feature differs little between images beside its own size: keep it in full precision.
        with torch.autocast(tokens.device.type, enabled=False):
            feature = self.visual.ln_post(tokens.float())
            if self.feature != "token":
                feature = feature @ self.visual.proj
            if self.feature == "unit":
                feature = feature / feature.norm(dim=-1, keepdim=True)
        return cast(torch.Tensor, feature.flatten(1))

    def _class_tokens(self, x: torch.Tensor, done: int) -> torch.Tensor:
        """The class token after each of the last `taps` blocks, [B, taps, W]."""
        *blocks, last = self.visual.transformer.resblocks[done:]
        read = []
        for block in blocks:
            x = block(x)
            read.append(x[:, 0])
        # Only the class token is read, so the last block computes nothing else.
        keys = last.ln_1(x)
        x = x[:, 0] + last.attention(keys[:, :1], keys, keys)[:, 0]
        return torch.stack([*read, x + last.mlp(last.ln_2(x))][-self.taps :], 1)

    def tokens(self, patches: torch.Tensor, positions: torch.Tensor, blocks: int) -> torch.Tensor:
        """All tokens after the first `blocks`, [B, K + 1, W]; arguments as for `features`."""
        x = self._embed(patches, positions)
        for block in self.visual.transformer.resblocks[:blocks]:
            x = block(x)
        return x

    def _embed(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the first block is given, [B, K + 1, W]: class token first."""
        visual = self.visual
        pixels = patches.reshape(*patches.shape[:2], -1, 3).float() / 255
        inputs = ((pixels - self.mean) / self.std).flatten(-2)
        kernel = visual.conv1.weight.permute(0, 2, 3, 1).flatten(1)
        places = functional.embedding(positions.long() + 1, visual.positional_embedding)
        cells = functional.linear(inputs, kernel) + places
        first = visual.class_embedding + visual.positional_embedding[0]
        tokens = torch.cat([first.expand(len(cells), 1, -1), cells], 1)
        return cast(torch.Tensor, visual.ln_pre(tokens))


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 by instructions of its own; without, it is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(Device.here().instructions))


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where it is; a UsageError if the device cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used: {first}") from None
    return device


def encode(
    crops: npt.NDArray[np.uint8],
    patch: int,
    keep: KeepRule,
    *,
    seed: int = 0,
    zero_fill: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a Detector is fed: the one place where views become patches on the PyTorch side.

    Args:
        crops: u8 [B, S, S, 3].
        patch: side of a cell.
        keep: which cells to keep.
        seed: of a `random` rule.
        zero_fill: keep every cell, and set the pixels of those that the rule leaves out to 0.

    Returns:
        patches u8 [B, K, 3·p·p], positions i32 [B, K]; K is N with `zero_fill`.
    """
    patches, positions, _ = texture_patchify(crops, patch, keep, seed)
    if zero_fill:
        whole = texture_patchify(crops, patch, KeepRule("all"))
        blanked = np.zeros_like(whole.patches)
        np.put_along_axis(blanked, positions[:, :, None].astype(np.int64), patches, axis=1)
        patches, positions = blanked, whole.positions
    return torch.from_numpy(patches), torch.from_numpy(positions)
