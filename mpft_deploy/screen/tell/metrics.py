"""Prometheus metrics: timings that the pipeline reports, events, and counts read when asked.

Counts of frames are read from the monitor at each scrape, so nothing is counted in two places.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from mpft_deploy import __version__
from mpft_deploy.extras import require
from mpft_deploy.screen.streams.areas import stream_name
from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    Monitor,
    Sink,
    State,
    StreamEvent,
    StreamStatus,
)
from mpft_deploy.screen.tell.config import TellConfig
from mpft_deploy.screen.tell.stats import Counted
from mpft_deploy.spec import StreamVerdict, Verdict

if TYPE_CHECKING:
    from prometheus_client import Metric

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


class PrometheusMetrics(Metrics):
    """Keeps them, in a registry of its own."""

    def __init__(self) -> None:
        require("dashboard", "[http]", "prometheus_client")
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        histogram = functools.partial(Histogram, registry=self.registry)
        counter = functools.partial(Counter, registry=self.registry)
        said = ["source", "verdict"]
        text = "Time that a stage of the pipeline took."
        self._stage = histogram("mpft_stage_seconds", text, ["stage"], buckets=STAGE_SECONDS)
        text = "Frames that the engine judged at once."
        self._batch = histogram("mpft_batch_frames", text, buckets=BATCHES)
        text = "From a frame's reception to its verdict."
        self._age = histogram("mpft_frame_age_at_verdict_seconds", text, buckets=AGE_SECONDS)
        self._verdicts = counter("mpft_verdicts", "Verdicts of single frames.", said)
        text = "Times that a stream's verdict became this."
        self._changes = counter("mpft_stream_verdicts", text, said)

    def observe_stage(self, stage: str, seconds: float) -> None:
        self._stage.labels(stage).observe(seconds)

    def observe_batch(self, frames: int) -> None:
        self._batch.observe(frames)

    def observe_event(self, event: Event) -> None:
        """An event was sent."""
        if isinstance(event, FrameEvent):
            self._age.observe(event.age_ms / 1000)
            self._verdicts.labels(event.stream, event.verdict).inc()
        elif isinstance(event, StreamEvent):
            self._changes.labels(event.stream, event.verdict).inc()
        elif event.state == "removed":
            for counter in (self._verdicts, self._changes):
                for verdict in {*get_args(Verdict), *get_args(StreamVerdict)}:
                    with contextlib.suppress(KeyError):  # it was never that
                        counter.remove(event.stream, verdict)

    def watch(self, monitor: Monitor, sinks: Iterable[Sink], engine: Mapping[str, str]) -> None:
        """Show these as well, from now on: they are read whenever somebody asks."""
        self._monitor, self._sinks = monitor, sinks
        self._engine = {"version": __version__, "python": platform.python_version(), **engine}
        self.registry.register(self)

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Nothing: else registering would collect, before there is anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        count = functools.partial(_family, CounterMetricFamily)
        gauge = functools.partial(_family, GaugeMetricFamily)
        monitor, sources = self._monitor, self._monitor.statuses()
        sinks = [(sink.name, sink.stats()) for sink in self._sinks if isinstance(sink, Counted)]
        yield InfoMetricFamily("mpft_engine", "What judges.", value=self._engine)
        yield gauge("alive", "Whether the scheduler turns.", "", [(monitor.alive(),)])
        yield gauge("ready", "Whether verdicts can come.", "", [(monitor.ready(),)])
        lost = [(monitor.lost_events,)]
        yield count("events_lost", "Events that no sink took in time.", "", lost)
        for name, key, help_text in (
            ("frames_received", "received", "Frames received."),
            ("frames_screened", "screened", "Frames judged."),
            ("frames_gated", "gated", "Frames that had not changed."),
            ("reconnects", "reconnects", "Connections made anew."),
        ):
            yield count(name, help_text, "source", [(s.source, getattr(s, key)) for s in sources])
        dropped = [(s.source, cause, n) for s in sources for cause, n in s.dropped.items()]
        yield count("frames_dropped", "Frames that were not judged.", "source cause", dropped)
        states = [(s.source, one, one == s.state) for s in sources for one in get_args(State)]
        yield gauge("source_state", "1 for the state that a source is in.", "source state", states)
        streams: list[tuple[str, StreamStatus]] = [(s.source, s) for s in sources]
        streams += [(stream_name(s.source, r.region), r) for s in sources for r in s.regions]
        evidence = [(name, one.evidence) for name, one in streams]
        yield gauge("evidence", "Log-likelihood ratio, above 0 for generated.", "source", evidence)
        drifted = [(name, one.drifted) for name, one in streams]
        text = "Whether its camera does not show any more what it was taught by."
        yield gauge("drifted", text, "source", drifted)
        ages = [(s.source, s.frame_age_ms / 1000) for s in sources if s.frame_age_ms is not None]
        yield gauge("last_frame_age_seconds", "Age of the last judged frame.", "source", ages)
        for kind, key, help_text in (
            (count, "delivered", "What arrived."),
            (count, "failures", "Attempts that failed."),
            (gauge, "waiting", "What is to be delivered."),
            (gauge, "disk_bytes", "Size on disk."),
        ):
            yield kind(
                f"sink_{key}", help_text, "sink", [(s, getattr(one, key)) for s, one in sinks]
            )
        dropped = [(sink, cause, n) for sink, one in sinks for cause, n in one.dropped.items()]
        yield count("sink_dropped", "What is lost.", "sink cause", dropped)


def open_metrics(config: TellConfig) -> Metrics:
    """What the pipeline tells its timings to; without `[http]` it forgets them."""
    return Metrics() if config.http is None else PrometheusMetrics()


def _family(
    kind: Callable[..., Any],
    name: str,
    help_text: str,
    labels: str,
    samples: Iterable[tuple[Any, ...]],
) -> Any:
    """A metric; each sample has the labels' values, and its own."""
    family = kind(f"mpft_{name}", help_text, labels=labels.split())
    for *values, number in samples:
        family.add_metric(values, float(number))
    return family
