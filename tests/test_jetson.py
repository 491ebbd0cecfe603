"""What a Jetson tells of itself, from files and programs as JetPack has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mpft_deploy import jetson

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed"


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of an Orin Nano's file system, and its programs on PATH."""
    files = {
        jetson.MODEL: "NVIDIA Jetson Orin Nano Developer Kit\0",
        jetson.RELEASE: f"{RELEASE} Jan  8 01:49:37 UTC 2025\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
        "dev/v4l2-nvdec": "",
        "bin/nvpmodel": "#!/bin/sh\necho 'NVPM WARN: fan mode is not set!'\n"
        "echo 'NV Power Mode: 15W'\necho 0\n",
        "bin/gst-inspect-1.0": '#!/bin/sh\ntest "$2" = nvv4l2decoder\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setattr(jetson, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    return tmp_path


def test_module_and_release_are_told(orin: Path) -> None:
    told = jetson.versions()
    assert told == {
        "jetson": "NVIDIA Jetson Orin Nano Developer Kit",
        "jetson-linux": "36.4.3",
    }
    assert jetson.jetpack(told) == "6"
    (orin / jetson.RELEASE).unlink()  # in a container
    assert jetson.jetpack(jetson.versions()) == ""


def test_power_clocks_and_decoder_are_told(orin: Path) -> None:
    found = {one.name: (one.fine, one.text) for one in jetson.examine()}
    assert found["Jetson"] == (
        True,
        "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6, Jetson Linux 36.4.3",
    )
    assert found["power mode"][0] is False
    assert found["power mode"][1].startswith("15W; `sudo nvpmodel -m 0`")
    assert found["clocks"] == (
        False,
        "GPU at 306 of 1020 MHz, as load asks; `sudo jetson_clocks` fixes them, to measure",
    )
    assert found["video decoder"] == (True, "nvv4l2decoder, /dev/v4l2-nvdec")


def test_what_is_as_it_should_be_is_fine(orin: Path) -> None:
    (orin / "bin/nvpmodel").write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\n")
    (orin / "sys/class/devfreq/17000000.gpu/min_freq").write_text("1020000000")
    assert all(one.fine for one in jetson.examine())


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda root: (root / "bin/nvpmodel").unlink(), "power mode", "nvpmodel is not here"),
        (
            lambda root: (root / "bin/nvpmodel").write_text("#!/bin/sh\nexit 1\n"),
            *("power mode", "tells no mode"),
        ),
        (
            lambda root: (root / "bin/gst-inspect-1.0").write_text("#!/bin/sh\nexit 1\n"),
            *("video decoder", "install nvidia-l4t-gstreamer"),
        ),
        (
            lambda root: (root / "sys/class/devfreq/17000000.gpu/cur_freq").unlink(),
            *("clocks", "not told here"),
        ),
        (lambda root: (root / jetson.RELEASE).unlink(), "Jetson", "mount /etc/nv_tegra_release"),
    ],
)
def test_what_is_missing_is_said(
    orin: Path, change: Callable[[Path], object], name: str, words: str
) -> None:
    change(orin)
    (found,) = (one for one in jetson.examine() if one.name == name)
    assert not found.fine
    assert words in found.text


def test_elsewhere_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetson, "ROOT", tmp_path)
    assert jetson.versions() == {}
    assert list(jetson.examine()) == []
