"""`mpft calibrate --camera`: what known-real frames of a source look like, learnt by judging."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpft_deploy.screen.screener import Screener
    from mpft_deploy.screen.streams.config import Config
    from mpft_deploy.screen.streams.settings import SourceSettings
    from mpft_deploy.screen.teach import Frames


def teach(
    bundle: Path,
    name: str,
    path: Path,
    data: Sequence[str],
    duration: float,
    *,
    accept: bool,
    as_json: bool,
) -> None:
    """Judge known-real frames of a source, and have what they teach count, if that is accepted.

    It stands beside the configuration then. Ctrl-C ends the looking, and loses nothing.

    Args:
        bundle: that judges.
        name: of a source in the configuration at `path`.
        data: clips, folders of frames or addresses in place of the source's own.
        duration: how long to look, in seconds.
        accept: without being asked.
    """
    import msgspec

    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.cli.standard import is_terminal
    from mpft_deploy.engine import load_engine
    from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
    from mpft_deploy.files import display
    from mpft_deploy.finding import find_images
    from mpft_deploy.screen.screener import Screener
    from mpft_deploy.screen.streams.baseline import (
        baselines_path,
        learn,
        read_baselines,
        write_baseline,
    )
    from mpft_deploy.screen.streams.config import read_config
    from mpft_deploy.screen.teach import Frames

    config = read_config(path)
    known = {source.name: source for source in config.sources}
    if name not in known:
        raise UsageError(f"{display(path)} has no source {name!r}; there are {', '.join(known)}")
    addresses = data or [known[name].address]
    sources = [msgspec.structs.replace(known[name], address=address) for address in addresses]
    for one in (source.target for source in sources):
        place = Path(one.rest)
        if one.scheme == "file" and not (  # that would be waited for
            any(find_images(place)) if place.is_dir() else place.exists()
        ):
            raise InputError(f"{one.shown}: there is no such clip, or no image in this folder")
    if not accept and not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError(
            "whether what was learnt is to count is asked on a terminal, and there is none: add "
            "--accept"
        )
    target = baselines_path(path)
    read_baselines(target)  # what cannot be read would be replaced after an hour
    if not os.access(target.absolute().parent, os.W_OK):
        raise EnvironmentLacksError(f"{display(target)} cannot be written: its folder is read-only")
    read = read_bundle(bundle)
    screener = Screener(
        read,
        load_engine(read, threads=config.screen.engine_threads),
        views=config.screen.views or read.spec.stream_views,
        threshold=config.screen.threshold,
        batch=config.screen.batch_of(read.info),
    )
    taught = Frames()
    for source in sources:
        if _judge(screener, config, source, taught, duration):
            break
    frames = taught.frames
    learnt = {
        stream: learn(frames.get(stream, []), screener.calibration, screener.seal, time.time(), box)
        for stream, box in known[name].boxes.items()
    }
    for stream, baseline in learnt.items():
        if as_json:
            emit_json({"camera": stream, "file": display(target), **msgspec.to_builtins(baseline)})
            continue
        click.echo(
            f"{stream}: {baseline.frames} frames in {baseline.seconds} s; log odds "
            f"{baseline.offset:+.2f} ± {baseline.error:.2f}, frames scatter by "
            f"{baseline.spread:.2f} and are alike for {baseline.correlation:.0f} s; a frame is "
            f"generated from {baseline.threshold:.3f}."
        )
    if not accept and not click.confirm("Is that to count from now on?", err=True):
        click.echo("Nothing was written.", err=True)
        return
    for stream, baseline in learnt.items():
        write_baseline(target, stream, baseline)
    if not as_json:
        click.echo(
            f"Written to {display(target)}; mpft screen reads it at its start, or on SIGHUP."
        )


def _judge(
    screener: Screener, config: Config, source: SourceSettings, taught: Frames, limit: float
) -> bool:
    """Look at a source for so many seconds, or at all images of a folder.

    Returns:
        Whether Ctrl-C ended the looking.
    """
    import msgspec

    from mpft_deploy.cli.console import progress
    from mpft_deploy.cli.signals import Interrupted
    from mpft_deploy.errors import InputError
    from mpft_deploy.finding import find_images
    from mpft_deploy.screen.streams.readers import find_reader, read_folder
    from mpft_deploy.screen.streams.watch import TICK, Watch

    images = find_reader(source.target) is read_folder
    taught.each = 1.0 if images else None
    one = msgspec.structs.replace(config, sources=(source,), baselines={})
    total = sum(1 for _ in find_images(Path(source.target.rest))) if images else math.ceil(limit)
    what = f"{'images' if images else 'seconds'} of {source.name}"
    began, stopped = time.monotonic(), False
    with progress(total, what) as tell, Watch(screener, one, taught) as watch:
        try:
            while not watch.finished and (images or time.monotonic() - began < limit):
                watch.tick()
                [status] = watch.statuses()
                done = status.received if images else int(time.monotonic() - began)
                tell(min(done, total - 1))
                time.sleep(TICK)
            tell(total)
        except (KeyboardInterrupt, Interrupted) as interrupt:
            if getattr(interrupt, "number", signal.SIGINT) != signal.SIGINT:
                raise
            stopped = True
        missing = watch.without_frames()
    if watch.scheduler.failure is not None:
        raise watch.scheduler.failure
    if missing:
        raise InputError(f"{source.name}: not one frame came: {missing[source.name]}")
    return stopped
