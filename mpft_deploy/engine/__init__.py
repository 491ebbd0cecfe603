"""Run a bundle: one file a backend, behind one registry."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Bundle, BundleInfo, Device, Precision
from mpft_deploy.cores import check_threads
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display, printable
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import DetectorSpec

logger = logging.getLogger(__name__)

BACKENDS = {
    "native": "mpft_deploy.engine.native",
    "onnxruntime": "mpft_deploy.engine.ort",
    "openvino": "mpft_deploy.engine.openvino",
    "tensorrt": "mpft_deploy.engine.tensorrt:TENSORRT",
    "tensorrt-rtx": "mpft_deploy.engine.tensorrt:RTX",
}
"""Name → the `Backend`: a module, or an object in one. A new one is one file and one line."""


class Engine(Protocol):
    """A loaded engine."""

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        ...


class TwofoldEngine(Engine, Protocol):
    """One that can judge more finely; see `mpft_deploy.bundle.Precision.again`."""

    @property
    def wide(self) -> Engine:
        """The same network with wider activations."""
        ...


def wide_of(engine: Engine) -> Engine:
    """What judges once more, of an engine of a precision that asks for it."""
    return cast(TwofoldEngine, engine).wide


class DeviceView(NamedTuple):
    """A view u8 [S, S, 3] on the engine's CUDA device.

    pointer: address of its first pixel; the pixels of a row are adjacent.
    pitch: bytes from a row to the next.
    stream: a cudaStream_t, of those who write it; what that has queued is waited for.
    """

    pointer: int
    pitch: int
    stream: int = 0


View: TypeAlias = "npt.NDArray[np.uint8] | DeviceView"


class Seen(NamedTuple):
    """What an engine says of views.

    logits: f32 [V].
    scores: i32 [V, N], of texture_patchify.
    coarse: i32 [V, M], as `mpft_deploy.fitness.coarse_scores` gives them.
    """

    logits: npt.NDArray[np.float32]
    scores: npt.NDArray[np.int32]
    coarse: npt.NDArray[np.int32]


@runtime_checkable
class SeesViews(Protocol):
    """An engine whose inputs live on a device: it packs the cells of views that lie there, too."""

    def run_views(self, spec: DetectorSpec, views: Sequence[View]) -> Seen:
        """What it says of views, u8 [S, S, 3] each, on the host or on the device.

        Args:
            spec: the detector's, by whose rule cells are kept.
        """
        ...


def logits_of(
    engine: Engine, spec: DetectorSpec, views: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Logits f32 [V] of views u8 [V, S, S, 3] on the host; cells are packed where the engine can,
    so that what is proven by them is the whole way there."""
    if isinstance(engine, SeesViews):
        return engine.run_views(spec, list(views)).logits
    cut = texture_patchify(views, spec.patch, spec.keep_rule, spec.keep_seed)
    return engine.run(cut.patches, cut.positions)


class Backend(Protocol):
    """What a backend's module offers."""

    PRECISIONS: tuple[str, ...]
    """Those of `mpft_deploy.export.recipes` that it runs."""

    def why_not(self, built_for: Sequence[str] = ()) -> str | None:
        """Why it cannot be used here and what to do, or None if it can.

        `built_for` are the compute capabilities of an engine; one that lacks this device's is a
        reason too.
        """
        ...

    def why_not_precision(self, precision: Precision) -> str | None:
        """Why this device is no place for a precision and what to do, or None.

        An engine of a type that the processor has no instructions for gives the right logits,
        dozens of times too late.
        """
        ...

    def versions(self) -> dict[str, str]:
        """What it runs on and logits may depend on, by name: packages, driver, the GPU's name."""
        ...

    def load(self, engine: bytes | memoryview, *, threads: int, spin: bool = True) -> Engine:
        """Deserialise an engine; `threads` 0 leaves the number to the backend.

        Without `spin`, threads that wait for each other sleep: a little slower by itself, much
        cheaper where other work wants the cores. Backends without such threads ignore it.
        """
        ...


def find_backend(name: str) -> Backend:
    """The backend of that name, whether it can be used here or not."""
    if name not in BACKENDS:
        raise UsageError(f"backend {name!r} is unknown: choose {', '.join(BACKENDS)}")
    backend: Backend = pkgutil.resolve_name(BACKENDS[name])
    return backend


def get_backend(name: str) -> Backend:
    """The backend of that name; fails loudly when it is unknown or cannot be used here."""
    backend = find_backend(name)
    _refuse(name, backend.why_not())
    return backend


def backend_of(bundle: Bundle) -> Backend:
    """The backend of a bundle's engine; fails loudly when it is unknown or cannot run that here."""
    info = bundle.info
    if info.backend not in BACKENDS:
        made = printable(info.versions.get("mpft-deploy", "unknown"))
        raise InputError(
            f"{display(bundle.path)} is for the backend {printable(info.backend)}, which this "
            f"version of mpft-deploy does not have: install the one that it was made with, {made}, "
            "or export the detector again"
        )
    backend = find_backend(info.backend)
    _refuse(info.backend, backend.why_not(info.compute_capability) or _of_another_system(info))
    return backend


def _refuse(name: str, reason: str | None) -> None:
    if reason:
        raise EnvironmentLacksError(f"backend {name} cannot be used here: {reason}")


def _of_another_system(info: BundleInfo) -> str | None:
    """Why a plan of TensorRT is not for this system, or None.

    One is of an operating system, an architecture and, on a Jetson, a JetPack (NVIDIA's support
    matrix). Those of TensorRT for RTX are made ahead, for every system.
    """
    if info.backend != "tensorrt":
        return None
    from mpft_deploy import jetson

    built, here = info.device, Device.here()
    was, now = jetson.jetpack(info.versions), jetson.jetpack(jetson.versions())
    if (built.system, built.machine) != (here.system, here.machine):
        what = f"{built.system} on {built.machine}, and this is {here.system} on {here.machine}"
    elif was and was != now:
        what = f"JetPack {was}, and this is JetPack {now or 'of no version that is told'}"
    else:
        return None
    return f"the engine was built for {what}: export it again on this device"


def load_engine(
    bundle: Bundle, *, threads: int = 0, spin: bool = True, self_test: bool = True
) -> Engine:
    """Load a verified bundle's engine.

    Args:
        bundle: as `read_bundle` gives it.
        threads: CPU threads; 0 takes as many as this process may use.
        spin: whether threads that wait for each other keep their cores; see `Backend.load`.
        self_test: on another device than that of the certificate, run the golden crops at the first
            load; see `mpft_deploy.engine.selftest`.

    Raises:
        EnvironmentLacksError: the backend is not here, or the device is no place for the precision.
        GateError: the self-test failed.
        InputError: the backend is unknown.
        UsageError: more threads than can be meant.
    """
    check_threads(threads)
    if reasons := bundle.certificate.reasons:
        where = display(bundle.path)
        logger.warning("%s was written although: %s", where, printable("; ".join(reasons)))
    info = bundle.info
    backend = backend_of(bundle)
    if reason := backend.why_not_precision(info.precision):
        raise EnvironmentLacksError(
            f"{display(bundle.path)} is in {info.precision}, and {reason}. Export the detector "
            "again on this device."
        )
    engine = backend.load(bundle.engine, threads=threads, spin=spin)
    if self_test:
        from mpft_deploy.engine.selftest import ensure_tested

        ensure_tested(bundle, engine)
    return engine
