"""Precision by graph passes, against the float32 graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mpft_deploy.cli.export import command
from mpft_deploy.engine import BACKENDS, find_backend
from mpft_deploy.engine.ort import load
from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision, quantisable_layers
from mpft_deploy.export.quantise import static_fp8, static_int8
from mpft_deploy.export.recipes import INTEGERS, RECIPES
from mpft_deploy.export.smoothing import ranges_of
from mpft_deploy.kernels import texture_patchify

LOWERED = [name for name in RECIPES if name != "fp32"]
TOLERANCE = {"fp16": 0.005, "bf16": 0.04, "int8": 0.1, "int8-static": 0.1, "fp8": 0.25}
"""Mean logit error allowed, as a share of the logits' spread; what follows a + adds nothing."""


class Case:
    """A tiny detector with its graph, ranges and views."""

    def __init__(self) -> None:
        self.spec = reference.tiny_spec(taps=2, depth=3)
        self.weights = reference.random_weights(self.spec)
        size = self.spec.crop.size
        self.views = np.random.default_rng(1).integers(0, 256, (24, size, size, 3), np.uint8)
        self.cut = texture_patchify(self.views, self.spec.patch, self.spec.keep_rule)
        self.graph = build_graph(self.spec, self.weights)
        self.ranges = ranges_of(activation_maxima(self.spec, self.weights, self.views))
        self.expected = reference.logits(self.spec, self.weights, self.cut)
        self.feeds = {"patches": self.cut.patches, "positions": self.cut.positions}

    def lowered(self, precision, float_layers=()):
        return apply_precision(self.graph, precision, float_layers, self.ranges)

    def error(self, logits):
        return np.abs(logits - self.expected).mean() / self.expected.std()


@pytest.fixture(scope="module")
def case():
    return Case()


def tensor_types(model):
    """ONNX type of every tensor."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("precision", LOWERED)
def test_graph_is_valid_and_the_same_each_time(case, precision):
    before = serialise(case.graph)
    model = case.lowered(precision)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [value.name for value in model.graph.input] == ["patches", "positions"]
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert TensorProto.INT64 not in {
        kind
        for name, kind in tensor_types(model).items()
        if name not in {tensor.name for tensor in model.graph.initializer}
    }
    assert serialise(case.lowered(precision)) == serialise(model)
    assert serialise(case.graph) == before


@pytest.mark.parametrize("precision", LOWERED)
def test_close_to_float32(case, precision):
    logits = ReferenceEvaluator(case.lowered(precision)).run(["logit"], case.feeds)[0]
    assert logits.dtype == np.float32
    assert 0 < case.error(logits) < TOLERANCE[precision.partition("+")[0]]


def run_fp16(model, feeds):
    """On ONNX Runtime, without the optimiser that fails on float16; integers summed exactly."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        serialise(model),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["NchwcTransformer"],
    )
    return session.run(["logit"], feeds)[0]


@pytest.mark.parametrize("precision", ["fp16", "int8-static", "int8-static+fp16", "fp8+fp16"])
def test_close_to_float32_on_onnx_runtime(case, precision):
    error = case.error(run_fp16(case.lowered(precision), case.feeds))
    assert 0 < error < TOLERANCE[precision.partition("+")[0]]


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_only_matmuls_and_what_moves_between_them_are_small(case, precision, kind):
    model = case.lowered(precision)
    small = TensorProto.DataType.Value(kind)
    types = tensor_types(model)
    matmuls = 0
    for node in model.graph.node:
        floating = {types[name] for name in node.output} & {small, TensorProto.FLOAT}
        if node.op_type == "MatMul":
            always = node.name in ("patch_embedding.matmul", "head.matmul")
            assert floating == {TensorProto.FLOAT if always else small}, node.name
            assert {types[name] for name in node.input} == floating, node.name
            matmuls += not always
        elif node.op_type not in ("Cast", "Split", "Reshape", "Transpose", "Gather"):
            assert small not in floating, node.name
    assert matmuls == 3 * 6 + 1  # the last block has its query apart
    for name in ("block0.attention.q.heads", "block0.attention.merged"):
        assert types[name] == small
    for name in ("block0.attention.softmax", "block0", "block1.ln_1", "position_embedding"):
        assert types[name] == TensorProto.FLOAT
    assert len(serialise(model)) < 0.7 * len(serialise(case.graph))


def test_no_tensor_is_cast_twice(case):
    casts = [n.input[0] for n in case.lowered("fp16").graph.node if n.op_type == "Cast"]
    assert len(casts) == len(set(casts))


def test_chosen_layers_stay_in_float32(case):
    model = case.lowered("fp16", ["*.mlp.c_proj", "block1.attention.scores"])
    types = tensor_types(model)
    for name in ("block0.mlp.c_proj.matmul", "block1.attention.scores"):
        assert types[name] == TensorProto.FLOAT
    for name in ("block0.mlp.c_fc.matmul", "block0.attention.scores", "block1.attention.mix"):
        assert types[name] == TensorProto.FLOAT16
    onnx.checker.check_model(model, full_check=True)


