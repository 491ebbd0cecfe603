"""Write the fault table of docs/streams.md from what its tests measured.

    python benchmarks/fault_table.py [build/faults.json]

`make faults` runs the tests first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mpft_deploy.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "streams.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def table(faults: dict[str, dict[str, Any]]) -> str:
    """Rows in the order of their names."""

    def seconds(value: float | None) -> str:
        return "–" if value is None else "at once" if value < 0.05 else f"{value:.1f} s"

    lines = [
        "| fault | noticed after | well again after | |",
        "|---|---|---|---|",
    ]
    for name, values in sorted(faults.items(), key=lambda item: item[0].lower()):
        other = ", ".join(
            value
            if key == "note"
            else f"{key.removesuffix('_s').replace('_', ' ')} {value:.{0 if value > 10 else 2}f} s"
            if key.endswith("_s")
            else f"{value:.0f} {key.replace('_', ' ')}"
            for key, value in values.items()
            if key not in ("noticed_s", "recovered_s")
        )
        noticed, recovered = values.get("noticed_s"), values.get("recovered_s")
        lines.append(f"| {name} | {seconds(noticed)} | {seconds(recovered)} | {other} |")
    return "\n".join(lines)


def main(path: str = "build/faults.json") -> None:
    """Put the table between its marks."""
    text = DOCS.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    rows = table(json.loads(Path(path).read_text(encoding="utf-8")))
    write_atomic(DOCS, f"{head}{BEGIN}\n{rows}\n{END}{tail}".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
