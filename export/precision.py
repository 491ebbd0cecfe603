"""Precision is carried by the graph: these passes rewrite matmuls, and nothing else decides it.

A precision says what the linear layers become, and what every other matmul does (those of
attention, and the layers that are kept in float). LayerNorm, softmax, biases, the residual stream
and the logit are float32 in all of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.errors import UsageError
from mpft_deploy.export.casts import cast_matmuls
from mpft_deploy.export.quantise import Rewritten, dynamic_int8, static_fp8, static_int8


@dataclass(frozen=True)
class Recipe:
    """What a precision does.

    quantise: rewrites one linear layer, see `mpft_deploy.export.quantise`; None leaves them float.
    static: whether `quantise` needs the range of the layer's input.
    matmul: ONNX type of the matmuls that are not quantised.
    help: a line for people who choose.
    """

    help: str
    quantise: Callable[..., Rewritten] | None = None
    static: bool = False
    matmul: int = TensorProto.FLOAT


F16 = TensorProto.FLOAT16
RECIPES = {
    "fp32": Recipe("float32 throughout"),
    "fp16": Recipe("matmuls in float16", matmul=F16),
    "bf16": Recipe("matmuls in bfloat16", matmul=TensorProto.BFLOAT16),
    "int8": Recipe("int8 layers, activations scaled as the engine runs", dynamic_int8),
    "int8-static": Recipe("int8 layers by calibrated ranges", static_int8, True),
    "int8-static+fp16": Recipe(
        "int8 layers by calibrated ranges, other matmuls in float16", static_int8, True, F16
    ),
    "fp8": Recipe("E4M3 layers by calibrated ranges", static_fp8, True),
    "fp8+fp16": Recipe(
        "E4M3 layers by calibrated ranges, other matmuls in float16", static_fp8, True, F16
    ),
}
PRECISIONS = tuple(RECIPES)

ALWAYS_FLOAT = ("patch_embedding.matmul", "head.matmul")
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
        precision: one of PRECISIONS.
        float_layers: patterns (`fnmatch`) of layers that are not lowered, such as `*.mlp.c_proj`:
            left to the precision's other matmuls by a quantised one, in float32 by fp16 and bf16.
        ranges: largest magnitude of each linear layer's input, for the static precisions; see
            `mpft_deploy.export.calibration`.

    Raises:
        UsageError: unknown precision, a pattern that matches no layer, or ranges are missing.
        InputError: a weight does not fit the precision.
    """
    if precision not in RECIPES:
        raise UsageError(f"precision {precision!r} is unknown: choose {', '.join(PRECISIONS)}")
    recipe = RECIPES[precision]
    if precision == "fp32":
        if float_layers:
            raise UsageError("--float-layers goes with int8 and the like; fp32 has only such")
        return model
    if recipe.static and ranges is None:
        raise UsageError(f"precision {precision} needs the ranges of activations")
    kept = _kept(model, recipe, float_layers)
    nodes = list(model.graph.node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done = set(kept)
    if recipe.quantise is not None:
        chosen = {f"{layer}.matmul" for layer in quantisable_layers(model)} - kept
        nodes = _quantise(nodes, constants, chosen, recipe, ranges or {})
        done = chosen
    if recipe.matmul != TensorProto.FLOAT:
        others = {
            node.name
            for node in nodes
            if node.op_type == "MatMul" and node.name not in done | {*ALWAYS_FLOAT}
        }
        nodes = cast_matmuls(nodes, constants, others, recipe.matmul)
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


def _kept(model: onnx.ModelProto, recipe: Recipe, patterns: Sequence[str]) -> set[str]:
    """Node names of the matmuls that `patterns` keep; a UsageError for one that keeps none."""
    layers = {layer: f"{layer}.matmul" for layer in quantisable_layers(model)}
    if recipe.quantise is None:
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
    assert recipe.quantise is not None
    out: list[onnx.NodeProto] = []
    for node in nodes:
        if node.name not in chosen:
            out.append(node)
            continue
        weight = numpy_helper.to_array(constants.pop(node.input[1]))
        largest = [ranges[node.name.removesuffix(".matmul")]] if recipe.static else []
        new_nodes, new_constants = recipe.quantise(node, weight, *largest)
        out += new_nodes
        constants |= {tensor.name: tensor for tensor in new_constants}
    return out
