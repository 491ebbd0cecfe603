"""The encoder graph against an independent encoder."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import reference

from mpft_deploy.engine.ort import load
from mpft_deploy.errors import InputError
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision, quantisable_layers
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Architecture


def images(spec, count=5, seed=1):
    size = spec.crop.size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("keep", ["textured:6", "smooth:1", "random:15", "all"])
@pytest.mark.parametrize(("depth", "taps"), [(1, 1), (3, 1), (3, 2), (3, 3)])
def test_equals_independent_encoder(activation, keep, depth, taps):
    arch = Architecture(
        name="t", width=64, layers=3, heads=2, hidden=96, output_dim=32, activation=activation
    )
    spec = reference.tiny_spec(architecture=arch, keep=keep, depth=depth, taps=taps)
    weights = reference.random_weights(spec)
    cut = texture_patchify(images(spec), spec.patch, spec.keep_rule)
    engine = load(serialise(build_graph(spec, weights)), threads=1)
    expected = reference.logits(spec, weights, cut)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(engine.run(cut.patches, cut.positions), expected, atol=1e-4)


def test_one_image_at_a_time_equals_the_batch():
    spec = reference.tiny_spec()
    cut = texture_patchify(images(spec), spec.patch, spec.keep_rule)
    engine = load(serialise(build_graph(spec, reference.random_weights(spec))), threads=1)
    singles = [
        engine.run(cut.patches[i : i + 1], cut.positions[i : i + 1])[0]
        for i in range(len(cut.patches))
    ]
    np.testing.assert_allclose(singles, engine.run(cut.patches, cut.positions), atol=1e-5)


def test_bytes_are_deterministic():
    spec = reference.tiny_spec()
    weights = reference.random_weights(spec)
    first = serialise(build_graph(spec, weights))
    shuffled = dict(reversed(weights.items()))
    assert serialise(build_graph(spec, shuffled)) == first


@pytest.mark.parametrize("taps", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_graph_is_valid_and_holds_no_int64_computation(precision, taps):
    spec = reference.tiny_spec(taps=taps)
    model = apply_precision(build_graph(spec, reference.random_weights(spec)), precision)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert onnx.TensorProto.INT64 not in types
    assert not {"Shape", "Resize", "TopK"} & {node.op_type for node in model.graph.node}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_wrong_weights_are_named():
    spec = reference.tiny_spec()
    weights = reference.random_weights(spec)
    weights["surplus"] = weights.pop("ln_post.bias")
    weights["proj"] = weights["proj"].T
    with pytest.raises(InputError, match=r"missing: ln_post\.bias.*surplus.*proj \[32, 64\]"):
        build_graph(spec, weights)


def test_int8_is_close_and_leaves_chosen_layers_in_float():
    spec = reference.tiny_spec()
    weights = reference.random_weights(spec)
    graph = build_graph(spec, weights)
    cut = texture_patchify(images(spec, 20), spec.patch, spec.keep_rule)
    expected = reference.logits(spec, weights, cut)
    engine = load(serialise(apply_precision(graph, "int8")), threads=1)
    actual = engine.run(cut.patches, cut.positions)
    assert 0 < np.abs(actual - expected).mean() < 0.1 * expected.std()
    layers = quantisable_layers(graph)
    assert len(layers) == 4 + 5  # the last block has its query apart
    kept = apply_precision(graph, "int8", ["*.mlp.*"])
    left = {node.name for node in kept.graph.node if node.op_type == "MatMul"}
    assert {f"block{b}.mlp.{part}.matmul" for b in (0, 1) for part in ("c_fc", "c_proj")} <= left
    assert "block0.attention.qkv.matmul" not in left
    assert "patch_embedding.matmul" in left
