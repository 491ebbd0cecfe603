"""The standalone graph equals the oracle and the encoder, in every runtime that is here."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from mpft_deploy.engine.ort import load, make_session
from mpft_deploy.errors import GateError, InputError, UsageError
from mpft_deploy.export import standalone
from mpft_deploy.export.graph import IR_VERSION, OPSET, build_graph, serialise
from mpft_deploy.export.pipeline import Request
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.standalone import build_standalone, export_standalone
from mpft_deploy.kernels.encoder.oracle import DEFINITION
from mpft_deploy.kernels.texture_patchify.oracle import MAX_PATCH, texture_patchify, texture_scores
from mpft_deploy.spec import Crop, DetectorSpec

EXAMPLE = Path(__file__).parents[2] / "examples" / "standalone_onnxruntime.py"

# Size, patch, rule: every patch at its limits, K of 1 and N, cells of many counts.
GEOMETRIES = [
    (32, 8, "textured:6"),
    (32, 8, "smooth:6"),
    (56, 14, "textured:16"),
    (48, 16, "smooth:1"),
    (128, 64, "textured:3"),
    (20, 4, "smooth:24"),
    (32, 8, "all"),
    (60, 4, "textured:100"),
    (8, 8, "textured:1"),
]


def geometry(size: int, patch: int, keep: str) -> DetectorSpec:
    return reference.tiny_spec(crop=Crop(size=size), patch=patch, keep=keep, train_keep="all")


def images(size: int, count: int, seed: int = 0) -> np.ndarray:
    """Random images of few and many grey levels, so that some tie; constants, gradients, checks."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(2, 257, (count, 1, 1, 1))
    made = rng.integers(0, levels, (count, size, size, 3)) * (255 // (levels - 1))
    made[0], made[1] = 0, 255
    made[2] = np.arange(size)[:, None, None] * 255 // size
    made[3] = np.arange(size)[None, :, None] % 7
    made[4] = (np.indices((size, size)).sum(0) % 2 * 255)[:, :, None]
    made[5, : size // 2] = 9  # half of it ties
    return made.astype(np.uint8)


def patchify_model(spec: DetectorSpec) -> onnx.ModelProto:
    """The function alone, with all that it gives."""
    function = standalone.patchify_function(spec)
    size, columns = spec.crop.size, 3 * spec.patch**2
    call = helper.make_node(
        function.name, ["frames"], ["patches", "positions", "scores"], domain=function.domain
    )
    graph = helper.make_graph(
        [call],
        "patchify",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", size, size, 3])],
        [
            helper.make_tensor_value_info(name, kind, ["batch", *shape])
            for name, kind, shape in (
                ("patches", TensorProto.FLOAT, (spec.tokens, columns)),
                ("positions", TensorProto.INT32, (spec.tokens,)),
                ("scores", TensorProto.INT32, (spec.cells,)),
            )
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(function.domain, 1)]
    return helper.make_model(
        graph, opset_imports=opsets, functions=[function], ir_version=IR_VERSION
    )


def assert_oracle(spec, frames, patches, positions, scores):
    expected = texture_patchify(frames, spec.patch, spec.keep_rule)
    np.testing.assert_array_equal(scores, expected.scores)
    np.testing.assert_array_equal(positions, expected.positions)
    np.testing.assert_array_equal(patches, expected.patches)
    assert positions.dtype == scores.dtype == np.int32


@pytest.fixture(scope="module")
def whole():
    """A tiny standalone model with its spec and weights."""
    spec = reference.tiny_spec()
    weights = reference.random_weights(spec)
    return spec, weights, build_standalone(spec, build_graph(spec, weights))


@pytest.mark.parametrize("shape", GEOMETRIES, ids=str)
def test_function_equals_the_oracle_in_onnxruntime(shape):
    spec = geometry(*shape)
    model = patchify_model(spec)
    onnx.checker.check_model(model, full_check=True)
    frames = images(shape[0], 200)
    outputs = make_session(serialise(model), threads=1).run(None, {"frames": frames})
    assert_oracle(spec, frames, *outputs)


@pytest.mark.parametrize("hint", ["f32", "bf16"])
@pytest.mark.parametrize("shape", GEOMETRIES, ids=str)
def test_function_equals_the_oracle_in_openvino(shape, hint, tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    spec = geometry(*shape)
    onnx.save(onnx.inliner.inline_local_functions(patchify_model(spec)), tmp_path / "model.onnx")
    model = openvino.Core().compile_model(
        tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": hint}
    )
    frames = images(shape[0], 200)
    outputs = model(frames)
    assert_oracle(spec, frames, *(outputs[name] for name in ("patches", "positions", "scores")))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["textured", "smooth"]), st.integers(1, 16))
def test_ties_go_to_the_lower_index(seed, kind, count):
    """Cells are copied about, so that equal scores stand on both sides of the cut."""
    spec = geometry(16, 4, f"{kind}:{count}")
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    grid = few[rng.integers(0, 3, (2, 4, 4))]  # [2, 4, 4, p, p, 3]
    frames = np.ascontiguousarray(grid.transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 16, 3))
    session = make_session(serialise(patchify_model(spec)), threads=1)
    assert_oracle(spec, frames, *session.run(None, {"frames": frames}))


def test_scores_are_exact_in_float32():
    """The bound that the module states, and the image that comes nearest to it."""
    vertical = horizontal = MAX_PATCH * (MAX_PATCH - 1)
    diagonal = (MAX_PATCH - 1) ** 2
    bound = 3 * 255 * (horizontal + vertical + 2 * diagonal)
    assert bound == 12_241_530 < 2**24
    lines = np.zeros((1, MAX_PATCH, MAX_PATCH, 3), np.uint8)
    lines[:, ::2] = 255  # all but horizontal neighbours differ by as much as they can
    assert texture_scores(lines, MAX_PATCH).item() == 3 * 255 * (vertical + 2 * diagonal)


def test_whole_is_valid_and_names_are_unique(whole):
    model = whole[2]
    onnx.checker.check_model(model, full_check=True)
    inlined = onnx.inliner.inline_local_functions(model)
    onnx.checker.check_model(inlined, full_check=True)
    assert "Resize" not in {node.op_type for node in inlined.graph.node}
    for nodes in (model.graph.node, model.functions[0].node):
        names = [node.name for node in nodes]
        assert all(names)
        assert len(set(names)) == len(names)
    assert {entry.domain for entry in model.opset_import} == {"", "mpft"}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("keep", ["textured:6", "smooth:3", "all"])
def test_logits_are_those_of_kernel_and_encoder(precision, keep):
    spec = reference.tiny_spec(keep=keep)
    encoder = apply_precision(build_graph(spec, reference.random_weights(spec)), precision)
    session = make_session(serialise(build_standalone(spec, encoder)), threads=1)
    frames = images(32, 20)
    cut = texture_patchify(frames, spec.patch, spec.keep_rule)
    expected = load(serialise(encoder), threads=1).run(cut.patches, cut.positions)
    logit, positions = session.run(["logit", "positions"], {"frames": frames})
    assert logit.shape == (20,)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logit, expected, atol=1e-5)
    np.testing.assert_array_equal(positions, cut.positions)


