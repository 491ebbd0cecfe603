"""Items to results: one thread decodes ahead while this one runs the engine."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from mpft_deploy.errors import InputError, MpftError
from mpft_deploy.files import display, file_name
from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.picture import Picture, draw, thumbnail
from mpft_deploy.screen.results import FrameResult, Result, Spread
from mpft_deploy.screen.screener import Advance, Judged, Judgement, Screener
from mpft_deploy.screen.sources import Item, read_frames

T = TypeVar("T")

AHEAD = 4
"""Frames decoded and cut ahead of the engine."""


@dataclass(frozen=True)
class Screened:
    """A result, and for a report what there is to see."""

    result: Result
    picture: Picture | None


@dataclass
class _Part:
    """A frame of an item on its way through the engine, or the item's end.

    number: of the item, from 0.
    prepared: None at the end.
    judged: once it was in the engine.
    error: why it has no judgement, or at the end what ended it, if not all could be read.
    """

    item: Item
    number: int
    prepared: Prepared | None = None
    time: float = 0.0
    note: str = ""
    thumbnail: bytes = b""
    judged: Judged | None = None
    error: str = ""


@dataclass
class _Sum:
    """Over some frames: their logits, views and number, and the reason of the first."""

    logits: float = 0.0
    views: int = 0
    count: int = 0
    reason: str = ""

    def add(self, judgement: Judgement) -> None:
        self.logits += judgement.logit
        self.views += judgement.views
        self.count += 1
        self.reason = self.reason or judgement.reason


def screen_items(
    items: Iterable[Item],
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
    with prefetch(_read(items, screener, fps, pictures), AHEAD) as parts:
        judged = _judge(parts, screener, advance)
        for _, of_item in itertools.groupby(judged, lambda part: part.number):
            yield _screened(of_item, screener, sources or {})


@contextlib.contextmanager
def prefetch(source: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Have a thread run an iterator ahead of its reader, by at most `depth` values.

    What the source raises is raised to the reader. On leaving, the thread stops; the decoder that
    it may be in is left to finish by itself.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    left = threading.Event()

    def fill() -> None:
        try:
            for value in source:
                if left.is_set():
                    return
                ready.put((value,))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    def drain() -> Iterator[T]:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]

    threading.Thread(target=fill, name="mpft-decode", daemon=True).start()
    try:
        yield drain()
    finally:
        left.set()
        with contextlib.suppress(queue.Empty):  # it may wait for room
            while True:
                ready.get_nowait()


def _read(items: Iterable[Item], screener: Screener, fps: float, pictures: int) -> Iterator[_Part]:
    """Everything that happens before the engine; run by the decoding thread."""
    for number, item in enumerate(items):
        error = item.error
        try:
            # A picture for the report shows the whole frame.
            centre = None if number < pictures else screener.centre
            for index, frame in enumerate(read_frames(item, fps, centre=centre)):
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


def _judge(parts: Iterable[_Part], screener: Screener, advance: Advance) -> Iterator[_Part]:
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


def _judge_batch(parts: list[_Part], screener: Screener, advance: Advance) -> list[_Part]:
    frames = {index: one.prepared for index, one in enumerate(parts) if one.prepared is not None}
    try:
        for index, judged in zip(
            frames, screener.judge(list(frames.values()), advance), strict=True
        ):
            parts[index].judged = judged
    except MpftError:
        raise
    except Exception as failure:
        for index in frames:
            parts[index].error = _unforeseen(parts[index].item.path, failure)
    return parts


def _screened(parts: Iterable[_Part], screener: Screener, sources: Mapping[str, str]) -> Screened:
    """The result of an item, of the frames that have a verdict, or of those that can have none."""
    told, refused, kept = _Sum(), _Sum(), Spread()
    first: tuple[_Part, Prepared, Judgement] | None = None
    picture, error, seconds = None, "", 0.0
    for part in parts:
        item, error = part.item, error or part.error
        if part.judged is None or part.prepared is None:
            continue
        judgement, seconds = part.judged.judgement, part.time
        if first is None:
            first = part, part.prepared, judgement
            if part.thumbnail:
                picture = draw(part.thumbnail, part.prepared, part.judged.view_logits)
        (refused if judgement.reason else told).add(judgement)
        said = msgspec.structs.asdict(judgement)
        del said["views"]
        kept.add(FrameResult(time=round(part.time, 3), **said))
    source = "" if item.kind == "folder" else sources.get(item.path.name, "")
    result = Result(
        file=file_name(item.path),
        kind=item.kind,
        source=source,
        error=error,
        passed_over=item.passed_over,
    )
    if first is None:
        return Screened(result, None)
    over = told if told.count else refused
    judgement = screener.verdict_of(
        over.logits / over.count, over.views, first[2].looked_at, over.reason
    )
    left_out = ""
    if told.count and refused.count:
        left_out = f"{refused.count} frames were left out: {refused.reason}"
    height, width = first[1].size
    result = msgspec.structs.replace(
        result,
        width=width,
        height=height,
        note="; ".join(filter(None, [first[0].note, left_out, screener.uncalibrated])),
        **msgspec.structs.asdict(judgement),
    )
    if item.kind == "video":
        result = msgspec.structs.replace(
            result, screened=over.count, seconds=round(seconds, 3), frames=tuple(kept.kept)
        )
    return Screened(result, picture)
