"""`mpft evidence`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpft_deploy.cli.options import PATH, Threads

if TYPE_CHECKING:
    from mpft_deploy.bundle import Bundle
    from mpft_deploy.screen.evidence.package import Package

_HELP = {"help_option_names": ["-h", "--help"]}

SHOWN = 10
"""Differences that are printed."""


@click.group(context_settings=_HELP)
def command() -> None:
    """Packages of evidence, which `mpft screen` makes where `[evidence]` asks for them."""


@command.command(context_settings=_HELP)
@click.argument("package", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(package: Path, as_json: bool) -> None:
    """Show what PACKAGE holds, after its hashes were checked."""
    from mpft_deploy.cli.console import emit_json, table
    from mpft_deploy.files import display
    from mpft_deploy.screen.evidence.package import read_package

    found = read_package(package)
    if as_json:
        emit_json(found.manifest)
    else:
        table(display(package), ["", ""], _rows(found))


@command.command(context_settings=_HELP)
@click.argument("package", type=PATH)
@click.option(
    "--bundle",
    type=PATH,
    envvar="MPFT_BUNDLE",
    show_envvar=True,
    help="The bundle that judged, or one with the same engine.  [default: that of the detector "
    "that comes with this version, if it is the one]",
)
@click.option(
    "--key",
    type=PATH,
    metavar="PUBLIC_KEY",
    help="Refuse a package that is not signed by this key (see `mpft keygen`).",
)
@click.option("--threads", type=Threads(), default=0, help="CPU threads; 0: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    package: Path, bundle: Path | None, key: Path | None, threads: int, as_json: bool
) -> int:
    """Check that PACKAGE is unaltered and says what its pixels give.

    Hashes and signature are checked; then every frame's logit and verdict are computed again from
    the judged pixels, by the engine that judged. They must be the same in every bit. The stream's
    verdict rests on more frames than a package holds: it is as it was told. Without --key anybody
    could have made the package. Exit code 1 if anything is altered or differs.
    """
    from mpft_deploy.cli.console import emit_json, steps, table
    from mpft_deploy.files import display
    from mpft_deploy.screen.evidence.package import describe, read_package
    from mpft_deploy.screen.evidence.verify import recompute, require_same_engine
    from mpft_deploy.signing import load_verifier, signer_name

    found = read_package(package, load_verifier(key) if key is not None else None)
    content = _bundle(found, bundle)
    require_same_engine(found, content)
    with steps() as tell:
        tell(f"computing {len(found.manifest.frames)} frames again")
        differences = recompute(found, content, threads=threads)
    signer = signer_name(found.signature) if found.signature is not None else None
    signed = f"by {signer}" if signer else "no"
    if signer and key is None:
        signed = f"said to be by {signer}, which was not checked: give --key"
    if as_json:
        emit_json(
            {
                "package": display(package),
                "passed": not differences,
                "differences": differences,
                "signed_by": signer,
                "signature_checked": key is not None,
                **describe(found),
            }
        )
    else:
        rows = _rows(found)
        rows.append(["signed", signed])
        rows += [["differs", str(one)] for one in differences[:SHOWN]]
        if len(differences) > SHOWN:
            rows.append(["differs", f"and {len(differences) - SHOWN} more"])
        rows.append(["result", _result(found, len(differences))])
        table(display(package), ["", ""], rows)
    return 1 if differences else 0


def _bundle(package: Package, path: Path | None) -> Bundle:
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.engine.native import PRECISIONS
    from mpft_deploy.errors import UsageError
    from mpft_deploy.export.shipped import shipped_bundle
    from mpft_deploy.files import printable
    from mpft_deploy.shipped import shipped_seal

    if path is not None:
        return read_bundle(path)
    told = package.manifest.engine
    ours = told.backend == "native" and told.precision in PRECISIONS
    if not ours or told.sources.get("detector_seal") != shipped_seal():
        detector = printable(told.sources.get("detector", "unknown"))
        raise UsageError(
            f"it was judged by an engine of {printable(told.backend)} in "
            f"{printable(told.precision)}, of the detector {detector}, which is not the one that "
            f"comes with this version: name its bundle, {printable(told.bundle[:12])}, by --bundle"
        )
    return shipped_bundle(lambda text: click.echo(text, err=True), told.precision)


def _rows(package: Package) -> list[list[str]]:
    from mpft_deploy.files import printable

    told = package.manifest
    asked = f"asked for by {told.asked_by or 'somebody'}"
    why = f"verdict {told.event.verdict}, was {told.event.previous}" if told.event else asked
    video = f"none: {told.no_clip}"
    if clip := told.clip:
        video = f"{clip.file}: {clip.pictures} pictures, {clip.codec}, from {_when(clip.begin)} on"
    engine = told.engine
    said = [frame.frame.verdict for frame in told.frames]
    counts = ", ".join(f"{said.count(one)} {one}" for one in dict.fromkeys(said))
    return [
        [name, printable(text)]
        for name, text in (
            ("source", f"{told.source}, {told.address}"),
            ("why", why),
            ("when", f"{_when(told.moment)}; {told.begin - told.moment:+.1f} to "
             f"{told.end - told.moment:+.1f} s"),
            ("video", video),
            ("frames", f"{len(said)} judged: {counts}" if said else "none was judged"),
            ("judged by", f"{engine.backend}, {engine.precision}, bundle {engine.bundle[:12]}, "
             f"views {engine.views}"),
            ("made with", ", ".join(f"{name} {of}" for name, of in told.software.items())),
            ("seal", package.seal),
        )
    ]  # fmt: skip


def _when(time: float) -> str:
    """UTC, to the millisecond."""
    import datetime

    try:
        when = datetime.datetime.fromtimestamp(time, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{time:g} s since 1970"
    return when.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")


def _result(package: Package, differences: int) -> str:
    if differences:
        return f"FAILED: {differences} of what was told is not what the pixels give"
    count = len(package.manifest.frames)
    return f"PASSED: nothing was altered, and {count} frames give the same in every bit"
