"""Computes again, from the pixels in a package, all that was said of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpft_deploy.bundle import Bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display, printable, sha256
from mpft_deploy.images import read_picture
from mpft_deploy.png import SIGNATURE
from mpft_deploy.prepared import Prepared, prepare_views
from mpft_deploy.screen.evidence.package import Judged, Package
from mpft_deploy.screen.screener import Judged as Judgement
from mpft_deploy.screen.screener import Screener
from mpft_deploy.screen.streams.settings import ScreenSettings
from mpft_deploy.spec import DetectorSpec

CLOSE = 1e-12
"""Of probabilities: exp may differ in its last digit between C libraries."""


@dataclass(frozen=True)
class Difference:
    """What is not as it was told: of which frame, from 1, and what was told and found."""

    frame: int
    what: str
    told: object
    found: object

    def __str__(self) -> str:
        return f"frame {self.frame}: {self.what} is {self.found}, and was told as {self.told}"


def require_same_engine(package: Package, bundle: Bundle) -> None:
    """An InputError unless a bundle's engine is the one that judged."""
    told = package.manifest.engine
    if (sha256(bundle.engine), str(bundle.info.precision)) == (told.sha256, told.precision):
        return
    detector = told.sources.get("detector", "unknown")
    raise InputError(
        f"{display(package.path)} was judged by another engine than that of "
        f"{display(bundle.path)}: {printable(told.backend)} in {printable(told.precision)}, of the "
        f"detector {printable(detector)}, bundle {printable(told.bundle[:12])}. Name that one by "
        "--bundle, or one of the same detector and precision where the backend is native."
    )


def recompute(
    package: Package,
    bundle: Bundle,
    *,
    threads: int = 0,
) -> list[Difference]:
    """All that is not as it was told; empty if every logit and verdict of a frame is the same.

    Args:
        bundle: of the engine that judged; see `require_same_engine`.

    Raises:
        InputError: the package cannot be what a screener made.
    """
    told = package.manifest.engine
    engine = load_engine(bundle, threads=threads)
    try:
        screener = Screener(
            bundle,
            engine,
            views=told.views,
            threshold=told.threshold,
            batch=ScreenSettings().batch_of(bundle.info),
        )
    except UsageError as error:
        raise InputError(f"{display(package.path)} cannot be: {error}") from None
    frames = package.manifest.frames
    prepared = [_prepared(package, screener.spec, frame) for frame in frames]
    judged = screener.judge(prepared)
    return [
        Difference(number, what, said, found)
        for number, (frame, result) in enumerate(zip(frames, judged, strict=True), 1)
        for what, said, found in _compared(package, frame, result)
        if said != found
    ]


def _prepared(package: Package, spec: DetectorSpec, frame: Judged) -> Prepared:
    side, where = spec.crop.size, display(package.path)
    count = len(frame.views)
    if not count or not count == len(frame.windows) == len(frame.logits) or min(frame.size) < 1:
        raise InputError(f"{where}: a frame whose views, windows and logits are not as many")
    views = []
    for name in frame.views:
        data = package.content[name]
        # Asked before it is decoded: a small file can hold a picture that fills the memory.
        if data[:8] != SIGNATURE or data[16:24] != struct.pack(">II", side, side):
            raise InputError(f"{where}: {name} is no PNG of {side} × {side} pixels, as views are")
        views.append(read_picture(package.path / name, data=data).pixels)
    return prepare_views(spec, np.stack(views), frame.windows, frame.size)


def _compared(
    package: Package, frame: Judged, result: Judgement
) -> Iterator[tuple[str, object, object]]:
    """What a package tells of a frame: its name, as told and as found."""
    told, found = frame.frame, result.judgement
    for number, (said, now) in enumerate(zip(frame.logits, result.view_logits, strict=True), 1):
        yield f"the logit of view {number}", said, float(now)
    baseline, verdict = package.manifest.engine.baselines.get(told.stream), found.verdict
    if baseline is not None:
        verdict = baseline.of_frame(verdict, found.probability)
    yield "its logit", told.logit, found.logit
    yield "its verdict", told.verdict, verdict
    yield "why it is not judged", told.unjudged, found.reason
    if abs(told.probability - found.probability) > CLOSE:
        yield "its probability", told.probability, found.probability
