"""Curves as SVG, drawn by hand: they follow the page's colours and come out the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_curve

from mpft_deploy.evaluate.metrics import BINS, F64, bin_of
from mpft_deploy.evaluate.predictions import Predictions, Rows
from mpft_deploy.evaluate.protocols import BASIC
from mpft_deploy.spec import Record

SIDE = 240.0
"""Side of the plot area, in units of the drawing."""

HISTOGRAM_BINS = 30


class Drawing(Record, frozen=True):
    """An inline SVG with its title; `legend` holds pairs of CSS class and text."""

    title: str
    svg: str
    legend: list[tuple[str, str]]


def drawings(predictions: Predictions, keep: str) -> list[Drawing]:
    """ROC curve, reliability and histogram of logits under a keep rule; all images together."""
    rows = {}
    for name in BASIC:
        of = predictions.rows(name, keep)
        rows[name] = of.where(of.judged)
    threshold = predictions.header.calibration
    out = []
    if all(len(np.unique(of.labels)) == 2 for of in rows.values()):
        out += [_roc(rows), _reliability(rows)]
    at = threshold.threshold
    edge = None
    if 0 < at < 1:
        edge = float(np.log(at / (1 - at)) / threshold.scale - threshold.shift)
    return [*out, *(_histogram(one, name, edge) for name, one in rows.items() if len(one))]


def _roc(rows: dict[str, Rows]) -> Drawing:
    lines = []
    for name, one in rows.items():
        alarms, hits, _ = roc_curve(one.labels, one.logits)
        lines.append(_line(np.column_stack([alarms, hits]), name))
    return Drawing(
        title="ROC",
        svg=_frame("false alarms", "detected", ["<path class='guide' d='M0 240L240 0'/>", *lines]),
        legend=[(name, name) for name in rows],
    )


def _reliability(rows: dict[str, Rows]) -> Drawing:
    """Share generated against mean probability of each bin; each class weighs one half."""
    shapes = ["<path class='guide' d='M0 240L240 0'/>"]
    for name, one in rows.items():
        weight = 0.5 / np.bincount(one.labels, minlength=2)[one.labels]
        bins = bin_of(one.probabilities)
        mass = np.bincount(bins, weight, BINS)
        there = mass > 0
        mean = np.bincount(bins, weight * one.probabilities, BINS)[there] / mass[there]
        share = np.bincount(bins, weight * one.labels, BINS)[there] / mass[there]
        points = np.column_stack([mean, share])
        shapes.append(_line(points, name))
        shapes += [
            f"<circle class='{name}' cx='{SIDE * x:.1f}' cy='{SIDE * (1 - y):.1f}' "
            f"r='{1.5 + 6 * np.sqrt(m):.1f}'/>"
            for (x, y), m in zip(points.tolist(), mass[there].tolist(), strict=True)
        ]
    return Drawing(
        title="Reliability",
        svg=_frame("probability", "share generated", shapes),
        legend=[(name, name) for name in rows],
    )


def _histogram(rows: Rows, protocol: str, edge: float | None) -> Drawing:
    """Density of the logits of each class; a line at the threshold."""
    low, high = float(rows.logits.min()), float(rows.logits.max())
    if edge is not None:
        low, high = min(low, edge), max(high, edge)
    span = (high - low) or 1.0
    counts = [
        np.histogram(rows.logits[rows.labels == label], HISTOGRAM_BINS, (low, low + span))[0]
        for label in (0, 1)
    ]
    shares = [count / max(count.sum(), 1) for count in counts]
    top = max(share.max() for share in shares) or 1.0
    step = SIDE / HISTOGRAM_BINS
    shapes = []
    for name, share in zip(("real", "generated"), shares, strict=True):
        heights = (SIDE * (1 - share / top)).tolist()
        outline = "".join(f"V{y:.1f}h{step:g}" for y in heights)
        shapes.append(f"<path class='area {name}' d='M0 {SIDE:g}{outline}V{SIDE:g}z'/>")
    if edge is not None:
        x = SIDE * (edge - low) / span
        shapes.append(f"<path class='guide' d='M{x:.1f} 0V{SIDE:g}'/>")
    ticks = (f"{low:.1f}", f"{low + span:.1f}")
    return Drawing(
        title=f"Logits, {protocol}",
        svg=_frame("logit", "share of the class", shapes, ticks, ("0", f"{top:.2f}")),
        legend=[("real", "real"), ("generated", "generated")],
    )


def _line(points: F64, name: str) -> str:
    """A curve through points [n, 2] of the unit square, without those that a pixel would hide."""
    places = np.round(np.column_stack([SIDE * points[:, 0], SIDE * (1 - points[:, 1])]), 1)
    moved = np.ones(len(places), bool)
    moved[1:] = (places[1:] != places[:-1]).any(1)
    path = "L".join(f"{x:g} {y:g}" for x, y in places[moved].tolist())
    return f"<path class='curve {name}' d='M{path}'/>"


def _frame(
    x_title: str,
    y_title: str,
    shapes: Sequence[str],
    x_ticks: tuple[str, str] = ("0", "1"),
    y_ticks: tuple[str, str] = ("0", "1"),
) -> str:
    """A plot with its axes; the titles are ours, so nothing needs escaping."""
    return (
        f"<svg viewBox='-34 -10 286 290' role='img' aria-label='{y_title} against {x_title}'>"
        f"<path class='axis' d='M0 0V{SIDE:g}H{SIDE:g}'/>{''.join(shapes)}"
        f"<text x='0' y='255' text-anchor='middle'>{x_ticks[0]}</text>"
        f"<text x='{SIDE:g}' y='255' text-anchor='middle'>{x_ticks[1]}</text>"
        f"<text x='{SIDE / 2:g}' y='272' text-anchor='middle'>{x_title}</text>"
        f"<text x='-6' y='{SIDE:g}' text-anchor='end'>{y_ticks[0]}</text>"
        f"<text x='-6' y='8' text-anchor='end'>{y_ticks[1]}</text>"
        f"<text transform='translate(-14 {SIDE / 2:g}) rotate(-90)' text-anchor='middle'>"
        f"{y_title}</text></svg>"
    )
