"""`mpft profile`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpft_deploy.cli.options import PATH, Number, Place, Threads, hold

if TYPE_CHECKING:
    from mpft_deploy.profile.compare import Limit
    from mpft_deploy.profile.records import Gate, Profile
    from mpft_deploy.profile.slo import Objective
    from mpft_deploy.standing import Kind

SCENARIOS = ("single-stream", "multi-stream", "offline")


class ProfileCommand(click.Command):
    """Measures a bundle, unless the first word is the name of another command."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Of this command, or of the one that is named."""
        if args and args[0] in OTHERS:
            name, *rest = args
            return OTHERS[name].make_context(f"{info_name} {name}", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _numbers(kind: click.ParamType[int]) -> Callable[..., tuple[int, ...]]:
    """Callback of an option: numbers of some kind with commas between."""

    def parse(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdecimal() for part in parts):
            raise click.BadParameter(f"{value!r}: write numbers with commas between, such as 1,2,4")
        return tuple(int(kind.convert(part, parameter, context)) for part in parts)

    return parse


@click.command(
    cls=ProfileCommand,
    epilog="mpft profile history FOLDER lists older results, and mpft profile events FILE sums up "
    "the latency of streams from capture to verdict.",
)
@click.argument("bundle", type=PATH)
@click.option(
    "--images",
    type=PATH,
    help="Folder of image files to decode, timed with the centre view of each, where mpft screen "
    "judges larger pictures by several; else golden crops.",
)
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice([*SCENARIOS, "all"]),
    multiple=True,
    default=("single-stream",),
    show_default=True,
    help="As MLPerf means it; may be given several times.",
)
@click.option(
    "--streams", type=click.IntRange(2), default=4, show_default=True, help="Of multi-stream."
)
@click.option(
    "--batch",
    "batches",
    metavar="N,N,…",
    callback=_numbers(click.IntRange(1)),
    default="8",
    show_default=True,
    help="Of offline.",
)
@click.option(
    "--threads",
    metavar="N,N,…",
    callback=_numbers(Threads()),
    default="0",
    show_default=True,
    help="CPU threads; 0: all cores.",
)
@click.option(
    "--samples",
    type=click.IntRange(10),
    default=500,
    show_default=True,
    help="Undisturbed queries that are wanted. p99 takes 299, p99.9 takes 2995.",
)
@click.option(
    "--limit",
    type=Number(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which a run ends with what it has.",
)
@click.option("--layers", is_flag=True, help="Look into the engine, layer by layer.")
@click.option(
    "--layers-from",
    "trtexec",
    type=PATH,
    metavar="FILE",
    help="With --layers, of TensorRT: what trtexec --exportProfile wrote.",
)
@click.option(
    "--slo", "objectives", multiple=True, metavar="p99<=15ms", help="Gate: exit code 1 unless met."
)
@click.option("--compare", "older", type=PATH, metavar="OLD.json", help="An older result.")
@click.option(
    "--fail",
    "limits",
    multiple=True,
    metavar="p50:5%",
    help="With --compare, gate: a slowdown that must not go unseen.  [default: p50:5%]",
)
@click.option("--out", type=PATH, help="Write the result here, as JSON.")
@click.option("--html", type=PATH, help="Write one HTML file that needs nothing else.")
@click.option("--markdown", type=PATH, help="Write a summary for a pull request.")
@click.option("--trace", type=PATH, help="With --layers: write a trace for ui.perfetto.dev.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    bundle: Path,
    images: Path | None,
    scenarios: tuple[str, ...],
    streams: int,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    samples: int,
    limit: float,
    layers: bool,
    trtexec: Path | None,
    objectives: tuple[str, ...],
    older: Path | None,
    limits: tuple[str, ...],
    out: Path | None,
    html: Path | None,
    markdown: Path | None,
    trace: Path | None,
    as_json: bool,
) -> int:
    """Measure BUNDLE's latency on this device.

    Queries are warmed up until steady, then timed in blocks; blocks that other work disturbed are
    repeated until --samples are undisturbed or --limit is over. What cannot be told from the
    samples is not reported, and a gate that they cannot decide says "undecided". Exit code 1 unless
    every gate passed.
    """
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.cli.console import emit_json, steps
    from mpft_deploy.errors import UsageError
    from mpft_deploy.profile.compare import Limit
    from mpft_deploy.profile.measure import Plan
    from mpft_deploy.profile.profiler import Request, profile_bundle
    from mpft_deploy.profile.records import read_profile
    from mpft_deploy.profile.slo import Objective

    if limits and older is None:
        raise UsageError("--fail goes with --compare OLD.json")
    if (trace is not None or trtexec is not None) and not layers:
        raise UsageError("--trace and --layers-from go with --layers")
    slos = [Objective.parse(text) for text in objectives]
    slowdowns = [Limit.parse(text) for text in limits or ("p50:5%",)]
    before = read_profile(older) if older is not None else None
    for path, kind in zip((out, html, markdown, trace), _kinds(), strict=True):
        if path is not None:
            hold(path, kind, (bundle, images, older, trtexec))
    chosen = [name for name in SCENARIOS if name in scenarios or "all" in scenarios]
    content = read_bundle(bundle)
    with steps() as say:
        profile = profile_bundle(
            Request(
                content,
                Plan(samples=samples, seconds=limit),
                images=images,
                scenarios=chosen,  # type: ignore[arg-type]  # Click lets no others through
                streams=streams,
                batches=batches,
                threads=threads,
                layers=layers,
                trtexec=trtexec,
                say=say,
            )
        )
    profile = _with_gates(profile, slos, before, slowdowns)
    _write(profile, out, html, markdown, trace)
    if as_json:
        emit_json(profile)
    else:
        from mpft_deploy.profile.terminal import print_profile

        print_profile(profile)
    return int(any(gate.verdict != "pass" for gate in profile.gates))


def _with_gates(
    profile: Profile, slos: list[Objective], before: Profile | None, slowdowns: list[Limit]
) -> Profile:
    """The result with the answers to its gates; objectives are about awaited queries."""
    import msgspec

    from mpft_deploy.profile.compare import compare
    from mpft_deploy.profile.slo import judge_run

    awaited = [run for run in profile.runs if run.scenario != "offline"] or profile.runs
    gates: list[Gate] = [judge_run(slo, run) for slo in slos for run in awaited]
    if before is not None:
        gates += [gate for limit in slowdowns for gate in compare(limit, before, profile)]
    return msgspec.structs.replace(profile, gates=gates)


def _write(
    profile: Profile, out: Path | None, html: Path | None, markdown: Path | None, trace: Path | None
) -> None:
    import msgspec

    from mpft_deploy.files import display
    from mpft_deploy.outputs import write_output

    result, page, summary, timeline = _kinds()
    if out is not None:
        write_output(out, msgspec.json.encode(profile) + b"\n", result)
    if markdown is not None:
        from mpft_deploy.profile.markdown import render_markdown

        write_output(markdown, render_markdown(profile).encode(), summary)
    if html is not None:
        from mpft_deploy.profile.html import render_html

        write_output(html, render_html(profile).encode(), page)
    if trace is not None and profile.layers is not None:
        from mpft_deploy.profile.flame import chrome_trace

        write_output(trace, chrome_trace(profile.layers), timeline)
    for path in filter(None, (out, html, markdown, trace)):
        click.echo(f"written: {display(path)}", err=True)


def _kinds() -> tuple[Kind, Kind, Kind, Kind]:
    """What --out, --html, --markdown and --trace write, each with a mark that it begins with."""
    from mpft_deploy.standing import marked_kind

    return (
        marked_kind("a result of mpft profile", b'{"kind":"profile"'),
        marked_kind("a report of mpft profile", b'name="generator" content="mpft profile"'),
        marked_kind("a summary of mpft profile", b"### Latency of `"),
        marked_kind("a trace of mpft profile", b'{"otherData":{"writer":"mpft profile"}'),
    )


@click.command("history")
@click.argument("folder", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON a result.")
def show_history(folder: Path, as_json: bool) -> int:
    """List the results in FOLDER, oldest first, each with its change to the one before.

    Only results of the same device, scenario, batch and threads are compared.
    """
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.profile.history import read_history, rows

    entries, failures = read_history(folder)
    if as_json:
        for row in rows(entries):
            emit_json(row)
    else:
        from mpft_deploy.profile.terminal import print_history

        print_history(rows(entries))
    for failure in failures:
        click.echo(f"error: {failure}", err=True)
    return int(bool(failures))


@click.command("events")
@click.argument("file", type=Place(allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON a source.")
def show_events(file: Path, as_json: bool) -> None:
    """Latency from capture to verdict, from the JSON lines of `mpft screen SOURCE --json`.

    FILE holds them; `-` reads standard input.
    """
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.errors import InputError
    from mpft_deploy.files import display
    from mpft_deploy.profile.events import read_events

    if str(file) == "-":
        latencies = read_events(sys.stdin.buffer, "standard input")
    else:
        try:
            with file.open("rb") as lines:
                latencies = read_events(lines, display(file))
        except OSError as error:
            raise InputError(f"{display(file)} cannot be read: {error.strerror}") from None
    if as_json:
        for latency in latencies:
            emit_json(latency)
        return
    from mpft_deploy.profile.terminal import print_events

    print_events(latencies)


OTHERS = {"history": show_history, "events": show_events}
"""Commands below `mpft profile`; anything else is the bundle to measure."""
