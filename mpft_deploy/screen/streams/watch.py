"""Screening streams: sources, scheduler and sinks put together; answers whoever monitors them."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from mpft_deploy.extras import require
from mpft_deploy.screen.evidence.ring import Looks, Recording, Ring
from mpft_deploy.screen.screener import Screener
from mpft_deploy.screen.streams.areas import stream_name
from mpft_deploy.screen.streams.channel import Channel, Stream
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.config import Config
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.processes import ReaderProcesses, open_processes
from mpft_deploy.screen.streams.readers import find_reader
from mpft_deploy.screen.streams.records import (
    Monitor,
    Picture,
    RegionStatus,
    Sink,
    SourceStatus,
    StreamEvent,
)
from mpft_deploy.screen.streams.scheduler import Scheduler
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.tally import Load
from mpft_deploy.screen.tell.config import TABLES
from mpft_deploy.screen.tell.metrics import Metrics
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

SLACK = 10.0
"""Seconds for which evidence is kept beyond what a package has: others may be packed first."""

NO_CLIP = "nothing that came coded by FFmpeg is kept of that time"

TICK = 0.25
"""Seconds between two calls of `tick`."""


class Watch(Monitor):
    """Watches sources until it is stopped.

    Args:
        screener: judges the frames.
        config: sources, deciding, screening.
        sink: where events go; closed by `stop`.
        keep: whether to keep the last judged frames, for `picture`.
        evidence: stream verdicts whose events come with the picture that decided.
        metrics: told how long stages take.

    Attributes:
        started: whether it was; sources may be added before.
    """

    def __init__(
        self,
        screener: Screener,
        config: Config,
        sink: Sink | None = None,
        *,
        clock: Clock | None = None,
        keep: bool = False,
        evidence: Collection[StreamVerdict] = (),
        metrics: Metrics | None = None,
    ) -> None:
        require("video", "a stream", "av")
        self._clock = clock or Clock()
        self._emitter = Emitter(sink, self._clock)
        self._config = config
        self.scheduler = Scheduler(
            screener,
            config,
            self._emitter,
            self._clock,
            keep=keep,
            evidence=evidence,
            metrics=metrics,
        )
        self._load = Load()
        self.started = False
        self.processes = open_processes(config.screen.readers)
        """Where sources are read apart from this process; None where none may be."""
        self.scheduler.channels = tuple(self._channels(config.sources))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to come: every source ended, or a worker failed."""
        channels = self.scheduler.channels
        ended = all(c.source.state == "ended" and not c.source.waiting for c in channels)
        # In this order: a frame that is taken is waited for until it was judged.
        idle = bool(channels) and ended and self.scheduler.idle
        return self.failure is not None or idle

    @property
    def failure(self) -> BaseException | None:
        """What ended a thread that cannot be replaced: of the engine, of telling, of a sink."""
        return self.scheduler.failure or self._emitter.failure

    def without_frames(self) -> dict[str, str]:
        """Sources that never showed a frame, and why."""
        return {
            source.name: source.reason or source.state
            for source in (channel.source for channel in self.scheduler.channels)
            if not source.tally.connections and source.state != "paused"
        }

    @property
    def lost_events(self) -> int:
        return self._emitter.lost

    def tell(self, sink: Sink) -> None:
        """Where events go; before the start, for sinks that ask this for pictures."""
        self._emitter.sink = sink

    def start(self) -> None:
        self._emitter.start()
        self.scheduler.start()
        self.started = True
        self._run_sources()

    def tick(self) -> None:
        """Look after the sources; to be called about every TICK seconds."""
        now = self._clock.monotonic()
        for channel in self.scheduler.channels:
            channel.source.check(now)
        self._load.check([c.source.tally for c in self.scheduler.channels], now)

    def reload(self, config: Config) -> None:
        """Take another configuration: sources that are the same in both go on undisturbed."""
        old, before = self.scheduler.channels, self._config
        self._config = config
        channels = self._channels(config.sources)
        going = [channel for channel in old if channel not in channels]
        for channel in going:
            channel.source.stop()
        try:
            # Before the new ones begin: one may have the name of one that goes.
            self.scheduler.reload(channels, going, config)
        except TimeoutError:
            logger.error("the engine does not answer; what was removed is not told")
        if changed := _changed_tables(before, config):
            logger.warning("%s: read at the start alone; restart for what changed there", changed)
        if self.started:
            self._run_sources()
        was = {channel.source.name for channel in old}
        now = {channel.source.name for channel in channels}
        logger.info(
            "configuration taken: sources: %d, %d added, %d removed, %d changed",
            len(now),
            len(now - was),
            len(was - now),
            len(now & was) - (len(old) - len(going)),
        )

    def stop(self, timeout: float = 1.5) -> bool:
        """Finish what is at hand, tell it, and end; whether every thread ended in that time."""
        end = time.monotonic() + timeout
        sources = [channel.source for channel in self.scheduler.channels]
        for source in sources:
            source.stop()
        clean = self.scheduler.stop(timeout / 3)
        for source in sources:
            clean = source.join(end - timeout / 3 - time.monotonic()) and clean
        if self.processes is not None:
            self.processes.close()
        self._emitter.close(max(0.1, end - time.monotonic()))
        return clean

    def statuses(self) -> list[SourceStatus]:
        now = self._clock.monotonic()
        overload = self._load.reason
        return [_status(channel, now, overload) for channel in self.scheduler.channels]

    def picture(self, source: str) -> Picture | None:
        kept = self._of(source).shown
        return None if kept is None else kept.picture(source)

    def take_evidence(self, event: StreamEvent) -> Picture | None:
        """The picture that decided, for a sink while it is told of that event."""
        return self._emitter.picture

    def record(self, source: str, begin: float, end: float) -> Recording:
        """What is kept of a span, by the monotonic clock; from any thread.

        Raises:
            KeyError: an unknown name.
        """
        channel = self._of(source)
        ring, kept = channel.source.ring, channel.kept
        coded = None if ring is None else ring.cut(begin, end)
        streams = {stream_name(source, one.region) for one in channel.streams}
        taught = self._config.baselines
        return Recording(
            address=channel.source.address.shown,
            baselines={name: taught[name] for name in streams & taught.keys()},
            looks=[] if kept is None else kept.cut(begin, end),
            coded=coded,
            no_clip="" if coded else ring.trouble if ring and ring.trouble else NO_CLIP,
        )

    def alive(self) -> bool:
        now = self._clock.monotonic()
        return (
            self.scheduler.alive(now)
            and self._emitter.alive(now)
            and all(channel.source.alive for channel in self.scheduler.channels)
        )

    def ready(self) -> bool:
        wanted = [c.source for c in self.scheduler.channels if c.source.state != "paused"]
        return self.alive() and (not wanted or any(source.state == "live" for source in wanted))

    def _of(self, source: str) -> Channel:
        """A source's; a KeyError for an unknown name."""
        for channel in self.scheduler.channels:
            if channel.source.name == source:
                return channel
        raise KeyError(source)

    def _run_sources(self) -> None:
        """Start those that are new, and pause and resume as the configuration says."""
        for channel in self.scheduler.channels:
            source, reason = channel.source, self._config.paused.get(channel.source.name)
            if reason is not None:
                if (source.state, source.reason) != ("paused", reason):
                    source.pause(reason)
            elif source.state == "paused":
                source.resume()
            elif not source.started:
                source.start()

    def _channels(self, sources: Sequence[SourceSettings]) -> list[Channel]:
        """Of sources: those that there are, and new ones for the others."""
        known = {_bare(channel.source.settings): channel for channel in self.scheduler.channels}
        several = sum(settings.target.network for settings in sources) > 1
        apart = several or self._config.screen.readers == "processes"
        processes = self.processes if apart else None
        return [known.get(_bare(one)) or self._channel(one, processes) for one in sources]

    def _channel(self, settings: SourceSettings, processes: ReaderProcesses | None) -> Channel:
        wanted, ring, kept = self._config.tell.evidence, None, None
        if wanted is not None:
            seconds = wanted.before + wanted.after + SLACK
            ring, kept = Ring(seconds, wanted.memory), Looks(seconds, wanted.memory)
        read, wake = find_reader(settings.target, processes), self.scheduler.wake
        source = Source(settings, read, self._emitter, self._clock, wake, ring)
        return self.scheduler.channel(source, kept)


