"""TensorRT and TensorRT for RTX: two packages with one API, on an NVIDIA GPU.

Deserialising a plan runs native code out of it, so only bytes of a verified bundle come here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import logging
import math
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Precision
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.extras import how_to_install

TENSORS = {
    "patches": ("INPUT", "UINT8", np.uint8),
    "positions": ("INPUT", "INT32", np.int32),
    "logit": ("OUTPUT", "FLOAT", np.float32),
}
"""Name → mode, TensorRT's type, NumPy's type."""


@dataclass(frozen=True)
class TensorRT:
    """One of the two packages as a backend; see `mpft_deploy.engine.Backend`.

    Attributes:
        title: its name for people.
        package: the module to import.
        extra: that brings it.
        otherwise: how else to get it, the end of a message.
        oldest: first version, major and minor, that is known to do.
        newest: last major version that is known to do.
        ahead: whether plans are made ahead, without a device, and finished where they are loaded;
            that one captures CUDA graphs itself too.
    """

    title: str
    package: str
    extra: str
    otherwise: str
    oldest: tuple[int, int]
    newest: int
    ahead: bool

    PRECISIONS = (
        "fp32", "fp16", "bf16", "int8-static", "int8-static+fp16", "fp8", "fp8+fp16",
    )  # fmt: skip

    def why_no_package(self) -> str | None:
        """Why its package cannot be used, device or not; all that building for RTX needs."""
        if importlib.util.find_spec(self.package) is None:
            return f"the package {self.package} is not installed; {self._install()}"
        try:
            version = self.version()
        except (ImportError, OSError) as error:
            return f"the package {self.package} cannot be loaded ({error}); {self._install()}"
        except AttributeError:  # a folder of that name, which Python takes for a package
            return f"the package {self.package} is not installed; {self._install()}"
        major, minor = (int(part) for part in version.split(".")[:2])
        if (major, minor) < self.oldest or major > self.newest:
            wanted = f"{self.oldest[0]}.{self.oldest[1]} to {self.newest}.x"
            return f"{self.title} {version} is installed and {wanted} is needed; {self._install()}"
        return None

    def why_not(self, built_for: Sequence[str] = ()) -> str | None:
        """Why it cannot be used here and what to do, or None if it can.

        Args:
            built_for: compute capabilities that an engine was built for; empty for no engine.
        """
        if reason := self.why_no_package():
            return reason
        try:
            here = device_capability()
        except EnvironmentLacksError as error:
            return str(error)
        if built_for and not covers(built_for, here):
            how = f"with --sm {here.replace('.', '')}" if self.ahead else "on this device"
            return (
                f"the engine was built for SM {', '.join(built_for)} and this device is SM {here}: "
                f"export it again {how}"
            )
        return None

    def _install(self) -> str:
        return how_to_install(self.extra) + self.otherwise

    def why_not_precision(self, precision: Precision) -> str | None:
        """None: a plan for this device was built of what the device has."""
        return None

    def versions(self) -> dict[str, str]:
        """What an engine of this backend runs on."""
        versions = {self.package.replace("_", "-"): self.version()}
        try:
            capability = device_capability()
        except EnvironmentLacksError:
            return versions
        # Kernels are chosen by the GPU, and a plan of TensorRT for RTX is compiled by the driver.
        return {
            **versions,
            **driver_versions(),
            "compute-capability": capability,
            "gpu": gpu_name(),
        }

    def load(
        self, engine: bytes | memoryview, *, threads: int, spin: bool = True
    ) -> TensorRTEngine:
        """Deserialise a plan. CPU `threads` and how they wait make no difference to it.

        Raises:
            EnvironmentLacksError: there is no package, driver or device, or too little memory.
            InputError: the plan is for another device or version, or is not one of ours.
        """
        del threads, spin
        if reason := self.why_not():
            raise EnvironmentLacksError(f"{self.title} cannot be used here: {reason}")
        return TensorRTEngine(self, bytes(engine))

    def module(self) -> Any:
        """The imported package."""
        return importlib.import_module(self.package)

    def version(self) -> str:
        """The package's version."""
        return str(self.module().__version__)


TENSORRT = TensorRT(
    "TensorRT",
    "tensorrt",
    "tensorrt",
    ", or on a Jetson, where JetPack brings it, make the environment with `python -m venv "
    "--system-site-packages`",
    (10, 3),
    11,
    ahead=False,
)
RTX = TensorRT(
    "TensorRT for RTX",
    "tensorrt_rtx",
    "rtx",
    "",
    (1, 2),
    1,
    ahead=True,
)


def covers(built_for: Sequence[str], capability: str) -> bool:
    """Whether an engine runs on a capability; `8.0+` stands for 8.0 and all later ones."""
    return any(
        capability == one
        or (one.endswith("+") and as_numbers(capability) >= as_numbers(one.removesuffix("+")))
        for one in built_for
    )


