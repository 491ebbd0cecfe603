"""The work of each place in the network, counted on its graph: operations and bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from mpft_deploy.profile.layer_names import Place, layer_path

_MATMULS = ("MatMul", "MatMulInteger", "Gemm")
_PRECISIONS = {
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT16: "fp16",
}


@dataclass
class Work:
    """Of one run at batch 1.

    flops: of matmuls; a multiply-add counts as two.
    bytes: weights, and activations that enter or leave the place, each once.
    precision: of its matmuls.
    """

    flops: int = 0
    bytes: int = 0
    precision: str = "fp32"


def count_work(engine: bytes) -> dict[Place, Work]:
    """Work by place, of an engine that is an ONNX file with free batch."""
    model = onnx.load_from_string(engine)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, int] = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        shapes[value.name] = tuple(max(1, d.dim_value) for d in tensor.shape.dim)
        kinds[value.name] = tensor.elem_type
    weights = set()
    for constant in graph.initializer:
        shapes[constant.name] = tuple(constant.dims)
        kinds[constant.name] = constant.data_type
        weights.add(constant.name)

    places = {name: layer_path(node.name) for node in graph.node for name in node.output}
    work: dict[Place, Work] = {}
    moved: set[tuple[Place, str]] = set()

    def move(place: Place, name: str) -> None:
        if name in shapes and (place, name) not in moved:
            moved.add((place, name))
            work[place].bytes += _bytes(name, shapes, kinds)

    for node in graph.node:
        place = layer_path(node.name)
        own = work.setdefault(place, Work())
        if node.op_type in _MATMULS and all(name in shapes for name in node.input[:2]):
            rows, columns = shapes[node.input[0]], shapes[node.input[1]]
            own.flops += 2 * math.prod(rows) * columns[-1]
            own.precision = _PRECISIONS.get(kinds[node.input[1]], own.precision)
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            own.precision = "int8"
        for name in node.input:
            producer = places.get(name)
            if producer != place:
                move(place, name)
                if producer is not None:
                    work.setdefault(producer, Work())
                    move(producer, name)
    return work


def _bytes(name: str, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, int]) -> int:
    itemsize = helper.tensor_dtype_to_np_dtype(kinds[name]).itemsize
    return int(math.prod(shapes[name]) * itemsize)
