"""A browser is told by web push, also with its page closed."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from mpft_deploy.errors import UsageError
from mpft_deploy.files import printable
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.records import SourceEvent, StreamEvent
from mpft_deploy.screen.tell.alerts import Push
from mpft_deploy.screen.tell.deliver import LEFT, Answer
from mpft_deploy.screen.tell.notify import Notifier, title
from mpft_deploy.screen.tell.post import Poster, is_public
from mpft_deploy.screen.tell.store import Delivery, Store
from mpft_deploy.screen.tell.table import is_loopback, is_web_address
from mpft_deploy.screen.tell.vapid import SECRET, Sender, encrypt, read_point

logger = logging.getLogger(__name__)

TIMEOUT = 10.0

KEPT = 86400
"""Seconds for which a push service keeps a message for a device that is off."""

GONE = frozenset({404, 410})
"""Replies that say that a subscription has ended."""

LONGEST_TITLE, LONGEST_TEXT = 100, 400
"""Characters: a message has 4 KB at most, and some take four bytes."""


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which a browser has messages encrypted, in base64url."""

    p256dh: Annotated[str, Meta(max_length=100)]
    auth: Annotated[str, Meta(max_length=40)]

    def read(self) -> tuple[bytes, bytes]:
        """Public key and secret; a UsageError unless they are such."""
        try:
            key, secret = (
                base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
                for text in (self.p256dh, self.auth)
            )
            read_point(key)
        except (binascii.Error, ValueError):
            raise UsageError("keys: p256dh is no point of the curve P-256 in base64url") from None
        if len(secret) != SECRET:
            raise UsageError(f"keys: auth has {len(secret)} bytes and not {SECRET}")
        return key, secret


class Subscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser's `PushManager.subscribe` gives; a secret."""

    endpoint: Annotated[str, Meta(max_length=1000)]
    keys: Keys

    @property
    def service(self) -> str:
        """Host of the push service: what may be shown of the endpoint."""
        return urlsplit(self.endpoint).hostname or ""

    def check(self, *, local: bool) -> None:
        """A UsageError unless it can be one; local: see `Push`."""
        self.keys.read()
        if not self.endpoint.isascii() or not is_web_address(self.endpoint, plain=True):
            raise UsageError("endpoint: this is no address of a push service")
        if not self.endpoint.startswith("https:") and not (local and is_loopback(self.service)):
            raise UsageError("endpoint: a push service is reached by https")
        try:
            public = is_public(self.service)
        except ValueError:  # a name is looked up whenever something is sent
            public = not is_loopback(self.service)
        if not public and not local:
            raise UsageError("endpoint: a push service has a public address")


class Device(msgspec.Struct, frozen=True):
    """A browser that is notified, as people see it.

    Attributes:
        id: a hash of the endpoint.
        since: when it was added, seconds since the Unix epoch.
        agent: what the browser calls itself.
        service: by which it is notified.
    """

    id: str
    user: str
    since: float
    agent: str
    service: str


class PushSink(Notifier):
    """Notifies a device, until its push service says that it is gone.

    Args:
        forget: called then, with its id.
    """

    def __init__(
        self,
        device: Device,
        subscription: Subscription,
        sender: Sender,
        forget: Callable[[str], object],
        config: Push,
        store: Store,
        clock: Clock | None,
    ) -> None:
        self.device, self._sender, self._forget = device, sender, forget
        self._endpoint, self._keys = subscription.endpoint, subscription.keys.read()
        self._contact, self._posting = config.contact, threading.Lock()
        self._poster = Poster(self._endpoint, TIMEOUT, "endpoint", public=not config.local)
        where = f"push {device.service}"
        super().__init__(f"push {device.id}", where, config, store, clock)

    def say(self, title: str, text: str, event: int | None) -> Answer:
        """Send a message once; event: that is opened when it is pressed."""
        said = {"title": title[:LONGEST_TITLE], "body": text[:LONGEST_TEXT], "event": event}
        headers = {
            "Authorization": self._sender.authorization(self._endpoint, self._contact),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(KEPT),
            "Urgency": "high",
        }
        body = encrypt(msgspec.json.encode(said), *self._keys)
        with self._posting:
            return self._poster.post(body, headers)

    def notify(self, delivery: Delivery, event: StreamEvent | SourceEvent, text: str) -> Answer:
        """See `Notifier`."""
        answer = self.say(title(event), text, delivery.event)
        if answer.status not in GONE:
            return answer
        user = printable(self.device.user or "somebody")
        logger.info("%s: the subscription of %s has ended", self._where, user)
        self._forget(self.device.id)
        self.leave()
        return LEFT

    def abort(self) -> None:
        """End a request that waits."""
        self._poster.abort()

    def end(self) -> None:
        """Close the connection; a visitor may be trying it meanwhile."""
        self.abort()
        with self._posting:
            self._poster.close()
