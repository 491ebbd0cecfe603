"""The CUDA library: statuses, arrays of other libraries, loading, resources, a device."""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_calls import FILL, KERNELS, Call, Library, pictures, run_host, where

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels import cuda as cuda_library
from mpft_deploy.kernels.texture_patchify import cuda, oracle, texture_patchify
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule


def _set(**fields: Any) -> Callable[[cuda.Arguments], None]:
    def change(arguments: cuda.Arguments) -> None:
        for name, value in fields.items():
            setattr(arguments, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (_set(frames=None), 1, "pointer is null"),
        (_set(batch=-1), 2, "batch is negative"),
        (_set(patch=3), 3, "4 to 64"),
        (_set(patch=65), 3, "4 to 64"),
        (_set(size=31), 4, "multiple of patch"),
        (_set(size=0), 4, "multiple of patch"),
        (_set(count=0), 5, "count must be"),
        (_set(count=65), 5, "count must be"),
        (_set(keep=3), 5, "all of them"),
        (_set(keep=4), 6, "keep must be"),
        (_set(row_pitch=95), 7, "row_pitch"),
        (_set(batch_stride=96 * 31 + 95), 7, "batch_stride"),
        (_set(size=4 * 257, row_pitch=2**13, batch_stride=2**24), 9, "65536"),
        (_set(batch=2**31 - 1), 9, "2^31"),
    ],
)
def test_bad_arguments_have_a_status_with_a_message(
    host: Library, change: Callable[[cuda.Arguments], None], status: int, words: str
) -> None:
    call = Call.make(pictures(1, 32, "noise", 0), 4, KeepRule("smooth", 5))
    change(call.arguments)
    assert run_host(host, call) == status
    assert words in host.mpft_message(status).decode()
    assert (call.buffers[0] == FILL).all()


def test_misaligned_outputs_have_a_status(host: Library) -> None:
    call = Call.make(pictures(1, 32, "noise", 0), 4, KeepRule("smooth", 5))
    call.arguments.scores += 2
    assert run_host(host, call) == 8
    assert "aligned" in host.mpft_message(8).decode()


def test_an_empty_batch_does_nothing(host: Library) -> None:
    call = Call.make(np.zeros((0, 32, 32, 3), np.uint8), 16, KeepRule("all"))
    assert run_host(host, call) == 0


def test_arguments_match_the_header() -> None:
    """The ctypes structure lists the C structure's fields, in order and of the same size."""
    header = (KERNELS / "cuda" / "texture_patchify.h").read_text()
    struct = header.partition("typedef struct mpft_texture_patchify_args {")[2].partition("}")[0]
    fields = re.findall(r"^\s+(?:const )?(\w+)(\*?) (\w+);", struct, re.MULTILINE)
    sizes = {"uint64_t": 8, "int32_t": 4}  # pointers: 8
    in_header = [(name, 8 if star else sizes[kind]) for kind, star, name in fields]
    in_python = [(name, ctypes.sizeof(kind)) for name, kind in cuda.Arguments._fields_]
    assert in_header == in_python


class OnDevice:
    """An array in host memory that says it is on a device, through either protocol."""

    def __init__(self, array: np.ndarray[Any, Any], protocol: str) -> None:
        self.array = array
        self.shape = array.shape
        if protocol == "cuda":
            self.__cuda_array_interface__ = dict(array.__array_interface__, version=3)
        else:
            self.__dlpack__ = lambda stream: array.__dlpack__()
            self.__dlpack_device__ = lambda: (2, 0)


@pytest.mark.parametrize("protocol", ["cuda", "dlpack"])
@pytest.mark.parametrize("step", [1, 2])
def test_arrays_of_other_libraries_are_read_in_place(protocol: str, step: int) -> None:
    array = np.zeros((4, 6, 5, 3), np.uint8)[:, ::step]
    assert cuda.device_array("frames", OnDevice(array, protocol)) == where(array)
    words = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert cuda.device_array("scores", OnDevice(words, protocol)) == where(words)


def test_arrays_in_host_memory_are_refused() -> None:
    with pytest.raises(UsageError, match=r"frames must be an array on a CUDA device.*got ndarray"):
        cuda.device_array("frames", np.zeros(3))


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((1, 32, 32, 3), np.int8), "frames must be uint8"),
        (np.zeros((1, 32, 48, 3), np.uint8), "frames must be uint8"),
        (np.zeros((1, 3, 32, 32), np.uint8).transpose(0, 2, 3, 1), "row adjacent"),
        (np.zeros((1, 30, 30, 3), np.uint8), "divide the side"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames: np.ndarray[Any, Any], words: str) -> None:
    array: Any = OnDevice(frames, "cuda")
    with pytest.raises(UsageError, match=words):
        cuda.run(array, 16, KeepRule("smooth", 1), 0, Patches(array, array, array))


