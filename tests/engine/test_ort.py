"""ONNX Runtime's sessions."""

from __future__ import annotations

import collections
import platform

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.bundle import Device
from mpft_deploy.engine.ort import make_session, session_options
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision, quantisable_layers


def test_integer_products_do_not_saturate() -> None:
    """The largest products of u8 and s8 add up exactly, also on processors without VNNI."""
    weight = np.full((64, 32), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "products",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [4, 64])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [4, 32])],
        [numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = make_session(model.SerializeToString(), threads=1)
    values = np.full((4, 64), 255, np.uint8)
    [product] = session.run(None, {"a": values})
    assert (product == 64 * 255 * 127).all()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the option is for x86-64")
@pytest.mark.parametrize(
    ("instructions", "kind"),
    [
        (("avx2",), TensorProto.UINT8),
        (("avx2", "avx512f"), TensorProto.UINT8),
        (("avx2", "avx_vnni"), TensorProto.INT8),
        (("avx2", "avx512f", "avx512_vnni"), TensorProto.INT8),
        (("avx2", "avx512f", "amx_int8"), TensorProto.INT8),
    ],
)
def test_int8_weights_stay_signed_where_the_processor_has_instructions_for_it(
    instructions, kind, monkeypatch, tmp_path
):
    """By the optimised graph, which shows which kernels run without any timing.

    Unsigned ones run at the speed of float32 on any processor.
    """
    here = Device("x86_64", "Linux", "Abacus", instructions)
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: here))
    spec = reference.tiny_spec()
    model = apply_precision(build_graph(spec, reference.random_weights(spec)), "int8")
    options = session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(serialise(model), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    kinds = collections.Counter(
        tensor.data_type for tensor in optimised.graph.initializer if ".weight.int8" in tensor.name
    )
    layers = len(quantisable_layers(build_graph(spec, reference.random_weights(spec))))
    assert kinds == {kind: layers}
    fused = [node for node in optimised.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert len(fused) == layers
