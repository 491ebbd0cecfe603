"""One thread that takes the newest frames in turn, gates them, judges them and decides.

Sources hold their newest frame alone, so nothing can pile up: a machine that is too slow sees fewer
frames of each source, evenly, and none that is old. The source that was served longest ago comes
next; frames that can wait coded are decoded shortly before (`decoders`). A batch is what waits when
the engine is free: one frame where it keeps up, more where it does not, which it judges in less
time than one by one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TypeVar

from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.screener import Judged, Screener
from mpft_deploy.screen.streams.attempt import Captured
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.decision import Change, StreamDecision
from mpft_deploy.screen.streams.decoders import Decoders
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.novelty import I32, movement
from mpft_deploy.screen.streams.pace import Pace
from mpft_deploy.screen.streams.pictures import Evidence, Kept
from mpft_deploy.screen.streams.pixels import Cutter, Shot
from mpft_deploy.screen.streams.records import FrameEvent, Picture, SourceEvent, StreamEvent
from mpft_deploy.screen.streams.settings import DecisionSettings, ScreenSettings
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.task import HUNG, Task
from mpft_deploy.screen.tell.metrics import Metrics
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

T = TypeVar("T")

IDLE = 0.2
"""Seconds that the thread sleeps at most: how soon it notices that it should stop."""

PATIENCE = 5.0
"""Seconds that whoever asks for a picture waits for the thread to make it."""


@dataclass
class Channel:
    """A source and what its frames have told so far.

    served: the turn in which it had its last one.
    looks: how many of its frames were judged, where the window moves from one to the next.
    judged: scores of the frame that was judged last, and when that was.
    faulty: whether a frame could not be cut, which is told once.
    shown: the frame that was judged last, or the picture of it once somebody asked for one.
    """

    source: Source
    decision: StreamDecision
    served: int = 0
    looks: int = 0
    judged: tuple[I32, float] | None = None
    shown: Kept | Picture | None = None
    faulty: bool = False
    sides: tuple[int, int] | None = None
    probability: float | None = None
    age: float | None = None


@dataclass(frozen=True)
class _Work:
    channel: Channel
    frame: Captured
    prepared: Prepared


class Scheduler:
    """Judges the frames of many sources; see the module.

    Its thread owns frames, decisions and the engine: others have it do what concerns these.

    Args:
        screener: its engine is called from one thread alone.
        baselines: of the cameras that were taught, by the name of their source.
        keep: whether to keep the last judged frame of each source, for pictures.
        evidence: stream verdicts of which the picture that decided is made, as `evidence`.
        metrics: told how long the stages took. Of a frame: "wait", from receipt to its turn, and
            "prepare", crop and patches; of a batch: "engine", and "decide", with its events.
    """

    def __init__(
        self,
        screener: Screener,
        settings: ScreenSettings,
        decision: DecisionSettings,
        emitter: Emitter,
        clock: Clock,
        *,
        baselines: Mapping[str, Baseline] | None = None,
        keep: bool = False,
        evidence: Collection[StreamVerdict] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._screener, self._settings, self._decision = screener, settings, decision
        self._baselines = baselines or {}
        self._emitter, self._clock, self._keep = emitter, clock, keep
        self._wanted, self.evidence = evidence, Evidence()
        self._asked: deque[Callable[[], None]] = deque()
        self._metrics = metrics or Metrics()
        self._cutter = Cutter()
        self._channels: tuple[Channel, ...] = ()
        self._turn = 0
        self._busy_since: float | None = None  # end of a batch behind which frames waited
        self._wake, self._stop = threading.Event(), threading.Event()
        self._pace = Pace(screener.batch_size, settings.max_age)
        self._decoders = Decoders(lambda: self._channels, clock, self._pace)
        self.turned = clock.monotonic()
        """When the thread last went round, by the monotonic clock."""
        self.idle = True
        """Whether no frame is between its source and its event."""
        self._task = Task("engine", self._run)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """In the order of the configuration."""
        return self._channels

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread: without the engine there is nothing to do."""
        return self._task.failure

    def alive(self, now: float) -> bool:
        """Whether its threads turn."""
        return self.failure is None and now - self.turned < HUNG and self._decoders.alive

    def wake(self) -> None:
        """A frame waits to be judged."""
        self._wake.set()

    def wake_decoders(self) -> None:
        """A frame waits to be decoded."""
        self._decoders.wake()

    def check(self, now: float) -> None:
        """Notice decoders that hang; called a few times a second."""
        self._decoders.check(now)

    def channel(self, source: Source) -> Channel:
        """A channel for a new source."""
        return Channel(source, self._new_decision(source))

    def set_channels(self, channels: Sequence[Channel]) -> None:
        """The sources to serve from now on."""
        self._channels = tuple(channels)

    def decide_by(self, decision: DecisionSettings, baselines: Mapping[str, Baseline]) -> None:
        """Decide every stream anew, by other settings and baselines, and tell what that changes."""
        self._decision, self._baselines = decision, baselines

        def decide() -> None:
            for channel in self._channels:
                self._tell(channel, channel.decision.restart("restart"))
                channel.decision = self._new_decision(channel.source)

        self._ask(decide)

    def remove(self, channels: Sequence[Channel]) -> None:
        """Tell that sources are gone, which `set_channels` left out; they tell nothing later."""

        def tell() -> None:
            for channel in channels:
                self._tell(channel, channel.decision.restart("restart"))
                source = channel.source
                self._emitter.emit(
                    SourceEvent, source=source.name, state="removed", previous=source.state
                )

        self._ask(tell)

    def start(self) -> None:
        """Begin to judge."""
        self._decoders.start()
        self._task.start()

    def stop(self, timeout: float) -> bool:
        """Finish the frame at hand and end; whether it did in that many seconds."""
        end = time.monotonic() + timeout
        self._stop.set()
        self._wake.set()
        clean = self._decoders.stop(timeout)
        if self._task.is_alive():
            self._task.join(max(0.0, end - time.monotonic()))
        return clean and not self._task.is_alive()

    def picture(self, channel: Channel) -> Picture | None:
        """The last judged frame of a source, from any thread.

        None before the first one, and where the engine's thread takes too long to make it.
        """
        shown = channel.shown
        if not isinstance(shown, Kept):
            return shown
        try:
            return self._ask(lambda: self._show(channel))
        except TimeoutError:
            return None

    def _ask(self, work: Callable[[], T]) -> T:
        """Have the engine's thread do something between two batches.

        Raises:
            TimeoutError: it did not come to it in PATIENCE seconds.
        """
        if self._task.ident is None:
            return work()  # it has not begun
        future = Future[T]()

        def answer() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

        self._asked.append(answer)
        self._wake.set()
        try:
            return future.result(PATIENCE)
        except FutureTimeout:
            future.cancel()
            raise TimeoutError from None

    def _answer(self) -> None:
        while self._asked:
            self._asked.popleft()()

    def _show(self, channel: Channel) -> Picture | None:
        """The picture of the last judged frame, made only once; None if that cannot be."""
        if isinstance(channel.shown, Kept):
            channel.shown = channel.shown.picture(channel.source.name)
        return channel.shown

    def _new_decision(self, source: Source) -> StreamDecision:
        baseline = self._baselines.get(source.name)
        return StreamDecision(self._decision, self._screener.calibration, baseline)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.turned = self._clock.monotonic()
            self._answer()
            self.idle = False
            found = self._round()
            self.idle = True
            if not any(channel.source.waiting() is not None for channel in self._channels):
                self._busy_since = None
            if not found:
                self._wake.wait(IDLE)
                self._wake.clear()
        self._answer()

    def _round(self) -> bool:
        """Judge one batch; whether there was a frame at all."""
        batch: list[_Work] = []
        views, began = 0, self._clock.monotonic()
        found = False
        while views < self._screener.batch_size and len(batch) < self._pace.batch:
            channel = self._next(batch)
            if channel is None:
                left = began + self._settings.wait - self._clock.monotonic()
                if not batch or left <= 0 or self._stop.is_set():
                    break
                self._wake.wait(left)
                self._wake.clear()
                continue
            found = True
            work = self._prepare(channel)
            if work is not None:
                batch.append(work)
                views += len(work.prepared.views)
        if batch:
            self._judge(batch)
            now = self._clock.monotonic()
            self._pace.turn.add((now - (self._busy_since or began)) / len(batch))
            self._busy_since = now
        return found

    def _next(self, batch: Sequence[_Work]) -> Channel | None:
        """Of the sources that are ready and not in the batch yet, the one served longest ago."""
        ready = [
            channel
            for channel in self._channels
            if channel.source.ready and all(channel is not work.channel for work in batch)
        ]
        return min(ready, key=lambda channel: channel.served, default=None)

    def _prepare(self, channel: Channel) -> _Work | None:
        """Take a source's frame and cut it; None if it is not to be judged, which is counted."""
        source, settings = channel.source, channel.source.settings
        frame = source.take()
        if frame is None:
            return None
        self._decoders.wake()  # the next is one place nearer
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
            # A window that moves shows other texture in a picture that does not: by the first of
            # all, the centre, it is told whether the picture moved.
            prepared = self._cut(frame.shot, 0)
            scores = prepared.patches.scores
            source.look(scores, now)
            if channel.judged is not None and settings.gate:
                last, when = channel.judged
                if now - when < settings.look and movement(last, scores) < settings.gate:
                    source.tally.gate()
                    return None
            if channel.looks:
                prepared = self._cut(frame.shot, channel.looks)
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
        channel.judged = (scores, now)
        if self._screener.policy == "moving":
            channel.looks += 1
        return _Work(channel, frame, prepared)

    def _cut(self, shot: Shot, turn: int) -> Prepared:
        """The views of a picture; only one window is converted where that is all it takes."""
        sides = (shot.height, shot.width)
        window = self._screener.window(*sides, turn)
        if window is None:
            return self._screener.prepare(shot.whole())
        return self._screener.prepare(shot.cut(window, self._cutter), sides, turn)

    def _judge(self, batch: Sequence[_Work]) -> None:
        started = time.perf_counter()
        judged = self._screener.judge([work.prepared for work in batch])
        done = time.perf_counter()
        self._pace.judging.add((done - started) / len(batch))
        self._metrics.observe_stage("engine", done - started)
        self._metrics.observe_batch(len(batch))
        for work, result in zip(batch, judged, strict=True):
            self._decide(work, result)
        self._metrics.observe_stage("decide", time.perf_counter() - done)

    def _decide(self, work: _Work, judged: Judged) -> None:
        """What a judged frame means for its stream, as events."""
        channel, frame, judgement = work.channel, work.frame, judged.judgement
        now = self._clock.monotonic()
        sides = (frame.shot.height, frame.shot.width)
        changes = []
        if channel.sides not in (None, sides):
            changes += channel.decision.restart("scene change")
        channel.sides = sides
        changes += channel.decision.add(
            judgement.logit, work.prepared.patches.scores, frame.received, judgement.reason
        )
        channel.age = now - frame.received
        channel.probability = judgement.probability
        channel.source.tally.screen(now)
        if self._keep or self._wanted:
            channel.shown = Kept(frame.shot, work.prepared, self._clock.time())
        self._emitter.emit(
            FrameEvent,
            source=channel.source.name,
            captured=frame.time,
            age_ms=1e3 * channel.age,
            verdict=channel.decision.of_frame(judgement.verdict, judgement.probability),
            probability=judgement.probability,
            logit=judgement.logit,
            stream_verdict=channel.decision.verdict,
            evidence=channel.decision.evidence,
            unjudged=judgement.reason,
        )
        self._tell(channel, changes)

    def _tell(self, channel: Channel, changes: Sequence[Change]) -> None:
        """A stream's verdict changed: as events, with the pictures that are asked for."""
        for change in changes:
            picture = self._show(channel) if change.verdict in self._wanted else None
            with self.evidence.lock:  # whoever gets the event finds its picture
                event = self._emitter.emit(
                    StreamEvent,
                    source=channel.source.name,
                    verdict=change.verdict,
                    previous=change.previous,
                    evidence=change.evidence,
                    frames=change.frames,
                    independent=change.independent,
                    seconds=change.seconds,
                    reason=change.reason,
                    looked_at=picture and picture.looked_at,
                    size=picture and picture.size,
                )
                if picture is not None:
                    self.evidence.put(event, picture)
