"""CLIP's image tower: geometry by open_clip's names, weights from any of the usual containers."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import open_clip
import open_clip.pretrained
import safetensors
import safetensors.torch
import torch

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display
from mpft_deploy.spec import Architecture
from mpft_deploy.weights import SCALE, dequantise, tower_shapes

PLAIN = frozenset(("image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"))
"""What open_clip's configuration of a plain CLIP vision transformer may hold."""

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Under which names training programs keep the weights beside other things."""

NAMED = 5
"""How many weights an error names."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Geometry:
    """Shape of a tower: `patch` is the side of a cell, `size` the side of its view, in pixels."""

    architecture: Architecture
    patch: int
    size: int

    @property
    def cells(self) -> int:
        """Cells N of a view."""
        return (self.size // self.patch) ** 2


@dataclass(frozen=True)
class Backbone:
    """A whole image tower; weights float32 by open_clip's names, and where they came from."""

    geometry: Geometry
    weights: Weights
    source: str


def geometry(name: str) -> Geometry:
    """Geometry of an open_clip model's image tower; a UsageError unless it is a plain CLIP ViT."""
    config = open_clip.get_model_config(name)
    if config is None:
        known = sorted(filter(is_plain, open_clip.list_models()))
        raise UsageError(f"backbone {name!r} is unknown to open_clip; choose {', '.join(known)}")
    if not is_plain(name):
        raise UsageError(
            f"backbone {name!r} is not a plain CLIP vision transformer; "
            "choose one such as ViT-B-16-quickgelu"
        )
    vision = config["vision_cfg"]
    width: int = vision["width"]
    architecture = Architecture(
        name=name,
        width=width,
        layers=vision["layers"],
        heads=width // vision.get("head_width", 64),
        hidden=int(width * vision.get("mlp_ratio", 4.0)),
        output_dim=config["embed_dim"],
        activation="quick_gelu" if config.get("quick_gelu", False) else "gelu",
    )
    return Geometry(architecture, vision["patch_size"], vision["image_size"])


def load_backbone(text: str) -> Backbone:
    """Load `NAME[@SOURCE]`, such as `ViT-B-16-quickgelu@openai` or `ViT-B-32@weights.safetensors`.

    SOURCE is a file, or a tag of open_clip that is downloaded through it; `openai` if left out.

    Raises:
        UsageError: the name or tag is unknown, or the tag's weights want another activation.
        InputError: the file is damaged or holds other weights than the architecture has.
        EnvironmentLacksError: the tag's weights could not be downloaded.
    """
    name, _, source = text.partition("@")
    tower = geometry(name)
    source = source or "openai"
    path = Path(source)
    is_file = path.exists() or path.suffix.lower() in (".pt", ".pth", ".bin", ".safetensors")
    if not is_file and os.sep not in source:
        path = _download(tower.architecture, source)
    stored = read_weights(path)
    if is_torchscript(path):
        _require_quick_gelu(tower.architecture, display(path))
    return Backbone(tower, check_weights(stored, shapes(tower), display(path)), source)


def read_weights(path: Path) -> Weights:
    """Read a checkpoint's image tower, float32, by open_clip's names; nothing is executed.

    Takes `.safetensors` and `torch.save` files and OpenAI's TorchScript archives, of a whole model
    or its image tower, under `state_dict` or not, and int8 files with one scale a row, in which
    `proj` is stored transposed.
    """
    return _unpack_int8(_image_tower(read_tensors(path)), display(path))


def read_tensors(path: Path) -> Weights:
    """All tensors of a checkpoint by its own names, as they are stored; nothing is executed."""
    where = display(path)
    if not path.is_file():
        raise InputError(f"{where}: no such file")
    if path.suffix.lower() == ".safetensors":
        try:
            return cast(Weights, safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{where} is not a valid safetensors file: {error}") from None
    return _read_pickle(path)


def shapes(
    tower: Geometry, depth: int | None = None, *, projected: bool = True
) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of the tower's first `depth` blocks (all of them by default)."""
    arch = tower.architecture
    blocks = arch.layers if depth is None else depth
    return tower_shapes(
        arch, patch=tower.patch, cells=tower.cells, depth=blocks, projected=projected
    )


def check_weights(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]], where: str
) -> Weights:
    """The weights in the order of `expected`; an InputError that names what is missing or wrong."""
    wrong = {
        f"{key} {tuple(weights[key].shape)} instead of {shape}": None
        for key, shape in expected.items()
        if key in weights and tuple(weights[key].shape) != shape
    }
    complaints = [
        f"{len(names)} {what} ({_few(names)})"
        for what, names in (
            ("missing", expected.keys() - weights.keys()),
            ("unknown", weights.keys() - expected.keys()),
            ("of wrong shape", wrong),
        )
        if names
    ]
    if complaints:
        raise InputError(
            f"{where} does not fit the architecture: of its weights {', '.join(complaints)}. "
            "Name the architecture that it was made for, or another file."
        )
    return {key: weights[key] for key in expected}


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:NAMED]) + (", …" if len(ordered) > NAMED else "")


