"""Prove a bundle on the device that it was built for, where it runs for the first time."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mpft_deploy.bundle import OUTPUT, Bundle, Device, read_bundle, write_bundle
from mpft_deploy.engine import backend_of
from mpft_deploy.engine.certificate import certify, recheck
from mpft_deploy.errors import UsageError
from mpft_deploy.export.pipeline import LATENCY_SAMPLES, LATENCY_SECONDS
from mpft_deploy.files import display
from mpft_deploy.outputs import reserve
from mpft_deploy.profile.latency import measure
from mpft_deploy.signing import load_signer


def complete(bundle: Bundle, *, sign: Path | None = None, threads: int = 0) -> Bundle:
    """Run the smoke test of a bundle that was built elsewhere, measure it, and write that into it.

    Args:
        sign: private key (PEM) to sign it with anew, unless the smoke test fails; a bundle that is
            signed needs one.

    Raises:
        UsageError: it is signed and there is no key, so that writing would void its signature.
        EnvironmentLacksError: its engine cannot run here either, or its folder cannot be written.
    """
    info, spec = bundle.info, bundle.spec
    if bundle.signature is not None and sign is None:
        raise UsageError(
            f"{display(bundle.path)} is signed, and writing its proof would void the signature: "
            "pass --sign with a private key"
        )
    with reserve(bundle.path, OUTPUT, replace=True):
        signer = load_signer(sign) if sign else None
        backend = backend_of(bundle)
        engine = backend.load(bundle.engine, threads=threads)
        certificate = certify(spec, *recheck(engine, bundle))
        crops = bundle.golden.crops
        latency = measure(
            engine,
            spec,
            crops,
            samples=LATENCY_SAMPLES,
            seconds=LATENCY_SECONDS,
            threads=threads,
        )
        info = msgspec.structs.replace(
            info, device=Device.here(), versions={**info.versions, **backend.versions()}
        )
        write_bundle(
            bundle.path,
            info,
            bundle.engine,
            bundle.golden,
            certificate,
            latency,
            sign=None if certificate.smoke_faults else signer,
            replace=True,
        )
    return read_bundle(bundle.path)


def sign_anew(bundle: Bundle, sign: Path) -> Bundle:
    """Write a bundle again as it is, signed by a private key (PEM); its seal becomes another."""
    with reserve(bundle.path, OUTPUT, replace=True):
        write_bundle(
            bundle.path,
            bundle.info,
            bundle.engine,
            bundle.golden,
            bundle.certificate,
            bundle.latency,
            sign=load_signer(sign),
            replace=True,
        )
    return read_bundle(bundle.path)
