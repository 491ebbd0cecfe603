"""Telling whoever must know: event sinks and metrics.

Example:
    >>> sinks = open_sinks(config, watch.take_evidence, watch.statuses)
    >>> metrics = open_metrics(config)
    >>> sinks.send(event)
    >>> sinks.close(timeout=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpft_deploy.screen.streams.records import Picture, SourceStatus, StreamEvent
from mpft_deploy.screen.tell.config import TABLES, TellConfig, parse_tables

if TYPE_CHECKING:
    from mpft_deploy.screen.tell.fanout import Sinks
    from mpft_deploy.screen.tell.metrics import Metrics

__all__ = ["TABLES", "TellConfig", "open_metrics", "open_sinks", "parse_tables"]


def open_sinks(
    config: TellConfig,
    evidence: Callable[[StreamEvent], Picture | None],
    statuses: Callable[[], Sequence[SourceStatus] | None],
) -> Sinks:
    """Start what the configuration names, all but `[http]`.

    The result is a sink made of them all. It names the snapshot in an event before the others see
    it, and a fault in one costs the others nothing. What was started is closed again if one cannot
    be.

    Args:
        evidence: the picture of a stream's verdict, asked for once, when the event is sent.
        statuses: of the sources that are screened now; a broker is told them, and no others. None
            as long as these are not known.

    Raises:
        MpftError: an extra is missing, or a secret, folder or file cannot be used.
    """
    from mpft_deploy.screen.tell.fanout import Sinks
    from mpft_deploy.screen.tell.store import Store

    told = (config.webhook, config.notify, config.mqtt, config.http)
    asked = any((*told, config.snapshots, config.evidence))
    path = Path(config.store.path) if config.store.path and asked else None
    opened = Sinks(store=Store(path, config.store))
    try:
        if config.snapshots is not None:
            from mpft_deploy.screen.tell.snapshots import SnapshotSink

            opened.snapshots = SnapshotSink(config.snapshots, evidence, opened.store)
        folder = None if opened.snapshots is None else opened.snapshots.kept.folder
        if config.jsonl is not None:
            from mpft_deploy.screen.tell.jsonl import JsonLines

            opened.append(JsonLines(config.jsonl))
        if config.webhook is not None:
            from mpft_deploy.screen.tell.webhook import WebhookSink

            opened.append(WebhookSink(config.webhook, opened.store))
        if config.notify is not None:
            from mpft_deploy.screen.tell.notify import NotifySink

            for number in range(len(config.notify.addresses())):
                opened.append(NotifySink(config.notify, number, opened.store, folder))
        if config.mqtt is not None:
            from mpft_deploy.screen.tell.mqtt import MqttSink

            opened.append(MqttSink(config.mqtt, opened.store, statuses, folder))
    except BaseException:
        opened.close(0.5)
        raise
    return opened


def open_metrics(config: TellConfig) -> Metrics:
    """What the pipeline tells its timings to; without `[http]` it forgets them."""
    from mpft_deploy.screen.tell.metrics import Metrics, PrometheusMetrics

    return Metrics() if config.http is None else PrometheusMetrics()
