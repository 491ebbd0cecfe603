"""What a detector finds of streams, decided as `mpft screen` decides them, by logits of images.

A stream shows a generator's images, or a source's real ones, another one each second, as a moving
window shows another part of a picture. So what the images of a group have in common is in all of
its frames, as what a camera does is, and what they have not changes from one to the next. Frames of
one video are more alike than that: expect less.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mpft_deploy.evaluate.metrics import generator
from mpft_deploy.evaluate.predictions import Predictions, Rows
from mpft_deploy.evaluate.protocols import BASIC
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.runs import I32
from mpft_deploy.screen.streams.settings import DecisionSettings, seconds
from mpft_deploy.spec import Calibration, Record

PROMISES = ("1h", "1d", "30d")
"""Mean times between false alarms; who keeps a later one keeps those before it."""

SPANS = ("30s", "10m")
"""How long is looked, which is also `patience`."""

STREAMS = 40
"""Of each class."""

OVER = 1.1
"""Times a span that is waited: evidence is weighed now and then."""


class Streams(Record, frozen=True):
    """What was said of STREAMS of each class, as shares.

    Attributes:
        promise: mean time between false alarms.
        span: how long was looked.
        found: of the generated ones, those that were called so.
        alarmed: of the real ones.
    """

    protocol: str
    promise: str
    span: str
    found: float
    alarmed: float


def simulate(
    predictions: Predictions, report: Callable[[str], None] = lambda text: None
) -> list[Streams]:
    """By views that move, and a calibration of which is known what it is worth; else nothing.

    Of images as they are, and as video. `report` is told before each protocol, which takes seconds.
    """
    header = predictions.header
    if header.views != "moving" or header.calibration.held_out is None:
        return []
    shown = {}
    for protocol in header.protocols:
        if protocol in BASIC or protocol.startswith(("h264", "h265")):
            rows = predictions.rows(protocol, header.calibrated_keep)
            rows = rows.where(rows.judged)
            if len(set(rows.labels.tolist())) == 2:
                shown[protocol] = rows
    out = []
    for number, (protocol, rows) in enumerate(shown.items(), start=1):
        report(f"streams by protocol {protocol}, {number} of {len(shown)}")
        out += _under(protocol, rows, header.calibration)
    return out


def _under(protocol: str, rows: Rows, calibration: Calibration) -> list[Streams]:
    """By one protocol."""
    rng = generator(f"streams, {protocol}")
    scores = rng.integers(0, 1000, (len(rows), 16), np.int32)  # no two pictures are alike
    of_source = np.where(rows.sources == "", rows.sets, rows.sources)
    groups = np.where(rows.generators == "", of_source, rows.generators)
    kept = np.empty((2, len(SPANS), STREAMS), np.int64)
    for label in (0, 1):
        of = rows.labels == label
        names = sorted(set(groups[of].tolist()))
        for place, span in enumerate(SPANS):
            for number in range(STREAMS):
                own = np.flatnonzero(of & (groups == names[rng.integers(len(names))]))
                shown = rng.choice(own, math.ceil(OVER * seconds(span)))
                kept[label, place, number] = alarms(
                    rows.logits[shown].tolist(), scores[shown], calibration, span
                )
    return [
        Streams(
            protocol=protocol,
            promise=promise,
            span=span,
            found=float((kept[1, place] > harder).mean()),
            alarmed=float((kept[0, place] > harder).mean()),
        )
        for harder, promise in enumerate(PROMISES)
        for place, span in enumerate(SPANS)
    ]


def alarms(logits: list[float], scores: I32, calibration: Calibration, span: str) -> int:
    """How many of PROMISES a stream of a frame a second is called generated under.

    Args:
        logits: of the frames.
        scores: i32 [n, N], texture of their cells.
    """
    for number, promise in enumerate(PROMISES):
        settings = DecisionSettings(false_alarms=promise, patience=span)
        decision = StreamDecision(settings, calibration)
        told = (
            change.verdict
            for second, (logit, picture) in enumerate(zip(logits, scores, strict=True))
            for change in decision.add(logit, picture, float(second))
        )
        if "generated" not in told:
            return number
    return len(PROMISES)
