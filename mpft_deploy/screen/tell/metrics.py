"""Prometheus metrics: timings that the pipeline reports, events, and counts read when asked.

Counts of frames are read from the monitor at each scrape, so nothing is counted in two places.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from mpft_deploy import __version__
from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.extras import how_to_install
from mpft_deploy.screen.streams.areas import stream_name
from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    Monitor,
    Sink,
    SourceStatus,
    State,
    StreamEvent,
)
from mpft_deploy.screen.tell.stats import Counted

if TYPE_CHECKING:
    from prometheus_client import Counter, Metric

STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
AGE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What the pipeline reports to; this one forgets it."""

    def observe_stage(self, stage: str, seconds: float) -> None:
        """A stage took that long: decode, score, engine, decide, …"""

    def observe_batch(self, frames: int) -> None:
        """The engine judged that many frames at once."""

    def observe_event(self, event: Event) -> None:
        """An event was sent."""


class PrometheusMetrics(Metrics):
    """Keeps them, in a registry of its own."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ModuleNotFoundError:
            raise EnvironmentLacksError(
                f"[http] needs prometheus-client: {how_to_install('dashboard')}"
            ) from None
        self.registry = CollectorRegistry()
        self._counted: dict[str, set[tuple[Counter, str]]] = {}  # what there is of each source
        self._stage = Histogram(
            "mpft_stage_seconds",
            "Time that a stage of the pipeline took.",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "mpft_batch_frames",
            "Frames that the engine judged at once.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self._age = Histogram(
            "mpft_frame_age_at_verdict_seconds",
            "From a frame's reception to its verdict.",
            buckets=AGE_SECONDS,
            registry=self.registry,
        )
        self._verdicts = Counter(
            "mpft_verdicts",
            "Verdicts of single frames.",
            ["source", "verdict"],
            registry=self.registry,
        )
        self._changes = Counter(
            "mpft_stream_verdicts",
            "Times that a stream's verdict became this.",
            ["source", "verdict"],
            registry=self.registry,
        )

    def observe_stage(self, stage: str, seconds: float) -> None:
        self._stage.labels(stage).observe(seconds)

    def observe_batch(self, frames: int) -> None:
        self._batch.observe(frames)

    def observe_event(self, event: Event) -> None:
        if isinstance(event, FrameEvent):
            self._age.observe(event.age_ms / 1000)
            self._count(self._verdicts, event)
        elif isinstance(event, StreamEvent):
            self._count(self._changes, event)
        elif event.state == "removed":
            for counter, verdict in self._counted.pop(event.stream, ()):
                counter.remove(event.stream, verdict)

    def _count(self, counter: Counter, event: FrameEvent | StreamEvent) -> None:
        counter.labels(event.stream, event.verdict).inc()
        self._counted.setdefault(event.stream, set()).add((counter, event.verdict))

    def watch(self, monitor: Monitor, sinks: Collection[Sink], engine: Mapping[str, str]) -> None:
        """Show these as well, from now on."""
        self.registry.register(_Collector(monitor, sinks, engine))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class _Collector:
    """Reads monitor and sinks when it is asked."""

    def __init__(
        self, monitor: Monitor, sinks: Collection[Sink], engine: Mapping[str, str]
    ) -> None:
        self._monitor, self._sinks = monitor, sinks
        self._engine = {"version": __version__, "python": platform.python_version(), **engine}

    def describe(self) -> list[Metric]:
        """Nothing: else registering would collect, before there is anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        yield InfoMetricFamily("mpft_engine", "What judges.", value=self._engine)
        for name, help_text, value in (
            ("mpft_alive", "Whether the scheduler turns.", self._monitor.alive()),
            ("mpft_ready", "Whether verdicts can come.", self._monitor.ready()),
        ):
            yield GaugeMetricFamily(name, help_text, value=float(value))
        lost = self._monitor.lost_events
        yield CounterMetricFamily("mpft_events_lost", "Events that no sink took in time.", lost)
        yield from _of_sources(self._monitor.statuses())
        yield from _of_sinks(self._sinks)


def _of_sources(statuses: list[SourceStatus]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, help_text, counts in (
        ("received", "Frames received.", [(s.source, s.received) for s in statuses]),
        ("screened", "Frames judged.", [(s.source, s.screened) for s in statuses]),
        ("gated", "Frames that had not changed.", [(s.source, s.gated) for s in statuses]),
    ):
        family = CounterMetricFamily(f"mpft_frames_{name}", help_text, labels=["source"])
        for source, count in counts:
            family.add_metric([source], count)
        yield family
    dropped = CounterMetricFamily(
        "mpft_frames_dropped", "Frames that were not judged.", labels=["source", "cause"]
    )
    reconnects = CounterMetricFamily("mpft_reconnects", "Connections made anew.", labels=["source"])
    state = GaugeMetricFamily(
        "mpft_source_state", "1 for the state that a source is in.", labels=["source", "state"]
    )
    evidence = GaugeMetricFamily(
        "mpft_evidence", "Log-likelihood ratio, above 0 for generated.", labels=["source"]
    )
    age = GaugeMetricFamily(
        "mpft_last_frame_age_seconds", "Age of the last judged frame.", labels=["source"]
    )
    for status in statuses:
        for cause, count in status.dropped.items():
            dropped.add_metric([status.source, cause], count)
        reconnects.add_metric([status.source], status.reconnects)
        for one in get_args(State):
            state.add_metric([status.source, one], float(one == status.state))
        evidence.add_metric([status.source], status.evidence)
        for region in status.regions:
            evidence.add_metric([stream_name(status.source, region.region)], region.evidence)
        if status.frame_age_ms is not None:
            age.add_metric([status.source], status.frame_age_ms / 1000)
    yield from (dropped, reconnects, state, evidence, age)


def _of_sinks(sinks: Collection[Sink]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["sink"]
    delivered = CounterMetricFamily("mpft_sink_delivered", "What arrived.", labels=labels)
    failures = CounterMetricFamily("mpft_sink_failures", "Attempts that failed.", labels=labels)
    dropped = CounterMetricFamily("mpft_sink_dropped", "What is lost.", labels=["sink", "cause"])
    waiting = GaugeMetricFamily("mpft_sink_waiting", "What is to be delivered.", labels=labels)
    disk = GaugeMetricFamily("mpft_sink_disk_bytes", "Size on disk.", labels=labels)
    for sink in sinks:
        if not isinstance(sink, Counted):
            continue
        stats = sink.stats()
        delivered.add_metric([sink.name], stats.delivered)
        failures.add_metric([sink.name], stats.failures)
        for cause, count in stats.dropped.items():
            dropped.add_metric([sink.name, cause], count)
        waiting.add_metric([sink.name], stats.waiting)
        disk.add_metric([sink.name], stats.disk_bytes)
    yield from (delivered, failures, dropped, waiting, disk)
