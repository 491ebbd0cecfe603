"""One thread that takes the newest frames in turn, gates them, judges them and decides.

Sources hold their newest frame alone, so nothing can pile up: a machine that is too slow sees fewer
frames of each source, evenly, and none that is old. The source that was served longest ago comes
next; frames that can wait coded are decoded shortly before (`decoding`). A batch is what waits when
the engine is free: one frame where it keeps up, more where it does not, which it judges in less
time than one by one. Of a source with regions each is gated, judged and decided by itself, all in
the source's turn.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

import numpy as np

from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.evidence.ring import Looks
from mpft_deploy.screen.screener import Screener
from mpft_deploy.screen.streams.areas import WHOLE, Areas, stream_name
from mpft_deploy.screen.streams.attempt import Captured, Coded, SourceLostError
from mpft_deploy.screen.streams.channel import Channel, Kept, Stream
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.config import Config
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.decoding import MOST, Decoding, Pace, mean
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.runs import movement
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.task import HUNG, Task
from mpft_deploy.screen.tell.metrics import Metrics
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

IDLE = 0.2
"""Seconds that the thread sleeps at most: how soon it notices that it should stop."""

PATIENCE = 5.0
"""Seconds that others wait for the thread to do something for them."""

_NOTHING = np.zeros(0, np.int32)
"""Scores of what is not judged."""


@dataclass(frozen=True)
class _Work:
    """A frame, and what is to be judged of it: the views of some of its source's streams."""

    channel: Channel
    frame: Captured
    parts: list[tuple[Stream, Prepared]]


