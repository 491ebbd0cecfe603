"""The same device by PyCUDA's names."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from simulated_gpu.device import Cuda, Error


class PyCuda(types.ModuleType):
    """Stands for `pycuda.driver`, on a simulated device."""

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error, MemoryError):
        pass

    def __init__(self, cuda: Cuda) -> None:
        super().__init__("pycuda.driver")
        self._cuda, self._depth = cuda, 0
        self.Device = lambda number: self
        self.Context = types.SimpleNamespace(
            get_device=self._no_context, pop=self._pop, synchronize=self._drain
        )

    def _no_context(self):
        raise self.LogicError("cuCtxGetDevice failed: invalid device context")

    def _drain(self):
        for stream in self._cuda.streams.values():
            stream.drain()

    def _pop(self):
        self._depth -= 1

    def push(self):
        self._depth += 1

    def init(self):
        pass

    def retain_primary_context(self):
        return self

    def compute_capability(self):
        return self._cuda.capability

    def name(self):
        return "Orin"

    def get_driver_version(self):
        return 12060

    def _do(self, function, *arguments):
        assert self._depth, "no context is current"
        error, *results = getattr(self._cuda, function)(*arguments)
        if error == Error.cudaErrorMemoryAllocation:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        if error:
            raise self.Error(f"{function} failed: {error.name}")
        return results[0] if results else None

    def Stream(self, flags):  # noqa: N802
        made = self._do("cudaStreamCreateWithFlags", flags)
        made.handle = int(made)
        owner = _Owner(made, self._cuda.cudaStreamDestroy)
        owner.handle, owner.add = int(made), made.add
        return owner

    def Event(self, flags):  # noqa: N802
        event = self._do("cudaEventCreateWithFlags", flags)
        owner = _Owner(event, self._cuda.cudaEventDestroy)
        owner.record = lambda stream: self._do("cudaEventRecord", event, stream.handle)
        owner.synchronize = lambda: self._do("cudaEventSynchronize", event)
        return owner

    def mem_alloc(self, size):
        return _Owner(self._do("cudaMalloc", size), self._cuda.cudaFree)

    def pagelocked_empty(self, size, dtype):
        address = self._do("cudaHostAlloc", size, 0)
        memory = (ctypes.c_uint8 * size).from_address(address)
        memory.owner = _Owner(address, self._cuda.cudaFreeHost)
        return np.ctypeslib.as_array(memory)

    def memcpy_htod_async(self, target, source, stream):
        address = source.ctypes.data
        self._do("cudaMemcpyAsync", target, address, source.nbytes, "in", stream)

    def memcpy_dtoh_async(self, target, source, stream):
        address = target.ctypes.data
        self._do("cudaMemcpyAsync", address, source, target.nbytes, "out", stream)

    def Memcpy2D(self):  # noqa: N802
        made = Memcpy2D()
        made.cuda = self
        return made


class Memcpy2D:
    def set_src_device(self, address):
        self.source = address

    def set_dst_device(self, address):
        self.target = address

    def __call__(self, stream):
        self.cuda._do(
            "cudaMemcpy2DAsync", self.target, self.dst_pitch, self.source, self.src_pitch,
            self.width_in_bytes, self.height, "on", stream,
        )  # fmt: skip


class _Owner:
    """Gives what it holds back when it is collected, as PyCUDA's objects do."""

    def __init__(self, held: Any, release: Callable[[Any], object]) -> None:
        self.held, self.release = held, release

    def __int__(self) -> int:
        return int(self.held)

    def __del__(self) -> None:
        self.release(self.held)
