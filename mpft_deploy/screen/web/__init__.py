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
    from mpft_deploy.screen.web.app import health as application
    from mpft_deploy.screen.web.server import Server

    return Server("health", application(monitor), health.bind(), health.clients)
