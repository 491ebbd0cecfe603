"""Export a detector: build, certify, measure, write. Nothing is written that missed its budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnx

from mpft_deploy import __version__
from mpft_deploy.bundle import (
    KIND,
    OUTPUT,
    VERSION,
    Bundle,
    BundleInfo,
    Certificate,
    Device,
    Latency,
    read_bundle,
    write_bundle,
)
from mpft_deploy.detector_folder import DetectorFolder, read_detector, read_spec
from mpft_deploy.engine import Backend, Engine, find_backend, get_backend
from mpft_deploy.engine.certificate import (
    Budget,
    compare_golden,
    default_budget,
    judge,
    unproven,
)
from mpft_deploy.errors import GateError, UsageError
from mpft_deploy.export.builders import Builder, BuildOptions, Plan, get_builder
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.materials import Materials, Say, with_keep
from mpft_deploy.export.precision import RECIPES, apply_precision
from mpft_deploy.files import display
from mpft_deploy.outputs import Place, reserve
from mpft_deploy.profile.latency import measure
from mpft_deploy.signing import Signature, load_signer
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import detector_shapes

LATENCY_SAMPLES = 100


@dataclass(frozen=True)
class Request:
    """What to export, how, and by which budget.

    keep: cells seen at inference, in place of the detector's own rule. Verdicts are still compared
        with those at its own rule.
    budget: None takes the precision's default.
    sign: a private key to sign the bundle with; see `mpft_deploy.signing`.
    """

    detector: Path
    out: Path
    backend: str = "onnxruntime"
    precision: str = "fp32"
    float_layers: tuple[str, ...] = ()
    keep: str | None = None
    options: BuildOptions = field(default_factory=BuildOptions)
    budget: Budget | None = None
    images: tuple[Path, ...] = ()
    calibrate: tuple[Path, ...] = ()
    threads: int = 0
    overwrite: bool = False
    allow_over_budget: bool = False
    sign: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files and folders that the export reads."""
        others = (self.sign, self.options.timing_cache)
        return (self.detector, *self.images, *self.calibrate, *filter(None, others))

    @property
    def room(self) -> int:
        """Bytes that a bundle takes at least: no engine stores a weight in less than one."""
        shapes = detector_shapes(read_spec(self.detector)).values()
        return (4 if self.precision == "fp32" else 1) * sum(map(math.prod, shapes))


@dataclass(frozen=True)
class Result:
    """What an export wrote."""

    out: Path
    info: BundleInfo
    certificate: Certificate
    latency: Latency | None
    engine_bytes: int


def silent(text: str) -> None:
    """Tell nobody which step begins."""


@dataclass(frozen=True)
class Made:
    """An engine in memory, not proven; `graph` is what it runs, `spec` the one it is run by.

    `engine` is None for one that cannot run here, and `not_run` says why.
    """

    detector: DetectorFolder
    spec: DetectorSpec
    precision: str
    graph: onnx.ModelProto
    plan: Plan
    file: str
    engine_bytes: bytes
    engine: Engine | None
    not_run: str | None


@dataclass(frozen=True)
class Built(Made):
    """An engine within its budget, allowed over it, or built for elsewhere, as it then says."""

    certificate: Certificate


def gather(request: Request, say: Say = silent) -> Materials:
    """What the request is made from; read when it is needed."""
    return Materials(request.detector, request.images, request.calibrate, request.threads, say)


def make(request: Request, materials: Materials, say: Say = silent) -> Made:
    """Build an engine and load it, if it can run here; see `complete` otherwise.

    Raises:
        InputError, UsageError, EnvironmentLacksError: as their messages say.
    """
    backend, builder, plan = _resolve(request)
    not_run = backend.why_not(plan.compute_capability)
    if not_run and request.images:
        raise UsageError(f"--images needs an engine that runs here: {not_run}")
    detector, spec = materials.detector, materials.spec_at(request.keep)
    materials.read_images()
    say("writing the encoder graph")
    graph = _write_graph(request, materials)
    say("building the engine")
    file, engine_bytes = builder.build(serialise(graph), plan, request.options, say)
    engine = None if not_run else backend.load(engine_bytes, threads=request.threads)
    name = precision_name(request)
    return Made(detector, spec, name, graph, plan, file, engine_bytes, engine, not_run)


