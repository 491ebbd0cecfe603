"""Linear heads of others, folded into the one that a detector has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mpft_deploy.detector.backbone import Weights
from mpft_deploy.detector.importing.towers import refuse_unknown
from mpft_deploy.errors import InputError
from mpft_deploy.files import display

BATCH_NORM_EPS = 1e-5
"""As PyTorch has it."""


@dataclass(frozen=True)
class Head:
    """One logit of a feature: weight f64 [D], bias; and what was folded, for people.

    name: of its matrix in the file.
    """

    weight: torch.Tensor
    bias: float
    name: str
    told: tuple[str, ...] = ()


def fold_head(rest: Mapping[str, torch.Tensor], where: str, *, invert: bool) -> Head:
    """The head that some tensors are: a linear layer of one or two logits.

    Two logits, of real and generated in this order, become their difference, whose sigmoid is the
    softmax. A batch normalisation before the layer is folded into it. Dropout has no weights and
    does nothing at inference.

    Args:
        invert: the logit, or the second of two, is of real images.

    Raises:
        InputError: there is no such head, or more than that.
    """
    tensors = {key: value.double() for key, value in rest.items()}
    matrices = [key for key, value in tensors.items() if value.ndim == 2]
    rows = [key for key in matrices if len(tensors[key]) in (1, 2)]
    if not rows:
        shapes = ", ".join(f"{display(k)} {list(tensors[k].shape)}" for k in matrices[:5])
        raise InputError(
            f"{where} holds no linear head of one or two logits"
            + (f"; its matrices: {shapes}" if shapes else ", and no other matrix beside the tower")
        )
    refuse_unknown(
        [key for key in matrices if key not in rows[:1]], "a head of several layers", where
    )
    [name] = rows
    layer = re.sub(r"\.?weight$", "", name)
    weight = tensors.pop(name)
    bias = tensors.pop(f"{layer}.bias" if layer else "bias", torch.zeros(len(weight)).double())
    told = []
    means = [key for key in tensors if key.endswith("running_mean")]
    if len(means) == 1:
        norm = means[0].removesuffix("running_mean")
        scale, shift = _batch_norm(tensors, norm)
        if scale.shape == weight.shape[1:]:
            bias, weight = bias + weight @ shift, weight * scale
            told.append("its batch normalisation was folded into the head")
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                tensors.pop(norm + part, None)
    refuse_unknown(tensors, "another kind", where)
    if bias.shape != (len(weight),):
        raise InputError(f"{where}: the bias of {display(name)} has the shape {list(bias.shape)}")
    if len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        told.append("its two logits became their difference, the second less the first")
    if invert:
        weight, bias = -weight, -bias
        told.append("its sign was turned: it was of real images")
    return Head(weight[0], float(bias[0]), name, tuple(told))


def _batch_norm(tensors: Weights, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch normalisation multiplies by and adds at inference."""
    mean, variance = tensors[f"{norm}running_mean"], tensors.get(f"{norm}running_var")
    if variance is None:
        raise InputError(f"{display(norm)}running_var is missing beside running_mean")
    scale = tensors.get(f"{norm}weight", torch.ones_like(mean)) / (variance + BATCH_NORM_EPS).sqrt()
    return scale, tensors.get(f"{norm}bias", torch.zeros_like(mean)) - mean * scale
