"""Precision is carried by the graph: this pass rewrites matmuls, and nothing else decides it.

int8 is dynamic: weights int8, symmetric, one scale an output channel; activations uint8, one scale
and zero point a tensor, taken as the engine runs. See `smoothing` for what is done before.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.errors import UsageError

PRECISIONS = ("fp32", "int8")

ALWAYS_FLOAT = ("patch_embedding.matmul", "head.matmul")
"""Kept in float32: the first matmul works on raw bytes, where a weight's rounding error is
multiplied by the image's mean, and both are under 1 % of the work."""


def apply_precision(
    model: onnx.ModelProto, precision: str, float_layers: Sequence[str] = ()
) -> onnx.ModelProto:
    """Return the float32 `model` in another precision.

    Args:
        model: as `build_graph` writes it; not changed.
        precision: one of PRECISIONS.
        float_layers: patterns (`fnmatch`) of layers to leave in float32, such as `*.mlp.c_proj`.

    Raises:
        UsageError: unknown precision, or a pattern that matches no layer.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown: choose {' or '.join(PRECISIONS)}")
    if precision == "fp32":
        if float_layers:
            raise UsageError("--float-layers goes with int8; fp32 has no other layers")
        return model
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = quantisable_layers(model)
    for pattern in float_layers:
        if not fnmatch.filter(layers, pattern):
            raise UsageError(
                f"no layer matches {pattern!r}; layers are named like {', '.join(layers[:4])}"
            )
    chosen = {
        f"{layer}.matmul"
        for layer in layers
        if not any(fnmatch.fnmatchcase(layer, pattern) for pattern in float_layers)
    }
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in chosen:
            weight = numpy_helper.to_array(constants.pop(node.input[1]))
            new_nodes, new_constants = _dynamic_int8(node, weight)
            nodes += new_nodes
            constants |= {tensor.name: tensor for tensor in new_constants}
        else:
            nodes.append(node)
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
    """Names of the linear layers that int8 applies to, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name.removesuffix(".matmul")
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and node.name not in ALWAYS_FLOAT
    ]


def _dynamic_int8(
    node: onnx.NodeProto, weight: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """MatMul(x, weight [I, O]) as DynamicQuantizeLinear, MatMulInteger, Cast and Mul.

    The pattern is the one that ONNX Runtime fuses into a single kernel.
    """
    name = node.name
    scale = np.abs(weight).max(0) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    quantised = np.rint(weight / scale).astype(np.int8)
    parts = [f"{name}.x", f"{name}.x.scale", f"{name}.x.zero"]
    return [
        helper.make_node("DynamicQuantizeLinear", [node.input[0]], parts, name=f"{name}.quantise"),
        helper.make_node(
            "MatMulInteger",
            [parts[0], f"{name}.weight.int8", parts[2], f"{name}.weight.zero"],
            [f"{name}.integer"],
            name=f"{name}.integer",
        ),
        helper.make_node(
            "Cast",
            [f"{name}.integer"],
            [f"{name}.float"],
            name=f"{name}.float",
            to=TensorProto.FLOAT,
        ),
        helper.make_node(
            "Mul",
            [parts[1], f"{name}.weight.scale"],
            [f"{name}.scale"],
            name=f"{name}.scale",
        ),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], node.output, name=name),
    ], [
        numpy_helper.from_array(quantised, f"{name}.weight.int8"),
        numpy_helper.from_array(scale, f"{name}.weight.scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}.weight.zero"),
    ]
