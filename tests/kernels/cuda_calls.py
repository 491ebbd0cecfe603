"""Calls of the CUDA device code on the host: building it, placing arrays, comparing."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from mpft_deploy.kernels import cuda as cuda_library
from mpft_deploy.kernels.texture_patchify import cuda, oracle
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

Array: TypeAlias = "npt.NDArray[Any]"

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels" / "texture_patchify"
TEXTURE, ENCODER = "texture_patchify/cuda/launch.cu", "encoder/cuda/encoder.cu"
GUARD = 64  # bytes before and after each output that must stay as they were; keeps alignment
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
        launch = kernels / TEXTURE
        launch.write_text(re.sub(r"    case 1[46]: .*\n", "", launch.read_text()))
    return kernels


class Call:
    """A call on host memory: views in rows of their pitch, outputs between guards.

    arguments: by name, in the order in which the library takes them; a test may change them.
    """

    def __init__(self, images: Array, patch: int, keep: KeepRule, seed: int = 0) -> None:
        self.expected = oracle.texture_patchify(images, patch, keep, seed)
        batch, size = images.shape[:2]
        self._buffers = [_aligned(array.nbytes) for array in self.expected]
        views = place(images)
        addresses = [buffer.ctypes.data + GUARD for buffer in self._buffers]
        self.arguments: dict[str, Any] = {
            "views": views.ctypes.data,
            "batch": batch,
            "size": size,
            "patch": patch,
            "keep": cuda.KEEP_CODES[keep.kind],
            "count": self.expected.positions.shape[1],
            "seed": seed,
            **dict(zip(Patches._fields, addresses, strict=True)),
        }
        self._kept = views

    def run(self, library: Library, *, multiprocessors: int = 4, descending: bool = False) -> int:
        """The status, or -1 where a kernel is at fault."""
        state = library.state
        state.multiprocessors, state.descending, state.faulty = multiprocessors, descending, False
        status: int = library.mpft_texture_patchify_launch(*self.arguments.values(), None)
        return -1 if state.faulty else status

    def wrote_nothing(self) -> bool:
        return all((buffer == FILL).all() for buffer in self._buffers)

    def equals_oracle(self) -> bool:
        """Whether all of the outputs is right, and nothing was written around them."""
        for buffer, array in zip(self._buffers, self.expected, strict=True):
            before, found, after = np.split(buffer, [GUARD, GUARD + array.nbytes])
            if (before != FILL).any() or (after != FILL).any():
                return False
            if found.tobytes() != array.tobytes():
                return False
        return True


def _aligned(size: int) -> Array:
    """So many bytes between guards, where kernels want them."""
    raw = np.full(size + 2 * GUARD + cuda.ALIGNMENT, FILL, np.uint8)
    start = -raw.ctypes.data % cuda.ALIGNMENT
    return raw[start : start + size + 2 * GUARD]


def place(images: Array) -> Array:
    """A copy of u8 [B, S, S, 3] as views lie: u8 [B, S, pitch], noise in what pads rows."""
    batch, size = images.shape[:2]
    pitch = cuda.pitch_of(size)
    rows = _aligned(batch * size * pitch)[GUARD:-GUARD].reshape(batch, size, pitch)
    rows[...] = np.random.default_rng(1).integers(0, 256, rows.shape, np.uint8)
    rows[:, :, : 3 * size] = images.reshape(batch, size, 3 * size)
    return rows


def succeeds_in_child(action: Callable[[], bool]) -> bool:
    """Run in a child process, which a faulty kernel may end, whether the answer is True."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        os._exit(0 if action() else 1)
    return os.waitpid(child, 0)[1] == 0


def pictures(batch: int, size: int, kind: str, seed: int) -> Array:
    """u8 [B, S, S, 3]: noise, few levels (many equal scores), one colour, or the two extremes."""
    noise = np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    if kind == "few":
        return noise // 240 * 240
    if kind == "flat":
        return np.zeros_like(noise)
    return noise // 128 * 255 if kind == "extreme" else noise
