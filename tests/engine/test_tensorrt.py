"""The TensorRT engine on a simulated device, and what is said where there is none."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shutil
import sys

import msgspec
import numpy as np
import pytest
import reference
import simulated_gpu
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mpft_deploy import jetson
from mpft_deploy.bundle import Device, read_bundle, write_bundle
from mpft_deploy.cli.main import cli, run
from mpft_deploy.detector_folder import Golden
from mpft_deploy.engine import cuda as device_cuda
from mpft_deploy.engine import find_backend, get_backend, load_engine, on_device, ort, tensorrt
from mpft_deploy.engine.certificate import not_run
from mpft_deploy.engine.selftest import explain_device
from mpft_deploy.engine.tensorrt import RTX, TENSORRT, as_numbers, covers
from mpft_deploy.errors import EnvironmentLacksError, GateError, InputError, UsageError
from mpft_deploy.export.builders import BuildOptions, get_builder
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.extras import how_to_install
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.signing import generate_keys, load_signer


@pytest.fixture
def device(monkeypatch):
    """Put a simulated device and TensorRT in place; call it to choose the profile."""

    def install(package="cuda-python", **choices):
        return simulated_gpu.install(monkeypatch, package, **choices)

    return install


PACKAGES = pytest.mark.parametrize("package", ["cuda-python", "PyCUDA"])


@pytest.fixture(scope="module")
def network():
    """A tiny detector's graph, some cut views, and their logits on ONNX Runtime."""
    spec = reference.tiny_spec()
    plan = serialise(build_graph(spec, reference.random_weights(spec)))
    views = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)
    cut = texture_patchify(views, spec.patch, spec.keep_rule)
    return plan, cut, ort.load(plan, threads=1).run(cut.patches, cut.positions)


@PACKAGES
@pytest.mark.parametrize("profile", [(1, 1, 4), (1, 8, 16), (3, 3, 3)])
def test_any_batch_gives_the_right_logits(device, network, profile, package):
    plan, cut, expected = network
    device(package, profile=profile)
    engine = TENSORRT.load(plan, threads=0)
    for sizes in ((1, 1, 1, 1), (2, 2, 1, 1, 1), (11,), (4, 4), (3, 1, 3, 1), (0, 5)):
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            logits = engine.run(cut.patches[part], cut.positions[part])
            np.testing.assert_allclose(logits, expected[part], atol=1e-5)
            assert logits.dtype == np.float32
            start = (start + size) % 4


def test_a_repeated_batch_is_one_launch_from_its_third_run_on(device, network):
    plan, cut, expected = network
    cuda = device()
    engine = TENSORRT.load(plan, threads=0)
    for index in range(6):
        logit = engine.run(cut.patches[index : index + 1], cut.positions[index : index + 1])
        np.testing.assert_allclose(logit, expected[index : index + 1], atol=1e-5)
        assert cuda.launched == max(0, index - 1)
        assert len(cuda.graphs) == min(index, 1)


def test_batches_that_change_keep_their_graphs(device, network):
    plan, cut, expected = network
    cuda = device(profile=(1, 1, 16))
    engine = TENSORRT.load(plan, threads=0)
    engine.run(cut.patches, cut.positions)  # there is room for all from here on
    sizes = (1, 3, 2)
    for turn in range(5):
        for size in sizes:
            logits = engine.run(cut.patches[:size], cut.positions[:size])
            np.testing.assert_allclose(logits, expected[:size], atol=1e-5)
        assert len(cuda.graphs) == (len(sizes) if turn else 0)
        assert cuda.launched == len(sizes) * max(0, turn - 1)
    for size in (*range(4, 11), *range(4, 11)):
        engine.run(cut.patches[:size], cut.positions[:size])
    assert len(cuda.graphs) == on_device.KEPT


def test_results_are_not_overwritten_by_the_next_run(device, network):
    plan, cut, expected = network
    device()
    engine = TENSORRT.load(plan, threads=0)
    first = engine.run(cut.patches[:1], cut.positions[:1])
    engine.run(cut.patches[1:2], cut.positions[1:2])
    np.testing.assert_allclose(first, expected[:1], atol=1e-5)


def released(cuda):
    """Whether nothing is left on the device but the default stream."""
    gc.collect()
    return not (cuda.blocks or cuda.graphs or cuda.events) and list(cuda.streams) == [0]


