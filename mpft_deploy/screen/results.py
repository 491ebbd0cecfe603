"""What screening an item gives: the record behind a JSON line, a table row and a report card."""

from __future__ import annotations

import json
from typing import Literal

import msgspec

from mpft_deploy.prepared import LookedAt
from mpft_deploy.spec import Record, Verdict


class FrameResult(Record, frozen=True, omit_defaults=True):
    """The verdict of one frame of a video; `time` in seconds from its start.

    `looked_at` says where; `reason`, why it can have no verdict and is "unsure".
    """

    time: float
    verdict: Verdict
    probability: float
    logit: float
    looked_at: LookedAt
    reason: str = ""


class Result(Record, frozen=True, omit_defaults=True):
    """The result of one item.

    Attributes:
        file: its path; bytes that are not UTF-8 as \\xNN.
        kind: what it was read as, where that is known; "folder" tells of what was passed over.
        verdict, probability, logit: of the item; absent if none of it could be read. Of a video,
            by the mean of its frames' logits, without those that can have no verdict.
        reason: why no verdict can be given and it is "unsure", whatever the logit; else "".
        looked_at: where the judged views lie, of a video in its first judged frame.
        views: how many views were judged, over all frames.
        width, height: of the first frame, in pixels.
        screened: how many frames of a video the verdict rests on.
        frames: up to KEPT_FRAMES of them, evenly spread.
        seconds: media time of a video from its first to its last judged frame.
        note: what a reader of the verdict should know.
        source: where the item comes from, as the caller's notes say.
        error: why it could not be read, or not to its end.
        passed_over: of a folder, how many files of other kinds it holds by their suffix.
    """

    file: str
    kind: Literal["image", "video", "folder"] | None = None
    verdict: Verdict | None = None
    probability: float | None = None
    logit: float | None = None
    reason: str = ""
    looked_at: LookedAt | None = None
    views: int | None = None
    width: int | None = None
    height: int | None = None
    screened: int | None = None
    seconds: float | None = None
    frames: tuple[FrameResult, ...] = ()
    note: str = ""
    source: str = ""
    error: str = ""
    passed_over: dict[str, int] = msgspec.field(default_factory=dict)

    def to_json(self) -> str:
        """One line of ASCII: no name of a file can break the line or the terminal."""
        return json.dumps(msgspec.to_builtins(self))


def share_text(share: float) -> str:
    """A share of pixels for people: "2.4 %"; neither nothing nor all unless it is that."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "100 %" if share == 1 else f"{min(100 * share, 99.9):.1f} %"


KEPT_FRAMES = 16


class Spread:
    """Keeps up to KEPT_FRAMES of a run of unknown length, evenly spread, the first among them."""

    def __init__(self) -> None:
        self.kept: list[FrameResult] = []
        self.seen = 0
        self._stride = 1

    def add(self, frame: FrameResult) -> None:
        if self.seen % self._stride == 0:
            self.kept.append(frame)
        if len(self.kept) > KEPT_FRAMES:
            self.kept = self.kept[::2]
            self._stride *= 2
        self.seen += 1
