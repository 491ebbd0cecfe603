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


def left(how: str) -> float:
    """MB that stay resident after 100 MB of frames were freed, with 5 MB between them in use."""
    done = subprocess.run([sys.executable, "-c", FRAMES, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("this system's allocator is not glibc's")
    assert not done.returncode, done.stderr
    return float(done.stdout)


def test_freed_frames_leave_nothing_behind() -> None:
    assert left("set") < 10
    # What it is for: without it they would.
    assert left("default") > 50
