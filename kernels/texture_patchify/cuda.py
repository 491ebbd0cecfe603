"""texture_patchify on a CUDA device, as engines there use it: addresses, on a stream.

The code is in `cuda/`; see README.md. Every array begins at a multiple of ALIGNMENT bytes, as what
CUDA allocates does; the rows of a view are `pitch_of` bytes apart.
"""

from __future__ import annotations

from mpft_deploy.kernels import cuda
from mpft_deploy.spec import KeepRule

ALIGNMENT = 16

MOST_CELLS = 64
"""Along each side of a view: the root of kMaxCells of plan.hpp."""

KEEP_CODES = {"smooth": 0, "textured": 1, "random": 2, "all": 3}


def pitch_of(size: int) -> int:
    """Bytes from a row of a view of `size` pixels to the next, on the device."""
    return -(-3 * size // ALIGNMENT) * ALIGNMENT


def launch(
    views: int,
    patches: int,
    positions: int,
    scores: int,
    *,
    batch: int,
    size: int,
    patch: int,
    keep: KeepRule,
    seed: int,
    stream: int,
) -> None:
    """Enqueue on the current device what `oracle.texture_patchify` computes.

    Allocates nothing and waits for nothing, so it can be captured in a CUDA graph.

    Args:
        views: address of u8 [batch, size, size, 3].
        patches, positions, scores: of u8 [batch, K, 3·p·p], i32 [batch, K] and i32 [batch, N],
            contiguous, written.
        size: side of a view in pixels, a multiple of `patch`.
        patch, keep, seed: as of the oracle.
        stream: a cudaStream_t.

    Raises:
        UsageError: a view has more than 4,096 cells, or what is given does not go together;
            EnvironmentLacksError: the kernels are not built, or CUDA reports an error.
    """
    count = keep.resolve((size // patch) ** 2)
    sizes = (batch, size, patch, KEEP_CODES[keep.kind], count)
    library = cuda.load_library()
    status = library.mpft_texture_patchify_launch(
        views, *sizes, seed, patches, positions, scores, stream
    )
    cuda.check("texture_patchify", library, status)


def launch_means(views: int, batch: int, size: int, side: int, means: int, stream: int) -> None:
    """Enqueue the means of 4 × 4 pixels of such views.

    Args:
        side: how many means along each side, from the top left.
        means: address of u8 [batch, side, side, 3], which lie as views do; written.
    """
    library = cuda.load_library()
    status = library.mpft_means_launch(views, batch, size, side, means, stream)
    cuda.check("the means of pixels", library, status)
