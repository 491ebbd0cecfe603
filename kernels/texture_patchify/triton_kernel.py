"""texture_patchify in Triton: torch tensors in, torch tensors out, for training on a GPU.

Scoring and packing are Triton kernels. Selection sorts 64-bit keys with torch: no two keys of an
image are equal, so that any sort gives the one right answer. With TRITON_INTERPRET=1 set before
the first use, everything runs on CPU tensors too.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mpft_deploy.errors import UsageError
from mpft_deploy.extras import how_to_install
from mpft_deploy.kernels.texture_patchify.oracle import (
    MAX_PATCH,
    MIN_PATCH,
    Patches,
    check_seed,
)
from mpft_deploy.spec import KeepRule

if TYPE_CHECKING:
    import torch


def why_not() -> str | None:
    """Why Triton cannot run on a CUDA device here, and what to do; None if it can.

    Asks the driver, not torch: importing torch takes seconds.
    """
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; {how_to_install('train')}"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver is not installed (no libcuda.so.1)"
    devices = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(devices)) or not devices.value:
        return "the NVIDIA driver finds no device; check with nvidia-smi"
    return None


def run(images: Any, patch: int, keep: KeepRule, seed: int, out: Patches | None) -> Patches:
    """One call as the registry wants it: torch tensors, results copied into `out` if given."""
    if type(images).__module__.partition(".")[0] != "torch":
        raise UsageError(f"the Triton version takes torch tensors, got {type(images).__name__}")
    result: Any = Patches(*texture_patchify(images, patch, keep, seed))  # type: ignore[arg-type]
    if out is None:
        return result  # type: ignore[no-any-return]
    targets: Any = out
    for name, target, source in zip(Patches._fields, targets, result, strict=True):
        if (target.dtype, target.shape) != (source.dtype, source.shape):
            raise UsageError(
                f"out.{name} must be {source.dtype} {list(source.shape)}, "
                f"got {target.dtype} {list(target.shape)}"
            )
        target.copy_(source)
    return out


def texture_patchify(
    images: torch.Tensor, patch: int, keep: KeepRule, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score the cells of each image, keep K by the rule, and pack their pixels.

    Args:
        images: u8 [B, S, S, 3] on a CUDA device; copied once if the pixels of a row are not
            adjacent.
        patch: side p of a cell in pixels, 4 to 64; S is a multiple of it.
        keep: which cells to keep, and how many.
        seed: for `random` rules, 0 to 2⁶⁴ − 1.

    Returns:
        patches u8 [B, K, 3·p·p], positions i32 [B, K] and scores i32 [B, N], as the oracle's.

    Raises:
        UsageError: wrong dtype, shape, patch, K or seed.
    """
    images = _in_rows(images, patch)
    scores = texture_scores(images, patch)
    positions = select_positions(scores, keep, seed)
    return gather_patches(images, positions, patch), positions, scores


def texture_scores(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Texture of each cell: u8 [B, S, S, 3] → i32 [B, N]; see `oracle.texture_scores`."""
    import torch

    images = _in_rows(images, patch)
    batch, grid = images.shape[0], images.shape[1] // patch
    scores = images.new_empty((batch, grid * grid), dtype=torch.int32)
    if batch:
        kernels().score_cells[(batch * grid * grid,)](
            images, scores, *images.stride()[:2], grid, **block(patch)
        )
    return scores


def select_positions(scores: torch.Tensor, keep: KeepRule, seed: int = 0) -> torch.Tensor:
    """Positions of the kept cells, ascending: i32 [B, N] → i32 [B, K]; see the oracle's."""
    import torch

    batch, cells = scores.shape
    count = keep.resolve(cells)
    index = torch.arange(cells, device=scores.device)
    if keep.kind == "all":
        return index.to(torch.int32).expand(batch, cells).contiguous()
    wide = scores.to(torch.int64)
    if keep.kind == "random":
        keys = _random_keys(wide, index, seed)
    else:
        # The cell in the low half gives ties to the lower index.
        keys = (wide if keep.kind == "smooth" else -wide) * 2**32 + index
    kept = keys.topk(count, dim=1, largest=False, sorted=False).indices
    return kept.sort(dim=1).values.to(torch.int32)


def gather_patches(images: torch.Tensor, positions: torch.Tensor, patch: int) -> torch.Tensor:
    """Pixels of the cells at `positions`: u8 [B, S, S, 3], i32 [B, K] → u8 [B, K, 3·p·p]."""
    images = _in_rows(images, patch)
    batch, count = positions.shape
    patches = images.new_empty((batch, count, 3 * patch * patch))
    if batch:
        kernels().pack_cells[(batch * count,)](
            images,
            positions.contiguous(),
            patches,
            *images.stride()[:2],
            images.shape[1] // patch,
            count,
            **block(patch),
        )
    return patches


def block(patch: int) -> dict[str, int]:
    """Compile-time arguments of both kernels: the cell, and the powers of two that hold it."""
    return {
        "PATCH": patch,
        "ROWS": 1 << (patch - 1).bit_length(),
        "COLUMNS": 1 << (3 * patch - 1).bit_length(),
    }


@functools.cache
def kernels() -> ModuleType:
    """The module of the Triton kernels; apart, because importing it imports Triton."""
    return importlib.import_module("mpft_deploy.kernels.texture_patchify.triton_device")


def _in_rows(images: torch.Tensor, patch: int) -> torch.Tensor:
    import torch

    shape = images.shape
    if not MIN_PATCH <= patch <= MAX_PATCH:
        raise UsageError(f"patch must be {MIN_PATCH} to {MAX_PATCH} pixels, got {patch}")
    if (
        images.dtype != torch.uint8
        or len(shape) != 4
        or shape[1] != shape[2]
        or shape[3] != 3
        or shape[1] % patch
        or shape[1] == 0
    ):
        raise UsageError(
            f"images must be uint8 [B, S, S, 3] with S a multiple of {patch}, "
            f"got {images.dtype} {list(shape)}"
        )
    return images if images.stride()[2:] == (3, 1) else images.contiguous()


def _random_keys(scores: torch.Tensor, index: torch.Tensor, seed: int) -> torch.Tensor:
    """i64 [B, N] of keys in the order of the oracle's unsigned ones; sums wrap modulo 2⁶⁴."""
    check_seed(seed)
    digest = _mix(index * 2**32 + scores).sum(1, keepdim=True)
    start = _mix(digest ^ _mix(index.new_full((1,), _signed(seed))))
    # Flipping the sign bit turns the signed order into the unsigned one.
    return _mix(start + index) ^ _signed(2**63)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """`oracle._mix` on signed 64-bit integers, whose products wrap alike."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift: torch's is arithmetic."""
    shifted: torch.Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(value: int) -> int:
    """The signed 64-bit integer with the same bits."""
    return value - 2**64 if value >= 2**63 else value
