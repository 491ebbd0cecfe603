"""What the encoder computes with: integers as a detector stores them, and float32 beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32, Rows

I8 = npt.NDArray[np.int8]

LIMIT = 127 * 256 + 127
"""Largest magnitude of activations as integers, which are two bytes, each with a sign."""

OUTLIER = 5
"""Times the mean magnitude of a row, beyond which its narrow activations take a second byte."""


@dataclass(frozen=True)
class Norm:
    """Weight and bias of a LayerNorm, f32 [W]."""

    weight: F32
    bias: F32


@dataclass(frozen=True)
class Linear:
    """A linear layer: weight i8 [N, M]; scale, bias f32 [N]; how activations become integers.

    limit: largest magnitude of an activation as an integer.
    least: a row's scale is at least so many times the sum of its magnitudes: of narrow activations,
        what makes all but outliers integers of 8 bits; of wide ones, 0.
    """

    weight: I8
    scale: F32
    bias: F32
    limit: np.float32
    least: np.float32


@dataclass(frozen=True)
class Block:
    """A block of the transformer.

    The scales and biases of `query` have the root of a head's size in them. `query`, `key` and
    `value` read the same activations, and have the same limit and least scale.
    """

    ln_1: Norm
    query: Linear
    key: Linear
    value: Linear
    out: Linear
    ln_2: Norm
    fc: Linear
    proj: Linear


@dataclass(frozen=True)
class Network:
    """All that a logit follows from, besides pixels.

    patch_weight: i8 [3, W, p·p]; patch_ratio: f32 [3], 1 / (255 · standard deviation) of a channel;
        patch_scale, patch_bias: f32 [W], the bias with the mean of the pixels in it.
    class_token: f32 [W]; positions: f32 [N + 1, W].
    projection: f32 [E, W], CLIP's, of features that are divided by their length; None where they
        are not, and it is one with the head.
    head: f32 [taps, W or E], for the class token after each of the last blocks; head_bias.
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
    projection: F32 | None
    head: F32
    head_bias: np.float32


def make_network(
    spec: DetectorSpec,
    stored: Mapping[str, Rows | F32],
    *,
    wide: Collection[str] = (),
) -> Network:
    """The network of a detector.

    What is computed here is computed once, in float64, and rounded to float32 at the end: the mean
    and standard deviation of pixels, the root of a head's size, and the head, which is one with
    CLIP's projection where nothing stands between the two.

    Args:
        stored: weights by the names of a detector folder; matrices as integers with their scales.
        wide: layers of each block whose activations are wide: `qkv`, `out`, `fc`, `proj`.
    """
    arch = spec.architecture

    def norm(name: str) -> Norm:
        return Norm(real(f"{name}.weight"), real(f"{name}.bias"))

    def real(name: str) -> F32:
        value = stored[name]
        return value.real() if isinstance(value, Rows) else value

    def rows(name: str) -> Rows:
        value = stored[name]
        return value if isinstance(value, Rows) else Rows.of(value)

    def linear(name: str, kind: str, separator: str = ".") -> Linear:
        matrix = rows(f"{name}{separator}weight")
        return Linear(
            matrix.integers,
            matrix.scale,
            real(f"{name}{separator}bias"),
            *limits(matrix.integers, wide=kind in wide),
        )

    def block(index: int) -> Block:
        own = f"transformer.resblocks.{index}"
        qkv = linear(f"{own}.attn.in_proj", "qkv", "_")
        query, key, value = (
            replace(qkv, weight=weight, scale=scale, bias=bias)
            for weight, scale, bias in zip(
                *(np.split(part, 3) for part in (qkv.weight, qkv.scale, qkv.bias)), strict=True
            )
        )
        root = (arch.width // arch.heads) ** -0.5
        return Block(
            ln_1=norm(f"{own}.ln_1"),
            query=replace(
                query,
                scale=_f32(query.scale.astype(np.float64) * root),
                bias=_f32(query.bias.astype(np.float64) * root),
            ),
            key=key,
            value=value,
            out=linear(f"{own}.attn.out_proj", "out"),
            ln_2=norm(f"{own}.ln_2"),
            fc=linear(f"{own}.mlp.c_fc", "fc"),
            proj=linear(f"{own}.mlp.c_proj", "proj"),
        )

    patch = rows("conv1.weight")
    kernel = patch.integers.reshape(arch.width, 3, -1)
    scale, mean, std = (np.asarray(one, np.float64) for one in (patch.scale, spec.mean, spec.std))
    sums = kernel.sum(2, dtype=np.float64)
    head, projection = real("head.weight").reshape(spec.taps, -1), None
    if spec.feature == "unit":
        projection = _f32(real("proj").T)
    elif spec.feature == "plain":
        products = real("proj").astype(np.float64) * head.astype(np.float64)[:, None]
        head = _f32(_in_order(products))
    return Network(
        heads=arch.heads,
        activation=arch.activation,
        patch_weight=kernel.swapaxes(0, 1),
        patch_ratio=_f32(1 / (255 * std)),
        patch_scale=patch.scale,
        patch_bias=_f32(-scale * _in_order(sums * (mean / std))),
        class_token=real("class_embedding"),
        positions=real("positional_embedding"),
        ln_pre=norm("ln_pre"),
        blocks=tuple(block(index) for index in range(spec.depth)),
        ln_post=norm("ln_post"),
        projection=projection,
        head=_f32(head),
        head_bias=np.float32(real("head.bias")[0]),
    )


def limits(weight: I8, *, wide: bool) -> tuple[np.float32, np.float32]:
    """`limit` and `least` of a layer: no sum of products exceeds 32 bits."""
    largest = int(np.abs(weight.astype(np.int64)).sum(1).max())
    least = 0 if wide else OUTLIER / (127 * weight.shape[1])
    return np.float32(min(LIMIT, (2**31 - 1) // max(largest, 1))), np.float32(least)


def _in_order(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over the last axis, from the first element to the last."""
    return np.asarray(np.cumsum(terms, axis=-1)[..., -1])


def _f32(values: Any) -> F32:
    return np.ascontiguousarray(values, np.float32)
