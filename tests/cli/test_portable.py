"""Where a system lacks what POSIX has, and what nobody else may read of an address."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import MPFT
from media import encoded, picture, write_video

SITE = """\
import os, signal, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGPIPE", "SIGCHLD"):
    delattr(signal, name)
for name in ("sched_getaffinity", "getuid", "geteuid", "sysconf", "fork", "getloadavg", "pread",
             "O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"):
    delattr(os, name)
os.supports_dir_fd.clear()
import select
del select.poll
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["kernels"], 0),
        (["inspect", "BUNDLE"], 0),
        (["inspect", "DETECTOR"], 0),
        (["screen", "photo.png", "--report", "r.html"], 0),
        (["screen", "clip.mp4", "--json"], 0),
        (["screen", "rtsp://viewer:hunter2secret@127.0.0.1:9/x"], 3),
        (["screen", "--config", "cameras.toml"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_system_that_is_not_posix(
    arguments: list[str], code: int, bundle: Path, detector: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "photo.png").write_bytes(encoded(picture()))
    write_video(tmp_path / "clip.mp4")
    places = {"BUNDLE": str(bundle), "DETECTOR": str(detector)}
    done = subprocess.run(
        [*MPFT, *(places.get(argument, argument) for argument in arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MPFT_BUNDLE": str(bundle)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 3:
        assert "streams need Linux, macOS or another POSIX system" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="titles are overwritten on Linux alone")
@pytest.mark.parametrize("command", [["doctor"], ["screen", "--json", "--bundle", "BUNDLE"]])
def test_no_title_shows_a_secret(command: list[str], bundle: Path) -> None:
    address = "rtsp://viewer:hunter2secret@127.0.0.1:9/live?key=hunter3secret"
    arguments = [str(bundle) if word == "BUNDLE" else word for word in [*command, address]]
    process = subprocess.Popen(
        [*MPFT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    title = Path(f"/proc/{process.pid}/cmdline")
    end = time.monotonic() + 60
    while b"secret" in (shown := title.read_bytes()) or not shown:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    # Long before the engines are looked at, or a camera is asked.
    assert b"rtsp://***@127.0.0.1:9/live" in shown
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert "secret" not in out + err


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "x", "rtsp://viewer:hunter2secret@cam/live"],
        ["inspect", "rtsp://viewer:hunter2secret@cam/live"],
        ["verify", "rtsp://viewer:hunter2secret@cam/live", "--json"],
        ["rtsp://viewer:hunter2secret@cam/live"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_error_shows_a_secret(arguments: list[str]) -> None:
    done = subprocess.run([*MPFT, *arguments], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert "***@cam" in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
