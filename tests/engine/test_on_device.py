"""A frame's way on a simulated device: from the host or from where it lies there, to the logit."""

from __future__ import annotations

import contextlib
import gc
import threading

import msgspec
import numpy as np
import pytest
import simulated_gpu

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import (
    DeviceView,
    SeesViews,
    cuda,
    find_backend,
    load_engine,
    logits_of,
    native,
    ort,
    wide_of,
)
from mpft_deploy.engine.packer import Packer
from mpft_deploy.engine.selftest import explain_device
from mpft_deploy.engine.tensorrt import TENSORRT
from mpft_deploy.errors import EnvironmentLacksError, GateError, InputError, UsageError
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.fitness import FLAT, coarse_scores
from mpft_deploy.kernels import cuda as kernels
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.profile import profiler
from mpft_deploy.screen import Screener

RNG = np.random.default_rng(5)


@pytest.fixture(params=["cuda-python", "PyCUDA"])
def device(request, monkeypatch):
    """A simulated device with TensorRT, our kernels, and one of the two packages."""
    return simulated_gpu.install(monkeypatch, request.param, profile=(1, 1, 8))


@pytest.fixture(scope="module", params=["tensorrt", "native"])
def made(request, bundle, detector, tmp_path_factory):
    """A bundle bounded in texture, of either network that runs on a device; a plan of TensorRT is
    an ONNX file to the simulation."""
    if request.param == "native":
        bundle = tmp_path_factory.mktemp("native") / "bundle"
        export(Request(detector, bundle, backend="native", precision="narrow"))
    read = read_bundle(bundle)
    crop = msgspec.structs.replace(read.spec.crop, least_texture=300, least_side=16)
    spec = msgspec.structs.replace(read.spec, crop=crop)
    info = msgspec.structs.replace(read.info, spec=spec, backend=request.param)
    object.__setattr__(read, "info", info)
    return read


def load(made, **options):
    engine = find_backend(made.info.backend).load(made.engine, threads=0, **options)
    assert isinstance(engine, SeesViews)
    return engine


def screener(made, views="centre", batch=8):
    return Screener(made, load(made), views=views, batch=batch)


def host_engine(made):
    if made.info.backend == "native":
        return native.NativeEngine(native.read_packed(made.engine), 1)
    return ort.load(made.engine, threads=1)


def on_host(made, views="centre"):
    return Screener(made, host_engine(made), views=views, batch=8)


def same(judged, expected, made):
    """Verdicts, and logits; of the backend native in every bit."""
    for one, other in zip(judged, expected, strict=True):
        exact = made.info.backend == "native"
        assert one.logit == (other.logit if exact else pytest.approx(other.logit, abs=1e-5))
        assert (one.views, one.looked_at, one.reason) == (
            other.views,
            other.looked_at,
            other.reason,
        )


