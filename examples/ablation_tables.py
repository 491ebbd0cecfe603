"""Tables and pictures of what `ablation.py` measured, without a backbone.

python examples/ablation_tables.py WORK DOCS
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from ablation import (
    CELLS,
    DEPTHS,
    FEW,
    INFERENCE,
    KINDS,
    MIXED,
    MIXTURE,
    MORE,
    TAPS,
    VARIANTS,
    Records,
    read,
)

RESAMPLES = 1000
REFERENCE = f"random:{CELLS}"
"""What other training rules are compared with: hiding cells, whichever."""
VARIED = [MIXED.format(20), MIXTURE, MIXED.format(MORE)]

Means = npt.NDArray[np.float64]
Curve = dict[int, tuple[float, float, float]]
Row = tuple[str, float, int]
"""Variant, blend, taps."""

SHOWN: list[tuple[str, list[Row], tuple[str, ...]]] = [
    (
        "fine-tuned on",
        [(rule, 1.0, 4) for rule in ("all", *(f"{kind}:{CELLS}" for kind in KINDS), MIXTURE)],
        INFERENCE,
    ),
    ("blend", [(MIXTURE, blend, 4) for blend in (1.0, 0.7, 0.5, 0.3, 0.0)], INFERENCE),
    (
        "fine-tuned on all, blocks read",
        [("all", blend, taps) for blend in (1.0, 0.5) for taps in TAPS],
        (f"textured:{CELLS}", f"textured:{MORE}", "all"),
    ),
    (
        "blocks",
        [
            *((MIXTURE + (f", depth {d}" if d != 9 else ""), 1.0, 4) for d in (4, 6, 9, 12)),
            *(("all" + (f", depth {d}" if d != 9 else ""), 1.0, t) for d in (8, 9, 10, 12)
              for t in (1, 4)),
            *(("all, depth 12", 0.0, taps) for taps in (1, 4, 12)),
        ],
        (f"textured:{CELLS}", "all"),
    ),
    (
        "other cells",
        [(f"{kind}:{CELLS}{fill}", 1.0, 4) for kind in KINDS for fill in ("", ", fill zero")],
        (f"textured:{CELLS}", "all"),
    ),
    (
        "recipe",
        [
            (one.name, 1.0, 4)
            for one in VARIANTS
            if f"textured:{MORE}" in one.rules and "depth" not in one.name
        ],
        (f"textured:{MORE}", "all"),
    ),
    ("disturbed views", [(MIXTURE + a, 1.0, 4) for a in ("", ", augment 0.0")], FEW),
]  # fmt: skip
"""Tables: what their rows vary, the rows, and the rules of inference."""


def counts(size: int, rng: np.random.Generator) -> Means:
    """How often each of `size` images is drawn, f64 [1 + RESAMPLES, size]; once each at first."""
    drawn = rng.multinomial(size, [1 / size] * size, RESAMPLES)
    return np.concatenate([np.ones((1, size)), drawn])


def unseen_aucs(record: dict[str, Any]) -> Means:
    """AUC of each unseen generator against the reals of its set, f64 [1 + RESAMPLES, generators].

    The same images are drawn for all records of a set, so that differences are paired.
    """
    rng = np.random.default_rng(0)
    labels, logits = np.array(record["labels"]), np.array(record["logits"])
    names = np.array(record["generators"])
    reals = logits[labels == 0]
    real_counts = counts(len(reals), rng)
    out = []
    for name in sorted(set(names[labels == 1])):
        ones = logits[(labels == 1) & (names == name)]
        above = (ones[:, None] > reals) + 0.5 * (ones[:, None] == reals)
        won = (counts(len(ones), rng) @ above * real_counts).sum(1)
        out.append(won / above.size)
    return np.stack(out, 1)


def resampled(records: Records) -> Means:
    """Mean AUC over unseen generators: first as it is, then of each draw of images and of seeds."""
    by_seed: dict[int, list[Means]] = defaultdict(list)
    for record in records:
        by_seed[record.get("seed", 0)].append(unseen_aucs(record))
    means = np.stack([np.concatenate(by_seed[seed], 1).mean(1) for seed in sorted(by_seed)], 1)
    weights = counts(len(by_seed), np.random.default_rng(1))
    return (means * weights).mean(1)


def summary(means: Means) -> tuple[float, float, float]:
    """The figure with its 95 % interval."""
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return float(means[0]), float(low), float(high)


class Figures:
    """Figures of finished runs, computed when they are first asked for."""

    def __init__(self, records: Records) -> None:
        self.records: dict[tuple[str, float, int, str], Records] = defaultdict(list)
        for one in sorted(records, key=lambda one: (one["seed"], one["learnt"], one["changed"])):
            self.records[one["variant"], one["blend"], one["taps"], one["rule"]].append(one)

    def seeds(self, row: Row) -> int:
        """Of how many seeds a row is."""
        return max(len({one["seed"] for one in v}) for k, v in self.records.items() if k[:3] == row)

    def __contains__(self, key: tuple[Row, str]) -> bool:
        return (*key[0], key[1]) in self.records

    @cache  # noqa: B019 - lives as long as the program
    def at(self, row: Row, rule: str, changed: bool | None = None) -> Means:
        """Resampled means; of images as they are, changed ones, or both."""
        found = self.records[(*row, rule)]
        return resampled([one for one in found if changed in (None, one["changed"])])


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print Markdown."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def cell(figures: Figures, row: Row, rule: str) -> str:
    """A mean with its interval, and its parts: images as they are, and changed ones."""
    value, low, high = summary(figures.at(row, rule))
    parts = (figures.at(row, rule, changed)[0] for changed in (False, True))
    return f"{value:.3f} ({low:.3f}–{high:.3f}; {' / '.join(f'{part:.3f}' for part in parts)})"


def difference(figures: Figures, row: Row, reference: Row, rule: str) -> str:
    """By how much a figure is above another, with the interval of the difference."""
    value, low, high = summary(figures.at(row, rule) - figures.at(reference, rule))
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def title(row: Row) -> str:
    """A row's name: what it differs by from four blocks read and nothing blended."""
    name, blend, taps = row
    return name + (f", blend {blend:g}" if blend != 1 else "") + (f", taps {taps}" * (taps != 4))


