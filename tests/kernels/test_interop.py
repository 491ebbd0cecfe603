"""Inputs from other libraries pass without copies; wrong ones are told what was expected."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mpft_deploy.errors import UsageError
from mpft_deploy.kernels import Patches, texture_patchify
from mpft_deploy.kernels.texture_patchify import oracle, registry
from mpft_deploy.kernels.texture_patchify.interop import as_numpy, in_rows
from mpft_deploy.spec import KeepRule

IMAGES = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), np.uint8)
KEEP = KeepRule.parse("textured:3")
EXPECTED = oracle.texture_patchify(IMAGES, 8, KEEP)
NATIVE = [
    one
    for one in registry.IMPLEMENTATIONS
    if one.device == "cpu" and one.name != "numpy" and one.why_not() is None
]


class ArrayInterface:
    """An array by `__array_interface__` alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self.keep_alive = array


class DLPack:
    """An array by DLPack alone, said to be on a device."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> object:
        return self.array.__dlpack__()


class CudaArray:
    """What CuPy, pycuda and torch offer for memory of a device."""

    def __init__(self) -> None:
        self.__cuda_array_interface__ = {"shape": (1, 32, 32, 3), "typestr": "|u1"}


def check(images: Any, address: int) -> None:
    """The pixels at `address` are read there, and the result is right."""
    array = as_numpy(images)
    assert array.ctypes.data == address
    assert in_rows(array) is array
    for found, expected in zip(texture_patchify(images, 8, KEEP), EXPECTED, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_numpy_and_the_protocols() -> None:
    address = IMAGES.ctypes.data
    check(IMAGES, address)
    check(memoryview(IMAGES), address)
    check(ArrayInterface(IMAGES), address)
    check(DLPack(IMAGES), address)


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(IMAGES.copy())
    check(tensor, tensor.data_ptr())
    larger = torch.zeros(2, 40, 50, 3, dtype=torch.uint8)
    view = larger[:, 3:35, 10:42]
    view.copy_(tensor)
    check(view, view.data_ptr())
    with pytest.raises(UsageError, match="float32"):
        texture_patchify(tensor.float(), 8, KEEP)


def test_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    frame = cv2.copyMakeBorder(IMAGES[0], 4, 4, 4, 4, cv2.BORDER_REFLECT)
    crop = frame[4:36, 4:36]
    assert in_rows(crop[None]).ctypes.data == crop.ctypes.data
    found = texture_patchify(crop[None], 8, KEEP)
    np.testing.assert_array_equal(found.patches, EXPECTED.patches[:1])
    # OpenCV's order of channels, reversed by a view: the one documented copy.
    bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    found = texture_patchify(bgr[None, :, :, ::-1], 8, KEEP)
    np.testing.assert_array_equal(found.patches, EXPECTED.patches[:1])


def test_pyav() -> None:
    av = pytest.importorskip("av")
    array = av.VideoFrame.from_ndarray(IMAGES[0], format="rgb24").to_ndarray(format="rgb24")
    assert in_rows(array[None]).ctypes.data == array.ctypes.data
    found = texture_patchify(array[None], 8, KEEP)
    np.testing.assert_array_equal(found.patches, EXPECTED.patches[:1])


@pytest.mark.parametrize("images", [CudaArray(), DLPack(IMAGES, (2, 0)), DLPack(IMAGES, (13, 0))])
def test_an_array_on_a_cuda_device(images: Any) -> None:
    with pytest.raises(UsageError, match=r"must be in host memory.*on a CUDA device; copy"):
        texture_patchify(images, 8, KEEP)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"\[B, S, S, 3\].* got uint8 \[32, 32, 3\]; add a batch axis"),
        (IMAGES.astype(np.float32), r"uint8.* got float32 \[2, 32, 32, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), r"got uint8 \[2, 3, 32, 32\]; move the channels last"),
        (IMAGES[:, :24], r"got uint8 \[2, 24, 32, 3\]; cut square views"),
        (IMAGES[:, :30, :30], r"S a multiple of 8, got uint8 \[2, 30, 30, 3\]"),
        (IMAGES[:, :0, :0], r"got uint8 \[2, 0, 0, 3\]"),
        (IMAGES.tolist(), "got list"),
        (None, "got NoneType"),
        (b"bytes", r"got uint8 \[5\]"),
        (DLPack(IMAGES, (7, 0)), "DLPack type 7; copy them to host memory"),
    ],
)
def test_wrong_images(images: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        texture_patchify(images, 8, KEEP)


@pytest.mark.parametrize("patch", [3, 65, 0, -8])
def test_wrong_patch(patch: int) -> None:
    with pytest.raises(UsageError, match=f"patch must be 4 to 64 pixels, got {patch}"):
        texture_patchify(IMAGES, patch, KEEP)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("patches", EXPECTED.patches[:1], r"uint8 \[2, 3, 192\], got numpy.ndarray uint8 \[1,"),
        ("patches", EXPECTED.patches.astype(np.int8), "got numpy.ndarray int8"),
        ("positions", EXPECTED.positions.astype(np.int64), "int32 .* got numpy.ndarray int64"),
        ("positions", np.asfortranarray(EXPECTED.positions), "not C-contiguous"),
        ("scores", read_only(EXPECTED.scores), "read-only"),
        ("scores", np.zeros(129, np.uint8)[1:].view(np.int32).reshape(2, 16), "not aligned"),
        ("scores", EXPECTED.scores.tolist(), "got list"),
    ],
)
@pytest.mark.parametrize("one", [*NATIVE, registry.find("numpy")], ids=lambda one: one.name)
def test_wrong_outputs(one: registry.Implementation, field: str, value: Any, message: str) -> None:
    out = EXPECTED._replace(**{field: value})
    with pytest.raises(UsageError, match=f"out.{field} must be .*{message}"):
        one.run(IMAGES, 8, KEEP, 0, out)


def test_outputs_that_overlap_the_images() -> None:
    memory = np.zeros(2 * 32 * 32 * 3, np.uint8)
    out = EXPECTED._replace(patches=memory[: 2 * 3 * 192].reshape(2, 3, 192))
    with pytest.raises(UsageError, match=r"out.patches overlaps the images"):
        texture_patchify(memory.reshape(2, 32, 32, 3), 8, KEEP, out=out)


def test_native_module_refuses_arrays_that_do_not_fit() -> None:
    """Its own checks keep memory safe even from callers that go past the registry."""
    native = pytest.importorskip("mpft_deploy.kernels.texture_patchify._native")
    good = ("scalar", IMAGES, 8, "textured", 0, *(array.copy() for array in EXPECTED))
    native.run(*good)
    for index, value, error in (
        (0, "sse9", KeyError),
        (1, IMAGES[:, :, ::-1], ValueError),
        (1, IMAGES[:, :24, :24], ValueError),
        (1, IMAGES.astype(np.int8), TypeError),
        (2, 16, ValueError),
        (2, 0, ValueError),
        (3, "all", ValueError),
        (3, "rough", ValueError),
        (4, -1, TypeError),
        (5, good[5][:, :, :-1].copy(), ValueError),
        (6, good[6][:1], ValueError),
        (7, good[7][:, :-1].copy(), ValueError),
        (7, good[7].astype(np.int64), TypeError),
    ):
        with pytest.raises(error):
            native.run(*good[:index], value, *good[index + 1 :])


def test_the_gil_is_released() -> None:
    """While one thread is in a long call, another goes on running Python."""
    one = registry.find("scalar")
    images = np.broadcast_to(np.zeros((224, 224, 3), np.uint8), (6000, 224, 224, 3))
    keep = KeepRule.parse("smooth:1")
    span: list[float] = []

    def work() -> None:
        span.append(time.perf_counter())
        one.run(images, 16, keep, 0, None)
        span.append(time.perf_counter())

    worker = threading.Thread(target=work)
    worker.start()
    seen = []
    while worker.is_alive():
        seen.append(time.perf_counter())
        time.sleep(0.001)
    worker.join()
    start, end = span
    quarter = (end - start) / 4
    assert any(start + quarter < moment < end - quarter for moment in seen)


@pytest.mark.parametrize("one", NATIVE, ids=lambda one: one.name)
def test_threads_do_not_disturb_each_other(one: registry.Implementation) -> None:
    """Sizes differ, so the scratch of each thread grows and is used again."""
    rng = np.random.default_rng(4)
    jobs = []
    for grid in (1, 3, 9, 20, 2, 14):
        images = rng.integers(0, 256, (2, 8 * grid, 8 * grid, 3), np.uint8)
        keep = KeepRule("random", max(1, grid * grid // 2))
        jobs.append((images, 8, keep, grid))
    expected = [oracle.texture_patchify(*job) for job in jobs]

    def repeat(first: int) -> None:
        for turn in range(100):
            number = (first + turn) % len(jobs)
            found = one.run(*jobs[number], None)
            assert all(map(np.array_equal, found, expected[number]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(repeat, range(8)))


def test_result_outlives_its_images() -> None:
    images = IMAGES.copy()
    before = sys.getrefcount(images)
    found: Patches = texture_patchify(images, 8, KEEP)
    assert sys.getrefcount(images) == before
    del images
    np.testing.assert_array_equal(found.patches, EXPECTED.patches)
