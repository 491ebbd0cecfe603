"""A CUDA device, our kernels on it and TensorRT, as far as engines use them, on the host.

Streams are queues that run when they are waited for, captures record and graphs replay, so what
forgets to wait, captures too early, or mixes up addresses shows. Kernels are the oracle. A "plan"
is an ONNX file, which ONNX Runtime runs on the memory of the addresses that were set.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import importlib.machinery
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime

from mpft_deploy.kernels import cuda as library
from mpft_deploy.kernels.encoder import VERSIONS, Encoder
from mpft_deploy.kernels.encoder.packing import Packed, Sizes, packed_shapes
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.kernels.texture_patchify.cuda import KEEP_CODES, pitch_of
from mpft_deploy.spec import KeepRule

Work = Callable[[], None]


def install(monkeypatch, package="cuda-python", capability=(8, 7), **plans):
    """A simulated device with TensorRT and our kernels, by one of the two packages.

    plans: of `TensorRT`.
    """
    cuda = Cuda(capability)
    cuda.python = package == "cuda-python"
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda if cuda.python else None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", PyCuda(cuda))
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT(cuda, **plans))
    cuda.kernels = Kernels(cuda)
    monkeypatch.setattr(library, "load_library", lambda: cuda.kernels)
    return cuda


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
        self.cudaDeviceAttr = types.SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor=0, cudaDevAttrComputeCapabilityMinor=1
        )

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

    def cudaGetDeviceCount(self):  # noqa: N802
        return Error.cudaSuccess, 2

    def cudaGetDevice(self):  # noqa: N802
        return Error.cudaSuccess, self.device

    def cudaSetDevice(self, device):  # noqa: N802
        self.device = device
        return (Error.cudaSuccess,)

    def cudaDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return Error.cudaSuccess, self.capability[attribute]

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        return Error.cudaSuccess, types.SimpleNamespace(name=b"Orin\0")

    def cudaDriverGetVersion(self):  # noqa: N802
        return Error.cudaSuccess, 12060

    def _allocate(self, size):
        if self.no_memory:
            return Error.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xAB, size)  # memory is never clean
        self.blocks[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        error, address = self._allocate(size)
        self.host.add(address)
        return error, address

    def cudaMalloc(self, size):  # noqa: N802
        return self._allocate(size)

    def _free(self, address):
        del self.blocks[address]
        return (Error.cudaSuccess,)

    def cudaFree(self, address):  # noqa: N802
        return self._free(address)

    def cudaFreeHost(self, address):  # noqa: N802
        self.host.remove(address)
        return self._free(address)

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
            str(number): np.copy(_at(arrays[number], shape, dtype))
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
        array = _at(address, shape, dtype)
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


class DeviceArray:
    """An array on a simulated device, in rows of any pitch, by `__cuda_array_interface__`."""

    def __init__(self, cuda: Cuda, array: np.ndarray, pad: int = 0, stream: int | None = None):
        height, width = array.shape[:2]
        self.pitch = 3 * width + pad
        _, self.address = cuda.cudaMalloc(self.pitch * height)
        self.rows = _at(self.address, (height, self.pitch), np.uint8)
        self.rows[:, : 3 * width] = array.reshape(height, -1)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": (self.pitch, 3, 1),
            "stream": stream,
            "version": 3,
        }


class TensorRT(types.ModuleType):
    """Stands for `tensorrt`; `profile` is the smallest, usual and largest batch of its plans."""

    def __init__(self, cuda: Cuda, profile: tuple[int, int, int] = (1, 1, 4)) -> None:
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.__version__ = "10.3.0"
        self.ILogger = Logger
        self.Runtime = lambda logger: Runtime(cuda, logger, profile)


class Logger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class Runtime:
    def __init__(self, cuda, logger, profile) -> None:
        self._arguments = cuda, profile
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        try:
            model = onnx.load_from_string(plan)
        except Exception:
            self._logger.log(Logger.WARNING, "hm")
            self._logger.log(Logger.ERROR, "Serialization failed: magic tag does not match")
            return None
        return PlanEngine(model, *self._arguments)


class PlanEngine:
    def __init__(self, model, cuda, profile) -> None:
        self.session = _session(model.SerializeToString())
        self.cuda = cuda
        self._profile = profile
        graph = model.graph
        self._tensors = {
            value.name: (mode, value.type.tensor_type)
            for mode, values in (("INPUT", graph.input), ("OUTPUT", graph.output))
            for value in values
        }
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return types.SimpleNamespace(name=self._tensors[name][0])

    def get_tensor_dtype(self, name):
        kind = onnx.TensorProto.DataType.Name(self._tensors[name][1].elem_type)
        return types.SimpleNamespace(name=kind)

    def get_tensor_shape(self, name):
        return [d.dim_value or -1 for d in self._tensors[name][1].shape.dim]

    def get_tensor_profile_shape(self, name, index):
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in self._profile]

    def create_execution_context(self):
        return Context(self, self._profile)


class Context:
    def __init__(self, engine, profile) -> None:
        self._engine = engine
        self._profile = profile
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._settled = False

    def set_tensor_address(self, name, address):
        assert address in self._engine.cuda.blocks.keys() - self._engine.cuda.host
        self._addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        self._shapes[name] = shape
        self._settled = False
        return self._profile[0] <= shape[0] <= self._profile[2]

    def execute_async_v3(self, handle):
        stream = self._engine.cuda.streams[handle]
        assert self._settled or stream.recording is None, "captured before a run of this shape"
        self._settled = True
        shapes = dict(self._shapes)
        stream.add(lambda: self._run(shapes))
        return True

    def _run(self, shapes):
        feeds = {
            name: _at(self._addresses[name], shapes[name], dtype)
            for name, dtype in (("patches", np.uint8), ("positions", np.int32))
        }
        logits = self._engine.session.run(["logit"], feeds)[0]
        _at(self._addresses["logit"], logits.shape, np.float32)[...] = logits


@functools.lru_cache(maxsize=4)
def _session(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _at(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
