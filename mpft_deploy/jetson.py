"""What a Jetson says of itself: its module and release, its power mode, clocks and decoder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
MODEL, RELEASE = "proc/device-tree/model", "etc/nv_tegra_release"
GPU_CLOCK = "sys/class/devfreq/*gpu*"
"""Folders with `cur_freq` and `max_freq`, in Hz."""

DECODERS = ("dev/v4l2-nvdec", "dev/nvhost-nvdec")
"""Files by which GStreamer's nvv4l2decoder reaches the video decoder, of JetPack 6 and before."""

JETPACKS = {"35": "5", "36": "6", "38": "7", "39": "7"}
"""Major release of Jetson Linux → that of JetPack."""


class Finding(NamedTuple):
    """What was looked at, whether it is as it should be, and what was found."""

    name: str
    fine: bool
    text: str


def versions() -> dict[str, str]:
    """The module's name and Jetson Linux's release, such as `36.4.3`; {} elsewhere.

    A plan is of one release, and the GPUs of all Orin modules have one name and one capability.
    """
    model = _read(ROOT / MODEL)
    if "nvidia jetson" not in model.lower():
        return {}
    release = re.search(r"R(\d+) .*REVISION: ([\d.]+)", _read(ROOT / RELEASE))
    return {"jetson": model, **({"jetson-linux": ".".join(release.groups())} if release else {})}


def jetpack(versions: Mapping[str, str]) -> str:
    """JetPack's major version by what `versions` gave, `6`; "" if it is not known."""
    return JETPACKS.get(versions.get("jetson-linux", "").partition(".")[0], "")


def examine() -> Iterator[Finding]:
    """What decides how fast a Jetson is; nothing elsewhere."""
    found = versions()
    if not found:
        return
    release = found.get("jetson-linux")
    told = "its release is not told: in a container, mount /etc/nv_tegra_release"
    if release:
        told = f"JetPack {jetpack(found) or 'of an unknown version'}, Jetson Linux {release}"
    yield Finding("Jetson", release is not None, f"{found['jetson']}, {told}")
    yield _power()
    yield _clocks()
    yield _decoder()


def _power() -> Finding:
    program = shutil.which("nvpmodel")
    if program is None:
        return Finding("power mode", False, "nvpmodel is not here; ask on the Jetson itself")
    try:
        asked = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("power mode", False, f"nvpmodel -q does not answer: {error}")
    mode = re.search(r"Power Mode: *(\S+)", asked.stdout)
    if mode is None:
        return Finding("power mode", False, "nvpmodel -q tells no mode")
    most = mode[1].startswith("MAXN")
    text = mode[1] if most else f"{mode[1]}; `sudo nvpmodel -m 0` allows the most on most modules"
    return Finding("power mode", most, text)


def _clocks() -> Finding:
    for folder in sorted(ROOT.glob(GPU_CLOCK)):
        now, most = _read(folder / "cur_freq"), _read(folder / "max_freq")
        if now.isdigit() and most.isdigit():
            text = f"GPU at {int(now) / 1e6:.0f} of {int(most) / 1e6:.0f} MHz"
            fixed = _read(folder / "min_freq") == most
            how = "fixed" if fixed else "as load asks; `sudo jetson_clocks` fixes them, to measure"
            return Finding("clocks", fixed, f"{text}, {how}")
    return Finding("clocks", False, "the GPU's clock is not told here")


def _decoder() -> Finding:
    files = [name for name in DECODERS if (ROOT / name).exists()]
    program = shutil.which("gst-inspect-1.0")
    command = [program or "", "--exists", "nvv4l2decoder"]
    plugin = program is not None and subprocess.run(command, capture_output=True).returncode == 0
    closed = [name for name in files if not os.access(ROOT / name, os.R_OK | os.W_OK)]
    if not plugin:
        text = "GStreamer has no nvv4l2decoder: install nvidia-l4t-gstreamer"
    elif closed:
        text = f"/{closed[0]} is closed to this user: add it to the group video"
    else:
        text = f"nvv4l2decoder{f', /{files[0]}' if files else ''}"
    return Finding("video decoder", plugin and not closed, text)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""
