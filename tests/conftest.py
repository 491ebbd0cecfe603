"""Shared parts: tiny detectors and bundles, the development images where they are."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import reference
from hypothesis import settings

from mpft_deploy.cli.main import cli, run
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.spec import DetectorSpec

# Timing is asserted in benchmarks alone: a busy machine must not fail a property.
settings.register_profile("mpft", deadline=None)
settings.register_profile("few", deadline=None, max_examples=5)  # by --hypothesis-profile
settings.load_profile("mpft")

# A shell's background jobs ignore Ctrl-C, those of nohup the end of a terminal, and so would every
# process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: what begins last would be waited for."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development images and backbones; skips where it is absent."""
    folder = Path(os.environ.get("MPFT_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "manifest.csv").exists():
        pytest.skip("the development images are not here; set MPFT_SHARED to their folder")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A real browser with one page, `headless.Browser`; skips where there is none."""
    pytest.importorskip("websockets")
    from headless import Browser

    try:
        one = Browser()
    except FileNotFoundError as error:
        pytest.skip(f"{error}: apt install chromium")
    yield one
    one.close()


@pytest.fixture(scope="session")
def make_detector() -> Callable[..., DetectorSpec]:
    """Write a tiny random detector, golden logits by the independent reference."""

    return reference.write_tiny


@pytest.fixture(scope="session")
def detector(
    tmp_path_factory: pytest.TempPathFactory, make_detector: Callable[..., object]
) -> Path:
    """A tiny detector folder; not to be changed."""
    path = tmp_path_factory.mktemp("detector") / "tiny"
    make_detector(path)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, detector: Path) -> Path:
    """A tiny float32 bundle; not to be changed."""
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    export(Request(detector, path, *reference.FLOAT32))
    return path


@pytest.fixture
def mpft(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `mpft ARGS…`; the exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(cli, "mpft", [str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)
