"""Views on a CUDA device, and what texture_patchify makes of them there."""

from __future__ import annotations

from functools import partial

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
        # Cells of the network, and those of means of pixels.
        largest = (cuda.MOST_CELLS + 1) * min(spec.patch, MEAN * CELL) - 1
        if size > largest:
            raise InputError(
                f"the detector's crop is {size} pixels a side, and the CUDA kernels take {largest} "
                f"at most with patches of {spec.patch}: export it with --backend native and run "
                "that on a processor (see mpft kernels)"
            )
        self._pitch = cuda.pitch_of(size)
        self._pinned = device.pin(most * size * self._pitch).reshape(most, size, self._pitch)
        self._side = size // (MEAN * CELL) * CELL
        cells = (self._side // CELL) ** 2
        self._told = [
            device.pin(4 * most * count).view(np.int32).reshape(most, count)
            for count in (spec.cells, cells)
        ]
        self._views = device.allocate(self._pinned.nbytes)
        self._scores = device.allocate(self._told[0].nbytes)
        # Of the means, whose scores alone are wanted.
        self._means = device.allocate(most * self._side * cuda.pitch_of(self._side))
        self._unused = device.allocate(most * 3 * self._side**2)
        self._places, self._coarse = (device.allocate(self._told[1].nbytes) for _ in range(2))
        self._patches, self._positions = patches, positions

    def put(self, index: int, view: View) -> None:
        """Queue a view, u8 [S, S, 3], to be the one of that index."""
        size = self.spec.crop.size
        target = self._views + index * size * self._pitch
        if isinstance(view, DeviceView):
            self._device.after(view.stream)
            self._device.copy_rows(target, self._pitch, view.pointer, view.pitch, 3 * size, size)
            return
        if view.dtype != np.uint8 or view.shape != (size, size, 3):
            raise InputError(
                f"the engine takes views of uint8 {(size, size, 3)}, got {view.dtype} {view.shape}"
            )
        self._pinned[index, :, : 3 * size] = view.reshape(size, 3 * size)
        self._device.upload(target, self._pinned[index])

    def pack(self, batch: int) -> None:
        """Queue what packs the first `batch` views, and brings back what `told` gives."""
        device, spec, side = self._device, self.spec, self._side
        launch = partial(cuda.launch, batch=batch, stream=device.stream)
        launch(
            *(self._views, self._patches, self._positions, self._scores),
            size=spec.crop.size,
            patch=spec.patch,
            keep=spec.keep_rule,
            seed=spec.keep_seed,
        )
        device.download(self._told[0][:batch], self._scores)
        if not side:
            return
        cuda.launch_means(self._views, batch, spec.crop.size, side, self._means, device.stream)
        means = (self._means, self._unused, self._places, self._coarse)
        launch(*means, size=side, patch=CELL, keep=KeepRule("all"), seed=0)
        device.download(self._told[1][:batch], self._coarse)

    def told(self, views: int) -> tuple[I32, I32]:
        """Scores i32 [views, N] and coarse scores i32 [views, M] of what was packed last."""
        return self._told[0][:views].copy(), self._told[1][:views].copy()
