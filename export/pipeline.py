"""Export a detector: build, certify, measure, write.

Without being told to, nothing is written that fails its smoke test or has not kept its budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mpft_deploy import __version__
from mpft_deploy.bundle import (
    KIND,
    VERSION,
    BundleInfo,
    Certificate,
    Comparison,
    Device,
    Latency,
    Precision,
    write_bundle,
)
from mpft_deploy.detector_folder import DetectorFolder, Golden
from mpft_deploy.engine import Backend, Engine, find_backend
from mpft_deploy.engine.certificate import (
    certify,
    not_run,
    run_views,
    smoke_faults,
    smoke_test,
    unequal,
)
from mpft_deploy.engine.native import write_engine
from mpft_deploy.engine.published import Published, narrowest
from mpft_deploy.errors import EnvironmentLacksError, GateError, UsageError
from mpft_deploy.export.builders import Builder, Plan, get_builder
from mpft_deploy.export.materials import Materials, Say
from mpft_deploy.export.recipes import INTEGERS, precision_of, recipe_of
from mpft_deploy.export.refusal import may_be_written, refusal
from mpft_deploy.export.request import NARROWEST, NATIVE, Request, budget_of, hold
from mpft_deploy.extras import require
from mpft_deploy.profile.latency import Stopwatch
from mpft_deploy.signing import Signature, load_signer
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32

if TYPE_CHECKING:
    import onnx

LATENCY_SAMPLES, LATENCY_SECONDS = 100, 2.0
STANDALONE = "onnxruntime"
"""The backend that standalone graphs are checked by."""


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
    """An engine in memory, not proven.

    spec: the one it is run by.
    graph: what it runs, of the backend that standalone graphs are checked by; else None.
    mixes_views: whether a view's logit depends on the views that are judged with it.
    golden: crops with the logits that it should give, by `golden_of`.
    engine: None for one that cannot run here, and `not_run` says why.
    """

    detector: DetectorFolder
    spec: DetectorSpec
    golden: Golden
    golden_of: str
    precision: Precision
    calibrated_on: str | None
    graph: onnx.ModelProto | None
    mixes_views: bool
    plan: Plan
    file: str
    engine_bytes: bytes
    engine: Engine | None
    not_run: str | None

    def run_golden(self) -> F32:
        """Logits f32 [G] of the golden crops, by an engine that runs here."""
        assert self.engine is not None
        return run_views(self.engine, self.spec, self.golden.crops)

    def smoke(self, logits: F32) -> tuple[Comparison, list[str]]:
        """The smoke test, of what `run_golden` gave, and its faults."""
        found = smoke_test(logits, self.golden, self.spec.calibration, self.golden_of)
        return found, smoke_faults(found, self.golden, self.precision)

    def certified(
        self, certificate: Certificate, logits: F32, watch: Stopwatch | None = None
    ) -> Built:
        """What may be written of it. Where logits are defined to the last bit, the bundle's golden
        ones are those of `run_golden`: every device must repeat them."""
        golden = replace(self.golden, logits=logits) if self.precision.defined else self.golden
        return Built(**{**vars(self), "golden": golden}, certificate=certificate, watch=watch)


@dataclass(frozen=True)
class Built(Made):
    """An engine that may be written, with all that is known of it.

    watch: that timed its smoke test; None if that was not done.
    """

    certificate: Certificate
    watch: Stopwatch | None = None


def gather(request: Request, say: Say = silent) -> Materials:
    """What the request is made from; read when it is needed."""
    return Materials(request.detector, request.images, request.calibrate, say)


def make(request: Request, materials: Materials, say: Say = silent) -> Made:
    """Build an engine and load it, if it can run here; see `mpft_deploy.export.complete` otherwise.

    Raises:
        InputError, UsageError, EnvironmentLacksError: as their messages say.
    """
    backend, builder, plan = _resolve(request)
    reason = backend.why_not(plan.compute_capability)
    precision = _precision(request, materials, backend, reason)
    spec = materials.spec_at(request.keep)
    golden, golden_of = materials.golden_at(request.keep)
    materials.read_images()
    say("writing the encoder")
    graph, mixes_views, *model = _write_model(request, materials, spec, precision)
    if request.backend != STANDALONE:  # memory that a builder on a small device wants
        graph = None
    say("building the engine")
    file, engine_bytes = builder.build(model.pop, plan, request.options, say)
    quantised = recipe_of(request.precision).quantised
    return Made(
        detector=materials.detector,
        spec=spec,
        golden=golden,
        golden_of=golden_of,
        precision=precision,
        calibrated_on=materials.calibrated_on if quantised else None,
        graph=graph,
        mixes_views=mixes_views,
        plan=plan,
        file=file,
        engine_bytes=engine_bytes,
        engine=None if reason else backend.load(engine_bytes, threads=request.threads),
        not_run=reason,
    )


def build(request: Request, say: Say = silent) -> Built:
    """`make` an engine, run its smoke test, and judge it by its budget on the images, if there are.

    Args:
        say: told each step as it begins, for progress.

    Raises:
        GateError: it failed the smoke test or has not kept its budget, and `allow_unproven` is off.
        InputError, UsageError, EnvironmentLacksError: as their messages say.
    """
    materials = gather(request, say)
    request = settle(request, materials)
    _require_a_judge(request, materials)
    made = make(request, materials, say)
    if made.engine is None:
        return Built(**vars(made), certificate=not_run(made.spec, str(made.not_run)))
    say("smoke test on the drawn golden crops")
    crops = made.golden.crops
    watch = Stopwatch(made.engine, made.spec, crops, request.threads)
    logits = watch.time(len(crops))
    certificate = prove(request, materials, made, logits)
    if not may_be_written(certificate) and not request.allow_unproven:
        raise GateError(refusal(certificate, made.precision))
    return made.certified(certificate, logits, watch)


def settle(request: Request, materials: Materials) -> Request:
    """The request with a precision in place of NARROWEST."""
    if request.precision != NARROWEST:
        return request
    published, _ = materials.published_at(request.keep)
    return replace(request, precision=narrowest(materials.detector, published, request.budget))


def _require_a_judge(request: Request, materials: Materials) -> None:
    """A UsageError for a budget that nothing is there to judge by."""
    if request.budget is not None and not request.images:
        published, why = _find_published(request, materials)
        if published is None:
            told = f"; {why}" if why else ""
            raise UsageError(f"a --budget is judged on images: add --images FOLDER{told}")


def prove(request: Request, materials: Materials, made: Made, logits: F32) -> Certificate:
    """What is known of an engine: its smoke test, by what `run_golden` gave, and its budget's
    answer by the images, or by what was published of the detector."""
    smoke, faults = made.smoke(logits)
    images = None
    published, not_judged = _find_published(request, materials)
    if materials.views is not None:
        assert made.engine is not None
        images = materials.compare_images(
            made.engine, made.spec, materials.views, made.precision.again
        )
    elif published is not None:
        images = published.compare(made.detector, request.precision)
        golden = published.golden_of(request.precision)[: len(logits)]
        faults += unequal(logits, golden, "the published certificate")
    return certify(
        made.spec,
        smoke,
        faults,
        images,
        budget_of(request),
        published=published.header.network if published is not None else None,
        not_judged=not_judged,
    )


def _find_published(request: Request, materials: Materials) -> tuple[Published | None, str | None]:
    """As `find_published`, where it has a say: of the backend native, without --images."""
    if request.backend != NATIVE or request.images:
        return None, None
    return materials.published_at(request.keep)


def _precision(
    request: Request, materials: Materials, backend: Backend, reason: str | None
) -> Precision:
    """The record of what is computed in; raises for what does not go together.

    Args:
        reason: why the engine cannot run here, or None.
    """
    if reason and request.images:
        raise UsageError(f"--images needs an engine that runs here: {reason}")
    precision = precision_of(request.precision, request.float_layers)
    if request.backend != NATIVE and precision.defined:
        precision = msgspec.structs.replace(precision, own_order=True)
    if not reason and (senseless := backend.why_not_precision(precision)):
        raise EnvironmentLacksError(
            f"backend {request.backend} is not to be used with precision {request.precision} here: "
            f"{senseless}"
        )
    if precision.again:
        precision = msgspec.structs.replace(precision, again=_nearness(request, materials))
    return precision


def _nearness(request: Request, materials: Materials) -> float:
    """`Precision.again`, as the detector's certificate has it."""
    published, why = materials.published_at(request.keep)
    if published is None:
        raise UsageError(
            "--precision twice judges once more what is near a bound between verdicts. How near "
            f"follows from the detector's certificate: {why or 'it has none'}. Make one with "
            "`mpft certify`, or take --precision wide."
        )
    return published.again


