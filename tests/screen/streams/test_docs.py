"""What the pages for operators and the README say: every key, and commands that work as written."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import PASSWORD as BROKER
from broker import Broker, Subscriber, require_broker
from command import MPFT
from media import encoded, picture, write_video
from telling import receiving

from mpft_deploy.screen.streams.config import read_config
from mpft_deploy.screen.streams.settings import DecisionSettings, ScreenSettings, SourceSettings

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "streams.md").read_text(encoding="utf-8")
TELLING = (ROOT / "docs" / "telling.md").read_text(encoding="utf-8")
OPERATE = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [SourceSettings, ScreenSettings, DecisionSettings])
def test_every_key_is_documented_with_its_default(kind: type[msgspec.Struct]) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS, re.MULTILINE))
    for field in msgspec.structs.fields(kind):
        if field.default is msgspec.NODEFAULT:
            assert rows[field.name] == "required"
        elif field.default is None:
            assert rows[field.name] == "the bundle's"
        elif field.default == ():
            assert rows[field.name] == "none"
        elif isinstance(field.default, str):
            assert rows[field.name] == f'`"{field.default}"`'
        else:
            assert float(rows[field.name]) == field.default


def test_the_configuration_is_one(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    path = tmp_path / "cameras.toml"
    path.write_text(text, encoding="utf-8")
    config = read_config(path, {"CAMERA_USER": "u", "CAMERA_PASSWORD": "p"})
    assert [(source.name, source.decode) for source in config.sources] == [
        ("entrance", "keyframes"),
        ("yard", 2),
    ]
    assert list(config.sources[0].boxes) == ["entrance/left screen", "entrance/right screen"]


def commands(text: str) -> list[str]:
    """Commands of a document that screen something."""
    found = re.findall(r"^    (mpft screen [^\n]*)$", text, re.MULTILINE)
    assert found
    return found


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """What the commands name: a bundle, images, and a clip."""
    (tmp_path / "bundle").symlink_to(bundle)
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.jpg").write_bytes(encoded(picture(), "JPEG"))
    (tmp_path / "folder" / "a.png").write_bytes(encoded(picture()))
    write_video(tmp_path / "clip.mp4", seconds=1)
    return tmp_path


def configure(folder: Path, server: Any, telling: str = "") -> None:
    """The example's cameras.toml, with cameras that are there."""
    [text] = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    text, count = re.subn(r"192\.0\.2\.\d+/stream1", f"127.0.0.1:{server.port}/cam", text)
    assert count == 2
    (folder / "cameras.toml").write_text(text + telling, encoding="utf-8")


LOGIN = {"CAMERA_USER": "viewer", "CAMERA_PASSWORD": "a-camera-password"}


@pytest.mark.parametrize("command", commands(OPERATE) + commands(DOCS))
def test_commands_work_as_written(command: str, rtsp: Any, run: Any, folder: Path) -> None:
    server = rtsp()
    configure(folder, server)
    command = command.replace("127.0.0.1:8088", "127.0.0.1:0")
    program, verb, *words = shlex.split(re.sub(r"rtsp://\S+", server.url("cam"), command))
    assert (program, verb) == ("mpft", "screen")
    streams = "--config" in words or "rtsp://" in command
    one = run(*words, cwd=folder, **LOGIN)
    if streams:
        one.until(lambda: any("live" in line for line in one.lines))
    one.end(signal.SIGTERM if streams else None)
    assert one.process.returncode == 0, one.errors
    assert streams or any("a.png" in line for line in one.lines)


def test_whom_to_tell_works_as_written(rtsp: Any, run: Any, folder: Path) -> None:
    """docs/telling.md's configuration, with places and receivers that are there."""
    require_broker()
    [text] = re.findall(r"```toml\n(.*?)```", TELLING, re.DOTALL)
    [make_secret] = re.findall(r"`(python -c \"import base64.*?\")`", TELLING)
    program, *words = shlex.split(make_secret)
    assert program == "python"
    secret = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    broker = Broker(folder, login=True)
    subscriber = Subscriber(broker.port, ("screener", BROKER))
    (folder / "webhook-secret").write_text(secret.stdout)
    (folder / "mqtt-password").write_text(BROKER)
    subprocess.run([*MPFT, "keygen", folder / "evidence.key"], capture_output=True, check=True)
    (folder / "notify-urls").write_text("json://127.0.0.1:9/\n")  # nothing is called generated
    with receiving() as receiver:
        for written, there in {
            "https://example.org/hooks/cameras": receiver.url,
            '"broker.lan"': f'"127.0.0.1"\nport = {broker.port}',
            "/var/lib/mpft": str(folder),
            "/etc/mpft": str(folder),
            "127.0.0.1:8088": "127.0.0.1:0",
            "127.0.0.1:8089": "127.0.0.1:0",
        }.items():
            assert written in text
            text = text.replace(written, there)
        configure(folder, rtsp(), text)
        one = run(
            *("--config", folder / "cameras.toml", "--bundle", folder / "bundle"),
            STATE_DIRECTORY=str(folder / "state"),
            **LOGIN,
        )
        one.until(lambda: len(receiver.received) >= 2)
        one.until(lambda: '"live"' in subscriber.latest.get("mpft/yard/state", ""))
        one.until(lambda: (folder / "events.jsonl").read_text().count('"frame"') > 4)
        one.until(lambda: any("dashboard: http://127.0.0.1:" in line for line in one.errors))
        one.end()
    subscriber.close()
    broker.down()
    assert one.process.returncode == 0
    assert {json.loads(body)["source"] for _, body in receiver.received} == {"entrance", "yard"}
    assert all("webhook-signature" in headers for headers, _ in receiver.received)
    # And what docs/performance.md does with the file that this wrote.
    [words] = re.findall(r"^    mpft (profile events [^#\n]*)", PERFORMANCE, re.MULTILINE)
    done = subprocess.run(
        [*MPFT, *words.split()], capture_output=True, text=True, timeout=60, cwd=folder
    )
    assert done.returncode == 0, done.stderr


def test_the_readmes_python_works_as_written(rtsp: Any, folder: Path) -> None:
    blocks = re.findall(r"((?:^    .*\n)+)", README, re.MULTILINE)
    code = textwrap.dedent("".join(block for block in blocks if "Screener" in block))
    code = code.replace("rtsp://camera/stream", rtsp().url("cam"))
    first = "import numpy\nframe = numpy.zeros((300, 400, 3), numpy.uint8)\n"
    assert first_lines(first + code, folder, 2)[1].startswith("FrameEvent(")


def first_lines(code: str, folder: Path, count: int) -> list[str]:
    """The first lines that a program prints; then it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        assert process.stdout is not None
        return [process.stdout.readline() for _ in range(count)]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_library_works_as_written(rtsp: Any, folder: Path) -> None:
    [code] = re.findall(r"<!-- tested: library -->\n```python\n(.*?)```", DOCS, re.DOTALL)
    lines = first_lines(code.replace("rtsp://camera/stream", rtsp().url("cam")), folder, 2)
    assert "state='live'" in lines[0]
    assert "FrameEvent" in lines[1]
