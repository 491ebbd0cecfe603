"""Make the pictures of a latency report for the docs, with a headless Chromium.

    mpft profile bundle --images photos/ --layers --slo "p99<=40ms" --html report.html
    python examples/profile_screenshots.py report.html docs/images

That of a desktop is the whole page, that of a phone as many whole panels as a page has room
for. Needs chromium, and the Python package websockets.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headless import PHONE, Browser, save

WIDE = (1280, 800)
LOADED = "document.readyState === 'complete' && location.protocol === 'file:'"
HEIGHT = "document.documentElement.scrollHeight"
PANELS = """[...document.querySelectorAll('.panel, .tally')]
    .map(one => Math.ceil(one.getBoundingClientRect().bottom))"""
ROOM, MARGIN = 1300, 14


def open_whole(browser: Browser, report: Path, size: tuple[int, int]) -> None:
    """Open a report in a window of a width, as high as the page."""
    browser.show(report.resolve().as_uri(), size)
    browser.wait_for(LOADED)
    whole = (size[0], int(browser.ask(HEIGHT)))
    browser.show(report.resolve().as_uri(), whole)
    browser.wait_for(LOADED)


def main() -> None:
    report, folder = Path(sys.argv[1]), Path(sys.argv[2])
    browser = Browser()
    try:
        open_whole(browser, report, WIDE)
        save(browser.picture(), folder / "profile-report.png")
        open_whole(browser, report, PHONE)
        end = max(bottom for bottom in browser.ask(PANELS) if bottom <= ROOM) + MARGIN
        picture = browser.picture()
        save(picture.crop((0, 0, picture.width, end)), folder / "profile-report-phone.png")
    finally:
        browser.close()


if __name__ == "__main__":
    main()