def _bare(settings: SourceSettings) -> SourceSettings:
    """Without what changes while it goes on."""
    return msgspec.structs.replace(settings, region=(), mask=(), hours=(), group="")


def _changed_tables(old: Config, new: Config) -> str:
    """Names of the tables that differ, of those that only a restart reads."""
    pairs = {"screen": (old.screen, new.screen)}
    pairs |= {name: (getattr(old.tell, name), getattr(new.tell, name)) for name in TABLES}
    return ", ".join(f"[{name}]" for name, (before, after) in pairs.items() if before != after)


def _status(channel: Channel, now: float, overload: str) -> SourceStatus:
    source, tally = channel.source, channel.source.tally
    fps_in, fps_screened = tally.rates(now)
    retry_at = source.retry_at  # once: its thread may be about to try
    height, width = channel.sides or (None, None)
    lead = channel.lead
    return SourceStatus(
        source=source.name,
        address=source.address.shown,
        state=source.state,
        **_decided(lead),
        fps_in=fps_in,
        fps_screened=fps_screened,
        frame_age_ms=None if channel.age is None else 1e3 * channel.age,
        received=tally.received,
        screened=tally.screened,
        gated=tally.gated,
        dropped=tally.dropped(),
        reconnects=tally.reconnects,
        width=width,
        height=height,
        codec=source.codec,
        reason=source.reason or channel.trouble,
        retry_in=None if retry_at is None else max(0.0, retry_at - now),
        overload=overload,
        region=lead.region,
        regions=tuple(
            RegionStatus(region=one.region, box=one.box, **_decided(one))
            for one in channel.streams
            if one.region
        ),
        masks=channel.areas.masks,
    )


def _decided(stream: Stream) -> dict[str, Any]:
    """The fields of a `StreamStatus`."""
    decision = stream.decision
    return {
        "verdict": decision.verdict,
        "evidence": decision.evidence,
        "probability": stream.probability,
        "independent": decision.independent,
        "undecided": decision.undecided,
        "looking": decision.looking,
        "looked_for": decision.looked_for,
        "generated_from": decision.bounds[0],
        "no_sign_from": decision.bounds[1],
        "reach": decision.reach,
        "drifted": decision.drifted,
    }
