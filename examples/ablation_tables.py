"""Tables and pictures of what `ablation.py` measured, without a backbone.

python examples/ablation_tables.py WORK DOCS
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from ablation import (
    BLENDS,
    CELLS,
    DEPTHS,
    FEWER,
    INFERENCE,
    MIXED,
    MORE,
    SETS,
    TRAINED_DEPTHS,
    VARIANTS,
    Records,
    read,
)

RESAMPLES = 1000
MIXTURE = MIXED.format(CELLS)
REFERENCE = f"random:{CELLS}"
"""What other training rules are compared with: hiding cells, whichever."""

Means = npt.NDArray[np.float64]
Curve = dict[int, tuple[float, float, float]]


def unseen_aucs(records: Records, rng: np.random.Generator | None) -> list[float]:
    """AUC of each unseen generator against the reals of its set; resampled if `rng` is given."""
    from mpft_deploy.statistics import auc

    out = []
    for record in records:
        labels, logits = np.array(record["labels"]), np.array(record["logits"])
        names = np.array(record["generators"])
        for name in sorted(set(names[labels == 1])):
            groups = [np.flatnonzero(labels == 0), np.flatnonzero((labels == 1) & (names == name))]
            if rng is not None:
                groups = [rng.choice(group, len(group)) for group in groups]
            chosen = np.concatenate(groups)
            out.append(auc(labels[chosen], logits[chosen]) or 0.0)
    return out


def resampled(records: Records) -> Means:
    """Mean AUC over unseen generators: first as it is, then of each bootstrap over images.

    The same images are drawn for all records of the same seeds, so differences are paired.
    """
    rng = np.random.default_rng(0)
    draws = (None, *[rng] * RESAMPLES)
    return np.array([np.mean(unseen_aucs(records, draw)) for draw in draws])


def summary(means: Means) -> tuple[float, float, float]:
    """The figure with its 95 % interval."""
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return float(means[0]), float(low), float(high)


def grouped(work: Path) -> dict[tuple[str, str], Means]:
    """Figures of finished runs by variant and inference rule; only those judged on both sets."""
    found: dict[tuple[str, str], Records] = defaultdict(list)
    for record in read(work):
        found[record["variant"], record["rule"]].append(record)
    return {
        key: resampled(sorted(records, key=lambda one: (one["seed"], one["learnt"])))
        for key, records in found.items()
        if {one["learnt"] for one in records} == set(SETS)
    }


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print Markdown."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def cell(means: Means) -> str:
    """A mean with its interval."""
    value, low, high = summary(means)
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def difference(means: Means, reference: Means) -> str:
    """By how much a figure is above another, with the interval of the difference."""
    value, low, high = summary(means - reference)
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


@click.command()
@click.argument("work", type=click.Path(path_type=Path, exists=True))
@click.argument("docs", type=click.Path(path_type=Path))
def main(work: Path, docs: Path) -> None:
    """Print tables as Markdown, and draw accuracy and latency against depth and cells."""
    found = grouped(work)
    names = list(dict.fromkeys(name for name, _ in found))
    seeds = {name: len({r["seed"] for r in read(work) if r["variant"] == name}) for name in names}
    wanted = [one.name for one in VARIANTS]
    wanted[1:1] = [f"{MIXTURE}, blend {blend:g}" for blend in BLENDS if blend != 1]
    table(
        ["fine-tuned on", "seeds", *(f"judged on {rule}" for rule in INFERENCE)],
        (
            [name, str(seeds[name]), *(cell(found[name, rule]) for rule in INFERENCE)]
            for name in wanted
            if all((name, rule) in found for rule in INFERENCE)
        ),
    )
    table(
        [f"fine-tuned on, against {REFERENCE}", *(f"judged on {rule}" for rule in INFERENCE)],
        (
            [name, *(difference(found[name, rule], found[REFERENCE, rule]) for rule in INFERENCE)]
            for name in wanted
            if name != REFERENCE
            and all((one, rule) in found for one in (name, REFERENCE) for rule in INFERENCE)
            and seeds[name] == seeds[REFERENCE]
        ),
    )
    path = work / "latency.json"
    ms = json.loads(path.read_text())["ms"] if path.exists() else {}
    rules = {"the same cells": lambda count: f"textured:{count}", "all cells": lambda count: "all"}
    by_cells = {
        f"judged on {title}": {
            count: summary(found[MIXED.format(count), rule(count)])
            for count in (*FEWER, CELLS, *MORE)
            if (MIXED.format(count), rule(count)) in found
        }
        for title, rule in rules.items()
    }
    by_depth = {
        f"judged on {rule}": {
            depth: summary(found[name, rule])
            for depth in TRAINED_DEPTHS
            for name in [MIXTURE if depth == 9 else f"{MIXTURE}, depth {depth}"]
            if (name, rule) in found
        }
        for rule in (f"textured:{CELLS}", "all")
    }
    times = {tuple(int(part) for part in key.split(",")): value for key, value in ms.items()}
    plot(
        by_cells,
        "cells kept of 196, half of the views the smoothest, half the most textured",
        docs / "images" / "auc-by-cells.svg",
        {cells: value for (depth, cells), value in times.items() if depth == 9},
    )
    plot(
        by_depth,
        f"blocks, fine-tuned on {MIXTURE}",
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
