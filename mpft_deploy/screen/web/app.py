"""The pages: what is asked for is answered from the board, the store and the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import resources
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from mpft_deploy.errors import EnvironmentLacksError, MpftError
from mpft_deploy.screen.streams.records import Monitor
from mpft_deploy.screen.tell.metrics import CONTENT_TYPE, PrometheusMetrics
from mpft_deploy.screen.web.access import Access, Gate
from mpft_deploy.screen.web.api import PREFIX
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.operations import MissingError
from mpft_deploy.screen.web.routes import as_json, openapi, read_body, refusal, routes
from mpft_deploy.screen.web.sessions import DAYS

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; manifest-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The page asks nothing of anyone but this server; `[live]` lets it frame one other."""

HTML = "text/html; charset=utf-8"

ASSETS = resources.files("mpft_deploy.screen.web") / "assets"
"""The page, and all that it loads."""

REFUSED = 0.5
"""Seconds that a wrong token waits for its answer."""


def dashboard(
    apis: Sequence[object],
    access: Access,
    audit: Audit,
    metrics: PrometheusMetrics,
    monitor: Monitor,
) -> Starlette:
    """The page, its API, the metrics and health."""

    form_page = (ASSETS / "login.html").read_bytes()

    async def log_in(request: Request) -> Response:
        form = parse_qs((await read_body(request)).decode("utf-8", "replace"))
        agent = request.headers.get("user-agent", "")
        token = form.get("token", [""])[0].strip()
        known = await run_in_threadpool(access.log_in, token, agent)
        if known is None:
            await asyncio.sleep(REFUSED)
            text = form_page.replace(b"<html ", b'<html data-refused="" ', 1)
            return Response(text, 401, media_type=HTML)
        user, cookie = known
        await run_in_threadpool(audit.note, user, "logged in")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            access.sessions.cookie,
            cookie,
            max_age=86400 * DAYS,
            httponly=True,
            samesite="strict",
            secure=access.is_secure(request.headers, request.client.host if request.client else ""),
        )
        return answer

    def log_out(request: Request) -> Response:
        session, user = access.session_of(request.headers), request.scope["user"]
        if session is not None:
            access.sessions.end(session.id)
        if user is not None:
            audit.note(user, "logged out")
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(access.sessions.cookie, httponly=True, samesite="strict")
        return answer

    async def to_page(request: Request) -> Response:
        return RedirectResponse("/", 303)

    def scrape(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    described = openapi(apis, PREFIX, "mpft screen")

    async def description(request: Request) -> Response:
        return as_json(described)

    stranger = Response(form_page, media_type=HTML)
    return Starlette(
        routes=[
            Route("/login", to_page),
            Route("/login", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/metrics", scrape),
            Route(f"{PREFIX}/openapi.json", description),
            *routes(apis, PREFIX, audit),
            *_health(monitor),
            Mount("/", StaticFiles(packages=[("mpft_deploy.screen.web", "assets")], html=True)),
        ],
        middleware=[Middleware(Gate, access=access, stranger=stranger)],
        exception_handlers={HTTPException: _refused, MpftError: _failed},
    )


def health(monitor: Monitor) -> Starlette:
    """Whether it lives, and nothing else."""
    return Starlette(routes=_health(monitor))


def _health(monitor: Monitor) -> list[BaseRoute]:
    async def livez(request: Request) -> Response:
        return _state(monitor.alive())

    async def readyz(request: Request) -> Response:
        return _state(monitor.ready())

    return [Route("/livez", livez), Route("/readyz", readyz)]


def _state(good: bool) -> Response:
    text, status = ("ok\n", 200) if good else ("not ok\n", 503)
    return Response(text, status, {"Cache-Control": "no-store"}, "text/plain; charset=utf-8")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    why = "there is no such page" if error.detail == "Not Found" else error.detail
    answer = refusal(error.status_code, why)
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    lacks, missing = isinstance(error, EnvironmentLacksError), isinstance(error, MissingError)
    return refusal(503 if lacks else 404 if missing else 400, str(error))
