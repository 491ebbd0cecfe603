"""Cameras that are taught while they are screened: lessons, and what was learnt, in the store.

A lesson gathers the judged frames of a source for a while. What they teach counts once somebody
accepts it; what was accepted before is kept, so that it can be gone back to. The configuration's
own, which `mpft calibrate --camera` writes, is older or newer: the newest counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping

import msgspec

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.screen.streams.areas import Box
from mpft_deploy.screen.streams.baseline import Baseline, learn
from mpft_deploy.screen.streams.records import Event, FrameEvent, Sink, SourceEvent
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.spec import Calibration

logger = logging.getLogger(__name__)

LONGEST = 60.0
"""Seconds between two frames that count as time, at most."""

KEPT = 10
"""Baselines of a source that are kept."""

_history = msgspec.json.Decoder(list[Baseline])


class Frames(Sink):
    """A sink that keeps the frames that say something.

    Attributes:
        frames: time in seconds from the first one on, and logit of each, in order, by stream.
        each: seconds from one to the next, where how far apart they were taken nobody knows.
    """

    name = "frames"

    def __init__(self) -> None:
        self.frames: dict[str, list[tuple[float, float]]] = {}
        self.each: float | None = None
        self._seconds: dict[str, int] = {}
        self._captured: dict[str, float] = {}

    def send(self, event: Event) -> None:
        if isinstance(event, FrameEvent) and not event.unjudged:
            frames = self.frames.setdefault(event.stream, [])
            at = frames[-1][0] if frames else 0.0
            step = event.captured - self._captured.get(event.stream, event.captured)
            step = min(max(0.0, step), LONGEST)  # beyond these somebody set the clock
            now = at + (step if self.each is None or not frames else self.each)
            new = not frames or int(now) != int(at)
            self._seconds[event.stream] = self._seconds.get(event.stream, 0) + new
            self._captured[event.stream] = event.captured
            frames.append((now, event.logit))

    @property
    def seconds(self) -> int:
        """How many had frames, of each stream at least."""
        return min(self._seconds.values(), default=0)


class Lesson(msgspec.Struct, frozen=True):
    """How far a camera is taught.

    Attributes:
        minutes: that it was to take.
        left: seconds that it still takes.
        seconds: that had frames.
        learnt: what they teach of each stream, once it is over; to be accepted or discarded.
        problem: why they teach nothing.
    """

    minutes: float
    left: float
    seconds: int
    learnt: dict[str, Baseline] = {}
    problem: str = ""


class _Lesson:
    def __init__(self, boxes: Mapping[str, Box | None], minutes: float) -> None:
        self.boxes, self.minutes, self.frames = boxes, minutes, Frames()
        self._end = time.monotonic() + 60 * minutes
        self.over: Lesson | None = None

    @property
    def left(self) -> float:
        """Seconds that it still takes."""
        return max(0.0, self._end - time.monotonic())


class Teacher(Sink):
    """A sink that teaches cameras.

    Args:
        seal: of the bundle that judges.
    """

    name = "teacher"

    def __init__(self, calibration: Calibration, seal: str, store: Store) -> None:
        self._calibration, self._seal, self._store = calibration, seal, store
        self._lock = threading.Lock()
        self._lessons: dict[str, _Lesson] = {}

    def send(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, SourceEvent) and event.state == "removed":  # or one of its regions
                self._lessons.pop(event.source, None)
            lesson = self._lessons.get(event.source)
            if lesson is not None and lesson.left:
                lesson.frames.send(event)

    def begin(self, source: str, boxes: Mapping[str, Box | None], minutes: float) -> None:
        """Begin a lesson, in place of one that there is.

        Args:
            boxes: of what is decided of the source by itself; see `SourceSettings`.
        """
        with self._lock:
            self._lessons[source] = _Lesson(boxes, minutes)

    def lesson(self, source: str) -> Lesson | None:
        """How far a source's is; None if it has none."""
        with self._lock:
            lesson = self._lessons.get(source)
            if lesson is None or lesson.over is not None:
                return None if lesson is None else lesson.over
            told = Lesson(lesson.minutes, lesson.left, lesson.frames.seconds)
            if told.left:
                return told
            try:
                lesson.over = msgspec.structs.replace(told, learnt=self._learn(lesson))
            except InputError as error:
                lesson.over = msgspec.structs.replace(told, problem=str(error))
            return lesson.over

    def accept(self, source: str) -> None:
        """Have what a lesson taught count, and end it.

        Raises:
            KeyError: there is no lesson.
            InputError: it had too few frames yet; it goes on.
        """
        with self._lock:
            for stream, learnt in self._learn(self._lessons[source]).items():
                history = [learnt, *self.history(stream)][:KEPT]
                self._store.set_setting(stream, "baselines", msgspec.json.encode(history))
            del self._lessons[source]

    def discard(self, source: str) -> None:
        """End a lesson; a KeyError if there is none."""
        with self._lock:
            del self._lessons[source]

    def go_back(self, streams: Collection[str]) -> None:
        """Take back what was accepted last of some streams; a UsageError if nothing was."""
        histories = {stream: self.history(stream) for stream in streams}
        if not any(histories.values()):
            raise UsageError("it was not taught here: there is nothing to take back")
        for stream, history in histories.items():
            value = msgspec.json.encode(history[1:]) if history[1:] else None
            self._store.set_setting(stream, "baselines", value)

    def forget(self, source: str, others: Collection[str]) -> None:
        """What its regions were taught, also those that were erased, goes with a source.

        Args:
            others: streams that stay.
        """
        for stream in self._store.settings("baselines"):
            if stream.startswith(f"{source}/") and stream not in others:
                self._store.set_setting(stream, "baselines", None)

    def history(self, stream: str) -> list[Baseline]:
        """What was accepted of a stream, newest first."""
        value = self._store.settings("baselines").get(stream)
        return [] if value is None else _decoded(stream, value)

    def baselines(
        self, file: Mapping[str, Baseline], boxes: Mapping[str, Box | None]
    ) -> dict[str, Baseline]:
        """What counts, by stream: the newest of the file's and of what was accepted here.

        What was taught of another part of the picture says nothing, nor what another bundle taught.

        Args:
            boxes: of all that is decided by itself.
        """
        taught = {name: [one] for name, one in file.items()}
        for stream, value in self._store.settings("baselines").items():
            taught.setdefault(stream, []).extend(_decoded(stream, value))
        found = {}
        for stream, learnt in taught.items():
            fits = [one for one in learnt if one.box == boxes.get(stream)]
            if ours := [one for one in fits if one.bundle == self._seal]:
                found[stream] = max(ours, key=lambda one: one.time)
            elif fits:
                logger.warning("%s: was taught with another bundle: teach it again", stream)
        return found

    def _learn(self, lesson: _Lesson) -> dict[str, Baseline]:
        frames, now = lesson.frames.frames, time.time()
        return {
            stream: learn(frames.get(stream, []), self._calibration, self._seal, now, box)
            for stream, box in lesson.boxes.items()
        }


def _decoded(stream: str, value: bytes) -> list[Baseline]:
    """What is kept of a stream; nothing, which is logged, if it is not valid."""
    try:
        return _history.decode(value)
    except msgspec.ValidationError as error:
        logger.error("%s: what it was taught is not valid, teach it again: %s", stream, error)
        return []
