"""From a graph's bytes to an engine file: one builder a backend, behind one registry."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from mpft_deploy.engine import get_backend
from mpft_deploy.errors import UsageError

BUILDERS = {
    "native": "mpft_deploy.export.builders:NATIVE",
    "onnxruntime": "mpft_deploy.export.builders:ONNX",
    "openvino": "mpft_deploy.export.builders:OPENVINO",
    "tensorrt": "mpft_deploy.export.tensorrt:TENSORRT",
    "tensorrt-rtx": "mpft_deploy.export.tensorrt:RTX",
}
"""Backend name → builder. A new one is one file and one line."""


def parse_capability(text: str) -> str:
    """A compute capability, `89`, `8.9` or `sm_89`, as `8.9`; a UsageError otherwise."""
    match = re.fullmatch(r"(?:sm_?)?([1-9]\d?)\.?(\d)", text.lower(), re.ASCII)
    if not match:
        raise UsageError(f"compute capability {text!r} is not understood: write it like 89 or 8.9")
    return f"{match[1]}.{match[2]}"


def parse_batch(text: str) -> tuple[int, int, int]:
    """`MIN:USUAL:MAX`, such as `1:1:8`; a UsageError otherwise."""
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5}):(\d{1,5})", text, re.ASCII)
    if not match:
        raise UsageError(f"batch {text!r} is not understood: write MIN:USUAL:MAX, like 1:1:8")
    return int(match[1]), int(match[2]), int(match[3])


@dataclass(frozen=True)
class BuildOptions:
    """What a builder may be told; one that has no use for an option refuses it.

    Attributes:
        batch: smallest, usual and largest number of views at once.
        sm: compute capabilities of the devices to build for, like `8.9`; empty takes the builder's
            default.
        workspace: MiB of device memory that kernels may use for scratch; None leaves it free.
        timing_cache: file of kernel timings, read and written: the next build of the same graph is
            quick and chooses the same kernels.
        hardware_compatible: an engine for every device from SM 8.0 on, at some cost in speed.
        version_compatible: an engine that later versions of the same major load too.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    sm: tuple[str, ...] = ()
    workspace: int | None = None
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        low, usual, high = self.batch
        if not 1 <= low <= usual <= high:
            raise UsageError(f"batch {low}:{usual}:{high} must rise from 1 or more, like 1:1:8")

    def refuse(self, backend: str, *names: str) -> None:
        """A UsageError if one of the options `names` is set, which `backend` has no use for."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                option = "--" + field.name.replace("_", "-")
                raise UsageError(f"{option} does not go with backend {backend}")


@dataclass(frozen=True)
class Plan:
    """What will be built.

    compute_capability: CUDA devices that the engine will be for; empty for any device.
    rows: the rest by name, for people to read.
    """

    compute_capability: tuple[str, ...]
    rows: dict[str, str]


class Builder(Protocol):
    """What makes a backend's engines."""

    def plan(self, precision: str, options: BuildOptions) -> Plan:
        """Check what was asked for, before any work.

        Raises:
            UsageError: the options or the precision do not go with this backend or device.
            EnvironmentLacksError: the engine cannot be built here.
        """
        ...

    def build(
        self,
        take_model: Callable[[], bytes],
        plan: Plan,
        options: BuildOptions,
        say: Callable[[str], None],
    ) -> tuple[str, bytes]:
        """The engine's file name and bytes.

        Args:
            take_model: gives the graph, which carries the precision, or of the backend native the
                integers; once, so that nobody else holds it while an engine is built.
            plan: what `plan` made of the options.
            say: told of progress.
        """
        ...


def get_builder(backend: str) -> Builder:
    """The builder for a backend, which is known to exist."""
    builder: Builder = pkgutil.resolve_name(BUILDERS[backend])
    return builder


@dataclass(frozen=True)
class FileBuilder:
    """For a backend that reads the model itself: it is the engine.

    file: its name; what: it is, for people.
    """

    backend: str
    file: str
    what: str

    def plan(self, precision: str, options: BuildOptions) -> Plan:
        """See `Builder`."""
        options.refuse(self.backend, *(field.name for field in fields(options)))
        get_backend(self.backend)
        return Plan((), {"engine": self.what})

    def build(
        self,
        take_model: Callable[[], bytes],
        plan: Plan,
        options: BuildOptions,
        say: Callable[[str], None],
    ) -> tuple[str, bytes]:
        """See `Builder`."""
        return self.file, take_model()


GRAPH = ("engine.onnx", "the ONNX graph, for any batch")
ONNX = FileBuilder("onnxruntime", *GRAPH)
OPENVINO = FileBuilder("openvino", *GRAPH)
NATIVE = FileBuilder(
    "native", "engine.safetensors", "the detector's own integers, for any batch and processor"
)
