"""TensorRT and TensorRT for RTX: two packages with one API, on an NVIDIA GPU.

Deserialising a plan runs native code out of it, so only bytes of a verified bundle come here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpft_deploy.bundle import Precision
from mpft_deploy.engine import cuda
from mpft_deploy.engine.on_device import Addresses, DeviceEngine, ViewEngine
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.extras import how_to_install
from mpft_deploy.kernels import cuda as kernels

TENSORS = {
    "patches": ("INPUT", "UINT8"),
    "positions": ("INPUT", "INT32"),
    "logit": ("OUTPUT", "FLOAT"),
}
"""Name → mode and TensorRT's type."""


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

    # Without `int8-static` and `fp8`: the rest would be in float32, without TF32, and the whole
    # slower than fp16.
    PRECISIONS = ("fp32", "fp16", "bf16", "int8-static+fp16", "fp8+fp16")

    def why_no_package(self) -> str | None:
        """Why its package cannot be used, device or not; all that building for RTX needs."""
        try:
            version = self.version()
        except (ImportError, OSError, AttributeError) as error:  # the last: a folder of its name
            return (
                f"the package {self.package} is not installed, or cannot be loaded ({error}); "
                f"{self._install()}"
            )
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
            here = cuda.facts().capability
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
        with contextlib.suppress(EnvironmentLacksError):
            # Kernels are chosen by the GPU; a plan of TensorRT for RTX is compiled by the driver.
            versions |= cuda.versions()
        return versions

    def load(self, engine: bytes | memoryview, *, threads: int, spin: bool = True) -> DeviceEngine:
        """Deserialise a plan. CPU `threads` make no difference to it.

        Where the CUDA kernels are not built, it takes no views of the device.

        Raises:
            EnvironmentLacksError: there is no package, driver or device, or too little memory.
            InputError: the plan is for another device or version, or is not one of ours.
        """
        del threads
        if reason := self.why_not():
            raise EnvironmentLacksError(f"{self.title} cannot be used here: {reason}")
        make = functools.partial(Plan, self, bytes(engine))
        return (DeviceEngine if kernels.why_not() else ViewEngine)(make, spin=spin)

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


def make_logger(trt: Any, tell: Callable[[str], None]) -> Any:
    """A logger of TensorRT that passes errors on and leaves the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the package is known only now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                tell(message)

    return Logger()


class Plan:
    """A plan that was deserialised; see `mpft_deploy.engine.on_device.Network`."""

    def __init__(self, flavour: TensorRT, plan: bytes) -> None:
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
        low, _, high = self._engine.get_tensor_profile_shape("patches", 0)
        self.cells = (int(high[1]), int(high[2]))
        self.smallest, self.largest = int(low[0]), int(high[0])
        self.captured = not flavour.ahead
        self._batch = 0

    def place(self, addresses: Addresses, most: int) -> None:
        """See `Network`."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise InputError(f"the engine does not take an address for {name}")

    def enqueue(self, batch: int, stream: int) -> None:
        """See `Network`."""
        if batch != self._batch:
            for name, shape in (("patches", self.cells), ("positions", self.cells[:1])):
                if not self._context.set_input_shape(name, (batch, *shape)):
                    raise InputError(f"the engine does not take a batch of {batch}")
            self._batch = batch
        if not self._context.execute_async_v3(stream):
            raise EnvironmentLacksError("the engine failed on the device; see CUDA's messages")

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
        if found != TENSORS:
            raise InputError(f"this engine has tensors {found} and not {TENSORS}")
