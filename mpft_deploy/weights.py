"""Weights in safetensors, float32 or int8 with one scale a row; free of torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from mpft_deploy.errors import InputError

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
