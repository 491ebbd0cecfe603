"""The pictures of docs/method.md, one for each question, drawn of benchmarks/results alone.

    python examples/pictures.py DOCS

A dot is a figure and its line 95 % of it, as the tables beside have them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from baselines import BASELINES
from left_out import BASE, ROOT

RESULTS = ROOT / "benchmarks" / "results"
COLOURS = ("#3b6ea5", "#c1762d")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """Rows of dots.

    series: name → row → figure with its 95 %, as `interval` has it, or None.
    zero: the figure that is no difference; None where there is none.
    share: whether figures are shown as per cent.
    """

    title: str
    series: Mapping[str, Mapping[str, Json | None]]
    zero: float | None = None
    share: bool = False

    @property
    def rows(self) -> list[str]:
        return [*next(iter(self.series.values()))]


def hiding(found: Json) -> list[Panel]:
    """Which cells are hidden, frozen and fine-tuned."""
    rules = found["rules"]
    series = {
        name: {rule: one[state]["auc"] if state in one else None for rule, one in rules.items()}
        for name, state in (("frozen", "frozen"), ("fine-tuned, judged by textured:143", "tuned"))
    }
    return [Panel("AUC over generators, by the cells that are kept", series)]


def tuning(found: Json) -> list[Panel]:
    """Ways to fine-tune, and what else a frozen tower's head may read."""
    return [
        Panel(title, {"": {name: one["gain"] for name, one in found[part].items()}}, zero=0.0)
        for title, part in (
            ("AUC against frozen, fine-tuned", "ways"),
            ("AUC against frozen, class tokens after", "deeper"),
        )
    ]


def variants(found: Json) -> list[Panel]:
    """What the head reads and learns from."""
    rows = {n: one["gain"] for n, one in found["variants"].items() if n not in BASELINES}
    return [Panel(f"AUC against {BASE}", {"": rows}, zero=0.0)]


def kinds(found: Json) -> list[Panel]:
    """What passes the threshold, by kind of picture."""
    return [
        Panel(title, {"": {name: one[share] for name, one in found["kinds"].items()}}, share=True)
        for title, share in (("real ones called generated", "called"), ("generated found", "found"))
    ]


def windows(found: Json) -> list[Panel]:
    """One view and three, and pictures as they may arrive."""
    names = {"centre": "one view", "three": "three views"}
    return [
        Panel(
            title,
            {
                text: {name: one[policy][key] for name, one in found["protocols"].items()}
                for policy, text in names.items()
            },
            zero=zero,
            share=zero is None,
        )
        for title, key, zero in (
            ("AUC that it costs", "cost", 0.0),
            ("real ones called generated", "called", None),
            ("generated found", "found", None),
        )
    ]


PICTURES = {
    "hiding": ("hiding", hiding),
    "tuning": ("tuning", tuning),
    "variants": ("folds", variants),
    "windows": ("windows", windows),
    "kinds": ("folds", kinds),
}
"""Name → the result that it is drawn of, and how."""


def draw(panels: Sequence[Panel]) -> bytes:
    """An SVG; panels of the same rows stand side by side, others below each other."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "method"})
    beside = all(one.rows == panels[0].rows for one in panels)
    heights = [0.8 + 0.24 * len(one.rows) for one in panels]
    figure = Figure((7.5, max(heights) if beside else sum(heights)), layout="constrained")
    shape = {"nrows": 1, "ncols": len(panels), "sharey": True}
    if not beside:
        shape = {"nrows": len(panels), "ncols": 1, "height_ratios": heights}
    for axis, panel in zip(figure.subplots(squeeze=False, **shape).flat, panels, strict=True):
        if panel.zero is not None:
            axis.axvline(panel.zero, color="0.6", linewidth=1)
        for number, (name, figures) in enumerate(panel.series.items()):
            apart = 0.3 * (number - (len(panel.series) - 1) / 2)
            there = [(place, one) for place, one in enumerate(figures.values()) if one]
            places = [place + apart for place, _ in there]
            values, lows, highs = (
                [one[key] for _, one in there] for key in ("value", "low", "high")
            )
            axis.hlines(places, lows, highs, color=COLOURS[number], alpha=0.5, linewidth=2)
            axis.scatter(values, places, color=COLOURS[number], s=18, label=name, zorder=3)
        axis.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
        axis.set_ylim(len(panel.rows) - 0.4, -0.6)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.set_xlabel(panel.title, fontsize=9)
        if panel.share:
            axis.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    if len(panels[0].series) > 1:
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=2,
                      fontsize=8, frameon=False)  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@click.command()
@click.argument("docs", type=click.Path(path_type=Path))
def main(docs: Path) -> None:
    """Draw all of them into DOCS/images."""
    from mpft_deploy.files import write_atomic

    for name, (result, panels) in PICTURES.items():
        found = json.loads((RESULTS / f"{result}.json").read_bytes())
        write_atomic(docs / "images" / f"method-{name}.svg", draw(panels(found)))


if __name__ == "__main__":
    main()
