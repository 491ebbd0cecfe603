"""Events posted to a receiver of one's own: signed, in order, at least once.

Headers and signature are those of Standard Webhooks (https://www.standardwebhooks.com), for which
there are libraries in most languages; `docs/telling.md` verifies one without.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time

from mpft_deploy import __version__
from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.records import Event, FrameEvent
from mpft_deploy.screen.tell.config import Webhook
from mpft_deploy.screen.tell.deliver import Answer, Deliverer
from mpft_deploy.screen.tell.post import Poster
from mpft_deploy.screen.tell.store import Delivery, Store

MIN_KEY = 16
"""Bytes that a signing key has at least: fewer can be guessed."""


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


class WebhookSink(Deliverer):
    """Posts events."""

    _poster: Poster

    def __init__(self, config: Webhook, store: Store) -> None:
        self._keys = [signing_key(text) for text in config.signing_keys()]
        self._poster = Poster(config.url, config.timeout)
        super().__init__("webhook", f"webhook {self._poster.where}", store)

    def wants(self, event: Event) -> bool:
        """See `Deliverer`."""
        return not isinstance(event, FrameEvent)

    def attempt(self, delivery: Delivery) -> Answer:
        """Post an event."""
        identity, timestamp = delivery.told.id, int(time.time())
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
