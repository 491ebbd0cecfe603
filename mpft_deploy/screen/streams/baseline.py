"""What known-real frames of a camera taught: beside cameras.toml, in cameras.baselines.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from mpft_deploy.errors import InputError
from mpft_deploy.files import canonical_json, display, write_atomic
from mpft_deploy.screen.streams.areas import Box
from mpft_deploy.screen.streams.runs import Pool, Run
from mpft_deploy.spec import MALFORMED, Calibration, Probability, Record, Verdict, convert_record

VERSION = 1

SHORTEST = 600
"""Seconds with frames below which nothing is learnt of a camera."""

FALSE_ALARMS = 0.01
"""Share of the known-real frames that may reach the camera's own threshold."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Baseline(Record, frozen=True):
    """The log odds of a camera's known-real frames.

    Attributes:
        bundle: seal of the bundle that judged them; of another one they say nothing.
        offset: their mean.
        error: how far that may be off, as a standard deviation.
        spread: standard deviation of frames about it.
        correlation: time constant in seconds, of a first-order autoregression whose mean would be
            off as far.
        threshold: probability from which a frame of this camera is called generated: the bundle's,
            or higher, where more than FALSE_ALARMS of these frames reached that.
        frames, seconds: how many there were, and how many seconds had some.
        time: when it was learnt, seconds since the Unix epoch, UTC.
        box: of the region that it was learnt in; None for the whole picture. Of another part of the
            picture it says nothing.
    """

    bundle: str
    offset: float
    error: Positive
    spread: Positive
    correlation: NotNegative
    threshold: Probability
    frames: Annotated[int, msgspec.Meta(gt=0)]
    seconds: Annotated[int, msgspec.Meta(gt=0)]
    time: float
    box: Box | None = None

    def of_frame(self, verdict: Verdict, probability: float) -> Verdict:
        """The verdict of a frame of this camera, by its own threshold."""
        below = verdict == "generated" and probability < self.threshold
        return "unsure" if below else verdict


class _File(Record, frozen=True):
    kind: Literal["baselines"]
    version: int
    cameras: dict[str, Baseline]


def learn(
    frames: Sequence[tuple[float, float]],
    calibration: Calibration,
    bundle: str,
    time: float,
    box: Box | None = None,
) -> Baseline:
    """What known-real frames teach.

    Args:
        frames: time in seconds and logit of each, in order.
        bundle: seal of the bundle that judged them.
        time: now, seconds since the Unix epoch, UTC.
        box: of the region that they show; None for the whole picture.

    Raises:
        InputError: too few seconds have frames.
    """
    run, pool = Run(), Pool()
    seconds = [pool.add(calibration.log_odds(logit), True, now) for now, logit in frames]
    for second in [*seconds, pool.close()]:
        if second is not None:
            run.add(second)
    if run.seconds < SHORTEST:
        raise InputError(
            f"{run.seconds} seconds with frames are too few to learn a camera from: at least "
            f"{SHORTEST} are needed, and an hour is better"
        )
    spread = max(math.sqrt(run.within), 1e-3)
    error = math.sqrt(max(run.scatter(), spread**2 / run.seconds))
    chances = sorted(calibration.probability(logit) for _, logit in frames)
    reached = chances[len(chances) - 1 - math.floor(FALSE_ALARMS * len(chances))]
    return Baseline(
        bundle=bundle,
        offset=run.mean,
        error=error,
        spread=spread,
        correlation=min(1.0, (error / spread) ** 2) * run.age / 2,
        threshold=min(1.0, max(calibration.threshold, math.nextafter(reached, 1))),
        frames=len(frames),
        seconds=run.seconds,
        time=time,
        box=box,
    )


def baselines_path(config: Path) -> Path:
    """Where the baselines of a configuration's cameras are."""
    return config.with_suffix(".baselines.json")


def read_baselines(path: Path) -> dict[str, Baseline]:
    """Baselines by the name of their source; none where there is no such file.

    Raises:
        InputError: it cannot be read, or is not valid.
    """
    where = display(path)
    try:
        payload = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except MALFORMED as error:
        raise InputError(f"{where} is not valid JSON: {error}") from None
    version = payload.get("version") if isinstance(payload, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"{where} is of version {version}, from a newer mpft-deploy: use that")
    file: _File = convert_record(payload, _File, where)
    return file.cameras


def write_baseline(path: Path, name: str, baseline: Baseline) -> None:
    """Put a camera's baseline into the file, in place of an older one; whole or not at all."""
    cameras = read_baselines(path) | {name: baseline}
    file = _File(kind="baselines", version=VERSION, cameras=cameras)
    write_atomic(path, canonical_json(msgspec.to_builtins(file)))
