"""Tiny towers, one that open_clip knows by name; short runs; a little world of labelled images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import open_clip.transformer
import pytest
import safetensors.torch
import torch
from foreign_towers import HEADS, LAYERS, OUTPUT, PATCH, SIZE, WIDTH, Save, random
from PIL import Image

from mpft_deploy.detector.backbone import Geometry, geometry, shapes
from mpft_deploy.detector.settings import TrainSettings

TINY = "mpft-tiny"
TINY_CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": 3,
        "width": 64,
        "patch_size": 16,
        "head_width": 32,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the tiny model's configuration, registered with open_clip."""
    path = tmp_path_factory.mktemp("config") / f"{TINY}.json"
    path.write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(path)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_config: Path) -> Geometry:
    """Geometry of the tiny model: 16 cells, 3 blocks."""
    return geometry(TINY)


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., dict[str, torch.Tensor]]:
    """Random weights of a tower in which every one of them matters."""

    def make(tower: Geometry, depth: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        weights = {}
        for name, shape in shapes(tower, depth).items():
            value = torch.randn(shape, generator=generator) * 0.05
            is_norm = name.endswith(".weight") and ".ln_" in f".{name}"
            weights[name] = value + 1 if is_norm else value
        return weights

    return make


@pytest.fixture(scope="session")
def tiny_backbone(
    tiny: Geometry,
    random_weights: Callable[..., dict[str, torch.Tensor]],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """NAME@SOURCE of the tiny model with random weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    safetensors.torch.save_file(random_weights(tiny), path)
    return f"{TINY}@{path}"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train and val with easy images: the generated ones are redder."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 10)):
        for label, name in enumerate(("0_real", "1_fake")):
            folder = root / split / "colours" / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 200, (80, 72, 3), dtype=np.uint8)
                pixels[..., 0] = pixels[..., 0] // 2 + 90 * label
                Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


@pytest.fixture
def settings(tiny_backbone: str) -> TrainSettings:
    """Of a run of 12 steps."""
    return TrainSettings(
        backbone=tiny_backbone, train_keep="smooth:6", keep="textured:7", depth=2, taps=1, epochs=4,
        batch=8, blend=1.0, backbone_lr=1e-3, head_lr=1e-2, seed=3, precision="f32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tower() -> open_clip.transformer.VisionTransformer:
    """A tower of ViT-L/14's form, tiny, in which every weight matters."""
    made = open_clip.transformer.VisionTransformer(
        image_size=SIZE,
        patch_size=PATCH,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        mlp_ratio=2.0,
        output_dim=OUTPUT,
        act_layer=open_clip.transformer.QuickGELU,
    ).eval()
    for seed, value in enumerate(made.parameters()):
        value.data = value.data * (value.ndim > 1) + random(seed, *value.shape)
    return made


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a checkpoint, in the form that its name has."""

    def write(weights: object, name: str = "model.pth") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(weights, path)  # type: ignore[arg-type]
        else:
            torch.save(weights, path)
        return path

    return write
