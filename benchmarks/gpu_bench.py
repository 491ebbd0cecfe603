"""What gpu_suite.py measures on: the detector as engines on a GPU, frames and views, memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.detector_folder import DetectorFolder
from mpft_deploy.engine import DeviceView, cuda, native
from mpft_deploy.engine.on_device import ViewEngine
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.screen import Screener

Json = dict[str, Any]
U8 = npt.NDArray[np.uint8]

SECONDS = 2.0
"""That a figure is taken for."""

FEWEST = 10
"""Calls, which bound a median."""

WARM_UP = 3
"""Calls: a graph is captured after the second."""


@dataclass(eq=False)
class Bench:
    """What is measured on.

    dry: on a simulated device, as little as shows that it runs.
    """

    detector: DetectorFolder
    dry: bool

    @property
    def batches(self) -> tuple[int, int, int]:
        """One view, as many as streams have at once, and many."""
        return (1, 2, 3) if self.dry else (1, 8, 64)

    @functools.cache  # noqa: B019, one bench a process
    def engine(self, precision: str) -> ViewEngine:
        """The detector on the GPU."""
        data = native.write_engine(
            self.detector.spec, self.detector.stored, precision_of(precision)
        )
        engine = native.load(data, threads=0)
        assert isinstance(engine, ViewEngine)
        return engine

    def screener(self, precision: str, engine: Any, batch: int) -> Screener:
        """Verdicts by an engine, of the middle of frames."""
        info = SimpleNamespace(mixes_views=False, precision=precision_of(precision))
        bundle: Any = SimpleNamespace(spec=self.detector.spec, info=info, seal="")
        return Screener(bundle, engine, views="centre", batch=batch)

    def frames(self, count: int) -> U8:
        """Pictures u8 [count, 1080, 1920, 3], or smaller ones, with texture of all strengths."""
        random = np.random.default_rng(3)
        height, width = (90, 160) if self.dry else (1080, 1920)
        coarse = random.integers(0, 256, (count, height // 10, width // 10, 3), np.uint8)
        noise = random.integers(0, 40, (count, height, width, 3), np.uint8)
        return coarse.repeat(10, 1).repeat(10, 2) // 2 + noise

    def views(self, count: int) -> list[U8]:
        """The middle of frames, u8 [S, S, 3]."""
        size = self.detector.spec.crop.size
        found = self.frames(min(count, 8))[:, :size, :size]
        return [np.ascontiguousarray(found[index % len(found)]) for index in range(count)]

    def time(self, call: Callable[[], object]) -> list[float]:
        """Milliseconds of calls, each to its end, after warming up."""
        for _ in range(WARM_UP):
            call()
        times: list[float] = []
        end = time.perf_counter() + (0 if self.dry else SECONDS)
        while len(times) < FEWEST or time.perf_counter() < end:
            begin = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - begin) / 1e6)
        return times


class Memory:
    """Arrays on the device."""

    def __init__(self) -> None:
        self.device = cuda.open_device()

    def put(self, array: U8) -> int:
        """The address of a copy there."""
        with self.device.current():
            pinned, address = self.device.pin(array.nbytes), self.device.allocate(array.nbytes)
            pinned[...] = array.reshape(-1)
            self.device.upload(address, pinned)
            self.device.wait()
        return address

    def frame(self, pixels: U8) -> Any:
        """A copy of u8 [H, W, 3] there, by `__cuda_array_interface__`; the memory is of this."""
        interface = {"shape": pixels.shape, "typestr": "|u1", "data": (self.put(pixels), False)}
        return SimpleNamespace(__cuda_array_interface__={**interface, "version": 3})

    def view(self, pixels: U8) -> DeviceView:
        """The same as a view."""
        return DeviceView(self.put(pixels), 3 * pixels.shape[1])

    def get(self, address: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What lies there."""
        with self.device.current():
            pinned = self.device.pin(like.nbytes)
            self.device.download(pinned, address)
            self.device.wait()
        return pinned.view(like.dtype).reshape(like.shape).copy()
