"""Weights in safetensors: float32, or 8 or 6 bits with one scale a row; free of torch."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from mpft_deploy.errors import InputError
from mpft_deploy.spec import Architecture, DetectorSpec, feature_width

F32 = npt.NDArray[np.float32]
SCALE = ".scale"
BLOCKS = "transformer.resblocks."

Stored = Literal["float32", "int8", "int6"]
"""How matrices are stored; int6 rounds those of the blocks to 6 bits and the others to 8.

6-bit integers are stored by Huffman's code (of RFC 1951), since small ones are far more frequent:
about 5.1 bits each.
"""

_LARGEST = {8: 127, 6: 31}
MOST_INFLATED = 8
"""Values that a byte can code, at most: none is shorter than a bit."""
_CLIPS = {8: (1.0,), 6: tuple(np.linspace(1, 0.6, 9))}
"""Shares of a row's largest magnitude that its scale may be fitted to; the best is taken."""


MAX_HEADER = 2**20
"""Bytes of a safetensors header; a tensor takes about a hundred."""


@dataclass(frozen=True)
class Rows:
    """A matrix as a detector stores it: integers i8 [R, …], and the scale of each row, f32 [R]."""

    integers: npt.NDArray[np.int8]
    scale: F32

    @classmethod
    def of(cls, matrix: F32) -> Rows:
        """A float32 matrix rounded to 8 bits."""
        integers, scale = _round(matrix.reshape(len(matrix), -1), 8)
        return cls(integers.reshape(matrix.shape), scale)

    def real(self) -> F32:
        """The matrix that they stand for, f32 [R, …]."""
        scale = self.scale.reshape(-1, *([1] * (self.integers.ndim - 1)))
        return np.asarray(self.integers.astype(np.float32) * scale)


