"""The screener: pixels in, a verdict out. Free of files, threads and output."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
import numpy as np

from mpft_deploy.engine import SeesViews, wide_of
from mpft_deploy.errors import GateError, UsageError
from mpft_deploy.images import U8
from mpft_deploy.on_device import OnDevice, lies_on_device, prepare_on_device
from mpft_deploy.prepared import LookedAt, Prepared, Told, prepare
from mpft_deploy.spec import Calibration, Record, Verdict, ViewPolicy
from mpft_deploy.views import Masks, Window, centre_alone, one_window
from mpft_deploy.weights import F32

if TYPE_CHECKING:
    from mpft_deploy.bundle import Bundle
    from mpft_deploy.engine import Engine
    from mpft_deploy.screen.streams.records import Event

logger = logging.getLogger(__name__)


INPUTS = ("patches", "positions")
"""Of an engine, by their names in `Patches`."""

Advance: TypeAlias = Callable[[int, int], None]
"""Told how many views are judged, and of how many."""


class Judgement(Record, frozen=True):
    """What the detector says of an image.

    Attributes:
        verdict: "real", "generated", or "unsure": strictly inside the unsure band, or for a reason.
        probability: of "generated", calibrated, 0 to 1.
        logit: mean over the views, before calibration.
        views: how many views were judged: those with enough texture, or all if none has.
        looked_at: where these views lie.
        reason: why no verdict can be given, whatever the logit is; "" if one can.
    """

    verdict: Verdict
    probability: float
    logit: float
    views: int
    looked_at: LookedAt
    reason: str = ""


@dataclass(frozen=True)
class Judged:
    """A judgement with what led to it; view_logits: f32 [V]."""

    judgement: Judgement
    view_logits: F32


class Screener:
    """Judges frames with the engine of a bundle.

    >>> screener = Screener.open("bundle")
    >>> screener(frame).verdict  # frame: u8 [H, W, 3], RGB
    'generated'

    Args:
        bundle: a verified bundle.
        engine: its loaded engine.
        views: how views are cut from a frame; the logit of a frame is the mean over them. None for
            those that the spec means for pictures.
        threshold: probability from which an image is called generated, in place of the spec's; see
            `with_threshold` for what becomes of the unsure band.
        batch: views in one call of the engine, at most. An engine whose logits depend on their
            batch gets one at a time all the same, so that a verdict depends on its image alone.

    Attributes:
        seal: of the bundle.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        views: ViewPolicy | None = None,
        threshold: float | None = None,
        batch: int = 1,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be 1 or more, got {batch}")
        self.spec, self.seal = bundle.spec, bundle.seal
        self._views, self._threshold = views, threshold
        self._look(views or self.spec.calibration.views)
        self.batch_size = 1 if bundle.info.mixes_views else batch
        if batch > self.batch_size:
            logger.warning(
                "batch %d is not taken: views that this engine (%s) judges together change each "
                "other's logits, so it judges one at a time",
                batch,
                bundle.info.precision,
            )
        self._engine, self._again = engine, bundle.info.precision.again

    def _look(self, views: ViewPolicy) -> None:
        self.spec.check_views(views)
        self.policy = views
        self.calibration = with_threshold(self.spec.calibration_of(views), self._threshold)
        meant = self.calibration.views
        self.uncalibrated = (
            f"uncalibrated combination: views {views}, calibrated for {meant}"
            if views != meant
            else ""
        )
        """What to know of every verdict, where its calibration is of other views; mostly empty."""

    def for_streams(self) -> Screener:
        """The same, by the views and calibration of streams, unless it was told of others."""
        found = copy(self)
        found._look(self._views or self.spec.stream_views)
        return found

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        views: ViewPolicy | None = None,
        threshold: float | None = None,
        batch: int = 1,
        threads: int = 0,
    ) -> Screener:
        """Read and verify a bundle, load its engine, and make a screener of it.

        Args:
            threads: CPU threads of the engine; 0 takes all cores.
        """
        from mpft_deploy.bundle import read_bundle
        from mpft_deploy.engine import load_engine

        read = read_bundle(Path(bundle))
        engine = load_engine(read, threads=threads)
        return cls(read, engine, views=views, threshold=threshold, batch=batch)

    def __call__(self, frame: Any) -> Judgement:
        """Judge one frame, u8 [H, W, 3] RGB of any size; see `batch`."""
        return self.batch([frame])[0]

    def batch(self, frames: Sequence[Any]) -> list[Judgement]:
        """Judge frames, each u8 [H, W, 3] RGB of any size, in batches of `batch` views.

        An engine on a GPU takes frames on its device, too: arrays of torch, CuPy, PyCUDA and others
        with `__cuda_array_interface__` or DLPack, whose pixels stay there.

        Raises:
            UsageError: a frame is none, or lies on a device and the engine is not there.
        """
        return [done.judgement for done in self.judge([self._ready(frame) for frame in frames])]

    def watch(self, *addresses: str, **settings: object) -> Iterator[Event]:
        """Events of live streams, until all have ended: verdicts of frames and streams, states.

        Frames are judged by the views that the detector has for streams, unless this screener was
        told of others.

        >>> for event in Screener.open("bundle").watch("rtsp://camera/stream", decode="keyframes"):
        ...     print(event)

        Args:
            addresses: rtsp://, http(s)://, files and others; see docs/streams.md.
            settings: of every source; see `mpft_deploy.screen.streams.settings.SourceSettings`.

        Raises:
            UsageError: an address or setting is wrong.
        """
        from mpft_deploy.screen.streams.library import watch

        return watch(self, *addresses, **settings)

    @property
    def centre(self) -> int | None:
        """Side of the one view, where the centre of every picture is all that is judged."""
        return centre_alone(self.spec.crop, self.policy)

    def window(self, height: int, width: int, turn: int = 0, masks: Masks = ()) -> Window | None:
        """The one window that is judged of a picture of that size; None if it takes the whole."""
        return one_window(height, width, self.spec.crop, self.policy, turn, masks)

    def prepare(
        self,
        frame: U8,
        whole: tuple[int, int] | None = None,
        turn: int = 0,
        masks: Masks = (),
    ) -> Prepared:
        """Cut the views of a frame by this screener's policy; see `prepared.prepare`."""
        return prepare(self.spec, frame, self.policy, whole, turn, masks)

    def _ready(self, frame: Any) -> Prepared | OnDevice:
        if isinstance(frame, np.ndarray) or not lies_on_device(frame):
            if not hasattr(frame, "dtype"):
                raise UsageError(
                    f"a frame must be uint8 [H, W, 3], got {type(frame).__name__}: its pixels are "
                    "wanted, such as np.asarray(picture.convert('RGB')) of Pillow"
                )
            return self.prepare(frame)
        if not isinstance(self._engine, SeesViews):
            raise UsageError(
                "the frame lies on a CUDA device and this engine takes frames of the host: copy it "
                "there, or export the detector with --backend tensorrt, where the CUDA kernels are "
                "built (`mpft kernels`)"
            )
        return prepare_on_device(self.spec, frame, self.policy)

    def judge(
        self, frames: Sequence[Prepared | OnDevice], advance: Advance = lambda views, of: None
    ) -> list[Judged]:
        """Run the engine over the views of some frames and judge each frame.

        Args:
            advance: told after each call of the engine how many views are done, of how many.

        Raises:
            GateError: the engine gave a logit that is no finite number.
        """
        if not frames:
            return []
        judged = self._judge(self._engine, frames, advance)
        if self._again:
            logits = [one.judgement.logit for one in judged]
            near = [i for i, z in enumerate(logits) if self.calibration.is_near(z, self._again)]
            if near:
                finer = self._judge(wide_of(self._engine), [frames[i] for i in near])
                for index, one in zip(near, finer, strict=True):
                    judged[index] = one
        return judged

    def verdict_of(
        self, logit: float, views: int, looked_at: LookedAt, reason: str = ""
    ) -> Judgement:
        """The judgement that a logit means; "unsure" if there is a reason to give none."""
        probability = self.calibration.probability(logit)
        return Judgement(
            verdict="unsure" if reason else self.calibration.verdict(probability),
            probability=probability,
            logit=logit,
            views=views,
            looked_at=looked_at,
            reason=reason,
        )

    def _judge(
        self,
        engine: Engine,
        frames: Sequence[Prepared | OnDevice],
        advance: Advance = lambda views, of: None,
    ) -> list[Judged]:
        of, done = sum(len(frame.views) for frame in frames), 0
        judged: list[Judged] = []
        for _, some in itertools.groupby(frames, type):
            group = list(some)
            run, parts = self._runner(engine, group), []
            ends = np.cumsum([len(frame.views) for frame in group])
            views = int(ends[-1])
            for start in range(0, views, self.batch_size):
                part = slice(start, min(start + self.batch_size, views))
                parts.append(run(part))
                advance(done + part.stop, of)
            done += views
            seen = (np.split(np.concatenate(one), ends[:-1]) for one in zip(*parts, strict=True))
            for frame, logits, *scores in zip(group, *seen, strict=True):
                told = frame if isinstance(frame, Prepared) else frame.told(self.spec, *scores)
                judged.append(self._judged(logits, told))
        return judged

    def _runner(
        self, engine: Engine, frames: Sequence[Prepared | OnDevice]
    ) -> Callable[[slice], tuple[Any, ...]]:
        """Of frames of one kind: what runs a part of their views, and gives their logits first.

        Cells are packed where the pixels lie, so that no view is scored twice.
        """
        cut = [frame.patches for frame in frames if isinstance(frame, Prepared)]
        if cut:
            inputs = [np.concatenate([getattr(one, name) for one in cut]) for name in INPUTS]
            return lambda part: (engine.run(*(one[part] for one in inputs)),)
        views = [view for frame in frames for view in frame.views]
        return lambda part: cast("SeesViews", engine).run_views(self.spec, views[part])

    def _judged(self, logits: F32, frame: Prepared | Told) -> Judged:
        counted = logits[frame.telling]
        mean = float(np.mean(counted, dtype=np.float64))
        if not math.isfinite(mean):
            raise GateError(
                "the engine gave a logit that is no finite number, so no verdict of it can be "
                "trusted: prove the bundle with mpft verify, and export it again if that fails"
            )
        judgement = self.verdict_of(mean, len(counted), frame.looked_at, frame.reason)
        return Judged(judgement, logits)


def with_threshold(calibration: Calibration, threshold: float | None) -> Calibration:
    """The calibration with another threshold.

    An unsure band that ended at the old threshold ends at the new one; one that does not hold that
    goes.
    """
    if threshold is None:
        return calibration
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold must be a probability from 0 to 1, got {threshold}")
    low, high = calibration.unsure
    if low < high == calibration.threshold:
        high = threshold
    band = (low, high) if low <= threshold <= high else (threshold, threshold)
    return msgspec.structs.replace(calibration, threshold=threshold, unsure=band)
