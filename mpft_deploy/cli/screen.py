"""`mpft screen`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpft_deploy.cli.options import PATH, VIEWS, Number, Place, Span, Threads, hold, parse_decode

if TYPE_CHECKING:
    from mpft_deploy.bundle import Bundle
    from mpft_deploy.screen.pipeline import Screened
    from mpft_deploy.screen.sources import Item
    from mpft_deploy.spec import ViewPolicy


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", type=Place(str), nargs=-1, metavar="PATH|ADDRESS...")
@click.option(
    "--bundle",
    type=PATH,
    envvar="MPFT_BUNDLE",
    show_envvar=True,
    help="The bundle to judge with, made by mpft-export.  [default: one of the detector that comes "
    "with the package, made at the first use]",
)
@click.option(
    "--require-signature",
    type=PATH,
    metavar="PUBLIC_KEY",
    help="Refuse a bundle that is not signed by this key (see `mpft keygen`).",
)
@click.option(
    "--views",
    type=VIEWS,
    help="Windows that are looked at: the centre; another one in each frame; up to three that show "
    "most texture; the corners and the centre; all that fit. Logits are averaged.  "
    "[default: the detector's own]",
)
@click.option(
    "--threshold",
    type=Number(0, 1),
    help="Call generated from this probability on.  [default: the bundle's]  Below it is unsure "
    "what lies in the bundle's unsure band, if that reaches so far.",
)
@click.option(
    "--fps",
    type=Number(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Screened frames a second of a video's own time.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    help="Views in one call of the engine.  [default: 1; of streams, up to 8 that wait]  More than "
    "1 may move the logits of an engine in int8 a little.",
)
@click.option(
    "--threads",
    type=Threads(),
    default=0,
    help="CPU threads of the engine.  [default: all cores]",
)
@click.option("--report", type=PATH, help="Write one HTML file that needs nothing else.")
@click.option(
    "--notes", type=PATH, help="JSON object: file name to a line on where that file comes from."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON an item, as it is known.")
@click.option(
    "--config", type=PATH, metavar="CAMERAS_TOML", help="Streams to screen, and whom to tell."
)
@click.option(
    "--decode",
    metavar="all|keyframes|FPS",
    callback=parse_decode,
    help="Of streams: which frames to decode, or how many a second to judge.  [default: all]",
)
@click.option(
    "--http", metavar="HOST:PORT", help="Of streams: serve dashboard, metrics and health there."
)
@click.option(
    "--duration",
    type=Span(),
    metavar="TIME",
    help="Of streams: stop after that time, such as 90s or 1h.  [default: never]",
)
@click.option(
    "--archive",
    is_flag=True,
    help="Any number of images, to Parquet in OUT: PATH is a folder, a .txt with a file a line, or "
    "an address such as s3://bucket/folder. Goes on where it was stopped.",
)
@click.option("--out", type=PATH, help="Of an archive: folder for the results.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Of an archive: engines, of one thread each.  [default: all cores]",
)
@click.option(
    "--address", help="Of an archive: a Ray cluster's.  [default: Ray on this machine alone]"
)
def command(
    paths: tuple[str, ...],
    bundle: Path | None,
    require_signature: Path | None,
    views: ViewPolicy | None,
    threshold: float | None,
    fps: float,
    batch: int,
    threads: int,
    report: Path | None,
    notes: Path | None,
    as_json: bool,
    config: Path | None,
    decode: str | float | None,
    http: str | None,
    duration: float | None,
    archive: bool,
    out: Path | None,
    workers: int | None,
    address: str | None,
) -> int:
    """Tell generated images from real ones: image files, folders, short videos, and live streams.

    An ADDRESS (rtsp://, http://, https://, rtmp://, file://, v4l2:, csi:, gst:, pipe:) or --config
    screens streams, until it is stopped: verdicts of each stream, made of many frames, are told as
    they change, and with --json those of every frame too. See docs/streams.md.

    Folders are searched for images and videos, without hidden files and without following links to
    folders. Of an animation the first frame is judged. A file that cannot be read is reported and
    the others are still judged; the exit code is then 1.
    """
    from mpft_deploy.screen.streams.address import is_address
    from mpft_deploy.screen.streams.memory import give_frames_back

    give_frames_back()
    if archive:
        from mpft_deploy.cli.archive import run_archive

        _refuse((*_OF_FILES, *_OF_STREAMS, *_OF_BOTH), "for an archive")
        if not paths or out is None:
            raise click.UsageError("name what to judge, and a folder for the results with --out")
        content = _open_bundle(bundle, require_signature)
        return run_archive(paths, content, out, views, threshold, workers, address)
    _refuse(("out", "workers", "address"), "without --archive")
    if config is not None or any(map(is_address, paths)):
        from mpft_deploy.cli.streams import load_config, run_streams

        _refuse(["fps"], "for streams; use --decode")
        _refuse(_OF_FILES, "for streams; it is for files")
        given = _given(("views", "threshold", "batch", "threads", "decode", "http"))
        return run_streams(
            lambda: load_config(config, paths, given, as_json),
            lambda named: _open_bundle(bundle or named, require_signature),
            as_json=as_json,
            seconds=duration,
        )
    _refuse(_OF_STREAMS, "for files; it is for streams")
    if not paths:
        raise click.UsageError(
            "Missing argument 'PATH|ADDRESS...': name images, folders or clips, the address of a "
            "stream, or --config"
        )
    if report is not None:
        from mpft_deploy.screen import report as page

        hold(report, page.OUTPUT, [*map(Path, paths), bundle, notes, require_signature])
    from mpft_deploy.errors import InputError
    from mpft_deploy.files import display

    sources = _read_notes(notes)
    if bundle is None and all(map(_is_missing, paths)):  # before one is made, which takes long
        raise InputError("; ".join(f"{display(path)}: no such file" for path in paths))
    content = _open_bundle(bundle, require_signature)

    from mpft_deploy.cli.screen_output import output
    from mpft_deploy.cli.signals import Interrupted, held
    from mpft_deploy.engine import load_engine
    from mpft_deploy.screen.pipeline import screen_items
    from mpft_deploy.screen.report import MAX_PICTURES, write_report
    from mpft_deploy.screen.screener import Screener
    from mpft_deploy.screen.sources import find_items

    engine = load_engine(content, threads=threads)
    content = content.without_engine()
    screener = Screener(content, engine, views=views, threshold=threshold, batch=batch)
    kept: list[Screened] = []

    def items() -> Iterator[Item]:
        return find_items(map(Path, paths))

    unfinished = ""
    with output(
        as_json=as_json, count=lambda: sum(item.kind != "folder" for item in items())
    ) as shown:
        try:
            for screened in screen_items(
                shown.reading(items()),
                screener,
                fps=fps,
                pictures=MAX_PICTURES if report is not None else 0,
                sources=sources,
                advance=shown.views,
            ):
                with held():
                    if report is not None:
                        kept.append(screened)
                    shown.result(screened.result)
        except BaseException as stop:
            unfinished = getattr(stop, "strerror", None) or str(stop) or type(stop).__name__
            if isinstance(stop, Interrupted):
                stop.remark = f"{shown.count} judged until then, as told above"
            raise
        finally:
            # Whatever ended the run, what it found is told.
            with held():
                if report is not None and (kept or not unfinished):
                    write_report(report, kept, content, screener, unfinished=unfinished)
                    click.echo(f"report: {display(report)}", err=True)
                shown.summary(screener.calibration)
                if screener.uncalibrated and not as_json:
                    click.echo(f"{screener.uncalibrated} (mpft calibrate --views)")
    return 1 if shown.failures else 0


_OF_FILES = ("fps", "report", "notes")
_OF_STREAMS = ("decode", "http", "duration")
_OF_BOTH = ("as_json", "config", "batch", "threads")


def _given(names: Iterable[str]) -> dict[str, Any]:
    """Options that were given, without those that have their default."""
    from click.core import ParameterSource

    context = click.get_current_context()
    given = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return {n: context.params[n] for n in names if context.get_parameter_source(n) in given}


def _refuse(names: Iterable[str], why: str) -> None:
    """A usage error for options that have no meaning here: none is ignored in silence."""
    for name in _given(names):
        raise click.UsageError(f"--{name.removeprefix('as_')} has no meaning {why}")


def _is_missing(path: str) -> bool:
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # what it is is told when it is read
        return False
    return False


def _open_bundle(path: Path | None, require_signature: Path | None) -> Bundle:
    """The verified bundle; without a path, that of the shipped detector."""
    from mpft_deploy.bundle import read_bundle

    if path is None:
        from mpft_deploy.errors import UsageError
        from mpft_deploy.export.shipped import shipped_bundle

        if require_signature is not None:
            raise UsageError("--require-signature is for a bundle of yours: name it by --bundle")
        return shipped_bundle(lambda text: click.echo(text, err=True))
    return read_bundle(path, require_signature)


def _read_notes(path: Path | None) -> dict[str, str]:
    """File name → line, from a JSON file."""
    import msgspec

    from mpft_deploy.errors import InputError
    from mpft_deploy.files import display, read_small
    from mpft_deploy.spec import MALFORMED

    if path is None:
        return {}
    try:
        return msgspec.json.decode(read_small(path, "--notes"), type=dict[str, str])
    except MALFORMED as error:
        raise InputError(
            f"--notes {display(path)} must be a JSON object of file names and lines: {error}"
        ) from None
