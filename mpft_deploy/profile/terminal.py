"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mpft_deploy.cli.console import table
from mpft_deploy.profile.events import StreamLatency
from mpft_deploy.profile.history import Row
from mpft_deploy.profile.records import Estimate, Layers, Profile, Run
from mpft_deploy.profile.wording import (
    environment_rows,
    estimate_cells,
    harness_line,
    layer_name,
    layer_rows,
    number,
    run_notes,
    title,
    with_interval,
)

SHOWN_LAYERS = 16
"""The others are in the JSON and the HTML report."""


def print_profile(profile: Profile) -> None:
    """Everything that was measured, the answers of gates last."""
    subject = profile.subject
    table(f"{subject.name}: environment", ["what", "is"], environment_rows(profile))
    for run in profile.runs:
        _print_run(run)
    if profile.layers is not None:
        _print_layers(profile.layers)
    click.echo(harness_line(profile))
    for gate in profile.gates:
        click.echo(f"{gate.verdict.upper()}: {gate.gate}: {gate.reason}")


def _print_run(run: Run) -> None:
    table(
        f"{title(run)}; milliseconds a query",
        ["figure", "value", "95 % interval"],
        [[name, *estimate_cells(estimate)] for name, estimate in run.latency_ms.items()],
    )
    table(
        "stages, milliseconds",
        ["stage", "p50", "p90", "mean", "share"],
        [
            [s.name, number(s.p50_ms), number(s.p90_ms), number(s.mean_ms), f"{s.share:.1%}"]
            for s in run.stages
        ],
    )
    for note in run_notes(run):
        click.echo(note)


def _print_layers(layers: Layers) -> None:
    *rows, rest, engine = layer_rows(layers)
    slowest = sorted(layers.layers, key=lambda layer: -layer.ms)[:SHOWN_LAYERS]
    shown = {layer_name(layer) for layer in slowest}
    table(
        f"slowest of {len(rows)} layers, by {layers.source}, mean of {layers.runs} runs",
        ["layer", "ms", "share", "GFLOP/s", "GB/s", "bound by", "of the roof"],
        [*(row for row in rows if row[0] in shown), rest, engine],
    )


def print_history(rows: Sequence[Row]) -> None:
    """Runs of older results, oldest first."""
    table(
        "results, oldest first",
        ["measured", "bundle", "precision", "commit", "setting", "p50 ms", "p99 ms", "change"],
        [
            [
                row.created,
                row.bundle,
                row.precision,
                row.commit,
                row.setting,
                number(row.p50_ms) + (" (disturbed)" if row.state == "disturbed" else ""),
                number(row.p99_ms),
                "" if row.change is None else f"{row.change:+.1%}",
            ]
            for row in rows
        ],
    )


def print_events(latencies: Sequence[StreamLatency]) -> None:
    """Capture to verdict, source by source."""

    def row(latency: StreamLatency) -> list[str]:
        estimates: list[Estimate] = [latency.latency_ms[name] for name in names]
        return [latency.source, str(latency.frames), *map(with_interval, estimates)]

    names = ["min", "mean", "p50", "p90", "p99"]
    table(
        "from capture to verdict, milliseconds, 95 % interval",
        ["source", "frames", *names],
        [row(latency) for latency in latencies],
    )
