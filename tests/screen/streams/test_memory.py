"""Memory that frames took goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMES = """
import sys
import numpy as np
from mpft_deploy.profile.system import resident_mb
from mpft_deploy.screen.streams.memory import give_frames_back

if sys.argv[1] == "set" and not give_frames_back():
    sys.exit(3)
np.empty(30_000_000, np.uint8)  # freed at once: from now on smaller blocks count as small
before = resident_mb(field="VmRSS")
frames, between = [], []
for index in range(100):
    frames.append(np.ones(1_000_000, np.uint8))
    between.append(np.ones(50_000, np.uint8))
frames.clear()
print(resident_mb(field="VmRSS") - before)
"""


SMALL = """
import sys
from mpft_deploy.profile.system import resident_mb
from mpft_deploy.screen.streams.memory import trim

blocks = [bytearray(20_000) for _ in range(5_000)]
before = resident_mb(field="VmRSS")
for index in range(len(blocks)):
    if index % 4:
        blocks[index] = None
if sys.argv[1] == "set" and not trim():
    sys.exit(3)
print(75 - (before - resident_mb(field="VmRSS")))
"""


def left(how: str, program: str = FRAMES) -> float:
    """MB that stay resident of what was freed with other blocks between."""
    done = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("this system's allocator is not glibc's")
    assert not done.returncode, done.stderr
    return float(done.stdout)


def test_freed_frames_leave_nothing_behind() -> None:
    """Of 100 MB of frames, with 5 MB between them in use."""
    assert left("set") < 10
    # What it is for: without it they would.
    assert left("default") > 50


def test_a_trim_returns_what_was_freed_between_small_blocks() -> None:
    """Of 75 MB; blocks of 20 KB hold four whole pages each, and parts of two."""
    assert left("set", SMALL) < 30
    assert left("default", SMALL) > 50
