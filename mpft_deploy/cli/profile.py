"""`mpft profile`."""

from __future__ import annotations

from pathlib import Path

import click

from mpft_deploy.cli.options import PATH


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--samples", type=click.IntRange(10), default=200, show_default=True)
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle: Path, samples: int, threads: int, as_json: bool) -> None:
    """Measure BUNDLE's latency on this device: one view at a time, after warm-up."""
    from mpft_deploy.bundle import Device, read_bundle
    from mpft_deploy.cli.console import emit_json, steps, table
    from mpft_deploy.engine import load_engine
    from mpft_deploy.files import display
    from mpft_deploy.profile.latency import measure

    content = read_bundle(bundle)
    engine = load_engine(content, threads=threads)
    with steps() as say:
        say(f"timing {samples} views")
        latency = measure(
            engine, content.spec, content.golden.crops, samples=samples, threads=threads
        )
    device = Device.here()
    if as_json:
        emit_json({"bundle": display(bundle), "device": device, "latency": latency})
        return
    quantiles = ["min", "p50", "p90", "p99", "max", "mean"]
    stages = [
        ("patchify", latency.patchify_ms),
        ("engine", latency.engine_ms),
        ("total", latency.total_ms),
    ]
    table(
        f"{display(bundle)} on {device.processor}, {latency.threads} threads, "
        f"{samples} views; milliseconds",
        ["stage", *quantiles],
        [[name, *(f"{times[key]:.3f}" for key in quantiles)] for name, times in stages],
    )
