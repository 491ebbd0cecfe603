"""The JSON Schema of events: what a line, a webhook's body and an MQTT event hold.

python -m mpft_deploy.screen.tell.schema docs/events.schema.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mpft_deploy.files import write_atomic
from mpft_deploy.screen.streams.records import Event
from mpft_deploy.spec import record_schema


def events_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an event."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event of mpft screen",
        **record_schema(Event),
    }


if __name__ == "__main__":
    write_atomic(Path(sys.argv[1]), (json.dumps(events_schema(), indent=2) + "\n").encode())
