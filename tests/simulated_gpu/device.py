"""Memory, streams, events and graphs of a simulated device, as the CUDA runtime has them."""

from __future__ import annotations

import ctypes
import enum
import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np

Work = Callable[[], None]


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815, CUDA's own names
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInvalidResourceHandle = 400  # noqa: N815
    cudaErrorLaunchFailure = 719  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815


class Stream:
    def __init__(self) -> None:
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None

    def __int__(self) -> int:
        return id(self)

    def add(self, work: Work) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def drain(self) -> None:
        assert self.recording is None, "a stream that is captured cannot be waited for"
        while self.queue:
            self.queue.pop(0)()


class Cuda(types.ModuleType):
    """Stands for `cuda.bindings.runtime`.

    copies: kind and bytes of each that was done; called: names of its functions, in order; failing:
    the number of a call, from 1, that fails, if any; blocks: memory of the device and of the host.
    """

    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self, capability: tuple[int, int] = (8, 7)) -> None:
        super().__init__("cuda.bindings.runtime")
        self.capability = capability
        self.blocks: dict[int, Any] = {}
        self.host: set[int] = set()
        self.streams: dict[int, Stream] = {0: Stream()}
        self.events: dict[int, Any] = {}
        self.launched = 0
        self.graphs: set[int] = set()
        self.copies: list[tuple[str, int]] = []
        self.called: list[str] = []
        self.failing = 0
        self.device = 0
        self.no_memory = False
        self.no_capture = False
        self.cudaMemcpyKind = types.SimpleNamespace(
            cudaMemcpyHostToDevice="in",
            cudaMemcpyDeviceToHost="out",
            cudaMemcpyDeviceToDevice="on",
        )
        self.cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cuda") or not isinstance(value, types.MethodType):
            return value

        @functools.wraps(value)
        def function(*arguments: Any) -> Any:
            self.called.append(name)
            if len(self.called) == self.failing:
                if name == "cudaStreamEndCapture":  # which ends it, whatever it says
                    value(*arguments)
                return (Error.cudaErrorLaunchFailure, None)
            return value(*arguments)

        return function

    def cudaGetDevice(self):  # noqa: N802
        return Error.cudaSuccess, self.device

    def cudaSetDevice(self, device):  # noqa: N802
        self.device = device
        return (Error.cudaSuccess,)

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        major, minor = self.capability
        return Error.cudaSuccess, types.SimpleNamespace(name=b"Orin\0", major=major, minor=minor)

    def cudaDriverGetVersion(self):  # noqa: N802
        return Error.cudaSuccess, 12060

    def _allocate(self, size):
        if self.no_memory:
            return Error.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xAB, size)  # memory is never clean
        self.blocks[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaMalloc(self, size):  # noqa: N802
        return self._allocate(size)

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        error, address = self._allocate(size)
        self.host.add(address)
        return error, address

    def cudaFree(self, address):  # noqa: N802
        del self.blocks[address]
        return (Error.cudaSuccess,)

    def cudaFreeHost(self, address):  # noqa: N802
        self.host.remove(address)
        del self.blocks[address]
        return (Error.cudaSuccess,)

    def _within(self, address, size, *, host):
        """Whether so many bytes from an address on lie in one block, of that kind."""
        return any(
            start <= address and address + size <= start + len(block)
            for start, block in self.blocks.items()
            if (start in self.host) == host
        )

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        stream = Stream()
        self.streams[int(stream)] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream):  # noqa: N802
        del self.streams[int(stream)]
        return (Error.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags):  # noqa: N802
        event = types.SimpleNamespace(flags=flags, stream=None)
        self.events[id(event)] = event
        return Error.cudaSuccess, event

    def cudaEventDestroy(self, event):  # noqa: N802
        del self.events[id(event)]
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event, stream):  # noqa: N802
        event.stream = self.streams[int(stream)]
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event):  # noqa: N802
        event.stream.drain()
        return (Error.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream, event, flags):  # noqa: N802
        stream.add(event.stream.drain)
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):  # noqa: N802
        return self.cudaMemcpy2DAsync(target, count, source, count, count, 1, kind, stream)

    def cudaMemcpy2DAsync(  # noqa: N802
        self, target, target_pitch, source, pitch, width, rows, kind, stream
    ):
        def copy() -> None:
            last = rows - 1
            assert self._within(target, last * target_pitch + width, host=kind == "out")
            assert self._within(source, last * pitch + width, host=kind == "in")
            for row in range(rows):
                ctypes.memmove(target + row * target_pitch, source + row * pitch, width)
            self.copies.append((kind, width * rows))

        stream.add(copy)
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert not stream.queue, "work of before would be lost from the comparison"
        stream.recording = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        graph, stream.recording = stream.recording, None
        if self.no_capture:
            return Error.cudaErrorStreamCaptureUnsupported, None
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        executable = tuple(graph)
        self.graphs.add(id(executable))
        return Error.cudaSuccess, executable

    def cudaGraphDestroy(self, graph):  # noqa: N802
        graph.clear()
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable):  # noqa: N802
        self.graphs.remove(id(executable))
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable, stream):  # noqa: N802
        if id(executable) not in self.graphs:
            return (Error.cudaErrorInvalidResourceHandle,)
        self.launched += 1
        for work in executable:
            stream.add(work)
        return (Error.cudaSuccess,)


class DeviceArray:
    """An array on a simulated device, in rows of any pitch, by `__cuda_array_interface__`."""

    def __init__(self, cuda: Cuda, array: np.ndarray, pad: int = 0, stream: int | None = None):
        height, width = array.shape[:2]
        self.pitch = 3 * width + pad
        _, self.address = cuda.cudaMalloc(self.pitch * height)
        self.rows = array_at(self.address, (height, self.pitch), np.uint8)
        self.rows[:, : 3 * width] = array.reshape(height, -1)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": (self.pitch, 3, 1),
            "stream": stream,
            "version": 3,
        }


def array_at(address, shape, dtype):
    """What lies there."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
