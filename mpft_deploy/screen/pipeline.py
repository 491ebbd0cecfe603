"""Items to results: one thread decodes ahead while this one runs the engine."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from mpft_deploy.errors import InputError, MpftError
from mpft_deploy.files import display
from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.picture import Picture, draw, thumbnail
from mpft_deploy.screen.results import FrameResult, Result, Spread, file_name
from mpft_deploy.screen.screener import Advance, Judged, Judgement, Screener
from mpft_deploy.screen.sources import Found, Item, Missing, PassedOver, read_frames

T = TypeVar("T")

AHEAD = 4
"""Frames decoded and cut ahead of the engine."""


@dataclass(frozen=True)
class Screened:
    """A result, and for a report what there is to see."""

    result: Result
    picture: Picture | None


@dataclass(frozen=True)
class _Ready:
    """A frame on its way to the engine."""

    prepared: Prepared
    time: float
    note: str
    thumbnail: bytes


@dataclass(frozen=True)
class _End:
    """No more frames of this item."""

    item: Found
    error: str


@dataclass
class _Sum:
    """Over some frames: their logits, views and number, and the reason of the first."""

    logits: float = 0.0
    views: int = 0
    count: int = 0
    reason: str = ""

    def add(self, judgement: Judgement) -> None:
        """Add a frame."""
        self.logits += judgement.logit
        self.views += judgement.views
        self.count += 1
        self.reason = self.reason or judgement.reason


@dataclass
class _Gathered:
    """What is known of the item whose frames are being judged.

    first, judged: its first frame and what was said of it.
    told, refused: sums over the frames that have a verdict, and over those that can have none.
    """

    first: _Ready | None = None
    judged: Judgement | None = None
    picture: Picture | None = None
    told: _Sum = field(default_factory=_Sum)
    refused: _Sum = field(default_factory=_Sum)
    last_time: float = 0.0
    failure: Exception | None = None
    frames: Spread = field(default_factory=Spread)


def screen_items(
    items: Iterable[Found],
    screener: Screener,
    *,
    fps: float = 1.0,
    pictures: int = 0,
    sources: Mapping[str, str] | None = None,
    advance: Advance = lambda views, of: None,
) -> Iterator[Screened]:
    """Screen items in order, each result as soon as it is known; memory does not grow with them.

    An item that fails in a way that nobody foresaw is a result with that error, and the next one is
    screened; what says that no item can be screened, such as a missing package, is raised.

    Args:
        items: as `find_items` gives them.
        fps: screened frames a second of a video's media time.
        pictures: for how many of the first items to draw what a report shows.
        sources: file name → where that file comes from.
        advance: told now and then how many views of the frames at hand are judged, of how many.
    """
    notes = sources or {}
    gathered = _Gathered()
    with Prefetch(_events(items, screener, fps, pictures), AHEAD) as events:
        for event, judged in _judge(events, screener, advance):
            if isinstance(event, _End):
                source = notes.get(event.item.path.name, "")
                yield Screened(_result(event, gathered, screener, source), gathered.picture)
                gathered = _Gathered()
            elif isinstance(judged, Judged):
                _gather(gathered, event, judged)
            elif judged is not None:
                gathered.failure = judged


class Prefetch(Generic[T]):
    """An iterator that a thread runs ahead of its reader, by at most `depth` values.

    What the source raises is raised here. Used as a context, it stops the thread on leaving.
    """

    def __init__(self, source: Iterable[T], depth: int) -> None:
        self._source = source
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="mpft-decode", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._drain()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # The thread may wait for room; the decoder it may be in is left to finish by itself.
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _drain(self) -> Iterator[T]:
        while True:
            value, error = self._queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]  # a value of None is a T too

    def _fill(self) -> None:
        try:
            for value in self._source:
                if self._stop.is_set():
                    return
                self._queue.put((value, None))
            self._queue.put((None, StopIteration()))
        except BaseException as error:
            self._queue.put((None, error))


def _events(
    items: Iterable[Found], screener: Screener, fps: float, pictures: int
) -> Iterator[_Ready | _End]:
    """Everything that happens before the engine; run by the decoding thread."""
    for number, item in enumerate(items):
        if not isinstance(item, Item):
            yield _End(item, str(item.reason) if isinstance(item, Missing) else "")
            continue
        error, small = "", b""
        try:
            # A picture for the report shows the whole frame.
            centre = None if number < pictures else screener.centre
            for index, frame in enumerate(read_frames(item, fps, centre=centre)):
                if index == 0 and number < pictures:
                    small = thumbnail(frame.pixels)
                prepared = screener.prepare(frame.pixels, frame.whole, index)
                yield _Ready(prepared, frame.time, frame.note, small if index == 0 else b"")
        except InputError as failure:
            error = str(failure)
        except MpftError:
            raise
        except Exception as failure:
            error = _unforeseen(item.path, failure)
        yield _End(item, error)


def _unforeseen(path: Path, failure: Exception) -> str:
    """What is said of an item that failed in a way that no code expects."""
    return f"{display(path)}: cannot be screened ({type(failure).__name__}: {failure})"


def _judge(
    events: Iterable[_Ready | _End], screener: Screener, advance: Advance
) -> Iterator[tuple[_Ready | _End, Judged | Exception | None]]:
    """The same events in order, frames with their judgement, in batches of the screener's size."""
    waiting: list[_Ready | _End] = []
    views = 0
    for event in events:
        waiting.append(event)
        views += len(event.prepared.views) if isinstance(event, _Ready) else 0
        if views >= screener.batch_size or views == 0:
            yield from _judge_batch(waiting, screener, advance)
            waiting, views = [], 0
    yield from _judge_batch(waiting, screener, advance)


