"""The encoder on a CUDA device: device arrays on a stream, or arrays in host memory.

The code (`cuda/`) is in the library that texture_patchify's CUDA kernels are in, built where nvcc
is; see README.md. It allocates and copies by itself: no package for CUDA is needed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels.encoder.oracle import F32, I32, U8
from mpft_deploy.kernels.encoder.packing import Packed
from mpft_deploy.kernels.texture_patchify import cuda

BATCH = 64
"""Views of host memory at once."""

_BAD_ARRAYS = 1  # MPFT_ENCODER_BAD_ARRAYS
_CUDA_ERROR = 1000  # MPFT_ENCODER_CUDA_ERROR: statuses from here on are CUDA's


class CudaEncoder:
    """A network on the CUDA device that is current now, and has to be in every call.

    Args:
        packed: read once, copied to the device.

    Raises:
        EnvironmentLacksError: the kernels are not built, or CUDA reports an error.
        ValueError: the arrays do not fit together.
    """

    def __init__(self, packed: Packed, library: ctypes.CDLL | None = None) -> None:
        self._library = library or _library()
        self._patch_bytes = 3 * packed.sizes.area
        self._turn = threading.Lock()
        *sizes, activation = dataclasses.astuple(packed.sizes)
        arrays = list(packed.arrays.values())
        made = ctypes.c_void_p()
        self._call(
            self._library.mpft_encoder_make,
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
        self._call(self._library.mpft_encoder_reserve, self._encoder, batch, count)

    def launch(self, patches: Any, positions: Any, logits: Any, stream: int = 0) -> None:
        """Enqueue on a stream; what `oracle.logit` has of each view, to the last bit.

        Allocates nothing and waits for nothing, so it can be captured in a CUDA graph. The caller
        keeps the arrays alive until it has run, and lets one call run before the next: they share
        what was reserved.

        Args:
            patches: u8 [B, K, 3·p·p] on the device, as texture_patchify writes them.
            positions: i32 [B, K] on the device, below N, which is not checked.
            logits: f32 [B] on the device, written.
            stream: a cudaStream_t as an integer.

        Raises:
            UsageError: an array is not as above, or nothing is reserved for so much.
            EnvironmentLacksError: CUDA reports an error.
        """
        arrays = [
            cuda.device_array(name, array)
            for name, array in (("patches", patches), ("positions", positions), ("logits", logits))
        ]
        batch, count = arrays[1].shape if len(arrays[1].shape) == 2 else (-1, -1)
        due = [
            ("patches", "u1", (batch, count, self._patch_bytes)),
            ("positions", "i4", (batch, count)),
            ("logits", "f4", (batch,)),
        ]
        for (name, dtype, shape), array in zip(due, arrays, strict=True):
            cuda.check_output(name, array, dtype, shape)
        first, second, out = (array.pointer for array in arrays)
        self._call(
            self._library.mpft_encoder_launch,
            self._encoder,
            first,
            second,
            batch,
            count,
            out,
            stream,
        )

    def logits(self, patches: U8, positions: I32) -> F32:
        """The logits f32 [B] of contiguous arrays in host memory, copied there and back."""
        out = np.empty(len(patches), np.float32)
        with self._turn:
            for begin in range(0, len(patches), BATCH):
                views = slice(begin, begin + BATCH)
                self._call(
                    self._library.mpft_encoder_run,
                    self._encoder,
                    patches[views].ctypes.data,
                    positions[views].ctypes.data,
                    *positions[views].shape,
                    out[views].ctypes.data,
                )
        return out

    def features(self, patches: U8, positions: I32) -> F32:
        """A UsageError: it has none."""
        raise UsageError("the encoder on CUDA gives logits alone: take features by another version")

    def _call(self, function: Callable[..., int], *arguments: Any) -> None:
        status = function(*arguments)
        if status == 0:
            return
        message = self._library.mpft_encoder_message(status).decode()
        if status == _BAD_ARRAYS:
            raise ValueError(message)
        kind = UsageError if status < _CUDA_ERROR else EnvironmentLacksError
        raise kind(f"the encoder on CUDA: {message}")


def why_not() -> str | None:
    """Why the encoder cannot run on a GPU here, and what to do about it; None if it can."""
    return cuda.why_not()


def bind(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, which knows the arguments of the functions of cuda/encoder_cuda.h."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.mpft_encoder_make.argtypes = (
        pointer,
        ctypes.c_int,
        pointer,
        pointer,
        ctypes.c_int32,
        pointer,
    )
    library.mpft_encoder_reserve.argtypes = (pointer, number, number)
    library.mpft_encoder_launch.argtypes = (
        *(pointer, pointer, pointer),
        *(number, number),
        *(pointer, pointer),
    )
    library.mpft_encoder_run.argtypes = library.mpft_encoder_launch.argtypes[:-1]
    library.mpft_encoder_free.argtypes = (pointer,)
    library.mpft_encoder_free.restype = None
    library.mpft_encoder_message.restype = ctypes.c_char_p
    return library


@functools.cache
def _library() -> ctypes.CDLL:
    return bind(cuda.load_library())
