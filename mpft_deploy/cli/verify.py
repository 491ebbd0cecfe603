"""`mpft verify`."""

from __future__ import annotations

from pathlib import Path

import click

from mpft_deploy.cli.options import PATH, Threads


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--require-signature",
    type=PATH,
    metavar="PUBLIC_KEY",
    help="Refuse a bundle that is not signed by this key (see `mpft keygen`).",
)
@click.option(
    "--sign",
    type=PATH,
    metavar="PRIVATE_KEY",
    help="Sign the bundle anew, should its proof be made now.",
)
@click.option("--threads", type=Threads(), default=0, help="CPU threads; 0: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    bundle: Path, require_signature: Path | None, sign: Path | None, threads: int, as_json: bool
) -> int:
    """Prove BUNDLE on this device: every byte as it was written, every golden verdict as trained.

    Exit code 1 if anything was altered or the engine does worse here than its certificate allows.
    A bundle that was built elsewhere and has no proof yet is proven, and the proof written into it.
    """
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.cli.console import comparison_rows, emit_json, table
    from mpft_deploy.engine import load_engine
    from mpft_deploy.engine.certificate import reverify
    from mpft_deploy.engine.selftest import explain_device, record_success
    from mpft_deploy.export.pipeline import complete
    from mpft_deploy.files import display
    from mpft_deploy.signing import signer_name

    content = read_bundle(bundle, require_signature)
    if proven_now := content.certificate.not_run is not None:
        content = complete(content, sign=sign, threads=threads)
        comparison, reasons = content.certificate.golden, content.certificate.reasons
    else:
        engine = load_engine(content, threads=threads, self_test=False)
        comparison, reasons = reverify(engine, content)
    difference = explain_device(content)
    if difference and not reasons:
        record_success(content)
    signed_by = signer_name(content.signature) if require_signature else None
    if as_json:
        emit_json(
            {
                "bundle": display(bundle),
                "passed": not reasons,
                "proven_now": proven_now,
                "reasons": reasons,
                "signed_by": signed_by,
                "device_difference": difference,
                "golden": comparison,
            }
        )
    else:
        rows = [["files", "all as they were written"]]
        if signed_by:
            rows.append(["signature", f"as required, by {signed_by}"])
        if proven_now:
            rows.append(["proof", "made now, for the first time, and written into the bundle"])
        rows.append(["device", difference or "the one that it was certified on"])
        rows += comparison_rows("golden", comparison)
        rows.append(["result", "PASSED" if not reasons else "FAILED: " + "; ".join(reasons)])
        table(display(bundle), ["", ""], rows)
    return 1 if reasons else 0
