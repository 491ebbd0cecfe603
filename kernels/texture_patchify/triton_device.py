"""The Triton kernels of `triton_kernel`: a program a cell."""

# Triton's own types are not Python's; it checks them when it compiles.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _cell_origin(images, image, cell, batch_stride, row_stride, grid, PATCH: tl.constexpr):  # noqa: N803
    """Pointer to the first byte of a cell."""
    row = cell // grid * PATCH
    column = cell % grid * PATCH
    return images + image.to(tl.int64) * batch_stride + row.to(tl.int64) * row_stride + 3 * column


@triton.jit
def score_cells(
    images,
    scores,
    batch_stride,
    row_stride,
    grid,
    PATCH: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """scores[image, cell] = sum of absolute neighbour differences in four directions.

    Args:
        images: u8, frames at `batch_stride` and rows at `row_stride` bytes.
        scores: i32 [B, grid²], contiguous; one program writes one of them.
        grid: cells a side.
        PATCH, ROWS, COLUMNS: side of a cell; powers of two of at least p and 3·p.
    """
    cells = grid * grid
    program = tl.program_id(0)
    origin = _cell_origin(
        images, program // cells, program % cells, batch_stride, row_stride, grid, PATCH
    )
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    here_at = origin + row * row_stride + column
    within = (row < PATCH) & (column < 3 * PATCH)
    has_right = (row < PATCH) & (column < 3 * PATCH - 3)
    has_below = (row < PATCH - 1) & (column < 3 * PATCH)
    has_both = (row < PATCH - 1) & (column < 3 * PATCH - 3)
    here = tl.load(here_at, mask=within, other=0).to(tl.int32)
    right = tl.load(here_at + 3, mask=has_right, other=0).to(tl.int32)
    below = tl.load(here_at + row_stride, mask=has_below, other=0).to(tl.int32)
    diagonal = tl.load(here_at + row_stride + 3, mask=has_both, other=0).to(tl.int32)
    total = tl.where(has_right, tl.abs(here - right), 0)
    total += tl.where(has_below, tl.abs(here - below), 0)
    total += tl.where(has_both, tl.abs(here - diagonal) + tl.abs(right - below), 0)
    tl.store(scores + program, tl.sum(tl.sum(total, 1), 0))


@triton.jit
def pack_cells(
    images,
    positions,
    patches,
    batch_stride,
    row_stride,
    grid,
    count,
    PATCH: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """Copy the cell positions[image, slot] to patches[image, slot]; a program copies one.

    Args:
        images, batch_stride, row_stride, grid, PATCH, ROWS, COLUMNS: as in `score_cells`.
        positions: i32 [B, count], contiguous.
        patches: u8 [B, count, 3·p·p], contiguous.
    """
    program = tl.program_id(0)
    cell = tl.load(positions + program)
    origin = _cell_origin(images, program // count, cell, batch_stride, row_stride, grid, PATCH)
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    within = (row < PATCH) & (column < 3 * PATCH)
    pixels = tl.load(origin + row * row_stride + column, mask=within, other=0)
    target = patches + program.to(tl.int64) * (3 * PATCH * PATCH)
    tl.store(target + row * (3 * PATCH) + column, pixels, mask=within)
