"""An independent NumPy encoder in float64, and tiny random detectors, for tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpft_deploy.detector_folder import Golden, write_detector
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import Architecture, Calibration, Crop, DetectorSpec, HeldOut
from mpft_deploy.weights import F32, detector_shapes

FLOAT32 = ("onnxruntime", "fp32")
"""Backend and precision of an engine that is as good as exact."""


def tiny_spec(**changes: object) -> DetectorSpec:
    """A detector of 16 cells of 8 pixels, width 64, 3 blocks of which 2 are run."""
    fields: dict[str, object] = {
        "architecture": Architecture(
            name="tiny",
            width=64,
            layers=3,
            heads=2,
            hidden=128,
            output_dim=32,
            activation="quick_gelu",
        ),
        "depth": 2,
        "patch": 8,
        "crop": Crop(size=32),
        "train_keep": "smooth:6",
        "fill": "drop",
        "keep": "textured:6",
        # So sure of itself that streams of it get verdicts soon.
        "calibration": Calibration(
            held_out=HeldOut(separation=8.0, error=0.1, spread=0.2, real=9, generated=9, images=99)
        ),
    }
    return DetectorSpec(**{**fields, **changes})  # type: ignore[arg-type]


def random_weights(spec: DetectorSpec, seed: int = 0) -> dict[str, F32]:
    """Weights of a size at which activations neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in detector_shapes(spec).items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 16
        value = rng.normal(0, fan_in**-0.5, shape)
        if name.startswith("ln_") or ".ln_" in name:
            value += float(name.endswith("weight"))
        weights[name] = value.astype(np.float32)
    return weights


def write_tiny(path: Path, seed: int = 0, **changes: object) -> DetectorSpec:
    """Write a tiny random detector, its golden logits by `logits`; `changes` are of `tiny_spec`."""
    spec = tiny_spec(**changes)
    weights = random_weights(spec, seed)
    size = spec.crop.size
    crops = np.random.default_rng(seed).integers(0, 256, (12, size, size, 3), np.uint8)
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    write_detector(
        path, spec, weights, Golden(crops, logits(spec, weights, cut)), "# tiny\n", replace=True
    )
    return spec


def logits(spec: DetectorSpec, weights: Mapping[str, F32], cut: Patches) -> F32:
    """f32 [B], computed in float64 and written with nothing from the package."""
    arch = spec.architecture
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    pixels = cut.patches.reshape(*cut.positions.shape, spec.patch, spec.patch, 3) / 255
    pixels = (pixels - np.array(spec.mean)) / np.array(spec.std)
    x = np.einsum("bkrcx,dxrc->bkd", pixels, w["conv1.weight"])
    x = x + w["positional_embedding"][cut.positions + 1]
    first = w["class_embedding"] + w["positional_embedding"][0]
    x = np.concatenate([np.broadcast_to(first, (len(x), 1, arch.width)), x], 1)
    x = _norm(x, w, "ln_pre")
    features = []
    for block in range(spec.depth):
        own = f"transformer.resblocks.{block}"
        x = x + _attention(_norm(x, w, f"{own}.ln_1"), w, f"{own}.attn", arch.heads)
        hidden = _norm(x, w, f"{own}.ln_2") @ w[f"{own}.mlp.c_fc.weight"].T
        hidden = _activation(hidden + w[f"{own}.mlp.c_fc.bias"], arch.activation)
        hidden = hidden * w.get(f"{own}.mlp.c_proj.smoothed", 1)
        x = x + hidden @ w[f"{own}.mlp.c_proj.weight"].T + w[f"{own}.mlp.c_proj.bias"]
        read = _norm(x[:, 0], w, "ln_post")
        read = read if spec.feature == "token" else read @ w["proj"]
        unit = spec.feature == "unit"
        features.append(read / np.sqrt((read**2).sum(1, keepdims=True)) if unit else read)
    read = np.concatenate(features[spec.depth - spec.taps :], 1)
    return (read @ w["head.weight"][0] + w["head.bias"][0]).astype(np.float32)


Array = npt.NDArray[np.float64]


def _norm(x: Array, w: Mapping[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def _activation(x: Array, kind: str) -> Array:
    if kind == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _attention(x: Array, w: Mapping[str, Array], name: str, heads: int) -> Array:
    batch, tokens, width = x.shape
    qkv = x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
    q, k, v = qkv.reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    merged = mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, width)
    return merged @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]
