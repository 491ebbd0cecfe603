"""A CUDA device as engines use it: memory, one stream, copies and graphs, by one of two packages.

cuda-python is taken where it can be imported, else PyCUDA, which has no graphs. What lies on the
device is an address; what lies on the host is a NumPy array in pinned memory, since the device
reads and writes it while Python goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.extras import how_to_install
from mpft_deploy.kernels.cuda import find_package

Bytes = npt.NDArray[np.uint8]
Pinned = npt.NDArray[Any]
Work = Callable[[], object]

BLOCKING, UNTIMED, NON_BLOCKING = 1, 2, 1
"""Flags of events (two) and streams, of the runtime's API and the driver's alike."""

REMEDIES = {
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver, or one too old; install a driver "
    "that knows CUDA 12.6 or later, as `nvidia-smi` shows, or on a Jetson JetPack 6 or later",
    "cudaErrorNoDevice": "the driver sees no device; check `nvidia-smi` and CUDA_VISIBLE_DEVICES, "
    "and that a container was started with access to the GPU",
    "cudaErrorMemoryAllocation": "the device has too little free memory; end what else runs on it, "
    "or build with a smaller --batch",
}
UNKNOWN = "see CUDA's documentation of this error"


class Facts(NamedTuple):
    """A device: compute capability like `8.7`, name, and the newest CUDA that its driver knows."""

    capability: str
    name: str
    cuda: str


class Device(Protocol):
    """The thread's current device when it was opened, and a stream of its own.

    What is allocated and captured is released with it. Every method but `current` is called inside
    that, and raises an EnvironmentLacksError that says what CUDA said and what to do.
    """

    stream: int
    """A cudaStream_t."""

    def current(self) -> AbstractContextManager[None]:
        """It is the calling thread's current device inside the block."""
        ...

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the device."""
        ...

    def pin(self, size: int) -> Bytes:
        """So many bytes on the host, pinned."""
        ...

    def upload(self, target: int, source: Pinned) -> None:
        """Queue a copy of pinned memory, contiguous, to the device."""
        ...

    def download(self, target: Pinned, source: int) -> None:
        """Queue a copy from the device to pinned memory, contiguous."""
        ...

    def copy_rows(
        self, target: int, target_pitch: int, source: int, pitch: int, width: int, rows: int
    ) -> None:
        """Queue a copy on the device of rows of `width` bytes, which begin `pitch` bytes apart."""
        ...

    def after(self, stream: int) -> None:
        """What is queued from now on begins after what that stream of another has by now."""
        ...

    def capture(self, work: Work) -> Work:
        """What `work` queues, as a graph: a call queues it all at once."""
        ...

    def wait(self) -> None:
        """Until all that was queued is done."""
        ...


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; its result, or an EnvironmentLacksError."""
    try:
        error, *results = function(*arguments)
    except RuntimeError as fault:  # cuda-python 12, where libcuda is missing or a stub
        remedy = REMEDIES["cudaErrorInsufficientDriver"]
        raise EnvironmentLacksError(f"{remedy} ({function.__name__}: {fault})") from None
    if error:
        name = getattr(error, "name", str(error))
        raise EnvironmentLacksError(f"{REMEDIES.get(name, UNKNOWN)} ({function.__name__}: {name})")
    return results[0] if results else None


class CudaPython:
    """`Device` by cuda-python; `spin` as of `mpft_deploy.engine.Backend.load`."""

    def __init__(self, cuda: Any, *, spin: bool) -> None:
        self._cuda = cuda
        self._number = call(cuda.cudaGetDevice)
        self._stream = call(cuda.cudaStreamCreateWithFlags, NON_BLOCKING)
        weakref.finalize(self, cuda.cudaStreamDestroy, self._stream)
        # A thread that waits for a stream spins, and with it one of a Jetson's few cores.
        self._event = call(cuda.cudaEventCreateWithFlags, UNTIMED | (0 if spin else BLOCKING))
        weakref.finalize(self, cuda.cudaEventDestroy, self._event)
        self.stream = int(self._stream)

    @staticmethod
    def facts(cuda: Any) -> Facts:
        """Of the current device."""
        found = call(cuda.cudaGetDeviceProperties, call(cuda.cudaGetDevice))
        name = found.name.decode("ascii", "replace").rstrip("\0")
        return _facts((found.major, found.minor), name, call(cuda.cudaDriverGetVersion))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `Device`."""
        before = call(self._cuda.cudaGetDevice)
        call(self._cuda.cudaSetDevice, self._number)
        try:
            yield
        finally:
            call(self._cuda.cudaSetDevice, before)

    def allocate(self, size: int) -> int:
        """See `Device`."""
        address: int = call(self._cuda.cudaMalloc, size)
        weakref.finalize(self, self._cuda.cudaFree, address)
        return address

    def pin(self, size: int) -> Bytes:
        """See `Device`."""
        address = call(self._cuda.cudaHostAlloc, size, self._cuda.cudaHostAllocDefault)
        weakref.finalize(self, self._cuda.cudaFreeHost, address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def upload(self, target: int, source: Pinned) -> None:
        """See `Device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._queue("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind)

    def download(self, target: Pinned, source: int) -> None:
        """See `Device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._queue("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, pitch: int, width: int, rows: int
    ) -> None:
        """See `Device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._queue("cudaMemcpy2DAsync", target, target_pitch, source, pitch, width, rows, kind)

    def after(self, stream: int) -> None:
        """See `Device`."""
        call(self._cuda.cudaEventRecord, self._event, stream)
        call(self._cuda.cudaStreamWaitEvent, self._stream, self._event, 0)

    def capture(self, work: Work) -> Work:
        """See `Device`."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(cuda.cudaStreamBeginCapture, self._stream, mode)
        try:
            work()
        except BaseException:  # capturing ends all the same: the stream cannot be used before
            cuda.cudaStreamEndCapture(self._stream)
            raise
        graph = call(cuda.cudaStreamEndCapture, self._stream)
        try:
            executable = call(cuda.cudaGraphInstantiate, graph, 0)
        finally:
            cuda.cudaGraphDestroy(graph)
        replay = functools.partial(call, cuda.cudaGraphLaunch, executable, self._stream)
        weakref.finalize(replay, cuda.cudaGraphExecDestroy, executable)
        return replay

    def wait(self) -> None:
        """See `Device`."""
        call(self._cuda.cudaEventRecord, self._event, self._stream)
        call(self._cuda.cudaEventSynchronize, self._event)

    def _queue(self, function: str, *arguments: Any) -> None:
        call(getattr(self._cuda, function), *arguments, self._stream)


