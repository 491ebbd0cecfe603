"""The examples on streams run as their first lines say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from media import write_video

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", seconds=2)


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opencv_loop(bundle: Path, clip: Path) -> None:
    if importlib.util.find_spec("cv2") is None:
        pytest.skip("OpenCV is not installed: pip install opencv-python-headless")
    lines = run(EXAMPLES / "opencv_loop.py", bundle, clip, "--every", "4").splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("frame")] == [
        f"frame {index}" for index in range(0, 16, 4)
    ]
    assert "evidence" in lines[-1]


def test_watch_stream(bundle: Path, clip: Path) -> None:
    out = run(EXAMPLES / "watch_stream.py", bundle, clip)
    assert " ms old" in out
    assert "is ended" in out
