"""Images in larger files: Parquet, what Hugging Face's `save_to_disk` writes, WebDataset's shards.

A row is named as if its file were a folder: `data/train-00000-of-00003.parquet/17` is the
eighteenth. Of Parquet, images are read group by group of rows, as the file has them, so a run in
the order of rows reads each once and holds two groups. A folder that was saved to disk goes by its
`state.json`, and is mapped into memory. What lies in a shard is named by the byte that it begins
at, see `mpft_deploy.shards`.
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

from mpft_deploy import shards
from mpft_deploy.errors import InputError
from mpft_deploy.extras import require
from mpft_deploy.files import display

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
SAVED = "state.json"
"""Of a folder that was saved to disk: what says which files hold it."""

IMAGES = ("image", "image_data", "img", "jpg", "png", "webp", "picture")
LABELS = ("label", "labels", "class", "is_fake", "target")
GENERATORS = ("model_name", "model", "generator")
ORIGINS = ("real_source", "source", "repo")
SPLITS = ("split",)
MASKS = ("mask",)
"""Names of columns, the first that is there counts."""

SHARD = re.compile(r"([A-Za-z]+)-\d+(?:-of-\d+)?(?:-[0-9a-f]+)?\.(?:parquet|tar)")
"""How a split's files are called."""

WITH_MASKS = {0: "real", 1: "full_synthetic", 2: "tampered"}
"""Numbers of classes of the data sets that have a mask of what was tampered with (SID-Set and
So-Fake, arXiv 2412.04292 and 2505.18660)."""

KEPT_GROUPS = 2
KEPT_FILES = 16
BLOCK = 64
"""Rows of a Parquet file that are best asked for together, since none is read without others."""


class Row(NamedTuple):
    """A row: its path, and what its columns say, "" where there is no such column."""

    path: Path
    label: str
    generator: str
    origin: str
    split: str


def is_packed(path: Path) -> bool:
    """Whether a path names a row of a file that holds many."""
    return path.name.isdecimal() and _kind(path.parent) != ""


def block_of(path: Path) -> tuple[Path, int] | None:
    """What an image is best read together with; None where it is read alone."""
    if not (is_packed(path) and _kind(path.parent) == SUFFIX):
        return None
    return path.parent, int(path.name) // BLOCK


def packed_files(source: Path) -> list[Path]:
    """The files of many rows that a path is, or that lie under a folder, in the order of names."""
    if source.is_file():
        return [source] if _kind(source) else []
    return sorted(
        path
        for path in source.rglob("*")
        if _kind(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and (path.name != SAVED or path.with_name("dataset_info.json").exists())
    )


def _kind(path: Path) -> str:
    """The name or suffix that a file of many rows is known by, "" if it is none."""
    known = path.name if path.name == SAVED else path.suffix.lower()
    return known if known in (SAVED, SUFFIX, shards.SUFFIX) else ""


def read_rows(path: Path) -> list[Row]:
    """What the rows of a file of labelled images say, without their images.

    Raises:
        InputError: it is damaged, or has no column of images or of labels; says what it has.
    """
    if _kind(path) == shards.SUFFIX:
        return _members(path)
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
    stated = file.split if isinstance(file, _Saved) else _split_of(path)
    if wanted["split"] is None and stated:
        columns["split"] = [stated] * table.num_rows
    return [
        Row(path / str(row), *values)
        for row, values in enumerate(
            zip(*(columns[key] for key in ("label", "generator", "origin", "split")), strict=True)
        )
    ]


def _members(path: Path) -> list[Row]:
    """The rows of a WebDataset's shard."""
    rows = []
    for member in shards.read_members(path):
        named = {
            key: _first(names, list(member.fields))
            for key, names in (
                ("label", LABELS), ("generator", GENERATORS), ("origin", ORIGINS), ("split", SPLITS)
            )
        }  # fmt: skip
        told = {key: "" if name is None else member.fields[name] for key, name in named.items()}
        if not told["label"]:
            stated = ", ".join(member.fields) or "nothing"
            raise InputError(
                f"{display(path / str(member.offset))}: no label, only {stated}; expected 0 or 1 "
                f"in a cls beside the image, or a json with one of {', '.join(LABELS)}"
            )
        row = Row(path / str(member.offset), **told)
        rows.append(row._replace(split=row.split or _split_of(path)))
    return rows


def _split_of(path: Path) -> str:
    """The split that a file's name states, "" if it states none."""
    stated = SHARD.fullmatch(path.name)
    return stated[1] if stated else ""


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file, or of the image in a row; an InputError if it has none."""
    if not is_packed(path):
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{display(path)}: {error.strerror}") from None
    status, row = _status(path.parent), int(path.name)
    if _kind(path.parent) == shards.SUFFIX:
        data = shards.read_member(path.parent, row)
    else:
        data = _shard(path.parent, *status).image(row)
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
    """A pyarrow.parquet.ParquetFile, or a _Saved."""
    require("eval", "data in Parquet or Arrow files", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _Saved(path) if path.name == SAVED else pq.ParquetFile(path)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        what = "no folder that was saved to disk" if path.name == SAVED else "no Parquet file"
        raise InputError(f"{display(path)} is {what}, or damaged: {error}") from None


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
    except (ValueError, KeyError, TypeError, RecursionError):
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
            return _data(self._kept[group][row - begin].as_py())


class _Saved:
    """A folder as Hugging Face's `save_to_disk` writes it; any thread may ask."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        state = json.loads(path.read_bytes())
        files = [path.parent / Path(one["filename"]).name for one in state["_data_files"]]
        self._table = pa.concat_tables(
            pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files
        )
        self.schema_arrow = self._table.schema
        self.split = str(state.get("_split") or "")

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns."""
        return self._table.select(columns)

    def image(self, row: int) -> bytes | None:
        """As `_Shard.image`."""
        if row >= self._table.num_rows:
            return None
        return _data(self._table[_image_column(self.schema_arrow, "")][row].as_py())


def _data(value: Any) -> bytes | None:
    """The bytes of an image's file in what a column holds."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


@functools.lru_cache(KEPT_FILES)
def _shard(path: Path, size: int, changed: int) -> _Shard | _Saved:
    """The file as it was at that size and time."""
    return _open(path) if path.name == SAVED else _Shard(path)
