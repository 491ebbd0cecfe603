"""Other nodes' sources on this page: their APIs are asked, each with its token, while one looks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from mpft_deploy.extras import require
from mpft_deploy.screen.tell.config import Node
from mpft_deploy.screen.tell.post import reason_of
from mpft_deploy.screen.web.asked import Asked
from mpft_deploy.screen.web.board import NodeNow, Shown, SourceNow
from mpft_deploy.screen.web.operations import MissingError, operation

PATIENCE = 5.0
"""Seconds that an answer may take."""

IDLE = 10.0
"""Seconds after the last visitor's question for which an answer is shown."""

MAX_ANSWER = 8 * 1024**2


class _Overview(msgspec.Struct):
    """What is read of a node's own."""

    alive: bool
    sources: list[SourceNow]


class _NodeError(Exception):
    """What is wrong with an answer, in words."""


class Nodes:
    """Asks them; from the event loop of the page alone.

    Raises:
        EnvironmentLacksError: httpx2 is missing.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._urls = {one.name: one.url.rstrip("/") + "/" for one in nodes}
        self._tokens = {one.name: one.read_token() for one in nodes}
        self._told = [
            Asked(NodeNow(name, url), partial(self._ask, name), IDLE)
            for name, url in self._urls.items()
        ]
        if nodes:
            require("webhook", "[[http.nodes]]", "httpx2")
            import httpx2

            self._failures = (httpx2.HTTPError, OSError)
            self._client = httpx2.AsyncClient(
                timeout=None, trust_env=False, verify=ssl.create_default_context()
            )

    def look(self) -> list[NodeNow]:
        """What each told last."""
        return [one.look() for one in self._told]

    @operation("GET", "/nodes/{node}/picture")
    async def picture(self, node: str, source: str, near: bool = False) -> Shown | None:
        """The same as /picture, of another node's source."""
        if node not in self._urls:
            raise MissingError("there is no such node")
        asked = {"source": source, **({"near": "true"} if near else {})}
        try:
            return msgspec.json.decode(await self._get(node, "picture", asked), type=Shown | None)
        except Exception as error:
            raise MissingError(f"{node}: {self._why(error)}") from None

    async def _ask(self, name: str, last: NodeNow) -> NodeNow:
        try:
            body = await self._get(name, "sources", {"own": "true"})
            found = msgspec.json.decode(body, type=_Overview)
        except Exception as error:  # whatever another machine does
            why = self._why(error)
            reason = f"{name}: {why}"
            down = [replace(one, state="down", reason=reason) for one in last.sources]
            return replace(last, problem=why, sources=down)
        problem = "" if found.alive else "it has stopped judging"
        return replace(last, problem=problem, sources=found.sources)

    async def _get(self, name: str, path: str, query: dict[str, str]) -> bytes:
        token = self._tokens[name]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self._urls[name]}api/v1/{path}"

        async def read() -> bytes:
            async with self._client.stream("GET", url, params=query, headers=headers) as reply:
                if reply.status_code != 200:
                    refused = reply.status_code == 401
                    why = f"it answered {reply.status_code}"
                    raise _NodeError("it does not know the token" if refused else why)
                body = b""
                async for part in reply.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER:
                        raise _NodeError("it answers more than is read")
                return body

        return await asyncio.wait_for(read(), PATIENCE)

    def _why(self, error: Exception) -> str:
        """In words that repeat nothing of what was sent."""
        if isinstance(error, asyncio.TimeoutError):
            return "no reply in time"
        if isinstance(error, _NodeError):
            return str(error)
        if isinstance(error, self._failures):
            return reason_of(error)
        return "its answer is of another version"
