"""Where the engine's time goes, in the network's own terms, and what bounds each part of it."""

from __future__ import annotations

from pathlib import Path

from mpft_deploy.bundle import Bundle
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.profile.layer_names import Place
from mpft_deploy.profile.operators import PROFILERS, OperatorTimes, tensorrt_operators
from mpft_deploy.profile.records import Layer, Layers, Roof
from mpft_deploy.profile.roofline import bound, measure_roof
from mpft_deploy.profile.work import Work, count_work

RUNS = 50


def profile_layers(bundle: Bundle, *, threads: int = 0, trtexec: Path | None = None) -> Layers:
    """Times of the layers of a bundle's engine at batch 1; its backend has a profiler here.

    Args:
        trtexec: what `trtexec --exportProfile` wrote, for the backends of TensorRT.

    Raises:
        InputError: that is none.
    """
    if trtexec is not None:
        return fold(tensorrt_operators(trtexec), {}, None)
    spec = bundle.spec
    cut = texture_patchify(bundle.golden.crops[:1], spec.patch, spec.keep_rule, spec.keep_seed)
    feeds = {"patches": cut.patches, "positions": cut.positions}
    backend, engine = bundle.info.backend, bytes(bundle.engine)
    times = PROFILERS[backend](engine, feeds, threads=threads, runs=RUNS)
    roof = measure_roof(backend, threads)
    return fold(times, count_work(engine), roof)


def fold(times: OperatorTimes, work: dict[Place, Work], roof: Roof | None) -> Layers:
    """Sum up operators by their place, in the order in which they first run."""
    spent: dict[Place, float] = {}
    kinds: dict[Place, dict[str, None]] = {}
    for operator in times.operators:
        spent[operator.place] = spent.get(operator.place, 0.0) + operator.ms
        if operator.ms:
            kinds.setdefault(operator.place, {})[operator.kind] = None
    layers = []
    for place, milliseconds in spent.items():
        own = work.get(place, Work())
        why, attained = ("", 0.0)
        if roof is not None and (own.flops or own.bytes):
            why, attained = bound(own.flops, own.bytes, milliseconds, own.precision, roof)
        layers.append(
            Layer(
                path=place,
                ms=milliseconds,
                operators=tuple(kinds.get(place, {})),
                flops=own.flops,
                bytes=own.bytes,
                precision=own.precision,
                bound=why,
                attained=attained,
            )
        )
    return Layers(
        source=times.source,
        runs=times.runs,
        engine_ms=times.engine_ms,
        unattributed_ms=times.engine_ms - sum(spent.values()),
        layers=layers,
        roof=roof,
    )
