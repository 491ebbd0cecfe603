"""From the tensors of others to a detector's spec and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import open_clip
import torch

from mpft_deploy.detector.backbone import (
    Geometry,
    Weights,
    check_weights,
    geometry,
    is_plain,
    load_backbone,
    shapes,
)
from mpft_deploy.detector.importing.heads import Head, fold_head
from mpft_deploy.detector.importing.merge import Adapters, added, merge
from mpft_deploy.detector.importing.sources import Activation, Sources, read_sources
from mpft_deploy.detector.importing.towers import (
    BLOCK,
    Place,
    Tower,
    locate,
    read_tower,
    translated,
)
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display
from mpft_deploy.spec import (
    CLIP_MEAN,
    CLIP_STD,
    Architecture,
    Calibration,
    Crop,
    DetectorSpec,
    Feature,
    Scaling,
)
from mpft_deploy.weights import F32

Features = Literal["pooled", "projected", "unit"]
FEATURES: dict[Features, Feature] = {"pooled": "token", "projected": "plain", "unit": "unit"}
Normalisation = Literal["clip", "imagenet"]

NORMALISATIONS = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Attention heads of published towers, by their width; others have them of 64."""

HEAD_ALONE = 8
"""Tensors without any block: as many may be a head, more are another kind of network."""


@dataclass(frozen=True)
class Request:
    """What to import, and what tensors do not tell.

    sources: checkpoints, or folders of transformers or PEFT, that are one model.
    backbone: a file with the tower, or `NAME[@SOURCE]` as `load_backbone` takes it; None where
        `sources` hold it.
    features: what the head reads: the class token after the last norm, CLIP's embedding of it, or
        that divided by its length. None goes by the head's width.
    lora_alpha: of low-rank updates without settings.
    invert: the logit is of real images.
    scaling: what pictures went through before their centre was cut; None if nothing.
    """

    sources: Sequence[Path]
    backbone: str | None = None
    heads: int | None = None
    activation: Activation | None = None
    features: Features | None = None
    lora_alpha: float | None = None
    invert: bool = False
    scaling: Scaling | None = None
    normalisation: Normalisation = "clip"
    keep: str = "all"


@dataclass(frozen=True)
class Imported:
    """A detector out of a checkpoint.

    told: what was recognised, folded and assumed, for people.
    files: that were read.
    """

    spec: DetectorSpec
    weights: dict[str, F32]
    told: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def assemble(request: Request) -> Imported:
    """A detector from others' files.

    Raises:
        InputError: a file is damaged, or holds something else than a plain CLIP vision transformer
            with a linear head; says what was found.
        UsageError: something that tensors do not tell is missing, or contradicts them.
    """
    paths, name = list(request.sources), request.backbone
    if name is not None and Path(name).exists():
        paths, name = [*paths, Path(name)], None
    elif name is not None and "@" not in name and Path(name).suffix:  # no model's name has one
        raise InputError(f"{display(name)}: no such file")
    found = read_sources(paths)
    where = " and ".join(display(path) for path in request.sources)
    adapters = found.adapters
    if request.lora_alpha is not None:
        adapters = Adapters(request.lora_alpha)
    plain, updates, told = merge(found.tensors, adapters)
    place = locate(plain, where)
    if place is None and len(plain) > HEAD_ALONE:
        shown = ", ".join(display(key) for key in sorted(plain)[:5])
        raise InputError(
            f"{where} holds no transformer by the names that CLIP has in open_clip, transformers "
            f"or timm, but {len(plain)} tensors such as {shown}"
        )
    tower = Tower({}, plain) if place is None else read_tower(plain, place, where)
    if place is not None:
        told.insert(0, f"the tower was recognised by the names of {place.scheme.name}")
    weights, known = _whole(tower, request, name, where, told)
    of_updates = locate(updates, where)  # which may be named otherwise than the tower
    for key, update in updates.items():
        _add(weights, key, update, of_updates)
    extra = _projection_of_timm(tower, place, weights)
    head = fold_head(tower.rest, where, invert=request.invert)
    told += head.told
    features = _features(request, head, weights, place, where, told)
    folded = _folded(weights, head, features, extra)
    shape = _geometry(folded, request, found, known, where, told)
    head_shapes = {key: tuple(folded[key].shape) for key in ("head.weight", "head.bias")}
    tower_shapes = shapes(shape, projected=features != "pooled")
    folded = check_weights(folded, tower_shapes | head_shapes, where)
    if broken := [key for key, value in folded.items() if not torch.isfinite(value).all()]:
        raise InputError(f"{where}: {display(broken[0])} holds numbers that are not finite")
    mean, std = NORMALISATIONS[request.normalisation]
    spec = DetectorSpec(
        architecture=shape.architecture,
        depth=shape.architecture.layers,
        patch=shape.patch,
        crop=Crop(size=shape.size, scaling=request.scaling),
        train_keep="all",
        fill="drop",
        keep=request.keep,
        feature=FEATURES[features],
        mean=mean,
        std=std,
        calibration=Calibration(unsure=(0.5, 0.5)),
    )
    arrays = {key: value.numpy().astype("float32", copy=False) for key, value in folded.items()}
    return Imported(spec, arrays, told, found.files)


