"""HTTP POST with one deadline for everything, over a connection that is kept open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Mapping

from mpft_deploy.errors import UsageError
from mpft_deploy.extras import require
from mpft_deploy.screen.tell.deliver import Answer

MAX_REPLY = 64 * 1024
"""Bytes of a reply that are read; nobody needs them, but the next request comes after them."""

LONGEST_PAUSE = 300.0
"""Seconds for which a receiver may ask to be left alone."""


class Poster:
    """Posts to one address, from one thread. Neither redirects nor proxies are followed.

    Attributes:
        where: scheme, host and port of the address: what may be shown of it.

    Raises:
        UsageError: the address cannot be one.
        EnvironmentLacksError: the extra `webhook` is missing.
    """

    def __init__(self, url: str, timeout: float) -> None:
        require("webhook", "[webhook]", "httpx2")
        import httpx2

        for name in ("httpx2", "httpcore2"):  # they log addresses and headers
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            self._url = httpx2.URL(url)
            self._url.raw_host.decode("ascii")
        except (httpx2.InvalidURL, UnicodeError):
            raise UsageError("[webhook] url: this is no address of a web server") from None
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        host = self._url.raw_host.decode("ascii")
        self.where = f"{self._url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self._timeout, self._aborted = timeout, False
        self._unsendable, self._failures = httpx2.LocalProtocolError, httpx2.TransportError
        self._client = httpx2.AsyncClient(
            timeout=None, trust_env=False, verify=ssl.create_default_context()
        )
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Answer] | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post once. A ValueError where these headers cannot be sent."""
        request = asyncio.wait_for(self._request(body, headers), self._timeout)
        self._task = self._loop.create_task(request)
        if self._aborted:
            self._task.cancel()
        try:
            return self._loop.run_until_complete(self._task)
        except asyncio.TimeoutError:
            return Answer(0, "no reply in time")
        except asyncio.CancelledError:
            return Answer(0, "given up")
        except self._unsendable as error:
            raise ValueError(str(error)) from None
        except (self._failures, OSError) as error:
            return Answer(0, reason_of(error))

    def abort(self) -> None:
        """End a `post` that waits, from another thread, and all later ones."""
        self._aborted = True
        with contextlib.suppress(RuntimeError):  # closed by now
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())

    def close(self) -> None:
        """Close the connection; by the thread that posts."""
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    async def _request(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        async with self._client.stream("POST", self._url, content=body, headers=headers) as reply:
            length = 0
            async for part in reply.aiter_raw():
                length += len(part)
                if length > MAX_REPLY:
                    break  # a longer reply is not worth the connection
            text = reply.headers.get("Retry-After", "")
            pause = float(text[:9]) if text.isascii() and text.isdecimal() else 0.0
            status = reply.status_code
            return Answer(status, f"it answered {status}", min(pause, LONGEST_PAUSE))


def reason_of(error: BaseException) -> str:
    """Why, by what a library's error was made of."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, OSError) and cause.strerror:
            number = cause.errno or 0  # negative for names that are not found
            return os.strerror(number) if number > 0 else cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "it closed the connection, or its reply is not HTTP"
