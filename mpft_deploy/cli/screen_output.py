"""What `mpft screen` shows of files: progress, and a table for people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpft_deploy.cli.console import PLAIN_WIDTH

if TYPE_CHECKING:
    from mpft_deploy.screen.results import Result

STYLES = {"generated": "bold red", "unsure": "yellow", "real": "green"}

PROGRESS_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Result], None]]:
    """Yield a function to call with each result; it shows progress on standard error."""
    if quiet:
        yield lambda result: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.completed:.0f} screened"),
            TextColumn("{task.fields[name]}", markup=False),
        )
        # Rich would else send what is printed meanwhile, JSON lines too, to standard error.
        with Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as progress:
            task = progress.add_task("", total=None, name="")
            yield lambda result: progress.update(task, advance=1, name=_printable(result.file))
    else:
        yield _Lines().advance


class _Lines:
    """Progress as a plain line from time to time."""

    def __init__(self) -> None:
        self._count, self._failures = 0, 0
        self._next = time.monotonic() + PROGRESS_SECONDS

    def advance(self, result: Result) -> None:
        self._count += 1
        self._failures += bool(result.error)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            click.echo(f"{self._count} screened, {self._failures} with errors", err=True)


def print_results(results: list[Result]) -> None:
    """The table for people on standard output, errors below it on standard error."""
    judged = [result for result in results if result.verdict is not None]
    if judged:
        _print_table(judged)
    for result in results:
        if result.error:
            click.echo(f"error: {_printable(result.error)}", err=True)
    counts = [
        f"{sum(result.verdict == verdict for result in judged)} {verdict}" for verdict in STYLES
    ]
    unread = len(results) - len(judged)
    click.echo(", ".join([*counts, *([f"{unread} could not be read"] if unread else [])]))


def _print_table(judged: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    noted = any(_note(result) for result in judged)
    folder = _common_folder(judged)
    title = Text(f"in {_printable(folder)}") if folder else None
    grid = Table(title=title, title_justify="left")
    grid.add_column("file", overflow="fold")
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("probability", justify="right", no_wrap=True)
    grid.add_column("logit", justify="right", no_wrap=True)
    if noted:
        grid.add_column("note", overflow="fold")
    for result in judged:
        verdict = str(result.verdict)
        row = [
            Text(_printable(os.path.relpath(result.file, folder) if folder else result.file)),
            Text(verdict, style=STYLES[verdict]),
            Text(f"{result.probability:.3f}"),
            Text(f"{result.logit:+.2f}"),
        ]
        grid.add_row(*row, *([Text(_note(result))] if noted else []))
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(grid)


def _common_folder(results: list[Result]) -> str:
    """The folder that all of several items lie in, "" if there is none to speak of."""
    folders = {str(Path(result.file).parent) for result in results}
    try:
        return os.path.commonpath(folders) if len(results) > 1 else ""
    except ValueError:  # absolute and relative paths
        return ""


def _note(result: Result) -> str:
    """What the table says beside a verdict."""
    frames = f"mean of {result.screened} frames" if result.kind == "video" else ""
    return _printable("; ".join(filter(None, [frames, result.note, result.source])))


def _printable(text: str) -> str:
    from mpft_deploy.files import printable

    return printable(text)
