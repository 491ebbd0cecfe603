"""A push service on this machine, and browsers that subscribed by it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CONTACT = "mailto:ops@example.org"


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class PushService:
    """Takes messages.

    Attributes:
        answers: status by path, 201 for others.
        received: headers and body of what it took, by path.
        attempts: requests by path, whatever became of them.
    """

    def __init__(self) -> None:
        service = self
        self.answers: dict[str, int] = {}
        self.received: dict[str, list[tuple[Message, bytes]]] = defaultdict(list)
        self.attempts: dict[str, int] = defaultdict(int)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = service.answers.get(self.path, 201)
                service.attempts[self.path] += 1
                if status == 201:
                    service.received[self.path].append((self.headers, body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def serving() -> Iterator[PushService]:
    """A service that is gone afterwards."""
    service = PushService()
    try:
        yield service
    finally:
        service.server.shutdown()
        service.server.server_close()


class Phone:
    """A browser's side of a subscription.

    Attributes:
        key, secret: what it tells whoever may send to it.
    """

    def __init__(self, service: PushService, name: str = "phone") -> None:
        self._service, self.path = service, f"/{name}"
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.key, self.secret = point_of(self.private), os.urandom(16)
        self.endpoint = service.url + self.path

    @property
    def subscription(self) -> dict[str, Any]:
        """As the page sends it."""
        keys = {"p256dh": base64url(self.key), "auth": base64url(self.secret)}
        return {"endpoint": self.endpoint, "keys": keys}

    def told(self) -> list[dict[str, Any]]:
        """Messages that arrived, in order."""
        received = self._service.received[self.path]
        return [json.loads(decrypt(body, self.private, self.secret)) for _, body in received]

    def headers(self) -> Message:
        """Of the last one."""
        return self._service.received[self.path][-1][0]


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(serialization.Encoding.X962, form)


def decrypt(body: bytes, private: ec.EllipticCurvePrivateKey, secret: bytes) -> bytes:
    """What a message says, as a browser finds out; by RFC 8188 and RFC 8291."""

    def derive(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
        return HKDF(SHA256(), length, salt, info).derive(key)

    salt, (size, length) = body[:16], struct.unpack("!IB", body[16:21])
    sender, sealed = body[21 : 21 + length], body[21 + length :]
    assert len(body) <= 4096
    assert len(sealed) <= size
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
    info = b"WebPush: info\0" + point_of(private) + sender
    shared = derive(private.exchange(ec.ECDH(), theirs), secret, info, 32)
    key = derive(shared, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = derive(shared, salt, b"Content-Encoding: nonce\0", 12)
    text = AESGCM(key).decrypt(nonce, sealed, None).rstrip(b"\0")
    assert text[-1:] == b"\2"
    return text[:-1]


def sender_of(authorization: str) -> tuple[str, dict[str, Any]]:
    """Public key and claims of a header, whose signature must be right."""
    scheme, _, rest = authorization.partition(" ")
    assert scheme == "vapid"
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    head, claims, signature = fields["t"].split(".")
    assert json.loads(unbase64(head)) == {"typ": "JWT", "alg": "ES256"}
    r, s = (int.from_bytes(unbase64(signature)[i : i + 32], "big") for i in (0, 32))
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(fields["k"]))
    key.verify(encode_dss_signature(r, s), f"{head}.{claims}".encode(), ec.ECDSA(SHA256()))
    return fields["k"], json.loads(unbase64(claims))
