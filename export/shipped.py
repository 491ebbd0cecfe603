"""The detector that comes with the package, and the bundle of it that is made at the first use.

Its engine is the detector's own integers, for which nothing is computed: a bundle takes about as
long as copying it. Of the golden crops it keeps PROOF, which prove it here; `mpft-export` makes
bundles that are proven by more.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mpft_deploy
from mpft_deploy.bundle import Bundle, read_bundle
from mpft_deploy.detector_folder import Golden
from mpft_deploy.engine import native
from mpft_deploy.errors import EnvironmentLacksError, GateError, InputError, UsageError
from mpft_deploy.files import cache_folder, canonical_json, display, sha256
from mpft_deploy.shipped import NAME, shipped_detector, shipped_seal

if TYPE_CHECKING:
    from mpft_deploy.export.materials import Say

PROOF = 2
"""Golden crops, which any of many processors judges in a second."""


def shipped_bundle(say: Say, precision: str | None = None) -> Bundle:
    """The bundle of the shipped detector, out of the user's cache or made there.

    Where nothing can be kept, it is made anew, which `say` tells.

    Args:
        precision: one of the backend native; None for the narrowest that is known to keep the
            usual budget.

    Raises:
        GateError: it does not compute here what it should.
        EnvironmentLacksError: the installation has no detector, or nothing can be written at all.
    """
    detector = shipped_detector()
    # The usual one may have this precision. Asks for a kernel that runs here, too.
    names = [_kept_as(asked) for asked in dict.fromkeys((None, precision))]
    try:
        folder = cache_folder() / "bundles"
        for name in names:
            out = folder / name
            if out.exists():
                try:
                    bundle = read_bundle(out)
                    if precision in (None, str(bundle.info.precision)):
                        return bundle
                except InputError as error:
                    say(f"{error} It is made again when it is needed.")
        folder.mkdir(parents=True, exist_ok=True)
        say(f"making a bundle of the detector that comes with mpft-deploy, once: {display(out)}")
        return _make(detector, out, precision)
    except (OSError, RuntimeError, EnvironmentLacksError, UsageError) as error:
        # The last: another process is making it now.
        say(f"a bundle of the shipped detector is made, and cannot be kept: {error}")
    try:
        folder = Path(tempfile.mkdtemp(prefix="mpft-"))
    except OSError:
        raise EnvironmentLacksError(
            "there is no place to make a bundle of the shipped detector: let XDG_CACHE_HOME or "
            "TMPDIR name a folder that can be written, or name a bundle by --bundle"
        ) from None
    try:
        return _make(detector, folder / NAME, precision)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept_as(precision: str | None) -> str:
    """Name of a bundle in the cache: of all that it is made of."""
    made_of = {
        "detector": shipped_seal(),
        "mpft-deploy": mpft_deploy.__version__,
        "precision": precision,
        **native.versions(),
    }
    return f"{NAME}-{sha256(canonical_json(made_of))[:16]}"


def _make(detector: Path, out: Path, precision: str | None) -> Bundle:
    # What is needed once, and not by the runs that find its bundle.
    from mpft_deploy.export.pipeline import gather, make, prove, settle, write
    from mpft_deploy.export.refusal import refusal
    from mpft_deploy.export.request import NARROWEST, NATIVE, Request, hold

    wanted = precision or NARROWEST
    request = Request(detector, out, backend=NATIVE, precision=wanted, overwrite=True)
    with hold(request):
        materials = gather(request)
        request = settle(request, materials)
        made = make(request, materials)
        golden = Golden(made.golden.crops[:PROOF], made.golden.logits[:PROOF])
        made = replace(made, golden=golden)
        logits = made.run_golden()
        certificate = prove(request, materials, made, logits)
        if certificate.smoke_faults:
            raise GateError(refusal(certificate, made.precision))
        write(request, made.certified(certificate, logits), None)
    return read_bundle(out)
