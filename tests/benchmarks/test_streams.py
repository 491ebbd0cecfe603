"""What the benchmark of streams tells of cameras that had no verdict in time."""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_no_verdict_in_time_is_told_and_no_age_is_made_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    streams = importlib.import_module("streams")
    scenario = next(iter(streams.SCENARIOS.values()))
    told = streams._verdicts(defaultdict(list), scenario, 2.0)
    assert told["verdicts_per_second"] == 0
    assert told["longest_gap_s"] is told["gap_s"] is streams._summary([]) is None
    used = {"cores": 1.0, "resident_mb": 100.0, "processes": 1, "cameras_cores": 0.1}
    used["looked_at_twice"] = 0.0
    streams._show("64 cameras", "mpft", {**told, **used, "age_s": None})
    assert "no source had two verdicts" in capsys.readouterr().out
