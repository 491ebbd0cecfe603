"""Calls of the CUDA device code on the host: building it, placing arrays, comparing."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpft_deploy.kernels import cuda as cuda_library
from mpft_deploy.kernels.texture_patchify import cuda, oracle
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels" / "texture_patchify"
TEXTURE, ENCODER = "texture_patchify/cuda/launch.cu", "encoder/cuda/encoder.cu"
GUARD = 64  # bytes before and after each output that must stay as they were
FILL = 0xCD


class Simulated(ctypes.Structure):
    """Of cuda_on_host/cuda_runtime.h, field by field."""

    _fields_ = (
        ("multiprocessors", ctypes.c_int),
        ("descending", ctypes.c_bool),
        ("until_failure", ctypes.c_int),
        ("launches", ctypes.c_int),
        ("others", ctypes.c_int),
        ("blocks", ctypes.c_int),
        ("faulty", ctypes.c_bool),
        ("mutant", ctypes.c_int),
    )


class Library(ctypes.CDLL):
    """Our CUDA library, compiled for the host, and the device that it believes to run on."""

    state: Any

    @classmethod
    def build(cls, folder: Path, *sources: str, kernels: Path = ROOT / "kernels") -> Library:
        """Compile sources of `kernels` with the simulator of the tests."""
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            pytest.skip("no C++ compiler on PATH")
        command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra"]
        command += ["-Werror", "-Wno-unknown-pragmas", "-fPIC", "-shared", "-x", "c++"]
        command += [f"-I{ROOT / 'tests' / 'kernels' / 'cuda_on_host'}"]
        command += ["-o", str(folder / "host.so"), *(str(kernels / source) for source in sources)]
        subprocess.run(command, check=True)
        library = cls(str(folder / "host.so"))
        cuda_library.declare(library)
        library.mpft_simulated.restype = ctypes.POINTER(Simulated)
        library.state = library.mpft_simulated().contents
        return library


def copy_kernels(folder: Path, *, fast_paths: bool = True) -> Path:
    """A copy of the CUDA sources, to be changed: their folder.

    fast_paths: those of usual cells; without them all compiles in seconds.
    """
    kernels = folder / "kernels"
    for source in [*(ROOT / "kernels").rglob("*.*")]:
        if source.suffix in (".h", ".hpp", ".cu", ".cuh"):
            copy = kernels / source.relative_to(ROOT / "kernels")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    if not fast_paths:
        dispatch = kernels / "texture_patchify" / "cuda" / "dispatch.cuh"
        dispatch.write_text(re.sub(r"    case 1[46]: .*\n", "", dispatch.read_text()))
    return kernels


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
        patches_offset: int = 0,
    ) -> Call:
        batch, size = frames.shape[:2]
        cells = (size // patch) ** 2
        count = keep.resolve(cells)
        shapes = ((batch, count, 3 * patch * patch), (batch, count), (batch, cells))
        dtypes = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int32))
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
    """The status of a call, or -1 where a kernel is at fault."""
    state = library.state
    state.multiprocessors, state.descending, state.faulty = multiprocessors, descending, False
    status: int = library.mpft_texture_patchify_launch(ctypes.byref(call.arguments), None)
    return -1 if state.faulty else status


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
