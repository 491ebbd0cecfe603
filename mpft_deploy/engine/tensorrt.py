"""TensorRT and TensorRT for RTX: two packages with one API, on an NVIDIA GPU.

Deserialising a plan runs native code out of it, so only bytes of a verified bundle come here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Precision
from mpft_deploy.engine import DeviceView, Seen, View, cuda
from mpft_deploy.engine.packer import Packer
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.extras import how_to_install
from mpft_deploy.kernels.texture_patchify import cuda as kernels
from mpft_deploy.spec import DetectorSpec

logger = logging.getLogger(__name__)

KEPT = 8
"""CUDA graphs."""

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
        """Deserialise a plan. CPU `threads` make no difference to it.

        Where the CUDA kernels are not built, cells are packed on the host.

        Raises:
            EnvironmentLacksError: there is no package, driver or device, or too little memory.
            InputError: the plan is for another device or version, or is not one of ours.
        """
        del threads
        if reason := self.why_not():
            raise EnvironmentLacksError(f"{self.title} cannot be used here: {reason}")
        if reason := kernels.why_not():
            logger.warning("cells are packed on the host: %s", reason)
            return TensorRTEngine(self, bytes(engine), spin=spin)
        return TensorRTViewEngine(self, bytes(engine), spin=spin)

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


JETSONS = ("8.7", "11.0")
"""Capabilities of Orin and Thor, which plans for all GPUs leave out, by NVIDIA's documents."""


def covers(built_for: Sequence[str], capability: str) -> bool:
    """Whether an engine runs on a capability; `8.0+` stands for 8.0 and all later ones that are not
    a Jetson's."""
    return any(
        capability == one
        or (
            one.endswith("+")
            and capability not in JETSONS
            and as_numbers(capability) >= as_numbers(one.removesuffix("+"))
        )
        for one in built_for
    )


def as_numbers(capability: str) -> tuple[int, ...]:
    """`12.0` as (12, 0), which sorts as it should."""
    return tuple(int(part) for part in capability.split("."))


def device_capability() -> str:
    """Compute capability of the current CUDA device, like `8.7`; see `cuda.facts`."""
    return cuda.facts().capability


def gpu_name() -> str:
    """The CUDA device's name: one capability is sold as many chips, with kernels of their own."""
    return cuda.facts().name


KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def driver_versions() -> dict[str, str]:
    """Newest CUDA that the driver knows, such as `13.0`, and the driver's own version if told."""
    versions = {"cuda-driver": cuda.facts().cuda}
    with contextlib.suppress(OSError):
        if found := re.search(r"(?<=\s)\d+\.\d+(?:\.\d+)?(?=\s)", KERNEL_MODULE.read_text()):
            versions["nvidia-driver"] = found[0]
    return versions


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

    What the second run of a batch size queues is recorded as a CUDA graph, which replays it at one
    launch; graphs of up to KEPT sizes are kept, since streams change theirs all the time. Batches
    above the profile's largest are run in parts, those below its smallest are filled up.
    """

    def __init__(self, flavour: TensorRT, plan: bytes, *, spin: bool) -> None:
        self._lock = threading.Lock()
        self._device = cuda.open_device(spin=spin)
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._address: dict[str, int] = {}
        self._batch = 0
        self._may_capture = not flavour.ahead
        self._ran: set[tuple[int, str]] = set()
        self._graphs: dict[tuple[int, str], cuda.Work] = {}
        with self._device.current():
            self._deserialise(flavour, plan)
            for name, (_, _, dtype) in TENSORS.items():
                self._allocate(name, np.dtype(dtype))

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
            for start in range(0, len(patches), self._largest):
                part = slice(start, start + self._largest)
                views = len(patches[part])
                for name, value in inputs.items():
                    self._host[name][:views] = value[part]
                    filled = self._host[name][: max(views, self._smallest)]
                    self._device.upload(self._address[name], filled)
                logits[part] = self._infer(views, "patches", lambda batch: None)
        return logits

    def _infer(self, views: int, name: str, before: Callable[[int], None]) -> npt.NDArray[Any]:
        """Logits f32 [views] of what the inputs hold, or `before` puts there.

        Args:
            before: queues work for a batch of that size; `name` tells it from others, for graphs.
        """
        batch = max(views, self._smallest)  # what follows the views is left from earlier ones
        key, work = (batch, name), functools.partial(self._enqueue, batch, before)
        replay = self._graphs.get(key)
        (replay or work)()
        self._device.wait()
        # The run before has settled what the context puts off until it knows its shapes.
        if replay is None and self._may_capture and key in self._ran:
            self._capture(key, work)
        self._ran.add(key)
        return self._host["logit"][:views]

    def _enqueue(self, batch: int, before: Callable[[int], None]) -> None:
        before(batch)
        if batch != self._batch:
            for name in ("patches", "positions"):
                if not self._context.set_input_shape(name, (batch, *self._host[name].shape[1:])):
                    raise InputError(f"the engine does not take a batch of {batch}")
            self._batch = batch
        if not self._context.execute_async_v3(self._device.stream):
            raise EnvironmentLacksError("the engine failed on the device; see CUDA's messages")
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

    def _deserialise(self, flavour: TensorRT, plan: bytes) -> None:
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
                f"{errors[-1] if errors else cuda.REMEDIES['cudaErrorMemoryAllocation']}"
            )
        profile = self._engine.get_tensor_profile_shape("patches", 0)
        self._smallest, self._largest = int(profile[0][0]), int(profile[2][0])

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
        """Pinned host and device memory for the largest batch."""
        shape = (self._largest, *map(int, list(self._engine.get_tensor_shape(name))[1:]))
        size = math.prod(shape) * dtype.itemsize
        self._host[name] = self._device.pin(size).view(dtype).reshape(shape)
        self._host[name][...] = 0
        self._address[name] = self._device.allocate(size)
        if not self._context.set_tensor_address(name, self._address[name]):
            raise InputError(f"the engine does not take an address for {name}")


class TensorRTViewEngine(TensorRTEngine):
    """One that packs the cells of views on the device itself; see `mpft_deploy.engine.SeesViews`.

    A view goes to the device once, from the host by way of pinned memory or from where it lies on
    the device; texture_patchify writes the network's inputs there, and the logit comes back.
    """

    _packer: Packer | None = None

    def run_views(self, spec: DetectorSpec, views: Sequence[View]) -> Seen:
        """See `SeesViews`."""
        parts = []
        with self._lock, self._device.current():
            packer = self._packer_of(spec)
            for start in range(0, len(views), self._largest):
                part = views[start : start + self._largest]
                for index, view in enumerate(part):
                    packer.put(index, view)
                tells = any(isinstance(view, DeviceView) for view in part)
                pack = functools.partial(packer.pack, tells=tells)
                logits = self._infer(len(part), "tells" if tells else "views", pack).copy()
                parts.append(Seen(logits, *packer.told(len(part))))
        return Seen(*map(np.concatenate, zip(*parts, strict=True)))

    def _packer_of(self, spec: DetectorSpec) -> Packer:
        if self._packer is None or self._packer.spec != spec:
            taken, packed = self._host["patches"].shape[1:], (spec.tokens, 3 * spec.patch**2)
            if taken != packed:
                raise InputError(f"the engine takes patches {taken}, and the spec packs {packed}")
            self._graphs.clear()
            addresses = self._address["patches"], self._address["positions"]
            self._packer = Packer(self._device, spec, self._largest, *addresses)
        return self._packer
