"""What versions of texture_patchify are judged by: images, layouts, the suite of comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.kernels.texture_patchify.oracle import U8, Patches
from mpft_deploy.spec import KeepRule

PATCHES = (4, 5, 7, 8, 11, 13, 14, 16, 24, 31, 32, 40, 48, 56, 63, 64)
Run = Callable[[U8, int, KeepRule, int], Patches]


def picture(kind: str, batch: int, size: int, seed: int) -> U8:
    """u8 [batch, size, size, 3] of one kind."""
    rng = np.random.default_rng(seed)
    shape = (batch, size, size, 3)
    row, column = np.indices((size, size))
    if kind == "noise":
        return rng.integers(0, 256, shape, np.uint8)
    if kind == "two-valued":
        return rng.integers(0, 2, shape, np.uint8)
    if kind == "constant":
        return np.full(shape, rng.integers(0, 256), np.uint8)
    if kind == "saturated":
        return np.full(shape, 255, np.uint8)
    if kind == "checkerboard":
        plane = (row + column + seed) % 2 * 255
    elif kind == "gradient":
        plane = (row * 3 + column * (seed % 7)) % 256
    else:
        # Cells of a few textures, so that many scores are equal.
        plane = np.tile(rng.integers(0, 256, (4, 4)), (-(-size // 4), -(-size // 4)))
        plane = plane[:size, :size]
    return np.broadcast_to(plane.astype(np.uint8)[None, :, :, None], shape).copy()


PICTURES = ("noise", "two-valued", "constant", "saturated", "checkerboard", "gradient", "tiled")


def lay_out(images: U8, layout: str) -> U8:
    """The same pixels as a view of larger or otherwise ordered memory, filled with other bytes."""
    batch, size = images.shape[:2]

    def inside(shape: tuple[int, ...], cut: Callable[[U8], U8]) -> U8:
        frame = np.full(shape, 0xA5, np.uint8)
        view = cut(frame)
        view[...] = images
        return view

    if layout == "crop":
        return inside((batch, size + 5, size + 9, 3), lambda x: x[:, 2 : 2 + size, 7 : 7 + size])
    if layout == "crop from the end":
        return inside((batch, size + 5, size + 9, 3), lambda x: x[:, -size:, -size:])
    if layout == "upside down":
        return inside((batch, size, size, 3), lambda x: x[:, ::-1])
    if layout == "every other":
        return inside((2 * batch, 2 * size, size, 3), lambda x: x[::2, ::2])
    if layout == "batch reversed":
        return inside((batch, size, size + 1, 3), lambda x: x[::-1, :, 1:])
    if layout == "mirrored":
        return inside((batch, size, size, 3), lambda x: x[:, :, ::-1])
    if layout == "BGR":
        return inside((batch, size, size, 3), lambda x: x[..., ::-1])
    if layout == "RGBA":
        return inside((batch, size, size, 4), lambda x: x[..., :3])
    if layout == "channels first":
        return inside((batch, 3, size, size), lambda x: x.transpose(0, 2, 3, 1))
    if layout == "Fortran":
        return np.asfortranarray(images)
    if layout == "read-only":
        copy = images.copy()
        copy.flags.writeable = False
        return copy
    return images


IN_PLACE = ("contiguous", "crop", "crop from the end", "upside down", "every other", "read-only")
LAYOUTS = (*IN_PLACE, "batch reversed", "mirrored", "BGR", "RGBA", "channels first", "Fortran")


def assert_equal(found: Patches, expected: Patches) -> None:
    """Equal in dtype, shape and every byte; scores first, for they decide the rest."""
    for name in ("scores", "positions", "patches"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name, strict=True)


def assert_equals_oracle(run: Run) -> None:
    """The suite that judges a version: every side of a cell, kind of image and keep rule."""
    for number, patch in enumerate(PATCHES):
        for grid in (1, 2, 3, 5):
            kind = PICTURES[(number + grid) % len(PICTURES)]
            layout = IN_PLACE[(number + grid) % len(IN_PLACE)]
            images = lay_out(picture(kind, 2, grid * patch, number), layout)
            some = 1 + (number + grid) % (grid * grid)
            for rule in (f"smooth:{some}", f"textured:{some}", f"random:{some}", "all"):
                keep = KeepRule.parse(rule)
                expected = oracle.texture_patchify(images, patch, keep, number)
                assert_equal(run(images, patch, keep, number), expected)