def export(request: Request, say: Say = silent) -> Result:
    """Build an engine, prove it, measure it, and write the bundle; errors as of `build`."""
    with hold(request):
        signer = load_signer(request.sign) if request.sign else None
        built = build(request, say)
        latency = None
        if built.watch is not None:
            say("measuring latency")
            latency = built.watch.finish(LATENCY_SAMPLES, LATENCY_SECONDS)
        return write(request, built, latency, signer)


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
        mixes_views=built.mixes_views,
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
            **({"calibrated_on": built.calibrated_on} if built.calibrated_on else {}),
        },
        compute_capability=built.plan.compute_capability,
    )
    write_bundle(
        request.out,
        info,
        built.engine_bytes,
        built.golden,
        built.certificate,
        latency,
        sign=signer,
        replace=request.overwrite,
    )
    return Result(request.out, info, built.certificate, latency, len(built.engine_bytes))


def describe(request: Request) -> dict[str, str]:
    """What `export` would build, by name for people, with all checked that needs no building."""
    materials = gather(request)
    with hold(request):
        request = settle(request, materials)
        _require_a_judge(request, materials)
        backend, _, plan = _resolve(request)
    spec = materials.spec_at(request.keep)
    reason = backend.why_not(plan.compute_capability)
    precision = _precision(request, materials, backend, reason)
    published, why = _find_published(request, materials)
    judged = "by the detector's own certificate" if published is not None else "on --images"
    unjudged = f"none: {why or 'no --images to judge by'}"
    return {
        "input patches": f"u8 [batch, {spec.tokens}, {3 * spec.patch**2}]",
        "input positions": f"i32 [batch, {spec.tokens}]",
        "output logit": "f32 [batch]",
        "precision": f"{precision}: {recipe_of(request.precision).help}",
        **plan.rows,
        "budget": f"{budget_of(request)}, {judged}" if published or request.images else unjudged,
        "runs here": f"no: {reason}" if reason else "yes",
    }


