"""Charts of a run as SVG without scripts; colours come from the page's style sheet."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import escape

from mpft_deploy.profile.records import Layers, Run
from mpft_deploy.profile.slo import used_samples
from mpft_deploy.profile.wording import layer_name, number

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 28, 42
BINS, MOST_POINTS = 48, 1500


class Axes:
    """A frame with ticks, and the way from values to points in it."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        names: tuple[str, str],
        *,
        logarithmic: bool = False,
    ) -> None:
        self._log = logarithmic
        self._x, self._y = (
            (self._scaled(x[0]), self._scaled(x[1])),
            (
                self._scaled(y[0]),
                self._scaled(y[1]),
            ),
        )
        self.parts: list[str] = []
        ticks = _decades if logarithmic else _ticks
        for value in ticks(*x):
            at = self.at_x(value)
            self.parts.append(
                f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" '
                f'text-anchor="middle">{_short(value)}</text>'
            )
        for value in ticks(*y):
            at = self.at_y(value)
            self.parts.append(
                f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
                f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
                f"{_short(value)}</text>"
            )
        self.parts.append(
            f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" '
            f'text-anchor="middle">{escape(names[0])}</text>'
            f'<text class="axis" x="{LEFT - 40}" y="14">{escape(names[1])}</text>'
        )

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def at_x(self, value: float) -> float:
        """Where a value lies, left to right."""
        low, high = self._x
        return LEFT + (WIDTH - LEFT - RIGHT) * (self._scaled(value) - low) / ((high - low) or 1)

    def at_y(self, value: float) -> float:
        """Where a value lies, bottom to top."""
        low, high = self._y
        height = HEIGHT - TOP - BOTTOM
        return HEIGHT - BOTTOM - height * (self._scaled(value) - low) / ((high - low) or 1)

    def svg(self, label: str) -> str:
        """The picture."""
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}">{"".join(self.parts)}</svg>'
        )


def distribution(run: Run) -> str:
    """Histogram of the used samples, with the percentiles that are reported.

    What lies beyond the 99.5th percentile is in the last bar.
    """
    times = used_samples(run)
    low, high = float(times.min()), float(np.percentile(times, 99.5))
    high = high if high > low else low * 1.01 + 1e-6
    counts, edges = np.histogram(np.minimum(times, high), BINS, (low, high))
    axes = Axes((low, high), (0, int(counts.max()) * 1.12), ("milliseconds a query", "queries"))
    base = axes.at_y(0)
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            top = axes.at_y(float(count))
            axes.parts.append(
                f'<rect class="bar" x="{axes.at_x(left):.2f}" y="{top:.2f}" '
                f'width="{axes.at_x(right) - axes.at_x(left) - 0.8:.2f}" '
                f'height="{base - top:.2f}"/>'
            )
    taken: list[float] = []
    for name in ("p50", "p90", "p99"):
        value = run.latency_ms[name].value
        if value is None or value > high:
            continue
        at = axes.at_x(value)
        level = sum(abs(at - other) < 34 for other in taken)
        taken.append(at)
        anchor = "end" if at > WIDTH - 60 else "start"
        shift = -4 if anchor == "end" else 4
        axes.parts.append(
            f'<path class="marker" d="M{at:.1f} {TOP - 8}V{base}"/>'
            f'<text class="label" x="{at + shift:.1f}" y="{TOP + 2 + 14 * level}" '
            f'text-anchor="{anchor}">{name}</text>'
        )
    return axes.svg(f"Distribution of {len(times)} queries")


