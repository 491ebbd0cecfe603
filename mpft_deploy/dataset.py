"""Labelled images on disk: the folder layouts of the field, and CSV manifests."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpft_deploy.cores import available_cores
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display, printable
from mpft_deploy.finding import find_images
from mpft_deploy.images import decode_image
from mpft_deploy.layouts import CLASS_FOLDERS, SPLIT_FOLDERS, listing, read_folder
from mpft_deploy.packed import packed_files, read_rows, state

LABELS = {**CLASS_FOLDERS, "false": 0, "true": 1}
"""In a manifest or a column, in lower case → 0 real, 1 generated."""

BAD_SHARE = 0.01
"""Images that are left out, unreadable or copies of others; more are an error."""


@dataclass(frozen=True)
class Sample:
    """An image file with its label.

    label: 0 real, 1 generated.
    set, generator, licence: for reports; split: train, val, test or another name, None if unstated.
    source: where images come from that have much in common: folder, or what a manifest states.
    folder: its class folder in lower case; "" of a manifest, or if it was taken to be real.
    pixels: SHA-256 of its pixels, "" until they were decoded.
    """

    path: Path
    label: int
    set: str
    generator: str = ""
    split: str | None = None
    licence: str = ""
    source: str = ""
    folder: str = ""
    pixels: str = ""


def find_samples(
    sources: Iterable[Path], split: str | None = None, *, plain_is_real: bool = False
) -> list[Sample]:
    """Labelled images of folders, CSV manifests and Parquet files, in a fixed order.

    Folders are read by `layouts.read_folder`; files that hold many images, and folders of such, by
    `packed.read_rows`. A manifest has the columns path and label, and may have split, set,
    generator, licence and source (or repo); paths are relative to it.

    Args:
        sources: folders, or files that end in `.csv`, `.parquet` or `.tar`.
        split: leave out images that are stated to be of another split.
        plain_is_real: a folder without any class folder holds real images.

    Raises:
        InputError: a source is missing, malformed, not understood, or holds no labelled image of
            that split.
    """
    found: dict[tuple[Path, int], Sample] = {}  # one that has both labels stays both
    for source in sources:
        if source.suffix.lower() == ".csv":
            samples = _read_manifest(source)
        elif files := _packed(source):
            samples = _read_packed(source, files)
        else:
            samples = [
                Sample(
                    one.path,
                    one.label,
                    one.set,
                    one.generator,
                    one.split,
                    source=one.source,
                    folder=one.folder,
                )
                for one in read_folder(source, split=split, plain_is_real=plain_is_real)
            ]
        kept = [s for s in samples if split is None or s.split in (None, split)]
        if not kept:
            there = ", ".join(sorted({str(sample.split) for sample in samples}))
            raise InputError(f"{display(source)} holds no images of split {split}, only of {there}")
        found.update(((sample.path, sample.label), sample) for sample in kept)
    return list(found.values())


def describe_sets(samples: Sequence[Sample]) -> str:
    """The sets with their images of each class, in one line."""
    counts = Counter((sample.set, sample.label) for sample in samples)
    sets = sorted({name for name, _ in counts})
    return ", ".join(
        f"{name} ({counts[name, 0]} real, {counts[name, 1]} generated)" for name in sets
    )


def require_both_classes(samples: Sequence[Sample], what: str) -> None:
    """An InputError unless there are real and generated images."""
    counts = Counter(sample.label for sample in samples)
    if not (counts[0] and counts[1]):
        raise InputError(
            f"{what} has {counts[0]} real and {counts[1]} generated images; both are needed"
        )


def drop_unreadable(
    samples: Sequence[Sample],
    report: Callable[[str], None],
    *,
    share: float = BAD_SHARE,
) -> list[Sample]:
    """Decode every image once; leave out those that cannot be, each named through `report`.

    Returns:
        The others, with `pixels`.

    Raises:
        InputError: more than `share` of them cannot be decoded.
    """

    def decoded(sample: Sample) -> Sample | str:
        try:
            return replace(sample, pixels=pixel_digest(decode_image(sample.path)))
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(available_cores()) as pool:
        outcomes = list(pool.map(decoded, samples))
    bad = [text for text in outcomes if isinstance(text, str)]
    require_few(bad, len(samples), share)
    for text in bad:
        report(f"left out: {text}")
    return [one for one in outcomes if isinstance(one, Sample)]


def require_few(bad: Sequence[str], count: int, share: float = BAD_SHARE) -> None:
    """An InputError if more than a `share` of some images cannot be read, for the reasons given."""
    if len(bad) > share * count:
        raise InputError(
            f"{len(bad)} of {count} images cannot be read, more than {share:.0%}; the first: "
            f"{bad[0]}"
        )


def pixel_digest(frame: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of a frame, u8 [H, W, 3]: the same for copies in whatever file."""
    return hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).hexdigest()