@PACKAGES
def test_everything_is_released(device, network, package):
    plan, cut, _ = network
    cuda = device(package)
    engine = TENSORRT.load(plan, threads=0)
    for _ in range(3):
        engine.run(cut.patches[:1], cut.positions[:1])
    assert not released(cuda)
    del engine
    assert released(cuda)


def test_without_capture_it_says_so_once_and_runs(device, network, caplog):
    plan, cut, expected = network
    device().no_capture = True
    engine = TENSORRT.load(plan, threads=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            logits = engine.run(cut.patches[:3], cut.positions[:3])
            np.testing.assert_allclose(logits, expected[:3], atol=1e-5)
    assert [record.message for record in caplog.records] == [caplog.records[0].message]
    assert "cudaErrorStreamCaptureUnsupported" in caplog.text


def test_faults_are_named(device, network):
    plan, cut, _ = network
    cuda = device()
    with pytest.raises(InputError, match=r"magic tag does not match.*version"):
        TENSORRT.load(b"no plan", threads=0)
    other = serialise(
        build_graph(reference.tiny_spec(), reference.random_weights(reference.tiny_spec()))
    )
    with pytest.raises(InputError, match="tensors"):
        TENSORRT.load(other.replace(b"positions", b"locations"), threads=0)
    engine = TENSORRT.load(plan, threads=0)
    for patches, positions in (
        (cut.patches[:, :5], cut.positions[:, :5]),
        (cut.patches.astype(np.float32), cut.positions),
        (cut.patches, cut.positions.astype(np.int64)),
    ):
        with pytest.raises(InputError, match="the engine takes"):
            engine.run(patches, positions)
    cuda.no_memory = True
    with pytest.raises(EnvironmentLacksError, match="too little free memory"):
        TENSORRT.load(plan, threads=0)


@pytest.fixture
def unproven_bundle(bundle, tmp_path, monkeypatch):
    """Write a bundle as an export for another device does; `change` is added to golden logits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = read_bundle(bundle)

    def write(change=0.0, sign=None):
        path = tmp_path / "bundle"
        info = msgspec.structs.replace(
            made.info, backend="tensorrt", compute_capability=("8.7",), engine="engine.plan"
        )
        certificate = not_run(info.spec, "no device")
        golden = Golden(made.golden.crops, made.golden.logits + np.float32(change))
        write_bundle(path, info, made.engine, golden, certificate, None, sign=sign)
        return path

    return write


def test_an_unproven_bundle_is_proven_on_its_device(device, unproven_bundle, capfd):
    """Built elsewhere, refused by another device, completed by the right one."""
    path = unproven_bundle()

    def verify(*options):
        code = run(cli, "mpft", ["verify", str(path), *options])
        return code, *capfd.readouterr()

    device(capability=(8, 9))
    code, _, errors = verify()
    assert code == 3
    assert "built for SM 8.7 and this device is SM 8.9" in errors
    with pytest.raises(EnvironmentLacksError, match="export it again on this device"):
        load_engine(read_bundle(path))

    cuda = device()
    code, text, _ = verify("--json")
    assert code == 0
    assert json.loads(text)["run_now"]
    proven = read_bundle(path)
    assert proven.certificate.smoke_faults == []
    assert proven.certificate.answer == "unproven"  # no images were there
    assert proven.certificate.not_run is None
    assert proven.certificate.smoke_test.images == len(proven.golden.logits)
    assert proven.latency.samples > 0
    assert proven.info.versions["cuda-driver"] == "12.6"
    assert proven.info.versions["gpu"] == "Orin"
    assert cuda.launched > 0
    assert [file.name for file in path.parent.iterdir()] == ["bundle"]

    code, text, _ = verify("--json")
    assert code == 0
    result = json.loads(text)
    assert not result["run_now"]
    assert result["device_difference"] is None


@pytest.mark.parametrize(
    ("built", "versions", "words"),
    [
        ({"machine": "aarch64"}, {}, "built for Linux on aarch64, and this is Linux on"),
        ({"system": "Windows"}, {}, "built for Windows on"),
        ({}, {"jetson-linux": "36.4.3"}, "built for JetPack 6, and this is JetPack 7"),
        ({}, {"jetson-linux": "38.4.0"}, None),
        ({}, {}, None),
    ],
)
def test_a_plan_is_of_a_system_and_a_jetpack(
    device, unproven_bundle, monkeypatch, built, versions, words
):
    device()
    monkeypatch.setattr(jetson, "versions", lambda: {"jetson-linux": "38.2.1"})
    made = read_bundle(unproven_bundle())
    info = msgspec.structs.replace(
        made.info,
        device=msgspec.structs.replace(Device.here(), **built),
        versions={**made.info.versions, **versions},
    )
    object.__setattr__(made, "info", info)
    if words is None:
        load_engine(made)
        return
    with pytest.raises(EnvironmentLacksError, match=words) as caught:
        load_engine(made)
    assert "export it again on this device" in str(caught.value)


def test_another_gpu_of_the_same_capability_is_another_device(device, unproven_bundle, monkeypatch):
    path = unproven_bundle()
    device()
    assert run(cli, "mpft", ["verify", str(path)]) == 0
    assert explain_device(read_bundle(path)) is None
    found = device_cuda.facts()
    monkeypatch.setattr(device_cuda, "facts", lambda: found._replace(name="Orin Nano"))
    certified, here = explain_device(read_bundle(path)).split("; this device is ")
    assert "gpu Orin" in certified
    assert "gpu Orin Nano" in here


def test_the_drivers_own_version_is_part_of_the_device(device, tmp_path, monkeypatch):
    device()
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023"
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(device_cuda, "KERNEL_MODULE", tmp_path / "version")
    assert device_cuda.versions()["nvidia-driver"] == "535.104.05"
    monkeypatch.setattr(device_cuda, "KERNEL_MODULE", tmp_path / "absent")
    assert "nvidia-driver" not in device_cuda.versions()


def test_proof_that_fails_is_written_too(device, unproven_bundle, capfd):
    path = unproven_bundle(change=3)
    device()
    assert run(cli, "mpft", ["verify", str(path)]) == 1
    assert "FAILED" in capfd.readouterr().out
    proof = read_bundle(path).certificate
    assert proof.smoke_test is not None
    assert proof.smoke_faults


def test_an_unproven_engine_runs_only_if_it_passes_its_golden_crops(device, unproven_bundle):
    device()
    path = unproven_bundle()
    assert load_engine(read_bundle(path)) is not None
    shutil.rmtree(path)
    with pytest.raises(GateError, match="never run"):
        load_engine(read_bundle(unproven_bundle(change=3)))


def test_a_signed_bundle_is_not_rewritten_without_a_key(device, unproven_bundle, tmp_path, capfd):
    pytest.importorskip("cryptography")
    public, _ = generate_keys(tmp_path / "key")
    path = unproven_bundle(sign=load_signer(tmp_path / "key"))
    before = (path / "bundle.json").read_bytes()
    device()
    assert run(cli, "mpft", ["verify", str(path)]) == 2
    assert "pass --sign" in capfd.readouterr().err
    assert (path / "bundle.json").read_bytes() == before
    assert run(cli, "mpft", ["verify", str(path), "--sign", str(tmp_path / "key")]) == 0
    assert not read_bundle(path, public).certificate.smoke_faults


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_bundle_that_cannot_be_written_says_so(device, unproven_bundle, capfd):
    path = unproven_bundle()
    device()
    path.parent.chmod(0o500)
    try:
        assert run(cli, "mpft", ["verify", str(path)]) == 3
        assert "cannot be written" in capfd.readouterr().err
    finally:
        path.parent.chmod(0o700)


def test_report_of_an_unproven_bundle(device, unproven_bundle, tmp_path, capfd):
    path, page = unproven_bundle(), tmp_path / "report.html"
    Image.new("RGB", (40, 40)).save(tmp_path / "grey.png")
    device()
    arguments = ["screen", "--bundle", path, tmp_path / "grey.png", "--report", page]
    assert run(cli, "mpft", list(map(str, arguments))) == 0, capfd.readouterr()
    assert "not run yet: no device" in page.read_text()
    assert "Not measured yet" in page.read_text()


@pytest.mark.parametrize(
    ("version", "fine"),
    [("10.3.0", True), ("11.4.0.106", True), ("8.6.1", False), ("10.2.9", False), ("12.0", False)],
)
def test_versions(device, version, fine):
    device()
    sys.modules["tensorrt"].__version__ = version
    reason = TENSORRT.why_not()
    assert (reason is None) == fine
    assert fine or f"{version} is installed and 10.3 to 11.x is needed" in reason


@pytest.mark.parametrize(("flavour", "extra"), [(TENSORRT, "tensorrt"), (RTX, "rtx")])
def test_missing_package_names_the_extra(monkeypatch, flavour, extra):
    monkeypatch.setitem(sys.modules, flavour.package, None)
    assert how_to_install(extra) in flavour.why_not()
    with pytest.raises(EnvironmentLacksError, match="is not installed"):
        flavour.load(b"", threads=0)


def test_a_folder_of_its_name_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.suppress(ImportError):
        import tensorrt

        if hasattr(tensorrt, "__version__"):
            pytest.skip("TensorRT is installed, and a package outranks a folder")
    assert "not installed" in TENSORRT.why_not()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


def test_without_either_package_it_says_which_for_which_cuda(device, monkeypatch):
    device()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert TENSORRT.why_not() is None  # by PyCUDA
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    reason = TENSORRT.why_not()
    assert how_to_install("cuda") in reason
    assert "JetPack 6 has (12.6)" in reason


def test_no_driver_is_said_and_plans_are_not_touched():
    """On a machine without a device the real packages are asked."""
    pytest.importorskip("cuda.bindings.runtime")
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    with contextlib.suppress(EnvironmentLacksError):
        pytest.skip(f"this machine has a CUDA device of SM {device_cuda.facts().capability}")
    assert "nvidia" in RTX.why_not().lower()
    with pytest.raises(EnvironmentLacksError, match="TensorRT for RTX cannot be used here"):
        RTX.load(b"a plan", threads=0)
    with pytest.raises(EnvironmentLacksError) as caught:
        get_backend("tensorrt-rtx")
    assert caught.value.exit_code == 3


def test_the_simulation_has_nothing_that_the_real_ones_lack():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name in vars(simulated_gpu.Cuda):
        assert name.startswith("_") or hasattr(runtime, name), name
    simulated = simulated_gpu.Cuda()
    for kind in ("cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr"):
        for name in vars(getattr(simulated, kind)):
            assert hasattr(getattr(runtime, kind), name), name
    for error in simulated_gpu.Error:
        assert getattr(runtime.cudaError_t, error.name) == error
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    for mine, real in (
        (simulated_gpu.PlanEngine, trt.ICudaEngine),
        (simulated_gpu.Context, trt.IExecutionContext),
        (simulated_gpu.Runtime, trt.Runtime),
    ):
        for name in vars(mine):
            assert name.startswith("_") or hasattr(real, name), name
    for name in ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"):
        assert getattr(trt.IRuntimeConfig, name).fset is not None
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER is not None


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-static+fp16"])
def test_on_a_real_device(detector, tmp_path, backend, precision):
    """Build, run, prove and repeat on the device of this machine."""
    if reason := find_backend(backend).why_not():
        pytest.skip(reason)
    sm = (device_cuda.facts().capability,) if backend == "tensorrt-rtx" else ()
    try:
        get_builder(backend).plan(precision, BuildOptions(sm=sm))
    except UsageError as error:
        pytest.skip(str(error))
    out = tmp_path / "bundle"
    options = BuildOptions(sm=sm)
    certificate = export(
        Request(detector, out, backend=backend, precision=precision, options=options)
    ).certificate
    assert not certificate.smoke_faults
    content = read_bundle(out)
    golden, spec = content.golden, content.spec
    cut = texture_patchify(golden.crops, spec.patch, spec.keep_rule, spec.keep_seed)
    engine = load_engine(content)
    for size in (1, 1, 1, 12, 12, 1):
        logits = engine.run(cut.patches[:size], cut.positions[:size])
        np.testing.assert_allclose(logits, golden.logits[:size], atol=0.2)


capability = st.tuples(st.integers(5, 19), st.integers(0, 9)).map(lambda c: f"{c[0]}.{c[1]}")


@given(st.lists(capability), capability)
def test_covers(built_for, here):
    assert covers(built_for, here) == (here in built_for)
    assert covers([f"{one}+" for one in built_for], here) == any(
        as_numbers(here) >= as_numbers(one) for one in built_for if here not in tensorrt.JETSONS
    )
    assert not covers(("8.0+",), "8.7")
