"""`mpft screen` in a process of its own, watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
import numpy as np
from family import family, memory_mb

from mpft_deploy.screen.streams.records import Event, FrameEvent

START_S = 60.0
"""Seconds that the command may take until it serves its metrics."""


class Screen:
    """`mpft screen` in a process of its own, and what it tells."""

    def __init__(self, bundle: Path, config: Path, *, page: bool) -> None:
        main = "from mpft_deploy.cli.main import main; main()"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", main, "screen", "--config", config, "--bundle", bundle),
                *("--json", *(("--http", "127.0.0.1:0") if page else ())),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._proc = Path("/proc") / str(self.pid)
        self.verdicts, self.oldest, self.reconnects, self.peak = 0, 0.0, 0, 0.0
        self.delivered: dict[str, int] = {}
        self._page, self.url, self.health = page, "", ""
        self._memory: list[tuple[float, ...]] = []
        self._threads = [threading.Thread(target=t) for t in (self._read_events, self._read_log)]
        for thread in self._threads:
            thread.start()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if '"event"' not in line:  # why it did not start
                print(line, file=sys.stderr, end="", flush=True)
                continue
            event = msgspec.json.decode(line, type=Event)
            if isinstance(event, FrameEvent):
                self.verdicts += 1
                self.oldest = max(self.oldest, event.age_ms / 1e3)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            record = json.loads(line) if line.startswith("{") else {"message": line.rstrip()}
            message = str(record.get("message", ""))
            if message.startswith("dashboard: "):
                self.url = message.removeprefix("dashboard: ").rstrip("/")
            elif message.startswith("health: "):
                self.health = message.removeprefix("health: ").rstrip("/")
            else:
                print(message, file=sys.stderr, flush=True)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Until it serves, or judges where it has no page."""
        end = time.monotonic() + START_S
        while not (self.url if self._page else self.verdicts):
            if not self.running or time.monotonic() > end:
                sys.exit("mpft screen did not start; see its messages above")
            time.sleep(0.1)

    def get(self, path: str) -> bytes:
        """What it answers."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return bytes(answer.read())

    def glance(self) -> None:
        """Look at memory, of those that read for it too, and its threads, for the next sample."""
        status = dict(
            line.split(":", 1) for line in (self._proc / "status").read_text().splitlines()
        )
        processes = family(self.pid)
        anonymous, resident = (
            sum(memory_mb(pid, field) for pid in processes) for field in ("Pss_Anon", "Pss")
        )
        highest = int(status["VmHWM"].split()[0]) * 1024 / 1e6
        self.peak = max(self.peak, resident, highest)
        self._memory.append((anonymous, resident, float(status["Threads"])))

    def sample(self) -> dict[str, float]:
        """What the process held since the last one, in MB where it is memory; reads its metrics."""
        if self._page:
            for line in self.get("/metrics").decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name.startswith("mpft_sink_delivered_total"):
                    self.delivered[name.split('"')[1]] = int(float(value))
            sources = json.loads(self.get("/api/v1/sources"))["sources"]
            self.reconnects = sum(source["reconnects"] for source in sources)
        self.glance()
        anonymous, resident, threads = np.mean(self._memory, axis=0).tolist()
        self._memory.clear()
        return {
            "time": time.monotonic(),
            "anonymous_mb": anonymous,
            "resident_mb": resident,
            "peak_mb": self.peak,
            "threads": threads,
            "descriptors": float(len(os.listdir(self._proc / "fd"))),  # noqa: PTH208, names alone
        }

    def stop(self) -> int:
        """End it; its exit code, or minus the signal that ended it."""
        if self.running:
            self._process.terminate()
        code = self._process.wait(30)
        for thread in self._threads:
            thread.join()
        return code


def configuration(cameras: int, decode: str | float, port: int, tell: str = "") -> str:
    """A cameras.toml."""
    lines = ["[defaults]", f"decode = {json.dumps(decode)}", "gate = 0", tell]
    for index in range(cameras):
        address = f"rtsp://127.0.0.1:{port}/{index % 16}"
        lines += ["[[source]]", f'name = "{index}"', f'address = "{address}"']
    return "\n".join(lines) + "\n"