class PyCuda:
    """`Device` by PyCUDA, in the device's primary context, which TensorRT and others use too."""

    def __init__(self, cuda: Any, *, spin: bool) -> None:
        self._cuda = cuda
        with _explained(cuda):
            self._context = _device(cuda).retain_primary_context()
        self._kept: list[Any] = []
        with self.current():
            self._stream = cuda.Stream(NON_BLOCKING)
            self._event = cuda.Event(UNTIMED | (0 if spin else BLOCKING))
        self.stream = int(self._stream.handle)

    @staticmethod
    def facts(cuda: Any) -> Facts:
        """Of the current device, or the first."""
        with _explained(cuda):
            device = _device(cuda)
            return _facts(device.compute_capability(), device.name(), cuda.get_driver_version())

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `Device`; explains what CUDA says inside the block."""
        with _explained(self._cuda):
            self._context.push()
            try:
                yield
            finally:
                self._cuda.Context.pop()

    def allocate(self, size: int) -> int:
        """See `Device`."""
        self._kept.append(self._cuda.mem_alloc(size))
        return int(self._kept[-1])

    def pin(self, size: int) -> Bytes:
        """See `Device`."""
        pinned: Bytes = self._cuda.pagelocked_empty(size, np.uint8)
        return pinned

    def upload(self, target: int, source: Pinned) -> None:
        """See `Device`."""
        self._cuda.memcpy_htod_async(target, source, self._stream)

    def download(self, target: Pinned, source: int) -> None:
        """See `Device`."""
        self._cuda.memcpy_dtoh_async(target, source, self._stream)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, pitch: int, width: int, rows: int
    ) -> None:
        """See `Device`."""
        copy = self._cuda.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch = pitch, target_pitch
        copy.width_in_bytes, copy.height = width, rows
        copy(self._stream)

    def after(self, stream: int) -> None:
        """See `Device`. It knows no streams of others: all that the device has is waited for."""
        self._cuda.Context.synchronize()

    def capture(self, work: Work) -> Work:
        """See `Device`."""
        raise EnvironmentLacksError(
            "PyCUDA has no CUDA graphs, so that every kernel is launched by itself; "
            + how_to_install("cuda")
        )

    def wait(self) -> None:
        """See `Device`."""
        self._event.record(self._stream)
        self._event.synchronize()


def open_device(*, spin: bool = True) -> Device:
    """The thread's current device; an EnvironmentLacksError where none can be used.

    Args:
        spin: as of `mpft_deploy.engine.Backend.load`.
    """
    kind, cuda = _package()
    return kind(cuda, spin=spin)


def facts() -> Facts:
    """Of the current device; an EnvironmentLacksError where none can be used."""
    kind, cuda = _package()
    return kind.facts(cuda)


KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """What engines on the device run on: the newest CUDA that the driver knows, such as `13.0`, its
    own version if told, and the GPU, since one capability is sold as many chips; and on a Jetson
    its module and release. An EnvironmentLacksError where none can be used."""
    from mpft_deploy import jetson

    found = facts()
    versions = {"cuda-driver": found.cuda}
    with contextlib.suppress(OSError):
        if told := re.search(r"(?<=\s)\d+\.\d+(?:\.\d+)?(?=\s)", KERNEL_MODULE.read_text()):
            versions["nvidia-driver"] = told[0]
    return {
        **versions,
        "compute-capability": found.capability,
        "gpu": found.name,
        **jetson.versions(),
    }


def _package() -> tuple[type[CudaPython] | type[PyCuda], ModuleType]:
    package = find_package()
    return (CudaPython if hasattr(package, "cudaGetDevice") else PyCuda), package


def _facts(capability: Any, name: str, cuda: int) -> Facts:
    return Facts(".".join(map(str, capability)), name, f"{cuda // 1000}.{cuda % 1000 // 10}")


def _device(cuda: Any) -> Any:
    """PyCUDA's device: that of the current context, else the first."""
    cuda.init()
    try:
        return cuda.Context.get_device()
    except cuda.LogicError:  # no context is current
        return cuda.Device(0)


@contextlib.contextmanager
def _explained(cuda: Any) -> Iterator[None]:
    """PyCUDA's errors as EnvironmentLacksError."""
    try:
        yield
    except cuda.MemoryError as error:
        raise EnvironmentLacksError(f"{REMEDIES['cudaErrorMemoryAllocation']} ({error})") from None
    except cuda.Error as error:
        text = str(error)
        known = {"no CUDA-capable": "cudaErrorNoDevice", "driver": "cudaErrorInsufficientDriver"}
        name = next((name for part, name in known.items() if part in text), "")
        raise EnvironmentLacksError(f"{REMEDIES.get(name, UNKNOWN)} ({text})") from None
