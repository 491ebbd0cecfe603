"""`mpft screen --archive`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpft_deploy.bundle import Bundle
    from mpft_deploy.spec import ViewPolicy


def run_archive(
    sources: tuple[str, ...],
    bundle: Bundle,
    out: Path | None,
    views: ViewPolicy | None,
    threshold: float | None,
    workers: int | None,
    address: str | None,
) -> int:
    """Judge an archive, with progress; the exit code."""
    from mpft_deploy.extras import require

    require("ray", "an archive", "ray", "pyarrow")
    assert out is not None  # checked with the options
    from mpft_deploy.cli.console import progress
    from mpft_deploy.cli.signals import resumable
    from mpft_deploy.cores import available_cores
    from mpft_deploy.errors import EnvironmentLacksError
    from mpft_deploy.files import display
    from mpft_deploy.finding import passed_over
    from mpft_deploy.screen.archive import How, done_in, judge_archive, mark_of, parts
    from mpft_deploy.screen.screener import with_threshold
    from mpft_deploy.screen.storage import find_sources

    if not bundle.path.exists():
        raise EnvironmentLacksError(
            "the workers of an archive read the bundle from disk, where that of the shipped "
            "detector could not be kept: let XDG_CACHE_HOME name a folder that can be written, or "
            "name a bundle by --bundle"
        )
    bundle.spec.check_views(views or bundle.spec.calibration.views)
    with_threshold(bundle.spec.calibration, threshold)
    how = How(str(bundle.path.absolute()), views, threshold)
    others: Counter[str] = Counter()
    names = list(find_sources(sources, others))
    work = parts(names, done_in(out, mark_of(bundle.seal, how)))
    left, failed = sum(map(len, work)), 0
    total = len(set(names))
    click.echo(f"{total} files, {total - left} of them judged before", err=True)
    if others:
        click.echo(passed_over(others), err=True)
    if work:
        with progress(total, "files") as tell, resumable():
            tell(total - left)
            for done, errors in judge_archive(
                work, how, out, workers=workers or available_cores(), address=address
            ):
                failed = errors
                tell(total - left + done)
    click.echo(f"{display(out)}: {left} judged, {failed} of them with an error")
    return 1 if failed else 0
