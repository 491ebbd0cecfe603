"""Every version of the encoder, whether it runs here, and the choice among them.

`MPFT_KERNEL` forces a version by name and fails loudly; without it the first in the list that runs
here is taken: a GPU's, then the processor's. All give the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels.encoder import cuda, oracle
from mpft_deploy.kernels.encoder.network import Network
from mpft_deploy.kernels.encoder.oracle import F32, I32, U8
from mpft_deploy.kernels.encoder.packing import Packed, pack, unpack
from mpft_deploy.kernels.slow import HOW, say_so
from mpft_deploy.kernels.texture_patchify.interop import Device
from mpft_deploy.kernels.texture_patchify.registry import VARIABLE, Status

try:
    from mpft_deploy.kernels.encoder import _encoder
except ImportError:
    _encoder = None  # type: ignore[assignment]

Run = Callable[[U8, I32], F32]
"""Patches u8 [B, K, 3·p·p] and positions i32 [B, K], both contiguous, to logits f32 [B]."""


@dataclass(frozen=True)
class Version:
    """One version of the encoder.

    Attributes:
        name: what `MPFT_KERNEL` calls it.
        why_not: the reason that it does not run here, or None.
        make: a packed network and a number of threads to a function that runs it; None for arrays
            on a device, where `cuda.CudaEncoder` is.
        device: where its arrays are.
    """

    name: str
    why_not: Callable[[], str | None]
    make: Callable[[Packed, int], Run] | None
    device: Device = "cpu"


class Encoder:
    """A network made ready for the fastest version of the processor.

    Args:
        network: see `make_network`; a packed one is read where it lies.
        threads: how many compute, the caller's among them; changes no bit. Calls of `logits` from
            several threads take turns.
        version: one of `VERSIONS` by name, in the place of the choice.

    Raises:
        UsageError: no such version, one of a device, or threads below 1.
        EnvironmentLacksError: `MPFT_KERNEL` or `version` names one that does not run here.
    """

    def __init__(
        self, network: Network | Packed, threads: int = 2, version: str | None = None
    ) -> None:
        if threads < 1:
            raise UsageError(f"threads must be 1 or more, got {threads}")
        chosen = choose(version, "cpu")
        if chosen.make is None:
            raise UsageError(
                f"version {chosen.name} of the encoder takes arrays of a device: engines of the "
                "backend native have it (mpft_deploy.engine)"
            )
        packed = pack(network) if isinstance(network, Network) else network
        self.version = chosen.name
        self._cells, self._patch_bytes = packed.sizes.cells, 3 * packed.sizes.area
        self._run = chosen.make(packed, threads)

    def logits(self, patches: U8, positions: I32) -> F32:
        """The logit of each view, f32 [B]: those of `oracle.logit`, to the last bit.

        Args:
            patches: u8 [B, K, 3·p·p], the pixels of the kept cells in the order row, column,
                channel; K at least 1.
            positions: i32 [B, K], index of each cell in raster order, below N.

        Raises:
            UsageError: a wrong dtype, shape or position; says what was expected and what came.
        """
        batch, count = positions.shape if positions.ndim == 2 else (-1, -1)
        if patches.dtype != np.uint8 or patches.shape != (batch, count, self._patch_bytes):
            raise UsageError(
                f"patches must be uint8 [B, K, {self._patch_bytes}] for positions [B, K], got "
                f"{patches.dtype} {list(patches.shape)} for {list(positions.shape)}"
            )
        if positions.dtype != np.int32 or count < 1:
            raise UsageError(
                f"positions must be int32 [B, K] with K at least 1, got {positions.dtype} "
                f"{list(positions.shape)}"
            )
        if batch and not 0 <= positions.min() <= positions.max() < self._cells:
            raise UsageError(
                f"positions must be at least 0 and below {self._cells}, got "
                f"{positions.min()} to {positions.max()}"
            )
        return self._run(np.ascontiguousarray(patches), np.ascontiguousarray(positions))


def choose(name: str | None = None, device: Device | None = None) -> Version:
    """The version called `name` or what `MPFT_KERNEL` says, else the first that runs here, of any
    device or of that one."""
    source = f"version {name}" if name else f"{VARIABLE}={os.environ.get(VARIABLE)}"
    name = name or os.environ.get(VARIABLE)
    if not name:
        taken = (one for one in VERSIONS if device in (None, one.device))
        chosen = next(one for one in taken if one.why_not() is None)
        if chosen.name == "numpy":
            if reason := _of_other_sources():
                raise EnvironmentLacksError(reason)
            say_so()
        return chosen
    found = next((version for version in VERSIONS if version.name == name), None)
    if found is None:
        raise UsageError(f"{source} is no version of the encoder. Versions: {_listing()}")
    reason = found.why_not()
    if reason is not None:
        these = ", ".join(one.name for one in VERSIONS if one.why_not() is None)
        raise EnvironmentLacksError(f"{source} does not run here: {reason}. These do: {these}")
    return found


def _make_native(name: str, packed: Packed, threads: int) -> Run:
    *sizes, activation = dataclasses.astuple(packed.sizes)
    arrays = list(packed.arrays.values())
    try:
        encoder = _encoder.Encoder(name, sizes, activation == "quick_gelu", arrays, threads)
    except RuntimeError as error:  # the system's, which starts no more threads
        raise EnvironmentLacksError(
            f"{threads} threads cannot be started: {error}. Give fewer by --threads, or allow more "
            "to this user, service or container"
        ) from None

    def run(patches: U8, positions: I32) -> F32:
        out = np.empty(len(patches), np.float32)
        encoder.logits(patches, positions, out)
        return out

    return run


def _make_numpy(packed: Packed, threads: int) -> Run:
    network = unpack(packed)

    def run(patches: U8, positions: I32) -> F32:
        views = zip(patches, positions, strict=True)
        return np.array([oracle.logit(network, *view) for view in views], np.float32)

    return run


def _of_other_sources() -> str | None:
    """Why the native code is not that of this Python part; None if it is, or if there is none."""
    built = getattr(_encoder, "DEFINITION", "")
    if _encoder is None or built == oracle.DEFINITION:
        return None
    return (
        f"{_encoder.__file__} was built from other sources than the Python part: it computes "
        f"{f'version {built}' if built else 'an unnamed version'} of the network's definition, and "
        f"version {oracle.DEFINITION} is needed. Install mpft-deploy again, as you did before (in "
        "a checkout: `pip install -e .`)"
    )


def _native_version(name: str) -> Version:
    def why_not() -> str | None:
        return HOW if _encoder is None else _of_other_sources() or _encoder.why_not(name)

    return Version(name, why_not, functools.partial(_make_native, name))


# The fastest first. A new version is one line here.
VERSIONS = (
    Version("cuda", cuda.why_not, None, "cuda"),
    _native_version("avx512"),
    _native_version("avx2"),
    _native_version("neon"),
    _native_version("scalar"),
    Version("numpy", lambda: None, _make_numpy),
)


def statuses() -> list[Status]:
    """Every version in order of preference; raises as `choose` does on a bad `MPFT_KERNEL`. None is
    chosen where native code was built from other sources."""
    try:
        chosen = choose()
    except EnvironmentLacksError:
        if os.environ.get(VARIABLE):
            raise
        chosen = None
    return [Status(one.name, one.device, one.why_not(), chosen=one is chosen) for one in VERSIONS]


def _listing() -> str:
    reasons = ((one.name, one.why_not()) for one in VERSIONS)
    return ", ".join(f"{name} ({reason or 'available'})" for name, reason in reasons)
