"""Which reader reads which address. A new kind of source is one file and one line here."""

from __future__ import annotations

from pathlib import Path

from mpft_deploy.errors import InputError
from mpft_deploy.finding import find_images
from mpft_deploy.images import read_picture
from mpft_deploy.screen.streams import read_av, read_raw
from mpft_deploy.screen.streams.address import PORTS, Address
from mpft_deploy.screen.streams.attempt import Attempt, Reader, SourceLostError
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.processes import ReaderProcesses

_POLL = 0.005
"""Seconds between two looks at whether the last image of a folder was taken."""

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
        return read_folder
    reader = READERS[target.scheme]
    return reader if processes is None or reader is not read_av.read else processes.read


def read_folder(attempt: Attempt) -> None:
    """Give all images of a folder, in the order of their names; then the source has ended.

    Each waits until the one before was taken; with a number of frames a second for `decode`, at
    that pace.
    """
    settings = attempt.settings
    folder = Path(settings.target.rest)
    attempt.describe("images")
    count = 0
    for path in find_images(folder):
        count += 1
        now = attempt.packet()
        try:
            picture = read_picture(path)
        except InputError:
            attempt.drop("damaged", picture=True)
            continue
        attempt.offer(RgbShot(picture.pixels), now)
        if settings.interval and not attempt.wait(settings.interval):
            return
        while attempt.occupied:
            if not attempt.wait(_POLL):
                return
    if not count:
        raise SourceLostError("no images in this folder")
