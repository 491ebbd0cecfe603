"""A small autoencoder that re-makes photographs, in NumPy alone: the demo's generative model.

A picture goes to a latent of 16 numbers for every 8 × 8 pixels and back, as in the autoencoders of
latent diffusion: the same picture then comes from a generative decoder. Its weights and their card
are in models/demo-decoder; `make train-demo-decoder` trains them anew.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Layer = tuple[str, int, int]

ENCODER: tuple[Layer, ...] = (("fold", 3, 8), ("linear", 192, 16))
BASE: tuple[Layer, ...] = (("linear", 16, 192), ("unfold", 192, 8))
DECODER: tuple[Layer, ...] = (
    ("conv", 16, 80),
    ("block", 80, 80),
    ("block", 80, 80),
    ("double", 80, 80),
    ("conv", 80, 40),
    ("block", 40, 40),
    ("double", 40, 40),
    ("conv", 40, 24),
    ("block", 24, 24),
    ("double", 24, 24),
    ("conv", 24, 12),
    ("linear", 12, 3),
)
"""Kind, channels in, channels out (of a fold: its side). `conv` and `linear` are 3 × 3
convolutions with a bias, the first with a ReLU; a `block` is two of them, added to its input before
the second ReLU; `fold` puts the pixels of a square into channels, `unfold` takes them out, `double`
repeats each pixel. A picture is the sum of what BASE and DECODER make of its latent."""

SIDE = 8
"""Height and width must be multiples of it; what is left over is cut off."""

STRIP = 1 << 18
"""Numbers of a layer's input that are convolved at a time, so that they stay in the cache."""

WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "demo-decoder" / "weights.safetensors"


def remake(image: U8) -> U8:
    """A picture, u8 [H, W, 3] of any size from SIDE on, as the decoder makes it from its latent.

    Returns u8 of the same size, but for up to 7 rows and columns at the bottom and on the right.
    """
    height, width = (side // SIDE * SIDE for side in image.shape[:2])
    x = image[:height, :width].astype(np.float32) / 127.5 - 1
    latent = _run(x, "encoder", ENCODER)
    x = _run(latent, "base", BASE) + _run(latent, "decoder", DECODER)
    return np.rint(np.clip(127.5 * (x + 1), 0, 255)).astype(np.uint8)


@functools.cache
def _weights() -> dict[str, F32]:
    from safetensors.numpy import load_file

    return {name: array.astype(np.float32) for name, array in load_file(WEIGHTS).items()}


def _run(x: F32, part: str, layers: tuple[Layer, ...]) -> F32:
    """f32 [H, W, C] through the layers."""
    for number, (kind, _, size) in enumerate(layers):
        name = f"{part}.{number}"
        if kind == "fold":
            height, width, channels = x.shape
            x = x.reshape(height // size, size, width // size, size, channels)
            x = x.transpose(0, 2, 4, 1, 3).reshape(height // size, width // size, -1)
        elif kind == "unfold":
            height, width = x.shape[:2]
            x = x.reshape(height, width, -1, size, size).transpose(0, 3, 1, 4, 2)
            x = x.reshape(height * size, width * size, -1)
        elif kind == "double":
            x = x.repeat(2, 0).repeat(2, 1)
        elif kind == "block":
            inner = np.maximum(_convolve(x, f"{name}.0"), 0)
            x = np.maximum(x + _convolve(inner, f"{name}.1"), 0)
        else:
            x = _convolve(x, name)
            x = np.maximum(x, 0) if kind == "conv" else x
    return x


def _convolve(x: F32, name: str) -> F32:
    """3 × 3 convolution of f32 [H, W, C]; weights are [3, 3, C, outputs]; zeros beyond the edge."""
    weights, bias = _weights()[f"{name}.weight"], _weights()[f"{name}.bias"]
    height, width, channels = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.empty((height, width, len(bias)), np.float32)
    rows = max(1, STRIP // (width * channels))
    for top in range(0, height, rows):
        strip = padded[top : top + rows + 2]
        squares = np.lib.stride_tricks.sliding_window_view(strip, (3, 3), axis=(0, 1))
        squares = squares.transpose(0, 1, 3, 4, 2).reshape(-1, 9 * channels)
        product = squares @ weights.reshape(9 * channels, -1) + bias
        out[top : top + rows] = product.reshape(-1, width, len(bias))
    return out
