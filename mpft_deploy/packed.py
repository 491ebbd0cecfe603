"""Images in Parquet files, as Hugging Face's data sets and Community Forensics keep them.

A row is named as if its file were a folder: `data/train-00000-of-00003.parquet/17` is the
eighteenth. Images are read group by group of rows, as the file has them, so a run in the order of
rows reads each once and holds two groups.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpft_deploy.errors import InputError
from mpft_deploy.extras import require
from mpft_deploy.files import display

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"

IMAGES = ("image", "image_data", "img", "jpg", "png", "webp", "picture")
LABELS = ("label", "labels", "class", "is_fake", "target")
GENERATORS = ("model_name", "model", "generator")
ORIGINS = ("real_source", "source", "repo")
SPLITS = ("split",)
MASKS = ("mask",)
"""Names of columns, the first that is there counts."""

SHARD = re.compile(r"([A-Za-z]+)-\d+(?:-of-\d+)?(?:-[0-9a-f]+)?\.parquet")
"""How a split's files are called."""

WITH_MASKS = {0: "real", 1: "full_synthetic", 2: "tampered"}
"""Numbers of classes of the data sets that have a mask of what was tampered with (SID-Set and
So-Fake, arXiv 2412.04292 and 2505.18660)."""

KEPT_GROUPS = 2
KEPT_FILES = 4


class Row(NamedTuple):
    """A row: its path, and what its columns say, "" where there is no such column."""

    path: Path
    label: str
    generator: str
    origin: str
    split: str


def is_packed(path: Path) -> bool:
    """Whether a path names a row of a Parquet file."""
    return path.parent.suffix.lower() == SUFFIX and path.name.isdecimal()


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files that a path is, or that lie under a folder, in the order of their names."""
    if source.is_file():
        return [source] if source.suffix.lower() == SUFFIX else []
    found = (path for path in source.rglob("*") if path.suffix.lower() == SUFFIX)
    return sorted(
        path
        for path in found
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(source).parts)
    )


def read_rows(path: Path) -> list[Row]:
    """What the rows of a Parquet file of labelled images say, without their images.

    Raises:
        InputError: it is damaged, or has no column of images or of labels; says what it has.
    """
    file = _open(path)
    import pyarrow as pa

    names, where = file.schema_arrow.names, display(path)
    _image_column(file.schema_arrow, where)
    label = _first(LABELS, names)
    if label is None:
        raise InputError(
            f"{where} has no column of labels ({', '.join(LABELS)}), only {', '.join(names)}: "
            "write one, or its images into class folders"
        )
    wanted = {
        "label": label,
        "generator": _first(GENERATORS, names),
        "origin": _first(ORIGINS, names),
        "split": _first(SPLITS, names),
    }
    try:
        table = file.read(columns=[name for name in wanted.values() if name is not None])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{where} cannot be read: {error}") from None
    columns = {
        key: [""] * table.num_rows
        if name is None
        else ["" if value is None else str(value) for value in table[name].to_pylist()]
        for key, name in wanted.items()
    }
    columns["label"] = _labels(table[label].to_pylist(), file.schema_arrow, label)
    stated = SHARD.fullmatch(path.name)
    if wanted["split"] is None and stated:
        columns["split"] = [stated[1]] * table.num_rows
    return [
        Row(path / str(row), *values)
        for row, values in enumerate(
            zip(*(columns[key] for key in ("label", "generator", "origin", "split")), strict=True)
        )
    ]


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file, or of the image in a row; an InputError if it has none."""
    if not is_packed(path):
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{display(path)}: {error.strerror}") from None
    status = _status(path.parent)
    data = _shard(path.parent, *status).image(int(path.name))
    if data is None:
        raise InputError(f"{display(path)}: no image in this row")
    return data


def state(path: Path) -> list[int]:
    """Size and time of change of an image's file; of a row, of the Parquet file."""
    return _status(path.parent if is_packed(path) else path)


def _status(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{display(path)}: {error.strerror}") from None
    return [status.st_size, status.st_mtime_ns]


def _open(path: Path) -> Any:
    """A pyarrow.parquet.ParquetFile."""
    require("eval", "data in Parquet files", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{display(path)} is no Parquet file, or damaged: {error}") from None


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """The first name that is there, in whatever case."""
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in wanted if name in lowered), None)


def _image_column(schema: pa.Schema, where: str) -> str:
    """The column of images: binary, or Hugging Face's struct of bytes and path."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(at).name == "bytes" for at in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    able = [field.name for field in schema if holds_bytes(field.type)]
    found = _first(IMAGES, able)
    if found is None and len(able) == 1:
        found = able[0]
    if found is None:
        raise InputError(
            f"{where} has no column of images ({', '.join(IMAGES)}) with their files' bytes, only "
            f"{', '.join(schema.names)}"
        )
    return found


def _labels(values: Sequence[Any], schema: pa.Schema, column: str) -> list[str]:
    """Labels as text: numbers by the names that Hugging Face keeps beside them, if it does."""
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(stored)["info"]["features"][column]["names"]
        known = dict(enumerate(map(str, names)))
    except (ValueError, KeyError, TypeError):
        known = {}
    if not known and _first(MASKS, schema.names) and set(values) <= WITH_MASKS.keys():
        known = WITH_MASKS
    return [
        known.get(value, str(value)) if isinstance(value, int) else str(value) for value in values
    ]


class _Shard:
    """A Parquet file whose images are read; any thread may ask."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        self._column = _image_column(self._file.schema_arrow, display(path))
        groups = self._file.metadata
        counts = (groups.row_group(at).num_rows for at in range(groups.num_row_groups))
        self._ends = list(itertools.accumulate(counts))
        self._kept: dict[int, Any] = {}
        self._lock = threading.Lock()

    def image(self, row: int) -> bytes | None:
        """The bytes of a row's image file; None if there are none, or no such row."""
        group = bisect.bisect_right(self._ends, row)
        if group == len(self._ends):
            return None
        with self._lock:
            if group not in self._kept:
                while len(self._kept) >= KEPT_GROUPS:
                    del self._kept[next(iter(self._kept))]
                table = self._file.read_row_group(group, columns=[self._column])
                self._kept[group] = table[self._column]
            begin = self._ends[group - 1] if group else 0
            value = self._kept[group][row - begin].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        return data if isinstance(data, bytes) else None


@functools.lru_cache(KEPT_FILES)
def _shard(path: Path, size: int, changed: int) -> _Shard:
    """The file as it was at that size and time."""
    return _Shard(path)
