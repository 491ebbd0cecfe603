"""From a bundle to a `Profile`: every scenario, batch and number of threads that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from mpft_deploy import __version__
from mpft_deploy.bundle import Bundle
from mpft_deploy.cores import available_cores
from mpft_deploy.engine import Engine, load_engine
from mpft_deploy.engine.on_device import DeviceEngine
from mpft_deploy.errors import InputError
from mpft_deploy.extras import require
from mpft_deploy.files import display, sha256
from mpft_deploy.finding import find_images
from mpft_deploy.images import load_views
from mpft_deploy.profile.disturbance import Watch
from mpft_deploy.profile.energy import find_meter
from mpft_deploy.profile.environment import describe_environment
from mpft_deploy.profile.measure import Plan, measure_harness, measure_run
from mpft_deploy.profile.operators import require_profiler
from mpft_deploy.profile.records import Layers, Profile, Run, Scenario, Subject
from mpft_deploy.profile.workload import Workload, file_workload, view_workload

MOST_IMAGES = 256


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        images: a folder whose files are decoded in each query; None takes the golden crops, which
            are views already.
        scenarios: in this order.
        streams: of multi-stream.
        batches: of offline, one run each.
        threads: of the engine, one set of runs each; 0 is all cores.
        layers: whether to look into the engine too.
        trtexec: see `mpft_deploy.profile.layers`.
    """

    bundle: Bundle
    plan: Plan = field(default_factory=Plan)
    images: Path | None = None
    scenarios: Sequence[Scenario] = ("single-stream",)
    streams: int = 4
    batches: Sequence[int] = (8,)
    threads: Sequence[int] = (0,)
    layers: bool = False
    trtexec: Path | None = None
    say: Callable[[str], None] = field(default=lambda text: None)


def profile_bundle(request: Request) -> Profile:
    """Measure; see `Request`.

    Raises:
        InputError: the folder has no image that can be read.
        EnvironmentLacksError: the backend's layers cannot be looked into here.
    """
    bundle = request.bundle
    if request.layers:
        if request.trtexec is None:
            require_profiler(bundle)
        require("export", "--layers", "onnx", "onnxruntime")
    environment = describe_environment(bundle)
    paths = _images(request.images, bundle.spec.crop.size)
    # Layers of a file are read first, for it may be none; others are timed last.
    layers = _layers(request) if request.trtexec else None
    runs = []
    for threads in request.threads:
        engine = load_engine(bundle, threads=threads)
        for scenario, views, batch in _settings(request):
            request.say(f"{scenario}, batch {batch}, threads {threads or available_cores()}")
            workload = _workload(engine, bundle, paths, views, batch)
            gpu = isinstance(engine, DeviceEngine)
            runs.append(_run(request, workload, scenario, batch, threads, gpu=gpu))
    layers = layers or _layers(request)
    median = runs[0].latency_ms["p50"].value or runs[0].latency_ms["mean"].value or 0.0
    info = bundle.info
    return Profile(
        kind="profile",
        version=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        mpft_version=__version__,
        subject=Subject(
            name=display(bundle.path.name or bundle.path),
            seal=bundle.seal,
            engine_sha256=sha256(bundle.engine),
            backend=info.backend,
            precision=str(info.precision),
            keep=info.spec.keep,
            depth=info.spec.depth,
            images="golden crops" if request.images is None else display(request.images.name),
            image_count=len(paths) if paths else len(bundle.golden.crops),
        ),
        environment=environment,
        harness=measure_harness(len(runs[0].stages), median),
        runs=runs,
        layers=layers,
    )


def _settings(request: Request) -> Iterator[tuple[Scenario, int, int]]:
    """Scenario, views a query and views in a call of the engine."""
    for scenario in request.scenarios:
        if scenario == "single-stream":
            yield scenario, 1, 1
        elif scenario == "multi-stream":
            yield scenario, request.streams, request.streams
        else:
            for batch in request.batches:
                yield scenario, batch, batch


def _workload(
    engine: Engine, bundle: Bundle, paths: Sequence[Path], views: int, batch: int
) -> Workload:
    if paths:
        return file_workload(engine, bundle.spec, paths, count=views, batch=batch)
    return view_workload(engine, bundle.spec, bundle.golden.crops, count=views, batch=batch)


def _run(
    request: Request, workload: Workload, scenario: Scenario, batch: int, threads: int, *, gpu: bool
) -> Run:
    used = 1 if gpu else threads or available_cores()
    meter, no_meter = find_meter(gpu=gpu)
    return measure_run(
        workload,
        request.plan,
        Watch(used, gpu=gpu),
        scenario=scenario,
        batch=batch,
        threads=used,
        meter=meter,
        no_meter=no_meter,
    )


def _layers(request: Request) -> Layers | None:
    """Times of the layers, where they were asked for."""
    if not request.layers:
        return None
    from mpft_deploy.profile.layers import profile_layers

    request.say("layers and roofline")
    return profile_layers(request.bundle, threads=request.threads[0], trtexec=request.trtexec)


def _images(folder: Path | None, size: int) -> list[Path]:
    """Up to MOST_IMAGES of a folder, evenly spread, each of which can be read."""
    if folder is None:
        return []
    found = list(find_images(folder)) if folder.is_dir() else []
    if not found:
        raise InputError(f"{display(folder)}: no images in this folder; name one that has some")
    chosen = found[:: -(-len(found) // MOST_IMAGES)]
    for path in chosen:
        load_views([path], size)  # an unreadable one is an error now, not in the midst of timing
    return chosen