def timeline(run: Run) -> str:
    """Every query over time, with the disturbed blocks shaded."""
    times, starts = np.array(run.sample_ms), np.array(run.sample_start_s)
    high = float(np.percentile(times, 99.8)) * 1.1 or 1.0
    end = max(float(starts[-1]), 1e-6)
    axes = Axes((0, end), (0, high), ("seconds since the start", "ms a query"))
    for block in run.blocks:
        if block.disturbed:
            left, right = axes.at_x(block.start_s), axes.at_x(min(block.end_s, end))
            axes.parts.append(
                f'<rect class="disturbed" x="{left:.1f}" y="{TOP}" '
                f'width="{max(right - left, 1):.1f}" height="{HEIGHT - TOP - BOTTOM}">'
                f"<title>{escape('; '.join(block.disturbed))}</title></rect>"
            )
    step = -(-len(times) // MOST_POINTS)
    # The slowest of each few queries is drawn, so that no outlier is lost.
    groups = [slice(at, at + step) for at in range(0, len(times), step)]
    points = [group.start + int(np.argmax(times[group])) for group in groups]
    path = "".join(
        f"M{axes.at_x(float(starts[i])):.1f} {axes.at_y(min(float(times[i]), high)):.1f}h.01"
        for i in points
    )
    axes.parts.append(f'<path class="dots" d="{path}"/>')
    return axes.svg("Latency of each query over time")


def waterfall(run: Run) -> str:
    """Stages one below the other, each beginning where the one before ends; mean milliseconds."""
    row, left, right = 30, 84, 70
    total = sum(stage.mean_ms for stage in run.stages) or 1.0
    parts, begin = [], 0.0
    for index, stage in enumerate(run.stages):
        x = left + (WIDTH - left - right) * begin / total
        width = max((WIDTH - left - right) * stage.mean_ms / total, 1.5)
        y = index * row + 4
        parts.append(
            f'<text class="label" x="{left - 8}" y="{y + 15}" text-anchor="end">'
            f"{escape(stage.name)}</text>"
            f'<rect class="track" x="{left}" y="{y}" width="{WIDTH - left - right}" '
            f'height="{row - 8}" rx="3"/>'
            f'<rect class="bar" x="{x:.2f}" y="{y}" width="{width:.2f}" height="{row - 8}" rx="3"/>'
            f'<text class="label number" x="{WIDTH - right + 8}" y="{y + 15}">'
            f"{number(stage.mean_ms)} ms</text>"
        )
        begin += stage.mean_ms
    height = len(run.stages) * row + 4
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Stages of a query">{"".join(parts)}</svg>'
    )


def roofline(layers: Layers) -> str:
    """Each layer by its operations a byte and its speed, under the measured roofs."""
    assert layers.roof is not None
    points = [
        (layer, layer.flops / layer.bytes, layer.flops / layer.ms / 1e6)
        for layer in layers.layers
        if layer.flops and layer.bytes and layer.ms > 0
    ]
    peaks = layers.roof.gigaflops
    bandwidth = layers.roof.gigabytes_per_second
    low_x = min([x for _, x, _ in points] + [1.0]) / 2
    high_x = max([x for _, x, _ in points] + [max(peaks.values()) / bandwidth]) * 3
    low_y = min([y for _, _, y in points] + [bandwidth * low_x]) / 2
    axes = Axes(
        (low_x, high_x),
        (low_y, max(peaks.values()) * 2),
        ("operations a byte", "GFLOP/s"),
        logarithmic=True,
    )
    label_y = math.inf
    label_at = {}
    for name, peak in sorted(peaks.items(), key=lambda item: item[1]):
        label_at[name] = label_y = min(axes.at_y(peak) - 5, label_y - 14)  # roofs may lie close
    for index, (name, peak) in enumerate(sorted(peaks.items(), key=lambda item: -item[1])):
        knee = peak / bandwidth
        slope = (
            f"M{axes.at_x(low_x):.1f} {axes.at_y(bandwidth * low_x):.1f}"
            f"L{axes.at_x(knee):.1f} {axes.at_y(peak):.1f}"
        )
        start = slope if index == 0 else f"M{axes.at_x(knee):.1f} {axes.at_y(peak):.1f}"
        axes.parts.append(
            f'<path class="roof" d="{start}H{WIDTH - RIGHT}"/>'
            f'<text class="label" x="{WIDTH - RIGHT - 4}" y="{label_at[name]:.1f}" '
            f'text-anchor="end">{escape(name)} {number(peak)} GFLOP/s</text>'
        )
    longest = max((layer.ms for layer, _, _ in points), default=1.0)
    for layer, x, y in points:
        radius = 2.5 + 5 * math.sqrt(layer.ms / longest)
        title = f"{layer_name(layer)}: {number(layer.ms)} ms, {number(y)} GFLOP/s"
        axes.parts.append(
            f'<circle class="point {layer.bound}" cx="{axes.at_x(x):.1f}" '
            f'cy="{axes.at_y(y):.1f}" r="{radius:.1f}"><title>{escape(title)}</title></circle>'
        )
    return axes.svg("Roofline of the layers")


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within a range."""
    raw = (high - low) / about
    if raw <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    first = math.ceil(low / step)
    return [round(step * k, 12) for k in range(first, math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten within a range."""
    return [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
