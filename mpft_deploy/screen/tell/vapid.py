"""Web push: messages that one browser can read (RFC 8291), and who sends them (RFC 8292)."""

from __future__ import annotations

import base64
import json
import os
import struct
import time
from pathlib import Path
from urllib.parse import urlsplit

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

from mpft_deploy.errors import InputError
from mpft_deploy.files import display, read_small, write_atomic

SECRET = 16
"""Bytes of a subscription's secret."""

RECORD = 4096
"""Bytes of a message, as every push service takes them; what is sent is shorter."""

VALID = 12 * 3600
"""Seconds for which a token says who sends; services refuse more than a day."""


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
