"""Warm-up, blocks and disturbances, on a virtual clock and a machine in a folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import reference
import synthetic

from mpft_deploy.profile.measure import Plan, measure_harness, measure_run, warm_up
from mpft_deploy.profile.records import Run
from mpft_deploy.profile.workload import view_workload


def around(milliseconds: float, seed: int = 0) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield milliseconds * float(np.exp(rng.normal(0, 0.01)))


@pytest.fixture
def clock() -> synthetic.VirtualClock:
    return synthetic.VirtualClock()


@pytest.fixture
def machine(tmp_path: Path, clock: synthetic.VirtualClock) -> synthetic.Machine:
    return synthetic.Machine(tmp_path, clock)


def run(machine: synthetic.Machine, durations: Iterator[float], plan: Plan) -> Run:
    return measure_run(
        synthetic.workload(machine.clock, durations),
        plan,
        machine.watch(),
        scenario="single-stream",
        batch=1,
        threads=2,
        clock=machine.clock,
    )


def test_warm_up_ends_when_queries_no_longer_get_faster(clock: synthetic.VirtualClock) -> None:
    falling = (10 + 20 * 0.98**index for index in itertools.count())
    warmed = warm_up(synthetic.workload(clock, falling), 60, clock)
    assert warmed.steady
    assert 10 + 20 * 0.98**warmed.queries < 1.05 * 10
    at_once = warm_up(synthetic.workload(clock, around(10)), 60, clock)
    assert at_once.steady
    assert at_once.seconds < 1


def test_warm_up_that_never_gets_steady_says_so(clock: synthetic.VirtualClock) -> None:
    growing = (1.01**index for index in itertools.count())
    warmed = warm_up(synthetic.workload(clock, growing), 2, clock)
    assert not warmed.steady


def test_figures_are_those_of_the_engine(machine: synthetic.Machine) -> None:
    result = run(machine, around(10), Plan(samples=400))
    assert result.state == "quiet"
    assert result.used == len(result.sample_ms) >= 400
    p50 = result.latency_ms["p50"]
    assert p50.value == pytest.approx(10, rel=0.005)
    assert p50.low is not None
    assert p50.high is not None
    assert p50.low < 10 < p50.high
    assert result.throughput.value == pytest.approx(100, rel=0.01)
    assert result.latency_ms["p99"].value is not None
    assert result.latency_ms["p99.9"].value is None
    assert "needs 2995" in result.latency_ms["p99.9"].why
    [stage] = result.stages
    assert stage.share == 1
    assert stage.p50_ms == pytest.approx(10, rel=0.005)


def test_disturbed_blocks_are_repeated_and_left_out(machine: synthetic.Machine) -> None:
    fast, slow = around(10), around(20)

    def durations() -> Iterator[float]:
        while True:
            if 1.3 < machine.clock.seconds() < 4:
                machine.other_seconds += 0.02
                yield next(slow)
            else:
                yield next(fast)

    result = run(machine, durations(), Plan(samples=400))
    disturbed = [block for block in result.blocks if block.disturbed]
    assert result.state == "quiet"
    assert disturbed
    assert "other processes used" in disturbed[0].disturbed[0]
    assert disturbed[0].processes["burn er)"] > 0.1
    assert result.used == sum(b.count for b in result.blocks if not b.disturbed) >= 400
    assert result.latency_ms["p99"].value is not None
    assert result.latency_ms["p99"].value < 11


def test_a_machine_that_is_never_quiet_ends_at_the_limit(machine: synthetic.Machine) -> None:
    machine.others = lambda: 1.0
    result = run(machine, around(10), Plan(samples=400, seconds=8))
    assert result.state == "disturbed"
    assert result.blocks[-1].end_s < 10
    assert all(block.disturbed for block in result.blocks)
    assert result.reasons == ("other processes used some cores",)
    assert result.used == len(result.sample_ms)


def test_others_may_use_cores_that_the_engine_leaves_free(machine: synthetic.Machine) -> None:
    machine.others = lambda: 0.4
    before = machine.watch(threads=1).look()
    machine.clock.sleep(2000)
    assert not machine.watch(threads=1).between(before, machine.watch().look()).disturbed
    assert machine.watch(threads=2).between(before, machine.watch().look()).disturbed


def test_what_scatters_too_much_is_not_reported(machine: synthetic.Machine) -> None:
    wild = (float(x) for x in np.random.default_rng(0).lognormal(8, 3, 10_000))
    result = run(machine, wild, Plan(samples=20, seconds=3000, warm_up_seconds=1))
    assert result.latency_ms["mean"].value is None
    told = r"unstable: not reported \(95 % interval \d{3,} to \d{3,}\)"
    assert re.fullmatch(told, result.latency_ms["mean"].why)


def file(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "before", "after", "reason"),
    [
        ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "3", "4", "hot"),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
            "3000000",
            "2000000",
            "clock fell",
        ),
        ("sys/fs/cgroup/cpu.stat", "nr_throttled 1", "nr_throttled 2", "CPU limit"),
    ],
)
def test_throttling_is_seen(
    machine: synthetic.Machine, name: str, before: str, after: str, reason: str
) -> None:
    file(machine.root, "proc/self/cgroup", "0::/\n")
    file(machine.root, name, before)
    watch = machine.watch()
    first = watch.look()
    machine.clock.sleep(1000)
    second = watch.look()
    assert not watch.between(first, second).disturbed
    file(machine.root, name, after)
    machine.clock.sleep(1000)
    [why] = watch.between(second, watch.look()).disturbed
    assert reason in why


def test_harness_costs_what_the_clock_costs(clock: synthetic.VirtualClock) -> None:
    harness = measure_harness(3, 5.0, clock)
    assert harness.timer_resolution_ns == 40
    assert harness.timer_cost_ns == pytest.approx(40)
    assert harness.overhead_us == pytest.approx(0.2, rel=0.01)  # four marks and the loop's own
    assert harness.overhead_share == pytest.approx(0.2e-3 / 5, rel=0.01)


class CopyingEngine:
    """Copies for 1 ms, runs for 5 and copies out for 2, a batch."""

    def __init__(self, clock: synthetic.VirtualClock) -> None:
        self.clock = clock

    def run(self, patches: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self.run_marked(patches, positions, lambda: None)

    def run_marked(
        self, patches: np.ndarray, positions: np.ndarray, mark: Callable[[], None]
    ) -> np.ndarray:
        self.clock.sleep(1)
        mark()
        self.clock.sleep(5)
        mark()
        self.clock.sleep(2)
        return np.zeros(len(patches), np.float32)


def test_copies_stand_apart_from_the_engine(clock: synthetic.VirtualClock) -> None:
    spec = reference.tiny_spec()
    crops = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    work = view_workload(CopyingEngine(clock), spec, crops, count=4, batch=2, clock=clock)
    assert work.stages == ("kernel", "copy in", "engine", "copy out", "calibration")
    marks = work.query(0)
    spent = np.diff(marks) / 1e6
    # Two calls of the engine, since 4 views go in batches of 2.
    assert spent[1:4] == pytest.approx([2, 10, 4], abs=0.01)


def test_inputs_rotate_through_every_crop(clock: synthetic.VirtualClock) -> None:
    seen: list[np.ndarray] = []

    class Recorder:
        def run(self, patches: np.ndarray, positions: np.ndarray) -> np.ndarray:
            seen.append(patches.copy())
            return np.zeros(len(patches), np.float32)

    crops = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    work = view_workload(Recorder(), reference.tiny_spec(), crops, clock=clock)
    for index in range(12):
        work.query(index)
    assert len({patches.tobytes() for patches in seen[:6]}) == 6
    assert all(np.array_equal(a, b) for a, b in zip(seen[:6], seen[6:], strict=True))
