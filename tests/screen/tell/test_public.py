"""Addresses that strangers name: only those of the internet are connected to."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from mpft_deploy.screen.tell import post
from mpft_deploy.screen.tell.post import Poster, is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(
            (one, False)
            for one in (
                *(
                    "127.0.0.1",
                    "10.1.2.3",
                    "192.168.0.1",
                    "172.16.0.1",
                    "169.254.169.254",
                    "0.0.0.0",
                ),
                *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fd00::1"),
                *("ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:a00:1::1"),
            )
        ),
        *(
            (one, True)
            for one in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")
        ),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) == public


@contextlib.contextmanager
def encrypted(folder: Path, name: str) -> Iterator[tuple[int, Path, list[str]]]:
    """A server with a certificate for a name; its port, whom to trust, what it was asked."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    cert = made.add_extension(names, critical=False).sign(key, SHA256())
    file = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + cert.public_bytes(pem))
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.headers["Host"])
            self.send_response(201)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port, file, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("name", "status"), [("localhost", 201), ("other.example", 0)])
def test_the_address_that_was_checked_is_asked_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    """As if this machine were public: its certificate is that of the name, not of the address."""
    checked: list[str] = []

    def public(address: str) -> bool:
        checked.append(address)
        return address == "127.0.0.1"

    monkeypatch.setattr(post, "is_public", public)
    with encrypted(tmp_path, name) as (port, file, asked):
        monkeypatch.setattr(post, "_trust", lambda: ssl.create_default_context(cafile=file))
        poster = Poster(f"https://localhost:{port}/x", 10, public=True)
        answer = poster.post(b"", {})
        poster.close()
    assert answer.status == status, answer
    assert checked
    assert asked == ([f"localhost:{port}"] if status else [])
