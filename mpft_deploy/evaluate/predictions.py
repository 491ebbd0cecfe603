"""The prediction matrix: one row for each image, protocol and keep rule, as Parquet.

Every table and picture follows from it, so no question about a detector needs the model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mpft_deploy.errors import InputError
from mpft_deploy.files import display, write_atomic
from mpft_deploy.spec import MALFORMED, Calibration, KeepRule, Record, ViewPolicy

VERSION = 5
HEADER = b"mpft.evaluation"

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("pixels", pa.string()),
        ("path", pa.string()),
        ("label", pa.int8()),
        ("set", _NAME),
        ("generator", _NAME),
        ("source", _NAME),
        ("protocol", _NAME),
        ("keep", _NAME),
        ("reason", _NAME),
        ("logit", pa.float32()),
        ("probability", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("format", _NAME),
        ("quality", pa.int8()),
        ("shrink", pa.float32()),
    ]
)
"""Columns: `sha256` of the image file, `pixels` that of what it decodes to, `path` relative to its
source, `label` 1 for generated, `reason` why it has no verdict whatever its logit, "" if it has;
from `width` on what the file says of itself, see `metadata.Metadata`."""


class Unreadable(Record, frozen=True):
    """An image that could not be decoded and was therefore not scored."""

    path: str
    reason: str


class Header(Record, frozen=True):
    """What the rows do not say.

    Attributes:
        model: for tables.
        calibration: what the probabilities follow from; it belongs to the rule `calibrated_keep`.
        keeps, protocols: in the order of tables.
        images: how many were given, unreadable ones included.
        views: how views were cut; a logit is the mean over them.
        benchmark: the one that the images are laid out as, "" if none; see `benchmarks`.
        reals: set without real images → the set whose real ones it is held against.
        contradicting: images whose very pixels are in both classes, and which are not scored.
        key: another one for another model, images or protocols.
    """

    version: int
    model: str
    calibration: Calibration
    calibrated_keep: str
    keeps: list[str]
    protocols: list[str]
    images: int
    key: str
    unreadable: tuple[Unreadable, ...] = ()
    views: ViewPolicy = "centre"
    benchmark: str = ""
    reals: dict[str, str] = msgspec.field(default_factory=dict)
    contradicting: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Predictions under one protocol and keep rule, all arrays [n].

    labels: i64, 1 for generated. reasons: why an image has no verdict, "" where it has one.
    logits: f64. probabilities: f64, of "generated".
    """

    digests: npt.NDArray[np.object_]
    paths: npt.NDArray[np.object_]
    labels: npt.NDArray[np.int64]
    sets: npt.NDArray[np.object_]
    generators: npt.NDArray[np.object_]
    sources: npt.NDArray[np.object_]
    reasons: npt.NDArray[np.object_]
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which of the images have a verdict."""
        mask: npt.NDArray[np.bool_] = self.reasons == ""
        return mask

    def where(self, chosen: npt.NDArray[Any]) -> Rows:
        """Some of the rows, by a mask or indices."""
        return Rows(**{name: value[chosen] for name, value in vars(self).items()})

    def by_set(self, reals: Mapping[str, str]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
        """Each set by name with the mask of its images, and of the real ones it borrows.

        Args:
            reals: set → the set whose real images it is held against, and which has no others.
        """
        out = []
        for name in sorted(set(self.sets.tolist()) - set(reals.values())):
            borrowed = (self.sets == reals.get(name, "")) & (self.labels == 0)
            out.append((name, (self.sets == name) | borrowed))
        return out


@dataclass(frozen=True)
class Predictions:
    """A prediction matrix as read; table: pyarrow, of SCHEMA."""

    header: Header
    table: pa.Table

    def under(self, protocol: str, keep: str) -> pa.Table:
        """The table's rows of one protocol and keep rule, in the order of the images."""
        import pyarrow.compute as pc

        return self.table.filter(
            pc.and_(pc.equal(self.table["protocol"], protocol), pc.equal(self.table["keep"], keep))
        )

    def rows(self, protocol: str, keep: str) -> Rows:
        """The predictions under one protocol and keep rule, in the order of the images."""
        table = self.under(protocol, keep)

        def column(name: str) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = table[name].to_numpy()
            return values

        return Rows(
            column("sha256"),
            column("path"),
            column("label").astype(np.int64),
            column("set"),
            column("generator"),
            column("source"),
            column("reason"),
            column("logit").astype(np.float64),
            column("probability"),
        )


def make_table(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """A table of SCHEMA from lists."""
    return pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA
    )


def write_predictions(path: Path, header: Header, tables: Sequence[pa.Table]) -> None:
    """Write one Parquet file, whole or not at all; the same rows give the same bytes."""
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    table = table.unify_dictionaries().combine_chunks()
    sink = pa.BufferOutputStream()
    metadata = {HEADER: msgspec.json.encode(header)}
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path) -> Predictions:
    """Read a prediction matrix; an InputError if it is none, damaged, or of another version."""
    where = display(path)
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        header = read_header(table.schema, where)
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror or error}") from None
    except pa.ArrowException as error:
        raise InputError(f"{where} is no Parquet file, or damaged: {error}") from None
    if table.schema.names != SCHEMA.names:
        raise InputError(f"{where} has other columns than a prediction matrix: make it again")
    return Predictions(header, table.replace_schema_metadata(None))


def is_predictions(path: Path) -> bool:
    """Whether a file is a prediction matrix, of any version."""
    try:
        return HEADER in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_header(schema: pa.Schema, where: str) -> Header:
    """The header in a Parquet file's schema."""
    stored = (schema.metadata or {}).get(HEADER)
    if stored is None:
        raise InputError(f"{where} was not written by mpft eval: it has no header")
    try:
        header = msgspec.json.decode(stored, type=Header)
    except MALFORMED as error:
        raise InputError(f"{where}: its header cannot be read ({error}); make it again") from None
    if header.version != VERSION:
        raise InputError(
            f"{where} has version {header.version}, this mpft-deploy reads {VERSION}: make it again"
        )
    return header


def probabilities(
    calibration: Calibration, logits: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Probabilities f64 of logits f32, as the runtime computes them."""
    return np.array([calibration.probability(float(logit)) for logit in logits.ravel()]).reshape(
        logits.shape
    )


def check_keep(keep: str, header: Header, where: str) -> str:
    """A keep rule as the header writes it; an InputError if the matrix has no such rule."""
    rule = str(KeepRule.parse(keep))
    if rule not in header.keeps:
        raise InputError(f"{where} has no predictions under {rule}, only {', '.join(header.keeps)}")
    return rule
