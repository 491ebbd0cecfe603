"""Which reader reads which address. A new kind of source is one file and one line here."""

from __future__ import annotations

from pathlib import Path

from mpft_deploy.screen.streams import read_av, read_folder, read_raw
from mpft_deploy.screen.streams.address import PORTS, Address
from mpft_deploy.screen.streams.attempt import Reader
from mpft_deploy.screen.streams.processes import ReaderProcesses

READERS: dict[str, Reader] = {
    **dict.fromkeys(PORTS, read_av.read),
    "file": read_av.read,
    "v4l2": read_raw.read_gstreamer,
    "csi": read_raw.read_gstreamer,
    "gst": read_raw.read_gstreamer,
    "pipe": read_raw.read_pipe,
}


def find_reader(target: Address, processes: ReaderProcesses | None = None) -> Reader:
    """The reader of an address; a file that is a folder is one of images.

    Args:
        processes: where what FFmpeg reads is read; None for this process.
    """
    if target.scheme == "file" and Path(target.rest).is_dir():
        return read_folder.read
    reader = READERS[target.scheme]
    return reader if processes is None or reader is not read_av.read else processes.read
