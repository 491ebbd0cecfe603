"""A CUDA device and TensorRT as far as `mpft_deploy.engine.tensorrt` uses them, on the host.

Streams are queues that run when they are waited for, captures record and graphs replay, so what
forgets to wait, captures too early, or mixes up addresses shows. A "plan" is an ONNX file, which
ONNX Runtime runs on the memory of the addresses that were set.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime

Work = Callable[[], None]


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815, CUDA's own names
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInvalidResourceHandle = 400  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815


class Stream:
    def __init__(self) -> None:
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None

    def __int__(self) -> int:
        return id(self)

    def add(self, work: Work) -> None:
        (self.queue if self.recording is None else self.recording).append(work)


class Cuda(types.ModuleType):
    """Stands for `cuda.bindings.runtime`."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self, capability: tuple[int, int] = (8, 7)) -> None:
        super().__init__("cuda.bindings.runtime")
        self.capability = capability
        self.blocks: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.launched = 0
        self.graphs: set[int] = set()
        self.no_memory = False
        self.no_capture = False
        self.cudaMemcpyKind = types.SimpleNamespace(
            cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out"
        )
        self.cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.cudaDeviceAttr = types.SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor=0, cudaDevAttrComputeCapabilityMinor=1
        )

    def cudaGetDeviceCount(self):  # noqa: N802
        return Error.cudaSuccess, 1

    def cudaGetDevice(self):  # noqa: N802
        return Error.cudaSuccess, 0

    def cudaDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return Error.cudaSuccess, self.capability[attribute]

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        return Error.cudaSuccess, types.SimpleNamespace(name=b"Orin\0")

    def cudaDriverGetVersion(self):  # noqa: N802
        return Error.cudaSuccess, 12060

    def _allocate(self, size):
        if self.no_memory:
            return Error.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)(*([0xAB] * size))  # memory is never clean
        self.blocks[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        return self._allocate(size)

    def cudaMalloc(self, size):  # noqa: N802
        return self._allocate(size)

    def _free(self, address):
        del self.blocks[address]
        return (Error.cudaSuccess,)

    def cudaFree(self, address):  # noqa: N802
        return self._free(address)

    def cudaFreeHost(self, address):  # noqa: N802
        return self._free(address)

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        stream = Stream()
        self.streams[int(stream)] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream):  # noqa: N802
        del self.streams[int(stream)]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):  # noqa: N802
        stream.add(lambda: ctypes.memmove(target, source, count) and None)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        assert stream.recording is None, "a stream that is captured cannot be waited for"
        for work in stream.queue:
            work()
        stream.queue.clear()
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
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
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
        assert address in self._engine.cuda.blocks
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


def _at(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
