"""Make the dashboard's pictures of the docs, with a headless Chromium.

    python examples/dashboard_screenshots.py docs/images

Needs chromium, and the Python package websockets.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from dashboard_demo import VIEW, DemoMonitor, cells_of, demo_sources, open_demo, past, region
from PIL import Image

from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.streams.areas import pixels_of
from mpft_deploy.screen.streams.records import Sink
from mpft_deploy.views import Window, share_in

DESKTOP, PHONE = (1280, 800), (390, 844)

COMPLETE = """
sources.size > 0 && [...sources.values()].every((source) => {
  const { top, bottom } = source.tile.getBoundingClientRect();
  const seen = bottom > 0 && top < innerHeight;
  return !seen || source.status.picture_time === null || source.picture !== null;
})
"""
"""Whether every tile in view has a picture, if its source has one."""


class Browser:
    """A headless Chromium with one page, driven by its DevTools protocol."""

    def __init__(self) -> None:
        from websockets.sync.client import connect

        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            raise FileNotFoundError("chromium is not installed")
        self._stack = contextlib.ExitStack()
        self._folder = tempfile.mkdtemp(prefix="mpft-browser-")
        self._process = subprocess.Popen(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--remote-debugging-port=0", f"--user-data-dir={self._folder}"),
                *("--disable-dev-shm-usage", "--hide-scrollbars", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = self._port()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            page = pages[0]["webSocketDebuggerUrl"]
            self._socket = self._stack.enter_context(
                connect(page, max_size=None, ping_interval=None, open_timeout=60)
            )
        except BaseException:
            self.close()
            raise
        self._numbers = itertools.count(1)
        self.messages: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what comes before it is kept in `messages`."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            self.messages.append(message)

    def show(self, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        """Open a page."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size[0] < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> None:
        """Until a JavaScript expression is true; between two documents it may fail."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.ask(script):
                    return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came true: {script}")
            time.sleep(0.1)

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37}.get(key, 0)
        if key == "Enter":
            text = {"text": "\r"}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self) -> Image.Image:
        """What the page looks like."""
        answer = self.call("Page.captureScreenshot", format="png")
        return Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB")

    def close(self) -> None:
        """End the browser."""
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _port(self) -> int:
        """Where Chromium listens; it writes a file when it does."""
        file = Path(self._folder) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if file.exists() and (text := file.read_text()).count("\n"):
                return int(text.splitlines()[0])
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise TimeoutError("chromium did not start")


def save(image: Image.Image, path: Path) -> None:
    """A PNG with a palette: a third of the size, and hardly a difference to see."""
    dither = Image.Dither.FLOYDSTEINBERG
    image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=dither).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB")


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


if __name__ == "__main__":
    main()
