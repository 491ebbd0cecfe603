"""Weights in safetensors, float32 or int8 with one scale a row; free of torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from mpft_deploy.errors import InputError
from mpft_deploy.spec import Architecture, DetectorSpec

F32 = npt.NDArray[np.float32]
SCALE = ".scale"


def decode(data: bytes, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """Parse safetensors; an InputError that names `where` if damaged."""
    try:
        tensors: dict[str, npt.NDArray[np.generic]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{where} is not a valid safetensors file: {error}") from None
    return tensors


def dequantise(stored: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, F32]:
    """float32 weights from stored ones.

    A key `X` with a companion `X.scale` is int8 with one scale a row: `q · scale[:, None]`.
    """
    out = {}
    for key, value in stored.items():
        if key.endswith(SCALE):
            continue
        scale = stored.get(key + SCALE)
        real = value.astype(np.float32)
        if scale is not None:
            real *= scale.astype(np.float32).reshape(-1, *([1] * (real.ndim - 1)))
        out[key] = real
    return out


def quantise(weights: Mapping[str, F32]) -> dict[str, npt.NDArray[np.generic]]:
    """Store matrices as int8 with one scale a row and everything else as float32.

    Symmetric: the scale of a row is its largest magnitude / 127; exact again on values that
    `dequantise` gave.
    """
    out: dict[str, npt.NDArray[np.generic]] = {}
    for key, value in weights.items():
        if value.ndim < 2:
            out[key] = np.ascontiguousarray(value, np.float32)
            continue
        rows = value.reshape(len(value), -1)
        scale = np.abs(rows).max(1) / np.float32(127)
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        out[key] = np.rint(rows / scale[:, None]).astype(np.int8).reshape(value.shape)
        out[key + SCALE] = scale
    return out


def tower_shapes(
    architecture: Architecture, *, patch: int, cells: int, depth: int
) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of an image tower's first `depth` blocks, by open_clip's names."""
    width, hidden = architecture.width, architecture.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (cells + 1, width),
        "proj": (width, architecture.output_dim),
        "conv1.weight": (width, 3, patch, patch),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    for index in range(depth):
        block = f"transformer.resblocks.{index}"
        for norm in ("ln_1", "ln_2"):
            shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (width,)
        for layer, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", hidden, width),
            ("mlp.c_proj.", width, hidden),
        ):
            shapes[f"{block}.{layer}weight"] = (rows, columns)
            shapes[f"{block}.{layer}bias"] = (rows,)
    return shapes


def detector_shapes(spec: DetectorSpec) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a detector: its tower's, and the head's."""
    arch = spec.architecture
    tower = tower_shapes(arch, patch=spec.patch, cells=spec.cells, depth=spec.depth)
    return {**tower, "head.weight": (1, arch.output_dim), "head.bias": (1,)}
