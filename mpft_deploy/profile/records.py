"""What `mpft profile` writes: one JSON file a run, whose schema is docs/profile.schema.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from mpft_deploy.bundle import Device
from mpft_deploy.errors import InputError
from mpft_deploy.files import display, read_small
from mpft_deploy.spec import MALFORMED, Record, convert_record, record_schema

VERSION: Literal[1] = 1

Scenario = Literal["single-stream", "multi-stream", "offline"]
Verdict = Literal["pass", "fail", "undecided"]


class Estimate(Record, frozen=True, omit_defaults=True):
    """A figure with its 95 % interval, or why there is none to report.

    Attributes:
        value, low, high: absent where the figure is not reported.
        why: the reason then: too few samples, or unstable.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


class Stage(Record, frozen=True):
    """One part of a query, in milliseconds a query; `share` of the mean of the whole."""

    name: str
    mean_ms: float
    p50_ms: float
    p90_ms: float
    share: float


class WarmUp(Record, frozen=True):
    """What ran before timing; `steady` says whether it ended by the rule or by the time limit."""

    queries: int
    seconds: float
    steady: bool


class Block(Record, frozen=True, omit_defaults=True):
    """Consecutive queries, between two looks at the machine.

    Attributes:
        first, count: which of the run's queries.
        start_s, end_s: since the start of the run.
        disturbed: what disturbed it; empty for a quiet block.
        others_cores: cores that other processes kept busy.
        clock_mhz: mean clock of the cores at its end, where the system tells.
        processes: the busiest others, with the cores that each used.
    """

    first: int
    count: int
    start_s: float
    end_s: float
    disturbed: tuple[str, ...] = ()
    others_cores: float | None = None
    clock_mhz: float | None = None
    processes: dict[str, float] = msgspec.field(default_factory=dict)


class Energy(Record, frozen=True, omit_defaults=True):
    """Energy of the quiet and disturbed blocks alike, or why it is unknown."""

    source: str = ""
    millijoules_per_view: float | None = None
    watts: float | None = None
    why_not: str = ""


LATENCIES = ("min", "mean", "sd", "p50", "p90", "p99", "p99.9")


class Run(Record, frozen=True):
    """One scenario at one setting.

    Attributes:
        views: a query: 1 in single-stream, one of each stream in multi-stream, a batch in offline.
        batch: views in one call of the engine.
        state: `disturbed` if too few quiet samples were had within the time limit; figures are then
            of all samples, and gates do not decide by them.
        reasons: what disturbed it.
        latency_ms: of a query: "min", "mean", "sd", "p50", "p90", "p99", "p99.9".
        throughput: views a second, back to back.
        stages: parts of a query, in order.
        sample_ms, sample_start_s, sample_block: every timed query, its start and its block's index.
        used: how many of them the figures rest on: those of the quiet blocks, unless `disturbed`.
        peak_memory_mb: largest resident memory of the process so far; None where unknown.
    """

    scenario: Scenario
    views: int
    batch: int
    threads: int
    state: Literal["quiet", "disturbed"]
    reasons: tuple[str, ...]
    warm_up: WarmUp
    latency_ms: dict[str, Estimate]
    throughput: Estimate
    stages: list[Stage]
    blocks: list[Block]
    sample_ms: list[float]
    sample_start_s: list[float]
    sample_block: list[int]
    used: int
    peak_memory_mb: float | None
    energy: Energy

    def __post_init__(self) -> None:
        if missing := [name for name in LATENCIES if name not in self.latency_ms]:
            raise ValueError(f"latency_ms lacks {missing[0]}")
        if not len(self.sample_ms) == len(self.sample_start_s) == len(self.sample_block):
            raise ValueError("sample_ms, sample_start_s and sample_block differ in length")
        if not set(self.sample_block) <= set(range(len(self.blocks))):
            raise ValueError("sample_block names a block that is not there")
        if min(self.sample_ms, default=1.0) <= 0:
            raise ValueError("sample_ms has a query that took no time")


class Harness(Record, frozen=True):
    """What measuring itself costs.

    Attributes:
        timer_resolution_ns: smallest step of the timer that was seen.
        timer_cost_ns: of one reading.
        overhead_us: of one query with nothing to measure.
        overhead_share: of the median query.
    """

    timer_resolution_ns: int
    timer_cost_ns: float
    overhead_us: float
    overhead_share: float


class Environment(Record, frozen=True):
    """The machine and the software at the start of a run.

    Attributes:
        cores: that this process may use.
        cpu_limit_cores: by its control group; None for no limit.
        governor, clock_mhz, load: as the system tells; `unknown` says why for those it does not.
        gpus: name, clock in MHz and temperature in °C of each.
    """

    device: Device
    cores: int
    cpu_limit_cores: float | None
    memory_limit_mb: float | None
    governor: str | None
    clock_mhz: float | None
    load: float | None
    kernel: str
    python: str
    versions: dict[str, str]
    commit: str
    gpus: list[dict[str, Any]]
    unknown: dict[str, str]


class Subject(Record, frozen=True):
    """The bundle that was measured; seal and engine by SHA-256."""

    name: str
    seal: str
    engine_sha256: str
    backend: str
    precision: str
    keep: str
    depth: int
    images: str
    image_count: int


class Layer(Record, frozen=True):
    """One part of the network, as deep as its path goes.

    Attributes:
        path: such as ("block 7", "attention", "qkv").
        ms: mean of a run.
        operators: kinds of operators in it.
        flops, bytes: multiply-adds counted twice, and bytes of weights and activations at least
            moved; 0 where not counted.
        bound: by what: "arithmetic", "memory" or "overhead".
        attained: share of the roof above it.
    """

    path: tuple[str, ...]
    ms: float
    operators: tuple[str, ...]
    flops: int
    bytes: int
    precision: str
    bound: str
    attained: float


class Roof(Record, frozen=True):
    """What this device was measured to do at most.

    Attributes:
        gigabytes_per_second: of a large copy, read and written bytes together.
        gigaflops: of a large matmul, by precision.
    """

    gigabytes_per_second: float
    gigaflops: dict[str, float]


class Layers(Record, frozen=True):
    """Where the engine's time goes; `unattributed_ms` is what no operator accounts for."""

    source: str
    runs: int
    engine_ms: float
    unattributed_ms: float
    layers: list[Layer]
    roof: Roof | None


class Gate(Record, frozen=True, omit_defaults=True):
    """The answer of `--slo` or `--fail`; `more` samples would decide it, where that is known."""

    gate: str
    verdict: Verdict
    reason: str
    more: int | None = None


class Profile(Record, frozen=True):
    """The result of `mpft profile`."""

    kind: Literal["profile"]
    version: Literal[1]
    created: str
    mpft_version: str
    subject: Subject
    environment: Environment
    harness: Harness
    runs: list[Run]
    layers: Layers | None = None
    gates: list[Gate] = msgspec.field(default_factory=list)


def json_schema() -> bytes:
    """The published schema, as docs/profile.schema.json holds it."""
    return msgspec.json.format(msgspec.json.encode(record_schema(Profile)), indent=2) + b"\n"


def read_profile(path: Path) -> Profile:
    """Read a result; an InputError if it is none."""
    try:
        payload = msgspec.json.decode(read_small(path))
    except MALFORMED:
        raise InputError(f"{display(path)} is no result of mpft profile: it is not JSON") from None
    if not isinstance(payload, dict) or payload.get("kind") != "profile":
        raise InputError(f"{display(path)} is no result of mpft profile")
    profile: Profile = convert_record(payload, Profile, display(path))
    return profile
