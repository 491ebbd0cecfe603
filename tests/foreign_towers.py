"""Towers as others name and store them, and the logits of what was imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpft_deploy.detector.importing.assemble import Imported
from mpft_deploy.detector.model import Detector
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import CLIP_MEAN, CLIP_STD, KeepRule

WIDTH, LAYERS, HEADS, OUTPUT, PATCH, SIZE = 64, 3, 2, 48, 14, 56
Weights = dict[str, torch.Tensor]
Save = Callable[..., Path]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def normalised(crops: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
    x = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(one)[:, None, None] for one in (CLIP_MEAN, CLIP_STD))
    return (x - mean) / std


def logits_of(imported: Imported, crops: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
    model = Detector.from_spec(imported.spec, imported.weights, "the test")
    patches, positions, _ = texture_patchify(crops, PATCH, KeepRule("all"))
    with torch.inference_mode():
        return model(torch.from_numpy(patches), torch.from_numpy(positions))


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def as_transformers(weights: Weights, projection: str = "visual_projection.weight") -> Weights:
    """The same weights as `CLIPVisionModelWithProjection` names them."""
    names = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1": "embeddings.patch_embedding",
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "transformer.resblocks": "encoder.layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    out = {projection: weights["proj"].T.contiguous()}
    for name, value in weights.items():
        if name == "proj":
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        parts = value.chunk(3) if "in_proj" in name else ()
        for part, one in zip("qkv", parts, strict=False):
            kind = name.rpartition("_")[2]
            out[f"vision_model.{name.partition('attn')[0]}self_attn.{part}_proj.{kind}"] = one
        if not parts:
            out[f"vision_model.{name}"] = value
    return out
