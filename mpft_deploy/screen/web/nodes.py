"""Other nodes' sources on this page: their APIs are asked, each with its token, while one looks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from mpft_deploy.extras import require
from mpft_deploy.screen.tell.config import Node
from mpft_deploy.screen.tell.post import reason_of
from mpft_deploy.screen.tell.table import read_secret
from mpft_deploy.screen.web.asked import Asked
from mpft_deploy.screen.web.board import NodeNow, Shown, SourceNow
from mpft_deploy.screen.web.operations import MissingError, operation

PATIENCE = 5.0
"""Seconds that an answer may take."""

MAX_ANSWER = 8 * 1024**2


class _Overview(msgspec.Struct):
    """What is read of a node's own."""

    alive: bool
    sources: list[SourceNow]


class Nodes:
    """Asks them; from the event loop of the page alone.

    Raises:
        EnvironmentLacksError: httpx2 is missing.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._clients: dict[str, Any] = {}
        self._told: list[Asked[NodeNow]] = []
        if not nodes:
            return
        require("webhook", "[[http.nodes]]", "httpx2")
        import httpx2

        self._failures, trust = (httpx2.HTTPError, OSError), ssl.create_default_context()
        for one in nodes:
            url = one.url.rstrip("/") + "/"
            token = read_secret("http.nodes", "token", one.token, one.token_file)
            self._clients[one.name] = httpx2.AsyncClient(
                base_url=f"{url}api/v1/",
                headers={b"Authorization": f"Bearer {token}".encode()} if token else {},
                timeout=None,
                trust_env=False,
                verify=trust,
            )
            ask = partial(self._ask, one.name)
            self._told.append(Asked(NodeNow(one.name, url), ask, stays=False))

    def look(self) -> list[NodeNow]:
        """What each told last."""
        return [one.look() for one in self._told]

    @operation("GET", "/nodes/{node}/picture")
    async def picture(self, node: str, source: str, near: bool = False) -> Shown | None:
        """The same as /picture, of another node's source."""
        if node not in self._clients:
            raise MissingError("there is no such node")
        asked = {"source": source, **({"near": "true"} if near else {})}
        try:
            found: Shown | None = await self._get(node, "picture", Shown | None, **asked)
        except MissingError as error:
            raise MissingError(f"{node}: {error}") from None
        return found

    async def _ask(self, name: str, last: NodeNow) -> NodeNow:
        try:
            found = await self._get(name, "sources", _Overview, own="true")
        except MissingError as error:
            reason = f"{name}: {error}"
            down = [replace(one, state="down", reason=reason) for one in last.sources]
            return replace(last, problem=str(error), sources=down)
        problem = "" if found.alive else "it has stopped judging"
        return replace(last, problem=problem, sources=found.sources)

    async def _get(self, name: str, path: str, kind: Any, **query: str) -> Any:
        """What a node answers, as such a type.

        Raises:
            MissingError: it does not; says why, and repeats nothing of what was sent.
        """

        async def read() -> bytes:
            body = b""
            async with self._clients[name].stream("GET", path, params=query) as reply:
                if reply.status_code == 401:
                    raise MissingError("it does not know the token")
                if reply.status_code != 200:
                    raise MissingError(f"it answered {reply.status_code}")
                async for part in reply.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER:
                        raise MissingError("it answers more than is read")
            return body

        try:
            return msgspec.json.decode(await asyncio.wait_for(read(), PATIENCE), type=kind)
        except MissingError:
            raise
        except asyncio.TimeoutError:
            why = "no reply in time"
        except self._failures as error:
            why = reason_of(error)
        except Exception:  # whatever another machine does
            why = "its answer is of another version"
        raise MissingError(why)
