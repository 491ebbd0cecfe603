"""The soak benchmark, for moments: it runs, and its exit code says what its result does."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("soak")


def test_a_short_soak(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    words = ["--minutes", "0.25", "--cameras", "2", "--json", out]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soak.py", bundle, *words],
        capture_output=True,
        text=True,
        timeout=240,
    )
    result = json.loads(out.read_text())
    assert result["verdicts"] > 0
    assert len(result["samples"]) >= 2
    assert {"device", "commit", "date", "cores"} <= result.keys()
    # Bounds are judged by the benchmark, on a quiet machine.
    assert done.returncode == bool(result["broken"]), done.stderr
    assert "descriptors" in done.stdout
    assert result["pictures"]
    assert result["delivered"]["webhook"]
    assert result["one_camera_mb"] > 50


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, []),
        ({"trouble": "it ended by itself", "exit_codes": [0, -11]}, ["it ended by itself", "exit"]),
        ({"anonymous_mb_per_hour": 1.5}, ["memory"]),
        ({"anonymous_mb_per_hour": -1.5}, ["memory"]),
        ({"anonymous_mb_per_hour": 1.5, "minutes": 20}, []),
        ({"one_camera_mb": 381.0}, ["memory of one camera"]),
        ({"threads_per_hour": 2.0, "descriptors_per_hour": 1.0}, ["threads", "descriptors"]),
        ({"delivered": {"webhook": 0, "mqtt": 9}}, ["a sink got nothing"]),
    ],
)
def test_what_breaks_a_bound(soak: ModuleType, changes: dict[str, Any], broken: list[str]) -> None:
    good: dict[str, Any] = {"trouble": "", "exit_codes": [0, 0], "minutes": 60, "pictures": 9}
    good |= {"one_camera_mb": 251.0, "anonymous_mb_per_hour": 0.4, "oldest_verdict_s": 1.0}
    good |= {"threads_per_hour": 0.0, "descriptors_per_hour": 0.0, "delivered": {"webhook": 9}}
    found = soak.broken_bounds({**good, **changes})
    assert len(found) == len(broken)
    assert all(one.startswith(start) for one, start in zip(found, broken, strict=True))


def test_a_slope_leaves_warming_up_out(soak: ModuleType) -> None:
    """An hour: it fills until minute 20, with noise and one spike, then 2 MB an hour."""
    samples = [
        {"time": 5.0 * n, "mb": 100 + min(n, 240) + 2 * n / 720 + n % 3 * 0.1 + 50 * (n == 500)}
        for n in range(720)
    ]
    assert 1.8 < soak.slope(samples, "mb") < 2.2
    assert soak.slope([], "mb") == 0
