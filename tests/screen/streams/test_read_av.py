"""What a reader leaves out of a stream, and how far it is behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clips import write_spoiled

from mpft_deploy.screen.streams.read_av import Lag


def test_lag_is_what_waits_in_buffers() -> None:
    lag = Lag()
    for index in range(100):
        assert lag.update(index * 0.04, index * 0.04) == pytest.approx(0, abs=1e-3)
    # Read at half its speed, a stream falls behind by half a second a second.
    for index in range(100):
        behind = lag.update(4 + index * 0.08, 4 + index * 0.04)
    assert behind == pytest.approx(100 * 0.04, rel=0.1)
    # Time stamps that start again, forward or back, are no lag.
    assert lag.update(12.1, 0.0) == 0
    assert lag.update(12.2, 5000.0) == 0
    # Nor is a camera's clock that runs a little slow.
    for second in range(10_000):
        behind = lag.update(13 + second, 5001 + second * (1 - 1e-4))
    assert behind < 0.1


def test_what_refers_to_damage_is_no_frame_of_a_stream(tmp_path: Path, watching: Any) -> None:
    running = watching(str(write_spoiled(tmp_path / "clip.mkv")))
    running.state("ended")
    status = running.status()
    assert status.received == 36
    assert status.dropped["damaged"] == 9
