"""Engines of known latency on a virtual clock: nothing waits, and every run is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mpft_deploy.profile.disturbance import Watch
from mpft_deploy.profile.workload import Workload


class VirtualClock:
    """Nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.time = 0

    def __call__(self) -> int:
        self.time += 40  # a reading takes time too
        return self.time

    def seconds(self) -> float:
        return self.time / 1e9

    def sleep(self, milliseconds: float) -> None:
        self.time += round(milliseconds * 1e6)


def workload(clock: VirtualClock, durations: Iterator[float]) -> Workload:
    """One stage, whose milliseconds come from `durations`."""

    def query(index: int) -> list[int]:
        start = clock()
        clock.sleep(next(durations))
        return [start, clock()]

    return Workload(("engine",), 1, query)


def realistic(seed: int, count: int, median_ms: float = 10.0) -> np.ndarray:
    """Latencies as a real engine has them.

    Skewed, slowly drifting (autocorrelated), with outliers, and shifted by a little from one run to
    the next.
    """
    rng = np.random.default_rng(seed)
    drift = np.zeros(count)
    for index in range(1, count):
        drift[index] = 0.95 * drift[index - 1] + rng.normal(0, 0.003)
    skewed = np.exp(rng.normal(0, 0.02, count))
    outliers = np.where(rng.random(count) < 0.01, rng.exponential(0.5, count), 0)
    run_to_run = rng.normal(0, 0.003)
    return median_ms * (1 + run_to_run) * (1 + drift + outliers) * skewed


class Machine:
    """A /proc and /sys in a folder, in which others burn cores at will."""

    def __init__(self, root: Path, clock: VirtualClock, cores: int = 2) -> None:
        self.root, self.clock, self.cores = root, clock, cores
        self.others: Callable[[], float] = lambda: 0.0  # cores kept busy by others
        self.other_seconds, self._seen = 0.0, 0.0
        (root / "proc/4242").mkdir(parents=True)
        (root / "proc/self").mkdir()
        self.write()

    def write(self) -> None:
        """Bring the files up to the clock's time."""
        now = self.clock.seconds()
        self.other_seconds += self.others() * (now - self._seen)
        self._seen = now
        own = now  # the measured process keeps one core busy
        ticks = round(100 * (own + self.other_seconds) / self.cores)
        lines = [f"cpu{core} {ticks} 0 0 0 0 0 0 0 0 0" for core in range(self.cores)]
        (self.root / "proc/stat").write_text("cpu 0 0 0 0 0 0 0 0 0 0\n" + "\n".join(lines) + "\n")
        used = round(100 * self.other_seconds)
        fields = " ".join(["S", *["0"] * 10, str(used), "0", *["0"] * 30])
        (self.root / "proc/4242/stat").write_text(f"4242 (burn er)) {fields}")

    def watch(self, threads: int = 2) -> Watch:
        """A watch over this machine."""
        machine = self

        class Written(Watch):
            def look(self):  # type: ignore[no-untyped-def]
                machine.write()
                return super().look()

        return Written(
            threads,
            root=self.root,
            cores=list(range(self.cores)),
            wall=self.clock.seconds,
            own=self.clock.seconds,
        )
