"""A browser is told by web push, also with its page closed.

Messages are such as one browser can read (RFC 8291), and say who sends them (RFC 8292).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from msgspec import Meta

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display, printable, read_small, write_atomic
from mpft_deploy.screen.streams.records import SourceEvent, StreamEvent
from mpft_deploy.screen.tell.config import Push
from mpft_deploy.screen.tell.deliver import LEFT, Answer
from mpft_deploy.screen.tell.notify import Notifier, title
from mpft_deploy.screen.tell.post import Poster, is_public
from mpft_deploy.screen.tell.store import Delivery, Store
from mpft_deploy.screen.tell.table import is_loopback, is_web_address

logger = logging.getLogger(__name__)

TIMEOUT = 10.0

KEPT = 86400
"""Seconds for which a push service keeps a message for a device that is off."""

GONE = frozenset({404, 410})
"""Replies that say that a subscription has ended."""

LONGEST_TITLE, LONGEST_TEXT = 100, 400
"""Characters: a message has 4 KB at most, and some take four bytes."""


SECRET = 16
"""Bytes of a subscription's secret."""

RECORD = 4096
"""Bytes of a message, as every push service takes them; what is sent is shorter."""

VALID = 12 * 3600
"""Seconds for which a token says who sends; services refuse more than a day."""


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

    _poster: Poster

    def __init__(
        self,
        device: Device,
        subscription: Subscription,
        sender: Sender,
        forget: Callable[[str], object],
        config: Push,
        store: Store,
    ) -> None:
        self.device, self._sender, self._forget = device, sender, forget
        self._gone = False
        self._endpoint, self._keys = subscription.endpoint, subscription.keys.read()
        self._contact = config.contact
        self._poster = Poster(self._endpoint, TIMEOUT, "endpoint", public=not config.local)
        where = f"push {device.service}"
        super().__init__(f"push {device.id}", where, config, store)

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
        return self._poster.post(encrypt(msgspec.json.encode(said), *self._keys), headers)

    def notify(self, delivery: Delivery, event: StreamEvent | SourceEvent, text: str) -> Answer:
        if self._gone:  # while this event was being sent
            return LEFT
        answer = self.say(title(event), text, delivery.event)
        if answer.status not in GONE:
            return answer
        user = printable(self.device.user or "somebody")
        logger.info("%s: the subscription of %s has ended", self._where, user)
        self._gone = True
        self._forget(self.device.id)
        self.leave()
        return LEFT


def encrypt(text: bytes, key: bytes, secret: bytes) -> bytes:
    """The body of a message that only the browser with this public key and secret can read."""
    own, salt = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)
    point = _point(own)
    info = b"WebPush: info\0" + key + point
    shared = _derive(own.exchange(ec.ECDH(), read_point(key)), secret, info, 32)
    content = _derive(shared, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(shared, salt, b"Content-Encoding: nonce\0", 12)
    sealed = AESGCM(content).encrypt(nonce, text + b"\2", None)  # 2: no other record follows
    return salt + struct.pack("!IB", RECORD, len(point)) + point + sealed


def read_point(key: bytes) -> ec.EllipticCurvePublicKey:
    """A public key; a ValueError unless it is a point of the curve."""
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)


class Sender:
    """Who sends: a key pair, which browsers are told when they subscribe.

    Args:
        path: of the private key, which is made if it is absent; None for one in memory.

    Attributes:
        public: the public key, as browsers want it.
        new: whether it was made just now, so that no browser knows it.

    Raises:
        InputError: the file is no such key, or cannot be read.
        EnvironmentLacksError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.new = path is None or not path.exists()
        self._key = (
            _read(path) if path and not self.new else ec.generate_private_key(ec.SECP256R1())
        )
        if path and self.new:
            pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_atomic(path, pem, mode=0o600)
        self.public = _base64(_point(self._key))

    def authorization(self, endpoint: str, contact: str) -> str:
        """The header by which a push service knows us."""
        service = urlsplit(endpoint)
        claims = {
            "aud": f"{service.scheme}://{service.netloc}",
            "exp": int(time.time()) + VALID,
            "sub": contact,
        }
        parts = ({"typ": "JWT", "alg": "ES256"}, claims)
        signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        pair = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(SHA256())))
        signature = _base64(b"".join(number.to_bytes(32, "big") for number in pair))
        return f"vapid t={signed}.{signature}, k={self.public}"


def _derive(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _read(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(read_small(path, "[push]"), None)
    except InputError:
        raise
    except Exception:  # the library raises many kinds for a file that is no key
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise InputError(
            f"[push] {display(path)} is no key of web push: move it away, a new one is made, and "
            "devices have to be added again"
        )
    return key


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
