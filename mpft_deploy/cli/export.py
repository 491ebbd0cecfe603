"""`mpft export`, also installed as `mpft-export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpft_deploy.cli.options import PATH, Threads

if TYPE_CHECKING:
    from mpft_deploy.bundle import Certificate
    from mpft_deploy.export.request import Request

PRECISIONS = [
    "auto", "fp32", "fp16", "bf16", "int8", "int8-static", "int8-static+fp16", "int8-static+bf16",
    "fp8+fp16", "narrow", "twice", "wide",
]  # fmt: skip
AUTO = "auto"
ELSEWHERE = ["jetson-orin", "jetson-thor"]
"""Devices that engines are told of without one."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("detector", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--target",
    type=click.Choice(["auto", "cpu", *ELSEWHERE]),
    help="Find the fastest engine for this device, or for its processor, that keeps the budget; "
    "--backend and --precision, if given, narrow it. For a Jetson, with --dry-run: what would be "
    "built there.",
)
@click.option(
    "--backend",
    help="What runs the engine. native gives the same logits on every processor and needs nothing "
    "else installed; onnxruntime, openvino, tensorrt and tensorrt-rtx run an ONNX graph (extra "
    "export); auto tries all that are here.  [default: native, or the first of these that takes "
    "--precision]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of matmuls. wide, twice, narrow: of the backend native, activations of 16 bits, which "
    "change next to nothing; narrow, and wide once more where the verdict could hang on it; of 8 "
    "bits, and 16 where they are outliers, the fastest. int8: activations scaled as the engine "
    "runs; int8-static, fp8+fp16: by "
    "ranges seen in calibration; +fp16, +bf16: the other matmuls; wide goes with onnxruntime too, "
    "which has the logits of native but for float rounding; auto tries all.  [default: of "
    "native the narrowest that keeps the budget by the detector's own certificate, wide without "
    "one; of others fp32]",
)
@click.option(
    "--float-layers",
    multiple=True,
    metavar="PATTERN",
    help="Layers to leave in float, such as '*.mlp.c_proj'. May be repeated.",
)
@click.option(
    "--keep",
    metavar="RULES",
    help="Cells that the engine sees: a rule such as textured:63, a count of the detector's own "
    "kind, or all. Verdicts are compared with those at the detector's own rule. With auto: several "
    "by commas, or auto.  [default: the detector's own]",
)
@click.option(
    "--budget",
    metavar="TERMS",
    help="What the engine may change, such as 'flips<=1%,decisive<=0.5%,logit<=0.5', judged on "
    "images at 95 % confidence.  "
    "[default: flips<=1%, for fp32 logit<=0.001 too]",
)
@click.option(
    "--latency",
    metavar="LIMIT",
    help="With auto: what a view may take at most, such as 'p90<=20ms'.",
)
@click.option("--explain", is_flag=True, help="With auto: say why each other candidate lost.")
@click.option(
    "--images",
    type=PATH,
    multiple=True,
    help="Judge the budget on the images of this folder, against float32; without it the backend "
    "native is judged by the detector's own certificate (see `mpft certify`), and of others "
    "nothing is proven. May be repeated.",
)
@click.option(
    "--calibrate",
    type=PATH,
    multiple=True,
    help="Images that int8 and fp8 are fitted to; those of them that are among --images do not "
    "count there.  [default: the drawn golden crops]",
)
@click.option(
    "--standalone",
    is_flag=True,
    help="Write one ONNX file, OUT, that takes whole frames, for any runtime.",
)
@click.option(
    "--layout",
    type=click.Choice(["bundle", "triton"]),
    default="bundle",
    show_default=True,
    help="triton: add a model to the Triton Inference Server repository OUT.",
)
@click.option(
    "--sign",
    type=PATH,
    metavar="PRIVATE_KEY",
    help="Sign the bundle with this key (see `mpft keygen`).",
)
@click.option(
    "--sm",
    multiple=True,
    metavar="CAPABILITY",
    help="GPUs to build for with tensorrt-rtx, like 89. May be repeated.  [default: all it knows]",
)
@click.option(
    "--batch",
    metavar="MIN:USUAL:MAX",
    help="Views at once that a TensorRT engine takes.  [default: 1:1:8]",
)
@click.option(
    "--workspace",
    type=click.IntRange(1),
    metavar="MIB",
    help="Scratch memory of TensorRT's kernels.",
)
@click.option(
    "--timing-cache",
    type=PATH,
    metavar="FILE",
    help="TensorRT's kernel timings, read and written: the next build is quick and the same.",
)
@click.option("--hardware-compatible", is_flag=True, help="TensorRT: for any GPU from SM 8.0 on.")
@click.option("--version-compatible", is_flag=True, help="TensorRT: for later minor versions too.")
@click.option("--dry-run", is_flag=True, help="Print what would be built, and build nothing.")
@click.option("--threads", type=Threads(), default=0, help="CPU threads; 0: all cores.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--allow-unproven",
    is_flag=True,
    help="Write an engine whose budget is undecided or broken; the exit code is 1 all the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    detector: Path,
    out: Path,
    target: str | None,
    backend: str | None,
    precision: str | None,
    float_layers: tuple[str, ...],
    keep: str | None,
    budget: str | None,
    latency: str | None,
    explain: bool,
    images: tuple[Path, ...],
    calibrate: tuple[Path, ...],
    standalone: bool,
    layout: str,
    sign: Path | None,
    sm: tuple[str, ...],
    batch: str | None,
    workspace: int | None,
    timing_cache: Path | None,
    hardware_compatible: bool,
    version_compatible: bool,
    dry_run: bool,
    threads: int,
    overwrite: bool,
    allow_unproven: bool,
    as_json: bool,
) -> int:
    """Build an engine of DETECTOR and write it to OUT with what is known of its verdicts.

    A smoke test compares it with the trained model on the detector's drawn golden crops: that finds
    engines that compute something else, and proves nothing about verdicts. With --images its
    verdicts are judged against float32, by the --budget: kept, broken, or undecided with how many
    more images would decide. Only an engine that kept it is written; the others are refused (exit
    code 1), with the images that they changed most. One built for another device gets its smoke
    test from `mpft verify` there.

    With --target, or auto for --backend or --precision, candidates are built, timed and tried here
    on half of the images, and the fastest that keeps the budget on the other half is written.
    OUT.search keeps what was measured, for a search that was interrupted, and a picture of it.
    """
    from mpft_deploy.cli.console import certificate_rows, emit_json, latency_rows, steps, table
    from mpft_deploy.engine import find_backend
    from mpft_deploy.engine.budget import Budget
    from mpft_deploy.errors import UsageError
    from mpft_deploy.export.builders import BuildOptions, parse_batch, parse_capability
    from mpft_deploy.export.pipeline import export
    from mpft_deploy.export.request import NARROWEST, NATIVE, Request
    from mpft_deploy.files import display

    searches = target is not None or AUTO in (backend, precision)
    if backend is None:
        backend = (
            AUTO if searches else _backend_for(precision, graph=standalone or layout != "bundle")
        )
    if precision is None and searches:
        precision = AUTO
    if precision == AUTO and float_layers:
        raise UsageError("--float-layers goes with one --precision; auto finds the layers itself")
    if precision is None:
        precision = NARROWEST if backend == NATIVE else find_backend(backend).PRECISIONS[0]
    request = Request(
        detector=detector,
        out=out,
        backend=backend,
        precision=precision,
        float_layers=float_layers,
        options=BuildOptions(
            batch=parse_batch(batch) if batch else BuildOptions.batch,
            sm=tuple(map(parse_capability, sm)),
            workspace=workspace,
            timing_cache=timing_cache,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
        ),
        budget=Budget.parse(budget) if budget else None,
        images=images,
        calibrate=calibrate,
        threads=threads,
        overwrite=overwrite,
        allow_unproven=allow_unproven,
        sign=sign,
    )
    if target in ELSEWHERE:
        if standalone or layout == "triton":
            raise UsageError(f"--standalone and --layout take one engine, not --target {target}")
        if latency or explain:
            raise UsageError("--latency and --explain go with a search, and nothing is timed here")
        request = replace(request, keep=keep)
        return _print_elsewhere(request, str(target), dry_run=dry_run, as_json=as_json)
    if searches:
        if standalone or layout == "triton" or dry_run:
            raise UsageError("--standalone, --layout and --dry-run take one engine, not auto")
        keeps = [part.strip() for part in keep.split(",")] if keep else []
        return _search(request, target or AUTO, latency, keeps, explain=explain, as_json=as_json)
    if keep and (keep == "auto" or "," in keep):
        raise UsageError("--keep with auto or several rules goes with a search: add --target auto")
    request = replace(request, keep=keep)
    if latency or explain:
        raise UsageError("--latency and --explain go with a search: add --target auto")
    if dry_run:
        if standalone or layout == "triton":
            raise UsageError("--dry-run is for bundles")
        _print_plan(request, as_json=as_json)
        return 0
    if standalone or layout == "triton":
        if standalone and layout == "triton":
            raise UsageError("--standalone writes a file, --layout triton a folder: choose one")
        if sign:
            raise UsageError("--sign is for bundles; a standalone graph has no manifest to sign")
        return _export_standalone(request, triton=not standalone, as_json=as_json)
    with steps() as say:
        result = export(request, say)
    if as_json:
        emit_json(
            {
                "bundle": display(out),
                "backend": result.info.backend,
                "precision": str(result.info.precision),
                "engine_bytes": result.engine_bytes,
                "certificate": result.certificate,
                "latency": result.latency,
            }
        )
        return code_of(result.certificate)
    rows = [*certificate_rows(result.certificate), *latency_rows(result.latency)]
    rows.append(["engine", f"{result.engine_bytes / 1e6:.1f} MB"])
    table(f"{display(out)}: {request.backend}, {result.info.precision}", ["", ""], rows)
    return code_of(result.certificate)


