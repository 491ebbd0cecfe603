"""What the commands print with: progress on a terminal, plain lines elsewhere, JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from mpft_deploy.cli.standard import fitting, is_terminal


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that tells the step of long work, on standard error."""
    if is_terminal(sys.stderr):
        from rich.console import Console

        console = Console(stderr=True)
        spinner = "dots" if console.encoding.startswith("utf") else "line"
        with console.status("starting", spinner=spinner) as status:
            yield status.update
    else:
        yield lambda text: click.echo(text, err=True)


def emit_json(value: Any) -> None:
    """Print a record, or anything of builtins and records, as one line of JSON in ASCII."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    click.echo("".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text))


PLAIN_WIDTH = 200
"""Columns that a table may take where there is no terminal to tell its width."""


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output; file names and other text are shown as they are, but for
    what would write on the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mpft_deploy.files import printable_lines

    def shown(text: str) -> Text:
        return Text(fitting(printable_lines(text)))

    grid = Table(title=shown(title), title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(shown(column), overflow="fold")
    for row in rows:
        grid.add_row(*map(shown, row))
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(grid)


def comparison_rows(name: str, comparison: Any) -> list[list[str]]:
    """Rows of a certificate's `Comparison`, for `table`."""
    low, high = comparison.flip_bounds
    difference = comparison.logit_difference
    left_out = ", ".join(f"{count} {why}" for why, count in comparison.left_out.items())
    not_finite = f", {comparison.not_finite} not finite" if comparison.not_finite else ""
    return [
        [
            f"{name}: images",
            f"{comparison.images}" + (f" (left out: {left_out})" if left_out else ""),
        ],
        [f"{name}: reference", comparison.reference],
        [
            f"{name}: flips",
            f"{comparison.flips} ({comparison.flip_share:.2%}; of all at least {low:.2%}, at "
            f"most {high:.2%}, at 95 % confidence), decisive {comparison.decisive_flips}"
            + not_finite,
        ],
        [
            f"{name}: logit difference",
            " ".join(
                f"{key} {'not finite' if value is None else format(value, '.3g')}"
                for key, value in difference.items()
            ),
        ],
    ]


def certificate_rows(certificate: Any) -> list[list[str]]:
    """Rows of a whole `Certificate`, for `table`."""
    from mpft_deploy.bundle import PUBLISHED

    if certificate.smoke_test is None:
        return [
            ["proof", f"none yet: {certificate.not_run}"],
            ["to run it", "run `mpft verify` on the device"],
        ]
    rows = smoke_rows(certificate.smoke_test, certificate.smoke_faults)
    if certificate.images is None:
        why = certificate.not_judged or "no images to judge verdicts by"
        return [*rows, ["verdicts", f"NOT PROVEN: {why}; export with --images FOLDER"]]
    if certificate.published is not None:
        rows.append(["verdicts", PUBLISHED])
    rows += comparison_rows("images", certificate.images)
    rows += [[f"budget {one.term}", one.reason] for one in certificate.findings]
    return [*rows, ["budget", f"{certificate.budget}: {certificate.answer.upper()}"]]


def smoke_rows(smoke_test: Any, faults: list[str]) -> list[list[str]]:
    """Rows of a smoke test, for `table`: it proves nothing about verdicts, and its flips say less
    than its differences."""
    result = f"FAILED: {'; '.join(faults)}" if faults else "passed"
    (_, count), (_, reference), _, (_, difference) = comparison_rows("", smoke_test)
    if smoke_test.logit_difference.get("max") == 0:
        difference = "none: equal in every bit"
    return [
        ["smoke test", f"{result} on {count} drawn crops, against {reference}"],
        ["smoke test: logit difference", difference],
    ]


def latency_rows(latency: Any) -> list[list[str]]:
    """Milliseconds of a view at the percentiles that were measured; none of what never ran."""
    if latency is None:
        return []
    quantiles = latency.total_ms
    text = " ".join(
        f"{key} {quantiles[key]:.2f}" for key in ("p50", "p90", "p99") if key in quantiles
    )
    rows = [["latency of a view", f"{text} ms ({latency.samples} views)"]]
    if latency.disturbed:
        rows.append(["", f"DISTURBED: {'; '.join(latency.disturbed)}; see `mpft profile`"])
    return rows


PLAIN_SECONDS = 15.0
"""How often progress is told where there is no terminal."""


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many are done; shows that and the time left, on stderr.

    What is done at the first call is taken as done before, and left out of the speed.
    """
    if is_terminal(sys.stderr):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), what, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield _Plain(total, what).tell


class _Plain:
    """Progress as a line from time to time, for logs."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._began = self._told = time.monotonic()
        self._first: int | None = None

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        if now - self._told < PLAIN_SECONDS and done < self._total:
            return
        self._told = now
        text = f"{done}/{self._total} {self._what}"
        if self._first < done < self._total:
            left = (now - self._began) / (done - self._first) * (self._total - done)
            text += f", {left / 60:.1f} minutes left"
        click.echo(text, err=True)


def parse_share(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Callback of an option: a share such as 5% or 0.05, above 0 and below 1, as a fraction."""
    if value is None:
        return None
    text = value.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no share: write 5% or 0.05") from None
    if not 0 < share < 1:
        raise click.BadParameter(f"{text!r} must be above 0 and below 100%: write 5% or 0.05")
    return share
