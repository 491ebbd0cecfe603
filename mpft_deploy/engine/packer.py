"""Views on a CUDA device, and what texture_patchify makes of them there."""

from __future__ import annotations

import numpy as np

from mpft_deploy.engine import DeviceView, View
from mpft_deploy.engine.cuda import Device
from mpft_deploy.errors import InputError
from mpft_deploy.fitness import CELL, I32, MEAN
from mpft_deploy.kernels.texture_patchify import cuda
from mpft_deploy.spec import DetectorSpec, KeepRule


class Packer:
    """Packs the cells of views into a network's inputs.

    Args:
        most: views at once.
        patches, positions: addresses of the inputs, for as many views.
    """

    def __init__(
        self, device: Device, spec: DetectorSpec, most: int, patches: int, positions: int
    ) -> None:
        self.spec, self._device = spec, device
        size = spec.crop.size
        self._shape = (size, size, 3)
        self._bytes = 3 * size * size
        self._pinned = device.pin(most * self._bytes).reshape(most, *self._shape)
        self._side = size // (MEAN * CELL) * CELL
        cells = (self._side // CELL) ** 2
        self._host = [
            device.pin(4 * most * count).view(np.int32).reshape(most, count)
            for count in (spec.cells, cells)
        ]
        self._views, self._means, self._unused = (
            device.allocate(most * count) for count in (self._bytes, *[3 * self._side**2] * 2)
        )
        self._scores, self._coarse, self._places = (
            device.allocate(4 * most * count) for count in (spec.cells, cells, cells)
        )
        self._patches, self._positions = patches, positions

    def put(self, index: int, view: View) -> None:
        """Queue a view, u8 [S, S, 3], to be the one of that index."""
        target = self._views + index * self._bytes
        size = self.spec.crop.size
        if isinstance(view, DeviceView):
            self._device.after(view.stream)
            self._device.copy_rows(target, view.pointer, view.pitch, 3 * size, size)
            return
        if view.dtype != np.uint8 or view.shape != self._shape:
            raise InputError(
                f"the engine takes views of uint8 {self._shape}, got {view.dtype} {view.shape}"
            )
        self._pinned[index] = view
        self._device.upload(target, self._pinned[index])

    def pack(self, batch: int, *, tells: bool) -> None:
        """Queue what packs the first `batch` views; if it `tells`, what `told` gives, too."""
        spec = self.spec
        self._patchify(
            (self._views, spec.crop.size, spec.patch, spec.keep_rule, spec.keep_seed),
            (self._patches, self._positions, self._scores),
            batch,
        )
        if not tells:
            return
        self._device.download(self._host[0][:batch], self._scores)
        if not self._side:
            return
        stream = self._device.stream
        cuda.launch_means(self._views, batch, spec.crop.size, self._side, self._means, stream)
        self._patchify(
            (self._means, self._side, CELL, KeepRule("all"), 0),
            (self._unused, self._places, self._coarse),
            batch,
        )
        self._device.download(self._host[1][:batch], self._coarse)

    def told(self, views: int) -> tuple[I32, I32]:
        """Scores i32 [views, N] and coarse scores i32 [views, M] of what was packed last."""
        return self._host[0][:views].copy(), self._host[1][:views].copy()

    def _patchify(
        self,
        inputs: tuple[int, int, int, KeepRule, int],
        outputs: tuple[int, int, int],
        batch: int,
    ) -> None:
        frames, size, patch, keep, seed = inputs
        cells = (size // patch) ** 2
        count = keep.resolve(cells)
        shapes = ((batch, count, 3 * patch**2), (batch, count), (batch, cells))
        arguments = cuda.prepare(
            cuda.contiguous(frames, (batch, size, size, 3), "u1"),
            *(
                cuda.contiguous(*one)
                for one in zip(outputs, shapes, ("u1", "i4", "i4"), strict=True)
            ),
            patch=patch,
            keep=keep,
            seed=seed,
        )
        cuda.launch_arguments(arguments, self._device.stream)