def as_numbers(capability: str) -> tuple[int, ...]:
    """`12.0` as (12, 0), which sorts as it should."""
    return tuple(int(part) for part in capability.split("."))


def device_capability() -> str:
    """Compute capability of the CUDA device, such as `8.9`; an EnvironmentLacksError without."""
    cuda = cuda_runtime()
    call(cuda.cudaGetDeviceCount)
    device = call(cuda.cudaGetDevice)
    attribute = cuda.cudaDeviceAttr
    return ".".join(
        str(call(cuda.cudaDeviceGetAttribute, which, device))
        for which in (
            attribute.cudaDevAttrComputeCapabilityMajor,
            attribute.cudaDevAttrComputeCapabilityMinor,
        )
    )


def gpu_name() -> str:
    """The CUDA device's name: one capability is sold as many chips, with kernels of their own."""
    cuda = cuda_runtime()
    name = call(cuda.cudaGetDeviceProperties, call(cuda.cudaGetDevice)).name
    return name.decode("ascii", "replace").rstrip("\0") if isinstance(name, bytes) else str(name)


KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def driver_versions() -> dict[str, str]:
    """Newest CUDA that the driver knows, such as `13.0`, and the driver's own version if told."""
    version = call(cuda_runtime().cudaDriverGetVersion)
    versions = {"cuda-driver": f"{version // 1000}.{version % 1000 // 10}"}
    with contextlib.suppress(OSError):
        if found := re.search(r"(?<=\s)\d+\.\d+(?:\.\d+)?(?=\s)", KERNEL_MODULE.read_text()):
            versions["nvidia-driver"] = found[0]
    return versions


def cuda_runtime() -> Any:
    """cuda-python's binding of the CUDA runtime; an EnvironmentLacksError where it is absent."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        raise EnvironmentLacksError(
            f"the package cuda-python is not installed; {how_to_install('cuda')}"
        ) from None


REMEDIES = {
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver, or one too old; install a driver "
    "that knows CUDA 12.6 or later, as `nvidia-smi` shows, or on a Jetson JetPack 6 or later",
    "cudaErrorNoDevice": "the driver sees no device; check `nvidia-smi` and CUDA_VISIBLE_DEVICES, "
    "and that a container was started with access to the GPU",
    "cudaErrorMemoryAllocation": "the device has too little free memory; end what else runs on it, "
    "or build with a smaller --batch",
}


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; its result, or an EnvironmentLacksError."""
    try:
        error, *results = function(*arguments)
    except RuntimeError as fault:  # cuda-python 12, where libcuda is missing or a stub
        remedy = REMEDIES["cudaErrorInsufficientDriver"]
        raise EnvironmentLacksError(f"{remedy} ({function.__name__}: {fault})") from None
    if error:
        name = getattr(error, "name", str(error))
        remedy = REMEDIES.get(name, "see the CUDA runtime's documentation of this error")
        raise EnvironmentLacksError(f"{remedy} ({function.__name__}: {name})")
    return results[0] if results else None


