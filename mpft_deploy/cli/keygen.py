"""`mpft keygen`."""

from __future__ import annotations

from pathlib import Path

import click

from mpft_deploy.cli.options import PATH


@click.command()
@click.argument("key", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(key: Path, as_json: bool) -> None:
    """Make an Ed25519 key pair to sign bundles with.

    The private key goes to KEY, which only you can read: keep it off the devices. The public key
    goes to KEY.pub: put it on every device, for --require-signature. Nothing is overwritten.
    """
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.files import display
    from mpft_deploy.signing import generate_keys

    public, name = generate_keys(key)
    if as_json:
        emit_json({"private": display(key), "public": display(public), "fingerprint": name})
    else:
        click.echo(f"private key {display(key)}\npublic key  {display(public)}\nfingerprint {name}")
