"""Run nodes in float16 or bfloat16 by casts around them; everything between stays float32.

What only moves data between two such matmuls (splitting heads, merging them) moves the small type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.errors import InputError

TYPES = {
    TensorProto.FLOAT16: ("fp16", np.dtype(np.float16)),
    TensorProto.BFLOAT16: ("bf16", np.dtype(ml_dtypes.bfloat16)),
}
MOVES = ("Gather", "Reshape", "Split", "Transpose")
"""Operators that copy their first input's values, of whatever type."""

FLOATS = {
    **dict.fromkeys(MOVES, (0,)),
    "QuantizeLinear": (0, 1),
    "DequantizeLinear": (1,),
}
"""Which inputs are numbers of an operator's own type, where not all are."""


def cast_nodes(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    names: Collection[str],
    kind: int,
) -> list[onnx.NodeProto]:
    """The nodes called `names` in type `kind`, and casts where types meet.

    Args:
        nodes: sorted topologically; not changed.
        constants: those that such nodes read are stored in `kind` under their old name.
        kind: TensorProto.FLOAT16 or BFLOAT16.

    Raises:
        InputError: a weight is too large for float16.
    """
    small = _small_nodes(nodes, names)
    suffix = TYPES[kind][0]
    out: list[onnx.NodeProto] = []
    smalls: set[str] = set()  # tensors of type `kind`
    casts: dict[str, str] = {}

    def converted(tensor: str, wanted: bool) -> str:
        """The tensor's name in the small type or in float32, cast where it is the other."""
        if (tensor in smalls) == wanted:
            return tensor
        if tensor in constants:
            constants[tensor] = _store(constants[tensor], kind)
            smalls.add(tensor)
            return tensor
        if tensor not in casts:
            name = casts[tensor] = f"{tensor}.{suffix if wanted else 'fp32'}"
            to = kind if wanted else TensorProto.FLOAT
            out.append(helper.make_node("Cast", [tensor], [name], name=name, to=to))
        return casts[tensor]

    for node in nodes:
        wanted = node.name in small
        floats = FLOATS.get(node.op_type, range(len(node.input)))
        inputs = [
            converted(name, wanted) if index in floats else name
            for index, name in enumerate(node.input)
        ]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        out.append(copy)
        if wanted:
            smalls.update(node.output)
    return out


def _small_nodes(nodes: Sequence[onnx.NodeProto], names: Collection[str]) -> set[str]:
    """`names`, and the moves whose every reader is among them."""
    readers = defaultdict(list)
    for node in nodes:
        for tensor in node.input:
            readers[tensor].append(node.name)
    small = set(names)
    for node in reversed(nodes):
        reading = [name for tensor in node.output for name in readers[tensor]]
        if node.op_type in MOVES and reading and small.issuperset(reading):
            small.add(node.name)
    return small


def _store(tensor: onnx.TensorProto, kind: int) -> onnx.TensorProto:
    name, dtype = TYPES[kind]
    with np.errstate(over="ignore"):
        value = numpy_helper.to_array(tensor).astype(dtype)
    if not np.isfinite(value.astype(np.float32)).all():
        raise InputError(
            f"{tensor.name} holds values that {name} cannot; leave its layer in float32 with "
            "--float-layers or use another precision"
        )
    return helper.make_tensor(tensor.name, kind, value.shape, value.tobytes(), raw=True)