def _resolve(request: Request) -> tuple[Backend, Builder, Plan]:
    """What runs it, what builds it, and how; a UsageError for what does not go together."""
    backend = find_backend(request.backend)
    if request.precision not in backend.PRECISIONS:
        raise UsageError(
            f"backend {request.backend} does not take precision {request.precision}: choose "
            f"{', '.join(backend.PRECISIONS)}"
        )
    builder = get_builder(request.backend)
    plan = builder.plan(request.precision, request.options)
    if request.backend != NATIVE:
        require("export", f"an engine of {request.backend}", "onnx")
    return backend, builder, plan


def _write_model(
    request: Request, materials: Materials, spec: DetectorSpec, precision: Precision
) -> tuple[onnx.ModelProto | None, bool, bytes]:
    """What an engine is built of: a graph, whether it mixes views, and its bytes; or the integers
    of the backend native."""
    stored = materials.detector.stored
    if request.backend == NATIVE:
        return None, False, write_engine(spec, stored, precision)
    from mpft_deploy.export.graph import build_graph, serialise
    from mpft_deploy.export.integers import integers_of
    from mpft_deploy.export.precision import apply_precision, mixes_views

    if request.precision in INTEGERS:
        weights, integers = integers_of(stored)
        graph = build_graph(spec, weights, integers=integers)
        return graph, mixes_views(graph), serialise(graph)
    recipe = recipe_of(request.precision)
    smoothed = materials.smoothed(request.float_layers) if recipe.quantised else None
    weights = smoothed.weights if smoothed else materials.detector.weights
    ranges = smoothed.ranges if smoothed and recipe.static else None
    graph = build_graph(spec, weights)
    graph = apply_precision(graph, request.precision, request.float_layers, ranges)
    return graph, mixes_views(graph), serialise(graph)
