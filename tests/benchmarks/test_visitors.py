"""The benchmark of visitors, for moments: it runs, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_short_visits(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "visitors.json"
    words = ["--cameras", "1", "--events", "200", "--seconds", "3", "--json", out]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "visitors.py", bundle, *words],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(out.read_text())
    assert {"device", "commit", "date", "cores"} <= result.keys()
    assert result["page_ms"]["p50"] > 0 < result["health_ms"]["p50"]
    assert len(result["memory_mb"]) == 7
    assert result["evidence"]["frames"] > 0
