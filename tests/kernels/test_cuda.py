"""The CUDA kernels: run on the host against the oracle, compiled for every GPU, loaded, refused."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels.texture_patchify import cuda, oracle, texture_patchify
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels" / "texture_patchify"
GUARD = 64  # bytes before and after each output that must stay as they were
FILL = 0xCD

Library = ctypes.CDLL


def build_host_library(folder: Path, kernels: Path = KERNELS) -> Library:
    """The device code of `kernels`, compiled for the host with the simulator of the tests."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    library = folder / "host.so"
    command = [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wno-unknown-pragmas", "-fPIC", "-shared", f"-I{kernels / 'cuda'}"]
    source = ROOT / "tests" / "kernels" / "cuda_on_host.cpp"
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.run_on_host.argtypes = (
        ctypes.POINTER(cuda.Arguments),
        ctypes.c_int,
        ctypes.c_bool,
    )
    loaded.message.restype = ctypes.c_char_p
    return loaded


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_host_library(tmp_path_factory.mktemp("cuda_on_host"))


@dataclass
class Call:
    """A call on host memory: frames anywhere in a buffer, outputs between guards."""

    frames: np.ndarray[Any, Any]
    arguments: cuda.Arguments
    buffers: tuple[np.ndarray[Any, Any], ...]
    outputs: Patches

    @classmethod
    def make(
        cls,
        frames: np.ndarray[Any, Any],
        patch: int,
        keep: KeepRule,
        *,
        seed: int = 0,
        schedule: cuda.Schedule = "auto",
        patches_offset: int = 0,
        patches_dtype: str = "u1",
    ) -> Call:
        batch, size = frames.shape[:2]
        cells = (size // patch) ** 2
        count = keep.resolve(cells)
        shapes = ((batch, count, 3 * patch * patch), (batch, count), (batch, cells))
        dtypes = (np.dtype(patches_dtype), np.dtype(np.int32), np.dtype(np.int32))
        buffers, outputs = [], []
        for shape, dtype, offset in zip(shapes, dtypes, (patches_offset, 0, 0), strict=True):
            size_bytes = int(np.prod(shape)) * dtype.itemsize
            buffer = np.full(2 * GUARD + offset + size_bytes, FILL, np.uint8)
            start = GUARD + offset
            outputs.append(buffer[start : start + size_bytes].view(dtype).reshape(shape))
            buffers.append(buffer)
        result = Patches(*outputs)
        arguments = cuda.prepare(
            *(where(array) for array in (frames, *result)),
            patch=patch,
            keep=keep,
            seed=seed,
            schedule=schedule,
        )
        return cls(frames, arguments, tuple(buffers), result)

    def guards_hold(self) -> bool:
        """Whether nothing was written outside the outputs."""
        return all(
            (buffer[: array.ctypes.data - buffer.ctypes.data] == FILL).all()
            and (buffer[array.ctypes.data - buffer.ctypes.data + array.nbytes :] == FILL).all()
            for buffer, array in zip(self.buffers, self.outputs, strict=True)
        )


def where(array: np.ndarray[Any, Any]) -> cuda.DeviceArray:
    return cuda.DeviceArray(array.ctypes.data, array.shape, array.dtype.str[1:], array.strides)


def place(
    images: np.ndarray[Any, Any], *, offset: int, row_pad: int, frame_pad: int
) -> np.ndarray[Any, Any]:
    """A copy of the images with padded rows and frames, `offset` bytes into its buffer."""
    batch, size = images.shape[:2]
    pitch = 3 * size + row_pad
    stride = pitch * size + frame_pad
    # The padding is noise: whoever reads it as pixels gives itself away.
    raw = np.random.default_rng(1).integers(0, 256, 16 + offset + batch * stride, dtype=np.uint8)
    start = -raw.ctypes.data % 16 + offset
    view = np.lib.stride_tricks.as_strided(raw[start:], images.shape, (stride, pitch, 3, 1))
    view[...] = images
    return view


def run_host(
    library: Library, call: Call, *, multiprocessors: int = 4, descending: bool = False
) -> int:
    status: int = library.run_on_host(ctypes.byref(call.arguments), multiprocessors, descending)
    return status


def succeeds_in_child(action: Callable[[], bool]) -> bool:
    """Run in a child process, which a faulty kernel may end, whether the answer is True."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        os._exit(0 if action() else 1)
    return os.waitpid(child, 0)[1] == 0


def equals_oracle(call: Call, patch: int, keep: KeepRule, seed: int = 0) -> bool:
    expected = oracle.texture_patchify(call.frames, patch, keep, seed)
    return call.guards_hold() and all(
        np.array_equal(got, want) for got, want in zip(call.outputs, expected, strict=True)
    )


def pictures(batch: int, size: int, kind: str, seed: int) -> np.ndarray[Any, Any]:
    """u8 [B, S, S, 3]: noise, few levels (many equal scores), one colour, or the two extremes."""
    noise = np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    if kind == "few":
        return noise // 240 * 240
    if kind == "flat":
        return np.zeros_like(noise)
    return noise // 128 * 255 if kind == "extreme" else noise


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    patch = draw(st.one_of(st.sampled_from([14, 16]), st.integers(4, 64)))
    grid = draw(st.integers(1, max(1, 112 // patch)))
    kind = draw(st.sampled_from(["smooth", "textured", "random", "all"]))
    count = None if kind == "all" else draw(st.integers(1, grid * grid))
    return {
        "patch": patch,
        "keep": KeepRule(kind, count),  # type: ignore[arg-type]
        "images": pictures(
            draw(st.integers(1, 3)),
            patch * grid,
            draw(st.sampled_from(["noise", "few", "flat", "extreme"])),
            draw(st.integers(0, 99)),
        ),
        "offset": draw(st.sampled_from([0, 0, 1, 2, 4, 8])),
        "row_pad": draw(st.sampled_from([0, 0, 1, 2, 4, 16])),
        "frame_pad": draw(st.sampled_from([0, 0, 1, 2, 4, 16])),
        "patches_offset": draw(st.sampled_from([0, 0, 1, 4])),
        "patches_dtype": draw(st.sampled_from(["u1", "u1", "f2", "f4"])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "schedule": draw(st.sampled_from(["auto", "bands", "frames"])),
        "multiprocessors": draw(st.sampled_from([1, 8, 132])),
        "descending": draw(st.booleans()),
    }


@settings(max_examples=200, deadline=None)
@given(case=calls())
def test_device_code_equals_the_oracle(host: Library, case: dict[str, Any]) -> None:
    frames = place(
        case["images"],
        offset=case["offset"],
        row_pad=case["row_pad"],
        frame_pad=case["frame_pad"],
    )
    call = Call.make(
        frames,
        case["patch"],
        case["keep"],
        seed=case["seed"],
        schedule=case["schedule"],
        # Floats must be aligned; bytes may lie anywhere.
        patches_offset=case["patches_offset"] if case["patches_dtype"] == "u1" else 0,
        patches_dtype=case["patches_dtype"],
    )
    status = run_host(
        host, call, multiprocessors=case["multiprocessors"], descending=case["descending"]
    )
    assert status == 0
    assert equals_oracle(call, case["patch"], case["keep"], case["seed"])


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("count", [63, 95, 96, 127, 191])
@pytest.mark.parametrize("schedule", ["bands", "frames"])
def test_fast_paths_equal_the_oracle(
    host: Library, patch: int, count: int, schedule: cuda.Schedule
) -> None:
    keep = KeepRule("textured", count)
    call = Call.make(pictures(2, 224, "few", 3), patch, keep, schedule=schedule)
    assert run_host(host, call) == 0
    assert equals_oracle(call, patch, keep)


@pytest.mark.parametrize("rule", ["smooth:4000", "random:60", "textured:1", "all"])
def test_more_cells_than_shared_memory_holds(host: Library, rule: str) -> None:
    keep = KeepRule.parse(rule)
    frames = pictures(1, 4 * 66, "few", 5)  # 4,356 cells, above the 4,096 that are cached
    call = Call.make(frames, 4, keep)
    assert run_host(host, call, multiprocessors=2) == 0
    assert equals_oracle(call, 4, keep)


def test_the_largest_grid(host: Library) -> None:
    keep = KeepRule("smooth", 5)
    call = Call.make(pictures(1, 1024, "few", 6), 4, keep)
    assert run_host(host, call) == 0
    assert equals_oracle(call, 4, keep)


@pytest.mark.parametrize(
    ("size", "patch", "row_pad"), [(32, 16, 0), (28, 14, 0), (15, 5, 0), (21, 7, 1), (24, 6, 2)]
)
def test_no_byte_outside_the_frames_is_read(
    host: Library, size: int, patch: int, row_pad: int
) -> None:
    """The frames end, and in a second run begin, where memory that cannot be read begins."""
    page = os.sysconf("SC_PAGE_SIZE")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    pitch = 3 * size + row_pad
    used = pitch * (size - 1) + 3 * size
    pages = -(-used // page)
    base = libc.mmap(None, (pages + 2) * page, 3, 0x22, -1, 0)  # private, anonymous
    assert base not in (None, ctypes.c_void_p(-1).value)
    assert libc.mprotect(base, page, 0) == libc.mprotect(base + (pages + 1) * page, page, 0) == 0
    keep = KeepRule("textured", 1)
    reference = Call.make(pictures(1, size, "noise", 1), patch, keep)
    for start in (base + page, base + (pages + 1) * page - used):
        arguments = reference.arguments
        arguments.frames, arguments.row_pitch, arguments.batch_stride = start, pitch, pitch * size
        for schedule in (1, 2):
            arguments.schedule = schedule
            assert succeeds_in_child(lambda: run_host(host, reference) == 0)


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
        (_set(schedule=3), 9, "schedule"),
        (_set(patch_type=3), 11, "patch_type"),
        (_set(size=4 * 257, row_pitch=2**13, batch_stride=2**24), 10, "65536"),
        (_set(size=4 * 65, row_pitch=780, batch_stride=2**18, schedule=2), 10, "4096"),
        (_set(batch=2**31 - 1), 10, "2^31"),
    ],
)
def test_bad_arguments_have_a_status_with_a_message(
    host: Library, change: Callable[[cuda.Arguments], None], status: int, words: str
) -> None:
    call = Call.make(pictures(1, 32, "noise", 0), 4, KeepRule("smooth", 5))
    change(call.arguments)
    assert run_host(host, call) == status
    assert words in host.message(status).decode()
    assert (call.buffers[0] == FILL).all()


def test_misaligned_outputs_have_a_status(host: Library) -> None:
    call = Call.make(pictures(1, 32, "noise", 0), 4, KeepRule("smooth", 5))
    call.arguments.scores += 2
    assert run_host(host, call) == 8
    call.arguments.scores -= 2
    call.arguments.patches, call.arguments.patch_type = call.arguments.patches + 1, 1
    assert run_host(host, call) == 8
    assert "aligned" in host.message(8).decode()


def test_an_empty_batch_does_nothing(host: Library) -> None:
    call = Call.make(np.zeros((0, 32, 32, 3), np.uint8), 16, KeepRule("all"))
    assert run_host(host, call) == 0


MUTATIONS = {
    "nothing is changed": ("cuda/kernels.cuh", "#pragma once", "#pragma once"),
    "a direction is dropped": (
        "cuda/kernels.cuh",
        "direction < kPairs;",
        "direction < kPairs - 1;",
    ),
    "ties go to the higher index": ("rule.hpp", "<< 32 | cell", "<< 32 | (0xFFFFu - cell)"),
    "pairs reach into the next cell": (
        "cuda/kernels.cuh",
        "byte_mask(left - kChannels)",
        "byte_mask(left)",
    ),
    "one cell too few": (
        "cuda/kernels.cuh",
        "key_of(cell) <= threshold",
        "key_of(cell) < threshold",
    ),
    "a barrier is missing": (
        "cuda/kernels.cuh",
        "    __syncthreads();\n    int digit = 0;",
        "    int digit = 0;",
    ),
    "the pitch is ignored": (
        "cuda/kernels.cuh",
        "row_bytes * problem.row_pitch",
        "row_bytes * (3ull * problem.grid * patch)",
    ),
    "totals share one buffer": ("cuda/kernels.cuh", "warp_totals[tile % 2]", "warp_totals[0]"),
    "the digest is not cleared": (
        "cuda/kernels.cuh",
        "scratch.digest = 0;",
        "scratch.digest += 0;",
    ),
    "the last band is left out": (
        "cuda/dispatch.cuh",
        "plan.batch * problem.grid,",
        "plan.batch * problem.grid - 1,",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_finds_a_fault(name: str, tmp_path: Path) -> None:
    file, old, new = MUTATIONS[name]
    copy = tmp_path / "texture_patchify"
    shutil.copytree(KERNELS / "cuda", copy / "cuda")
    shutil.copy(KERNELS / "rule.hpp", copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    library = build_host_library(tmp_path, copy)
    keep_rules = [KeepRule.parse(rule) for rule in ("smooth:9", "random:40")]
    schedules: tuple[cuda.Schedule, ...] = ("bands", "frames")

    def all_equal() -> bool:
        for schedule, keep, descending in itertools.product(schedules, keep_rules, (False, True)):
            frames = place(pictures(2, 28 * 4, "few", 2), offset=0, row_pad=4, frame_pad=0)
            call = Call.make(frames, 4, keep, seed=1, schedule=schedule)
            if run_host(library, call, descending=descending) or not equals_oracle(
                call, 4, keep, 1
            ):
                return False
        return True

    assert succeeds_in_child(all_equal) == (old == new)


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


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnot_built.so")
    cuda._library.cache_clear()
    try:
        assert "install mpft-deploy from source on a machine with nvcc" in (cuda.why_not() or "")
    finally:
        cuda._library.cache_clear()


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")


@needs_nvcc
def test_every_architecture_compiles_without_spills(
    gpu_resources: Callable[[str], list[dict[str, Any]]],
) -> None:
    rows = gpu_resources("cuda")
    assert {row["architecture"] for row in rows} == {
        "sm_80", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120",
    }  # fmt: skip
    assert {row["kernel"] for row in rows} == {"score_bands", "select_and_pack", "patchify_frames"}
    for row in rows:
        assert row["spill_bytes"] == 0, row
        # Two blocks of 512 threads and more fit a multiprocessor's 65,536 registers.
        assert row["registers"] <= 48, row


@needs_nvcc
def test_the_library_loads_without_a_driver_and_says_so() -> None:
    """Where it was built, the library itself answers; its absence is a failure here."""
    reason = cuda.why_not()
    if reason is None:
        pytest.skip("there is a CUDA device here")
    assert "not built" not in reason
    assert "Install the NVIDIA driver" in reason
    call = Call.make(pictures(1, 32, "noise", 0), 16, KeepRule("all"))
    library = cuda._library()
    arguments = call.arguments
    assert library.mpft_texture_patchify_launch(ctypes.byref(arguments), None) >= 1000
    arguments.patch = 3  # arguments are judged before the driver is asked
    assert library.mpft_texture_patchify_launch(ctypes.byref(arguments), None) == 3
    frames = OnDevice(pictures(1, 32, "noise", 0), "cuda")
    out = Patches(*(OnDevice(array, "cuda") for array in call.outputs))  # type: ignore[arg-type]
    with pytest.raises(EnvironmentLacksError, match="texture_patchify on CUDA"):
        cuda.run(frames, 16, KeepRule("all"), 0, out)


def test_the_gpu_suite_without_a_gpu_says_so() -> None:
    if cuda.why_not() is None:
        pytest.skip("there is a CUDA device here")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 3
    assert run.stderr == f"gpu-suite: {cuda.why_not()}\n"


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ["smooth:63", "textured:95", "random:20", "all"])
def test_on_a_device_equals_the_oracle(rule: str) -> None:
    if reason := cuda.why_not():
        pytest.skip(reason)
    torch = pytest.importorskip("torch")
    keep = KeepRule.parse(rule)
    images = pictures(3, 224, "few", 4)
    got = texture_patchify(torch.from_numpy(images).cuda(), 14, keep, 9)
    want = oracle.texture_patchify(images, 14, keep, 9)
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(a.cpu().numpy(), b)  # type: ignore[attr-defined]
