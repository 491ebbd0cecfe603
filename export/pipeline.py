"""Export a detector: build, certify, measure, write. Nothing is written that missed its budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    write_bundle,
)
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine import Engine, get_backend
from mpft_deploy.errors import GateError, InputError
from mpft_deploy.export.certificate import (
    Budget,
    compare,
    compare_golden,
    default_budget,
    judge,
    run_views,
)
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.files import check_free, display
from mpft_deploy.images import decode_image, find_images, views
from mpft_deploy.profile.latency import measure
from mpft_deploy.spec import DetectorSpec

LATENCY_SAMPLES = 100
BATCH = 16


@dataclass(frozen=True)
class Request:
    """What to export, how, and by which budget; `budget` None takes the precision's default."""

    detector: Path
    out: Path
    backend: str = "onnxruntime"
    precision: str = "fp32"
    float_layers: tuple[str, ...] = ()
    budget: Budget | None = None
    images: tuple[Path, ...] = ()
    threads: int = 0
    overwrite: bool = False
    allow_over_budget: bool = False


@dataclass(frozen=True)
class Result:
    """What an export wrote."""

    out: Path
    info: BundleInfo
    certificate: Certificate
    latency: Latency
    engine_bytes: int


def export(request: Request, say: Callable[[str], None] = lambda text: None) -> Result:
    """Build an engine, prove it, measure it, and write the bundle.

    Args:
        say: told each step as it begins, for progress.

    Raises:
        GateError: the engine missed its budget and `allow_over_budget` is off; nothing is written.
        InputError, UsageError, EnvironmentLacksError: as their messages say.
    """
    check_free(request.out, replace=request.overwrite)
    backend = get_backend(request.backend)
    detector = read_detector(request.detector)
    spec = detector.spec
    budget = request.budget or default_budget(request.precision)

    say("writing the encoder graph")
    graph = build_graph(spec, detector.weights)
    engine_bytes = serialise(apply_precision(graph, request.precision, request.float_layers))
    engine = backend.load(engine_bytes, threads=request.threads)

    say(f"comparing with the trained model on {len(detector.golden.logits)} golden crops")
    golden = compare_golden(engine, spec, detector.golden)
    images = None
    if request.images:
        reference = backend.load(serialise(graph), threads=request.threads)
        images = _compare_images(engine, reference, spec, request.images, say)
    certificate = judge(golden, images, budget, spec.calibration)
    if not certificate.passed and not request.allow_over_budget:
        raise GateError(refusal(certificate))

    say("measuring latency")
    latency = measure(
        engine, spec, detector.golden.crops, samples=LATENCY_SAMPLES, threads=request.threads
    )
    info = BundleInfo(
        kind=KIND,
        version=VERSION,
        spec=spec,
        backend=request.backend,
        precision=_precision_name(request),
        engine="engine.onnx",
        device=Device.here(),
        versions={"mpft-deploy": __version__, "numpy": np.__version__, **backend.versions()},
        sources={"detector": request.detector.resolve().name, "detector_seal": detector.seal},
    )
    write_bundle(
        request.out,
        info,
        engine_bytes,
        detector.golden,
        certificate,
        latency,
        replace=request.overwrite,
    )
    return Result(request.out, info, certificate, latency, len(engine_bytes))


def refusal(certificate: Certificate, worst: int = 8) -> str:
    """Why an engine was refused, with the images that it changed most."""
    shown = certificate.images if certificate.images is not None else certificate.golden
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


def _compare_images(
    engine: Engine,
    reference: Engine,
    spec: DetectorSpec,
    folders: Sequence[Path],
    say: Callable[[str], None],
) -> Comparison:
    paths = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--images {display(folder)} is not a folder")
        paths += list(find_images(folder))
    if not paths:
        raise InputError(f"no image under {', '.join(map(display, folders))}")
    crops, before, after = [], [], []
    for start in range(0, len(paths), BATCH):
        say(f"comparing with the float32 graph: image {start + 1} of {len(paths)}")
        batch = np.concatenate(
            [views(decode_image(path), spec.crop.size) for path in paths[start : start + BATCH]]
        )
        crops.append(batch)
        before.append(run_views(reference, spec, batch))
        after.append(run_views(engine, spec, batch))
    return compare(
        np.concatenate(before),
        np.concatenate(after),
        spec.calibration,
        names=[display(path) for path in paths],
        views=np.concatenate(crops),
        reference_name="float32 graph on ONNX Runtime",
    )


def _precision_name(request: Request) -> str:
    kept = f" (float32: {', '.join(request.float_layers)})" if request.float_layers else ""
    return request.precision + kept
