"""Build the CPU kernel without Python from `native/`, and call it through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from mpft_deploy.kernels.texture_patchify.oracle import U8, Patches
from mpft_deploy.spec import KeepRule

PROJECT = Path(__file__).with_name("native")
KERNEL = PROJECT.parents[2] / "kernels" / "texture_patchify"
KEEP_CODES = {"smooth": 0, "textured": 1, "random": 2, "all": 3}  # enum Keep of rule.hpp


def why_not() -> str | None:
    """The reason that nothing can be built here, or None."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    return f"needs {' and '.join(missing)}" if missing else None


def build(folder: Path, target: str = "all", project: Path = PROJECT, **definitions: str) -> Path:
    """Configure and build a project, or rebuild what changed; returns `folder`."""
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    if not (folder / "CMakeCache.txt").exists():
        _run("cmake", "-S", project, "-B", folder, *options)
    _run("cmake", "--build", folder, "--target", target, "--parallel", "2")
    return folder


class Library:
    """`libtexture_patchify_c.so` of a build folder, loaded from a copy that no rebuild changes."""

    def __init__(self, folder: Path, copy: Path) -> None:
        shutil.copyfile(folder / "libtexture_patchify_c.so", copy)
        self._function = ctypes.CDLL(str(copy)).texture_patchify
        self._function.argtypes = [
            ctypes.c_char_p,
            ctypes.c_void_p,
            *[ctypes.c_int64] * 4,
            *[ctypes.c_int] * 2,
            ctypes.c_int64,
            ctypes.c_uint64,
            *[ctypes.c_void_p] * 3,
        ]

    def run(self, version: str, images: U8, patch: int, keep: KeepRule, seed: int = 0) -> Patches:
        """Apply `version` to u8 [B, S, S, 3] whose rows of pixels are contiguous."""
        batch, size = images.shape[:2]
        cells = (size // patch) ** 2
        count = keep.resolve(cells)
        out = Patches(
            np.zeros((batch, count, 3 * patch * patch), np.uint8),
            np.zeros((batch, count), np.int32),
            np.zeros((batch, cells), np.int32),
        )
        self.run_into(version, images, patch, keep, seed, out)
        return out

    def run_into(
        self, version: str, images: U8, patch: int, keep: KeepRule, seed: int, out: Patches
    ) -> None:
        """As `run`, into arrays that fit."""
        status = self._function(
            version.encode(),
            images.ctypes.data,
            *images.shape[:2],
            *images.strides[:2],
            patch,
            KEEP_CODES[keep.kind],
            out.positions.shape[1],
            seed,
            *(array.ctypes.data for array in out),
        )
        if status != 0:
            raise ValueError(f"version {version} does not run here")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
