"""Warm up until steady, then time queries in blocks, and repeat the blocks that were disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mpft_deploy.profile import percentiles, system
from mpft_deploy.profile.disturbance import Watch
from mpft_deploy.profile.energy import Meter, energy
from mpft_deploy.profile.records import Block, Estimate, Harness, Run, Scenario, Stage, WarmUp
from mpft_deploy.profile.timer import Now, calibrate, no_garbage_collection, now
from mpft_deploy.profile.wording import number
from mpft_deploy.profile.workload import Workload
from mpft_deploy.statistics import F64, samples_needed

WINDOW_SECONDS, WINDOW_QUERIES = 0.25, 5
STEADY = 0.02
BLOCK_SECONDS, SHORTEST_BLOCK_SECONDS = 1.0, 0.25
"""A block must be long against the grain of the system's clocks, 10 ms."""

FEWEST_SAMPLES = 10
MILLI = 1e6  # nanoseconds

STEADY_RULE = (
    f"two windows in a row, each of {WINDOW_SECONDS} s and {WINDOW_QUERIES} queries or more, whose "
    f"medians differ by {STEADY:.0%} at most, or by no more than their own scatter explains"
)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    samples: quiet queries that are wanted.
    seconds: after which a run ends with what it has.
    warm_up_seconds: after which timing begins, steady or not.
    """

    samples: int = 500
    seconds: float = 60.0
    warm_up_seconds: float = 15.0


@dataclass
class _Collected:
    """Marks of every query, and the blocks that they lie in."""

    marks: list[Sequence[int]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def samples(self, *, quiet: bool) -> int:
        return sum(block.count for block in self.blocks if bool(block.disturbed) != quiet)


def warm_up(workload: Workload, limit_seconds: float, clock: Now = now) -> WarmUp:
    """Run queries until they are steady by STEADY_RULE, or the time is over."""
    begin = clock()
    previous: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
    queries = 0
    while True:
        window: list[int] = []
        opened = clock()
        while len(window) < WINDOW_QUERIES or clock() - opened < WINDOW_SECONDS * 1e9:
            marks = workload.query(queries)
            window.append(marks[-1] - marks[0])
            queries += 1
        present = np.array(window, np.float64)
        seconds = (clock() - begin) / 1e9
        if previous is not None and _alike(previous, present):
            return WarmUp(queries=queries, seconds=seconds, steady=True)
        if seconds > limit_seconds:
            return WarmUp(queries=queries, seconds=seconds, steady=False)
        previous = present


def _alike(
    before: np.ndarray[tuple[int], np.dtype[np.float64]],
    after: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> bool:
    low, high = np.percentile(before, [25, 75]), np.percentile(after, [25, 75])
    # Half the quartiles' distance over √n is near the standard error of a median.
    scatter = np.hypot(*(np.diff(q)[0] / len(x) ** 0.5 for q, x in ((low, before), (high, after))))
    first, second = np.median(before), np.median(after)
    return bool(abs(second - first) <= max(STEADY * first, scatter))


def collect(workload: Workload, plan: Plan, watch: Watch, clock: Now = now) -> _Collected:
    """Time blocks until enough queries were quiet, or the time is over."""
    collected = _Collected()
    with no_garbage_collection():
        begin = clock()
        while True:
            wanted = plan.samples - collected.samples(quiet=True)
            if collected.blocks and (wanted <= 0 or clock() - begin >= plan.seconds * 1e9):
                return collected
            _time_block(workload, wanted, begin, plan, collected, watch, clock)


def _time_block(
    workload: Workload,
    wanted: int,
    begin: int,
    plan: Plan,
    collected: _Collected,
    watch: Watch,
    clock: Now,
) -> None:
    first, marks = len(collected.marks), collected.marks
    before = watch.look()
    opened = clock()
    while True:
        marks.append(workload.query(len(marks)))
        seconds, count = (clock() - opened) / 1e9, len(marks) - first
        enough = count >= wanted and seconds >= SHORTEST_BLOCK_SECONDS
        if enough or (seconds >= BLOCK_SECONDS and count >= 2):
            break
    ended = clock()
    change = watch.between(before, watch.look())
    collected.blocks.append(
        Block(
            first=first,
            count=len(marks) - first,
            start_s=(opened - begin) / 1e9,
            end_s=(ended - begin) / 1e9,
            disturbed=change.disturbed,
            others_cores=None if change.others_cores is None else round(change.others_cores, 3),
            clock_mhz=change.clock_mhz,
            processes=change.processes,
        )
    )


def measure_run(
    workload: Workload,
    plan: Plan,
    watch: Watch,
    *,
    scenario: Scenario,
    batch: int,
    threads: int,
    meter: Meter | None = None,
    no_meter: str = "",
    clock: Now = now,
) -> Run:
    """Warm up, time, and sum up; see `records.Run`."""
    warmed = warm_up(workload, plan.warm_up_seconds, clock)
    if meter is not None:
        meter.start()
    begin = clock()
    collected = collect(workload, plan, watch, clock)
    seconds = (clock() - begin) / 1e9
    joules = meter.stop() if meter is not None else None
    spent = energy(meter, no_meter, joules, seconds, len(collected.marks) * workload.views)

    marks = np.array(collected.marks, np.int64)
    block_of = np.repeat(np.arange(len(collected.blocks)), [b.count for b in collected.blocks])
    quiet = np.array([not block.disturbed for block in collected.blocks])[block_of]
    count = int(quiet.sum())
    # At the end of the time what was quiet is enough if it is most of it.
    disturbed = count < min(plan.samples, max(FEWEST_SAMPLES, len(marks) / 2))
    used = marks if disturbed else marks[quiet]
    times = (used[:, -1] - used[:, 0]) / MILLI
    mean = percentiles.intervals(times, ())["mean"]
    throughput = percentiles.Interval(
        1e3 * workload.views / mean.value,
        1e3 * workload.views / mean.high,
        1e3 * workload.views / max(mean.low, 1e-9),
    )
    reasons = dict.fromkeys(why for block in collected.blocks for why in _kinds(block))
    total = (marks[:, -1] - marks[:, 0]) / MILLI
    return Run(
        scenario=scenario,
        views=workload.views,
        batch=batch,
        threads=threads,
        state="disturbed" if disturbed else "quiet",
        reasons=tuple(reasons) if disturbed else (),
        warm_up=warmed,
        latency_ms=latency(times),
        throughput=_estimate(throughput),
        stages=_stages(workload, used),
        blocks=collected.blocks,
        sample_ms=[round(float(value), 5) for value in total],
        sample_start_s=[round(float(value), 5) for value in (marks[:, 0] - marks[0, 0]) / 1e9],
        sample_block=block_of.tolist(),
        used=len(times),
        peak_memory_mb=system.resident_mb(),
        energy=spent,
    )


def _kinds(block: Block) -> list[str]:
    """What disturbed it, without the figures, which differ from block to block."""
    return [why.split(" (")[0].replace(_number(why), "some") for why in block.disturbed]


def _number(text: str) -> str:
    return next((w for w in text.split() if w.replace(".", "").isdecimal()), "\0")


def latency(times: F64) -> dict[str, Estimate]:
    """Figures of some milliseconds, in the order in which they were measured."""
    found = percentiles.intervals(times)
    names = ["min", "mean", "sd", *map(percentiles.percentile_name, percentiles.PERCENTILES)]
    needed = dict.fromkeys(names, FEWEST_SAMPLES) | {
        percentiles.percentile_name(p): samples_needed(p) for p in percentiles.PERCENTILES
    }
    return {
        name: _estimate(found[name], always=name == "sd")
        if len(times) >= needed[name]
        else Estimate(why=f"too few samples: {len(times)}, needs {needed[name]}")
        for name in names
    }


def _estimate(interval: percentiles.Interval, *, always: bool = False) -> Estimate:
    if interval.unstable and not always:
        low, high = number(interval.low), number(interval.high)
        return Estimate(why=f"unstable: not reported (95 % interval {low} to {high})")
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def _stages(
    workload: Workload, marks: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> list[Stage]:
    parts = np.diff(marks, axis=1) / MILLI
    whole = float(parts.sum(axis=1).mean()) or 1.0
    return [
        Stage(
            name=name,
            mean_ms=float(times.mean()),
            p50_ms=float(np.percentile(times, 50)),
            p90_ms=float(np.percentile(times, 90)),
            share=float(times.mean()) / whole,
        )
        for name, times in zip(workload.stages, parts.T, strict=True)
    ]


def measure_harness(stages: int, median_ms: float, clock: Now = now) -> Harness:
    """Time queries with nothing in them, by the same loop and with as many marks."""
    timer = calibrate(clock)

    def nothing(index: int) -> list[int]:
        return [clock() for _ in range(stages + 1)]

    idle, queries = Workload(("",) * stages, 1, nothing), 2000
    marks: list[Sequence[int]] = []
    with no_garbage_collection():
        begin = clock()
        for index in range(queries):
            marks.append(idle.query(index))
            clock()
        overhead = (clock() - begin) / queries
    return Harness(
        timer_resolution_ns=timer.resolution_ns,
        timer_cost_ns=timer.cost_ns,
        overhead_us=overhead / 1e3,
        overhead_share=overhead / 1e6 / median_ms if median_ms else 0.0,
    )
