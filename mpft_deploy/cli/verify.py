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
    help="Sign the bundle, also anew, if it passes or is run now for the first time.",
)
@click.option("--threads", type=Threads(), default=0, help="CPU threads; 0: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    bundle: Path, require_signature: Path | None, sign: Path | None, threads: int, as_json: bool
) -> int:
    """Check BUNDLE on this device: every byte as it was written, the smoke test as it was before.

    The smoke test runs the drawn golden crops. Logits of the backend native must equal those of
    the export in every bit; of other backends, the distribution of their differences from the
    trained model's is compared with that in the certificate. Verdicts are judged on images, by
    `mpft-export --images`. Exit code 1 if anything was altered, the smoke test fails, or the engine
    was written though it had failed that or broke its budget. A bundle that never ran where it was
    built gets its smoke test and latency now. A signature changes the seal, by which cameras are
    taught.
    """
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.cli.console import emit_json, smoke_rows, table
    from mpft_deploy.engine import load_engine
    from mpft_deploy.engine.certificate import recheck
    from mpft_deploy.engine.selftest import explain_device, record_success
    from mpft_deploy.export.complete import complete, sign_anew
    from mpft_deploy.files import display
    from mpft_deploy.signing import signer_name

    content = read_bundle(bundle, require_signature)
    signed_by = signer_name(content.signature) if require_signature else None
    if run_now := content.certificate.not_run is not None:
        content = complete(content, sign=sign, threads=threads)
        smoke, faults = content.certificate.smoke_test, content.certificate.smoke_faults
    else:
        engine = load_engine(content, threads=threads, self_test=False)
        smoke, faults = recheck(engine, content)
    certificate, reasons = content.certificate, [*faults]
    if certificate.answer == "broken":
        reasons.append("the engine was written though it broke its budget")
    if not faults:
        reasons += [f"the engine was written though {one}" for one in certificate.smoke_faults]
    difference = explain_device(content)
    if sign and not run_now and not reasons:
        content = sign_anew(content, sign)
    signed_now = signer_name(content.signature) if sign and not reasons else None
    if difference and not reasons:
        record_success(content)
    if as_json:
        emit_json(
            {
                "bundle": display(bundle),
                "passed": not reasons,
                "run_now": run_now,
                "answer": content.certificate.answer,
                "reasons": reasons,
                "signed_by": signed_by,
                "signed_now": signed_now,
                "device_difference": difference,
                "smoke_test": smoke,
            }
        )
    else:
        rows = [["files", "all as they were written"]]
        if signed_by:
            rows.append(["signature", f"as required, by {signed_by}"])
        if run_now:
            rows.append(["run", "now, for the first time, and written into the bundle"])
        if sign:
            rows.append(["signed", f"now, by {signed_now}" if signed_now else "no, for it failed"])
        rows.append(["device", difference or "the one that it was certified on"])
        rows += smoke_rows(smoke, faults)
        rows.append(["verdicts", content.certificate.summary])
        rows.append(["result", "PASSED" if not reasons else "FAILED: " + "; ".join(reasons)])
        table(display(bundle), ["", ""], rows)
    return 1 if reasons else 0
