"""How figures are put into words, the same on a terminal, in Markdown and in HTML."""

from __future__ import annotations

from mpft_deploy.profile.records import Estimate, Layer, Layers, Profile, Run


def number(value: float | None) -> str:
    """Three significant digits or three decimals, whichever says less; a dash for none."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def with_interval(estimate: Estimate) -> str:
    """A figure with its interval, or why it is not reported."""
    if estimate.value is None:
        return estimate.why
    return f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"


def estimate_cells(estimate: Estimate) -> list[str]:
    """A figure and its interval, as two cells."""
    if estimate.value is None:
        return ["–", estimate.why]
    return [number(estimate.value), f"{number(estimate.low)} to {number(estimate.high)}"]


def title(run: Run) -> str:
    """What a run is."""
    parts: list[str] = [run.scenario]
    if run.scenario == "multi-stream":
        parts.append(f"{run.views} streams")
    elif run.scenario == "offline":
        parts.append(f"batch {run.batch}")
    parts.append(f"{run.threads} thread{'s' * (run.threads != 1)}")
    return ", ".join(parts)


def run_notes(run: Run) -> list[str]:
    """What a reader must know of a run, what is wrong with it first."""
    notes = []
    if run.state == "disturbed":
        notes.append(
            f"DISTURBED: {'; '.join(run.reasons)}. The figures are of all samples; gates do not "
            "decide by them. Repeat it on a quiet machine."
        )
    repeated = sum(bool(block.disturbed) for block in run.blocks)
    if repeated and run.state == "quiet":
        notes.append(f"{repeated} of {len(run.blocks)} blocks were disturbed and are left out.")
    if not run.warm_up.steady:
        notes.append(
            f"Never steady: timing began after {run.warm_up.seconds:.0f} s of warm-up regardless."
        )
    notes.append(
        f"{run.used} of {len(run.sample_ms)} samples used, after {run.warm_up.queries} queries "
        f"({run.warm_up.seconds:.1f} s) of warm-up; throughput {throughput(run)}; "
        f"peak memory {number(run.peak_memory_mb)} MB; energy {energy(run)}."
    )
    return notes


def throughput(run: Run) -> str:
    """Views a second."""
    value = run.throughput.value
    return f"{number(value)} views/s" if value is not None else run.throughput.why


def energy(run: Run) -> str:
    """Millijoules a view, or why not."""
    spent = run.energy
    if spent.millijoules_per_view is None:
        return f"unknown ({spent.why_not})"
    return f"{number(spent.millijoules_per_view)} mJ a view ({spent.source})"


def harness_line(profile: Profile) -> str:
    """What measuring costs."""
    harness = profile.harness
    return (
        f"harness: {harness.overhead_us:.2f} µs a query, {harness.overhead_share:.4%} of the "
        f"median; timer steps of {harness.timer_resolution_ns} ns, "
        f"{harness.timer_cost_ns:.0f} ns a reading"
    )


def environment_rows(profile: Profile) -> list[list[str]]:
    """Where a result comes from: pairs of what and is."""
    subject, here = profile.subject, profile.environment
    limit = "" if here.cpu_limit_cores is None else f", limited to {here.cpu_limit_cores:g}"
    clock = "" if here.clock_mhz is None else f" at {here.clock_mhz:.0f} MHz"
    rows = [
        ["bundle", f"{subject.name}, {subject.seal[:16]}…"],
        [
            "engine",
            f"{subject.backend} {subject.precision}, {subject.depth} blocks, {subject.keep}",
        ],
        [
            "input",
            f"{subject.images} ({subject.image_count}), a view of each: mpft screen judges larger "
            "pictures by several",
        ],
        ["device", f"{here.device} ({here.device.machine}, {here.device.system})"],
        ["cores", f"{here.cores}{limit}{clock}"],
        ["governor", here.governor or f"unknown: {here.unknown.get('governor', '')}"],
        ["load before", number(here.load)],
        ["versions", ", ".join(f"{name} {text}" for name, text in here.versions.items())],
        ["system", f"kernel {here.kernel}, Python {here.python}"],
        ["mpft-deploy", f"{profile.mpft_version} {here.commit}".strip()],
        ["measured", profile.created],
    ]
    rows += [
        ["GPU", f"{gpu['name']}, {number(gpu['clock_mhz'])} MHz, {number(gpu['temperature'])} °C"]
        for gpu in here.gpus
    ]
    return rows


def layer_name(layer: Layer) -> str:
    """`block 7 / attention / qkv`."""
    return " / ".join(layer.path)


def bounds(layers: Layers) -> list[tuple[str, float]]:
    """Shares of the engine's time by what bounds it, the largest first, the remainder last."""
    spent: dict[str, float] = {}
    for layer in layers.layers:
        name = layer.bound or "not counted"
        spent[name] = spent.get(name, 0.0) + layer.ms
    ranked = sorted(spent.items(), key=lambda item: -item[1])
    rows = [*ranked, ("not attributed", layers.unattributed_ms)]
    return [(name, ms / layers.engine_ms) for name, ms in rows]


def layer_rows(layers: Layers) -> list[list[str]]:
    """One row a layer, and the remainder."""
    rows = []
    for layer in layers.layers:
        seconds = layer.ms / 1e3
        rows.append(
            [
                layer_name(layer),
                number(layer.ms),
                f"{layer.ms / layers.engine_ms:.1%}",
                number(layer.flops / seconds / 1e9) if layer.flops and seconds else "–",
                number(layer.bytes / seconds / 1e9) if layer.bytes and seconds else "–",
                layer.bound,
                f"{layer.attained:.0%}" if layer.bound not in ("", "overhead") else "–",
            ]
        )
    rest = layers.unattributed_ms
    rows.append(
        ["not attributed", number(rest), f"{rest / layers.engine_ms:.1%}", "–", "–", "", ""]
    )
    rows.append(["engine", number(layers.engine_ms), "100.0%", "–", "–", "", ""])
    return rows
