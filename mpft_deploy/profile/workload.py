"""What is timed: one query, from a view or an image file to its verdict, with a mark at each stage.

A query calls the very functions that screening calls. Inputs rotate, so that no cache holds the
next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mpft_deploy.engine import Engine
from mpft_deploy.images import U8, read_picture
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.profile.timer import Now, now
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.views import centre_alone, crop_views
from mpft_deploy.weights import F32

Mark = Callable[[], None]
MOST_GROUP_BYTES = 64 * 2**20
FEWEST_GROUPS = 4


@runtime_checkable
class MarksCopies(Protocol):
    """An engine that copies its tensors, and can tell when it has."""

    def run_marked(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32], mark: Mark
    ) -> F32:
        """As `run`; calls `mark` after copying in and after the network, before copying out."""
        ...


@dataclass(frozen=True)
class Workload:
    """One kind of query.

    stages: names, in order.
    views: judged by one query.
    query: runs query number n and gives the time at its start and after each stage.
    """

    stages: tuple[str, ...]
    views: int
    query: Callable[[int], Sequence[int]]


def view_workload(
    engine: Engine,
    spec: DetectorSpec,
    crops: U8,
    *,
    count: int = 1,
    batch: int = 1,
    clock: Now = now,
) -> Workload:
    """From views in memory to verdicts.

    Args:
        crops: u8 [n, S, S, 3].
        count: views a query.
        batch: views in one call of the engine.
        clock: in nanoseconds.
    """
    size = crops[0].nbytes * count
    groups = max(FEWEST_GROUPS, len(crops) // count)
    groups = max(1, min(groups, len(crops), MOST_GROUP_BYTES // size))
    step = max(count, len(crops) // groups) if groups > 1 else 0
    inputs = [
        np.ascontiguousarray(crops[(group * step + np.arange(count)) % len(crops)])
        for group in range(groups)
    ]
    judge = _judge(engine, spec, batch, clock)

    def query(index: int) -> list[int]:
        marks = [clock()]
        judge(inputs[index % groups], marks)
        return marks

    return Workload((*_engine_stages(engine), "calibration"), count, query)


def file_workload(
    engine: Engine,
    spec: DetectorSpec,
    paths: Sequence[Path],
    *,
    count: int = 1,
    batch: int = 1,
) -> Workload:
    """From image files, mostly in the system's cache, to verdicts; see `view_workload`."""
    judge = _judge(engine, spec, batch, now)
    centre = centre_alone(spec.crop)

    def query(index: int) -> list[int]:
        chosen = [paths[(index * count + offset) % len(paths)] for offset in range(count)]
        marks = [now()]
        frames = [read_picture(path, centre=centre).pixels for path in chosen]
        marks.append(now())
        cut = np.concatenate([crop_views(frame, spec.crop)[0] for frame in frames])
        marks.append(now())
        judge(cut, marks)
        return marks

    stages = ("decode", "crop", *_engine_stages(engine), "calibration")
    return Workload(stages, count, query)


def _engine_stages(engine: Engine) -> tuple[str, ...]:
    marked = isinstance(engine, MarksCopies)
    return ("kernel", "copy in", "engine", "copy out") if marked else ("kernel", "engine")


def _judge(
    engine: Engine, spec: DetectorSpec, batch: int, clock: Now
) -> Callable[[U8, list[int]], None]:
    """From views to verdicts; appends a mark a stage, those of the parts of a batch summed."""
    keep, calibration = spec.keep_rule, spec.calibration

    def judge(cut: U8, marks: list[int]) -> None:
        packed = texture_patchify(cut, spec.patch, keep, spec.keep_seed)
        marks.append(clock())
        logits = run(packed.patches, packed.positions, marks)
        for logit in logits:
            calibration.verdict(calibration.probability(float(logit)))
        marks.append(clock())

    def run_plain(
        patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32], marks: list[int]
    ) -> list[float]:
        logits: list[float] = []
        for start in range(0, len(patches), batch):
            part = slice(start, start + batch)
            logits.extend(engine.run(patches[part], positions[part]))
        marks.append(clock())
        return logits

    def run_marked(
        patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32], marks: list[int]
    ) -> list[float]:
        assert isinstance(engine, MarksCopies)
        logits: list[float] = []
        spent = np.zeros(3, np.int64)
        for start in range(0, len(patches), batch):
            part, seen = slice(start, start + batch), [clock()]

            def mark(seen: list[int] = seen) -> None:
                seen.append(clock())

            logits.extend(engine.run_marked(patches[part], positions[part], mark))
            mark()
            spent += np.diff(seen)
        for part_time in spent:
            marks.append(marks[-1] + int(part_time))
        return logits

    run = run_marked if isinstance(engine, MarksCopies) else run_plain
    return judge
