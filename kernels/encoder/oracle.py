"""The encoder, defined: from the kept cells of a view to its logit, the same bits everywhere.

This is the network in NumPy, and every other version must give the same bits. It rests on two
things that hold on every processor:

- Sums of products of integers are exact in any order, as long as they fit. All large matrices are
  multiplied so: activations as integers, most of 8 bits and none of more than 16, by weights that
  are the detector's own stored integers.
- IEEE 754 rounds each +, −, ×, ÷ and √ of float32 in one way. Everything between the matrices is
  made of these alone, in the order that stands here: no fused multiply-add, no library's exp. Sums
  over an axis follow `tree_sum`, or run from the first element to the last where that is said.

Denormal numbers count (a version sets its processor so), and overflow does not happen in finite
networks. Nothing depends on the batch, on threads or on neighbours: a view is computed alone.

The blocks are those of a vision transformer (Dosovitskiy et al., arXiv 2010.11929) with the norms
before the layers, as CLIP has it (Radford et al., arXiv 2103.00020). The number of cells is free.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mpft_deploy.kernels.encoder.network import Block, Linear, Network, Norm

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

DEFINITION = "2"
"""Version of what stands here: another where it gives other bits, or reads other arrays. Native
code names its own, `kDefinition` of encoder.hpp, as it may be older than its Python part."""

LANES = 16
"""Of a sum: as many as the widest registers in use hold, and a multiple of all others'."""

TINY = np.float32(2.0**-100)
"""Rows whose largest magnitude is below this are zero."""

EPSILON = np.float32(1e-5)
"""Of LayerNorm, as PyTorch has it."""


def logit(network: Network, patches: U8, positions: I32) -> np.float32:
    """The logit of one view.

    Args:
        patches: u8 [K, 3·p·p], the pixels of the kept cells in the order row, column, channel.
        positions: i32 [K], index of each cell in raster order.
    """
    x = embed(network, patches, positions)
    x = embed(network, patches, positions)
    total: np.float32 = network.head_bias
    for index, block in enumerate(network.blocks):
        x = run_block(network, block, x, last=index == len(network.blocks) - 1)
        tap = index - (len(network.blocks) - len(network.head))
        if tap >= 0:
            total = total + read_class_token(network, x[:1], network.head[tap])
    return total


def embed(network: Network, patches: U8, positions: I32) -> F32:
    """The tokens before the first block, f32 [K + 1, W]: the class token, then the cells.

    Pixels are integers already, so they are multiplied as they are, each channel by itself; the
    normalisation by mean and standard deviation follows on the three sums.
    """
    pixels = patches.reshape(len(patches), -1, 3)
    channels = [
        _exact(pixels[:, :, c].astype(np.float64), network.patch_weight[c]) for c in range(3)
    ]
    red, green, blue = (
        sums.astype(np.float32) * ratio
        for sums, ratio in zip(channels, network.patch_ratio, strict=True)
    )
    cells = (red + green + blue) * network.patch_scale + network.patch_bias
    cells = cells + network.positions[positions.astype(np.int64) + 1]
    first = network.class_token + network.positions[0]
    return layer_norm(np.concatenate([first[None], cells]), network.ln_pre)


def run_block(network: Network, block: Block, x: F32, *, last: bool) -> F32:
    """Tokens f32 [T, W] after a block; after the last one the class token alone, f32 [1, W]."""
    read = layer_norm(x, block.ln_1)
    key, value = linear(read, block.key), linear(read, block.value)
    if last:
        read, x = read[:1], x[:1]
    query = linear(read, block.query)
    x = x + linear(attention(query, key, value, network.heads), block.out)
    activate = gelu if network.activation == "gelu" else quick_gelu
    hidden = activate(linear(layer_norm(x, block.ln_2), block.fc))
    return x + linear(hidden, block.proj)


def read_class_token(network: Network, x: F32, head: F32) -> np.float32:
    """What a row of the head makes of the class token f32 [1, W] after one of the last blocks."""
    read = layer_norm(x, network.ln_post)
    if network.projection is None:
        plain: np.float32 = tree_sum(read * head)[0]
        return plain
    feature = tree_sum(read * network.projection)[None]
    unit: np.float32 = (tree_sum(feature * head) / np.sqrt(tree_sum(feature * feature)))[0]
    return unit


def layer_norm(x: F32, norm: Norm) -> F32:
    """Each row less its mean, over its standard deviation, times weight, plus bias; f32 [T, W].

    The mean of squares is taken of the differences from the mean, in a second pass. Its root is
    inverted once, and rows are multiplied by that.
    """
    width = np.float32(x.shape[1])
    apart = x - (tree_sum(x) / width)[:, None]
    variance = tree_sum(apart * apart) / width
    inverse = np.float32(1) / np.sqrt(variance + EPSILON)
    out: F32 = apart * inverse[:, None] * norm.weight + norm.bias
    return out


