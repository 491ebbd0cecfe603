"""The dashboard: what is asked for is answered from the board, the store and the metrics.

Applications are served from threads of their own; the dashboard is a sink of events, too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from mpft_deploy.errors import EnvironmentLacksError, MpftError
from mpft_deploy.files import printable
from mpft_deploy.screen.manage import Manager
from mpft_deploy.screen.streams.records import Event, Monitor, Sink
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Http, Live, Push
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.metrics import CONTENT_TYPE, Metrics, PrometheusMetrics
from mpft_deploy.screen.web.access import DAYS, Access, Gate
from mpft_deploy.screen.web.api import Api
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.board import Board
from mpft_deploy.screen.web.cameras import Cameras
from mpft_deploy.screen.web.connection import HEAD_BYTES, PATIENCE, Connection, without_chunks
from mpft_deploy.screen.web.deliveries import Deliveries
from mpft_deploy.screen.web.nodes import Nodes
from mpft_deploy.screen.web.operations import MissingError
from mpft_deploy.screen.web.routes import PREFIX, as_json, openapi, read_body, refusal, routes

THREADS = 8
"""In which pages that wait for the engine or a disk are made."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; manifest-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The page asks nothing of anyone but this server; `[live]` lets it frame one other."""

HEADERS = [
    ("Server", "mpft"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
]

HTML = "text/html; charset=utf-8"

REFUSED = 0.5
"""Seconds that a wrong token waits for its answer."""


class Server(Sink):
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
        return self._task.failure

    def close(self, timeout: float = 1.0) -> None:
        """Stop listening and end live connections."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # whom it cut off is no news
        self._server.should_exit = True
        self._task.join(timeout)


class Dashboard(Server):
    """The page, its API and the metrics: a sink that shows and counts what it is sent.

    Arguments are those of `serve`; it becomes one of the sinks.
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
        self.sinks = sinks
        self.metrics = metrics if isinstance(metrics, PrometheusMetrics) else PrometheusMetrics()
        self._audit, self._access = Audit(sinks.store), Access(http, sinks.store)
        nodes = Nodes(http.nodes)
        groups = dict if manager is None else manager.groups
        # Half of the connections stay free for short requests.
        self.board = Board(monitor, sinks, nodes.look, live, groups, http.clients // 2)
        has = {"managed": manager is not None, "notifies": push is not None}
        apis: list[object] = [Api(self.board, sinks, self._audit, **has), self.board, nodes]
        apis += [Deliveries(sinks), self._audit, self._access]
        if push is not None:
            from mpft_deploy.screen.web.devices import Devices  # by the extra `push`

            apis.append(Devices(push, sinks, self._access.may_be))
        if manager is not None:
            apis += [Cameras(manager), manager]
        policy = POLICY if live is None else f"{POLICY}; frame-src {live.origin}"
        app = self._application(apis, monitor)
        super().__init__("http", app, http.bind(), http.clients, policy)
        self.metrics.watch(monitor, sinks, engine)
        sinks.append(self)

    def send(self, event: Event) -> None:
        self.metrics.observe_event(event)
        self.board.note(event)

    def _application(self, apis: list[object], monitor: Monitor) -> Starlette:
        page = resources.files("mpft_deploy.screen.web") / "assets"
        self._form = (page / "login.html").read_bytes()

        def scrape(request: Request) -> Response:
            return Response(self.metrics.text(), media_type=CONTENT_TYPE)

        stranger = Response(self._form, media_type=HTML)
        return Starlette(
            routes=[
                Route("/login", RedirectResponse("/", 303), methods=["GET"]),
                Route("/login", self._log_in, methods=["POST"]),
                Route("/logout", self._log_out, methods=["POST"]),
                Route("/metrics", scrape),
                Route(f"{PREFIX}/openapi.json", as_json(openapi(apis)), methods=["GET"]),
                *routes(apis, self._audit),
                *health_routes(monitor),
                Mount("/", StaticFiles(packages=[("mpft_deploy.screen.web", "assets")], html=True)),
            ],
            middleware=[Middleware(Gate, access=self._access, stranger=stranger)],
            exception_handlers={HTTPException: _refused, MpftError: _failed},
        )

    async def _log_in(self, request: Request) -> Response:
        form = parse_qs((await read_body(request)).decode("utf-8", "replace"))
        agent = request.headers.get("user-agent", "")
        token = form.get("token", [""])[0].strip()
        known = await run_in_threadpool(self._access.log_in, token, agent)
        if known is None:
            await asyncio.sleep(REFUSED)
            text = self._form.replace(b"<html ", b'<html data-refused="" ', 1)
            return Response(text, 401, media_type=HTML)
        user, cookie = known
        await run_in_threadpool(self._audit.note, user, "logged in")
        peer = request.client.host if request.client else ""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._access.sessions.cookie,
            cookie,
            max_age=86400 * DAYS,
            httponly=True,
            samesite="strict",
            secure=self._access.is_secure(request.headers, peer),
        )
        return answer

    def _log_out(self, request: Request) -> Response:
        session, user = self._access.session_of(request.headers), request.scope["user"]
        if session is not None:
            self._access.sessions.end(session.id)
        if user is not None:
            self._audit.note(user, "logged out")
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(self._access.sessions.cookie, httponly=True, samesite="strict")
        return answer


def health_routes(monitor: Monitor) -> list[BaseRoute]:
    """Whether it lives, and nothing else."""

    def route(path: str, good: Callable[[], bool]) -> BaseRoute:
        async def state(request: Request) -> Response:
            text, status = ("ok\n", 200) if good() else ("not ok\n", 503)
            kept = {"Cache-Control": "no-store"}
            return Response(text, status, kept, "text/plain; charset=utf-8")

        return Route(path, state)

    return [route("/livez", monitor.alive), route("/readyz", monitor.ready)]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    why = "there is no such page" if error.detail == "Not Found" else error.detail
    answer = refusal(error.status_code, why)
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    lacks, missing = isinstance(error, EnvironmentLacksError), isinstance(error, MissingError)
    return refusal(503 if lacks else 404 if missing else 400, str(error))


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
            f"[{table}] address: {shown} cannot be listened on: {error.strerror}; choose another, "
            "or end the process that has it"
        ) from None
    return listener
