"""Make the README's picture of verdicts from a screening report, with a headless Chromium.

    mpft screen A.png B.png C.png --notes notes.json --report report.html
    python examples/report_screenshot.py report.html docs/images/verdicts.png

It shows the first three items. Needs chromium, and the Python package websockets.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headless import Browser, save
from profile_screenshots import open_whole

WIDTH, HEIGHT, MARGIN = 1100, 900, 10
EDGES = """[...document.querySelectorAll('.card')].slice(0, 3).map(one => {
    const { left, top, right, bottom } = one.getBoundingClientRect();
    return [left, top, right, bottom].map(Math.round); })"""


def main() -> None:
    report, out = Path(sys.argv[1]), Path(sys.argv[2])
    browser = Browser()
    try:
        open_whole(browser, report, (WIDTH, HEIGHT))
        left, top, right, bottom = zip(*browser.ask(EDGES), strict=True)
        picture = browser.picture()
    finally:
        browser.close()
    save(picture.crop((min(left) - MARGIN, min(top) - MARGIN, max(right) + MARGIN,
                       max(bottom) + MARGIN)), out)  # fmt: skip


if __name__ == "__main__":
    main()
