"""`mpft kernels`: the versions of texture_patchify and of the encoder on this machine."""

from __future__ import annotations

import dataclasses

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List the versions of each kernel and which one is chosen here.

    texture_patchify cuts views into cells; the encoder is what bundles of the backend native run.
    All versions of a kernel give the same bits. Set MPFT_KERNEL to a name to force that version of
    both.
    """
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.kernels import encoder, implementations

    found = {"texture_patchify": implementations(), "encoder": encoder.statuses()}
    if as_json:
        emit_json(
            [
                {"kernel": kernel, **dataclasses.asdict(version)}
                for kernel, versions in found.items()
                for version in versions
            ]
        )
        return
    click.echo(f"{'':2}{'kernel':18}{'version':9}{'device':8}available")
    for kernel, versions in found.items():
        for version in versions:
            mark = "*" if version.chosen else ""
            reason = "yes" if version.why_not is None else f"no: {version.why_not}"
            click.echo(f"{mark:2}{kernel:18}{version.name:9}{version.device:8}{reason}")
    click.echo("* chosen; MPFT_KERNEL=NAME forces another")
