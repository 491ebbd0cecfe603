"""A headless Chromium that shows a page: for pictures of docs, and for tests.

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
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

DESKTOP, PHONE = (1280, 800), (390, 844)

MIDDLE = """
((selector) => {
  const found = document.querySelector(selector);
  if (!found?.checkVisibility() || document.readyState !== "complete") return null;
  found.scrollIntoView({ block: "center", behavior: "instant" });
  const { x, y, width, height } = found.getBoundingClientRect();
  const place = [x + width / 2, y + height / 2];
  return found.contains(document.elementFromPoint(...place)) ? place : null;
})
"""
"""Where an element is, once it can be seen there and nothing lies over it."""


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
        self._numbers, self._touched = itertools.count(1), False
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
        """Open a page, one that is touched if it is as small as a phone's."""
        self._touched = size[0] < 600
        self.call("Emulation.setTouchEmulationEnabled", enabled=self._touched)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=self._touched,
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

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """Until a JavaScript expression is true, its value; between two documents it may fail."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := self.ask(script):
                    return found
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came true: {script}")
            time.sleep(0.1)

    def tap(self, selector: str) -> None:
        """Press an element where everybody would, once it is there: by finger, or by mouse."""
        before, place = None, (0.0, 0.0)
        while place != before:  # what is still being laid out moves
            before, place = place, self.wait_for(f"{MIDDLE}({json.dumps(selector)})")
            time.sleep(0.03)
        x, y = place
        if self._touched:
            self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            return
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Write into a field, in place of what it has."""
        self.tap(selector)
        field = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"document.activeElement === {field}")
        self.ask(f"{field}.select()")
        self.call("Input.insertText", text=text)

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
        with contextlib.suppress(Exception):  # it may not even have begun
            self.call("Browser.close")
            self._process.wait(10)
        self._stack.close()
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
