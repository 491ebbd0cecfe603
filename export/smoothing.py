"""Move the outliers of activations into the weights before quantising; exact in real arithmetic.

A channel whose activations are large costs every other channel its resolution. Dividing each
channel by a factor, and multiplying the weights that read it by the same, changes nothing but how
well both fit into 8 bits (SmoothQuant, arXiv 2211.10438). The factor of a channel is
max|x|^α / max|w|^(1 − α). It is folded into what writes the channel: the LayerNorm before qkv and
c_fc, the value weights before out_proj. Nothing linear writes c_proj's input, whose outliers after
the GELU cost the most: there the graph multiplies, once an activation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from mpft_deploy.export.graph import SMOOTHED, build_graph, serialise
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32

ALPHA = 0.65
"""Share of the difficulty that moves from activations to weights; flat from 0.6 to 0.7 here."""

SMALLEST = 1e-5  # of a maximum, so that dead channels divide by no zero
BATCH = 16


def smooth(
    spec: DetectorSpec, weights: Mapping[str, F32], views: npt.NDArray[np.uint8]
) -> dict[str, F32]:
    """Weights of the same function whose activations quantise better.

    Args:
        weights: float32, as `build_graph` takes them; not changed.
        views: u8 [n, S, S, 3] of the kind that the engine will see.
    """
    maxima = activation_maxima(spec, weights, views)
    out = {name: value.copy() for name, value in weights.items()}
    width = spec.architecture.width
    for block in range(spec.depth):
        own = f"transformer.resblocks.{block}"
        name = f"block{block}"
        for norm, reader, layer in (
            ("ln_1", "attn.in_proj_weight", "attention.qkv"),
            ("ln_2", "mlp.c_fc.weight", "mlp.c_fc"),
        ):
            factor = _factor(maxima[f"{name}.{layer}"], out[f"{own}.{reader}"])
            out[f"{own}.{reader}"] *= factor
            out[f"{own}.{norm}.weight"] /= factor
            out[f"{own}.{norm}.bias"] /= factor
        reader = f"{own}.attn.out_proj.weight"
        factor = _factor(maxima[f"{name}.attention.out_proj"], out[reader])
        out[reader] *= factor
        out[f"{own}.attn.in_proj_weight"][2 * width :] /= factor[:, None]
        out[f"{own}.attn.in_proj_bias"][2 * width :] /= factor
        reader = f"{own}.mlp.c_proj.weight"
        factor = _factor(maxima[f"{name}.mlp.c_proj"], out[reader])
        out[reader] *= factor
        out[f"{own}.{SMOOTHED}"] = 1 / factor
    return out


def activation_maxima(
    spec: DetectorSpec, weights: Mapping[str, F32], views: npt.NDArray[np.uint8]
) -> dict[str, F32]:
    """Largest magnitude of each input channel of each linear layer: name → f32 [I].

    The last block's key-value layer goes by the name `attention.qkv` too.
    """
    from mpft_deploy.engine.ort import make_session

    model = build_graph(spec, weights)
    inputs = {
        node.name.removesuffix(".matmul").replace(".attention.kv", ".attention.qkv"): node.input[0]
        for node in model.graph.node
        if node.name.startswith("block") and node.name.endswith(".matmul")
    }
    watched = sorted(set(inputs.values()))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(outputs)
    session = make_session(serialise(probe), threads=0)
    largest: dict[str, F32] = {}
    for start in range(0, len(views), BATCH):
        cut = texture_patchify(
            views[start : start + BATCH], spec.patch, spec.keep_rule, spec.keep_seed
        )
        feeds = {"patches": cut.patches, "positions": cut.positions}
        for name, value in zip(watched, session.run(watched, feeds), strict=True):
            found = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            largest[name] = np.maximum(largest.get(name, found), found)
    return {layer: largest[name] for layer, name in inputs.items()}


def _factor(activations: F32, weight: F32) -> F32:
    """Factor of each input channel, their geometric mean 1; weight is [O, I]."""
    x = np.maximum(activations, SMALLEST)
    w = np.maximum(np.abs(weight).max(0), SMALLEST)
    logs = ALPHA * np.log(x) - (1 - ALPHA) * np.log(w)
    factor: F32 = np.exp(logs - logs.mean()).astype(np.float32)
    return factor
