"""Every version of texture_patchify, whether it runs here, and the choice among them.

`MPFT_KERNEL` forces a version by name, and fails loudly; else the first in the list that runs here
is taken. Both are settled once, at the first use. The version for a CUDA device is that of engines
there: images in host memory go to one of the others, whatever is forced.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels import cuda as library
from mpft_deploy.kernels.slow import HOW, say_so
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.kernels.texture_patchify.interop import Device, as_numpy, in_rows, outputs
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

try:
    from mpft_deploy.kernels.texture_patchify import _native
except ImportError:
    _native = None  # type: ignore[assignment]

VARIABLE = "MPFT_KERNEL"

Run: TypeAlias = Callable[[Any, int, KeepRule, int, "Patches | None"], Patches]


@dataclass(frozen=True)
class Implementation:
    """One version of texture_patchify.

    Attributes:
        name: what `MPFT_KERNEL` calls it.
        device: where its images are.
        why_not: the reason that it does not run here, or None.
        run: images, patch, keep, seed and out (or None) to Patches; checks what it is given. None
            on a device, where `cuda.launch` is.
    """

    name: str
    device: Device
    why_not: Callable[[], str | None]
    run: Run | None


@dataclass(frozen=True)
class Status:
    """An implementation as this machine sees it.

    Attributes:
        name, device: of the implementation.
        why_not: the reason that it does not run here; None if it is available.
        chosen: whether what lies on its device is given to it.
    """

    name: str
    device: Device
    why_not: str | None
    chosen: bool


def _run_native(
    name: str, images: Any, patch: int, keep: KeepRule, seed: int, out: Patches | None
) -> Patches:
    array = as_numpy(images)
    oracle.check_images(array, patch)
    if keep.kind == "random":
        oracle.check_seed(seed)
    else:
        seed = 0
    out = outputs(array, patch, keep.resolve((array.shape[1] // patch) ** 2), out)
    _native.run(name, in_rows(array), patch, keep.kind, seed, *out)
    return out


def _run_numpy(images: Any, patch: int, keep: KeepRule, seed: int, out: Patches | None) -> Patches:
    array = as_numpy(images)
    result = oracle.texture_patchify(array, patch, keep, seed)
    if out is None:
        return result
    out = outputs(array, patch, result.positions.shape[1], out)
    out.patches[...], out.positions[...], out.scores[...] = result
    return out


def _native_version(name: str) -> Implementation:
    def why_not() -> str | None:
        return HOW if _native is None else _native.why_not(name)

    return Implementation(name, "cpu", why_not, functools.partial(_run_native, name))


# For each device the fastest first. A new version is one line here.
IMPLEMENTATIONS = (
    _native_version("avx512"),
    _native_version("avx2"),
    _native_version("neon"),
    _native_version("scalar"),
    Implementation("numpy", "cpu", lambda: None, _run_numpy),
    Implementation("cuda", "cuda", library.why_not, None),
)


@functools.cache
def chosen() -> Run:
    """What images in host memory are given to: see the top.

    Raises:
        UsageError: `MPFT_KERNEL` names no version.
        EnvironmentLacksError: what it names does not run here.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced and (run := find(forced).run):
        return run
    best = next(one for one in IMPLEMENTATIONS if one.run and one.why_not() is None)
    if best.name == "numpy":
        say_so()
    assert best.run is not None
    return best.run


def find(name: str) -> Implementation:
    """The implementation called `name`, if it runs here; errors as in `chosen`."""
    for implementation in IMPLEMENTATIONS:
        if implementation.name == name:
            reason = implementation.why_not()
            if reason is not None:
                these = ", ".join(one.name for one in IMPLEMENTATIONS if one.why_not() is None)
                raise EnvironmentLacksError(
                    f"{VARIABLE}={name} does not run here: {reason}. These do: {these}"
                )
            return implementation
    raise UsageError(f"{VARIABLE}={name} is no version of texture_patchify. Versions: {_listing()}")


def implementations() -> list[Status]:
    """Every version in order of preference; raises as `chosen` does on a bad `MPFT_KERNEL`."""
    run, found = chosen(), []
    for one in IMPLEMENTATIONS:
        reason = one.why_not()
        taken = one.run is run if one.run else reason is None
        found.append(Status(one.name, one.device, reason, taken))
    return found


def _listing() -> str:
    reasons = ((one.name, one.why_not()) for one in IMPLEMENTATIONS)
    return ", ".join(f"{name} ({reason or 'available'})" for name, reason in reasons)
