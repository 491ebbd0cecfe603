"""Commands as a person runs them: in a process of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

MPFT = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()"]


class Run(NamedTuple):
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Screen = Callable[..., Run]
