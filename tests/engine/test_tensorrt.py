"""The TensorRT engine on a simulated device, and what is said where there is none."""

from __future__ import annotations

import contextlib
import logging
import sys

import numpy as np
import pytest
import reference
import simulated_gpu
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import cuda as device_cuda
from mpft_deploy.engine import find_backend, get_backend, load_engine, on_device, ort, tensorrt
from mpft_deploy.engine.tensorrt import RTX, TENSORRT, as_numbers, covers
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.export.builders import BuildOptions, get_builder
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.extras import how_to_install
from mpft_deploy.kernels import texture_patchify


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


def test_the_drivers_own_version_is_part_of_the_device(device, tmp_path, monkeypatch):
    device()
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023"
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(device_cuda, "KERNEL_MODULE", tmp_path / "version")
    assert device_cuda.versions()["nvidia-driver"] == "535.104.05"
    monkeypatch.setattr(device_cuda, "KERNEL_MODULE", tmp_path / "absent")
    assert "nvidia-driver" not in device_cuda.versions()


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
    for kind in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name in vars(getattr(simulated, kind)):
            assert hasattr(getattr(runtime, kind), name), name
    for name in ("name", "major", "minor"):
        assert hasattr(runtime.cudaDeviceProp, name), name
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
