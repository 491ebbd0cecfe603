"""`mpft screen`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpft_deploy.cli.options import PATH

if TYPE_CHECKING:
    from mpft_deploy.bundle import Bundle
    from mpft_deploy.images import ViewPolicy
    from mpft_deploy.screen.pipeline import Screened
    from mpft_deploy.screen.results import Result

STYLES = {"generated": "bold red", "unsure": "yellow", "real": "green"}

PROGRESS_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""

PLAIN_WIDTH = 200
"""Columns that a table may take where there is no terminal to tell its width."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--bundle",
    type=PATH,
    envvar="MPFT_BUNDLE",
    show_envvar=True,
    help="The bundle to judge with, made by mpft-export.",
)
@click.option(
    "--require-signature",
    type=PATH,
    metavar="PUBLIC_KEY",
    help="Refuse a bundle that is not signed by this key (see `mpft keygen`).",
)
@click.option(
    "--views",
    type=click.Choice(["centre", "five", "grid"]),
    default="centre",
    show_default=True,
    help="Judge the centre crop, the corners too, or all that fit; logits are averaged.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Call generated from this probability on.  [default: the bundle's]  The bundle's unsure "
    "band stays if it holds this threshold; otherwise nothing is called unsure.",
)
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Screened frames a second of a video's own time.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Views in one call of the engine. More than 1 may move an int8 engine's logits a little.",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: all cores.")
@click.option("--report", type=PATH, help="Write one HTML file that needs nothing else.")
@click.option(
    "--notes", type=PATH, help="JSON object: file name to a line on where that file comes from."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON an item, as it is known.")
def command(
    paths: tuple[Path, ...],
    bundle: Path | None,
    require_signature: Path | None,
    views: ViewPolicy,
    threshold: float | None,
    fps: float,
    batch: int,
    threads: int,
    report: Path | None,
    notes: Path | None,
    as_json: bool,
) -> int:
    """Tell generated images from real ones: image files, folders and short videos.

    Folders are searched for images and videos, without hidden files and without following links to
    folders. Of an animation the first frame is judged. A file that cannot be read is reported and
    the others are still judged; the exit code is then 1.
    """
    if report is not None:
        _check_writable(report)
    sources = _read_notes(notes)
    content = _open_bundle(bundle, require_signature)

    from mpft_deploy.engine import load_engine
    from mpft_deploy.screen.pipeline import screen_items
    from mpft_deploy.screen.report import MAX_PICTURES, write_report
    from mpft_deploy.screen.screener import Screener
    from mpft_deploy.screen.sources import find_items

    engine = load_engine(content, threads=threads)
    content = content.without_engine()
    screener = Screener(content, engine, views=views, threshold=threshold, batch=batch)
    kept: list[Screened] = []
    failures = 0
    with _progress(quiet=as_json and sys.stdout.isatty()) as advance:
        for screened in screen_items(
            find_items(paths),
            screener,
            fps=fps,
            pictures=MAX_PICTURES if report is not None else 0,
            sources=sources,
        ):
            failures += bool(screened.result.error)
            if as_json:
                click.echo(screened.result.to_json())
            if not as_json or report is not None:
                kept.append(screened)
            advance(screened.result)
    if not as_json:
        _print([screened.result for screened in kept])
    if report is not None:
        write_report(report, kept, content, screener)
        click.echo(f"report: {_shown(report)}", err=True)
    return 1 if failures else 0


def _open_bundle(path: Path | None, require_signature: Path | None) -> Bundle:
    """The verified bundle, or an error that says how to get one."""
    from mpft_deploy import detector_folder
    from mpft_deploy.bundle import MANIFEST, read_bundle
    from mpft_deploy.errors import UsageError

    if path is None:
        raise UsageError(
            "no bundle to judge with: pass --bundle DIR or set MPFT_BUNDLE; "
            "make one with mpft-export DETECTOR DIR"
        )
    if (path / detector_folder.MANIFEST).exists() and not (path / MANIFEST).exists():
        raise UsageError(
            f"{_shown(path)} is a detector, not a bundle: export it first with "
            f"mpft-export {_shown(path)} DIR, then pass --bundle DIR"
        )
    return read_bundle(path, require_signature)


def _check_writable(report: Path) -> None:
    """Ask before the work whether the report has a place to go."""
    from mpft_deploy.errors import UsageError

    if report.is_dir():
        raise UsageError(f"--report {_shown(report)} is a folder; name a file")
    if not report.parent.is_dir():
        raise UsageError(f"--report {_shown(report)}: its folder does not exist; make it first")


def _read_notes(path: Path | None) -> dict[str, str]:
    """File name → line, from a JSON file."""
    import msgspec

    from mpft_deploy.errors import InputError

    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except OSError as error:
        raise InputError(f"--notes {_shown(path)}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"--notes {_shown(path)} must be a JSON object of file names and lines: {error}"
        ) from None


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Result], None]]:
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


def _print(results: list[Result]) -> None:
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


def _shown(path: Path) -> str:
    from mpft_deploy.files import display

    return display(path)
