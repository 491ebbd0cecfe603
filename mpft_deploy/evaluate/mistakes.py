"""The worst mistakes: which they are, and what there was to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from mpft_deploy.errors import InputError
from mpft_deploy.evaluate.models import Model
from mpft_deploy.evaluate.predictions import Predictions
from mpft_deploy.evaluate.protocols import RAW
from mpft_deploy.evaluate.run import Entry
from mpft_deploy.files import PICTURES, display, sha256, write_atomic
from mpft_deploy.images import decode_image
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.packed import read_bytes
from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.picture import Picture, draw, thumbnail
from mpft_deploy.spec import MALFORMED, KeepRule
from mpft_deploy.views import crop_views

MISTAKES = "mistakes.msgpack"

WORST = 12
"""Mistakes of each class that are shown."""


@dataclass(frozen=True)
class Mistake:
    """An image that was decided wrongly, as it is, under the first keep rule; label 1 generated."""

    path: str
    label: int
    set: str
    generator: str
    probability: float
    picture: Picture


def collect(model: Model, predictions: Predictions, entries: Sequence[Entry]) -> list[Mistake]:
    """The worst mistakes of each class, those of real images first, each with its picture."""
    keep, spec = predictions.header.keeps[0], model.spec
    rows = predictions.rows(RAW, keep)
    margin = rows.probabilities - predictions.header.calibration.threshold
    by_name: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        by_name.setdefault((entry.name, entry.sample.set), []).append(entry)
    out = []
    for label, wrongness in ((0, margin), (1, -margin)):
        wrong = rows.judged & (rows.labels == label) & ((margin >= 0) == (label == 0))
        order = np.argsort(-wrongness, kind="stable")
        for place in order[wrong[order]][:WORST].tolist():
            named = by_name[rows.paths[place], rows.sets[place]]
            try:
                entry = next(
                    one
                    for one in named  # several have one name, where several sources were named
                    if sha256(read_bytes(one.sample.path)) == rows.digests[place]
                )
                frame = decode_image(entry.sample.path)
            except (InputError, StopIteration):  # gone since it was judged: nothing to show
                continue
            view, windows = crop_views(frame, spec.crop)
            prepared = Prepared(
                view,
                windows,
                frame.shape[:2],
                texture_patchify(view, spec.patch, KeepRule.parse(keep), spec.keep_seed),
                np.ones(1, bool),
            )
            logits = np.array([rows.logits[place]], np.float32)
            out.append(
                Mistake(
                    path=entry.name,
                    label=label,
                    set=entry.sample.set,
                    generator=entry.sample.generator,
                    probability=float(rows.probabilities[place]),
                    picture=draw(thumbnail(frame), prepared, logits),
                )
            )
    return out


def write_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """Write what the report shows, whole or not at all."""
    write_atomic(path, msgspec.msgpack.encode(list(mistakes)), mode=PICTURES)


def read_mistakes(path: Path) -> list[Mistake]:
    """What `write_mistakes` wrote; nothing if there is no such file."""
    if not path.exists():
        return []
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=list[Mistake])
    except MALFORMED as error:
        raise InputError(f"{display(path)} is damaged ({error}); remove it") from None
