"""Score the cells of an image by texture, keep K, pack their pixels. See README.md."""

from __future__ import annotations

import operator
from typing import Any

from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.kernels.texture_patchify.registry import chosen, implementations
from mpft_deploy.spec import KeepRule

__all__ = ["Patches", "implementations", "texture_patchify"]


def texture_patchify(
    images: Any, patch: int, keep: KeepRule, seed: int = 0, *, out: Patches | None = None
) -> Patches:
    """Score the cells of each image, keep K by the rule, and pack their pixels.

    Runs the version that `implementations()` marks as chosen; all give the same bytes.

    Args:
        images: u8 [B, S, S, 3], S a multiple of `patch`: a NumPy array or anything with DLPack,
            `__array_interface__` or the buffer protocol, in host memory. Any strides; where the
            pixels of a row are contiguous, nothing is copied.
        patch: side of a cell in pixels, 4 to 64.
        keep: which cells to keep, and how many.
        seed: for `random` rules, 0 to 2⁶⁴ − 1.
        out: where to write; contiguous, apart from `images`. Saves every allocation.

    Returns:
        Patches (see there for shapes and layout): `out`, or new arrays.

    Raises:
        UsageError: wrong dtype, shape, device, patch, K, seed or `out`; says what was expected and
            what came.
        EnvironmentLacksError: `MPFT_KERNEL` names a version that does not run here.
    """
    # Python's integers from here on: NumPy's small ones would overflow in products of `patch`.
    patch, seed = operator.index(patch), operator.index(seed)
    return chosen()(images, patch, keep, seed, out)
