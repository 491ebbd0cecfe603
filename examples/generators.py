"""Images that no camera took, made with NumPy alone: the same bytes from the same seed.

None of them comes from a trained generator. The decoders have the architecture of one, with random
weights, and so leave the traces of its upsampling; the others are computed scenes and patterns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Upsampling = Literal["nearest", "bilinear", "transposed"]

SIZE = 384
"""Height and width of every image."""


def decoder(upsampling: Upsampling, seed: int) -> U8:
    """A random-weight convolutional decoder, from a 6 × 6 latent to SIZE × SIZE, u8 [H, W, 3].

    Six stages of upsampling by 2, convolution, noise, instance normalisation and leaky ReLU, as in
    a GAN's generator. `transposed` convolves between inserted zeros and leaves a chessboard.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 6, 64)).astype(np.float32)
    for channels in (56, 48, 40, 32, 24, 16):
        x = _upsample(x, upsampling)
        x = _convolve(x, _kernel(rng, x.shape[2], channels, smooth=upsampling == "transposed"))
        x += 0.15 * rng.normal(size=(*x.shape[:2], 1)).astype(np.float32)
        x = (x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-5)
        x = np.where(x > 0, x, 0.2 * x)
    colour = x @ rng.normal(0, 0.25, (16, 3)).astype(np.float32)
    return _to_bytes(0.5 + 0.5 * np.tanh(colour - colour.mean((0, 1))))


def colour_field(seed: int) -> U8:
    """Smooth fields of colour with a fine grain, whose spectra fall as a power of frequency."""
    rng = np.random.default_rng(seed)
    shared = _fractal(rng, 1.7)
    channels = [0.7 * shared + 0.5 * _fractal(rng, 1.7) + 0.1 * _fractal(rng, 0.9) for _ in "rgb"]
    return _to_bytes(0.5 + 0.5 * np.tanh(0.8 * np.stack(channels, -1)))