def linear(x: F32, layer: Linear) -> F32:
    """Rows f32 [T, M] times a matrix of integers i8 [N, M], scaled back, plus bias; f32 [T, N].

    A row is written as integers times a scale of its own: `quantise`. Sums fit into 32 bits and are
    rounded to float32, to the nearest.
    """
    whole, scale = quantise(x, layer)
    sums = _exact(whole, layer.weight).astype(np.float32)
    return sums * layer.scale * scale[:, None] + layer.bias


def quantise(x: F32, layer: Linear) -> tuple[F64, F32]:
    """Rows f32 [T, M] as integers, and the scale of each: x ≈ integer · scale.

    The scale is such that the largest magnitude of a row becomes `layer.limit`, or larger, so that
    most activations of a narrow layer fit into 8 bits: transformers have a few of dozens of times
    the usual magnitude (LLM.int8(), arXiv 2208.07339), by which 8 bits would be wasted. These take
    a second byte, which versions skip where it is 0. Rounded to the nearest, halves to even.

    Returns:
        whole: f64 [T, M], whole numbers of at most 16 bits with their sign.
        scale: f32 [T].
    """
    magnitudes = np.abs(x)
    largest = magnitudes.max(1)
    zero = largest < TINY
    scale = largest / layer.limit
    usual = tree_sum(magnitudes) * layer.least
    scale = np.where(zero, np.float32(1), np.where(scale < usual, usual, scale))
    inverse = np.where(zero, np.float32(0), np.float32(1) / scale)
    whole = np.rint(x * inverse[:, None]).astype(np.float64)
    return whole, np.where(zero, np.float32(0), scale)


def attention(query: F32, key: F32, value: F32, heads: int) -> F32:
    """What each query reads, f32 [Q, W], of keys and values f32 [T, W].

    Products with keys are summed over the components of a head from the first to the last, those
    with values over the tokens likewise. Each is one multiplication and one addition. The root of
    the head's size is in the scales of the query already.
    """
    q, k, v = (np.stack(np.split(part, heads, axis=1)) for part in (query, key, value))  # [H, ·, D]
    scores = np.zeros((heads, q.shape[1], k.shape[1]), np.float32)
    for component in range(q.shape[2]):
        scores = scores + q[:, :, component, None] * k[:, None, :, component]
    weights = exponential(scores - scores.max(2, keepdims=True))
    read = np.zeros_like(q)
    for token in range(k.shape[1]):
        read = read + weights[:, :, token, None] * v[:, None, token]
    read = read * (np.float32(1) / tree_sum(weights))[:, :, None]
    return np.concatenate(list(read), axis=1)


def quick_gelu(x: F32) -> F32:
    """x · sigmoid(1.702 x), as CLIP has it."""
    sigmoid = np.float32(1) / (np.float32(1) + exponential(np.float32(-1.702) * x))
    out: F32 = x * sigmoid
    return out


def gelu(x: F32) -> F32:
    """x / 2 · (1 + erf(x / √2)), with erf by formula 7.1.26 of Abramowitz and Stegun (1964).

    Off by at most 1.5e-7 in erf.
    """
    z = np.abs(x) * np.float32(0.70710678)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    series = np.zeros_like(x)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(np.float32(1) - series * exponential(-z * z), x)
    out: F32 = x * np.float32(0.5) * (np.float32(1) + erf)
    return out


def exponential(x: F32) -> F32:
    """e^x, with x brought into −87 to 87; off by at most 2 units in the last place.

    e^x = 2^n · e^r with n the whole number nearest to x · log₂ e, and r = x − n · ln 2, for which
    ln 2 is split in two (Cody and Waite 1980). e^r by its Taylor series to the 7th power, from the
    last term to the first; 2^n is made of its exponent's bits.
    """
    x = np.minimum(np.maximum(x, np.float32(-87)), np.float32(87))
    n = np.rint(x * np.float32(1.4426950408889634))
    r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
    series: F32 = np.full_like(x, np.float32(1 / 5040))
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        series = series * r + np.float32(factor)
    power: F32 = ((n.astype(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    out: F32 = series * power
    return out


def tree_sum(x: F32) -> F32:
    """Sums over the last axis, f32 […].

    Element i goes to lane i mod LANES, each of which is summed from its first element to its last,
    beginning with 0; zeros fill the last round. Then the lanes: the upper half is added to the
    lower, until one is left.
    """
    rounds = -(-x.shape[-1] // LANES)
    padded = np.zeros((*x.shape[:-1], rounds * LANES), np.float32)
    padded[..., : x.shape[-1]] = x
    lanes = np.zeros((*x.shape[:-1], LANES), np.float32)
    for begin in range(0, rounds * LANES, LANES):
        lanes = lanes + padded[..., begin : begin + LANES]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _exact(x: F64, weight: npt.NDArray[np.int8]) -> F64:
    """Whole numbers [T, M] times integers i8 [N, M], f64 [T, N].

    Every sum stays below 2³¹, so float64, whose product of matrices is fast, has them exactly.
    """
    sums: F64 = x @ weight.T.astype(np.float64)
    return sums
