"""The dashboard, its API, metrics and health, over HTTP.

Example:
    >>> server = serve(monitor, config.http, sinks, metrics=metrics)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpft_deploy.extras import require
from mpft_deploy.screen.streams.records import Monitor
from mpft_deploy.screen.tell.config import Health, Http, Live, Push

if TYPE_CHECKING:
    from mpft_deploy.screen.manage import Manager
    from mpft_deploy.screen.tell.fanout import Sinks
    from mpft_deploy.screen.tell.metrics import Metrics
    from mpft_deploy.screen.web.server import Dashboard, Server

__all__ = ["serve", "serve_health"]

NEEDS = ("starlette", "uvicorn")


def serve(
    monitor: Monitor,
    http: Http,
    sinks: Sinks,
    *,
    metrics: Metrics | None = None,
    engine: Mapping[str, str] | None = None,
    manager: Manager | None = None,
    live: Live | None = None,
    push: Push | None = None,
) -> Dashboard:
    """Start a `Dashboard`.

    Args:
        sinks: whose store and files are shown, and whose queues and failures the metrics show.
        metrics: from `open_metrics`.
        engine: what the metrics tell of the engine: backend, precision, bundle.
        manager: through which admins add, pause and remove sources; None for nobody.
        live: where streams are shown as they are.
        push: how devices are notified.

    Raises:
        EnvironmentLacksError: the address is taken, or an extra is missing.
    """
    require("dashboard", "[http]", *NEEDS)
    if push is not None:
        require("push", "[push]", "cryptography", "httpx2")
    from mpft_deploy.screen.web.server import Dashboard

    return Dashboard(monitor, http, sinks, metrics, engine or {}, manager, live, push)


def serve_health(monitor: Monitor, health: Health) -> Server:
    """Start /livez and /readyz on a port of their own; raises as `serve` does."""
    require("dashboard", "[health]", *NEEDS)
    from starlette.applications import Starlette

    from mpft_deploy.screen.web.server import Server, health_routes

    app = Starlette(routes=health_routes(monitor))
    return Server("health", app, health.bind(), health.clients)
