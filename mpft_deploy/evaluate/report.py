"""From a prediction matrix to files: tables as Markdown, CSV and JSON, and one HTML report."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from markupsafe import Markup

from mpft_deploy import __version__
from mpft_deploy.evaluate.figures import drawings
from mpft_deploy.evaluate.mistakes import MISTAKES, Mistake, read_mistakes
from mpft_deploy.evaluate.predictions import Header, Predictions, is_predictions
from mpft_deploy.evaluate.run import PARTS, PREDICTIONS
from mpft_deploy.evaluate.streams import Streams, simulate
from mpft_deploy.evaluate.summary import Group, summarise
from mpft_deploy.evaluate.tables import (
    Table,
    as_csv,
    as_json,
    markdown,
    subject,
    tables,
    told_unsure,
)
from mpft_deploy.files import PICTURES, explain_unwritable, write_atomic
from mpft_deploy.pages import templates_beside
from mpft_deploy.standing import Kind, has_mark

TABLES, FIGURES_CSV, FIGURES_JSON, REPORT = (
    "tables.md",
    "metrics.csv",
    "metrics.json",
    "report.html",
)
COMPARISON = "comparison.json"
NAMES = (PREDICTIONS, PARTS, MISTAKES, TABLES, FIGURES_CSV, FIGURES_JSON, REPORT, COMPARISON)


def _own(folder: Path) -> Collection[str] | None:
    """What `mpft eval` writes into a folder; None if it wrote nothing of what is there."""
    parts = folder / PARTS
    present = [name for name in NAMES if (folder / name).exists()]
    begun = present == [PARTS] and parts.is_dir() and not any(parts.iterdir())
    known = (
        begun
        or any(map(is_predictions, (folder / PREDICTIONS, *parts.glob("*.parquet"))))
        or has_mark(folder / REPORT, b'name="generator" content="mpft eval"')
        or has_mark(folder / COMPARISON, b'{\n  "pairs": [')
    )
    return NAMES if known else None


OUTPUT = Kind("an evaluation", _own, into=NAMES)


def write_results(
    predictions: Predictions,
    out: Path,
    pictures: Path,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[list[Group], list[Streams], list[Table]]:
    """Write every table and the report into `out`, the same bytes for the same predictions.

    Args:
        pictures: the folder that may hold MISTAKES beside the predictions.
        report: told what takes long.
    """
    header = predictions.header
    groups, streams = summarise(predictions), simulate(predictions, report)
    shown = tables(header, groups, streams)
    page = render(predictions, groups, shown, read_mistakes(pictures / MISTAKES))
    with explain_unwritable(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / TABLES, markdown(header, groups, shown).encode())
    write_atomic(out / FIGURES_CSV, as_csv(groups).encode())
    write_atomic(out / FIGURES_JSON, as_json(header, groups, streams))
    write_atomic(out / REPORT, page.encode(), mode=PICTURES)
    return groups, streams, shown


def render(
    predictions: Predictions,
    groups: Sequence[Group],
    shown: Sequence[Table],
    mistakes: Sequence[Mistake],
) -> str:
    """The report as HTML that needs no other file and no network."""
    environment = templates_beside(__file__)
    environment.filters["bold"] = lambda cell: re.sub(r"^\*\*(.*)\*\*$", r"\1", cell)
    header: Header = predictions.header
    return environment.get_template("report.html").render(
        version=__version__,
        header=header,
        subject=subject(header),
        unsure=told_unsure(groups),
        tables=shown,
        drawings=[
            (keep, [(one, Markup(one.svg)) for one in drawings(predictions, keep)])
            for keep in header.keeps
        ],
        mistakes=mistakes,
    )
