"""`mpft verify`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle: Path, threads: int, as_json: bool) -> int:
    """Prove BUNDLE on this device: every byte as it was written, every golden verdict as trained.

    Exit code 1 if anything was altered or the engine does worse here than its certificate allows.
    A bundle that was built elsewhere and has no proof yet is proven, and the proof written into it.
    """
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.cli.console import comparison_rows, emit_json, table
    from mpft_deploy.engine import load_engine
    from mpft_deploy.export.certificate import reverify
    from mpft_deploy.export.pipeline import complete
    from mpft_deploy.files import display

    content = read_bundle(bundle)
    proven_now = content.certificate.not_run is not None
    if proven_now:
        content = complete(content, threads=threads)
        comparison, reasons = content.certificate.golden, content.certificate.reasons
    else:
        comparison, reasons = reverify(load_engine(content, threads=threads), content)
    if as_json:
        emit_json(
            {
                "bundle": display(bundle),
                "passed": not reasons,
                "proven_now": proven_now,
                "reasons": reasons,
                "golden": comparison,
            }
        )
    else:
        rows = [["files", "all as they were written"], *comparison_rows("golden", comparison)]
        if proven_now:
            rows.append(["proof", "made now, for the first time, and written into the bundle"])
        rows.append(["result", "PASSED" if not reasons else "FAILED: " + "; ".join(reasons)])
        table(display(bundle), ["", ""], rows)
    return 1 if reasons else 0
