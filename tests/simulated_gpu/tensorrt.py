"""TensorRT on it: plans are ONNX files, which ONNX Runtime runs on the addresses that were set."""

from __future__ import annotations

import functools
import importlib.machinery
import types

import numpy as np
import onnx
import onnxruntime

from simulated_gpu.device import Cuda, array_at


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
            name: array_at(self._addresses[name], shapes[name], dtype)
            for name, dtype in (("patches", np.uint8), ("positions", np.int32))
        }
        logits = self._engine.session.run(["logit"], feeds)[0]
        array_at(self._addresses["logit"], logits.shape, np.float32)[...] = logits


@functools.lru_cache(maxsize=4)
def _session(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
