"""The encoder on a CUDA device: addresses there, on a stream. Code in `cuda/`; see README.md."""

from __future__ import annotations

import ctypes
import dataclasses
import weakref

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.kernels import cuda
from mpft_deploy.kernels.encoder.packing import Packed

OLDEST = 80
"""The first compute capability with its instructions."""


class CudaEncoder:
    """A network on the CUDA device that is current now, and has to be in every call.

    Args:
        packed: read once, copied to the device.
        library: in the place of the one that is installed.

    Raises:
        EnvironmentLacksError: the kernels are not built, or CUDA reports an error.
        ValueError: the arrays do not fit together.
    """

    def __init__(self, packed: Packed, library: ctypes.CDLL | None = None) -> None:
        self._library = library or cuda.load_library()
        *sizes, activation = dataclasses.astuple(packed.sizes)
        arrays = list(packed.arrays.values())
        made = ctypes.c_void_p()
        self._call(
            "make",
            (ctypes.c_int64 * len(sizes))(*sizes),
            activation == "quick_gelu",
            (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
            (ctypes.c_uint64 * len(arrays))(*(array.nbytes for array in arrays)),
            len(arrays),
            ctypes.byref(made),
        )
        self._encoder = made.value
        weakref.finalize(self, self._library.mpft_encoder_free, self._encoder)

    def reserve(self, batch: int, count: int) -> None:
        """Memory for views of up to `count` cells, `batch` at once, in the place of what there was.

        Waits for the device. Graphs that were captured before must not be replayed any more.

        Raises:
            UsageError: more than this can hold; EnvironmentLacksError: than the device can.
        """
        self._call("reserve", self._encoder, batch, count)

    def launch(
        self, patches: int, positions: int, logits: int, batch: int, count: int, stream: int = 0
    ) -> None:
        """Enqueue on a stream; what `oracle.logit` has of each view, to the last bit.

        Allocates nothing and waits for nothing, so it can be captured in a CUDA graph. The caller
        lets one call run before the next: they share what was reserved.

        Args:
            patches: address of u8 [batch, count, 3·p·p] on the device, as texture_patchify writes.
            positions: of i32 [batch, count], below N, which is not checked.
            logits: of f32 [batch], written.
            stream: a cudaStream_t.

        Raises:
            UsageError: nothing is reserved for so much; EnvironmentLacksError: CUDA has an error.
        """
        self._call("launch", self._encoder, patches, positions, batch, count, logits, stream)

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, f"mpft_encoder_{name}")
        cuda.check("the encoder", self._library, function(*arguments))


def why_not() -> str | None:
    """Why the encoder cannot run on a GPU here, and what to do about it; None if it can."""
    if reason := cuda.why_not(OLDEST):
        return reason
    try:
        cuda.find_package()
    except EnvironmentLacksError as error:
        return str(error)
    return None
