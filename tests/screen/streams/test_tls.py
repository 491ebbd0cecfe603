"""Cameras over TLS, and RTMP: certificates by `ca_file`, with real servers, in the sandbox too."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import servers
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from media import encoded, picture, write_video
from servers import Site
from telling import eventually

from mpft_deploy.screen.streams.config import Config, named, read_config, source_settings
from mpft_deploy.screen.streams.settings import ScreenSettings

PLAYLIST = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n/a.ts\n#EXTINF:4,\n/a.ts\n#EXT-X-ENDLIST\n"
)


class Signer:
    """An authority that signs certificates of cameras; `file` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.file = self._write(name, self._name, self._key, x509.BasicConstraints(True, None))

    def sign(self, name: str, host: str = "127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """The files of a certificate for a host, and of its key; days: until it ends."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "camera")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        file = self._write(name, subject, key, names, days)
        private = self._folder / f"{name}.key"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return file, private

    def _write(self, name: str, subject: x509.Name, key: Any, more: Any, days: int = 2) -> Path:
        now = datetime.now(timezone.utc)
        made = x509.CertificateBuilder(
            self._name, subject, key.public_key(), x509.random_serial_number()
        )
        made = made.not_valid_before(now - timedelta(9)).not_valid_after(now + timedelta(days))
        cert = made.add_extension(more, critical=True).sign(self._key, SHA256())
        file = self._folder / f"{name}.pem"
        file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return file


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "authority")


Camera = Callable[..., list[str]]


@pytest.fixture
def camera(tmp_path: Path, clip: Any) -> Iterator[Camera]:
    """Start a web and an RTSP server with a certificate; addresses, of each scheme one.

    asked: where what the web server was asked is kept.
    """
    servers.require_rtsp_server()
    video = write_video(tmp_path / "a.ts", seconds=4, codec="mpeg2video", rate=25).read_bytes()
    answers: dict[str, tuple[int, dict[str, str], bytes]] = {
        "/here": (302, {"Location": "/snap.jpg"}, b""),
        "/snap.jpg": (200, {}, encoded(picture(240, 320), "JPEG")),
        "/list.m3u8": (200, {}, PLAYLIST.encode()),
        "/a.ts": (200, {}, video),
    }
    with contextlib.ExitStack() as started:

        def start(files: tuple[Path, Path], asked: Any = ()) -> list[str]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*files)
            site = started.enter_context(contextlib.closing(Site(context)))
            site.answers, site.demands = answers, 'Basic realm="cam"'
            site.asked = asked if asked == [] else site.asked
            cam = f"{clip()},25,user:secretpw"
            rtsp = started.enter_context(contextlib.closing(servers.RtspServer(tls=files, cam=cam)))
            urls = [site.url("/here", "https"), site.url("/list.m3u8", "hls+https")]
            return [*urls, rtsp.url("cam", "user:secretpw")]

        yield start


def config(addresses: list[str], readers: Any, **settings: Any) -> Config:
    """Sources called after their numbers."""
    sources = [
        source_settings(address, name=str(number), gate=0.0, retry=1.0, **settings)
        for number, address in enumerate(addresses)
    ]
    return Config(sources=named(sources), screen=ScreenSettings(readers=readers))


@pytest.mark.parametrize("readers", ["threads", "processes"])
@pytest.mark.parametrize("trusted", ["authority", "own", "any"])
def test_a_camera_is_read_whose_certificate_holds(
    signer: Signer, camera: Camera, watching: Any, readers: str, trusted: str
) -> None:
    """By who signed it, by itself, and without `ca_file` whoever signed it."""
    files = signer.sign("camera")
    ca_file = {"authority": str(signer.file), "own": str(files[0]), "any": ""}[trusted]
    running = watching(config=config(camera(files), readers, ca_file=ca_file))
    for number in range(3):
        running.frame(str(number), after=0)


@pytest.mark.parametrize("readers", ["threads", "processes"])
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("signer", "not signed by ca_file: another answers in its place"),
        ("host", "not for 127.0.0.1: name the host as the certificate does"),
        ("end", "certificate has expired"),
    ],
)
def test_any_other_is_refused_before_it_is_asked(
    tmp_path: Path,
    signer: Signer,
    camera: Camera,
    watching: Any,
    readers: str,
    fault: str,
    why: str,
) -> None:
    asked: list[tuple[str, str]] = []
    other = Signer(tmp_path, "other") if fault == "signer" else signer
    host, days = "127.0.0.2" if fault == "host" else "127.0.0.1", -1 if fault == "end" else 2
    addresses = camera(other.sign("camera", host, days), asked)
    running = watching(config=config(addresses, readers, ca_file=str(signer.file)))
    for number in range(3):
        assert why in running.state("down", str(number)).reason
    assert not asked


def test_a_redirect_does_not_lead_out_of_tls(signer: Signer, watching: Any) -> None:
    """To a server that is no other's, by what was promised of it: it is told nothing in plain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signer.sign("camera"))
    heard: list[bytes] = []

    def redirect(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as client:
            while request := client.recv(65536):
                number = request[request.index(b"CSeq") :].partition(b"\r\n")[0]
                moved = f"302 Found\r\nLocation: rtsp://127.0.0.1:{plain.port}/cam".encode()
                status = b"200 OK" if request.startswith(b"OPTIONS") else moved
                client.sendall(b"RTSP/1.0 %b\r\n%b\r\n\r\n" % (status, number))

    plain = servers.Listener(lambda connection: heard.append(connection.recv(65536)))
    secured = servers.Listener(redirect)
    with contextlib.closing(plain), contextlib.closing(secured):
        address = f"rtsps://user:secretpw@127.0.0.1:{secured.port}/cam"
        running = watching(address, ca_file=str(signer.file))
        running.state("down")
        eventually(lambda: heard)
    assert all(data.startswith(b"\x16") for data in heard)  # how a handshake begins


def test_authorities_of_all_are_for_those_that_show_a_certificate(
    tmp_path: Path, signer: Signer
) -> None:
    path = tmp_path / "cameras.toml"
    addresses = "".join(f'[[source]]\naddress = "{one}://cam/a"\n' for one in ("rtsp", "rtsps"))
    path.write_text(f"[defaults]\nca_file = '{signer.file}'\n{addresses}")
    assert [one.ca_file for one in read_config(path).sources] == ["", str(signer.file)]


def test_authorities_that_are_gone_are_told(signer: Signer, camera: Camera, watching: Any) -> None:
    addresses = camera(signer.sign("camera"))
    given = config(addresses, "processes", ca_file=str(signer.file))
    signer.file.unlink()
    running = watching(config=given)
    for number in range(3):
        reason = running.state("down", str(number)).reason
        assert reason == f"ca_file: {signer.file} is no readable PEM certificate"
