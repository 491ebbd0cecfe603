"""ASGI applications in threads of their own, and the dashboard as a sink of events."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Any

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import printable
from mpft_deploy.screen.manage import Manager
from mpft_deploy.screen.streams.records import Event, Monitor
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Http, Live, Push
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.metrics import Metrics, PrometheusMetrics
from mpft_deploy.screen.web.access import Access
from mpft_deploy.screen.web.api import Api
from mpft_deploy.screen.web.app import POLICY, dashboard
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.board import Board
from mpft_deploy.screen.web.cameras import Cameras
from mpft_deploy.screen.web.connection import HEAD_BYTES, PATIENCE, Connection, without_chunks
from mpft_deploy.screen.web.deliveries import Deliveries
from mpft_deploy.screen.web.nodes import Nodes

THREADS = 8
"""In which pages that wait for the engine or a disk are made."""

HEADERS = [
    ("Server", "mpft"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
]


class Server:
    """An application that is served until it is closed; a sink that needs no events.

    Attributes:
        url: where it listens.
    """

    def __init__(
        self,
        name: str,
        app: Starlette,
        address: tuple[str, int],
        clients: int,
        policy: str = POLICY,
    ) -> None:
        self._socket = _listen(name, address)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        self.name = name
        config = uvicorn.Config(
            without_chunks(app),
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",  # what strangers send is no news
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=[*HEADERS, ("Content-Security-Policy", policy)],
            limit_concurrency=clients,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=int(PATIENCE),
            timeout_graceful_shutdown=1,
        )
        self._server = _Uvicorn(config)
        self._task = Task(name, lambda: self._server.run(sockets=[self._socket]))
        self._task.start()

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._task.failure

    def send(self, event: Event) -> None:
        """See `Sink`."""

    def close(self, timeout: float = 1.0) -> None:
        """Stop listening and end live connections."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # whom it cut off is no news
        self._server.should_exit = True
        self._task.join(timeout)


class Dashboard(Server):
    """The page, its API and the metrics: a sink that shows and counts what it is sent.

    Args:
        sinks: whose store and files are shown, and whose queues and failures the metrics show. This
            becomes one of them.
        metrics: from `open_metrics`.
        engine: what the metrics tell of the engine: backend, precision, device.
        manager: through which admins add, pause and remove sources; None for nobody.
        live: where streams are shown as they are.
        push: how devices are notified.
    """

    def __init__(
        self,
        monitor: Monitor,
        http: Http,
        sinks: Sinks,
        metrics: Metrics | None,
        engine: Mapping[str, str],
        manager: Manager | None,
        live: Live | None,
        push: Push | None,
    ) -> None:
        groups = dict if manager is None else manager.groups
        evidence = sinks.evidence is not None
        self.board = Board(monitor, lambda: sinks.store.changes, live, groups, evidence=evidence)
        self.sinks = sinks
        self.metrics = metrics if isinstance(metrics, PrometheusMetrics) else PrometheusMetrics()
        # Half of the connections stay free for short requests.
        audit, access = Audit(sinks.store), Access(http, sinks.store)
        nodes, told, pages = Nodes(http.nodes), Deliveries(sinks), http.clients // 2
        has = {"managed": manager is not None, "notifies": push is not None}
        api = Api(self.board, sinks, audit, nodes, told, pages, **has)
        apis: list[object] = [api, nodes, told, audit, access]
        if push is not None:
            from mpft_deploy.screen.web.devices import Devices  # by the extra `push`

            apis.append(Devices(push, sinks, access.may_be))
        if manager is not None:
            apis += [Cameras(manager), manager]
        app = dashboard(apis, access, audit, self.metrics, monitor)
        policy = POLICY if live is None else f"{POLICY}; frame-src {live.origin}"
        super().__init__("http", app, http.bind(), http.clients, policy)
        self.metrics.watch(monitor, sinks, engine)
        sinks.append(self)

    def send(self, event: Event) -> None:
        """Show and count an event."""
        self.metrics.observe_event(event)
        self.board.note(event)

    def close(self, timeout: float = 1.0) -> None:
        self.board.closed = True
        super().close(timeout)


class _Uvicorn(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        current_default_thread_limiter().total_tokens = THREADS
        await super().startup(sockets)


def _listen(table: str, address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # By its protocol asyncio knows it for TCP, and has small answers sent without delay.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        shown = printable(":".join(map(str, address)))
        raise EnvironmentLacksError(
            f"[{table}] address: {shown} cannot be listened on: {error.strerror}; choose another "
            "port, or end the process that has it"
        ) from None
    return listener
