"""The soak benchmark, for moments: it runs, and its exit code says what its result does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_soak(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    words = ["--minutes", "0.25", "--sources", "2", "--json", out]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soak.py", bundle, *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    result = json.loads(out.read_text())
    assert result["verdicts"] > 20
    assert len(result["samples"]) >= 2
    assert {"device", "commit", "date", "cores"} <= result.keys()
    # Bounds are judged by the benchmark, on a quiet machine.
    assert done.returncode == bool(result["broken"]), done.stderr
    assert "descriptors" in done.stdout
