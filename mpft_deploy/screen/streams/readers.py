"""Which reader reads which address. A new kind of source is one file and one line here."""

from __future__ import annotations

from pathlib import Path

from mpft_deploy.screen.streams import read_av, read_folder, read_raw
from mpft_deploy.screen.streams.address import PORTS, Address
from mpft_deploy.screen.streams.attempt import Reader

READERS: dict[str, Reader] = {
    **dict.fromkeys(PORTS, read_av.read),
    "file": read_av.read,
    "v4l2": read_raw.read_gstreamer,
    "csi": read_raw.read_gstreamer,
    "gst": read_raw.read_gstreamer,
    "pipe": read_raw.read_pipe,
}


def find_reader(target: Address) -> Reader:
    """The reader of an address; a file that is a folder is one of images."""
    if target.scheme == "file" and Path(target.rest).is_dir():
        return read_folder.read
    return READERS[target.scheme]
