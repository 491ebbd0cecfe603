"""An engine that is loaded on another device than it was certified on proves itself there, once.

Backends promise the same logits on another processor or version only roughly. So the first load on
one runs the bundle's golden crops (a few dozen views) as a smoke test, and refuses an engine whose
logits are further off than they were where it was certified. A success is recorded in the user's
cache, and the next load is as quick as any.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from mpft_deploy.bundle import Bundle, Device
from mpft_deploy.engine import Engine, backend_of
from mpft_deploy.errors import EnvironmentLacksError, GateError
from mpft_deploy.files import (
    cache_folder,
    canonical_json,
    display,
    printable,
    sha256,
    write_atomic,
)

logger = logging.getLogger(__name__)


def explain_device(bundle: Bundle) -> str | None:
    """A sentence on how this device differs from the one of the certificate; None if it does not.

    Processor, machine and system count, and the versions of what the backend runs on. An engine
    that ran nowhere yet is certified on no device.
    """
    here, versions = Device.here(), backend_of(bundle).versions()
    certified = {name: bundle.info.versions.get(name, "unknown") for name in versions}
    not_run = bundle.certificate.not_run is not None
    if here == bundle.info.device and versions == certified and not not_run:
        return None
    return (
        f"{'built, and never run, on' if not_run else 'certified on'} "
        f"{_describe(bundle.info.device, certified)}; "
        f"this device is {_describe(here, versions)}"
    )


def ensure_tested(bundle: Bundle, engine: Engine) -> None:
    """Run the golden crops, unless the device is that of the certificate or they passed here.

    Raises:
        GateError: the engine does worse here than its certificate allows.
    """
    difference = explain_device(bundle)
    if difference is None or _is_recorded(bundle):
        return
    from mpft_deploy.engine.certificate import recheck

    logger.warning("%s: %s. Running its golden crops first.", display(bundle.path), difference)
    if reasons := recheck(engine, bundle)[1]:
        raise GateError(
            f"{display(bundle.path)} does worse here than its certificate allows: "
            f"{'; '.join(reasons)}. It was {difference}. Export the detector on this device; "
            "`mpft verify` shows the comparison."
        )
    record_success(bundle)


def record_success(bundle: Bundle) -> None:
    """Remember that a bundle's golden crops passed here; only a warning if that cannot be kept."""
    try:
        path = _record_path(bundle)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _record(bundle))
    except (OSError, RuntimeError, EnvironmentLacksError) as error:
        logger.warning(
            "the self-test will be run again at the next load: %s. Set XDG_CACHE_HOME to a folder "
            "that can be written.",
            error,
        )


def _is_recorded(bundle: Bundle) -> bool:
    try:
        return _record_path(bundle).read_bytes() == _record(bundle)
    except (OSError, RuntimeError):
        return False


def _record(bundle: Bundle) -> bytes:
    """What a success holds for: this bundle on this device with these versions."""
    return canonical_json(
        {
            "seal": bundle.seal,
            "device": msgspec.to_builtins(Device.here()),
            "versions": backend_of(bundle).versions(),
        }
    )


def _record_path(bundle: Bundle) -> Path:
    """In the user's cache; a RuntimeError where the user has no home."""
    return cache_folder() / "self-tests" / f"{sha256(_record(bundle))}.json"


def _describe(device: Device, versions: dict[str, str]) -> str:
    names = " ".join(f"{name} {version}" for name, version in versions.items())
    return printable(f"{device} ({device.machine}, {device.system}), {names}")