def is_plain(name: str) -> bool:
    """Whether open_clip's model has a plain vision transformer as its image tower."""
    vision = open_clip.get_model_config(name)["vision_cfg"]
    return vision.keys() <= PLAIN and isinstance(vision.get("layers"), int)


def _download(architecture: Architecture, tag: str) -> Path:
    """Weights of an open_clip tag, from its cache or its own download."""
    name = architecture.name
    config = open_clip.pretrained.get_pretrained_cfg(name, tag)
    if not config:
        tags = open_clip.pretrained.list_pretrained_tags_by_model(name)
        raise UsageError(
            f"backbone source {tag!r} is neither a file nor a tag of {name} in open_clip; "
            f"its tags are {', '.join(tags) or '(none)'}"
        )
    if config.get("quick_gelu"):
        _require_quick_gelu(architecture, f"{name}@{tag}")
    try:
        return Path(open_clip.pretrained.download_pretrained(config))
    except Exception as error:
        # Whatever the downloader of the day raises: URLError, its own errors, a wrong checksum.
        raise EnvironmentLacksError(
            f"the weights {name}@{tag} could not be downloaded ({error}). Check the network, or "
            f"name a local file: {name}@path/to/weights.safetensors"
        ) from None


def _require_quick_gelu(architecture: Architecture, where: str) -> None:
    if architecture.activation != "quick_gelu":
        raise UsageError(
            f"the weights {where} were trained with QuickGELU: "
            f"name the backbone {architecture.name}-quickgelu"
        )


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI's releases are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_pickle(path: Path) -> Weights:
    """Read a `torch.save` file or a TorchScript archive without executing anything in it."""
    where = display(path)
    try:
        if is_torchscript(path):
            archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return cast(Weights, archive.state_dict())
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:  # which says nothing about the file
        raise
    except Exception as error:  # bytes that are no pickle raise whatever their opcodes lead to
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        why = "" if "weights_only" in first else f" ({first})"  # which would execute what it holds
        raise InputError(
            f"{where} cannot be read as a checkpoint of tensors alone{why}. "
            "Save its state_dict as safetensors and name that file."
        ) from None
    while isinstance(stored, Mapping):
        inner = [stored[name] for name in WRAPPERS if isinstance(stored.get(name), Mapping)]
        if not inner:
            break
        stored = inner[0]
    if not isinstance(stored, Mapping):
        raise InputError(f"{where} holds a {type(stored).__name__}, not named weights")
    return {str(key): value for key, value in stored.items() if isinstance(value, torch.Tensor)}


def _image_tower(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """The image tower's weights out of those of a whole model, without wrappers' prefixes."""
    named = {key.removeprefix("module."): value for key, value in tensors.items()}
    if any(key.startswith("visual.") for key in named):
        named = {k.removeprefix("visual."): v for k, v in named.items() if k.startswith("visual.")}
    return named


def _unpack_int8(stored: Weights, where: str) -> Weights:
    """float32 weights; int8 ones are scaled, and their `proj` is turned back."""
    if not any(key.endswith(SCALE) for key in stored):
        return {key: value.float() for key, value in stored.items()}
    arrays = dequantise({key: value.numpy() for key, value in stored.items()}, where)
    weights = {key: torch.from_numpy(value) for key, value in arrays.items()}
    if f"proj{SCALE}" in stored:
        weights["proj"] = weights["proj"].T.contiguous()
    return weights
