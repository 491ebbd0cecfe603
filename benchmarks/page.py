"""docs/benchmarks.md and its charts, drawn from the committed results and from nothing else.

python benchmarks/page.py            # draw
python benchmarks/page.py --check    # exit code 1 unless the page is what the results give
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from gpu_page import NO_GPU, draw_gpu, gpus
from tables import cell, interval, table, targets
from turns import shipped

from mpft_deploy.files import write_atomic

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"

HEAD = """# Benchmarks

Drawn by `make bench` from the JSON in `benchmarks/results/`; nothing here is
typed. Contestants of a table took turns in one run (A B A B), so that what disturbed one disturbed
all. Milliseconds are medians with 95 % intervals by block bootstrap. Losses are shown too. All
results are of the shipped detector's tower, which times depend on; what is missing was not measured
yet.
"""

EMPTY = "\nNo results are committed yet: run `make bench` on a quiet machine.\n"

EARLIER = """
By an earlier head of the same tower: times are those of the shipped detector, differences of logits
and verdicts are that head's.
"""

DECISIVE = {"amx_int8": "AMX", "avx512_vnni": "VNNI", "avx2": "AVX2"}

Json = Mapping[str, Any]


def newest(results: Path) -> dict[str, Json]:
    """The last result of each device, by the file's name without its date.

    A run of the encoder's benchmark alone is shown as a suite that has no other, until there is a
    suite of its device.
    """
    found: dict[str, Json] = {}
    for path in sorted(results.glob("*.json"), key=lambda path: (path.stem[-10:], path.name)):
        record = json.loads(path.read_bytes())
        if record.get("benchmark") == "encoder":
            record |= {"sections": {"encoder": record}, "failures": {}, "disturbed": None}
        if record.get("benchmark") in ("suite", "encoder"):
            found[path.stem[:-11]] = {**record, "file": path.name}
    whole = {_device(one) for one in found.values() if one["benchmark"] == "suite"}
    return {
        name: one
        for name, one in found.items()
        if one["benchmark"] == "suite" or _device(one) not in whole
    }


def decisive(record: Json) -> str:
    """The instruction set of a result's processor that speed depends on; processors of one name
    may have different ones."""
    able = record["device"]["instructions"]
    return next((told for name, told in DECISIVE.items() if name in able), "")


def _device(record: Json) -> tuple[object, ...]:
    device = record["device"]
    return device["processor"], tuple(device["instructions"]), record["cores"]


def pages(results: Path) -> dict[str, str]:
    """Files below docs/ and their text."""
    files, parts = {}, [HEAD]
    for device, record in newest(results).items():
        sections = record["sections"]
        parts.append(_head(record))
        parts.append(targets(sections))
        if encoder := sections.get("encoder"):
            parts.append(_encoder(encoder))
        if pipeline := sections.get("pipeline"):
            parts.append(_pipeline(pipeline))
        if steps := (pipeline or encoder or {}).get("waterfall"):
            picture = f"images/benchmarks-{device}.svg"
            files[picture] = bars({one["step"]: one["ms"] for one in steps})
            parts.append(_waterfall(steps, picture))
        if engines := sections.get("engines"):
            parts.append(_engines(engines))
        if keeps := sections.get("keeps"):
            parts.append(_keeps(keeps))
        if kernel := sections.get("texture_patchify"):
            parts.append(_kernel(kernel))
        for name, failure in record["failures"].items():
            parts.append(f"\n**{name} was not measured**: {failure}.\n")
    files["benchmarks.md"] = "".join(parts) + ("" if len(parts) > 1 else EMPTY)
    files["benchmarks.md"] += "".join(map(draw_gpu, gpus(results))) or NO_GPU
    return files


def draw_page(results: Path = RESULTS, docs: Path = DOCS) -> None:
    """Write the page and its charts."""
    for name, text in pages(results).items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def stale(results: Path = RESULTS, docs: Path = DOCS) -> list[str]:
    """Files that are not what the results give."""
    return [
        name
        for name, text in pages(results).items()
        if not (docs / name).exists() or (docs / name).read_text() != text
    ]


def _head(record: Json) -> str:
    device = record["device"]
    quiet = record["disturbed"]
    told = "" if quiet is None else f", {'; '.join(quiet) or 'quiet before the run'}"
    able = f" with {', '.join(device['instructions'])}" if device["instructions"] else ""
    title = " with ".join(filter(None, (device["processor"], decisive(record))))
    return (
        f"\n## {title}, {record['cores']} cores\n\n{record['date']}, commit "
        f"`{record['commit']}`, {device['machine']}{able}, {device['system']}{told}. "
        f"[{record['file']}](../benchmarks/results/{record['file']})\n"
        + (EARLIER if record["weights"] != shipped()["weights"] else "")
    )


def _pipeline(section: Json) -> str:
    ours = section["rows"][0]["ms"]["p50"]["value"]
    text = (
        f"\n### From JPEG file to verdict, batch 1, {section['threads']} threads\n\n"
        f"{section['jpeg']}.\n" + _times(section["rows"], ours)
    )
    decode = section["decode"]
    text += "\n### Decoding a crop of a 1080p JPEG\n"
    if decode["rows"]:
        return text + _times(decode["rows"], decode["rows"][0]["ms"]["p50"]["value"])
    return text + f"\nNot measured: {decode['why_not']}.\n"


def _encoder(section: Json) -> str:
    """The network in integers, beside the same pruned graph in other engines."""
    errors = section["errors"]
    wide = section["ms"]["wide"]["p50"]["value"]
    rows = [
        [
            name,
            interval(one["p50"]),
            f"{one['p50']['value'] / wide:.2f} ×",
            *(f"{errors[name][how]:.4f}" if name in errors else "–" for how in ("mean", "largest")),
        ]
        for name, one in section["ms"].items()
    ]
    twice = (
        "\nThe precision twice is narrow, and wide once more for {share_of_second_looks:.1%} of "
        "the {images} pictures of the detector's certificate: {ms:.1f} ms in the mean, by "
        "arithmetic.\n"
    ).format(**section["twice"]) if "twice" in section else ""  # fmt: skip
    return (
        f"\n### From cells to logit, one view of {section['cells']} cells, "
        f"{section['threads']} threads\n\n"
        "What names no runtime is ours, in integers; peers run the same pruned graph. Beside them "
        "how far logits of the drawn crops are from float32.\n"
        + table(["", "p50 ms", "of wide", "mean error", "largest error"], rows)
        + twice
    )


def _waterfall(steps: Sequence[Json], picture: str) -> str:
    """From PyTorch to ours, one thing at a time."""
    first, before, falls = steps[0]["ms"], steps[0]["ms"], []
    for one in steps:
        change = f"{before / one['ms']:.2f} ×"
        falls.append([one["step"], f"{one['ms']:.1f}", change, f"{first / one['ms']:.2f} ×"])
        before = one["ms"]
    return (
        "\n### The way from PyTorch, one thing at a time\n\n"
        "What each is worth; each row goes on from the one above.\n\n"
        f"![Milliseconds, one thing at a time]({picture})\n"
        + table(["", "p50 ms", "faster than the row above", "than the first"], falls)
    )


def _times(rows: Sequence[Json], ours: float) -> str:
    return table(
        ["", "p50 ms", "p90 ms", "of ours"],
        [
            [
                row["name"].replace("*", "\\*"),
                interval(row["ms"]["p50"]),
                f"{row['ms']['p90']['value']:.2f}",
                f"{row['ms']['p50']['value'] / ours:.2f} ×",
            ]
            for row in rows
        ],
    )


def _value(figure: Any) -> float:
    """A figure that may have an interval."""
    return float(figure["value"] if isinstance(figure, Mapping) else figure)


def _engines(section: Json) -> str:
    """Whatever contestants that benchmark has, with the columns that it gives for them."""
    rows = section["results"]
    extra = {
        "peak_memory_mb": "peak MB",
        "size_mb": "file MB",
        "flips": "flips",
        "decisive": "decisive flips",
        "mean_logit_difference": "mean logit difference",
    }
    shown = [key for key in extra if any(row.get(key) is not None for row in rows)]
    # The first row of each backbone is PyTorch eager on all tokens.
    eager: dict[bool, float] = {}
    for row in rows:
        eager.setdefault(row["name"].startswith("L/14"), _value(row["ms"]["p50"]))

    def cells(row: Json) -> list[str]:
        middle, ninety = _value(row["ms"]["p50"]), row["ms"].get("p90")  # which takes some samples
        values = [row.get(key) for key in shown]
        return [
            row["name"],
            f"{middle:.2f}",
            "–" if ninety is None else f"{_value(ninety):.2f}",
            f"{eager[row['name'].startswith('L/14')] / middle:.1f} ×",
            *map(cell, values),
        ]

    columns = ["", "p50 ms", "p90 ms", "times as fast as eager", *(extra[key] for key in shown)]
    left_out = "".join(f"\nNot measured: {reason}.\n" for reason in section.get("left_out", []))
    return (
        f"\n### From view to logit, {section.get('views', 'some')} views, one at a time\n\n"
        "Peers see all tokens of the whole backbone. Flips are decisions that change against "
        "ours in fp32, decisive ones from one side of the unsure band to the other.\n"
        + table(columns, [cells(row) for row in rows])
        + left_out
    )


def _keeps(section: Json) -> str:
    """One row a number of cells, one column an engine."""
    names = list(section["rows"][0]["ms"])
    floats = ", ".join(f"`{name}`" for name in section["float_layers"])
    rows = [
        [
            f"`{row['keep']}`" + (" (the detector's own)" if row["keep"] == section["own"] else ""),
            *(f"{row['ms'][name]['p50']['value']:.2f}" for name in names),
        ]
        for row in section["rows"]
    ]
    return (
        f"\n### Ours at each number of cells and precision, view to logit, "
        f"{section['threads']} threads\n\n"
        f"Median milliseconds; int8 keeps {floats} in float. What other numbers of cells do to "
        "verdicts is in [method.md](method.md).\n" + table(["cells", *names], rows)
    )


def _kernel(section: Json) -> str:
    seconds = section["median_seconds"]
    return "\n### texture_patchify, one view, one thread\n" + table(
        ["", "µs"], [[name, f"{1e6 * value:.1f}"] for name, value in seconds.items()]
    )


WIDTH, ROW, LEFT, RIGHT = 800, 34, 256, 150


def bars(rows: Mapping[str, float]) -> str:
    """A bar for the first of some milliseconds by name; each of the others goes on from the end of
    the one above it."""
    base, longest = next(iter(rows.values())), max(rows.values())
    scale = (WIDTH - LEFT - RIGHT) / longest
    height = ROW * len(rows) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="14">',
        "<style>text{fill:#1a1f27}.base{fill:#2b5fc4}.cost{fill:#d9953f}.gain{fill:#14794f}"
        "@media (prefers-color-scheme:dark){text"
        "{fill:#e8ebf0}.base{fill:#83aefc}}</style>",
    ]
    for index, (name, value) in enumerate(rows.items()):
        y = 6 + index * ROW
        change = value - base
        kind = "base" if index == 0 else "cost" if change >= 0 else "gain"
        x, length = (LEFT, base) if index == 0 else (LEFT + min(base, value) * scale, abs(change))
        label = f"{value:.1f} ms"
        at = LEFT + max(value, base) * scale + 8
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 18}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(length * scale, 1.5):.1f}" '
            f'height="{ROW - 9}" rx="3"/><text x="{at:.1f}" y="{y + 18}">{escape(label)}</text>'
        )
        base = value
    return "".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if names := stale():
            sys.exit(f"not what the results give: {', '.join(names)}; run benchmarks/page.py")
    else:
        draw_page()