def _judge_batch(
    events: list[_Ready | _End], screener: Screener, advance: Advance
) -> Iterator[tuple[_Ready | _End, Judged | Exception | None]]:
    frames = [event.prepared for event in events if isinstance(event, _Ready)]
    judged: Iterator[Judged | Exception]
    try:
        judged = iter(screener.judge(frames, advance))
    except MpftError:
        raise
    except Exception as failure:
        judged = itertools.repeat(failure)
    for event in events:
        yield event, next(judged) if isinstance(event, _Ready) else None


def _gather(gathered: _Gathered, frame: _Ready, judged: Judged) -> None:
    """Add a judged frame to its item."""
    if gathered.first is None:
        gathered.first = frame
        if frame.thumbnail:
            gathered.picture = draw(frame.thumbnail, frame.prepared, judged.view_logits)
    judgement = judged.judgement
    if gathered.judged is None:
        gathered.judged = judgement
    (gathered.refused if judgement.reason else gathered.told).add(judgement)
    gathered.last_time = frame.time
    gathered.frames.add(
        FrameResult(
            time=round(frame.time, 3),
            verdict=judgement.verdict,
            probability=judgement.probability,
            logit=judgement.logit,
            looked_at=judgement.looked_at,
            reason=judgement.reason,
        )
    )


def _result(end: _End, gathered: _Gathered, screener: Screener, source: str) -> Result:
    """The result of an item whose frames are all judged."""
    item, first, judged = end.item, gathered.first, gathered.judged
    if isinstance(item, PassedOver):
        return Result(file=file_name(item.path), kind="folder", passed_over=item.counts)
    kind = item.kind if isinstance(item, Item) else None
    error = end.error
    if gathered.failure is not None:
        error = error or _unforeseen(item.path, gathered.failure)
    if first is None or judged is None:
        return Result(file=file_name(item.path), kind=kind, source=source, error=error)
    told, refused = gathered.told, gathered.refused
    over = told if told.count else refused
    judgement = screener.verdict_of(
        over.logits / over.count, over.views, judged.looked_at, over.reason
    )
    video = kind == "video"
    left_out = ""
    if told.count and refused.count:
        left_out = f"{refused.count} frames were left out: {refused.reason}"
    height, width = first.prepared.size
    return Result(
        file=file_name(item.path),
        kind=kind,
        verdict=judgement.verdict,
        probability=judgement.probability,
        logit=judgement.logit,
        reason=judgement.reason,
        looked_at=judgement.looked_at,
        views=judgement.views,
        width=width,
        height=height,
        screened=over.count if video else None,
        seconds=round(gathered.last_time, 3) if video else None,
        frames=tuple(gathered.frames.kept) if video else (),
        note="; ".join(filter(None, [first.note, left_out, screener.uncalibrated])),
        source=source,
        error=error,
    )
