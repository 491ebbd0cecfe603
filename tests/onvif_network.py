"""A network of ONVIF cameras on this machine: they answer probes, and HTTP with digests."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

from mpft_deploy.screen import onvif

USER, PASSWORD = "op & <erator>", "Pl4nted-S3cret ü"
ONVIF = "http://www.onvif.org/ver10"
SCOPES = "onvif://www.onvif.org/name/Dock%20%C3%A4 onvif://www.onvif.org/hardware/X-1"


def match(
    question: str, services: str, scopes: str = SCOPES, before: str = "", more: str = ""
) -> bytes:
    """A datagram that answers a probe."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>{before}
    <e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope"
      xmlns:wsa="http://schemas.xmlsoap.org/ws/2004/08/addressing"
      xmlns:w="http://schemas.xmlsoap.org/ws/2005/04/discovery">
    <e:Header><wsa:RelatesTo>{question}</wsa:RelatesTo></e:Header>
    <e:Body><w:ProbeMatches><w:ProbeMatch>
      <wsa:EndpointReference><wsa:Address>urn:uuid:1</wsa:Address></wsa:EndpointReference>
      <w:Scopes>onvif://www.onvif.org/type/video_encoder {scopes}</w:Scopes>
      <w:XAddrs>{services}</w:XAddrs>{more}
    </w:ProbeMatch></w:ProbeMatches></e:Body></e:Envelope>""".encode()


class Network:
    """Answers probes, each time with everything.

    Attributes:
        answers: from which address of 127.0.0.0/8, and what, given the probe's identity.
        probes: that came.
    """

    def __init__(self, group: str = "") -> None:
        self.answers: list[tuple[str, Callable[[str], bytes]]] = []
        self.probes: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((group or "127.0.0.1", 0))
        if group:
            interface = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, interface)
        self.address: tuple[str, int] = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while data := (asked := self._socket.recvfrom(65536))[0]:
            self.probes.append(data)
            root = ElementTree.fromstring(data)
            assert root.findtext(".//{*}Types", "").endswith(":NetworkVideoTransmitter")
            question = root.findtext(".//{*}MessageID", "")
            for host, answer in self.answers:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering:
                    answering.bind((host, 0))
                    answering.sendto(answer(question), asked[1])

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
            )
            ending.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()


@contextmanager
def network(monkeypatch: pytest.MonkeyPatch, group: str = "") -> Iterator[Network]:
    """The network in which `find_cameras` looks, meanwhile."""
    one = Network(group)
    monkeypatch.setattr(onvif, "GROUP", one.address)
    yield one
    one.close()


class Device:
    """The services of a camera, whose clock is a day behind.

    Attributes:
        asked: names of operations, in order, of requests that it took.
        requests: that came, whole.
        instead: what it does in place of an answer, by the operation's name.
        streams: addresses by token.
        name: of each stream.
        http: whether it wants digests of HTTP; else those of WS-Security.
    """

    BEHIND = 86400

    def __init__(self, host: str = "127.0.0.1", *, http: bool = False) -> None:
        self.host, self.http = host, http
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self.instead: dict[str, Callable[[BaseHTTPRequestHandler], str | None]] = {}
        device = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                device.requests.append(str(self.headers).encode() + body)
                self.close_connection = True
                device.answer(self, body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_port}"
        self.media = f"{self.url}/onvif/media"
        self.streams = {'a"<&': f"rtsp://{host}:8554/live?channel=1&subtype=0"}
        self.name = "Main"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def match(self, question: str) -> bytes:
        """Its answer to a probe."""
        return match(question, f"http://192.0.2.77/x {self.url}/onvif/device")

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        root = ElementTree.fromstring(body)
        [operation] = root[-1]
        name = operation.tag.rpartition("}")[2]
        if name != "GetSystemDateAndTime" and not self._knows(request, root):
            return
        self.asked.append(name)
        said = self.instead[name](request) if name in self.instead else self._say(name, root)
        if said is not None:
            send(request, 200, said.encode())

    def _say(self, name: str, root: ElementTree.Element) -> str:
        now = time.gmtime(time.time() - self.BEHIND)
        profile = f'<t:Profiles token="{{}}"><t:Name>{self.name}</t:Name>'
        profile += "<t:VideoEncoderConfiguration>"
        profile += "<t:Name>enc</t:Name><t:Resolution><t:Width>2560</t:Width><t:Height>1440"
        profile += "</t:Height></t:Resolution></t:VideoEncoderConfiguration></t:Profiles>"
        quoted = [escape(token, {'"': "&quot;"}) for token in self.streams]
        token = root.findtext(".//{*}ProfileToken", "")
        said = {
            "GetSystemDateAndTime": "<t:UTCDateTime><t:Time><t:Hour>{3}</t:Hour><t:Minute>{4}"
            "</t:Minute><t:Second>{5}</t:Second></t:Time><t:Date><t:Year>{0}</t:Year><t:Month>{1}"
            "</t:Month><t:Day>{2}</t:Day></t:Date></t:UTCDateTime>".format(*now),
            "GetCapabilities": f"<t:Media><t:XAddr>{self.media}</t:XAddr></t:Media>",
            "GetProfiles": "".join(map(profile.format, quoted)),
            "GetStreamUri": f"<t:Uri>{escape(self.streams.get(token, ''))}</t:Uri>",
        }
        return envelope(said[name])

    def _knows(self, request: BaseHTTPRequestHandler, root: ElementTree.Element) -> bool:
        """Whether the right digest came; else says so."""
        if self.http:
            given = dict(re.findall(r'(\w+)="?([^",]*)', request.headers.get("Authorization", "")))
            parts = (f"{USER}:cam:{PASSWORD}", f"POST:{request.path}")
            first, last = (hashlib.md5(part.encode()).hexdigest() for part in parts)
            middle = ":".join(given.get(one, "") for one in ("nonce", "nc", "cnonce", "qop"))
            if (
                given.get("response")
                == hashlib.md5(f"{first}:{middle}:{last}".encode()).hexdigest()
            ):
                return True
            wanted = {"WWW-Authenticate": 'Digest realm="cam", nonce="n0", qop="auth"'}
            send(request, 401, b"", wanted)
            return False
        created = root.findtext(".//{*}Created", "")
        nonce = base64.b64decode(root.findtext(".//{*}Nonce", ""))
        right = hashlib.sha1(nonce + created.encode() + PASSWORD.encode()).digest()
        fresh = 0.0
        if created:
            there = time.time() - self.BEHIND
            fresh = abs(
                time.mktime(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone - there
            )
        named = root.findtext(".//{*}Username", "") == USER
        if (
            named
            and fresh < 300
            and root.findtext(".//{*}Password") == base64.b64encode(right).decode()
        ):
            return True
        send(request, 400, envelope("<e:Value>ter:NotAuthorized</e:Value>").encode())
        return False

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def envelope(body: str, before: str = "") -> str:
    return (
        f'{before}<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" '
        f'xmlns:t="{ONVIF}/schema"><e:Body><e:Reply>{body}</e:Reply></e:Body></e:Envelope>'
    )


def send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
