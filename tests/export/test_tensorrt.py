"""Plans, built by the real TensorRT for RTX where it is installed; no test needs a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import reference

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import cuda, load_engine
from mpft_deploy.engine import tensorrt as engine
from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.export import tensorrt
from mpft_deploy.export.builders import BuildOptions
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.pipeline import Request, gather, make
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.smoothing import ranges_of
from mpft_deploy.export.tensorrt import RTX, RTX_TARGETS, TENSORRT
from mpft_deploy.extras import how_to_install
from mpft_deploy.spec import Architecture, Crop

ADA = BuildOptions(sm=("8.9",))


@pytest.fixture(scope="module")
def rtx():
    """TensorRT for RTX; skips where it is not installed."""
    return pytest.importorskip("tensorrt_rtx", exc_type=ImportError)


@pytest.fixture
def no_device():
    """Skips where a device is, since then an engine runs instead of being left unproven."""
    try:
        cuda.facts()
    except EnvironmentLacksError:
        return
    pytest.skip("this machine has a CUDA device")


def graph(precision, **changes):
    spec = reference.tiny_spec(**changes)
    weights = reference.random_weights(spec)
    size = spec.crop.size
    views = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
    ranges = ranges_of(activation_maxima(spec, weights, views))
    return serialise(apply_precision(build_graph(spec, weights), precision, (), ranges))


def build(precision, model=None, options=ADA, say=lambda text: None):
    plan = RTX.plan(precision, options)
    return RTX.build(lambda: graph(precision) if model is None else model, plan, options, say)


@pytest.mark.parametrize("precision", engine.RTX.PRECISIONS)
def test_every_precision_builds(rtx, precision):
    name, plan = build(precision)
    assert name == "engine.plan"
    assert len(plan) > 100_000


def test_same_input_same_plan_and_every_option_counts(rtx):
    plans = [build("fp16")[1], build("fp16")[1]]
    assert plans[0] == plans[1]
    options = BuildOptions(sm=("12.0", "8.6"), batch=(2, 3, 5), workspace=64)
    assert RTX.plan("fp16", options).compute_capability == ("8.6", "12.0")
    assert build("fp16", options=options)[1] != plans[0]
    assert RTX.plan("fp16", BuildOptions()).compute_capability == RTX_TARGETS


@pytest.mark.slow
def test_b16_sized_network_shrinks_with_its_precision(rtx):
    """CLIP B/16 in all but depth, for two kinds of device."""
    arch = Architecture(
        name="b16",
        width=768,
        layers=2,
        heads=12,
        hidden=3072,
        output_dim=512,
        activation="quick_gelu",
    )
    changes = {
        "architecture": arch,
        "patch": 16,
        "crop": Crop(size=224),
        "keep": "textured:98",
        "train_keep": "smooth:98",
    }
    options = BuildOptions(sm=("8.6", "8.9"))
    sizes = {
        precision: len(build(precision, graph(precision, **changes), options)[1])
        for precision in ("fp32", "fp16", "int8-static+fp16")
    }
    assert sizes["fp16"] < 0.65 * sizes["fp32"]
    assert sizes["int8-static+fp16"] < 0.65 * sizes["fp16"]


@pytest.mark.parametrize(
    ("sm", "why"),
    [("7.5", "no float32"), ("8.7", "Orin"), ("9.0", "Hopper"), ("11.0", "Thor"), ("10.0", "80, ")],
)
def test_refused_devices(rtx, sm, why):
    with pytest.raises(UsageError, match=f"no engine for SM {sm}: .*{why}"):
        RTX.plan("fp16", BuildOptions(sm=(sm,)))


def test_our_table_of_devices_is_that_of_the_package(rtx):
    known = {name.removeprefix("SM") for name in vars(rtx.ComputeCapability) if name[:2] == "SM"}
    assert known == {target.replace(".", "") for target in (*RTX_TARGETS, "7.5")}


def test_fp8_asks_for_devices_that_have_it(rtx):
    for options in (BuildOptions(), BuildOptions(sm=("8.9", "8.6"))):
        with pytest.raises(UsageError, match=r"needs SM 8\.9 or later"):
            RTX.plan("fp8+fp16", options)


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(timing_cache=Path("cache")),
        BuildOptions(hardware_compatible=True),
        BuildOptions(version_compatible=True),
    ],
)
def test_options_of_the_other_package_are_refused(rtx, options):
    with pytest.raises(UsageError, match="does not go with backend tensorrt-rtx"):
        RTX.plan("fp16", options)


@pytest.mark.parametrize("domain", ["", "mpft"])
def test_unknown_node_is_named(rtx, domain):
    model = onnx.load_from_string(graph("fp32"))
    node = next(node for node in model.graph.node if node.name == "block1.ln_1")
    node.op_type, node.domain = "Mystery", domain
    model.opset_import.append(onnx.helper.make_opsetid("mpft", 1))
    with pytest.raises(InputError, match=r"cannot parse .*node block1\.ln_1 \(Mystery\)"):
        build("fp32", model.SerializeToString())


def test_many_faults_are_counted(rtx):
    with pytest.raises(InputError, match=r"block0\.attention\.qkv.*and \d+ more"):
        build("fp32", graph("int8"))


def test_damaged_graph_is_an_error(rtx):
    with pytest.raises(InputError, match="cannot parse"):
        build("fp32", b"no graph")


def test_device_without_the_type_is_an_error(rtx):
    """Should a table of ours be wrong, the package's own reason comes through."""
    with pytest.raises(InputError, match=r"cannot build .*fp8"):
        build("fp16", graph("fp8+fp16"), BuildOptions(sm=("8.6",)))


