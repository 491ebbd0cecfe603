"""Layers as an icicle picture, and as a trace for chrome://tracing and ui.perfetto.dev."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from markupsafe import escape

from mpft_deploy.profile.records import Layers
from mpft_deploy.profile.wording import number

ROW, WIDTH = 24, 1000
LEAST_TEXT = 46
"""Width from which a cell holds a name."""


@dataclass
class Cell:
    """A place with what lies below it."""

    name: str
    ms: float = 0.0
    bound: str = ""
    below: dict[str, Cell] = field(default_factory=dict)


def tree(layers: Layers) -> Cell:
    """The engine as a tree of places, in the order in which they run."""
    root = Cell("engine", layers.engine_ms)
    for layer in layers.layers:
        cell = root
        for name in layer.path:
            cell = cell.below.setdefault(name, Cell(name))
            cell.ms += layer.ms
        cell.bound = layer.bound
    if layers.unattributed_ms > 0:
        root.below["not attributed"] = Cell("not attributed", layers.unattributed_ms)
    return root


def icicle(layers: Layers) -> str:
    """An SVG whose widths are times; colours by what bounds a layer, names and times as titles."""
    root = tree(layers)
    cells: list[str] = []

    def draw(cell: Cell, x: float, depth: int) -> None:
        width = WIDTH * cell.ms / max(root.ms, sum(one.ms for one in root.below.values()))
        title = f"{cell.name}: {number(cell.ms)} ms, {cell.ms / root.ms:.1%} of the engine"
        title += f", bound by {cell.bound}" if cell.bound else ""
        kind = "group" if cell.below else cell.bound or "none"
        text = ""
        if width >= LEAST_TEXT:
            fits = int(width / 7)
            shown = cell.name if len(cell.name) <= fits else f"{cell.name[: fits - 1]}…"
            text = f'<text x="{x + 5:.1f}" y="{depth * ROW + 16}">{escape(shown)}</text>'
        cells.append(
            f'<g class="cell {kind}"><title>{escape(title)}</title>'
            f'<rect x="{x:.2f}" y="{depth * ROW}" width="{max(width - 0.6, 0.2):.2f}" '
            f'height="{ROW - 1}" rx="2"/>{text}</g>'
        )
        for one in cell.below.values():
            draw(one, x, depth + 1)
            x += WIDTH * one.ms / max(root.ms, sum(each.ms for each in root.below.values()))

    draw(root, 0, 0)
    deepest = 1 + max(len(layer.path) for layer in layers.layers)
    return (
        f'<svg class="icicle" viewBox="0 0 {WIDTH} {deepest * ROW}" role="img" '
        f'aria-label="Time of each layer">{"".join(cells)}</svg>'
    )


def chrome_trace(layers: Layers) -> bytes:
    """Trace events of one mean run, each place within the one above it; in microseconds."""
    events: list[dict[str, object]] = []

    def add(cell: Cell, start: float) -> None:
        events.append(
            {
                "name": cell.name,
                "cat": "layer",
                "ph": "X",
                "ts": start,
                "dur": 1e3 * cell.ms,
                "pid": 1,
                "tid": 1,
                "args": {"bound": cell.bound},
            }
        )
        for one in cell.below.values():
            add(one, start)
            start += 1e3 * one.ms

    add(tree(layers), 0.0)
    head = {"otherData": {"writer": "mpft profile"}, "displayTimeUnit": "ms"}
    return msgspec.json.encode({**head, "traceEvents": events})
