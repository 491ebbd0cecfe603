"""The HTML report: one file that needs nothing else and asks nothing of any network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mpft_deploy import __version__
from mpft_deploy.bundle import Bundle
from mpft_deploy.files import PICTURES, display, printable
from mpft_deploy.finding import passed_over
from mpft_deploy.outputs import write_output
from mpft_deploy.pages import templates_beside
from mpft_deploy.screen.pipeline import Screened
from mpft_deploy.screen.results import Result, share_text
from mpft_deploy.screen.screener import Screener
from mpft_deploy.standing import marked_kind

MAX_PICTURES = 500
"""Items that are shown with pictures, about 30 kB each; the others are listed without."""

OUTPUT = marked_kind("a report of mpft screen", b'name="generator" content="mpft screen"')

VERDICTS = ("generated", "unsure", "real")


def write_report(
    path: Path,
    items: Sequence[Screened],
    bundle: Bundle,
    screener: Screener,
    *,
    unfinished: str = "",
) -> None:
    """Write the report of some results, whole or not at all.

    Args:
        items: with a picture each, as `screen_items` gives for its first `pictures` items; those
            without are listed in a table.
        bundle: whose certificate and latency are shown.
        screener: that judged; it holds the threshold in force.
        unfinished: why there are no more items, where the run did not come to its end.

    Raises:
        UsageError: what stands there is no report.
        EnvironmentLacksError: the disk is full or the folder cannot be written.
    """
    page = render(items, bundle, screener, unfinished)
    write_output(path, page.encode(), OUTPUT, mode=PICTURES)


def render(
    items: Sequence[Screened], bundle: Bundle, screener: Screener, unfinished: str = ""
) -> str:
    """The report as HTML."""
    environment = templates_beside(__file__)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}\u00a0%"
    environment.filters["share"] = share_text
    environment.filters["timeline"] = _timeline
    environment.filters["basename"] = lambda file: printable(Path(file).name)
    judged = [item for item in items if item.result.verdict is not None]
    others = Counter[str]()
    for item in items:
        others.update(item.result.passed_over)
    return environment.get_template("report.html").render(
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        unfinished=unfinished,
        bundle=bundle,
        name=display(bundle.path.name or bundle.path),
        spec=screener.spec,
        calibration=screener.calibration,
        policy=screener.policy,
        latency=_latency(bundle.latency.total_ms) if bundle.latency else [],
        counts={
            verdict: sum(item.result.verdict == verdict for item in judged) for verdict in VERDICTS
        },
        cards=[(item.result, item.picture) for item in judged if item.picture],
        rows=[item.result for item in judged if not item.picture],
        errors=[item.result for item in items if item.result.error],
        others=passed_over(others) if others else "",
    )


def _latency(quantiles: dict[str, float]) -> list[dict[str, Any]]:
    """Bars of the latency chart: name, milliseconds and length in 0..100."""
    shown = [(name, quantiles[name]) for name in ("p50", "p90", "p99") if name in quantiles]
    longest = max((value for _, value in shown), default=0.0) or 1.0
    return [{"name": name, "ms": ms, "length": 100 * ms / longest} for name, ms in shown]


def _timeline(result: Result) -> list[tuple[float, float, str]]:
    """Points of a video's kept frames: x in 0..300 by time, y in 0..40 by probability, verdict."""
    frames = result.frames
    if len(frames) < 2:
        return []
    length = frames[-1].time or 1.0
    return [
        (300 * frame.time / length, 40 * (1 - frame.probability), frame.verdict) for frame in frames
    ]
