"""Image folders as streams: every image is a frame, and none is lost."""

from __future__ import annotations

from pathlib import Path

from mpft_deploy.errors import InputError
from mpft_deploy.finding import find_images
from mpft_deploy.images import read_picture
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.pixels import RgbShot

_POLL = 0.005
"""Seconds between two looks at whether the last image was taken."""


def read(attempt: Attempt) -> None:
    """Give the images of a folder, in the order of their names; then the source has ended.

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
