"""What the commands print with: progress on a terminal, plain lines elsewhere, JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that tells the step of long work, on standard error."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield status.update
    else:
        yield lambda text: click.echo(text, err=True)


def emit_json(value: Any) -> None:
    """Print a record, or anything of builtins and records, as one line of JSON."""
    click.echo(msgspec.json.encode(value).decode())


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output; file names and other text are shown as they are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    Console().print(grid)


def comparison_rows(name: str, comparison: Any) -> list[list[str]]:
    """Rows of a certificate's `Comparison`, for `table`."""
    low, high = comparison.flip_interval
    difference = comparison.logit_difference
    return [
        [f"{name}: images", str(comparison.images)],
        [f"{name}: reference", comparison.reference],
        [
            f"{name}: flips",
            f"{comparison.flips} ({comparison.flip_share:.2%}, 95 % interval "
            f"{low:.2%} to {high:.2%}), decisive {comparison.decisive_flips}",
        ],
        [
            f"{name}: logit difference",
            " ".join(f"{key} {value:.3g}" for key, value in difference.items()),
        ],
    ]


def certificate_rows(certificate: Any) -> list[list[str]]:
    """Rows of a whole `Certificate`, for `table`."""
    if certificate.golden is None:
        return [
            ["proof", f"none yet: {certificate.not_run}"],
            ["to prove it", "run `mpft verify` on the device"],
        ]
    rows = comparison_rows("golden", certificate.golden)
    if certificate.images is not None:
        rows += comparison_rows("images", certificate.images)
    verdict = "PASSED" if certificate.passed else "FAILED"
    return [*rows, ["budget", f"{certificate.budget}: {verdict}"]]


def latency_rows(latency: Any) -> list[list[str]]:
    """Milliseconds of a view at p50, p90 and p99; no row for an engine that never ran."""
    if latency is None:
        return []
    quantiles = latency.total_ms
    text = " ".join(f"{key} {quantiles[key]:.2f}" for key in ("p50", "p90", "p99"))
    return [["latency of a view", f"{text} ms"]]