def _backend_for(precision: str | None, *, graph: bool) -> str:
    """The first backend that takes a precision; with `graph`, of those that run one."""
    from mpft_deploy.engine import BACKENDS, find_backend

    takes = (
        name
        for name in BACKENDS
        if not (graph and name == "native")
        and (precision is None or precision in find_backend(name).PRECISIONS)
    )
    return next(takes, "native")


def code_of(certificate: Certificate) -> int:
    """Exit code of an export that wrote something: 1 if that was not wholly as it should be."""
    from mpft_deploy.export.refusal import may_be_written

    return 0 if may_be_written(certificate) else 1


def _search(
    request: Request,
    target: str,
    latency: str | None,
    keeps: list[str],
    *,
    explain: bool,
    as_json: bool,
) -> int:
    from mpft_deploy.cli.console import emit_json, steps, table
    from mpft_deploy.cli.signals import resumable
    from mpft_deploy.export.candidates import LatencyLimit
    from mpft_deploy.export.search import PICTURE, notes_of, search
    from mpft_deploy.export.search_report import COLUMNS, reasons, rows
    from mpft_deploy.export.search_report import as_json as candidate_json
    from mpft_deploy.files import display

    with steps() as say, resumable():
        limit = LatencyLimit.parse(latency) if latency else None
        outcome = search(request, target, limit, say, keeps=keeps)
    picture = notes_of(request.out) / PICTURE
    if as_json:
        result = outcome.result
        emit_json(
            {
                "bundle": display(request.out),
                "backend": result.info.backend,
                "precision": str(result.info.precision),
                "engine_bytes": result.engine_bytes,
                "certificate": result.certificate,
                "latency": result.latency,
                "candidates": [candidate_json(one) for one in outcome.candidates],
                "picture": display(picture),
            }
        )
        return code_of(outcome.result.certificate)
    title = f"{display(request.out)}: {outcome.winner.name}"
    table(title, COLUMNS, rows(outcome.candidates))
    for line in reasons(outcome.candidates, explain=explain):
        click.echo(line)
    for finding in outcome.result.certificate.findings:
        click.echo(finding.reason)
    click.echo(f"picture: {display(picture)}")
    return code_of(outcome.result.certificate)


