"""Move the outliers of activations into the weights before quantising; exact in real arithmetic.

A channel whose activations are large costs every other channel its resolution. Dividing each
channel by a factor, and multiplying the weights that read it by the same, changes nothing but how
well both fit into 8 bits (SmoothQuant, arXiv 2211.10438). The factor of a channel is
max|x|^α / max|w|^(1 − α). It is folded into what writes the channel: the LayerNorm before qkv and
c_fc, the value weights before out_proj. Nothing linear writes c_proj's input, whose outliers after
the GELU cost the most: there the graph multiplies, once an activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpft_deploy.engine.reference import SMOOTHED
from mpft_deploy.export.recipes import is_left_float
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32

ALPHA = 0.65
"""Share of the difficulty that moves from activations to weights; flat from 0.6 to 0.7 here."""

SMALLEST = 1e-5  # of a maximum, so that dead channels divide by no zero


@dataclass(frozen=True)
class Smoothed:
    """What `smooth` makes.

    weights: float32, as `build_graph` takes them.
    ranges: largest magnitude of each linear layer's input under these weights.
    """

    weights: dict[str, F32]
    ranges: dict[str, float]


def smooth(
    spec: DetectorSpec,
    weights: Mapping[str, F32],
    maxima: Mapping[str, F32],
    float_layers: Sequence[str] = (),
) -> Smoothed:
    """Weights of the same function whose activations quantise better.

    Args:
        weights: float32, as `build_graph` takes them; not changed.
        maxima: of `mpft_deploy.engine.reference.activation_maxima`, under these weights.
        float_layers: patterns of layers that are not quantised, and so read what they always did.
    """
    out = {name: value.copy() for name, value in weights.items()}
    width = spec.architecture.width
    factors: dict[str, F32] = {}

    def factor_of(reader: str, *layers: str) -> F32 | None:
        """The factor of layers that read the same through a weight; None if all stay float."""
        if all(is_left_float(layer, float_layers) for layer in layers):
            return None
        factor = _factor(maxima[layers[-1]], out[reader])
        out[reader] *= factor
        factors.update(dict.fromkeys(layers, factor))
        return factor

    for block in range(spec.depth):
        own, name = f"transformer.resblocks.{block}", f"block{block}"
        attention = ("q", "kv") if block == spec.depth - 1 else ("qkv",)
        for norm, reader, layers in (
            ("ln_1", "attn.in_proj_weight", [f"{name}.attention.{part}" for part in attention]),
            ("ln_2", "mlp.c_fc.weight", [f"{name}.mlp.c_fc"]),
        ):
            factor = factor_of(f"{own}.{reader}", *layers)
            if factor is not None:
                out[f"{own}.{norm}.weight"] /= factor
                out[f"{own}.{norm}.bias"] /= factor
        factor = factor_of(f"{own}.attn.out_proj.weight", f"{name}.attention.out_proj")
        if factor is not None:
            out[f"{own}.attn.in_proj_weight"][2 * width :] /= factor[:, None]
            out[f"{own}.attn.in_proj_bias"][2 * width :] /= factor
        factor = factor_of(f"{own}.mlp.c_proj.weight", f"{name}.mlp.c_proj")
        if factor is not None:
            out[f"{own}.{SMOOTHED}"] = 1 / factor
    # Dividing a channel divides its maximum: nothing needs to run again.
    divided = {name: value / factors.get(name, np.float32(1)) for name, value in maxima.items()}
    return Smoothed(out, ranges_of(divided))


def ranges_of(maxima: Mapping[str, F32]) -> dict[str, float]:
    """Largest magnitude of each layer's input, of its channels' maxima.

    The largest, not a percentile: CLIP carries much of what it knows in a few massive activations,
    and clipping those costs most of the accuracy.
    """
    return {layer: float(channels.max()) for layer, channels in maxima.items()}


def _factor(activations: F32, weight: F32) -> F32:
    """Factor of each input channel, their geometric mean 1; weight is [O, I]."""
    x = np.maximum(activations, SMALLEST)
    w = np.maximum(np.abs(weight).max(0), SMALLEST)
    logs = ALPHA * np.log(x) - (1 - ALPHA) * np.log(w)
    factor: F32 = np.exp(logs - logs.mean()).astype(np.float32)
    return factor