def test_openvino_gives_the_same_logits(whole, tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    spec, weights, model = whole
    onnx.save(onnx.inliner.inline_local_functions(model), tmp_path / "model.onnx")
    frames = images(32, 20)
    compiled = openvino.Core().compile_model(
        tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    expected = reference.logits(spec, weights, texture_patchify(frames, 8, spec.keep_rule))
    np.testing.assert_allclose(compiled(frames)["logit"], expected, atol=1e-4)


BUILD = """
import sys, tensorrt_rtx as trt
path, size, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse(open(path, "rb").read()):
    sys.exit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("frames", *((batch, size, size, 3) for batch in (1, 1, 4)))
config.add_optimization_profile(profile)
config.num_compute_capabilities = 1
config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
engine = builder.build_serialized_network(network, config)
sys.exit(0 if engine is not None and engine.nbytes > 1000 else "no engine")
"""


@pytest.mark.parametrize(
    ("target", "keep"), [("SM86", "textured:6"), ("SM89", "smooth:6"), ("SM89", "all")]
)
def test_tensorrt_rtx_builds_it(target, keep, tmp_path):
    """In a process of its own, which a node that the parser rejects would abort."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    spec = reference.tiny_spec(keep=keep)
    model = build_standalone(spec, build_graph(spec, reference.random_weights(spec)))
    (tmp_path / "model.onnx").write_bytes(serialise(model))
    ended = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path / "model.onnx"), "32", target],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_random_rule_is_refused(make_detector, tmp_path):
    make_detector(tmp_path / "random", keep="random:6")
    with pytest.raises(UsageError, match=r"cannot hold the keep rule random:6"):
        export_standalone(Request(tmp_path / "random", tmp_path / "model.onnx", *reference.FLOAT32))
    assert not (tmp_path / "model.onnx").exists()


def test_written_file_is_deterministic_and_describes_itself(detector, tmp_path):
    one = export_standalone(Request(detector, tmp_path / "one.onnx", *reference.FLOAT32))
    export_standalone(Request(detector, tmp_path / "new" / "two.onnx", *reference.FLOAT32))
    data = (tmp_path / "one.onnx").read_bytes()
    assert data == one.model == (tmp_path / "new" / "two.onnx").read_bytes()
    properties = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert json.loads(properties["mpft.spec"])["keep"] == "textured:6"
    assert properties["mpft.precision"] == "fp32"
    assert one.batchable
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "one.onnx"]


def test_a_network_in_integers_says_what_it_is_equal_to(detector, tmp_path):
    made = export_standalone(Request(detector, tmp_path / "one.onnx", "onnxruntime", "wide"))
    model = onnx.load_from_string(made.model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["mpft.network"] == DEFINITION
    assert "only nearly" in properties["mpft.equality"]
    assert properties["mpft.precision"] == "wide"
    assert made.batchable


def test_dynamic_int8_is_not_batchable(detector, tmp_path):
    request = Request(detector, tmp_path / "model.onnx", "onnxruntime", "int8")
    assert not export_standalone(request).batchable


def test_outputs_that_stand_in_the_way(detector, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "mine.onnx").write_text("mine")
    for name, message in (
        ("model", r"ends with \.onnx"),
        ("folder.onnx", "is a folder"),
        ("mine.onnx", "--overwrite"),
    ):
        with pytest.raises(UsageError, match=message):
            export_standalone(Request(detector, tmp_path / name, *reference.FLOAT32))
    assert (tmp_path / "mine.onnx").read_text() == "mine"
    with pytest.raises(UsageError, match="is not a graph that mpft-export wrote"):
        export_standalone(
            Request(detector, tmp_path / "mine.onnx", *reference.FLOAT32, overwrite=True)
        )
    assert (tmp_path / "mine.onnx").read_text() == "mine"


def test_overwrite_replaces_an_earlier_graph(detector, tmp_path):
    request = Request(detector, tmp_path / "model.onnx", *reference.FLOAT32, overwrite=True)
    export_standalone(request)
    export_standalone(replace(request, precision="int8"))
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node)


def test_faulty_function_is_never_written(detector, tmp_path, monkeypatch):
    """The check on the golden crops finds a graph that keeps the wrong cells."""
    right = standalone._select
    monkeypatch.setattr(
        standalone, "_select", lambda *args, largest: right(*args, largest=not largest)
    )
    with pytest.raises(GateError, match="differs from the engine on golden crop 0"):
        export_standalone(Request(detector, tmp_path / "model.onnx", *reference.FLOAT32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(50, 40), (20, 70), (32, 32)])
def test_example_gives_the_verdict_of_the_package(detector, tmp_path, shape):
    from mpft_deploy.images import decode_image
    from mpft_deploy.views import views

    made = export_standalone(Request(detector, tmp_path / "model.onnx", *reference.FLOAT32))
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    ended = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "model.onnx", tmp_path / "photo.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    frames = views(decode_image(tmp_path / "photo.png"), 32)
    logit = make_session(made.model, threads=1).run(["logit"], {"frames": frames})[0].item()
    probability = made.spec.calibration.probability(logit)
    number, verdict = ended.stdout.split()
    assert math.isclose(float(number), probability, abs_tol=6e-4)
    assert verdict == made.spec.calibration.verdict(probability)


def test_absent_detector(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        export_standalone(Request(tmp_path / "absent", tmp_path / "model.onnx", *reference.FLOAT32))
