"""`mpft cameras`."""

from __future__ import annotations

import os
import sys

import click

PASSWORD = "MPFT_CAMERA_PASSWORD"


@click.command()
@click.option("--user", default="", help="Ask each camera for its streams, as this user.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a camera.")
def command(user: str, as_json: bool) -> int:
    """Find the ONVIF cameras of the local network.

    With --user each camera that answers is asked for the addresses of its streams. The password is
    asked for, or taken from MPFT_CAMERA_PASSWORD; of it only digests are sent. Exit code 1 if no
    camera answers.
    """
    from mpft_deploy.cli.console import emit_json, table
    from mpft_deploy.cli.standard import is_terminal
    from mpft_deploy.errors import MpftError, UsageError
    from mpft_deploy.screen.onvif import WAIT, find_cameras

    password = os.environ.get(PASSWORD)
    if user and password is None:
        if not is_terminal(sys.stdin):
            raise UsageError(
                f"a password is asked for on a terminal, and there is none: set {PASSWORD}"
            )
        password = click.prompt(f"Password of {user}", hide_input=True, err=True)
    cameras = find_cameras(user, password or "")
    if not cameras:
        raise MpftError(
            f"no camera answered within {WAIT:g} s: it must be in the same network, with ONVIF "
            "switched on, and a firewall here must let its answers in (UDP from port 3702)"
        )
    if as_json:
        for camera in cameras:
            emit_json(camera)
        return 0
    rows = []
    for one in cameras:
        about = [one.host, one.name, one.hardware, one.location]
        rows += [[*about, stream.name, stream.address] for stream in one.streams]
        if one.problem or not one.streams:
            rows.append([*about, one.problem, "" if one.streams else f"{one.address}…"])
    table("Cameras", ["host", "name", "hardware", "location", "stream", "address"], rows)
    return 0
