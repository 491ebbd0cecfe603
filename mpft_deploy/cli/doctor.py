"""`mpft doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from mpft_deploy.cli.options import PATH

MARKS = {"ok": "ok", "note": "-", "fault": "FAULT"}


@click.command()
@click.argument("address", required=False)
@click.option("--bundle", type=PATH, envvar="MPFT_BUNDLE", help="A bundle to load and prove.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a check.")
def command(address: str | None, bundle: Path | None, as_json: bool) -> int:
    """Check what this machine can do, and what it lacks.

    Looks at Python, kernel, engines, video decoding, GStreamer, GPU and disk; with --bundle at a
    bundle, and with an ADDRESS at a camera. Exit code 3 if something that is needed is missing, 1
    if the bundle or the camera is at fault.
    """
    from mpft_deploy.cli.console import emit_json, table
    from mpft_deploy.screen.doctor import examine

    checks = list(examine(bundle, address))
    if as_json:
        for check in checks:
            emit_json(check)
    else:
        rows = [[MARKS[check.result], check.name, check.text] for check in checks]
        table("This machine", ["", "check", "what was found"], rows)
    return max((check.exit_code for check in checks), default=0)
