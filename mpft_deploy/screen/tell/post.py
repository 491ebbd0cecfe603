"""HTTP POST with one deadline for everything; and events posted to a receiver of one's own.

Those are signed, in order, and arrive at least once. Headers and signature are those of Standard
Webhooks (https://www.standardwebhooks.com), for which there are libraries in most languages;
`docs/telling.md` verifies one without.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from mpft_deploy import __version__
from mpft_deploy.errors import UsageError
from mpft_deploy.extras import require
from mpft_deploy.screen.streams.records import Event, FrameEvent
from mpft_deploy.screen.tell.config import Webhook
from mpft_deploy.screen.tell.deliver import LONGEST_PAUSE, Answer, Deliverer
from mpft_deploy.screen.tell.store import Delivery, Store
from mpft_deploy.screen.tell.table import read_secrets

MAX_REPLY = 64 * 1024
"""Bytes of a reply that are read; nobody needs them, but the next request comes after them."""

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""By which networks without IPv4 reach what has nothing else."""


MIN_KEY = 16
"""Bytes that a signing key has at least: fewer can be guessed."""


class Poster:
    """Posts to one address, once at a time. Neither redirects nor proxies are followed.

    Args:
        what: names the address in errors.
        public: connect to public addresses alone, by whatever name: a stranger gave this one.

    Attributes:
        where: scheme, host and port of the address: what may be shown of it.

    Raises:
        UsageError: the address cannot be one.
        EnvironmentLacksError: the extra `webhook` is missing.
    """

    def __init__(
        self, url: str, timeout: float, what: str = "[webhook] url", *, public: bool = False
    ) -> None:
        require("webhook", "[webhook]", "httpx2")
        import httpx2

        for name in ("httpx2", "httpcore2"):  # they log addresses and headers
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            self._url = httpx2.URL(url)
            self._url.raw_host.decode("ascii")
        except (httpx2.InvalidURL, UnicodeError):
            raise UsageError(f"{what}: this is no address of a web server") from None
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        host = self._url.raw_host.decode("ascii")
        self.where = f"{self._url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self._public, self._host, self._port, self._failed = public, host, port, 0
        self._timeout, self._aborted = timeout, False
        self._unsendable, self._failures = httpx2.LocalProtocolError, httpx2.TransportError
        self._client = httpx2.AsyncClient(timeout=None, trust_env=False, verify=_trust())
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Answer] | None = None
        self._posting = threading.Lock()

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post once. A ValueError where these headers cannot be sent."""
        with self._posting:
            if self._aborted:  # by now the loop may be closed
                return Answer(0, "given up")
            request = asyncio.wait_for(self._request(body, headers), self._timeout)
            self._task = self._loop.create_task(request)
            try:
                return self._loop.run_until_complete(self._task)
            except asyncio.TimeoutError:
                self._failed += 1
                return Answer(0, "no reply in time")
            except asyncio.CancelledError:
                return Answer(0, "given up")
            except self._unsendable as error:
                raise ValueError(str(error)) from None
            except (self._failures, OSError) as error:
                self._failed += 1
                return Answer(0, reason_of(error))

    def abort(self) -> None:
        """End a `post` that waits, from another thread, and all later ones."""
        self._aborted = True
        with contextlib.suppress(RuntimeError):  # closed by now
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())

    def close(self) -> None:
        """Close the connection, after a `post` that another thread began."""
        self.abort()
        with self._posting:
            self._loop.run_until_complete(self._client.aclose())
            self._loop.close()

    async def _request(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        url, extensions = self._url, {}
        if self._public:
            found = await self._addresses()
            if not found:
                return Answer(0, "it has no public address")
            # The name is resolved once, or another answer could follow the one that was checked.
            url = url.copy_with(host=found[self._failed % len(found)])
            headers = {**headers, "Host": self._url.netloc.decode("ascii")}
            extensions = {"sni_hostname": self._host}
        async with self._client.stream(
            "POST", url, content=body, headers=headers, extensions=extensions
        ) as reply:
            length = 0
            async for part in reply.aiter_raw():
                length += len(part)
                if length > MAX_REPLY:
                    break  # a longer reply is not worth the connection
            text = reply.headers.get("Retry-After", "")
            pause = float(text[:9]) if text.isascii() and text.isdecimal() else 0.0
            status = reply.status_code
            return Answer(status, f"it answered {status}", min(pause, LONGEST_PAUSE))

    async def _addresses(self) -> list[str]:
        """Those of the host that are public."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return [str(name[0]) for *_, name in found if is_public(str(name[0]))]


@lru_cache(1)
def _trust() -> ssl.SSLContext:
    """The system's authorities, which take a megabyte."""
    return ssl.create_default_context()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet."""
    one = ipaddress.ip_address(address)
    if isinstance(one, ipaddress.IPv6Address):  # it may stand for an older one
        translated = ipaddress.IPv4Address(one.packed[12:]) if one in _TRANSLATED else None
        one = one.ipv4_mapped or one.sixtofour or translated or one
    return one.is_global and not one.is_multicast


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


def signature(key: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over `ID.TIMESTAMP.BODY`, as the header has it: "v1," and base64."""
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signing_key(text: bytes) -> bytes:
    """A key as configured: `whsec_` and base64, or any other text for its own bytes."""
    key = text
    if text.startswith(b"whsec_"):
        try:
            key = base64.b64decode(text.removeprefix(b"whsec_"), validate=True)
        except binascii.Error:
            raise UsageError("[webhook] secret: what follows whsec_ is not base64") from None
    if len(key) < MIN_KEY:
        raise UsageError(
            f"[webhook] secret: the key has {len(key)} bytes and needs {MIN_KEY} or more; "
            "docs/telling.md shows how to make one"
        )
    return key


class _Identity(msgspec.Struct):
    """What is read of an event: the rest is sent as it stands, whichever version wrote it."""

    id: str


class WebhookSink(Deliverer):
    """Posts events."""

    _poster: Poster

    def __init__(self, config: Webhook, store: Store) -> None:
        texts = read_secrets("webhook", "secret", config.secret, config.secret_file)
        self._keys = [signing_key(text.encode()) for text in texts]
        self._poster = Poster(config.url, config.timeout)
        super().__init__("webhook", f"webhook {self._poster.where}", store)

    def wants(self, event: Event) -> bool:
        return not isinstance(event, FrameEvent)

    def attempt(self, delivery: Delivery) -> Answer:
        identity = msgspec.json.decode(delivery.body, type=_Identity).id
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"mpft-deploy/{__version__}",
            "webhook-id": identity,
            "webhook-timestamp": str(timestamp),
        }
        if self._keys:
            signed = [signature(key, identity, timestamp, delivery.body) for key in self._keys]
            headers["webhook-signature"] = " ".join(signed)
        return self._poster.post(delivery.body, headers)
