"""The NumPy oracle of texture_patchify: what every other version must equal, bit for bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError
from mpft_deploy.spec import KeepRule

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

MIN_PATCH, MAX_PATCH = 4, 64


class Patches(NamedTuple):
    """What the encoder is fed.

    patches: u8 [B, K, 3·p·p]; the pixels of a kept cell in the image's own order (row, column,
        channel), so that each of its p rows is one contiguous copy of 3·p bytes.
    positions: i32 [B, K]; index of the cell in raster order, ascending.
    scores: i32 [B, N]; texture of every cell.
    """

    patches: U8
    positions: I32
    scores: I32


def texture_scores(images: U8, patch: int) -> I32:
    """Texture of each cell: the sum of absolute neighbour differences in four directions.

    Over the three channels and only within the cell, the sum of |x[r,c] − x[r,c+1]|,
    |x[r,c] − x[r+1,c]|, |x[r,c] − x[r+1,c+1]| and |x[r,c+1] − x[r+1,c]| (after PatchCraft,
    arXiv 2311.12397, and SSP, arXiv 2402.01123). Exact: at most 64² · 3 · 4 · 255 < 2³¹.

    Args:
        images: u8 [B, S, S, 3].
        patch: side of a cell; S is a multiple of it.

    Returns:
        i32 [B, N], N = (S / patch)², cells in raster order.
    """
    x = _cells(images, patch).astype(np.int16)
    right, down = x[:, :, :, 1:], x[:, :, 1:, :]
    total: I32 = np.abs(x[:, :, :, :-1] - right).sum((2, 3, 4), dtype=np.int32)
    total += np.abs(x[:, :, :-1, :] - down).sum((2, 3, 4), dtype=np.int32)
    total += np.abs(x[:, :, :-1, :-1] - x[:, :, 1:, 1:]).sum((2, 3, 4), dtype=np.int32)
    total += np.abs(right[:, :, :-1] - down[:, :, :, :-1]).sum((2, 3, 4), dtype=np.int32)
    return total


def select_positions(scores: I32, keep: KeepRule, seed: int = 0) -> I32:
    """Positions of the K kept cells of each image, ascending; ties go to the lower index.

    `random` orders cells by a hash of the seed, the cell and the sum of the hashes of all the
    image's scores, so that it depends on the image's bytes and on nothing else.

    Args:
        scores: i32 [B, N].
        keep: the rule; K is at most N.
        seed: 0 to 2⁶⁴ − 1; used by `random` alone.

    Returns:
        i32 [B, K].
    """
    count = keep.resolve(scores.shape[1])
    order_by: npt.NDArray[np.int64] | U64
    if keep.kind == "smooth":
        order_by = scores.astype(np.int64)
    elif keep.kind == "textured":
        order_by = -scores.astype(np.int64)
    elif keep.kind == "random":
        order_by = _random_keys(scores, seed)
    else:
        order_by = np.zeros(scores.shape, np.int64)
    # A stable sort keeps equal keys in the order of their index.
    kept = np.argsort(order_by, axis=1, kind="stable")[:, :count]
    positions: I32 = np.sort(kept, axis=1).astype(np.int32)
    return positions


def texture_patchify(images: U8, patch: int, keep: KeepRule, seed: int = 0) -> Patches:
    """Score the cells of each image, keep K by the rule, and pack their pixels.

    Args:
        images: u8 [B, S, S, 3], any strides; S is a multiple of `patch`.
        patch: side of a cell in pixels, 4 to 64.
        keep: which cells to keep, and how many.
        seed: for `random` rules, 0 to 2⁶⁴ − 1.

    Returns:
        Patches; see there for shapes and layout.

    Raises:
        UsageError: wrong dtype, shape, patch or K; says what was expected and what came.
    """
    scores = texture_scores(images, patch)
    positions = select_positions(scores, keep, seed)
    batch = images.shape[0]
    flat = _cells(images, patch).reshape(batch, scores.shape[1], 3 * patch * patch)
    patches = np.take_along_axis(flat, positions[:, :, None], axis=1)
    return Patches(np.ascontiguousarray(patches), positions, scores)


def check_images(images: U8, patch: int) -> None:
    """A UsageError unless `images` is u8 [B, S, S, 3], S a multiple of `patch`, `patch` 4 to 64."""
    if not MIN_PATCH <= patch <= MAX_PATCH:
        raise UsageError(f"patch must be {MIN_PATCH} to {MAX_PATCH} pixels, got {patch}")
    shape = images.shape
    if (
        images.dtype == np.uint8
        and len(shape) == 4
        and shape[1] == shape[2]
        and shape[3] == 3
        and shape[1] > 0
        and shape[1] % patch == 0
        and (shape[1] // patch) ** 2 < 2**31
    ):
        return
    advice = ""
    if len(shape) == 3:
        advice = "; add a batch axis: images[None]"
    elif len(shape) == 4 and shape[1] == 3 != shape[3]:
        advice = "; move the channels last: images.transpose(0, 2, 3, 1)"
    elif len(shape) == 4 and shape[1] != shape[2]:
        advice = "; cut square views first: mpft_deploy.images.views"
    raise UsageError(
        f"images must be uint8 [B, S, S, 3] with S a multiple of {patch}, "
        f"got {images.dtype} {list(shape)}{advice}"
    )


def check_seed(seed: int) -> None:
    """A UsageError unless `seed` fits in 64 bits without a sign."""
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed must be 0 to 2**64 - 1, got {seed}")


def _cells(images: U8, patch: int) -> U8:
    """u8 [B, S, S, 3] → u8 [B, N, p, p, 3]."""
    check_images(images, patch)
    batch, grid = images.shape[0], images.shape[1] // patch
    split = images.reshape(batch, grid, patch, grid, patch, 3)
    cells: U8 = split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid * grid, patch, patch, 3)
    return cells


def _random_keys(scores: I32, seed: int) -> U64:
    """u64 [B, N] of sort keys; arithmetic is modulo 2⁶⁴."""
    check_seed(seed)
    index = np.arange(scores.shape[1], dtype=np.uint64)
    digest: U64 = _mix((index << np.uint64(32)) | scores.astype(np.uint64)).sum(
        1, dtype=np.uint64, keepdims=True
    )
    start = _mix(digest ^ _mix(np.array([[seed]], np.uint64)))
    return _mix(start + index)


def _mix(x: U64) -> U64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), with its increment."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = x ^ (x >> np.uint64(31))
    return mixed