def build(request: Request, say: Say = silent) -> Built:
    """`make` an engine and prove it.

    Args:
        say: told each step as it begins, for progress.

    Raises:
        GateError: the engine missed its budget and `allow_over_budget` is off.
        InputError, UsageError, EnvironmentLacksError: as their messages say.
    """
    materials = gather(request, say)
    made = make(request, materials, say)
    spec, golden = made.spec, made.detector.golden
    budget = budget_of(request)
    if made.engine is None:
        certificate = unproven(budget, spec.calibration, str(made.not_run))
    else:
        say("comparing with the trained model on golden crops")
        on_golden = compare_golden(made.engine, spec, golden)
        on_images = materials.compare_images(made.engine, spec)
        certificate = judge(on_golden, on_images, budget, spec.calibration)
        if not certificate.passed and not request.allow_over_budget:
            raise GateError(refusal(certificate))
    return Built(**vars(made), certificate=certificate)


def export(request: Request, say: Say = silent) -> Result:
    """Build an engine, prove it, measure it, and write the bundle; errors as of `build`."""
    with hold(request):
        signer = load_signer(request.sign) if request.sign else None
        built = build(request, say)
        latency = None
        if built.engine is not None:
            say("measuring latency")
            latency = measure(
                built.engine,
                built.spec,
                built.detector.golden.crops,
                samples=LATENCY_SAMPLES,
                threads=request.threads,
            )
        return write(request, built, latency, signer)


def hold(request: Request) -> AbstractContextManager[Place]:
    """Try the place of the bundle and hold it; errors as of `reserve`."""
    return reserve(
        request.out, OUTPUT, replace=request.overwrite, inputs=request.inputs, room=request.room
    )


def write(
    request: Request,
    built: Built,
    latency: Latency | None,
    signer: Callable[[bytes], Signature] | None = None,
) -> Result:
    """Write the bundle of an engine that was built and measured; `signer` of `load_signer`."""
    info = BundleInfo(
        kind=KIND,
        version=VERSION,
        spec=built.spec,
        backend=request.backend,
        precision=built.precision,
        engine=built.file,
        device=Device.here(),
        versions={
            "mpft-deploy": __version__,
            "numpy": np.__version__,
            **find_backend(request.backend).versions(),
        },
        sources={
            "detector": request.detector.resolve().name,
            "detector_seal": built.detector.seal,
            "detector_keep": built.detector.spec.keep,
        },
        compute_capability=built.plan.compute_capability,
    )
    write_bundle(
        request.out,
        info,
        built.engine_bytes,
        built.detector.golden,
        built.certificate,
        latency,
        sign=signer,
        replace=request.overwrite,
    )
    return Result(request.out, info, built.certificate, latency, len(built.engine_bytes))


def describe(request: Request) -> dict[str, str]:
    """What `export` would build, by name for people, with all checked that needs no building."""
    with hold(request):
        backend, _, plan = _resolve(request)
    spec = with_keep(read_detector(request.detector).spec, request.keep)
    not_run = backend.why_not(plan.compute_capability)
    return {
        "input patches": f"u8 [batch, {spec.tokens}, {3 * spec.patch**2}]",
        "input positions": f"i32 [batch, {spec.tokens}]",
        "output logit": "f32 [batch]",
        "precision": f"{precision_name(request)}: {RECIPES[request.precision].help}",
        **plan.rows,
        "budget": str(budget_of(request)),
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
    with reserve(bundle.path, OUTPUT, replace=True):
        signer = load_signer(sign) if sign else None
        backend = get_backend(info.backend, info.compute_capability)
        engine = backend.load(bundle.engine, threads=threads)
        budget = Budget.parse(bundle.certificate.budget)
        on_golden = compare_golden(engine, spec, bundle.golden)
        certificate = judge(on_golden, None, budget, spec.calibration)
        crops = bundle.golden.crops
        latency = measure(engine, spec, crops, samples=LATENCY_SAMPLES, threads=threads)
        info = msgspec.structs.replace(
            info, device=Device.here(), versions={**info.versions, **backend.versions()}
        )
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


def _write_graph(request: Request, materials: Materials) -> onnx.ModelProto:
    """The graph in the precision that was asked for, fitted to the calibration images."""
    recipe = RECIPES[request.precision]
    quantised = recipe.quantise is not None
    weights = materials.smoothed if quantised else materials.detector.weights
    ranges = materials.ranges if recipe.static else None
    graph = build_graph(materials.spec_at(request.keep), weights)
    return apply_precision(graph, request.precision, request.float_layers, ranges)


def precision_name(request: Request) -> str:
    """The precision with the layers that it leaves in float, for people and manifests."""
    kept = f" (float: {', '.join(request.float_layers)})" if request.float_layers else ""
    return request.precision + kept


def budget_of(request: Request) -> Budget:
    """The budget that was asked for, or the precision's default."""
    return request.budget or default_budget(request.precision)