def decode(data: bytes, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """Parse safetensors; an InputError that names `where` if damaged."""
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise InputError(f"{where} is not a valid safetensors file: its header is too long")
    try:
        tensors: dict[str, npt.NDArray[np.generic]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{where} is not a valid safetensors file: {error}") from None
    return tensors


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of safetensors that `decode` takes; empty where there is none."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(data[8 : 8 + length])
    return header.get("__metadata__", {})


def stored_weights(data: bytes, spec: DetectorSpec, where: str) -> dict[str, Rows | F32]:
    """A detector's weights from the bytes of their file: matrices that are rounded as integers.

    Raises:
        InputError: damaged, or not finite numbers of the names and shapes that the spec asks for.
    """
    stored = decode(data, where)
    shapes = detector_shapes(spec)
    scales = {key.removesuffix(SCALE) for key in stored if key.endswith(SCALE)}
    if stored.keys() != shapes.keys() | {key + SCALE for key in scales & shapes.keys()}:
        raise InputError(
            f"{where} does not hold the weights of {spec.architecture.name} at depth {spec.depth}"
        )
    out: dict[str, Rows | F32] = {}
    for key, shape in shapes.items():
        value, real = stored[key], stored.get(key + SCALE)
        if real is None:
            fits = value.dtype == np.float32 and value.shape == shape
            real = value
        else:
            fits = real.dtype == np.float32 and real.shape == shape[:1]
            whole = value.dtype == np.int8 and value.shape == shape
            fits = fits and (whole or value.dtype == np.uint8)
        if not fits:
            raise InputError(f"{where}: {key} is not stored as a weight of shape {list(shape)}")
        floats = real.astype(np.float32, copy=False)
        size = math.prod(shape)
        if value.dtype == np.uint8:
            value = _unpack(f"{where}: {key}", value, len(floats), size)
        if value.size != size or not np.isfinite(floats).all():
            raise InputError(f"{where}: {key} is not finite numbers of shape {list(shape)}")
        if key in scales:
            out[key] = Rows(value.astype(np.int8, copy=False).reshape(shape), floats)
        else:
            out[key] = floats
    return out


def as_floats(stored: Mapping[str, Rows | F32]) -> dict[str, F32]:
    """Weights in float32, matrices as what their integers stand for."""
    return {
        key: value.real() if isinstance(value, Rows) else value for key, value in stored.items()
    }


def dequantise(
    stored: Mapping[str, npt.NDArray[np.generic]], where: str = "the weights"
) -> dict[str, F32]:
    """float32 weights from stored ones.

    A key `X` with a companion `X.scale` is rounded with one scale a row: `q · scale[:, None]`. As
    int8 it holds `q` itself; as uint8, the values coded by `_pack`. What is stored as float32 is
    given as it is, not copied.

    Raises:
        InputError: coded values are damaged; names `where`.
    """
    out = {}
    for key, value in stored.items():
        if key.endswith(SCALE):
            continue
        scale = stored.get(key + SCALE)
        if scale is not None and value.dtype == np.uint8:
            value = _unpack(f"{where}: {key}", value, len(scale), MOST_INFLATED * value.size)
        real = value.astype(np.float32, copy=scale is not None)
        if scale is not None:
            real *= scale.astype(np.float32).reshape(-1, *([1] * (real.ndim - 1)))
        out[key] = real
    return out


def quantise(weights: Mapping[str, F32], stored: Stored) -> dict[str, npt.NDArray[np.generic]]:
    """Round matrices with one scale a row, as `stored` says; everything else stays float32.

    So does a matrix of one row, the head's: what it reads differs a hundredfold in size, and so do
    its weights.

    Symmetric; of 8 bits the scale of a row is its largest magnitude / 127, of 6 bits the one with
    the least squared error. Exact again on values that `dequantise` gave.
    """
    out: dict[str, npt.NDArray[np.generic]] = {}
    for key, value in weights.items():
        if value.ndim < 2 or len(value) == 1 or stored == "float32":
            out[key] = np.ascontiguousarray(value, np.float32)
            continue
        narrow = stored == "int6" and key.startswith(BLOCKS)
        rounded, scale = _round(value.reshape(len(value), -1), 6 if narrow else 8)
        out[key] = _pack(rounded) if narrow else rounded.reshape(value.shape)
        out[key + SCALE] = scale
    return out


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write a safetensors file without a copy of all of it in memory; an OSError if that fails."""
    try:
        safetensors.numpy.save_file(dict(tensors), path)
    except safetensors.SafetensorError as error:
        # Which tells what the system said in words alone.
        if said := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(said[1]), os.strerror(int(said[1])), str(path)) from None
        raise


def _round(rows: F32, bits: int) -> tuple[npt.NDArray[np.int8], F32]:
    """Rows [R, C] as integers of some bits, and their scales [R]."""
    largest, best = np.abs(rows).max(1), np.full(len(rows), np.inf)
    scales = np.ones(len(rows), np.float32)
    for clip in _CLIPS[bits]:
        scale = (largest * np.float32(clip) / np.float32(_LARGEST[bits])).astype(np.float32)
        scale[scale == 0] = 1
        error = ((_integers(rows, scale, bits) * scale[:, None] - rows) ** 2).sum(1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
    return _integers(rows, scales, bits), scales


def _integers(rows: F32, scale: F32, bits: int) -> npt.NDArray[np.int8]:
    limit = _LARGEST[bits]
    rounded: npt.NDArray[np.int8] = np.clip(np.rint(rows / scale[:, None]), -limit, limit).astype(
        np.int8
    )
    return rounded


def _pack(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Integers i8 [R, C] → their Huffman code, u8 [bytes]: a deflate stream without matches."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return np.frombuffer(coder.compress(values.tobytes()) + coder.flush(), np.uint8)


def _unpack(
    what: str, packed: npt.NDArray[np.generic], rows: int, most: int
) -> npt.NDArray[np.int8]:
    """What `_pack` was given, i8 [rows, C]; an InputError that names `what` if damaged.

    Args:
        most: values that there can be.
    """
    coder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        values = coder.decompress(packed.tobytes(), most + 1)
    except zlib.error as error:
        raise InputError(f"{what} is damaged: {error}") from None
    if not coder.eof or not rows or len(values) > most or len(values) % rows:
        raise InputError(f"{what} is damaged: {len(values)} values in {rows} rows")
    return np.frombuffer(values, np.int8).reshape(rows, -1)


def tower_shapes(
    architecture: Architecture, *, patch: int, cells: int, depth: int, projected: bool = True
) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of an image tower's first `depth` blocks, by open_clip's names.

    Args:
        projected: with the projection into CLIP's embeddings.
    """
    width, hidden = architecture.width, architecture.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (cells + 1, width),
        **({"proj": (width, architecture.output_dim)} if projected else {}),
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
    arch, projected = spec.architecture, spec.feature != "token"
    tower = tower_shapes(
        arch, patch=spec.patch, cells=spec.cells, depth=spec.depth, projected=projected
    )
    read = spec.taps * feature_width(arch, spec.feature)
    return {**tower, "head.weight": (1, read), "head.bias": (1,)}
