"""The part of docs/benchmarks.md on GPUs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tables import cell, table, targets, times

Json = Mapping[str, Any]

NO_GPU = "\n## GPUs: not measured\n\n`make gpu-suite` on a machine with one fills this in.\n"


def gpus(results: Path) -> list[Json]:
    """The last whole result of each GPU; those of a simulated one count for nothing."""
    found: dict[str, Json] = {}
    for path in sorted(results.glob("gpu-*.json"), key=lambda path: path.stem[-10:]):
        record = json.loads(path.read_bytes())
        if record.get("version") == 3 and not record["dry"]:
            found[record["gpu"]["gpu"]] = {**record, "file": path.name}
    return list(found.values())


PEERS = {"peers": "PyTorch", "tensorrt": "TensorRT, float16"}


def draw_gpu(record: Json) -> str:
    """All sections of a GPU's result; what was not measured says so."""
    sections, gpu = record["sections"], record["gpu"]
    text = (
        f"\n## {gpu['gpu']}\n\n{record['date']}, commit `{record['commit']}`, SM "
        f"{gpu['compute-capability']}, driver {gpu.get('nvidia-driver', gpu['cuda-driver'])}. "
        f"[{record['file']}](../benchmarks/results/{record['file']})\n"
    )
    equal = "equality" in sections and not sections["equality"]["different"]
    text += f"\nIn every bit as on processors: {'yes' if equal else '**not shown**'}.\n"
    told = [one for one in sections.values() if isinstance(one, dict)]
    different = [line for one in told for line in one.get("different", [])]
    if different:
        text += "\nDifferent:\n\n" + "".join(f"- {line}\n" for line in different)
    for name, failure in record["failures"].items():
        if name not in PEERS:
            text += f"\n**{name} was not measured**: {failure}.\n"
    text += targets({"gpu": {"targets": record.get("targets", [])}})
    if rows := sections.get("latency"):
        text += "\n### From frame or view to verdict or logit\n" + table(
            ["", "precision", "batch", "p50 ms", "p90 ms"],
            [[one["what"], one["precision"], str(one["batch"]), *times(one["ms"])] for one in rows],
        )
    if found := sections.get("throughput"):
        rows = [
            [
                f"views on the {where}",
                f"{found[where]['views_per_second']:,}",
                cell(found[where]["watts"]),
                cell(found[where]["joules_per_view"]),
            ]
            for where in ("host", "device")
        ]
        text += f"\n### {found['batch']} at once\n"
        text += table(["", "views a second", "watts", "joules a view"], rows)
    if rows := sections.get("stages"):
        text += "\n### Parts of a batch, µs\n" + _stages(rows)
    for name, title in PEERS.items():
        missing = {"not_measured": record["failures"].get(name, "it was left out")}
        found = sections.get(name, missing)
        if "not_measured" in found:
            text += f"\n{title}: not measured: {found['not_measured']}.\n"
            continue
        rows = [
            [str(one["batch"]), *times(one["ms"])] for one in found["rows"] if "what" not in one
        ]
        text += f"\n### {title}, host view to logit\n"
        text += table(["batch", "p50 ms", "p90 ms"], rows) if rows else _rivals(found["rows"])
    return text


def _stages(rows: Sequence[Json]) -> str:
    return table(list(rows[0]), [[f"{value:g}" for value in row.values()] for row in rows])


def _rivals(rows: Sequence[Json]) -> str:
    return table(
        ["", "batch", "p50 ms", "p90 ms", "views a second"],
        [
            [
                row["what"],
                str(row["batch"]),
                *times(row["ms"]),
                f"{row['views_per_second']:,}",
            ]
            if "ms" in row
            else [row["what"], str(row["batch"]), "not measured", "", ""]
            for row in rows
        ],
    )
