"""Telling whoever must know: event sinks and metrics.

Example:
    >>> sinks = open_sinks(config, watch.take_evidence, lambda: ["gate", "yard"])
    >>> metrics = open_metrics(config)
    >>> sinks.send(event)
    >>> sinks.close(timeout=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mpft_deploy.screen.streams.records import Picture, StreamEvent
from mpft_deploy.screen.tell.config import TABLES, TellConfig, parse_tables

if TYPE_CHECKING:
    from mpft_deploy.screen.tell.fanout import Sinks
    from mpft_deploy.screen.tell.metrics import Metrics

__all__ = ["TABLES", "TellConfig", "open_metrics", "open_sinks", "parse_tables"]


def open_sinks(
    config: TellConfig,
    evidence: Callable[[StreamEvent], Picture | None],
    sources: Callable[[], Collection[str]] = tuple,
) -> Sinks:
    """Start what the configuration names, all but `[http]`.

    The result is a sink made of them all. It names the snapshot in an event before the others see
    it, and a fault in one costs the others nothing.

    Args:
        evidence: the picture of a stream's verdict, asked for once, when the event is sent.
        sources: names of those that are screened now; the broker is made to forget all others.

    Raises:
        MpftError: an extra is missing, or a secret, folder or file cannot be used.
    """
    from mpft_deploy.screen.tell.fanout import open_all

    return open_all(config, evidence, sources)


def open_metrics(config: TellConfig) -> Metrics:
    """What the pipeline tells its timings to; without `[http]` it forgets them."""
    from mpft_deploy.screen.tell.metrics import Metrics, PrometheusMetrics

    return Metrics() if config.http is None else PrometheusMetrics()
