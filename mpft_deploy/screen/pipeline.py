"""Items to results: one thread decodes ahead while this one runs the engine."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
class _Part:
    """A frame of an item on its way to the engine, or its end.

    number: of the item, from 0.
    prepared: None at the end; then `error` says what ended it, if not all of it could be read.
    """

    item: Found
    number: int
    prepared: Prepared | None = None
    time: float = 0.0
    note: str = ""
    thumbnail: bytes = b""
    error: str = ""


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
    with Prefetch(_read(items, screener, fps, pictures), AHEAD) as parts:
        judged = _judge(parts, screener, advance)
        for _, of_item in itertools.groupby(judged, lambda pair: pair[0].number):
            yield _screened(of_item, screener, sources or {})


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


def _read(items: Iterable[Found], screener: Screener, fps: float, pictures: int) -> Iterator[_Part]:
    """Everything that happens before the engine; run by the decoding thread."""
    for number, item in enumerate(items):
        error = str(item.reason) if isinstance(item, Missing) else ""
        try:
            # A picture for the report shows the whole frame.
            centre = None if number < pictures else screener.centre
            frames = read_frames(item, fps, centre=centre) if isinstance(item, Item) else ()
            for index, frame in enumerate(frames):
                drawn = index == 0 and number < pictures
                small = thumbnail(frame.pixels) if drawn else b""
                prepared = screener.prepare(frame.pixels, frame.whole, index)
                yield _Part(item, number, prepared, frame.time, frame.note, small)
        except InputError as failure:
            error = str(failure)
        except MpftError:
            raise
        except Exception as failure:
            error = _unforeseen(item.path, failure)
        yield _Part(item, number, error=error)


def _unforeseen(path: Path, failure: Exception) -> str:
    """What is said of an item that failed in a way that no code expects."""
    return f"{display(path)}: cannot be screened ({type(failure).__name__}: {failure})"


def _judge(
    parts: Iterable[_Part], screener: Screener, advance: Advance
) -> Iterator[tuple[_Part, Judged | Exception | None]]:
    """The same parts in order, frames with their judgement, in batches of the screener's size."""
    waiting: list[_Part] = []
    views = 0
    for part in parts:
        waiting.append(part)
        views += 0 if part.prepared is None else len(part.prepared.views)
        if views >= screener.batch_size or views == 0:
            yield from _judge_batch(waiting, screener, advance)
            waiting, views = [], 0
    yield from _judge_batch(waiting, screener, advance)


def _judge_batch(
    parts: list[_Part], screener: Screener, advance: Advance
) -> Iterator[tuple[_Part, Judged | Exception | None]]:
    judged: Iterator[Judged | Exception]
    try:
        judged = iter(
            screener.judge([p.prepared for p in parts if p.prepared is not None], advance)
        )
    except MpftError:
        raise
    except Exception as failure:
        judged = itertools.repeat(failure)
    for part in parts:
        yield part, None if part.prepared is None else next(judged)


def _screened(
    parts: Iterable[tuple[_Part, Judged | Exception | None]],
    screener: Screener,
    sources: Mapping[str, str],
) -> Screened:
    """The result of an item, of the frames that have a verdict, or of those that can have none."""
    told, refused, kept = _Sum(), _Sum(), Spread()
    first: tuple[_Part, Prepared, Judgement] | None = None
    picture, error, seconds = None, "", 0.0
    for part, judged in parts:
        item, error = part.item, error or part.error
        if isinstance(judged, Exception):
            error = _unforeseen(item.path, judged)
        elif judged is not None and part.prepared is not None:
            judgement, seconds = judged.judgement, part.time
            if first is None:
                first = part, part.prepared, judgement
                if part.thumbnail:
                    picture = draw(part.thumbnail, part.prepared, judged.view_logits)
            (refused if judgement.reason else told).add(judgement)
            kept.add(
                FrameResult(
                    time=round(part.time, 3),
                    verdict=judgement.verdict,
                    probability=judgement.probability,
                    logit=judgement.logit,
                    looked_at=judgement.looked_at,
                    reason=judgement.reason,
                )
            )
    name = file_name(item.path)
    if isinstance(item, PassedOver):
        return Screened(Result(file=name, kind="folder", passed_over=item.counts), None)
    kind, source = item.kind if isinstance(item, Item) else None, sources.get(item.path.name, "")
    if first is None:
        return Screened(Result(file=name, kind=kind, source=source, error=error), None)
    over = told if told.count else refused
    judgement = screener.verdict_of(
        over.logits / over.count, over.views, first[2].looked_at, over.reason
    )
    video, left_out = kind == "video", ""
    if told.count and refused.count:
        left_out = f"{refused.count} frames were left out: {refused.reason}"
    height, width = first[1].size
    result = Result(
        file=name,
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
        seconds=round(seconds, 3) if video else None,
        frames=tuple(kept.kept) if video else (),
        note="; ".join(filter(None, [first[0].note, left_out, screener.uncalibrated])),
        source=source,
        error=error,
    )
    return Screened(result, picture)
