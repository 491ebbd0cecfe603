"""Time a bundle's path from view to logit, stage by stage."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Latency
from mpft_deploy.cores import available_cores
from mpft_deploy.engine import Engine
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.statistics import summary

WARM_UP_RUNS, WARM_UP_SECONDS = 5, 0.5


def measure(
    engine: Engine,
    spec: DetectorSpec,
    views: npt.NDArray[np.uint8],
    *,
    samples: int,
    threads: int = 0,
) -> Latency:
    """Latency of one view at a time, in milliseconds, after warm-up.

    Args:
        views: u8 [n, S, S, 3]; rotated, so that no cache flatters.
        samples: timed runs.
        threads: what the engine was loaded with, for the record; 0 is all cores.
    """
    singles = [np.ascontiguousarray(view[None]) for view in views]
    rule, seed = spec.keep_rule, spec.keep_seed

    def once(index: int) -> tuple[int, int, int]:
        start = time.perf_counter_ns()
        cut = texture_patchify(singles[index % len(singles)], spec.patch, rule, seed)
        packed = time.perf_counter_ns()
        engine.run(cut.patches, cut.positions)
        return start, packed, time.perf_counter_ns()

    begin = time.perf_counter()
    runs = 0
    while runs < WARM_UP_RUNS or time.perf_counter() - begin < WARM_UP_SECONDS:
        once(runs)
        runs += 1
    with _no_garbage_collection():
        times = np.array([once(index) for index in range(samples)]) / 1e6
    return Latency(
        samples=samples,
        threads=threads or available_cores(),
        patchify_ms=summary(times[:, 1] - times[:, 0]),
        engine_ms=summary(times[:, 2] - times[:, 1]),
        total_ms=summary(times[:, 2] - times[:, 0]),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
