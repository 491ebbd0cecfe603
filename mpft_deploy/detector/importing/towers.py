"""CLIP's image tower under the names that others give its weights, recognised from the tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mpft_deploy.detector.backbone import NAMED, Weights
from mpft_deploy.errors import InputError
from mpft_deploy.files import display

BLOCK = "transformer.resblocks."


@dataclass(frozen=True)
class Scheme:
    """How a library names the weights of a vision transformer of CLIP's form.

    Attributes:
        name: of the library, for people.
        blocks: the part of a name before a block's number.
        patch: the weight that only image towers have.
        outside: names → open_clip's, of what is in no block.
        inside: the same within a block.
        parts: names of query, key and value within a block, where they are apart.
        projection: CLIP's, [E, W], where it lies beside the tower.
    """

    name: str
    blocks: str
    patch: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    parts: tuple[str, ...] = ()
    projection: str = ""


def _pairs(names: Mapping[str, str]) -> dict[str, str]:
    """Weight and bias of each layer."""
    return {f"{a}.{w}": f"{b}.{w}" for a, b in names.items() for w in ("weight", "bias")}


OPEN_CLIP = Scheme(
    "open_clip",
    BLOCK,
    "conv1.weight",
    {
        **{name: name for name in ("class_embedding", "positional_embedding", "proj")},
        "conv1.weight": "conv1.weight",
        **_pairs({"ln_pre": "ln_pre", "ln_post": "ln_post"}),
    },
    {
        "attn.in_proj_weight": "attn.in_proj_weight",
        "attn.in_proj_bias": "attn.in_proj_bias",
        **_pairs({n: n for n in ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")}),
    },
)
TRANSFORMERS = Scheme(
    "transformers",
    "encoder.layers.",
    "embeddings.patch_embedding.weight",
    {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        **_pairs({"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}),
    },
    _pairs(
        {
            "layer_norm1": "ln_1",
            "layer_norm2": "ln_2",
            "self_attn.out_proj": "attn.out_proj",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        }
    ),
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "visual_projection.weight",
)
TIMM = Scheme(
    "timm",
    "blocks.",
    "patch_embed.proj.weight",
    {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj.weight": "conv1.weight",
        "patch_embed.proj.bias": "conv1.bias",
        **_pairs({"norm_pre": "ln_pre", "norm": "ln_post"}),
    },
    {
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        **_pairs(
            {
                "norm1": "ln_1",
                "norm2": "ln_2",
                "attn.proj": "attn.out_proj",
                "mlp.fc1": "mlp.c_fc",
                "mlp.fc2": "mlp.c_proj",
            }
        ),
    },
    projection="head.proj.weight",
)
SCHEMES = (OPEN_CLIP, TRANSFORMERS, TIMM)

TEXT = re.compile(
    r"(text_model|text|transformer|token_embedding|ln_final)\..+|positional_embedding"
    r"|text_projection(\.weight)?|logit_scale|logit_bias|attn_mask|input_resolution|context_length"
    r"|vocab_size|(vision_model\.)?embeddings\.position_ids"
)
"""Beside an image tower: CLIP's other half, which judges no picture."""


class Place(NamedTuple):
    """How the tower of some tensors is named, and what stands before its names."""

    scheme: Scheme
    prefix: str


@dataclass(frozen=True)
class Tower:
    """An image tower, or the part of one, that some tensors hold.

    Attributes:
        weights: by open_clip's names, query, key and value joined.
        rest: the tensors that are not of CLIP, by their own names.
    """

    weights: Weights
    rest: Weights


def locate(names: Collection[str], where: str) -> Place | None:
    """The image tower that some tensors are of; None if there is no transformer at all.

    Raises:
        InputError: there are several.
    """
    towers = [
        Place(scheme, prefix)
        for scheme in SCHEMES
        for prefix in _prefixes(names, scheme)
        if not re.search(r"(^|\.)text(_model)?\.$", prefix)
    ]
    found = [one for one in towers if one.prefix + one.scheme.patch in names] or towers
    if len(found) > 1:
        listed = ", ".join(display(f"{one.prefix}… ({one.scheme.name})") for one in found)
        raise InputError(
            f"{where} holds {len(found)} transformers, {listed}: a detector has one; save the "
            "state_dict of that alone"
        )
    return found[0] if found else None