@click.command()
@click.argument("work", type=click.Path(path_type=Path, exists=True))
@click.argument("docs", type=click.Path(path_type=Path))
def main(work: Path, docs: Path) -> None:
    """Print tables as Markdown, and draw accuracy and latency against depth and cells."""
    figures = Figures(read(work))
    for name, rows, rules in SHOWN:
        known = [row for row in rows if any((row, rule) in figures for rule in rules)]
        table(
            [name, "seeds", *rules],
            (
                [
                    title(row),
                    str(figures.seeds(row)),
                    *(cell(figures, row, rule) if (row, rule) in figures else "" for rule in rules),
                ]
                for row in known
            ),
        )
    name, rows, rules = SHOWN[0]
    reference = (REFERENCE, 1.0, 4)
    table(
        [f"{name}, against {REFERENCE}", *rules],
        (
            [title(row), *(difference(figures, row, reference, rule) for rule in rules)]
            for row in rows
            if row != reference
        ),
    )
    path = work / "latency.json"
    ms = json.loads(path.read_text())["ms"] if path.exists() else {}
    times = {tuple(int(part) for part in key.split(",")): value for key, value in ms.items()}
    whole = ("all", 0.5, 1)
    plot(
        {
            "shown whole images, judged on the most textured": {
                count: summary(figures.at(whole, rule))
                for count, rule in (
                    (CELLS, f"textured:{CELLS}"),
                    (MORE, f"textured:{MORE}"),
                    (196, "all"),
                )
                if (whole, rule) in figures
            },
            "shown as many cells, judged on the most textured": {
                count: summary(figures.at((name, 0.5, 4), f"textured:{count}"))
                for count, name in zip((20, CELLS, MORE), VARIED, strict=True)
                if ((name, 0.5, 4), f"textured:{count}") in figures
            },
        },
        "cells kept of 196 at inference, nine blocks",
        docs / "images" / "auc-by-cells.svg",
        {cells: value for (depth, cells), value in times.items() if depth == 9},
    )
    depths = {depth: f", depth {depth}" if depth != 9 else "" for depth in (4, 6, 8, 9, 10, 12)}
    plot(
        {
            f"shown and judged on {shown}, four blocks read": {
                depth: summary(figures.at((train + name, 1.0, 4), rule))
                for depth, name in depths.items()
                if ((train + name, 1.0, 4), rule) in figures
            }
            for shown, train, rule in (
                ("whole images", "all", "all"),
                (f"{CELLS} cells", MIXTURE, f"textured:{CELLS}"),
            )
        },
        f"blocks (latency: {CELLS} cells)",
        docs / "images" / "auc-by-trained-depth.svg",
        {depth: value for (depth, cells), value in times.items() if cells == CELLS},
    )
    draw_probes(work / "probes.jsonl", docs)


def draw_probes(path: Path, docs: Path) -> None:
    """The table and picture of a frozen backbone after each block."""
    curves: dict[str, Curve] = defaultdict(dict)
    for line in path.read_text().splitlines() if path.exists() else ():
        one = json.loads(line)
        curves[f"{one['pool']}, {one['rule']}"][one["blocks"]] = summary(resampled(one["records"]))
    if not curves:
        return
    table(
        ["frozen, probe of", *(f"{blocks} blocks" for blocks in DEPTHS)],
        ([name, *(f"{curve[b][0]:.3f}" for b in DEPTHS)] for name, curve in curves.items()),
    )
    plot(dict(curves), "blocks of the frozen backbone", docs / "images" / "auc-by-depth.svg")


def plot(
    curves: dict[str, Curve], what: str, path: Path, ms: dict[int, float] | None = None
) -> None:
    """Mean AUC against a number, a line for each curve, with intervals where there are few.

    ms: milliseconds a view, drawn on an axis of their own.
    """
    if not any(curves.values()):
        return
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in curves.items():
        if not curve:
            continue
        steps = sorted(curve)
        values, low, high = (
            np.array(column) for column in zip(*(curve[step] for step in steps), strict=True)
        )
        [line] = axes.plot(steps, values, marker="o", label=name)
        if len(curves) <= 2:
            axes.fill_between(steps, low, high, alpha=0.15, linewidth=0, color=line.get_color())
    axes.set(xlabel=what, ylabel="mean AUC, unseen generators")
    axes.grid(alpha=0.3)
    if ms:
        other = axes.twinx()
        steps = sorted(ms)
        other.plot(steps, [ms[step] for step in steps], color="0.5", linestyle="--", marker=".")
        other.set(ylabel="ms a view, PyTorch float32 (dashed)", ylim=(0, None))
    axes.legend(fontsize="small", frameon=False, loc="lower right" if ms else "best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
