"""Export a detector: build, certify, measure, write. Nothing is written that missed its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnx

from mpft_deploy import __version__
from mpft_deploy.bundle import (
    KIND,
    VERSION,
    Bundle,
    BundleInfo,
    Certificate,
    Comparison,
    Device,
    Latency,
    read_bundle,
    write_bundle,
)
from mpft_deploy.detector_folder import DetectorFolder, read_detector
from mpft_deploy.engine import Backend, Engine, find_backend, get_backend
from mpft_deploy.engine.certificate import (
    Budget,
    compare,
    compare_golden,
    default_budget,
    judge,
    run_views,
    unproven,
)
from mpft_deploy.errors import GateError, InputError, UsageError
from mpft_deploy.export.builders import Builder, BuildOptions, Plan, get_builder
from mpft_deploy.export.calibration import activation_ranges
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import RECIPES, apply_precision
from mpft_deploy.export.smoothing import smooth
from mpft_deploy.files import check_free, display, explain_unwritable
from mpft_deploy.images import U8, find_images, load_views
from mpft_deploy.profile.latency import measure
from mpft_deploy.signing import load_signer
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32

LATENCY_SAMPLES = 100
BATCH = 16
CALIBRATION_IMAGES = 128


@dataclass(frozen=True)
class Request:
    """What to export, how, and by which budget.

    budget: None takes the precision's default.
    sign: a private key to sign the bundle with; see `mpft_deploy.signing`.
    """

    detector: Path
    out: Path
    backend: str = "onnxruntime"
    precision: str = "fp32"
    float_layers: tuple[str, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    budget: Budget | None = None
    images: tuple[Path, ...] = ()
    calibrate: tuple[Path, ...] = ()
    threads: int = 0
    overwrite: bool = False
    allow_over_budget: bool = False
    sign: Path | None = None


@dataclass(frozen=True)
class Result:
    """What an export wrote."""

    out: Path
    info: BundleInfo
    certificate: Certificate
    latency: Latency | None
    engine_bytes: int


Say = Callable[[str], None]


def silent(text: str) -> None:
    """Tell nobody which step begins."""


@dataclass(frozen=True)
class Built:
    """An engine within its budget (or allowed over it), in memory; `graph` is what it runs.

    `engine` is None for an engine that cannot run here, which `certificate` says too.
    """

    detector: DetectorFolder
    precision: str
    graph: onnx.ModelProto
    plan: Plan
    file: str
    engine_bytes: bytes
    engine: Engine | None
    certificate: Certificate


def build(request: Request, say: Say = silent) -> Built:
    """Build an engine and prove it, if it can run here; see `complete` otherwise.

    Args:
        say: told each step as it begins, for progress.

    Raises:
        GateError: the engine missed its budget and `allow_over_budget` is off.
        InputError, UsageError, EnvironmentLacksError: as their messages say.
    """
    backend, builder, plan = _resolve(request)
    not_run = backend.why_not(plan.compute_capability)
    if not_run and request.images:
        raise UsageError(f"--images needs an engine that runs here: {not_run}")
    detector = read_detector(request.detector)
    spec = detector.spec
    budget = request.budget or default_budget(request.precision)

    say("writing the encoder graph")
    graph = _write_graph(request, detector)
    say("building the engine")
    file, engine_bytes = builder.build(serialise(graph), plan, request.options, say)
    engine = None
    if not_run:
        certificate = unproven(budget, spec.calibration, not_run)
    else:
        engine = backend.load(engine_bytes, threads=request.threads)
        certificate = _prove(engine, detector, request, budget, say)
        if not certificate.passed and not request.allow_over_budget:
            raise GateError(refusal(certificate))
    name = _precision_name(request)
    return Built(detector, name, graph, plan, file, engine_bytes, engine, certificate)


def export(request: Request, say: Say = silent) -> Result:
    """Build an engine, prove it, measure it, and write the bundle; errors as of `build`."""
    check_free(request.out, replace=request.overwrite)
    signer = load_signer(request.sign) if request.sign else None
    built = build(request, say)
    detector, spec = built.detector, built.detector.spec
    backend = find_backend(request.backend)
    latency = None
    if built.engine is not None:
        say("measuring latency")
        crops = detector.golden.crops
        latency = measure(
            built.engine, spec, crops, samples=LATENCY_SAMPLES, threads=request.threads
        )
    info = BundleInfo(
        kind=KIND,
        version=VERSION,
        spec=spec,
        backend=request.backend,
        precision=built.precision,
        engine=built.file,
        device=Device.here(),
        versions={"mpft-deploy": __version__, "numpy": np.__version__, **backend.versions()},
        sources={"detector": request.detector.resolve().name, "detector_seal": detector.seal},
        compute_capability=built.plan.compute_capability,
    )
    write_bundle(
        request.out,
        info,
        built.engine_bytes,
        detector.golden,
        built.certificate,
        latency,
        sign=signer,
        replace=request.overwrite,
    )
    return Result(request.out, info, built.certificate, latency, len(built.engine_bytes))


def describe(request: Request) -> dict[str, str]:
    """What `export` would build, by name for people, with all checked that needs no building."""
    check_free(request.out, replace=request.overwrite)
    backend, _, plan = _resolve(request)
    spec = read_detector(request.detector).spec
    not_run = backend.why_not(plan.compute_capability)
    return {
        "input patches": f"u8 [batch, {spec.tokens}, {3 * spec.patch**2}]",
        "input positions": f"i32 [batch, {spec.tokens}]",
        "output logit": "f32 [batch]",
        "precision": f"{_precision_name(request)}: {RECIPES[request.precision].help}",
        **plan.rows,
        "budget": str(request.budget or default_budget(request.precision)),
        "proven here": f"no: {not_run}" if not_run else "yes",
    }


def complete(bundle: Bundle, *, sign: Path | None = None, threads: int = 0) -> Bundle:
    """Prove and measure a bundle that was built elsewhere, and write that into it.

    Args:
        sign: private key (PEM) to sign it with anew; a bundle that is signed needs one.

    Raises:
        UsageError: it is signed and there is no key, so that writing would void its signature.
        EnvironmentLacksError: its engine cannot run here either, or its folder cannot be written.
    """
    info, spec = bundle.info, bundle.spec
    if bundle.signature is not None and sign is None:
        raise UsageError(
            f"{display(bundle.path)} is signed, and writing its proof would void the signature: "
            "pass --sign with a private key"
        )
    signer = load_signer(sign) if sign else None
    backend = get_backend(info.backend, info.compute_capability)
    engine = backend.load(bundle.engine, threads=threads)
    budget = Budget.parse(bundle.certificate.budget)
    certificate = judge(compare_golden(engine, spec, bundle.golden), None, budget, spec.calibration)
    latency = measure(engine, spec, bundle.golden.crops, samples=LATENCY_SAMPLES, threads=threads)
    info = msgspec.structs.replace(
        info, device=Device.here(), versions={**info.versions, **backend.versions()}
    )
    with explain_unwritable(bundle.path):
        write_bundle(
            bundle.path,
            info,
            bundle.engine,
            bundle.golden,
            certificate,
            latency,
            sign=signer,
            replace=True,
        )
    return read_bundle(bundle.path)


def refusal(certificate: Certificate, worst: int = 8) -> str:
    """Why an engine was refused, with the images that it changed most."""
    shown = certificate.images if certificate.images is not None else certificate.golden
    assert shown is not None
    lines = [f"the engine misses its budget ({certificate.budget}) and was not written:"]
    lines += [f"  {reason}" for reason in certificate.reasons]
    if shown.flipped:
        lines.append("  flipped, worst first:")
        lines += [
            f"    {flip.reference_logit:+.3f} → {flip.engine_logit:+.3f}  {flip.image}"
            for flip in shown.flipped[:worst]
        ]
    lines.append(
        "Keep some layers in float (--float-layers '*.mlp.c_proj'), use --precision fp32, allow a "
        "larger --budget, or write it all the same with --allow-over-budget."
    )
    return "\n".join(lines)


def _resolve(request: Request) -> tuple[Backend, Builder, Plan]:
    """What runs it, what builds it, and how; a UsageError for what does not go together."""
    backend = find_backend(request.backend)
    if request.precision not in backend.PRECISIONS:
        raise UsageError(
            f"backend {request.backend} does not take precision {request.precision}: choose "
            f"{', '.join(backend.PRECISIONS)}"
        )
    builder = get_builder(request.backend)
    return backend, builder, builder.plan(request.precision, request.options)


def _write_graph(request: Request, detector: DetectorFolder) -> onnx.ModelProto:
    """The graph in the precision that was asked for, fitted to the calibration images."""
    spec = detector.spec
    recipe = RECIPES[request.precision]
    weights: Mapping[str, F32] = detector.weights
    ranges = None
    if recipe.quantise is not None:
        views = _calibration_views(request, detector)
        weights = smooth(spec, weights, views)
        ranges = activation_ranges(spec, weights, views) if recipe.static else None
    graph = build_graph(spec, weights)
    return apply_precision(graph, request.precision, request.float_layers, ranges)


def _prove(
    engine: Engine,
    detector: DetectorFolder,
    request: Request,
    budget: Budget,
    say: Callable[[str], None],
) -> Certificate:
    """Compare on the golden crops and on the images that were named, and judge."""
    spec = detector.spec
    say(f"comparing with the trained model on {len(detector.golden.logits)} golden crops")
    golden = compare_golden(engine, spec, detector.golden)
    images = None
    if request.images:
        exact = serialise(build_graph(spec, detector.weights))
        reference = get_backend("onnxruntime").load(exact, threads=request.threads)
        images = _compare_images(engine, reference, spec, request.images, say)
    return judge(golden, images, budget, spec.calibration)


def _compare_images(
    engine: Engine,
    reference: Engine,
    spec: DetectorSpec,
    folders: Sequence[Path],
    say: Say,
) -> Comparison:
    paths, names = _list_images("--images", folders)
    crops, before, after = [], [], []
    for start in range(0, len(paths), BATCH):
        say(f"comparing with the float32 graph: image {start + 1} of {len(paths)}")
        batch = load_views(paths[start : start + BATCH], spec.crop.size)
        crops.append(batch)
        before.append(run_views(reference, spec, batch))
        after.append(run_views(engine, spec, batch))
    return compare(
        np.concatenate(before),
        np.concatenate(after),
        spec.calibration,
        names=names,
        views=np.concatenate(crops),
        reference_name="float32 graph on ONNX Runtime",
    )


def _calibration_views(request: Request, detector: DetectorFolder) -> U8:
    """Views to smooth on: of the folders that were named, else the golden crops."""
    if not request.calibrate:
        return detector.golden.crops
    paths, _ = _list_images("--calibrate", request.calibrate)
    step = max(1, len(paths) // CALIBRATION_IMAGES)
    return load_views(paths[::step][:CALIBRATION_IMAGES], detector.spec.crop.size)


def _list_images(option: str, folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Images under the folders, and their names from each folder on; at least one."""
    paths, names = [], []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{option} {display(folder)} is not a folder")
        found = list(find_images(folder))
        paths += found
        names += [display(path.relative_to(folder.parent)) for path in found]
    if not paths:
        raise InputError(f"{option}: no image under {', '.join(map(display, folders))}")
    return paths, names


def _precision_name(request: Request) -> str:
    kept = f" (float: {', '.join(request.float_layers)})" if request.float_layers else ""
    return request.precision + kept
