"""Images to predictions: decoded ahead in threads, written in parts, so that a run can go on.

A part holds the predictions of a fixed range of images. A run that was stopped, by whatever, finds
the parts that it wrote and makes the others; the file is the same as if it had not been stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mpft_deploy.ahead import ahead
from mpft_deploy.benchmarks import benchmark_of, paired_reals
from mpft_deploy.cores import available_cores
from mpft_deploy.dataset import Sample, find_samples, pixel_digest
from mpft_deploy.errors import GateError, InputError, UsageError
from mpft_deploy.evaluate.metadata import Metadata, read_metadata
from mpft_deploy.evaluate.models import Model
from mpft_deploy.evaluate.predictions import (
    SCHEMA,
    VERSION,
    Header,
    Predictions,
    Unreadable,
    make_table,
    probabilities,
    read_predictions,
    write_predictions,
)
from mpft_deploy.evaluate.protocols import changed_frames
from mpft_deploy.evaluate.scores import mean_over_views
from mpft_deploy.files import canonical_json, display, explain_unwritable, sha256
from mpft_deploy.images import U8, decode_image
from mpft_deploy.packed import read_bytes, state
from mpft_deploy.prepared import prepare, turn_of
from mpft_deploy.spec import ViewPolicy

PREDICTIONS, PARTS = "predictions.parquet", "parts"

PART = 128
"""Images in a part: what an interruption may cost."""

BATCH = 16
"""Views that the model is given at a time, or more, under all protocols."""


@dataclass(frozen=True)
class Entry:
    """An image to judge; name: its path relative to the source that it was found in."""

    sample: Sample
    name: str


class Loaded(NamedTuple):
    """An image made ready: digests of its file and its pixels, what its file says of itself, and by
    protocol the views that count, u8 [V, S, S, 3], and why there is no verdict, or ""."""

    digest: str
    pixels: str
    metadata: Metadata
    views: list[U8]
    reasons: list[str]


def find_entries(
    sources: Sequence[Path],
    *,
    split: str | None = None,
    limit: int | None = None,
    plain_is_real: bool = False,
) -> list[Entry]:
    """The images of some folders and manifests, each once, in a fixed order.

    Args:
        split: leave out images that are stated to be of another split.
        limit: at most this many of each set and class, drawn by a hash of their names.
        plain_is_real: a folder without any class folder holds real images.

    Raises:
        InputError: as `find_samples`.
    """
    found: dict[tuple[Path, int], Entry] = {}
    for source in sources:
        base = source if source.is_dir() else source.parent
        for sample in find_samples([source], split, plain_is_real=plain_is_real):
            try:
                name = sample.path.relative_to(base)
            except ValueError:  # a manifest may name files anywhere
                name = Path(sample.path.name)
            found[sample.path, sample.label] = Entry(sample, display(name))
    if limit is None:
        return list(found.values())
    kept: set[tuple[Path, int]] = set()
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in found.values():
        groups.setdefault((entry.sample.set, entry.sample.label), []).append(entry)
    for group in groups.values():
        drawn = sorted(group, key=lambda entry: sha256(entry.name.encode()))[:limit]
        kept.update((entry.sample.path, entry.sample.label) for entry in drawn)
    return [entry for key, entry in found.items() if key in kept]


def evaluate(
    model: Model,
    entries: Sequence[Entry],
    protocols: Sequence[str],
    out: Path,
    *,
    views: ViewPolicy = "centre",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """Predict all images and write `predictions.parquet` in `out`, or go on with that.

    Images whose very pixels are in both classes are left out: one of the labels is wrong.

    Args:
        views: how views are cut; the logit of an image is the mean over them.
        overwrite: drop what `out` holds of another run.
        progress: told after each part how many images are done.

    Raises:
        UsageError: `out` holds predictions of other inputs.
        GateError: the model gave a logit that is no finite number.
        InputError: no image could be decoded, or all are in both classes.
    """
    folders = {(one.sample.set, one.sample.folder, one.sample.label) for one in entries}
    header = Header(
        version=VERSION,
        model=model.name,
        calibration=model.spec.calibration_of(views),
        calibrated_keep=model.spec.keep,
        keeps=list(model.keeps),
        protocols=list(protocols),
        images=len(entries),
        key=run_key(model, entries, protocols, views),
        views=views,
        benchmark=benchmark_of(folders),
        reals=paired_reals(folders),
    )
    target, parts = out / PREDICTIONS, out / PARTS
    if overwrite:
        _drop(parts)
        target.unlink(missing_ok=True)
    if target.exists():
        done = read_predictions(target)
        if done.header.key != header.key:
            raise _other_inputs(out)
        progress(len(entries))
        return done
    with explain_unwritable(parts):
        parts.mkdir(parents=True, exist_ok=True)
    read = [
        _part(model, entries, start, header, parts, progress)
        for start in range(0, len(entries), PART)
    ]
    unreadable = tuple(bad for part in read for bad in part.header.unreadable)
    if len(unreadable) == len(entries):
        raise InputError(
            f"none of the {len(entries)} images can be decoded; the first: "
            f"{unreadable[0].path}: {unreadable[0].reason}"
        )
    table, contradicting = without_contradictions(pa.concat_tables(part.table for part in read))
    if not table.num_rows:
        raise InputError("every image is in both classes: the labels cannot be right")
    whole = msgspec.structs.replace(header, unreadable=unreadable, contradicting=contradicting)
    write_predictions(target, whole, [table])
    _drop(parts)
    # Read back, so that a first run and a later one draw from the very same values.
    return read_predictions(target)


def without_contradictions(table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows of images whose pixels have one label, and the paths of the others."""
    labels: dict[str, set[int]] = {}
    for pixels, label in zip(table["pixels"].to_pylist(), table["label"].to_pylist(), strict=True):
        labels.setdefault(pixels, set()).add(label)
    good = pa.array(len(labels[pixels]) == 1 for pixels in table["pixels"].to_pylist())
    bad = table.filter(pc.invert(good))["path"].to_pylist() if len(table) else []
    return table.filter(good), tuple(dict.fromkeys(bad))


