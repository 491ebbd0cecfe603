"""What the encoder computes with: integers as a detector stores them, and float32 beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32, Rows

I8 = npt.NDArray[np.int8]

WIDE_LAYERS = ("proj",)
"""Layers of a block whose activations are wide unless it is said otherwise: behind the GELU are
the outliers."""

MAX_TERMS = 2**31 // (128 * 255)
"""Of a sum of products of 8 bits that fits into 32."""


@dataclass(frozen=True)
class Norm:
    """Weight and bias of a LayerNorm, f32 [W]."""

    weight: F32
    bias: F32


@dataclass(frozen=True)
class Linear:
    """A linear layer: weight i8 [N, M]; scale, bias f32 [N]; whether its activations are wide."""

    weight: I8
    scale: F32
    bias: F32
    wide: bool


@dataclass(frozen=True)
class Block:
    """A block of the transformer.

    qkv: [3W, W], the query's rows first, their scales with the root of a head's size in them.
    shrink: f32 [hidden], powers of two, by which activations are multiplied before `proj`.
    """

    ln_1: Norm
    qkv: Linear
    out: Linear
    ln_2: Norm
    fc: Linear
    proj: Linear
    shrink: F32


@dataclass(frozen=True)
class Network:
    """All that a logit follows from, besides pixels.

    patch_weight: i8 [W, 3, p·p]; patch_ratio: f32 [3], 1 / (255 · standard deviation) of a channel;
        patch_scale, patch_bias: f32 [W], the bias with the mean of the pixels in it.
    class_token: f32 [W]; positions: f32 [N + 1, W].
    head: f32 [taps, W], for the class token after each of the last blocks; head_bias.
    """

    heads: int
    activation: Literal["gelu", "quick_gelu"]
    patch_weight: I8
    patch_ratio: F32
    patch_scale: F32
    patch_bias: F32
    class_token: F32
    positions: F32
    ln_pre: Norm
    blocks: tuple[Block, ...]
    ln_post: Norm
    head: F32
    head_bias: np.float32


def make_network(
    spec: DetectorSpec,
    stored: Mapping[str, Rows | F32],
    *,
    wide: tuple[str, ...] = WIDE_LAYERS,
) -> Network:
    """The network of a detector.

    What is computed here is computed once, in float64, and rounded to float32 at the end: the mean
    and standard deviation of pixels, the root of a head's size, and the head, which is one with
    CLIP's projection, since nothing stands between the two.

    Args:
        stored: weights by the names of a detector folder; matrices as integers with their scales.
        wide: layers of each block whose activations are wide: `qkv`, `out`, `fc`, `proj`.

    Raises:
        UsageError: a matrix is too wide for its sums to fit into 32 bits, or holds −128; or the
            head reads features divided by their length.
    """
    if spec.feature != "plain":
        raise UsageError(
            "the backend native has no features divided by their length, which this detector's "
            "head reads; name another with --backend, such as onnxruntime"
        )
    arch = spec.architecture

    def norm(name: str) -> Norm:
        return Norm(real(f"{name}.weight"), real(f"{name}.bias"))

    def real(name: str) -> F32:
        value = stored[name]
        return value.real() if isinstance(value, Rows) else value

    def rows(name: str) -> Rows:
        value = stored[name]
        found = value if isinstance(value, Rows) else Rows.of(value)
        if found.integers[0].size > MAX_TERMS:
            raise UsageError(f"{name} is too wide for sums of 32 bits")
        if found.integers.min() == -128:
            raise UsageError(f"{name} holds -128, whose sign cannot be changed in 8 bits")
        return found

    def linear(name: str, kind: str, separator: str = ".") -> Linear:
        matrix = rows(f"{name}{separator}weight")
        return Linear(matrix.integers, matrix.scale, real(f"{name}{separator}bias"), kind in wide)

    def block(index: int) -> Block:
        own = f"transformer.resblocks.{index}"
        qkv = linear(f"{own}.attn.in_proj", "qkv", "_")
        root = np.ones(3 * arch.width)
        root[: arch.width] = (arch.width // arch.heads) ** -0.5
        return Block(
            ln_1=norm(f"{own}.ln_1"),
            qkv=Linear(qkv.weight, _f32(qkv.scale * root), _f32(qkv.bias * root), qkv.wide),
            out=linear(f"{own}.attn.out_proj", "out"),
            ln_2=norm(f"{own}.ln_2"),
            fc=linear(f"{own}.mlp.c_fc", "fc"),
            proj=linear(f"{own}.mlp.c_proj", "proj"),
            shrink=np.ones(arch.hidden, np.float32),
        )

    patch = rows("conv1.weight")
    kernel = patch.integers.reshape(arch.width, 3, -1)
    scale, mean, std = (np.asarray(one, np.float64) for one in (patch.scale, spec.mean, spec.std))
    sums = kernel.sum(2, dtype=np.float64)
    head = real("head.weight").astype(np.float64).reshape(spec.taps, -1)
    return Network(
        heads=arch.heads,
        activation=arch.activation,
        patch_weight=kernel,
        patch_ratio=_f32(1 / (255 * std)),
        patch_scale=patch.scale,
        patch_bias=_f32(-scale * _in_order(sums * (mean / std))),
        class_token=real("class_embedding"),
        positions=real("positional_embedding"),
        ln_pre=norm("ln_pre"),
        blocks=tuple(block(index) for index in range(spec.depth)),
        ln_post=norm("ln_post"),
        head=_f32(np.stack([_in_order(real("proj").astype(np.float64) * one) for one in head])),
        head_bias=np.float32(real("head.bias")[0]),
    )


def _in_order(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over the last axis, from the first element to the last."""
    return np.asarray(np.cumsum(terms, axis=-1)[..., -1])


def _f32(values: Any) -> F32:
    return np.ascontiguousarray(values, np.float32)
