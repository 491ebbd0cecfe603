"""A detector's integers in standard operators, against the definition that they are of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import reference
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mpft_deploy.engine.ort import load, make_session
from mpft_deploy.export.graph import OPSET, GraphBuilder, build_graph, serialise
from mpft_deploy.export.integers import METADATA, Integers, integers_of
from mpft_deploy.export.precision import mixes_views
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.encoder import Encoder, make_network, oracle
from mpft_deploy.kernels.encoder.network import Linear, limits
from mpft_deploy.spec import Architecture
from mpft_deploy.weights import Stored, quantise, stored_weights

WIDE = ("qkv", "out", "fc", "proj")


def graph_of(layer: Linear) -> onnx.ModelProto:
    """One layer alone."""
    builder = GraphBuilder()
    builder.linear("y", "x", Integers(layer.weight, layer.scale, layer.limit), layer.bias)
    outputs, inputs = layer.weight.shape
    graph = helper.make_graph(
        builder.nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "tokens", outputs])],
        list(builder.constants.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@settings(max_examples=40)
@example(seed=993882, tokens=2, inputs=27, outputs=1, largest=1, kind="huge")
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 5),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 20),
    largest=st.sampled_from([1, 31, 64, 127]),
    kind=st.sampled_from(["plain", "outlier", "zeros", "halves", "huge", "tiny"]),
)
def test_a_layer_has_the_bits_of_the_definition(
    seed: int, tokens: int, inputs: int, outputs: int, largest: int, kind: str
) -> None:
    """A layer alone holds no float sum, so no runtime has an order of its own for it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (tokens, inputs)).astype(np.float32)
    if kind == "outlier":
        x[:, rng.integers(inputs)] = -3e4
    elif kind == "zeros":
        x[rng.integers(tokens)] = 0
    elif kind == "halves":  # of a step, which are rounded to even
        x = (rng.integers(-65278, 65279, (tokens, inputs)) / 2).astype(np.float32)
        x[:, 0] = 32639
    elif kind in ("huge", "tiny"):
        x *= np.float32(1e30 if kind == "huge" else 1e-25)
    weight = rng.integers(-largest, largest + 1, (outputs, inputs)).astype(np.int8)
    layer = Linear(
        weight,
        rng.uniform(1e-4, 1e-2, outputs).astype(np.float32),
        rng.normal(0, 1, outputs).astype(np.float32),
        *limits(weight, wide=True),
    )
    expected = oracle.linear(x, layer)
    model = graph_of(layer)
    for found in (
        make_session(serialise(model), threads=1).run(["y"], {"x": x[None]})[0],
        ReferenceEvaluator(model).run(["y"], {"x": x[None]})[0],
    ):
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("stored", ["int6", "int8", "float32"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_logits_are_those_of_the_backend_native_but_for_float_operations(
    stored: Stored, activation: str
) -> None:
    architecture = Architecture("t", 48, 3, 4, 96, 32, activation)  # type: ignore[arg-type]
    spec = reference.tiny_spec(architecture=architecture, depth=3, taps=2)
    data = safetensors.numpy.save(quantise(reference.random_weights(spec, 3), stored))
    weights = stored_weights(data, spec, "weights")
    floats, integers = integers_of(weights)
    model = build_graph(spec, floats, integers=integers)
    onnx.checker.check_model(model, full_check=True)
    assert {one.key: one.value for one in model.metadata_props} == METADATA
    assert not build_graph(spec, floats).metadata_props
    assert not mixes_views(model)
    assert serialise(build_graph(spec, floats, integers=integers)) == serialise(model)
    kinds = {node.op_type for node in model.graph.node}
    assert "MatMulInteger" in kinds
    assert {node.domain for node in model.graph.node} == {""}

    crops = np.random.default_rng(2).integers(0, 256, (16, 32, 32, 3), np.uint8)
    cut = texture_patchify(crops, spec.patch, spec.keep_rule)
    network = make_network(spec, weights, wide=WIDE)
    block, constants = network.blocks[0], {one.name: one for one in model.graph.initializer}
    np.testing.assert_array_equal(
        numpy_helper.to_array(constants["block0.attention.qkv.weight.scale"]),
        np.concatenate([block.query.scale, block.key.scale, block.value.scale]),
    )
    expected = Encoder(network, 1).logits(cut.patches, cut.positions)
    found = load(serialise(model), threads=1).run(cut.patches, cut.positions)
    assert np.ptp(expected) > 0.1
    assert np.abs(found - expected).max() < NEARLY


NEARLY = 3e-4
"""Float operations in another order move activations across edges of rounding, by a step each: at
worst all, so that logits are as far apart as wide ones are from float32. Twice the largest that was
measured of four networks each, 1.8e-4, which is what they were from float32, too."""