def _drop(parts: Path) -> None:
    """Remove the parts, and their folder unless it holds something else."""
    for path in parts.glob("*.parquet"):
        path.unlink()
    with contextlib.suppress(OSError):
        parts.rmdir()


def run_key(
    model: Model, entries: Sequence[Entry], protocols: Sequence[str], views: ViewPolicy
) -> str:
    """SHA-256 over all that the predictions depend on; files by name, size and time of change."""
    images = []
    for entry in entries:
        sample = entry.sample
        try:
            changed = state(sample.path)
        except InputError:
            changed = []
        told = [sample.label, sample.set, sample.generator, sample.source]
        images.append([entry.name, *told, *changed])
    return sha256(
        canonical_json(
            {
                "model": [model.name, model.identity],
                "keeps": list(model.keeps),
                "protocols": list(protocols),
                "views": views,
                "images": images,
            }
        )
    )


def _part(
    model: Model,
    entries: Sequence[Entry],
    start: int,
    header: Header,
    folder: Path,
    progress: Callable[[int], None],
) -> Predictions:
    """The part that begins with an image: read if it is there, else predicted and written."""
    path = folder / f"{start // PART:06}.parquet"
    chosen = entries[start : start + PART]
    if not path.exists():
        _predict(model, chosen, header, path)
    part = read_predictions(path)
    if part.header.key != header.key:
        raise _other_inputs(folder.parent)
    progress(start + len(chosen))
    return part


def _predict(model: Model, entries: Sequence[Entry], header: Header, path: Path) -> None:
    """Predict some images and write them as a part."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    unreadable: list[Unreadable] = []

    def load(entry: Entry) -> Loaded | str:
        """What is to be judged of an image.

        Or why the image cannot be decoded, or saved as a protocol says.
        """
        try:
            frame = decode_image(entry.sample.path)
            data = read_bytes(entry.sample.path)
            digest, pixels, cut, reasons = sha256(data), pixel_digest(frame), [], []
            for changed in changed_frames(frame, header.protocols, digest):
                prepared = prepare(model.spec, changed, header.views, turn=turn_of(pixels))
                cut.append(prepared.views[prepared.telling])
                reasons.append(prepared.reason)
        except InputError as error:
            return str(error).removeprefix(display(entry.sample.path)).lstrip(": ")
        return Loaded(digest, pixels, read_metadata(data), cut, reasons)

    def flush(batch: list[tuple[Entry, Loaded]]) -> None:
        if not batch:
            return
        cut = [crops for _, loaded in batch for crops in loaded.views]
        logits = mean_over_views(model.logits(np.concatenate(cut)), [len(crops) for crops in cut])
        if not np.isfinite(logits).all():
            raise GateError(
                f"{model.name} gave a logit that is no finite number, so nothing it says can be "
                "trusted: prove it with mpft verify, and make it again if that fails"
            )
        cube = logits.reshape(len(header.keeps), len(batch), len(header.protocols))
        chances = probabilities(header.calibration, cube)
        for image, (entry, loaded) in enumerate(batch):
            sample = entry.sample
            for place, protocol in enumerate(header.protocols):
                for rule, keep in enumerate(header.keeps):
                    values = (
                        loaded.digest,
                        loaded.pixels,
                        entry.name,
                        sample.label,
                        sample.set,
                        sample.generator,
                        sample.source,
                        protocol,
                        keep,
                        loaded.reasons[place],
                        cube[rule, image, place],
                        chances[rule, image, place],
                        *loaded.metadata,
                    )
                    for column, value in zip(columns.values(), values, strict=True):
                        column.append(value)

    batch: list[tuple[Entry, Loaded]] = []
    waiting, workers = 0, available_cores()
    with ThreadPoolExecutor(workers) as pool:
        ready = ahead(load, entries, pool, depth=2 * workers)
        for entry, outcome in zip(entries, ready, strict=True):
            if isinstance(outcome, str):
                unreadable.append(Unreadable(path=entry.name, reason=outcome))
                continue
            batch.append((entry, outcome))
            waiting += sum(map(len, outcome.views))
            if waiting >= BATCH * len(header.protocols):
                flush(batch)
                batch, waiting = [], 0
        flush(batch)
    part = msgspec.structs.replace(header, unreadable=tuple(unreadable))
    write_predictions(path, part, [make_table(columns)])


def _other_inputs(out: Path) -> UsageError:
    return UsageError(
        f"{display(out)} holds predictions of another model, other images or other protocols; "
        "name another folder or pass --overwrite"
    )
