"""Where a benchmark's result goes: a JSON file, which replaces only an earlier result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpft_deploy.outputs import write_output
from mpft_deploy.standing import marked_kind

RESULT = marked_kind("a benchmark's result", b'{\n  "benchmark": ')


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result, whose first key is `benchmark`, whole or not at all."""
    write_output(path, (json.dumps(record, indent=2) + "\n").encode(), RESULT)