def test_a_model_is_in_memory_once_while_a_plan_is_built(
    rtx, no_device, detector, tmp_path, monkeypatch
):
    held = []

    def build(self, take_model, plan, options, say):
        model = take_model()
        held.append(sys.getrefcount(model))
        with pytest.raises(IndexError):
            take_model()
        return "engine.plan", model

    monkeypatch.setattr(tensorrt.TensorRTBuilder, "build", build)
    request = Request(
        detector, tmp_path / "out", backend="tensorrt-rtx", precision="fp16", options=ADA
    )
    assert make(request, gather(request)).graph is None
    assert held[0] <= 2, "by the builder, and by the question itself"


def test_full_tensorrt_builds_only_where_it_runs(no_device):
    with pytest.raises(EnvironmentLacksError, match="builds on the device that will run it"):
        TENSORRT.plan("fp16", BuildOptions())


def test_full_tensorrt_builds_for_this_device(monkeypatch):
    monkeypatch.setattr(engine.TensorRT, "why_not", lambda self: None)
    monkeypatch.setattr(engine.TensorRT, "version", lambda self: "10.3.0")
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts("8.7", "Orin", "12.6"))
    assert TENSORRT.plan("bf16", BuildOptions()).compute_capability == ("8.7",)
    anywhere = BuildOptions(hardware_compatible=True)
    with pytest.raises(UsageError, match="not for a Jetson"):
        TENSORRT.plan("bf16", anywhere)
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts("8.6", "A10", "13.0"))
    assert TENSORRT.plan("bf16", anywhere).compute_capability == ("8.0+",)
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts("8.7", "Orin", "12.6"))
    with pytest.raises(UsageError, match=r"fp16 needs SM 8\.9 or later, and SM 8\.7 is older"):
        TENSORRT.plan("fp8+fp16", BuildOptions())
    with pytest.raises(UsageError, match="--sm does not go with backend tensorrt"):
        TENSORRT.plan("fp16", ADA)


def test_exported_here_unproven_and_refused_here(rtx, no_device, mpft, detector, tmp_path):
    out = tmp_path / "bundle"
    arguments = [detector, out, "--backend", "tensorrt-rtx", "--precision", "fp16", "--sm", "89"]
    code, text, _ = mpft("export", *arguments, "--dry-run")
    assert code == 0
    for shown in ("u8 [batch, 6, 192]", "float16", "SM 8.9", "batch of 1 to 8", "NVIDIA driver"):
        assert shown in text
    assert not out.exists()

    code, text, _ = mpft("export", *arguments, "--json")
    assert code == 0
    result = json.loads(text)
    assert result["latency"] is None
    assert result["certificate"]["answer"] == "unproven"
    assert "driver" in result["certificate"]["not_run"]
    assert {file.name for file in out.iterdir()} == {
        "bundle.json",
        "engine.plan",
        "certificate.json",
        "golden.safetensors",
    }
    bundle = read_bundle(out)
    assert bundle.info.compute_capability == ("8.9",)
    assert bundle.info.versions["tensorrt-rtx"] == rtx.__version__
    with pytest.raises(EnvironmentLacksError, match="driver"):
        load_engine(bundle)
    for command in ("verify", "profile"):
        code, _, errors = mpft(command, out)
        assert code == 3
        assert "nvidia-smi" in errors
        assert "Traceback" not in errors
    code, text, _ = mpft("inspect", out)
    assert code == 0
    assert "mpft verify" in text
    code, _, errors = mpft("export", *arguments, "--overwrite", "--images", detector)
    assert code == 2
    assert "--images needs an engine that runs here" in errors


def test_engine_of_another_device_explains_itself(monkeypatch):
    monkeypatch.setattr(engine.TensorRT, "why_no_package", lambda self: None)
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts("8.6", "A10", "13.0"))
    reason = engine.RTX.why_not(("8.9", "12.0"))
    assert "built for SM 8.9, 12.0 and this device is SM 8.6" in reason
    assert "--sm 86" in reason
    assert engine.RTX.why_not(("8.6",)) is None
    assert engine.RTX.why_not(("8.0+",)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "choose fp32, fp16"),
        (["--precision", "fp16", "--sm", "87"], "Orin"),
        (["--precision", "fp16", "--sm", "new"], "like 89"),
        (["--precision", "fp16", "--batch", "8"], "MIN:USUAL:MAX"),
        (["--precision", "fp16", "--batch", "0:1:1"], "rise"),
    ],
)
def test_wrong_use(rtx, mpft, detector, tmp_path, options, message):
    arguments = [detector, tmp_path / "out", "--backend", "tensorrt-rtx", *options]
    for extra in ([], ["--dry-run"]):
        code, _, errors = mpft("export", *arguments, *extra)
        assert code == 2
        assert message in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--sm", "89"], ["--workspace", "9"], ["--batch", "1:2:2"]])
def test_other_backends_have_no_use_for_them(mpft, detector, tmp_path, option):
    for backend in ("native", "onnxruntime"):
        code, _, errors = mpft("export", detector, tmp_path / "out", *option, "--backend", backend)
        assert code == 2
        assert f"{option[0]} does not go with backend {backend}" in errors


def test_missing_package_names_the_extra(detector, tmp_path):
    block = (
        "import sys; sys.modules['tensorrt_rtx'] = None;"
        "from mpft_deploy.cli.main import export_main; export_main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", block, str(detector), str(tmp_path / "out"),
         "--backend", "tensorrt-rtx"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ended.returncode == 3
    assert how_to_install("rtx") in ended.stderr
    assert "Traceback" not in ended.stderr