def _whole(
    tower: Tower, request: Request, name: str | None, where: str, told: list[str]
) -> tuple[Weights, Geometry | None]:
    """All weights of the tower, and its geometry where the backbone's name states it."""
    known = None if name is None else geometry(name.partition("@")[0])
    layers = {key.split(".")[2] for key in tower.weights if key.startswith(BLOCK)}
    complete = "conv1.weight" in tower.weights and bool(layers)
    if known is not None and complete:
        complete = tower.weights.keys() >= shapes(known).keys() - {"proj"}
    if complete:
        return dict(tower.weights), known
    if name is None:
        held = f"{len(tower.weights)} weights of a tower" if tower.weights else "no image tower"
        raise UsageError(
            f"{where} holds {held}: give the one that it belongs to by --backbone, as a file or as "
            "open_clip's NAME[@FILE], such as ViT-L-14-quickgelu for CLIP ViT-L/14 of OpenAI"
        )
    backbone = load_backbone(name)
    own = len(tower.weights)
    told.append(f"{len(backbone.weights) - own} weights of the tower are those of {display(name)}")
    return {**backbone.weights, **tower.weights}, backbone.geometry


def _add(weights: Weights, key: str, update: torch.Tensor, place: Place | None) -> None:
    """Add an update to a weight of the tower, or to a third of it, in place."""
    target, third = ("", None) if place is None else translated(key, place)
    if target not in weights:
        raise InputError(f"there is no matrix that the update of {display(key)} belongs to")
    base = weights[target]
    if third is None:
        weights[target] = added(key, base, update)
    else:
        parts = list(base.chunk(3))
        parts[third] = added(key, parts[third], update)
        weights[target] = torch.cat(parts)


def _projection_of_timm(tower: Tower, place: Place | None, weights: Weights) -> torch.Tensor | None:
    """Take CLIP's projection, which timm calls the head, out of `rest`; its bias, if it has any."""
    name = "" if place is None or place.scheme.name != "timm" else f"{place.prefix}head.weight"
    if name not in tower.rest or len(tower.rest[name]) <= 2:
        return None
    weights["proj"] = tower.rest.pop(name).float().T.contiguous()
    return tower.rest.pop(f"{name.removesuffix('weight')}bias", None)


