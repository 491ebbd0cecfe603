"""Engines whose inputs live on a CUDA device: one way there and back, whatever network runs.

Cells are packed where the pixels lie. Those of a frame on the host, which is looked at there, go to
the device by way of pinned memory; those of a view on the device texture_patchify writes to the
network's inputs there. The network reads them, and the logit comes back. All of it is queued on one
stream, and from the third batch of a size on it is one CUDA graph.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mpft_deploy.engine import Seen, View, cuda
from mpft_deploy.engine.packer import Packer
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.spec import DetectorSpec

logger = logging.getLogger(__name__)

KEPT = 8
"""CUDA graphs."""

FEW = 8
"""Views at once that there is memory for at first; streams have no larger batches."""

TYPES = {"patches": np.uint8, "positions": np.int32, "logit": np.float32}
"""Of a network's inputs and its output."""

Addresses = dict[str, int]
"""On the device, by the names of TYPES."""


class Network(Protocol):
    """From packed cells to logits, on a device that is current in every call.

    cells: K, and bytes of each.
    smallest, largest: views at once.
    captured: whether what it enqueues may be recorded in a CUDA graph.
    """

    cells: tuple[int, int]
    smallest: int
    largest: int
    captured: bool

    def place(self, addresses: Addresses, most: int) -> None:
        """Take the addresses of patches u8 [most, K, 3·p·p], positions i32 [most, K] and logit
        f32 [most], in the place of earlier ones."""
        ...

    def enqueue(self, batch: int, stream: int) -> None:
        """Queue a batch on a cudaStream_t."""
        ...


class DeviceEngine:
    """A network with its buffers and stream; see `mpft_deploy.engine.Engine`.

    What the second run of a batch size queues is recorded as a CUDA graph, which replays it at one
    launch; graphs of up to KEPT sizes are kept, since streams change theirs all the time. Batches
    above the network's largest are run in parts, those below its smallest are filled up.

    Args:
        make: makes the network; the device is current meanwhile.
        spin: as of `mpft_deploy.engine.Backend.load`.
    """

    def __init__(self, make: Callable[[], Network], *, spin: bool) -> None:
        self._lock = threading.Lock()
        self._device = cuda.open_device(spin=spin)
        with self._device.current():
            self._network = make()
            self._may_capture = self._network.captured
            self._most = 0
            self._make_room(1)

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        inputs: dict[str, npt.NDArray[Any]] = {"patches": patches, "positions": positions}
        for name, value in inputs.items():
            host = self._host[name]
            if value.dtype != host.dtype or value.shape[1:] != host.shape[1:]:
                raise InputError(
                    f"the engine takes {name} as {host.dtype} {host.shape}, of any batch, and was "
                    f"given {value.dtype} {value.shape}"
                )
        logits = np.empty(len(patches), np.float32)
        with self._lock, self._device.current():
            self._make_room(len(patches))
            for start in range(0, len(patches), self._most):
                part = slice(start, start + self._most)
                views = len(patches[part])
                for name, value in inputs.items():
                    self._host[name][:views] = value[part]
                    filled = self._host[name][: max(views, self._network.smallest)]
                    self._device.upload(self._address[name], filled)
                logits[part] = self._infer(views, "patches", lambda batch: None)
        return logits

    def _make_room(self, views: int) -> None:
        """Buffers for so many views at once, as far as the network takes them."""
        if self._most >= min(views, self._network.largest):
            return
        self._forget()
        self._most = 0  # where one of these fails, the next call begins anew
        network = self._network
        most = min(network.largest, FEW if max(views, network.smallest) <= FEW else network.largest)
        shape = (most, *network.cells)
        shapes = {"patches": shape, "positions": shape[:2], "logit": shape[:1]}
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._address: Addresses = {}
        for name, dtype in TYPES.items():
            size = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
            self._host[name] = self._device.pin(size).view(dtype).reshape(shapes[name])
            self._host[name][...] = 0
            self._address[name] = self._device.allocate(size)
        network.place(self._address, most)
        self._most = most

    def _forget(self) -> None:
        """What was recorded, of other addresses."""
        self._ran: set[tuple[int, str]] = set()
        self._graphs: dict[tuple[int, str], cuda.Work] = {}

    def _infer(self, views: int, name: str, before: Callable[[int], None]) -> npt.NDArray[Any]:
        """Logits f32 [views] of what the inputs hold, or `before` puts there.

        Args:
            before: queues work for a batch of that size; `name` tells it from others, for graphs.
        """
        # What follows the views is left from earlier ones.
        batch = max(views, self._network.smallest)
        key, work = (batch, name), functools.partial(self._enqueue, batch, before)
        replay = self._graphs.get(key)
        (replay or work)()
        self._device.wait()
        # The run before has settled what the network puts off until it knows its shapes.
        if replay is None and self._may_capture and key in self._ran:
            self._capture(key, work)
        self._ran.add(key)
        return self._host["logit"][:views]

    def _enqueue(self, batch: int, before: Callable[[int], None]) -> None:
        before(batch)
        self._network.enqueue(batch, self._device.stream)
        self._device.download(self._host["logit"][:batch], self._address["logit"])

    def _capture(self, key: tuple[int, str], work: cuda.Work) -> None:
        """Keep `work` as a graph; where that fails, say so once and go on without."""
        try:
            graph = self._device.capture(work)
        except EnvironmentLacksError as error:
            self._may_capture = False
            logger.warning("running without a CUDA graph: %s", str(error))
            return
        if len(self._graphs) == KEPT:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[key] = graph


class ViewEngine(DeviceEngine):
    """One that packs the cells of views on the device, too; see `mpft_deploy.engine.SeesViews`."""

    _packer: Packer | None = None

    def run_views(self, spec: DetectorSpec, views: Sequence[View]) -> Seen:
        """See `SeesViews`."""
        parts = []
        with self._lock, self._device.current():
            self._make_room(len(views))
            packer = self._packer_of(spec)
            for start in range(0, len(views), self._most):
                part = views[start : start + self._most]
                for index, view in enumerate(part):
                    packer.put(index, view)
                logits = self._infer(len(part), "views", packer.pack).copy()
                parts.append(Seen(logits, *packer.told(len(part))))
        return Seen(*map(np.concatenate, zip(*parts, strict=True)))

    def _packer_of(self, spec: DetectorSpec) -> Packer:
        if self._packer is None or self._packer.spec != spec:
            taken, packed = self._network.cells, (spec.tokens, 3 * spec.patch**2)
            if taken != packed:
                raise InputError(f"the engine takes patches {taken}, and the spec packs {packed}")
            self._forget()
            addresses = self._address["patches"], self._address["positions"]
            self._packer = Packer(self._device, spec, self._most, *addresses)
        return self._packer

    def _forget(self) -> None:
        self._packer = None
        super()._forget()
