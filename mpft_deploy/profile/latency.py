"""Time a bundle's path from view to logit, stage by stage."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Latency
from mpft_deploy.cores import available_cores
from mpft_deploy.engine import Engine
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.profile.disturbance import Snapshot, Watch
from mpft_deploy.profile.timer import no_garbage_collection
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.statistics import bounded, summary
from mpft_deploy.weights import F32

SHORTEST_SECONDS = 0.25
"""Disturbances are looked for in what took as long: the system's clocks tell nothing of less."""

ROUND = 10
"""Samples in a row, which bound the median."""

WARM_UP_RUNS, WARM_UP_SECONDS = 5, 0.5


class Stopwatch:
    """Times of one engine, which may be collected in turns with others."""

    def __init__(
        self, engine: Engine, spec: DetectorSpec, views: npt.NDArray[np.uint8], threads: int = 0
    ) -> None:
        """Warm up.

        Args:
            views: u8 [n, S, S, 3]; rotated, so that no cache flatters.
            threads: what the engine was loaded with, for the record; 0 is all cores.
        """
        self._engine, self._spec, self._threads = engine, spec, threads
        self._singles = [np.ascontiguousarray(view[None]) for view in views]
        self._times: list[tuple[int, int, int]] = []
        self._watch = Watch(threads or available_cores())
        self._before: Snapshot | None = None
        begin = time.perf_counter()
        runs = 0
        while runs < WARM_UP_RUNS or time.perf_counter() - begin < WARM_UP_SECONDS:
            self._once(runs)
            runs += 1

    @property
    def samples(self) -> int:
        """Runs timed so far."""
        return len(self._times)

    def time(self, samples: int) -> F32:
        """Time that many views more, one at a time, from the first on; their logits, f32 [n]."""
        self._before = self._before or self._watch.look()
        logits = []
        with no_garbage_collection():
            for index in range(samples):
                times, logit = self._once(index)
                self._times.append(times)
                logits.append(logit)
        return np.concatenate(logits)

    def finish(self, samples: int, seconds: float) -> Latency:
        """Time by ROUND until there are so many samples, ROUND at least, or it took so long."""
        while not self.samples or (self.samples < samples and self._seconds < seconds):
            self.time(ROUND)
        return self.latency()

    @property
    def _seconds(self) -> float:
        """From the first view that was timed to the last."""
        return (self._times[-1][2] - self._times[0][0]) / 1e9

    def latency(self) -> Latency:
        """Milliseconds of a view over all that was timed."""
        times = np.array(self._times) / 1e6
        percents = bounded(self.samples)
        return Latency(
            samples=self.samples,
            threads=self._threads or available_cores(),
            patchify_ms=summary(times[:, 1] - times[:, 0], percents),
            engine_ms=summary(times[:, 2] - times[:, 1], percents),
            total_ms=summary(times[:, 2] - times[:, 0], percents),
            disturbed=self._disturbed(),
        )

    def _disturbed(self) -> tuple[str, ...]:
        """What disturbed the machine since timing began, without the names of others' programs: it
        goes into bundles."""
        assert self._before is not None
        after = self._watch.look()
        if after.wall - self._before.wall < SHORTEST_SECONDS:
            return ()
        found = self._watch.between(self._before, after).disturbed
        return tuple(reason.partition(" (")[0] for reason in found)

    def _once(self, index: int) -> tuple[tuple[int, int, int], F32]:
        """Nanoseconds at the beginning, with cells packed and at the end; and the view's logit."""
        view = self._singles[index % len(self._singles)]
        start = time.perf_counter_ns()
        cut = texture_patchify(view, self._spec.patch, self._spec.keep_rule, self._spec.keep_seed)
        packed = time.perf_counter_ns()
        logits = self._engine.run(cut.patches, cut.positions)
        return (start, packed, time.perf_counter_ns()), logits


def measure(
    engine: Engine,
    spec: DetectorSpec,
    views: npt.NDArray[np.uint8],
    *,
    samples: int,
    seconds: float,
    threads: int = 0,
) -> Latency:
    """Latency of one view at a time, in milliseconds, after warm-up; see `Stopwatch`.

    Args:
        samples, seconds: see `Stopwatch.finish`.
    """
    return Stopwatch(engine, spec, views, threads).finish(samples, seconds)
