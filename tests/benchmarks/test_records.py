"""Results of benchmarks replace results of benchmarks, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mpft_deploy.errors import UsageError

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from records import write_record


def test_only_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for value in (1, 2):
        write_record(path, {"benchmark": "x", "value": value})
    assert json.loads(path.read_bytes())["value"] == 2
    path.write_text('{"device": "mine"}')
    with pytest.raises(UsageError, match="is not replaced"):
        write_record(path, {"benchmark": "x"})
