"""Files that others keep a detector in: tensors alone are read of them, and nothing is executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import torch

from mpft_deploy.detector.backbone import is_torchscript, read_tensors
from mpft_deploy.detector.importing.merge import Adapters, read_adapters
from mpft_deploy.errors import InputError
from mpft_deploy.files import display, read_small
from mpft_deploy.spec import MALFORMED

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
        names = {Path(name).name for name in _read(parts[0], _Index).weight_map.values()}
        return [folder / name for name in sorted(names)]
    there = ", ".join(sorted(display(one.name) for one in folder.iterdir())[:8]) or "nothing"
    raise InputError(
        f"{display(folder)} holds no file of weights by a usual name ({', '.join(WEIGHTS)}), only "
        f"{there}: name the file"
    )


def _settings(path: Path, out: Sources) -> None:
    """Heads and activation out of the settings of transformers or open_clip."""
    if path.name == "config.json":
        stated = _read(path, _Transformers)
        vision = stated.vision_config or stated
        if vision.layer_norm_eps != 1e-5:
            raise InputError(f"{display(path)}: its layer_norm_eps is not CLIP's 1e-5")
        out.activation = vision.hidden_act or out.activation
        out.heads = vision.num_attention_heads or out.heads
    else:
        whole = _read(path, _OpenClip)
        model = whole.model_cfg or whole
        out.activation = "quick_gelu" if model.quick_gelu else "gelu"
        if model.vision_cfg is not None:
            out.heads = model.vision_cfg.width // model.vision_cfg.head_width or None


Count = Annotated[int, msgspec.Meta(ge=1)]


class _Vision(msgspec.Struct):
    hidden_act: Activation | None = None
    layer_norm_eps: float = 1e-5
    num_attention_heads: Count | None = None


class _Transformers(_Vision):
    """A `config.json`: of a whole CLIP, or of its tower alone."""

    vision_config: _Vision | None = None


class _Tower(msgspec.Struct):
    width: int = 0
    head_width: Count = 64


class _Model(msgspec.Struct):
    quick_gelu: bool = False
    vision_cfg: _Tower | None = None


class _OpenClip(_Model):
    """An `open_clip_config.json`: with what surrounds the model, or of the model alone."""

    model_cfg: _Model | None = None


class _Index(msgspec.Struct):
    """Which tensor lies in which file."""

    weight_map: dict[str, str]


_T = TypeVar("_T")


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(read_small(path), type=kind)
    except MALFORMED as error:
        raise InputError(f"{display(path)} is not understood: {error}") from None
