"""What `mpft screen` shows of files: each result as it is known, and how far it has come."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mpft_deploy.cli.standard import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress

    from mpft_deploy.screen.results import Result
    from mpft_deploy.screen.sources import Item
    from mpft_deploy.spec import Calibration

COLOURS = {"generated": "red", "unsure": "yellow", "real": "green"}

PROGRESS_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


class Output:
    """Prints results, a line each, counts them, and shows how far it is.

    A line is out before the next item is judged, so that nothing is lost whatever comes.

    Args:
        bar: shows how far it is, below the results.
        lines: whether a plain line tells that from time to time.
    """

    def __init__(self, *, as_json: bool, bar: Progress | None = None, lines: bool = False) -> None:
        self._json, self._bar = as_json, bar
        self._task = bar.add_task("", total=None, name="", views="") if bar else None
        self._next = time.monotonic() + PROGRESS_SECONDS if lines else math.inf
        self._verdicts: Counter[str] = Counter()
        self._others: Counter[str] = Counter()
        self._frames = self.count = self.failures = 0

    def result(self, result: Result) -> None:
        """Print one."""
        self._print(result)
        self._frames = 0
        self._show(completed=self.count, views="")
        self._tell("")

    def _print(self, result: Result) -> None:
        self.count += result.kind != "folder"
        self._others.update(result.passed_over)
        self.failures += bool(result.error)
        if self._json:
            click.echo(result.to_json())
            return
        if result.verdict is not None:
            if not self._verdicts:
                click.echo("verdict    probability   logit  looked at  file")
            self._verdicts[result.verdict] += 1
            click.echo(_row(result))
        if result.error:
            click.echo(f"error: {_printable(result.error)}", err=True)

    def summary(self, calibration: Calibration) -> None:
        """Print how many of each verdict there were, and from which probabilities on they are
        given; of JSON lines that is for their reader.
        """
        if self._json:
            return
        low, high = calibration.unsure
        bounds = {"generated": f" (from {high:.3f})", "real": f" (up to {low:.3f})"}
        counts = [f"{self._verdicts[one]} {one}{bounds.get(one, '')}" for one in COLOURS]
        unread = self.count - self._verdicts.total()
        click.echo(", ".join([*counts, *([f"{unread} could not be read"] if unread else [])]))
        if self._others:
            from mpft_deploy.finding import passed_over

            click.echo(passed_over(self._others))

    def total(self, count: int) -> None:
        """Take note of how many items there are."""
        self._show(total=count)

    def reading(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; shows their names as they are read."""
        for item in items:
            self._show(name=_printable(item.path.name))
            yield item

    def views(self, done: int, of: int) -> None:
        """Show how many views are done of the frame that is judged now, or frames of a clip."""
        self._frames += done == of
        text = f"{done} of {of} views" if of > 1 else f"{self._frames} frames"
        self._show(views=text if max(of, self._frames) > 1 else "")
        self._tell(f", {done} of {of} views of the next" if of > 1 else "")

    def _show(self, **changes: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, **changes)

    def _tell(self, more: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            text = f"{self.count} screened, {self.failures} with errors{more}"
            click.echo(text, err=True)


def _row(result: Result) -> str:
    from mpft_deploy.screen.results import share_text

    verdict = click.style(f"{result.verdict:<9}", fg=COLOURS[str(result.verdict)])
    if not is_terminal(sys.stdout) or os.environ.get("NO_COLOR"):
        verdict = click.unstyle(verdict)
    note = f"  ({_note(result)})" if _note(result) else ""
    share = share_text(result.looked_at.share) if result.looked_at else ""
    figures = f"{result.probability:11.3f}  {result.logit:+6.2f}  {share:>9}"
    return f"{verdict}  {figures}  {_printable(result.file)}{note}"


@contextmanager
def output(*, as_json: bool, count: Callable[[], int]) -> Iterator[Output]:
    """Yield what to tell of each result; shows progress on standard error or the terminal.

    Args:
        count: finds how many items there are, which may take its time.
    """
    if as_json and is_terminal(sys.stdout):
        yield Output(as_json=True)  # the lines themselves show how far it is
    elif is_terminal(sys.stdout) or is_terminal(sys.stderr):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[views]}", markup=False),
            TextColumn("{task.fields[name]}", markup=False),
        )
        # What is printed meanwhile goes above the bar, where both are on one terminal.
        with Progress(
            *columns,
            console=Console(stderr=not is_terminal(sys.stdout)),
            transient=True,
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        ) as bar:
            shown = Output(as_json=as_json, bar=bar)
            threading.Thread(target=lambda: shown.total(count()), daemon=True).start()
            yield shown
    else:
        yield Output(as_json=as_json, lines=True)


def _note(result: Result) -> str:
    """What is said beside a verdict."""
    frames = f"mean of {result.screened} frames" if result.kind == "video" else ""
    parts = [result.reason, frames, result.note, result.source]
    return _printable("; ".join(filter(None, parts)))


def _printable(text: str) -> str:
    from mpft_deploy.files import printable

    return printable(text)
