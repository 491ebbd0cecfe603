"""ONNX Runtime's sessions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.engine.ort import make_session


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
