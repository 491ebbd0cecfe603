"""Files that others keep a detector in: tensors alone are read of them, and nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mpft_deploy.detector.backbone import is_torchscript, read_tensors
from mpft_deploy.detector.importing.merge import Adapters, read_adapters
from mpft_deploy.errors import InputError
from mpft_deploy.files import display

WEIGHTS = (
    *("model.safetensors", "adapter_model.safetensors", "open_clip_model.safetensors"),
    *("pytorch_model.bin", "adapter_model.bin", "open_clip_pytorch_model.bin"),
)
"""Of a model's folder, as transformers, PEFT and open_clip call them."""

INDEX = ".index.json"
"""Beside parts of a large file: which tensor lies in which."""

Activation = Literal["gelu", "quick_gelu"]


@dataclass
class Sources:
    """What some files hold.

    tensors: by the files' own names.
    files: that were read.
    heads, activation: of the transformer, where a file states them.
    """

    tensors: dict[str, torch.Tensor]
    files: list[Path]
    adapters: Adapters | None = None
    heads: int | None = None
    activation: Activation | None = None


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read checkpoints and models' folders into one set of tensors.

    Raises:
        InputError: one is missing, damaged or not understood, or two hold a tensor of one name.
    """
    out = Sources({}, [])
    for path in paths:
        for file in _files(path, out) if path.is_dir() else [path]:
            found = read_tensors(file)
            if both := sorted(found.keys() & out.tensors.keys()):
                raise InputError(
                    f"{display(file)} and another file both hold {display(both[0])}: import one of "
                    "them, or name the tower's by --backbone"
                )
            out.tensors.update(found)
            out.files.append(file)
            if is_torchscript(file):  # as OpenAI released them, and nobody else
                out.activation = "quick_gelu"
    return out


def _files(folder: Path, out: Sources) -> list[Path]:
    """The files of weights in a model's folder; what its settings say goes into `out`."""
    if (settings := folder / "adapter_config.json").is_file():
        out.adapters = read_adapters(settings)
    for name in ("config.json", "open_clip_config.json"):
        if (folder / name).is_file():
            _settings(folder / name, out)
    whole = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    parts = [folder / f"{name}{INDEX}" for name in WEIGHTS if (folder / f"{name}{INDEX}").is_file()]
    if whole:
        return whole[:1]
    if parts:
        where = _object(parts[0]).get("weight_map", {})
        return [folder / Path(name).name for name in sorted(set(where.values()))]
    there = ", ".join(sorted(display(one.name) for one in folder.iterdir())[:8]) or "nothing"
    raise InputError(
        f"{display(folder)} holds no file of weights by a usual name ({', '.join(WEIGHTS)}), only "
        f"{there}: name the file"
    )


def _settings(path: Path, out: Sources) -> None:
    """Heads and activation out of the settings of transformers or open_clip."""
    stated = _object(path)
    if path.name == "config.json":
        vision = stated.get("vision_config") or stated
        kind = vision.get("hidden_act")
        if kind not in (None, "gelu", "quick_gelu"):
            raise InputError(
                f"{display(path)}: its activation {kind} is neither gelu nor quick_gelu"
            )
        if vision.get("layer_norm_eps", 1e-5) != 1e-5:
            raise InputError(f"{display(path)}: its layer_norm_eps is not CLIP's 1e-5")
        out.activation = kind or out.activation
        out.heads = vision.get("num_attention_heads") or out.heads
    else:
        model = stated.get("model_cfg") or stated
        vision = model.get("vision_cfg") or {}
        out.activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
        if "width" in vision:
            out.heads = int(vision["width"]) // int(vision.get("head_width", 64))


def _object(path: Path) -> dict[str, Any]:
    try:
        stated = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{display(path)} cannot be read: {error}") from None
    if not isinstance(stated, dict):
        raise InputError(f"{display(path)} holds no settings")
    return stated
