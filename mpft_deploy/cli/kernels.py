"""`mpft kernels`: the versions of texture_patchify on this machine."""

from __future__ import annotations

import dataclasses

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List the versions of the texture_patchify kernel and which one is chosen here.

    All give the same bytes. Set MPFT_KERNEL to a name to force that version.
    """
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.kernels import implementations

    versions = implementations()
    if as_json:
        emit_json([dataclasses.asdict(version) for version in versions])
        return
    click.echo(f"{'':2}{'version':9}{'device':8}available")
    for version in versions:
        mark = "*" if version.chosen else ""
        reason = "yes" if version.why_not is None else f"no: {version.why_not}"
        click.echo(f"{mark:2}{version.name:9}{version.device:8}{reason}")
    click.echo("* chosen; MPFT_KERNEL=NAME forces another")
