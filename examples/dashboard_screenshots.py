"""Make the dashboard's pictures of the docs, with a headless Chromium.

python examples/dashboard_screenshots.py docs/images
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import msgspec
from dashboard_demo import VIEW, DemoMonitor, cells_of, demo_sources, open_demo, past, region
from dashboard_manage import ANN, CAMERAS, DemoManager, DemoReceiver, with_device
from headless import DESKTOP, PHONE, Browser, save

from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.streams.areas import pixels_of
from mpft_deploy.screen.streams.records import Sink
from mpft_deploy.screen.tell.config import Http, Push, User
from mpft_deploy.views import Window, share_in

COMPLETE = """
sources.size > 0 && [...sources.values()].every((source) => {
  const { top, bottom } = source.tile.getBoundingClientRect();
  const seen = bottom > 0 && top < innerHeight;
  return !seen || source.status.picture_time === null || source.picture !== null;
})
"""
"""Whether every tile in view has a picture, if its source has one."""


def lived(monitor: DemoMonitor, sink: Sink, seconds: int) -> None:
    """Let made-up minutes pass, which end now."""
    now = time.time()
    for second in range(seconds):
        for event in monitor.step(now - seconds + second, draw=False):
            sink.send(event)


@contextlib.contextmanager
def living(monitor: DemoMonitor, sink: Sink) -> Iterator[None]:
    """Go on in real time, while pictures are taken."""
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(1.0):
            for event in monitor.step(time.time(), draw=False):
                sink.send(event)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def shoot(
    browser: Browser,
    url: str,
    path: Path,
    *,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
    wait: str = COMPLETE,
) -> None:
    """One screenshot, once an expression is true: that every tile in view has its picture."""
    browser.show(url, size, dark=dark)
    browser.wait_for("document.querySelector('#link')?.textContent === 'live'")
    browser.wait_for(wait)
    if "source=" in url:
        browser.wait_for("document.querySelectorAll('#detail figure image').length === 2")
    time.sleep(0.6)
    save(browser.picture(), path)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    browser = Browser()
    try:
        with tempfile.TemporaryDirectory() as shots:
            _idle(browser, folder, Path(shots))
            _busy(browser, folder, Path(shots))
            _regions(browser, folder, Path(shots))
            _managed(browser, folder, Path(shots))
    finally:
        browser.close()


def _idle(browser: Browser, folder: Path, shots: Path) -> None:
    """Just started: sources connect, nothing is known."""
    monitor = DemoMonitor(demo_sources(4, generated=0, down=0))
    server, sinks = open_demo(monitor, shots)
    for name in monitor.sources:
        monitor.sources[name].state = "connecting"
    shoot(browser, server.url, folder / "dashboard-idle.png")
    sinks.close(1)


def _busy(browser: Browser, folder: Path, shots: Path) -> None:
    """Nine sources: one generated, one dead; a machine that is too slow."""
    monitor = DemoMonitor(demo_sources(9))
    monitor.step(time.time())
    server, sinks = open_demo(monitor, shots)
    past(monitor, sinks)
    slow = monitor.sources["Pier 2"]
    slow.drift = 0.0  # says nothing
    lived(monitor, sinks, 170)
    last = list(monitor.sources)[-1]
    gone = monitor.sources[last]
    gone.reconnects = 4
    gone.dropped = {"damaged": 12}
    sinks.send(monitor.change(last, "stalled", "no frame for 5 s", time.time() - 9))
    sinks.send(monitor.change(last, "down", "connection refused", time.time() - 3))
    slow.verdict, slow.evidence, slow.reconnects = "unsure", 1.6, 2
    generated, url = "Video+call+1", server.url
    chosen = (
        "document.querySelector('#event').open && document.querySelector('#event image') !== null"
    )
    with living(monitor, sinks):
        shoot(browser, url, folder / "dashboard-busy.png")
        shoot(browser, f"{url}#urgent", folder / "dashboard-dark.png", dark=True)
        shoot(browser, f"{url}#urgent", folder / "dashboard-phone.png", size=PHONE)
        shoot(browser, f"{url}#source={generated}", folder / "dashboard-generated.png")
        rows = "document.querySelectorAll('#all-events .thumb image').length > 3"
        shoot(browser, f"{url}#events", folder / "dashboard-events.png", wait=rows)
        shoot(
            browser,
            f"{url}#events",
            folder / "dashboard-events-phone.png",
            size=PHONE,
            dark=True,
            wait=rows,
        )
        number = sinks.store.events(verdict="generated", limit=2)[-1].id
        review = f"{url}#events&event={number}"
        shoot(browser, review, folder / "dashboard-review.png", wait=chosen)
        shoot(browser, review, folder / "dashboard-review-phone.png", size=PHONE, wait=chosen)
    sinks.close(1)


def _regions(browser: Browser, folder: Path, shots: Path) -> None:
    """A source with three regions and a mask."""
    monitor = DemoMonitor(demo_sources(1, generated=0, down=0))
    [(name, source)] = monitor.sources.items()
    source.verdict, source.evidence, source.drift = "generated", 5.9, 0.2
    source.regions = (
        region("right screen", (0.55, 0.12, 0.4, 0.55), "generated", 5.9),
        region("left screen", (0.05, 0.15, 0.38, 0.5), "no sign", -5.2),
        region("street", (0.1, 0.66, 0.8, 0.33), "unsure", 0.8),
    )
    source.masks = ((0.75, 0.0, 0.25, 0.07),)
    monitor.step(time.time())
    picture = source.picture
    assert picture is not None
    boxes = [pixels_of(one.box, *picture.size) for one in source.regions]
    windows = tuple(
        Window(r + (h - VIEW) // 2, c + (w - VIEW) // 2, VIEW, VIEW) for r, c, h, w in boxes
    )
    source.picture = msgspec.structs.replace(
        picture,
        cells=[cell for window in windows for cell in cells_of(picture.pixels, window)],
        looked_at=LookedAt(share=share_in(windows, *picture.size), windows=windows),
    )
    server, sinks = open_demo(monitor, shots)
    lived(monitor, sinks, 60)
    url = f"{server.url}#source={name.replace(' ', '+')}"
    shoot(browser, url, folder / "dashboard-regions.png")
    sinks.close(1)


def _managed(browser: Browser, folder: Path, shots: Path) -> None:
    """What Ann manages: sources, one of them being taught, cameras that were found; who is told."""
    monitor = DemoMonitor(demo_sources(3, generated=0, down=0))
    monitor.step(time.time())
    http = Http(
        address="127.0.0.1:0",
        users=(User(name="Ann", role="admin"),),
        trusted_proxy="127.0.0.1",
        user_header="X-User",
    )
    push = Push(contact="mailto:ops@example.org")
    manager = DemoManager(monitor.sources)
    browser.call("Network.setExtraHTTPHeaders", headers=ANN)
    server, sinks = open_demo(monitor, shots, http, manager=manager)
    lived(monitor, sinks, 30)
    sinks.send(monitor.change("Pier 2", "paused", "not in its hours", time.time()))
    found = "document.querySelectorAll('#cameras .managed').length === 2"
    with patch("mpft_deploy.screen.web.cameras.find_cameras", return_value=CAMERAS):
        for size, name in ((DESKTOP, "manage"), (PHONE, "manage-phone")):
            browser.show(server.url + "#manage", size, dark=size == PHONE)
            browser.wait_for("document.querySelectorAll('#managed .managed').length === 3")
            browser.write("#find [name=user]", "viewer")
            browser.tap("#find button")
            browser.wait_for(found)
            browser.ask("scrollTo(0, 0); document.activeElement.blur()")
            time.sleep(0.6)
            save(browser.picture(), folder / f"dashboard-{name}.png")
    sinks.close(1)
    server, sinks = open_demo(monitor, shots, http, push=push)
    past(monitor, sinks, 14, ["webhook"])
    sinks.append(DemoReceiver(sinks.store))
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=with_device(server.url))
    rows = "document.querySelectorAll('#refused .managed').length === 3 && !$('#notice').hidden"
    for size, name in ((DESKTOP, "told"), (PHONE, "told-phone")):
        shoot(
            browser, server.url + "#manage", folder / f"dashboard-{name}.png", size=size, wait=rows
        )
    browser.call("Page.removeScriptToEvaluateOnNewDocument", **script)
    browser.call("Network.setExtraHTTPHeaders", headers={})
    sinks.close(1)


if __name__ == "__main__":
    main()