def drop_contradicting(
    samples: Sequence[Sample], report: Callable[[str], None], *, share: float = BAD_SHARE
) -> list[Sample]:
    """Leave out images whose very pixels are both real and generated, and tell so.

    Args:
        samples: as `drop_unreadable` gives them.

    Raises:
        InputError: they are more than `share` of all.
    """
    labels: dict[str, set[int]] = {}
    for sample in samples:
        labels.setdefault(sample.pixels, set()).add(sample.label)
    bad = [sample for sample in samples if len(labels[sample.pixels]) > 1]
    if bad:
        told = f"{len(bad)} of {len(samples)} images are in both classes, such as {_some(bad)}"
        if len(bad) > share * len(samples):
            raise InputError(f"{told}: one of the labels is wrong; remove the copies")
        report(f"left out: {told}")
    return [sample for sample in samples if len(labels[sample.pixels]) == 1]


def drop_shared(
    train: Sequence[Sample],
    val: Sequence[Sample],
    report: Callable[[str], None],
    *,
    share: float = BAD_SHARE,
    by: Callable[[Sample], object] = attrgetter("pixels"),
) -> list[Sample]:
    """The training images that are not in the validation data too; tells of the others.

    Args:
        by: what is the same of the same images: their pixels, which `drop_unreadable` gives, or
            their paths.

    Raises:
        UsageError: more than `share` of the validation images are training images too.
    """
    held_out, learnt = ({by(sample) for sample in samples} for samples in (val, train))
    bad = [sample for sample in val if by(sample) in learnt]
    if bad:
        told = (
            f"{len(bad)} of {len(val)} validation images are in both the training and the "
            f"validation data, as the same file or a copy, such as {_some(bad)}"
        )
        if len(bad) > share * len(val):
            raise UsageError(f"{told}; name other images to validate on with --val")
        report(f"left out of training: {told}")
    return [sample for sample in train if by(sample) not in held_out]


def _some(samples: Sequence[Sample]) -> str:
    return " and ".join(display(sample.path) for sample in sorted(samples, key=_by_pixels)[:2])


def _by_pixels(sample: Sample) -> tuple[str, str]:
    return sample.pixels, str(sample.path)


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 over names, sizes and labels: another when images come, go or change their label."""
    digest = hashlib.sha256()
    for sample in samples:
        line = f"{display(sample.path.name)}\0{state(sample.path)[0]}\0{sample.label}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _packed(source: Path) -> list[Path]:
    """The files of many images that a source is or holds; none of a folder of image files.

    Beside those, archives are what the images were unpacked from, and others an error.
    """
    files = packed_files(source)
    if not files or not source.is_dir() or (image := next(find_images(source), None)) is None:
        return files
    if files := [file for file in files if file.suffix.lower() != ".tar"]:
        raise InputError(
            f"{display(source)} holds files of many images, such as {display(files[0])}, and image "
            f"files, such as {display(image)}: name the folder of either"
        )
    return []


def _read_packed(source: Path, files: Sequence[Path]) -> list[Sample]:
    """The rows of such files; a set is the first folder below the source, or the source."""
    root = source if source.is_dir() else source.parent
    out: list[Sample] = []
    unknown: Counter[str] = Counter()
    for shard in files:
        above = [name for name in shard.relative_to(root).parts[:-1] if name.lower() != "data"]
        splits = [SPLIT_FOLDERS[name.lower()] for name in above if name.lower() in SPLIT_FOLDERS]
        named = next((name for name in above if name.lower() not in SPLIT_FOLDERS), "")
        own = named or root.resolve().name
        for row in read_rows(shard):
            label = LABELS.get(row.label.lower())
            if label is None:
                unknown[row.label] += 1
                continue
            split = row.split or (splits[-1] if splits else "")
            generator = (row.generator or row.label) if label else ""
            source_of = row.origin or row.generator or row.label
            out.append(
                Sample(
                    row.path,
                    label,
                    display(own),
                    display(generator),
                    SPLIT_FOLDERS.get(split.lower(), split) or None,
                    source=display(f"{own}/{source_of}"),
                )
            )
    if unknown:
        raise InputError(
            f"{display(source)} has labels that are not understood: {listing(unknown)}; expected 0 "
            "or real, 1 or fake"
        )
    if not out:
        raise InputError(f"{display(source)} holds no images in {len(files)} files")
    return out


def _read_manifest(path: Path) -> list[Sample]:
    where = display(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if not {"path", "label"} <= columns:
                raise InputError(f"{where} needs the columns path and label in its first line")
            rows = [_by_row(path, reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} is not a CSV file in UTF-8: {error}") from None
    if not rows:
        raise InputError(f"{where} holds no labelled images: there is no line after the first")
    return rows


def _by_row(manifest: Path, line: int, row: dict[str, str | None]) -> Sample:
    def cell(name: str) -> str:
        return printable((row.get(name) or "").strip())  # they are shown

    label, path = cell("label").lower(), (row.get("path") or "").strip()
    if label not in LABELS or not path or "\0" in path:
        raise InputError(
            f"{display(manifest)}, line {line}: needs a path, and a label of 0 or real, 1 or fake"
        )
    return Sample(
        manifest.parent / path,
        LABELS[label],
        cell("set") or display(manifest.parent.resolve().name),
        cell("generator"),
        cell("split") or None,
        cell("licence"),
        cell("source") or cell("repo") or cell("set"),
    )
