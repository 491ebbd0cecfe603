"""Golden crops: the views by which any machine proves its engine against the trained model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

GOLDEN_COUNT = 32
POOL = 256
"""Synthetic crops among which the golden ones are chosen."""


def spread(logits: npt.ArrayLike, count: int = GOLDEN_COUNT) -> I64:
    """Indices, ascending, of up to `count` logits spread as evenly as possible over their range."""
    values = np.asarray(logits, np.float64)
    free = np.ones(len(values), bool)
    for target in np.linspace(values.min(), values.max(), min(count, len(values))):
        free[np.argmin(np.where(free, np.abs(values - target), np.inf))] = False
    return np.flatnonzero(~free)


def synthetic_crops(size: int, *, count: int = POOL, seed: int = 0) -> U8:
    """Crops without any third party's content, of many textures: u8 [count, size, size, 3].

    Noise of several spectra, gradients, stripes, blobs and shapes take turns, each softened by
    noise of its own strength.
    """
    makers = (_noise, _gradient, _stripes, _blobs, _shapes)
    out = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        picture = makers[index % len(makers)](size, rng)
        grain = rng.choice([0.0, 2.0, 6.0, 16.0])
        out[index] = np.clip(picture + rng.normal(0, 1, picture.shape) * grain, 0, 255)
    return out


def _grid(size: int) -> tuple[F64, F64]:
    """Row and column coordinates in −1..1, [size, size] each."""
    line = np.linspace(-1, 1, size)
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return rows, columns


def _colours(rng: np.random.Generator, count: int) -> F64:
    return rng.uniform(0, 255, (count, 3))


def _mix(share: F64, rng: np.random.Generator) -> F64:
    """Blend two colours by a share in 0..1, [size, size]."""
    low, high = _colours(rng, 2)
    blend: F64 = low + share[..., None] * (high - low)
    return blend


def _noise(size: int, rng: np.random.Generator) -> F64:
    """Noise whose amplitude falls with frequency to a power of 0 (white) to 2.5 (clouds)."""
    power = rng.uniform(0, 2.5)
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    radius = np.hypot(rows, columns)
    radius[0, 0] = 1
    shared, own = rng.normal(size=(size, size, 1)), rng.normal(size=(size, size, 3))
    white = shared + rng.uniform(0, 1) * own
    spectrum = np.fft.rfft2(white, axes=(0, 1)) / radius[..., None] ** power
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(size, size), axes=(0, 1))
    picture: F64 = rng.uniform(60, 200, 3) + field / field.std() * rng.uniform(10, 60)
    return picture


def _gradient(size: int, rng: np.random.Generator) -> F64:
    rows, columns = _grid(size)
    if rng.integers(2):
        share = np.hypot(rows - rng.uniform(-1, 1), columns - rng.uniform(-1, 1)) / 3
    else:
        angle = rng.uniform(0, 2 * np.pi)
        share = (1 + (rows * np.sin(angle) + columns * np.cos(angle)) / np.sqrt(2)) / 2
    return _mix(share, rng)


def _stripes(size: int, rng: np.random.Generator) -> F64:
    rows, columns = _grid(size)
    angle, waves = rng.uniform(0, np.pi), 2 ** rng.uniform(1, 6)
    phase = np.pi * waves * (rows * np.sin(angle) + columns * np.cos(angle))
    wave = (1 + np.sin(phase + rng.uniform(0, 2 * np.pi))) / 2
    return _mix(wave.round() if rng.integers(2) else wave, rng)


def _blobs(size: int, rng: np.random.Generator) -> F64:
    rows, columns = _grid(size)
    picture = np.zeros((size, size, 3)) + _colours(rng, 1)
    for colour in _colours(rng, int(rng.integers(3, 24))):
        row, column, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.05, 0.5)
        share = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / radius**2)
        picture += share[..., None] * (colour - picture)
    return picture


def _shapes(size: int, rng: np.random.Generator) -> F64:
    rows, columns = _grid(size)
    picture = _gradient(size, rng)
    for colour in _colours(rng, int(rng.integers(4, 40))):
        down, right = rows - rng.uniform(-1, 1), columns - rng.uniform(-1, 1)
        height, width = rng.uniform(0.03, 0.5, 2)
        disc = (down / height) ** 2 + (right / width) ** 2 < 1
        box = (abs(down) < height) & (abs(right) < width)
        picture[disc if rng.integers(2) else box] = colour
    return picture
