"""Precision is carried by the graph: these passes rewrite matmuls, and nothing else decides it.

A precision says what the linear layers become, and what every other matmul does (those of
attention, and the layers that are kept in float). LayerNorm, softmax, biases, the residual stream
and the logit are float32 in all of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.errors import UsageError
from mpft_deploy.export.casts import cast_nodes
from mpft_deploy.export.quantise import Rewritten, dynamic_int8, static_fp8, static_int8
from mpft_deploy.export.recipes import RECIPES, Recipe

ONNX_TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
QUANTISE: dict[tuple[str, str], Callable[..., Rewritten]] = {
    ("int8", "dynamic per tensor"): dynamic_int8,
    ("int8", "static"): static_int8,
    ("float8", "static"): static_fp8,
}
"""Weights and activations of a precision → what rewrites one linear layer."""

SCALED = ("QuantizeLinear", "DequantizeLinear")
"""Operators that a scale gives its type."""

ALWAYS_FLOAT = ("patch_embedding.matmul", "proj.matmul", "head.matmul")
"""Kept in float32: the first matmul works on raw bytes, where a weight's rounding error is
multiplied by the image's mean, and both are under 1 % of the work."""


def apply_precision(
    model: onnx.ModelProto,
    precision: str,
    float_layers: Sequence[str] = (),
    ranges: Mapping[str, float] | None = None,
) -> onnx.ModelProto:
    """Return the float32 `model` in another precision.

    Args:
        model: as `build_graph` writes it; not changed.
        precision: one of RECIPES.
        float_layers: patterns (`fnmatch`) of layers that are not lowered, such as `*.mlp.c_proj`:
            left to the precision's other matmuls by a quantised one, in float32 by fp16 and bf16.
        ranges: largest magnitude of each linear layer's input, for the static precisions; see
            `mpft_deploy.export.smoothing`.

    Raises:
        UsageError: unknown precision, a pattern that matches no layer, or ranges are missing.
        InputError: a weight does not fit the precision.
    """
    if precision not in RECIPES:
        raise UsageError(f"precision {precision!r} is unknown: choose {', '.join(RECIPES)}")
    recipe = RECIPES[precision]
    if precision == "fp32":
        return model
    if recipe.static and ranges is None:
        raise UsageError(f"precision {precision} needs the ranges of activations")
    rest = ONNX_TYPES[recipe.precision.rest]
    kept = _kept(model, recipe, float_layers)
    nodes = list(model.graph.node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done = set(kept)
    if recipe.quantised:
        chosen = {f"{layer}.matmul" for layer in quantisable_layers(model)} - kept
        nodes = _quantise(nodes, constants, chosen, recipe, ranges or {})
        done = set() if rest == TensorProto.FLOAT16 else chosen
    if rest != TensorProto.FLOAT:
        # In float16 quantised layers give float16 too: what follows an int8 product moves half of
        # the bytes, and TensorRT for RTX multiplies integers for attention's inputs as well, where
        # from float32 scales it makes floats of the weights each time (tests/export/test_plans.py).
        small = {"MatMul", *(SCALED if rest == TensorProto.FLOAT16 else ())}
        left = done | {*ALWAYS_FLOAT}
        names = {node.name for node in nodes if node.op_type in small and node.name not in left}
        nodes = cast_nodes(nodes, constants, names, rest)
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        list(constants.values()),
    )
    return helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )


def quantisable_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the linear layers that are quantised, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name.removesuffix(".matmul")
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and node.name not in ALWAYS_FLOAT
    ]


def mixes_views(model: onnx.ModelProto) -> bool:
    """Whether a view's logit depends on the views of its batch: a scale, or anything else that is
    taken over a whole tensor or along its first axis."""
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    constants = {
        tensor.name: numpy_helper.to_array(tensor).ravel().tolist()
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT64
    }
    return any(_mixes(node, constants, ranks) for node in model.graph.node)


ALONG_AXES = (
    "ArgMax",
    "ArgMin",
    "CumSum",
    "Hardmax",
    "LayerNormalization",
    "LogSoftmax",
    "Softmax",
    "TopK",
)
"""Operators, beside Reduce…, whose results depend on all values along their axes."""


def _mixes(
    node: onnx.NodeProto, constants: Mapping[str, list[int]], ranks: Mapping[str, int]
) -> bool:
    if node.op_type in ("DynamicQuantizeLinear", "BatchNormalization"):
        return True
    reduces = node.op_type.startswith("Reduce")
    if not reduces and node.op_type not in ALONG_AXES:
        return False
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axes = attributes.get("axes")
    if axes is None and "axis" in attributes:
        axes = [attributes["axis"]]
    if axes is None and len(node.input) > 1 and node.op_type != "TopK":
        axes = constants.get(node.input[1])
    if not axes:  # a reduction without axes takes all; the others take the last axis
        return reduces and not (axes == [] and attributes.get("noop_with_empty_axes"))
    rank = ranks.get(node.input[0])
    return any(axis == 0 or (axis < 0 and (rank is None or axis + rank == 0)) for axis in axes)


def _kept(model: onnx.ModelProto, recipe: Recipe, patterns: Sequence[str]) -> set[str]:
    """Node names of the matmuls that `patterns` keep; a UsageError for one that keeps none."""
    layers = {layer: f"{layer}.matmul" for layer in quantisable_layers(model)}
    if not recipe.quantised:
        layers |= {
            node.name: node.name
            for node in model.graph.node
            if node.op_type == "MatMul" and not node.name.endswith(".matmul")
        }
    kept = set()
    for pattern in patterns:
        found = fnmatch.filter(layers, pattern)
        if not found:
            raise UsageError(
                f"no layer matches {pattern!r}; layers are named like {', '.join([*layers][:4])}"
            )
        kept |= {layers[layer] for layer in found}
    return kept


def _quantise(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    chosen: set[str],
    recipe: Recipe,
    ranges: Mapping[str, float],
) -> list[onnx.NodeProto]:
    """The nodes with the `chosen` ones rewritten; their weights are exchanged in `constants`."""
    rewrite = QUANTISE[recipe.precision.weights, recipe.precision.activations]
    out: list[onnx.NodeProto] = []
    for node in nodes:
        if node.name not in chosen:
            out.append(node)
            continue
        weight = numpy_helper.to_array(constants.pop(node.input[1]))
        largest = [ranges[node.name.removesuffix(".matmul")]] if recipe.static else []
        kind = [np.float16] if recipe.static and recipe.precision.rest == "float16" else []
        new_nodes, new_constants = rewrite(node, weight, *largest, *kind)
        out += new_nodes
        constants |= {tensor.name: tensor for tensor in new_constants}
    return out