def _print_plan(request: Request, *, as_json: bool) -> None:
    from mpft_deploy.cli.console import emit_json, table
    from mpft_deploy.export.pipeline import describe
    from mpft_deploy.files import display

    rows = describe(request)
    if as_json:
        emit_json(rows)
        return
    title = f"{display(request.out)}: {request.backend}, not built"
    table(title, ["", ""], [[*row] for row in rows.items()])


def _print_elsewhere(request: Request, target: str, *, dry_run: bool, as_json: bool) -> int:
    from mpft_deploy.cli.console import emit_json, table
    from mpft_deploy.errors import UsageError
    from mpft_deploy.export.elsewhere import describe_elsewhere

    if not dry_run:
        raise UsageError(
            f"an engine for {target} is built on it: bring the detector there and export it "
            "without --target, or add --dry-run to be told what that makes"
        )
    found = describe_elsewhere(request, target)
    if as_json:
        emit_json(found)
        return 0
    for title, rows in found.items():
        table(f"{title}, not built", ["", ""], [[*row] for row in rows.items()])
    return 0


def _export_standalone(request: Request, *, triton: bool, as_json: bool) -> int:
    from mpft_deploy.cli.console import certificate_rows, emit_json, steps, table
    from mpft_deploy.extras import require

    require("export", "a standalone graph", "onnx", "onnxruntime")
    from mpft_deploy.export.layouts import export_triton
    from mpft_deploy.export.standalone import export_standalone
    from mpft_deploy.files import display

    with steps() as say:
        if triton:
            written, made = export_triton(request, say)
        else:
            written, made = request.out, export_standalone(request, say)
    if as_json:
        emit_json(
            {
                "standalone": display(written),
                "precision": made.precision,
                "model_bytes": len(made.model),
                "certificate": made.certificate,
            }
        )
        return code_of(made.certificate)
    rows = [*certificate_rows(made.certificate), ["model", f"{len(made.model) / 1e6:.1f} MB"]]
    table(f"{display(written)}: standalone, {made.precision}", ["", ""], rows)
    return code_of(made.certificate)