def refuse_unknown(names: Iterable[str], what: str, where: str) -> None:
    """An InputError that lists names that are not understood, if there are any."""
    ordered = sorted(names)
    if ordered:
        shown = ", ".join(map(display, ordered[:NAMED])) + (", …" if len(ordered) > NAMED else "")
        raise InputError(
            f"{where} is no plain CLIP vision transformer with a linear head: it holds "
            f"{len(ordered)} tensors of {what}: {shown}"
        )


def translated(key: str, place: Place) -> tuple[str, int | None]:
    """open_clip's name of a weight of a tower, and which third of it that is; "" if unknown."""
    scheme, prefix = place
    if not key.startswith(prefix):
        return "", None
    name = key[len(prefix) :]
    if not name.startswith(scheme.blocks):
        return scheme.outside.get(name, ""), None
    number, _, inside = name[len(scheme.blocks) :].partition(".")
    own = f"{BLOCK}{number}."
    layer, _, kind = inside.rpartition(".")
    if layer in scheme.parts:
        return f"{own}attn.in_proj_{kind}", scheme.parts.index(layer)
    target = scheme.inside.get(inside, "")
    return own + target if target else "", None


def read_tower(tensors: Mapping[str, torch.Tensor], place: Place, where: str) -> Tower:
    """What some tensors hold of a tower, and what else they hold.

    Raises:
        InputError: what is in its blocks is not understood.
    """
    scheme, prefix = place
    root = re.sub(r"(visual\.|visual\.trunk\.|vision_model\.)$", "", prefix)
    projections = {f"{before}{scheme.projection}" for before in (root, f"{root}visual.")}
    tower = Tower({}, {})
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    odd = []
    for key, value in tensors.items():
        name, third = translated(key, place)
        if third is not None:
            thirds.setdefault(name, {})[third] = value.float()
        elif name:
            tower.weights[name] = value.float()
        elif key.startswith(f"{prefix}{scheme.blocks}"):
            odd.append(key)
        elif scheme.projection and key in projections:
            tower.weights["proj"] = value.float().T.contiguous()
        elif not key.endswith(("position_ids", "num_batches_tracked")) and not (
            root != prefix and key.startswith(root) and TEXT.fullmatch(key[len(root) :])
        ):
            tower.rest[key] = value
    adapted = any(re.search("adapt|prompt|lora|expert|router|prefix", key) for key in odd)
    refuse_unknown(odd, "adapters inside its blocks" if adapted else "its blocks", where)
    for name, parts in thirds.items():
        if sorted(parts) != [0, 1, 2]:
            raise InputError(
                f"{where}: of query, key and value in {display(name)} some are missing, which are "
                f"called {', '.join(scheme.parts)}"
            )
        tower.weights[name] = torch.cat([parts[index] for index in range(3)])
    _reshape(tower.weights)
    return tower


def _prefixes(names: Iterable[str], scheme: Scheme) -> list[str]:
    """What stands before the first block of each transformer that is so named."""
    pattern = re.compile(rf"((?:.*\.)?){re.escape(scheme.blocks)}\d+\.(.+)")
    inside = {*scheme.inside, *(f"{part}.{w}" for part in scheme.parts for w in ("weight", "bias"))}
    matches = filter(None, map(pattern.fullmatch, names))
    return sorted({one[1] for one in matches if one[2] in inside})


def _reshape(weights: Weights) -> None:
    """Bring what a library stores in another shape to open_clip's, in place."""
    for name, ndim in (("class_embedding", 1), ("positional_embedding", 2)):
        if name in weights and weights[name].ndim == 3:
            weights[name] = weights[name].flatten(0, 3 - ndim)
    if {"conv1.bias", "positional_embedding"} <= weights.keys():
        # A bias of the patches is one of the places of all cells, which the class token has not.
        table = weights["positional_embedding"].clone()
        table[1:] += weights.pop("conv1.bias")
        weights["positional_embedding"] = table
