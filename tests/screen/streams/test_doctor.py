"""`mpft doctor`: what it finds, and the exit code that follows."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import servers
from command import MPFT, Run
from PIL import Image

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen import doctor as examination
from mpft_deploy.screen.streams import read_raw
from mpft_deploy.screen.streams.doctor import describe


def doctor(*arguments: str | Path) -> Run:
    done = subprocess.run([*MPFT, "doctor", *arguments], capture_output=True, text=True, timeout=90)
    assert "Traceback" not in done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


def by_name(run: Run) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in run.lines}


def test_a_machine_that_can_screen(bundle: Path, rtsp: Any) -> None:
    run = doctor("--json", "--bundle", bundle, rtsp().url("cam"))
    assert run.code == 0, run.out
    checks = by_name(run)
    assert checks["engine onnxruntime"]["result"] == "ok"
    assert "h264" in checks["video"]["text"]
    assert "verified and loaded" in checks["bundle"]["text"]
    assert "h264 320 × 240" in checks["camera"]["text"]
    # What is absent says what to do.
    for check in checks.values():
        assert check["text"]


def test_a_table_for_people() -> None:
    run = doctor()
    assert run.code == 0
    assert "engine onnxruntime" in run.out
    assert "disk" in run.out


def test_a_camera_that_is_not_there_and_a_damaged_bundle(tmp_path: Path) -> None:
    address = f"rtsp://viewer:s3cr3tw0rd@127.0.0.1:{servers.free_port()}/cam"
    run = doctor("--json", "--bundle", tmp_path, address)
    assert run.code == 1
    checks = by_name(run)
    assert checks["bundle"]["result"] == checks["camera"]["result"] == "fault"
    assert "Connection refused" in checks["camera"]["text"]
    assert "s3cr3tw0rd" not in run.out + run.err


def test_a_kernel_that_is_none_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    every = {*by_name(doctor("--json"))}
    for name, code in (("sse9", 2), ("neon" if platform.machine() == "x86_64" else "avx2", 3)):
        monkeypatch.setenv("MPFT_KERNEL", name)
        run = doctor("--json")
        assert (run.code, {*by_name(run)}) == (code, every)
        assert by_name(run)["kernel"]["result"] == "fault"
        assert f"MPFT_KERNEL={name}" in by_name(run)["kernel"]["text"]


def test_a_folder_of_state_that_is_not_there_yet_has_a_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "not" / "yet"))
    assert "GiB free" in examination._disk().text


def test_an_extra_is_installed_where_all_of_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "httpx2" else real(name)
    )
    found = {check.name: check for check in examination._optional()}
    lacking = [name for name, check in found.items() if check.result == "note"]
    assert {"extra webhook", "extra push"} <= set(lacking)
    assert "it needs httpx2: run `pip install" in found["extra push"].text


@pytest.mark.parametrize("program", ["/usr/bin/gst-launch-1.0", None])
def test_gstreamer_is_what_pipelines_are_run_by(
    program: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: program)
    check = examination._gstreamer()
    # The reader is of the same opinion.
    if program:
        assert (check.result, check.text) == ("ok", program)
        assert read_raw._command("videotestsrc ! fdsink", secret=False)[0] == program
    else:
        assert (check.result, read_raw.NO_GSTREAMER in check.text) == ("note", True)
        with pytest.raises(EnvironmentLacksError, match="install its tools"):
            read_raw._command("videotestsrc ! fdsink", secret=False)


def test_a_file_that_is_not_there_is_named_once() -> None:
    assert by_name(doctor("--json", "nope.mp4"))["camera"]["text"] == "nope.mp4: no such file"


def test_no_address() -> None:
    run = doctor("gopher://viewer:s3cr3tw0rd@cam/")
    assert run.code == 2
    assert "unknown" in run.out
    assert "s3cr3tw0rd" not in run.out + run.err


def test_of_a_folder_whose_images_wait_to_be_taken_no_rate_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpft_deploy.screen.streams.doctor._COUNTED", 0.1)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    assert "images 64 × 48; the first picture" in describe(str(tmp_path))


def test_ps_shows_no_password_while_a_camera_is_tried() -> None:
    listener = servers.Listener(servers.never_answer)
    address = f"rtsp://viewer:s3cr3tw0rd@127.0.0.1:{listener.port}/cam"
    process = subprocess.Popen([*MPFT, "doctor", address], stdout=subprocess.DEVNULL)
    try:
        title = Path(f"/proc/{process.pid}/cmdline")
        end = time.monotonic() + 60
        while not listener.connections:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        line = title.read_bytes()
        assert b"doctor" in line
        assert b"s3cr3tw0rd" not in line
    finally:
        process.kill()
        process.wait()
        listener.close()
