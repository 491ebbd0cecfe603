"""Rewrite one linear layer, MatMul(x, weight [I, O]), into 8 bits.

Weights have one symmetric scale an output channel in all of them. See `smoothing` for what is done
to activations before.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.weights import F32

Rewritten = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
"""Nodes in place of the layer, and the constants that they read."""

LARGEST_INT8 = 127
LARGEST_FP8 = 448  # of E4M3 without infinity


def dynamic_int8(node: onnx.NodeProto, weight: F32) -> Rewritten:
    """As DynamicQuantizeLinear, MatMulInteger, Cast and Mul.

    Activations are uint8, with one scale and zero point a tensor, taken as the engine runs. The
    pattern is the one that ONNX Runtime fuses into a single kernel.
    """
    name = node.name
    scale = _scales(weight, LARGEST_INT8)
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


def static_int8(
    node: onnx.NodeProto, weight: F32, largest: float, kind: npt.DTypeLike = np.float32
) -> Rewritten:
    """As quantise and dequantise before the MatMul, int8 and symmetric on both sides.

    Args:
        largest: magnitude of the layer's input that becomes 127; larger ones are clipped.
        kind: the type that scales will be stored in, whose numbers they are already.
    """
    scale, step = _scales(weight, LARGEST_INT8, kind), _step(largest / LARGEST_INT8, kind)
    quantised = np.rint(weight / scale).clip(-LARGEST_INT8, LARGEST_INT8).astype(np.int8)
    return _quantise_dequantise(node, quantised, scale, step, TensorProto.INT8)


def static_fp8(
    node: onnx.NodeProto, weight: F32, largest: float, kind: npt.DTypeLike = np.float32
) -> Rewritten:
    """As `static_int8`, in E4M3 (4 bits of exponent, 3 of fraction, no infinity)."""
    scale, step = _scales(weight, LARGEST_FP8, kind), _step(largest / LARGEST_FP8, kind)
    clipped = (weight / scale).clip(-LARGEST_FP8, LARGEST_FP8)
    quantised = clipped.astype(ml_dtypes.float8_e4m3fn)
    return _quantise_dequantise(node, quantised, scale, step, TensorProto.FLOAT8E4M3FN)


def _quantise_dequantise(
    node: onnx.NodeProto, weight: npt.NDArray[np.generic], scale: F32, step: np.float32, kind: int
) -> Rewritten:
    name = node.name
    x, zero = [f"{name}.x.scale", f"{name}.x.zero"], f"{name}.weight.zero"
    return [
        helper.make_node(
            "QuantizeLinear", [node.input[0], *x], [f"{name}.x.8bit"], name=f"{name}.quantise"
        ),
        helper.make_node(
            "DequantizeLinear", [f"{name}.x.8bit", *x], [f"{name}.x"], name=f"{name}.dequantise"
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.weight.8bit", f"{name}.weight.scale", zero],
            [f"{name}.weight"],
            name=f"{name}.weight",
            axis=1,
        ),
        helper.make_node("MatMul", [f"{name}.x", f"{name}.weight"], node.output, name=name),
    ], [
        numpy_helper.from_array(np.array(step), x[0]),
        helper.make_tensor(x[1], kind, [], b"\0", raw=True),
        helper.make_tensor(f"{name}.weight.8bit", kind, weight.shape, weight.tobytes(), raw=True),
        numpy_helper.from_array(scale, f"{name}.weight.scale"),
        helper.make_tensor(zero, kind, [len(scale)], bytes(len(scale)), raw=True),
    ]


def _scales(weight: F32, largest: float, kind: npt.DTypeLike = np.float32) -> F32:
    """Scale of each column, f32 [O], so that its largest magnitude becomes `largest`, as far as
    numbers of `kind` allow."""
    scale: F32 = (np.abs(weight).max(0) / np.float32(largest)).astype(kind).astype(np.float32)
    scale[scale == 0] = 1
    return scale


def _step(scale: float, kind: npt.DTypeLike) -> np.float32:
    """The scale of activations as a number of `kind`."""
    rounded = float(np.asarray(scale, kind))
    # A layer that only ever saw zeros has no range; any scale represents them.
    step: np.float32 = np.float32(rounded if rounded > 0 else 1)
    return step
