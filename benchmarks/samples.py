"""Inputs for benchmarks that need no downloads: mosaics of a detector's golden crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mpft_deploy.detector_folder import read_detector

WIDTH, HEIGHT, QUALITY = 1920, 1080, 90

FLOAT_LAYERS = ("*.mlp.c_proj",)
"""Kept in float by the engines that the README, the demo and the Makefile build."""


def mosaic(crops: np.ndarray, seed: int) -> np.ndarray:
    """u8 [HEIGHT, WIDTH, 3]: golden crops, which are photographs and the like, side by side."""
    size = crops.shape[1]
    rows, columns = -(-HEIGHT // size), -(-WIDTH // size)
    chosen = crops[np.random.default_rng(seed).integers(0, len(crops), rows * columns)]
    grid = chosen.reshape(rows, columns, size, size, 3).transpose(0, 2, 1, 3, 4)
    whole: np.ndarray = grid.reshape(rows * size, columns * size, 3)[:HEIGHT, :WIDTH]
    return whole


def write_jpegs(detector: Path, folder: Path, count: int) -> list[Path]:
    """JPEG files of 1080p, at quality 90 and 4:2:0 as cameras write them."""
    crops = read_detector(detector).golden.crops
    paths = []
    for seed in range(count):
        path = folder / f"{seed}.jpg"
        Image.fromarray(mosaic(crops, seed)).save(path, "JPEG", quality=QUALITY, subsampling=2)
        paths.append(path)
    return paths


def write_crops(detector: Path, folder: Path) -> None:
    """The golden crops as image files."""
    for index, crop in enumerate(read_detector(detector).golden.crops):
        Image.fromarray(crop).save(folder / f"{index:02}.png")
