"""Tables of docs/benchmarks.md that several of its parts have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers, all columns but the first, to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def interval(figure: Json) -> str:
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def times(figures: Json) -> list[str]:
    p90 = figures.get("p90")  # which takes some samples
    return [interval(figures["p50"]), f"{p90['value']:.2f}" if p90 else "–"]


def cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:d}" if isinstance(value, int) else f"{value:.{0 if value >= 10 else 3}f}"


def targets(sections: Json) -> str:
    found = [
        one
        for part in sections.values()
        for one in [*part.get("targets", []), *map(_ratio, part.get("ratios", []))]
    ]
    rows = [
        [
            one["name"],
            f"{one['value']:.4g} {one['unit']}",
            f"{'≥' if one['at_least'] else '≤'} {one['limit']:g} {one['unit']}",
            "met" if one["met"] else "**missed**",
        ]
        for one in found
    ]
    why = [f"- {one['name']}: {one['why']}.\n" for one in found if one.get("why")]
    return (
        "\n### Targets\n"
        + table(["figure", "measured", "target", ""], rows)
        + ("\nWhy some are missed:\n\n" + "".join(why) if why else "")
        if rows
        else ""
    )


def _ratio(ratio: Json) -> Json:
    """A ratio of the engines benchmark as a target."""
    value, limit = ratio["ratio"], ratio["target"]
    return {
        "name": f"engine alone, times as fast: {ratio['name']}",
        "value": value,
        "limit": limit,
        "unit": "×",
        "at_least": True,
        "met": value >= limit,
    }