def test_outputs_that_do_not_fit_are_refused() -> None:
    frames = OnDevice(np.zeros((1, 32, 32, 3), np.uint8), "cuda")
    keep = KeepRule("smooth", 2)
    wrong = OnDevice(np.zeros((1, 2, 768), np.int8), "cuda")
    with pytest.raises(UsageError, match=r"patches must be contiguous u1 \[1, 2, 768\], got i1"):
        cuda.run(frames, 16, keep, 0, Patches(wrong, wrong, wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"cannot allocate .* arrays: pass out="):
        cuda.run(frames, 16, keep, 0, None)


def test_outputs_are_allocated_by_the_library_of_the_images() -> None:
    torch = pytest.importorskip("torch")
    images = torch.zeros((2, 32, 32, 3), dtype=torch.uint8)  # on the CPU: allocation is alike
    want = oracle.texture_patchify(images.numpy(), 16, KeepRule("smooth", 3))
    got: Any = cuda._allocate("torch", images, 16, KeepRule("smooth", 3))
    for a, b in zip(got, want, strict=True):
        assert (tuple(a.shape), a.numpy().dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize(
    ("frames", "copied"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), False),
        (np.zeros((2, 9, 11, 3), np.uint8)[:, 1:, 2:10], False),
        (np.zeros((1, 8, 8, 3), np.uint8), False),
        (np.zeros((2, 3, 8, 8), np.uint8).transpose(0, 2, 3, 1), True),
        (np.zeros((2, 8, 8, 3), np.uint8)[:, ::-1], True),
        (np.broadcast_to(np.zeros((1, 8, 8, 3), np.uint8), (2, 8, 8, 3)), True),
    ],
)
def test_only_other_layouts_are_copied(frames: np.ndarray[Any, Any], copied: bool) -> None:
    class Tensor(OnDevice):
        def contiguous(self) -> Tensor:
            return Tensor(np.ascontiguousarray(self.array), "cuda")

    tensor = Tensor(frames, "cuda")
    result = cuda._in_rows("torch", tensor)
    assert (result is not tensor) == copied
    assert result.array.flags.c_contiguous or not copied


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_library, "LIBRARY", "libnot_built.so")
    cuda_library.load_library.cache_clear()
    try:
        reason = cuda_library.why_not() or ""
        assert "install mpft-deploy from source on a machine with nvcc" in reason
    finally:
        cuda_library.load_library.cache_clear()


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")


@needs_nvcc
def test_oldest_and_newest_compile_without_spills(
    gpu_resources: Callable[..., list[dict[str, Any]]],
) -> None:
    """The six of cuda_resources.py take a minute and more."""
    rows = gpu_resources(80, 120)
    assert {row["architecture"] for row in rows} == {"sm_80", "sm_120"}
    assert {row["kernel"] for row in rows} == {"score_bands", "select_and_pack", "mean_pixels"}
    for row in rows:
        assert row["spill_bytes"] == 0, row
        # 1,024 threads and more fit a multiprocessor's 65,536 registers.
        assert row["registers"] <= 64, row


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """Compiled here, as installations have it where a GPU is, but without the encoder."""
    source = Path(cuda.__file__).parent / "cuda" / "launch.cu"
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-shared", "-Xcompiler", "-fPIC", str(source)]
    subprocess.run([*command, "-o", str(tmp_path / cuda_library.LIBRARY)], check=True)
    package = importlib.import_module(cuda_library.__name__.rpartition(".")[0])
    monkeypatch.setattr(package, "__path__", [str(tmp_path), *package.__path__])
    cuda_library.load_library.cache_clear()
    yield cuda_library.load_library()
    cuda_library.load_library.cache_clear()


@needs_nvcc
def test_the_library_loads_without_a_driver_and_says_so(library: ctypes.CDLL) -> None:
    reason = cuda_library.why_not()
    if reason is None:
        pytest.skip("there is a CUDA device here")
    assert "Install the NVIDIA driver" in reason
    call = Call.make(pictures(1, 32, "noise", 0), 16, KeepRule("all"))
    arguments = call.arguments
    assert library.mpft_texture_patchify_launch(ctypes.byref(arguments), None) >= 1000
    arguments.patch = 3  # arguments are judged before the driver is asked
    assert library.mpft_texture_patchify_launch(ctypes.byref(arguments), None) == 3
    frames = OnDevice(pictures(1, 32, "noise", 0), "cuda")
    out = Patches(*(OnDevice(array, "cuda") for array in call.outputs))  # type: ignore[arg-type]
    with pytest.raises(EnvironmentLacksError, match="texture_patchify on CUDA"):
        cuda.run(frames, 16, KeepRule("all"), 0, out)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ["smooth:63", "textured:95", "random:20", "all"])
def test_on_a_device_equals_the_oracle(rule: str) -> None:
    if reason := cuda_library.why_not():
        pytest.skip(reason)
    torch = pytest.importorskip("torch")
    keep = KeepRule.parse(rule)
    images = pictures(3, 224, "few", 4)
    got = texture_patchify(torch.from_numpy(images).cuda(), 14, keep, 9)
    want = oracle.texture_patchify(images, 14, keep, 9)
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(a.cpu().numpy(), b)  # type: ignore[attr-defined]