def denoised(seed: int) -> U8:
    """Noise that is smoothed and sharpened by turns until structures stand out of it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    for step in range(24):
        narrow = _blur(x, 1)
        x = np.tanh(1.6 * narrow - 0.75 * _blur(narrow, 4) + 0.05 * np.roll(narrow, 1, 2))
        x += (0.3 * (1 - step / 24) ** 2) * rng.normal(size=x.shape).astype(np.float32)
    return _to_bytes(0.5 + 0.45 * _blur(x, 1))


def landscape(seed: int) -> U8:
    """Ridges behind each other in haze, under a low sun."""
    rng = np.random.default_rng(seed)
    y, x = _grid()
    sun = np.exp(-((x - 0.68) ** 2 + (y - 0.36) ** 2) / 0.02)[..., None]
    sky = (
        np.array([0.28, 0.45, 0.74]) * (1 - y[..., None])
        + np.array([0.98, 0.74, 0.5]) * y[..., None]
    )
    image = sky + 0.5 * sun + 0.04 * _fractal(rng, 1.5)[..., None]
    for layer in range(6):
        depth = layer / 5
        line = 0.42 + 0.09 * layer + (0.05 + 0.05 * depth) * _fractal(rng, 1.6)[0]
        inside = 1 / (1 + np.exp(np.clip((line[None] - y) * SIZE, -30, 30)))[..., None]
        rock = np.array([0.14, 0.2, 0.16]) * (1 + 0.35 * _fractal(rng, 1.1)[..., None])
        haze = np.array([0.75, 0.68, 0.7])
        image = (1 - inside) * image + inside * (depth * rock + (1 - depth) * haze)
    return _to_bytes(image)


def portrait(seed: int) -> U8:
    """A head and shoulders of soft shaded ellipsoids before lights out of focus."""
    rng = np.random.default_rng(seed)
    y, x = _grid()
    image = _lights(rng, 30) * 0.7

    def put(image: F32, cy: float, cx: float, ry: float, rx: float, colour: list[float]) -> F32:
        square = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        height = np.sqrt(np.clip(1 - square, 0, 1))
        light = 0.45 + 0.55 * np.clip(
            height * 0.8 - (x - cx) / rx * 0.4 - (y - cy) / ry * 0.3, 0, 1
        )
        inside = np.clip((1 - square) * 30, 0, 1)[..., None]
        return (1 - inside) * image + inside * light[..., None] * np.array(colour)

    skin = [0.93, 0.71, 0.6]
    image = put(image, 1.08, 0.5, 0.34, 0.46, [0.25, 0.33, 0.55])
    image = put(image, 0.42, 0.5, 0.34, 0.27, [0.3, 0.19, 0.13])
    image = put(image, 0.76, 0.5, 0.16, 0.09, skin)
    image = put(image, 0.5, 0.5, 0.28, 0.2, skin)
    for side in (-1, 1):
        image = put(image, 0.47, 0.5 + 0.08 * side, 0.022, 0.036, [1.0, 1.0, 1.0])
        image = put(image, 0.47, 0.5 + 0.08 * side, 0.018, 0.018, [0.2, 0.32, 0.4])
        image = put(image, 0.425, 0.5 + 0.08 * side, 0.008, 0.045, [0.3, 0.19, 0.13])
    image = put(image, 0.56, 0.5, 0.04, 0.026, [0.95, 0.7, 0.6])
    image = put(image, 0.645, 0.5, 0.018, 0.062, [0.85, 0.36, 0.36])
    return _to_bytes(_blur(image.astype(np.float32), 1) + 0.012 * _fractal(rng, 0.6)[..., None])


def lights(seed: int) -> U8:
    """Lights out of focus at night."""
    rng = np.random.default_rng(seed)
    return _to_bytes(_lights(rng, 70) + 0.01 * _fractal(rng, 0.3)[..., None])


def julia(seed: int) -> U8:
    """A Julia set, coloured by a smooth count of its iterations."""
    rng = np.random.default_rng(seed)
    y, x = _grid()
    z = ((x - 0.5) * 2.6 + 1j * (y - 0.5) * 2.6).astype(np.complex64)
    constant = np.complex64(-0.8 + 0.156j + 0.02 * rng.normal())
    count = np.zeros(z.shape)
    for _ in range(90):
        near = np.abs(z) < 8
        z = np.where(near, z * z + constant, z)
        count += near
    smooth = count + 1 - np.log2(np.log2(np.maximum(np.abs(z), 2)) + 1e-6)
    phase = 0.18 * smooth[..., None] + np.array([0.0, 0.7, 1.5]) + rng.uniform(0, 6)
    return _to_bytes(0.5 + 0.45 * np.cos(phase))


GENERATED: dict[str, tuple[Callable[[], U8], str]] = {
    "decoder-transposed": (
        lambda: decoder("transposed", 1),
        "convolutional decoder with random weights, upsampling by transposed convolutions",
    ),
    "decoder-nearest": (
        lambda: decoder("nearest", 2),
        "convolutional decoder with random weights, upsampling by repetition",
    ),
    "decoder-bilinear": (
        lambda: decoder("bilinear", 3),
        "convolutional decoder with random weights, bilinear upsampling",
    ),
    "colour-field": (lambda: colour_field(4), "random fields of colour with fractal spectra"),
    "denoised": (lambda: denoised(5), "noise, smoothed and sharpened by turns"),
    "landscape": (lambda: landscape(6), "rendered mountains in haze"),
    "portrait": (lambda: portrait(7), "rendered head of shaded ellipsoids"),
    "lights": (lambda: lights(8), "rendered lights out of focus"),
    "julia": (lambda: julia(9), "Julia set"),
}
"""Name → how it is made, and in words."""


def _grid() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Row and column of each pixel, 0 to 1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    return y, x


def _to_bytes(image: npt.NDArray[np.floating]) -> U8:
    """From 0..1 to u8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _fractal(rng: np.random.Generator, power: float) -> F32:
    """f32 [SIZE, SIZE] noise of mean 0 and deviation 1 whose amplitudes fall as 1 / f^power."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(SIZE, SIZE))) / frequency**power
    noise = np.fft.irfft2(spectrum, (SIZE, SIZE))
    return (noise / noise.std()).astype(np.float32)


def _blur(x: F32, radius: int) -> F32:
    """Binomial smoothing along both axes, `radius` times."""
    for _ in range(radius):
        for axis in (0, 1):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return x


def _lights(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """f64 [SIZE, SIZE, 3] discs of light on a dark gradient."""
    y, x = _grid()
    image = np.array([0.06, 0.07, 0.14]) + 0.12 * y[..., None] * np.array([0.9, 0.6, 0.4])
    for _ in range(count):
        cy, cx, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.075)
        distance = np.hypot(y - cy, x - cx) / radius
        disc = np.clip((1 - distance) * 12, 0, 1) * (0.7 + 0.3 * np.clip(distance, 0, 1) ** 4)
        image = image + rng.uniform(0.1, 0.5) * disc[..., None] * rng.uniform(0.3, 1, 3)
    return image


def _upsample(x: F32, upsampling: Upsampling) -> F32:
    """f32 [H, W, C] → f32 [2H, 2W, C]."""
    if upsampling == "transposed":
        out = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2]), np.float32)
        out[::2, ::2] = 2 * x
        return out
    out = x.repeat(2, 0).repeat(2, 1)
    return _blur(out, 1) if upsampling == "bilinear" else out


def _kernel(rng: np.random.Generator, inputs: int, outputs: int, *, smooth: bool) -> F32:
    """Random weights f32 [3, 3, inputs, outputs], of one sign more where zeros are to be filled."""
    weights = rng.normal(0, (9 * inputs) ** -0.5, (3, 3, inputs, outputs))
    if smooth:
        window = np.array([0.6, 1.0, 0.6])
        mixing = rng.normal(0, inputs**-0.5, (inputs, outputs))
        weights = 0.3 * weights + np.multiply.outer(np.outer(window, window), mixing)
    return weights.astype(np.float32)


def _convolve(x: F32, weights: F32) -> F32:
    """3 × 3 convolution of f32 [H, W, C] that wraps around at the borders."""
    taps = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    parts = [np.roll(x, (-r, -c), (0, 1)) @ weights[r + 1, c + 1] for r, c in taps]
    return np.sum(parts, axis=0, dtype=np.float32)