def _features(
    request: Request,
    head: Head,
    weights: Weights,
    place: Place | None,
    where: str,
    told: list[str],
) -> Features:
    """What the head reads, by its width unless it was said."""
    count, width = len(head.weight), len(weights["class_embedding"])
    embedded = weights["proj"].shape[1] if "proj" in weights else None
    features = request.features
    if features is None:
        features = "projected" if count == embedded else "pooled"
        if count == width == embedded:
            raise UsageError(
                f"{where}: a head of width {count} may read the class token after the last norm or "
                "its projection, which is as wide: say which, --features pooled or projected"
            )
        if _is_c2p(head, place) and features == "projected":
            features = "unit"
            told.append("assumed: C2P-CLIP, by its names; if not, give --features projected")
    if count != (width if features == "pooled" else embedded):
        raise InputError(
            f"{where}: its head {display(head.name)} has the width {count}, but the class token "
            f"has {width} and its projection {embedded or 'is not there'}"
        )
    reads = {
        "pooled": "the class token after the last norm, without projection",
        "projected": "CLIP's embedding as it is",
        "unit": "CLIP's embedding divided by its length",
    }
    told.append(f"the head {display(head.name)} reads {reads[features]}")
    return features


def _is_c2p(head: Head, place: Place | None) -> bool:
    """Whether the head lies within transformers' CLIPModel, as in C2P-CLIP (arXiv 2408.09647),
    which divides embeddings by their length before it."""
    return (
        place is not None
        and place.prefix == "model.vision_model."
        and head.name == "model.fc.weight"
    )


def _folded(
    weights: Weights, head: Head, features: Features, extra: torch.Tensor | None
) -> Weights:
    """The tower's weights with the head's."""
    vector, bias = head.weight, head.bias
    out = dict(weights)
    if features == "pooled":
        out.pop("proj", None)
    elif extra is not None and extra.abs().max() > 0:
        if features == "unit":
            raise InputError("a projection with a bias before features of length one is not CLIP's")
        bias += float(vector @ extra.double())
    out["head.weight"] = vector[None].float()
    out["head.bias"] = torch.tensor([bias], dtype=torch.float32)
    return out


def _geometry(
    weights: Weights,
    request: Request,
    found: Sources,
    known: Geometry | None,
    where: str,
    told: list[str],
) -> Geometry:
    """The tower's geometry by the shapes of its weights, and what is stated or assumed beside."""
    patches = weights["conv1.weight"]
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or patches.shape[1] != 3:
        raise InputError(f"{where}: its patches have weights of shape {list(patches.shape)}")
    width, patch = len(patches), int(patches.shape[2])
    layers = len({key.split(".")[2] for key in weights if key.startswith(BLOCK)})
    hidden = weights.get(f"{BLOCK}0.mlp.c_fc.weight")
    table = weights.get("positional_embedding")
    grid = round((len(table) - 1) ** 0.5) if table is not None else 0
    if hidden is None or table is None or grid**2 + 1 != len(table):
        raise InputError(f"{where}: its tower lacks what tells its size, or is not square")
    stated = None if known is None else known.architecture
    heads = request.heads or found.heads or (stated and stated.heads)
    if not heads:
        heads = HEADS.get(width, max(1, width // 64))
        told.append(f"assumed: {heads} attention heads, as published towers of its width have")
    activation = request.activation or found.activation or (stated and stated.activation)
    if not activation:
        activation = "quick_gelu"
        told.append(
            "assumed: quick_gelu, as in OpenAI's CLIP; for other weights give --activation gelu"
        )
    if width % heads:
        raise UsageError(f"{where}: a width of {width} is not divided by {heads} heads")
    shape = Architecture(
        name="",
        width=width,
        layers=layers,
        heads=heads,
        hidden=len(hidden),
        output_dim=weights["proj"].shape[1] if "proj" in weights else width,
        activation=activation,
    )
    name = stated.name if stated else _name(shape, patch)
    return Geometry(msgspec.structs.replace(shape, name=name), patch, grid * patch)


def _name(shape: Architecture, patch: int) -> str:
    """open_clip's name of such a tower, the shortest; else one made of its sizes."""
    names = [name for name in open_clip.list_models() if is_plain(name)]
    name: str
    for name in sorted(names, key=len):
        one = geometry(name)
        same = msgspec.structs.replace(one.architecture, name="", output_dim=shape.output_dim)
        if same == shape and one.patch == patch:
            return name
    return f"ViT-{shape.width}x{shape.layers}-{patch}"
