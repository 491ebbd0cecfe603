"""The library of our kernels on it: by their definitions, or compiled for the host."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from mpft_deploy.kernels.encoder import VERSIONS, Encoder
from mpft_deploy.kernels.encoder.packing import Packed, Sizes, packed_shapes
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.kernels.texture_patchify.cuda import KEEP_CODES, pitch_of
from mpft_deploy.spec import KeepRule
from simulated_gpu.device import Cuda, array_at


class Kernels:
    """Stands for the library of our CUDA kernels.

    called: names of its functions, in order; failing: the number of a call, from 1, that fails.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.called: list[str] = []
        self.failing = 0
        self.encoders: dict[int, Encoder] = {}
        self._room: dict[int, tuple[int, int]] = {}

    def mpft_message(self, status):
        return {3: b"no room"}.get(status, b"unspecified launch failure")

    def mpft_probe(self, capability):
        major, minor = self._cuda.capability
        capability._obj.value = 10 * major + minor
        return 0

    def _fails(self, name):
        self.called.append(name)
        return len(self.called) == self.failing

    def _launch(self, name, stream, work):
        if self._fails(name):
            return 1719
        self._cuda.streams[stream].add(work)
        return 0

    def mpft_texture_patchify_launch(
        self, views, batch, size, patch, keep, count, seed, *outputs_and_stream
    ):
        *outputs, stream = outputs_and_stream
        rule = {code: kind for kind, code in KEEP_CODES.items()}[keep]

        def work() -> None:
            kept = KeepRule(rule, None if rule == "all" else count)
            found = oracle.texture_patchify(self._views(views, batch, size), patch, kept, seed)
            for address, array in zip(outputs, found, strict=True):
                self._array(address, array.shape, array.dtype)[...] = array

        return self._launch("texture_patchify", stream, work)

    def mpft_means_launch(self, views, batch, size, side, means, stream):
        def work() -> None:
            cut = self._views(views, batch, size)[:, : 4 * side, : 4 * side]
            squares = cut.reshape(batch, side, 4, side, 4, 3).sum((2, 4), dtype=np.uint16)
            self._views(means, batch, side)[...] = (squares + 8) // 16

        return self._launch("means", stream, work)

    def _views(self, address, batch, size):
        """Views u8 [batch, size, size, 3] in rows of their pitch."""
        rows = self._array(address, (batch, size, pitch_of(size)), np.uint8)
        return np.lib.stride_tricks.as_strided(
            rows, (batch, size, size, 3), (*rows.strides[:2], 3, 1)
        )

    def mpft_encoder_make(self, sizes, quick_gelu, arrays, sizes_bytes, count, made):
        if self._fails("encoder make"):
            return 1719
        its = Sizes(*sizes, "quick_gelu" if quick_gelu else "gelu")
        parts = {
            str(number): np.copy(array_at(arrays[number], shape, dtype))
            for number, (dtype, shape) in enumerate(packed_shapes(its))
        }
        version = next(one for one in VERSIONS if one.device == "cpu" and not one.why_not())
        made._obj.value = len(self.called)
        self.encoders[made._obj.value] = Encoder(Packed(its, parts), 1, version.name)
        return 0

    def mpft_encoder_reserve(self, encoder, batch, count):
        self._room[encoder] = (0, 0)
        if self._fails("encoder reserve"):
            return 1719
        self._room[encoder] = batch, count
        return 0

    def mpft_encoder_launch(self, encoder, patches, positions, batch, count, logits, stream):
        most = self._room[encoder]
        if batch > most[0] or count > most[1]:
            return 3

        def work() -> None:
            its = self.encoders[encoder]
            found = its.logits(
                self._array(patches, (batch, count, its._patch_bytes), np.uint8),
                self._array(positions, (batch, count), np.int32),
            )
            self._array(logits, (batch,), np.float32)[...] = found

        return self._launch("encoder", stream, work)

    def mpft_encoder_free(self, encoder):
        del self.encoders[encoder]

    def _array(self, address, shape, dtype):
        """An array of the device's, which has to be there."""
        array = array_at(address, shape, dtype)
        assert self._cuda._within(address, array.nbytes, host=False)
        return array


class HostKernels:
    """Our own library, compiled for the host; what it launches on a stream waits there."""

    def __init__(self, cuda: Cuda, built: ctypes.CDLL) -> None:
        self._cuda, self._built = cuda, built

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._built, name)
        if not name.endswith("_launch"):
            return function

        def launch(*arguments: Any) -> int:
            *rest, stream = arguments

            def work() -> None:
                assert function(*rest, None) == 0

            self._cuda.streams[stream].add(work)
            return 0

        return launch
