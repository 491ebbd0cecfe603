"""Telling whoever must know: event sinks, metrics and the dashboard.

    sinks = open_sinks(config, lambda source: monitor.picture(source))
    metrics = open_metrics(config)
    if config.http is not None:
        server = serve(monitor, config.http, sinks=sinks, metrics=metrics, engine=facts)
        sinks.append(server)  # it shows and counts the events that it is sent
    ...
    for sink in sinks:
        sink.send(event)
    ...
    for sink in sinks:
        sink.close(timeout=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mpft_deploy.screen.streams.records import Monitor, Picture, Sink
from mpft_deploy.screen.tell.config import TABLES, TellConfig, parse_tables

if TYPE_CHECKING:
    from mpft_deploy.screen.tell.config import Http
    from mpft_deploy.screen.tell.metrics import Metrics
    from mpft_deploy.screen.tell.server import Server

__all__ = ["TABLES", "TellConfig", "open_metrics", "open_sinks", "parse_tables", "serve"]


def open_sinks(config: TellConfig, picture: Callable[[str], Picture | None]) -> list[Sink]:
    """Start what the configuration names, all but `[http]`.

    With `[snapshots]` the list has one sink, which names the snapshot in the events and passes them
    on to the others.

    Args:
        picture: the last judged frame of a source; asked when an event is sent, never before.

    Raises:
        MpftError: an extra is missing, or a secret, folder or file cannot be used.
    """
    from mpft_deploy.screen.tell.opening import open_all

    return open_all(config, picture)


def open_metrics(config: TellConfig) -> Metrics:
    """What the scheduler tells its timings to; without `[http]` it forgets them."""
    from mpft_deploy.screen.tell.metrics import Metrics, PrometheusMetrics

    return Metrics() if config.http is None else PrometheusMetrics()


def serve(
    monitor: Monitor,
    http: Http,
    *,
    sinks: Sequence[Sink] = (),
    metrics: Metrics | None = None,
    engine: Mapping[str, str] | None = None,
) -> Server:
    """Start the dashboard, metrics and health endpoints in threads of their own.

    Args:
        sinks: whose queues and failures the metrics show.
        metrics: from `open_metrics`.
        engine: what the metrics tell of the engine: backend, precision, device, version.

    Returns:
        A server, which is a sink too. `server.url` is where it listens.

    Raises:
        EnvironmentLacksError: the address is taken, or the extra `dashboard` is missing.
    """
    from mpft_deploy.screen.tell.server import Server

    return Server(monitor, http, sinks=sinks, metrics=metrics, engine=engine)
