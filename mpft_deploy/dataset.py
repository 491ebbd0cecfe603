"""Labelled images on disk: the folder layouts of the field, and CSV manifests."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display
from mpft_deploy.images import decode_image, find_images

REAL_FOLDERS = frozenset(("0_real", "real", "nature", "0"))
FAKE_FOLDERS = frozenset(("1_fake", "fake", "ai", "generated", "1"))
REAL_LABELS = frozenset(("0", "real"))
FAKE_LABELS = frozenset(("1", "fake", "generated", "ai"))
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

BAD_SHARE = 0.01
"""Unreadable images that are left out; more are an error."""


@dataclass(frozen=True)
class Sample:
    """An image file with its label.

    label: 0 real, 1 generated.
    set, generator, licence: for reports; split: train, val, test or another name, None if unstated.
    """

    path: Path
    label: int
    set: str
    generator: str = ""
    split: str | None = None
    licence: str = ""


def find_samples(sources: Iterable[Path], split: str | None = None) -> list[Sample]:
    """Labelled images of folders and CSV manifests, in a fixed order.

    In a folder, the nearest class folder above an image gives its label (`0_real` and `1_fake`,
    `real` and `fake`, `nature` and `ai`, at any depth), the first other folder its set (the
    folder's own name if there is none), and a folder such as `train` or `val` its split. A manifest
    has the columns path and label, and may have split, set, generator and licence; paths are
    relative to it.

    Args:
        sources: folders or `.csv` files.
        split: leave out images that are stated to be of another split.

    Raises:
        InputError: a source is missing, malformed, or holds no labelled image of that split.
    """
    found: dict[Path, Sample] = {}
    for source in sources:
        samples = _read_manifest(source) if source.suffix.lower() == ".csv" else _walk(source)
        if not samples:
            raise InputError(
                f"{display(source)} holds no labelled images; expected folders such as 0_real and "
                "1_fake, real and fake, or nature and ai, or a CSV with the columns path,label"
            )
        kept = [s for s in samples if split is None or s.split in (None, split)]
        if not kept:
            there = ", ".join(sorted({str(sample.split) for sample in samples}))
            raise InputError(f"{display(source)} holds no images of split {split}, only of {there}")
        found.update((sample.path, sample) for sample in kept)
    return list(found.values())


def require_both_classes(samples: Sequence[Sample], what: str) -> None:
    """An InputError unless there are real and generated images."""
    counts = Counter(sample.label for sample in samples)
    if not (counts[0] and counts[1]):
        raise InputError(
            f"{what} has {counts[0]} real and {counts[1]} generated images; both are needed"
        )


def require_disjoint(train: Sequence[Sample], val: Sequence[Sample]) -> None:
    """A UsageError if an image file serves both training and validation."""
    shared = {s.path.resolve() for s in train} & {s.path.resolve() for s in val}
    if shared:
        raise UsageError(
            f"{len(shared)} images are in both the training and the validation data, such as "
            f"{display(min(shared))}; name other images to validate on with --val"
        )


def drop_unreadable(
    samples: Sequence[Sample],
    report: Callable[[str], None],
    *,
    share: float = BAD_SHARE,
    workers: int = 2,
) -> list[Sample]:
    """Decode every image once and leave out those that cannot be, each named through `report`.

    Raises:
        InputError: more than `share` of them cannot be decoded.
    """

    def problem(sample: Sample) -> str | None:
        try:
            decode_image(sample.path)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as pool:
        problems = list(pool.map(problem, samples))
    bad = [text for text in problems if text is not None]
    if len(bad) > share * len(samples):
        raise InputError(
            f"{len(bad)} of {len(samples)} images cannot be read, more than {share:.0%}; "
            f"the first: {bad[0]}"
        )
    for text in bad:
        report(f"left out: {text}")
    return [sample for sample, text in zip(samples, problems, strict=True) if text is None]


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 over names, sizes and labels: another when images come, go or change their label."""
    digest = hashlib.sha256()
    for sample in samples:
        line = f"{display(sample.path.name)}\0{sample.path.stat().st_size}\0{sample.label}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _walk(folder: Path) -> list[Sample]:
    if not folder.is_dir():
        raise InputError(f"{display(folder)}: no such folder or .csv file")
    return [
        sample for path in find_images(folder) if (sample := _by_folders(folder, path)) is not None
    ]


def _by_folders(root: Path, path: Path) -> Sample | None:
    """The sample at `path` by the names of its folders; None if none of them is a class."""
    label = split = None
    others = []
    for name in path.relative_to(root).parts[:-1]:
        lowered = name.lower()
        if lowered in REAL_FOLDERS | FAKE_FOLDERS:
            label = int(lowered in FAKE_FOLDERS)
        elif lowered in SPLIT_FOLDERS:
            split = SPLIT_FOLDERS[lowered]
        else:
            others.append(name)
    if label is None:
        return None
    name = others[0] if others else root.resolve().name
    return Sample(path, label, display(name), display(name) if label else "", split)


def _read_manifest(path: Path) -> list[Sample]:
    where = display(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if not {"path", "label"} <= columns:
                raise InputError(f"{where} needs the columns path and label in its first line")
            return [_by_row(path, reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} is not a CSV file in UTF-8: {error}") from None


def _by_row(manifest: Path, line: int, row: dict[str, str | None]) -> Sample:
    def cell(name: str) -> str:
        return (row.get(name) or "").strip()

    label = cell("label").lower()
    if label not in REAL_LABELS | FAKE_LABELS or not cell("path"):
        raise InputError(
            f"{display(manifest)}, line {line}: needs a path, and a label of 0 or real, 1 or fake"
        )
    return Sample(
        manifest.parent / cell("path"),
        int(label in FAKE_LABELS),
        cell("set") or manifest.parent.resolve().name,
        cell("generator"),
        cell("split") or None,
        cell("licence"),
    )