def test_chosen_layers_of_a_quantised_network_take_its_other_type(case):
    model = case.lowered("int8-static+fp16", ["*.mlp.c_proj"])
    types = tensor_types(model)
    assert types["block0.mlp.c_proj.weight"] == TensorProto.FLOAT16
    assert types["block0.mlp.c_fc.matmul.weight.8bit"] == TensorProto.INT8
    assert types["block0.attention.scores"] == TensorProto.FLOAT16
    plain = tensor_types(case.lowered("int8-static", ["*.mlp.c_proj"]))
    assert plain["block0.mlp.c_proj.weight"] == TensorProto.FLOAT
    assert plain["block0.attention.scores"] == TensorProto.FLOAT


@pytest.mark.parametrize("precision", LOWERED)
def test_unknown_layers_and_precisions_are_named(case, precision):
    with pytest.raises(UsageError, match="no layer matches 'nothing'"):
        case.lowered(precision, ["nothing"])
    with pytest.raises(UsageError, match="int8-static"):
        case.lowered("int2")
    if RECIPES[precision].static:
        with pytest.raises(UsageError, match="needs the ranges"):
            apply_precision(case.graph, precision)


def test_weight_beyond_float16_is_an_error(case):
    weights = dict(case.weights)
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    weights[name] = weights[name].copy()
    weights[name][3, 5] = 1e5
    graph = build_graph(case.spec, weights)
    with pytest.raises(InputError, match=r"block1\.mlp\.c_fc\.weight.*--float-layers"):
        apply_precision(graph, "fp16")
    apply_precision(graph, "bf16")
    apply_precision(graph, "fp16", ["block1.mlp.c_fc"])


def test_ranges_are_those_of_the_layers(case):
    assert set(case.ranges) == set(quantisable_layers(case.graph))
    maxima = activation_maxima(case.spec, case.weights, case.views)
    assert case.ranges["block0.mlp.c_proj"] == maxima["block0.mlp.c_proj"].max()
    assert case.ranges["block2.attention.kv"] == maxima["block2.attention.kv"].max()


def test_static_scales_are_symmetric_and_come_from_the_ranges(case):
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in case.lowered("int8-static").graph.initializer
    }
    for layer, largest in case.ranges.items():
        scale = constants[f"{layer}.matmul.x.scale"]
        assert scale == pytest.approx(largest / 127)
        assert constants[f"{layer}.matmul.x.zero"] == 0
        assert not constants[f"{layer}.matmul.weight.zero"].any()
        assert np.abs(constants[f"{layer}.matmul.weight.8bit"]).max(0).min() == 127


def test_larger_ranges_cost_resolution(case):
    wide = {layer: 20 * value for layer, value in case.ranges.items()}
    errors = [
        case.error(
            load(serialise(apply_precision(case.graph, "int8-static", (), ranges)), threads=1).run(
                case.cut.patches, case.cut.positions
            )
        )
        for ranges in (case.ranges, wide)
    ]
    assert errors[1] > 3 * errors[0]


matrix = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize(
    ("rewrite", "steps"),
    # Half a step of int8; of E4M3, half a unit in the last of 3 fraction bits, at the largest.
    [(static_int8, 0.5 / 127), (static_fp8, 16 / 448)],
)
@given(weight=matrix)
def test_weights_survive_within_half_a_step(rewrite, steps, weight):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    _, constants = rewrite(node, weight, 3.0)
    values = {tensor.name: tensor for tensor in constants}
    stored = values["layer.weight.8bit"]
    dtype = np.int8 if stored.data_type == TensorProto.INT8 else ml_dtypes.float8_e4m3fn
    quantised = np.frombuffer(stored.raw_data, dtype).reshape(weight.shape).astype(np.float32)
    scale = numpy_helper.to_array(values["layer.weight.scale"])
    assert np.isfinite(quantised).all()
    bound = steps * np.abs(weight).max(0) + 1e-6
    assert (np.abs(quantised * scale - weight) <= bound * 1.001).all()


def test_layer_that_saw_nothing_is_still_valid(case):
    silent = dict.fromkeys(case.ranges, 0.0)
    model = apply_precision(case.graph, "int8-static", (), silent)
    logits = ReferenceEvaluator(model).run(["logit"], case.feeds)[0]
    assert np.isfinite(logits).all()


def test_commands_and_backends_know_the_same_precisions():
    choices = next(p for p in command.params if p.name == "precision").type.choices
    assert tuple(choices) == ("auto", *RECIPES, *INTEGERS)
    taken = {name for backend in BACKENDS for name in find_backend(backend).PRECISIONS}
    assert taken == {*RECIPES, *INTEGERS}
    assert all(recipe.help for recipe in RECIPES.values())