def frames(count, height=50, width=70):
    return [RNG.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("views", ["centre", "five"])
def test_cells_of_a_frame_on_the_host_go_there_and_the_logit_comes_back(device, made, views):
    """Followed for every batch size, queued and replayed. They were scored on the host, once."""
    judge = screener(made, views)
    count, (cells, area) = 5 if views == "five" else 1, (made.spec.tokens, made.spec.patch**2)
    for number in (1, 1, 1, 3, 3, 3, 1):
        shots = frames(number)
        expected = on_host(made, views).batch(shots)
        device.copies.clear()
        device.kernels.called.clear()
        same(judge.batch(shots), expected, made)
        total = count * number
        sizes = (("in", 3 * cells * area), ("in", 4 * cells), ("out", 4))
        parts = [8] * (total // 8) + [total % 8] * (total % 8 > 0)
        assert device.copies == [(kind, part * size) for part in parts for kind, size in sizes]
        assert "texture_patchify" not in device.kernels.called
    assert device.launched == 3 if device.python and views == "centre" else True


@pytest.mark.parametrize("pad", [0, 2])
def test_pixels_on_the_device_stay_there(device, made, pad):
    judge = screener(made, "five")
    cells, coarse = made.spec.cells, (made.spec.crop.size // 16) ** 2
    for number in (1, 1, 1, 2):
        shots = frames(number)
        there = [simulated_gpu.DeviceArray(device, shot, pad) for shot in shots]
        device.copies.clear()
        same(judge.batch(there), on_host(made, "five").batch(shots), made)
        kinds = {kind for kind, _ in device.copies}
        assert kinds == {"on", "out"}
        back = sum(size for kind, size in device.copies if kind == "out")
        assert back == 5 * number * 4 * (1 + cells + coarse)


def test_frames_of_both_kinds_share_a_batch(device, made):
    judge, shots = screener(made), frames(3)
    there = simulated_gpu.DeviceArray(device, shots[1])
    for _ in range(3):
        same(judge.batch([shots[0], there, shots[2]]), on_host(made).batch(shots), made)


def test_a_flat_frame_on_the_device_gets_no_verdict(device, made):
    shot = np.full((40, 60, 3), 90, np.uint8)
    found = screener(made)(simulated_gpu.DeviceArray(device, shot))
    assert (found.verdict, found.reason) == ("unsure", FLAT)
    assert found.logit == pytest.approx(on_host(made)(shot).logit, abs=1e-5)


def test_what_writes_a_frame_is_waited_for(device, made):
    """Its pixels are still queued on a stream of the caller's."""
    shot = frames(1)[0]
    stream = simulated_gpu.Stream()
    device.streams[int(stream)] = stream
    there = simulated_gpu.DeviceArray(device, np.zeros_like(shot), stream=int(stream))
    stream.add(lambda: there.rows.__setitem__(..., shot.reshape(len(shot), -1)))
    same([screener(made)(there)], [on_host(made)(shot)], made)


def test_an_engine_stays_on_its_device(device, made):
    """Another thread's current device is another; what the caller had is put back."""
    if not device.python:
        pytest.skip("PyCUDA has contexts, which the simulation counts")
    device.device = 1
    judge, shot = screener(made), simulated_gpu.DeviceArray(device, frames(1)[0])
    device.device, seen = 0, []
    run = device.kernels.mpft_texture_patchify_launch
    device.kernels.mpft_texture_patchify_launch = lambda *arguments: (
        seen.append(device.device),
        run(*arguments),
    )[1]
    worker = threading.Thread(target=lambda: judge(shot))
    worker.start()
    worker.join()
    assert (set(seen), device.device) == ({1}, 0)


@pytest.mark.parametrize(("spin", "flags"), [(True, 2), (False, 3)])
def test_a_thread_that_waits_sleeps_if_it_is_told_to(device, made, spin, flags):
    engine = load(made, spin=spin)
    assert {event.flags for event in device.events.values()} == {flags}
    assert engine is not None


def test_every_call_may_fail(device, made):
    """Whichever does, the error says so, the next frame gets its verdict, and nothing leaks."""
    there = simulated_gpu.DeviceArray(device, frames(1)[0])
    device.called.clear()
    judge = screener(made)
    loading = len(device.called)
    expected = judge(there)
    judge(there)
    judge(there)
    calls, judge = len(device.called), None
    for number in range(1, calls + 1):
        judge = None
        device.called.clear()
        device.failing, failed = number, []
        with failure(failed):
            judge = screener(made)
        for _ in range(3 if judge else 0):
            with failure(failed):
                same([judge(there)], [expected], made)
        device.failing = 0
        assert failed or number > loading  # what only a graph needed is done without
        if judge:
            same([judge(there), judge(there)], [expected] * 2, made)
    judge = None
    gc.collect()
    assert device.blocks.keys() == {there.address}
    assert not {**dict.fromkeys(device.graphs), **device.events}
    assert list(device.streams) == [0]
    assert not device.kernels.encoders


@contextlib.contextmanager
def failure(failed, words="cudaErrorLaunchFailure"):
    """Takes the error of a call that fails."""
    try:
        yield
    except EnvironmentLacksError as error:
        failed.append(str(error))
        assert words in failed[0]


def test_every_kernel_may_fail(device, made):
    there = simulated_gpu.DeviceArray(device, frames(1)[0])
    expected = screener(made)(there)
    calls = len(device.kernels.called)
    assert calls == (6 if made.info.backend == "native" else 3)
    for number in range(1, calls + 1):
        judge, found = None, []
        device.kernels.called.clear()
        device.kernels.failing = number
        with failure(found, "unspecified launch failure"):
            judge = screener(made)
            judge(there)
        assert found
        device.kernels.failing = 0
        judge = judge or screener(made)
        same([judge(there)], [expected], made)


@pytest.mark.parametrize(
    ("array", "views", "words"),
    [
        (np.zeros((40, 60, 3), np.int8), "centre", "uint8"),
        (np.zeros((40, 60, 4), np.uint8), "centre", r"\[40, 60, 4\]"),
        (np.zeros((20, 60, 3), np.uint8), "centre", "smaller than a view"),
        (np.zeros((40, 60, 3), np.uint8), "three", "copy the frame there, or choose views of"),
    ],
)
def test_frames_that_the_device_has_no_way_for(device, made, array, views, words):
    there = simulated_gpu.DeviceArray(device, np.zeros((40, 60, 3), np.uint8))
    interface = there.__cuda_array_interface__
    interface |= {"shape": array.shape, "typestr": array.dtype.str, "strides": array.strides}
    with pytest.raises(UsageError, match=words):
        screener(made, views)(there)


def test_engines_of_the_host_say_where_such_frames_go(device, made):
    there = simulated_gpu.DeviceArray(device, frames(1)[0])
    with pytest.raises(UsageError, match=r"copy it there, or export .* --backend tensorrt"):
        on_host(made)(there)


def test_without_our_kernels_it_takes_frames_of_the_host_alone(device, made, monkeypatch):
    monkeypatch.setattr(kernels, "why_not", lambda: "they are not built")
    if made.info.backend == "native":
        pytest.skip("it is one of them, so that the processor takes its place")
    judge, shots = Screener(made, TENSORRT.load(made.engine, threads=0), batch=8), frames(3)
    same(judge.batch(shots), Screener(made, host_engine(made), batch=8).batch(shots), made)
    with pytest.raises(UsageError, match="where the CUDA kernels are built"):
        judge(simulated_gpu.DeviceArray(device, shots[0]))


def test_views_that_do_not_fit(device, made):
    engine = load(made)
    with pytest.raises(InputError, match="takes views of uint8"):
        engine.run_views(made.spec, [np.zeros((31, 32, 3), np.uint8)])
    other = msgspec.structs.replace(made.spec, keep="textured:5")
    with pytest.raises(InputError, match="the spec packs"):
        engine.run_views(other, [np.zeros((32, 32, 3), np.uint8)])


@pytest.mark.parametrize(("patch", "most"), [(8, 519), (14, 909), (16, 1039), (32, 1039)])
def test_a_crop_of_more_cells_than_the_kernels_take(device, made, patch, most):
    def pack(size):
        crop = msgspec.structs.replace(made.spec.crop, size=size)
        spec = msgspec.structs.replace(made.spec, crop=crop, patch=patch, keep="textured:2")
        there = cuda.open_device(spin=True)
        with there.current():
            return Packer(there, spec, 1, 0, 0)

    pack(most // patch * patch)
    with pytest.raises(InputError, match=f"pixels a side.* take {most} at most"):
        pack((most // patch + 1) * patch)


def test_the_simulated_kernels_are_the_oracle(device, made):
    """What the tests above rest on: scores that came back are those of the host."""
    engine = load(made)
    views = np.stack([shot[:32, :32] for shot in frames(2)])
    there = [simulated_gpu.DeviceArray(device, view) for view in views]
    seen = engine.run_views(made.spec, [DeviceView(one.address, one.pitch) for one in there])
    assert np.array_equal(seen.coarse, coarse_scores(views))
    assert np.array_equal(seen.scores, oracle.texture_scores(views, made.spec.patch))


def only_native(made):
    if made.info.backend != "native":
        pytest.skip("of the backend native")


def test_batches_grow_and_both_networks_of_a_bundle_run_there(device, made):
    """More views than there was memory for at first: more is taken, graphs begin anew."""
    only_native(made)
    engine, views = load(made), [shot[:32, :32] for shot in frames(70)]
    expected = native.NativeEngine(native.read_packed(made.engine), 1)
    for count in (1, 1, 1, 9, 70, 3, 3, 3):
        cut = np.stack(views[:count])
        for one, other in ((engine, expected), (wide_of(engine), wide_of(expected))):
            due = logits_of(other, made.spec, cut)
            assert logits_of(one, made.spec, cut).tobytes() == due.tobytes()
    assert not np.array_equal(logits_of(engine, made.spec, cut), due), "narrow is not wide"


def test_a_gpu_shows_once_that_it_gives_the_same_bits(device, made, monkeypatch, tmp_path):
    only_native(made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "this device is" in explain_device(made)
    assert isinstance(load_engine(made), SeesViews)
    ran = len(device.kernels.called)
    load_engine(made)
    assert len(device.kernels.called) - ran == 2, "made and reserved for, but not run again"
    real = device.kernels.mpft_encoder_make

    def mutant(*arguments):
        status = real(*arguments)
        made_now = device.kernels.encoders[arguments[-1]._obj.value]
        run = made_now.logits
        made_now.logits = lambda *inputs: np.nextafter(run(*inputs), np.float32(np.inf))
        return status

    device.kernels.mpft_encoder_make = mutant
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "anew"))
    with pytest.raises(GateError, match="in every bit"):
        load_engine(made)


def test_it_is_profiled_as_what_runs_on_a_gpu(device, made, monkeypatch, tmp_path):
    """Whatever the backend: by one thread, with the GPU's own meter and clock."""
    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def measure_run(workload, plan, watch, **settings):
        asked.append((settings["threads"], watch.allowed))
        raise InputError("enough")

    monkeypatch.setattr(profiler, "measure_run", measure_run)
    monkeypatch.setattr(profiler, "find_meter", lambda *, gpu: (None, asked.append(gpu)))
    with pytest.raises(InputError, match="enough"):
        profiler.profile_bundle(profiler.Request(made))
    assert [asked[0], asked[1][0]] == [True, 1]


def test_a_person_chooses_by_one_variable(device, made, monkeypatch):
    only_native(made)
    assert isinstance(load(made), SeesViews)
    for name, found in (("numpy", False), ("cuda", True)):
        monkeypatch.setenv("MPFT_KERNEL", name)
        engine = native.load(made.engine, threads=1)
        assert isinstance(engine, SeesViews) == found
        assert ("gpu" in native.versions()) == found
    monkeypatch.setattr(kernels, "why_not", lambda oldest=0: "they are not built")
    with pytest.raises(EnvironmentLacksError, match="MPFT_KERNEL=cuda does not run here: they are"):
        native.load(made.engine, threads=1)
    monkeypatch.delenv("MPFT_KERNEL")
    assert not isinstance(native.load(made.engine, threads=1), SeesViews)