def make_logger(trt: Any, tell: Callable[[str], None]) -> Any:
    """A logger of TensorRT that passes errors on and leaves the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the package is known only now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                tell(message)

    return Logger()


class TensorRTEngine:
    """A plan with its buffers and stream; see `mpft_deploy.engine.Engine`.

    The second run of the same batch size in a row is captured as a CUDA graph, copies included, and
    replayed from then on: a camera, which shows one frame at a time, costs one launch a frame.
    Batches above the profile's largest are run in parts, those below its smallest are filled up.
    """

    def __init__(self, flavour: TensorRT, plan: bytes) -> None:
        self._cuda = cuda = cuda_runtime()
        self._lock = threading.Lock()
        trt = flavour.module()
        errors: list[str] = []
        self._logger = make_logger(trt, errors.append)
        self._runtime = trt.Runtime(self._logger)
        # Version-compatible plans bring their own runtime; the bundle's hashes vouch for it.
        self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise InputError(
                f"{flavour.title} {trt.__version__} cannot load this engine: "
                f"{errors[-1] if errors else 'it does not say why'}. A plan loads only on the kind "
                "of device and with the version that it was built for (see `mpft inspect`)"
            )
        self._check_tensors()
        self._context = self._make_context(trt, flavour)
        if self._context is None:
            raise EnvironmentLacksError(
                f"{flavour.title} cannot prepare this engine: "
                f"{errors[-1] if errors else REMEDIES['cudaErrorMemoryAllocation']}"
            )
        profile = self._engine.get_tensor_profile_shape("patches", 0)
        self._smallest, self._largest = int(profile[0][0]), int(profile[2][0])
        self._stream = call(cuda.cudaStreamCreateWithFlags, cuda.cudaStreamNonBlocking)
        weakref.finalize(self, cuda.cudaStreamDestroy, self._stream)
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        for name, (_, _, dtype) in TENSORS.items():
            self._allocate(name, np.dtype(dtype))
        self._batch = 0
        self._may_capture = not flavour.ahead
        self._graph: Any = None
        self._end_graph: Callable[[], object] = lambda: None

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        for name, value in (("patches", patches), ("positions", positions)):
            host = self._host[name]
            if value.dtype != host.dtype or value.shape[1:] != host.shape[1:]:
                raise InputError(
                    f"the engine takes {name} as {host.dtype} {host.shape}, of any batch, and was "
                    f"given {value.dtype} {value.shape}"
                )
        logits = np.empty(len(patches), np.float32)
        with self._lock:
            for start in range(0, len(patches), self._largest):
                part = slice(start, start + self._largest)
                logits[part] = self._run_part(patches[part], positions[part])
        return logits

    def _run_part(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[Any]:
        views = len(patches)
        self._host["patches"][:views] = patches
        self._host["positions"][:views] = positions
        batch = max(views, self._smallest)  # what follows the views is left from earlier ones
        if batch != self._batch:
            self._set_batch(batch)
        elif self._may_capture and self._graph is None:
            self._capture()
        if self._graph is None:
            self._enqueue()
        else:
            call(self._cuda.cudaGraphLaunch, self._graph, self._stream)
        call(self._cuda.cudaStreamSynchronize, self._stream)
        return self._host["logit"][:views]

    def _set_batch(self, batch: int) -> None:
        """Shapes of the next runs. A captured graph holds the old ones and is given up."""
        self._end_graph()
        self._graph = None
        for name in ("patches", "positions"):
            if not self._context.set_input_shape(name, (batch, *self._host[name].shape[1:])):
                raise InputError(f"the engine does not take a batch of {batch}")
        self._batch = batch

    def _enqueue(self) -> None:
        """Queue copies in, the network and the copy out, for `_batch` views."""
        kind = self._cuda.cudaMemcpyKind
        for name in ("patches", "positions"):
            source = self._host[name][: self._batch]
            call(
                self._cuda.cudaMemcpyAsync,
                self._device[name],
                source.ctypes.data,
                source.nbytes,
                kind.cudaMemcpyHostToDevice,
                self._stream,
            )
        if not self._context.execute_async_v3(int(self._stream)):
            raise EnvironmentLacksError("the engine failed on the device; see CUDA's messages")
        target = self._host["logit"][: self._batch]
        call(
            self._cuda.cudaMemcpyAsync,
            target.ctypes.data,
            self._device["logit"],
            target.nbytes,
            kind.cudaMemcpyDeviceToHost,
            self._stream,
        )

    def _capture(self) -> None:
        """Record `_enqueue` as a graph; where that fails, say so once and go on without."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(cuda.cudaStreamBeginCapture, self._stream, mode)
        failure = None
        try:
            self._enqueue()
        except EnvironmentLacksError as error:
            failure = error
        try:
            # Capturing ends, whatever came of it: the stream cannot be used before.
            graph = call(cuda.cudaStreamEndCapture, self._stream)
            if failure is None:
                self._graph = call(cuda.cudaGraphInstantiate, graph, 0)
                self._end_graph = weakref.finalize(self, cuda.cudaGraphExecDestroy, self._graph)
            call(cuda.cudaGraphDestroy, graph)
        except EnvironmentLacksError as error:
            failure = failure or error
        if failure is not None:
            self._may_capture = False
            logging.getLogger(__name__).warning("running without a CUDA graph: %s", failure)

    def _make_context(self, trt: Any, flavour: TensorRT) -> Any:
        if not flavour.ahead:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Eager, so that the kernels of the first run, which is certified, are those of the last.
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(config)

    def _check_tensors(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {
            name: (engine.get_tensor_mode(name).name, engine.get_tensor_dtype(name).name)
            for name in names
        }
        expected = {name: (mode, kind) for name, (mode, kind, _) in TENSORS.items()}
        if found != expected:
            raise InputError(f"this engine has tensors {found} and not {expected}")

    def _allocate(self, name: str, dtype: np.dtype[Any]) -> None:
        """Pinned host and device memory for the largest batch, released with the engine."""
        cuda = self._cuda
        shape = (self._largest, *map(int, list(self._engine.get_tensor_shape(name))[1:]))
        size = math.prod(shape) * dtype.itemsize
        host = call(cuda.cudaHostAlloc, size, cuda.cudaHostAllocDefault)
        weakref.finalize(self, cuda.cudaFreeHost, host)
        self._device[name] = device = call(cuda.cudaMalloc, size)
        weakref.finalize(self, cuda.cudaFree, device)
        memory = (ctypes.c_uint8 * size).from_address(host)
        self._host[name] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        self._host[name][...] = 0
        if not self._context.set_tensor_address(name, device):
            raise InputError(f"the engine does not take an address for {name}")
