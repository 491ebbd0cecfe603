"""docs/streams.md and the README: every key with its default, and commands that work as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import MPFT

from mpft_deploy.screen.streams.config import read_config
from mpft_deploy.screen.streams.settings import DecisionSettings, ScreenSettings, SourceSettings

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "streams.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [SourceSettings, ScreenSettings, DecisionSettings])
def test_every_key_is_documented_with_its_default(kind: type[msgspec.Struct]) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS, re.MULTILINE))
    for field in msgspec.structs.fields(kind):
        if field.default is msgspec.NODEFAULT:
            assert rows[field.name] == "required"
        elif field.default is None:
            assert rows[field.name] == "the bundle's"
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


def commands(text: str) -> list[str]:
    """Commands of a document that screen a camera."""
    found = re.findall(r"^    (mpft screen [^\n]*rtsp://[^\n]*)$", text, re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize("command", commands(README) + commands(DOCS))
def test_commands_work_as_written(command: str, rtsp: Any, bundle: Path, tmp_path: Path) -> None:
    url = rtsp().url("cam")
    (tmp_path / "bundle").symlink_to(bundle)
    command = command.replace("127.0.0.1:8088", "127.0.0.1:0")
    program, *words = shlex.split(re.sub(r"rtsp://\S+", url, command))
    assert program == "mpft"
    done = subprocess.run(
        [*MPFT, *words, "--duration", "4"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "live" in done.stdout


def test_the_library_works_as_written(rtsp: Any, bundle: Path, tmp_path: Path) -> None:
    [code] = re.findall(r"<!-- tested: library -->\n```python\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "bundle").symlink_to(bundle)
    code = code.replace("rtsp://camera/stream", rtsp().url("cam"))
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert "state='live'" in process.stdout.readline()
        assert "FrameEvent" in process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