class Scheduler:
    """Judges the frames of many sources; see the module.

    Its thread owns frames, decisions and the engine: others have it do what concerns these.

    Args:
        screener: its engine is called from one thread alone.
        keep: whether to keep the last judged frame of each source, for pictures.
        evidence: stream verdicts whose events come with the picture that decided.
        metrics: told how long the stages took. Of a frame: "wait", from receipt to its turn, and
            "prepare", crop and patches; of a batch: "engine", and "decide", with its events.
    """

    def __init__(
        self,
        screener: Screener,
        config: Config,
        emitter: Emitter,
        clock: Clock,
        *,
        keep: bool = False,
        evidence: Collection[StreamVerdict] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._screener, self._config = screener, config
        self._clock, self._keep = clock, keep or bool(evidence)
        self._emitter, self._evidence = emitter, evidence
        self._metrics = metrics or Metrics()
        self.channels: tuple[Channel, ...] = ()
        """To be served, in the order of the configuration."""
        self._turn = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._pace = Pace(screener.batch_size, config.screen.max_age)
        self.turned = clock.monotonic()
        """When the thread last went round, by the monotonic clock."""
        self.idle = True
        """Whether no frame is between its source and its event."""
        self._task = Task("engine", self._run)
        self._asked: deque[tuple[Future[object], Callable[[], object]]] = deque()

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread: without the engine there is nothing to do."""
        return self._task.failure

    def alive(self, now: float) -> bool:
        """Whether its thread turns."""
        return self.failure is None and now - self.turned < HUNG

    def wake(self) -> None:
        """A frame waits, or was decoded."""
        self._wake.set()

    def channel(self, source: Source, kept: Looks | None = None) -> Channel:
        areas = source.settings.areas
        channel = Channel(source, areas, self._emitter, self._evidence, kept)
        self._set_areas(channel, areas)
        return channel

    def reload(self, channels: Sequence[Channel], gone: Sequence[Channel], config: Config) -> None:
        """Serve the sources of another configuration: what is new is decided afresh, and told.

        Args:
            channels: of each source of the configuration.
            gone: of those before that are not among them; nothing is told of them later.

        Raises:
            TimeoutError: the thread does not come to it.
        """
        before = self._config
        self.channels, self._config = tuple(channels), config

        def change() -> None:
            for channel in gone:
                channel.restart({one.region for one in channel.streams} | {""})
            for channel, settings in zip(channels, config.sources, strict=True):
                areas = settings.areas
                names = [stream_name(settings.name, one.region) for one in channel.streams]
                taught = [(before.baselines.get(n), config.baselines.get(n)) for n in names]
                if channel.areas != areas:
                    kept = {""} | {one.name for one in areas.regions}
                    channel.restart({one.region for one in channel.streams} - kept)
                    self._set_areas(channel, areas)
                elif before.decision != config.decision or any(a != b for a, b in taught):
                    channel.restart()
                    for stream in channel.streams:
                        stream.decision = self._new_decision(channel, stream.region)

        self._ask(change)

    def start(self) -> None:
        self._task.start()

    def stop(self, timeout: float) -> bool:
        """Finish the frame at hand and end; whether it did in that many seconds."""
        end = time.monotonic() + timeout
        self._stop.set()
        self._wake.set()
        if self._task.is_alive():
            self._task.join(timeout)
        decoding = [one.thread for c in self.channels if (one := c.decoding) is not None]
        for thread in decoding:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in (self._task, *decoding))

    def _ask(self, work: Callable[[], object]) -> None:
        """Have the thread do something between what it does anyway.

        Raises:
            TimeoutError: it did not come to it in PATIENCE seconds.
        """
        if self._task.ident is None:
            work()  # it has not begun
            return
        future = Future[object]()
        self._asked.append((future, work))
        self._wake.set()
        try:
            future.result(PATIENCE)
        except FutureTimeout:
            future.cancel()
            raise TimeoutError from None

    def _answer(self) -> None:
        """Do what others ask for; by the thread alone."""
        while self._asked:
            future, work = self._asked.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

    def _set_areas(self, channel: Channel, areas: Areas) -> None:
        channel.areas, channel.sides = areas, None
        places = [(one.name, one.box) for one in areas.regions] or [("", WHOLE)]
        channel.streams = tuple(
            Stream(region, box, self._new_decision(channel, region)) for region, box in places
        )

    def _new_decision(self, channel: Channel, region: str) -> StreamDecision:
        baseline = self._config.baselines.get(stream_name(channel.source.name, region))
        calibration, regions = self._screener.calibration, len(channel.areas.regions)
        return StreamDecision(self._config.decision, calibration, baseline, max(1, regions))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.turned = self._clock.monotonic()
            self._answer()
            self.idle = False
            found = self._round()
            self.idle = all(channel.decoding is None for channel in self.channels)
            if not found:
                self._wake.wait(IDLE)
                self._wake.clear()
        for channel in self.channels:
            channel.source.tally.drop("stopped", int(channel.decoding is not None))
        self._answer()

    def _round(self) -> bool:
        """Judge one batch; whether there was a frame at all."""
        batch: list[_Work] = []
        found = False
        self._decode_ahead()
        for channel in self._in_turn():
            if len(batch) == self._pace.batch:
                break
            if (frame := self._take(channel)) is not None:
                found = True
                if (work := self._prepare(channel, frame)) is not None:
                    batch.append(work)
        if batch:
            self._decode_ahead()
            self._judge(batch)
        return found

    def _in_turn(self) -> list[Channel]:
        """All sources, that which was served longest ago first."""
        return sorted(self.channels, key=lambda channel: channel.served)

    def _decode_ahead(self) -> None:
        """Have decoded what will be judged next."""
        waiting, under_way = list[Channel](), 0
        for channel in self._in_turn():
            if (decoding := channel.decoding) is not None:
                decoding.check()
                under_way += decoding.result is None
                if isinstance(decoding.result, str):
                    channel.source.tally.drop(decoding.result)
                    channel.decoding = None
            if channel.decoding is not None or channel.source.waiting:
                waiting.append(channel)
        for place, channel in enumerate(waiting[: self._pace.ahead]):
            if channel.decoding is None and under_way < MOST:
                self._decode(channel, place)
                under_way += channel.decoding is not None

    def _decode(self, channel: Channel, place: int) -> None:
        """Begin to decode a source's frame, unless it would be too old at its place."""
        frame = channel.source.take(Coded)
        if frame is None:
            return
        age = self._clock.monotonic() - frame.received + place * self._pace.judging
        if age <= self._pace.oldest:
            with contextlib.suppress(RuntimeError):  # the system allows no further thread
                channel.decoding = Decoding(channel.source, frame, self._clock, self.wake)
                return
        frame.attempt.see()
        channel.source.tally.drop("overload")

    def _take(self, channel: Channel) -> Captured | None:
        """The decoded frame of a source, if there is one."""
        if channel.decoding is None:
            return channel.source.take(Captured)
        if not isinstance(frame := channel.decoding.result, Captured):
            return None
        self._pace.decoding = mean(self._pace.decoding, channel.decoding.seconds)
        channel.decoding = None
        if channel.source.state == "paused":
            channel.source.tally.drop("stopped")
            return None
        return frame

    def _prepare(self, channel: Channel, frame: Captured) -> _Work | None:
        """Cut a source's frame; None if it is not to be judged, which is counted."""
        source = channel.source
        now = self._clock.monotonic()
        self._metrics.observe_stage("wait", now - frame.received)
        if now - frame.received > self._pace.oldest:
            source.tally.drop("stale")
            return None
        # One whose frame was too old keeps its place, or it would wait for another whole round.
        self._turn += 1
        channel.served = self._turn
        started = time.perf_counter()
        try:
            parts = self._look(channel, frame, now)
        except SourceLostError:
            source.tally.drop("disconnected")  # with the process that has the frame
            return None
        except Exception:
            # Whatever a library makes of one source's frame, the others must be judged.
            source.tally.drop("damaged")
            if not channel.faulty:
                channel.faulty = True
                logger.exception(
                    "%s: a frame cannot be cut; the next ones are counted", source.name
                )
            return None
        finally:
            self._metrics.observe_stage("prepare", time.perf_counter() - started)
        return _Work(channel, frame, parts) if parts else None

    def _look(self, channel: Channel, frame: Captured, now: float) -> list[tuple[Stream, Prepared]]:
        """What is to be judged of a frame; nothing, which is counted, if nothing moved."""
        source, shot, settings = channel.source, frame.shot, channel.source.settings
        if channel.sides != (shot.height, shot.width):
            channel.fit(self._screener.spec.crop, shot.height, shot.width)
        # A window that moves shows other texture in a picture that does not: by the first of all,
        # the centre, it is told whether the picture moved.
        firsts = [
            (one, one.cut(shot, 0, self._screener)) for one in channel.streams if not one.blocked
        ]
        for stream in channel.streams:
            if stream.blocked:
                changes = stream.decision.add(0.0, _NOTHING, frame.received, stream.blocked)
                channel.tell(stream, changes)
        if not firsts:
            source.tally.drop("masked")
            return []
        source.look(np.concatenate([one.patches.scores.ravel() for _, one in firsts]), now)
        parts = []
        for stream, first in firsts:
            scores = first.patches.scores
            if stream.judged is not None and settings.gate:
                last, when = stream.judged
                if now - when < settings.look and movement(last, scores) < settings.gate:
                    continue
            if stream.looks:
                first = stream.cut(shot, stream.looks, self._screener)
            parts.append((stream, first))
            stream.judged = (scores, now)
            if self._screener.policy == "moving":
                stream.looks += 1
        if not parts:
            source.tally.gated += 1
        return parts

    def _judge(self, batch: Sequence[_Work]) -> None:
        started = time.perf_counter()
        judged = iter(
            self._screener.judge([prepared for work in batch for _, prepared in work.parts])
        )
        done = time.perf_counter()
        self._pace.judging = mean(self._pace.judging, (done - started) / len(batch))
        self._metrics.observe_stage("engine", done - started)
        self._metrics.observe_batch(len(batch))
        for work in batch:
            channel, received = work.channel, work.frame.received
            now, date = self._clock.monotonic(), self._clock.time()
            channel.age = now - received
            channel.source.tally.screen(now)
            if self._keep:
                looked = [prepared for _, prepared in work.parts]
                channel.shown = Kept(work.frame.shot, looked, date)
            for stream, prepared in work.parts:
                channel.decide(stream, received, date - channel.age, prepared, next(judged))
        self._metrics.observe_stage("decide", time.perf_counter() - done)
