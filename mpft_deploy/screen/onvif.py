"""Cameras of the local network: found by WS-Discovery, and asked for their streams by ONVIF.

Whoever answers is a stranger. What is read of it is bounded in bytes, number and time; its XML may
hold no DOCTYPE, hence no entities; and no address counts that is not of the host which answered,
so that credentials go nowhere else. Of a password only digests are sent.
"""

from __future__ import annotations

import asyncio
import base64
import calendar
import contextlib
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.extras import require
from mpft_deploy.files import printable
from mpft_deploy.screen.tell.post import reason_of

if TYPE_CHECKING:
    import httpx2

GROUP = ("239.255.255.250", 3702)
"""Where cameras listen for the question who is there."""

WAIT = 2.0
"""Seconds in which they answer."""

PATIENCE = 10.0
"""Seconds within which a camera must have told its streams."""

CAMERAS, STREAMS, LETTERS, BYTES = 256, 64, 100, 512 * 1024
"""At most: cameras, streams of one, characters of a name, and bytes of an answer over HTTP."""

_SOAP = 'xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
_WSS = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
_DEVICE = "http://www.onvif.org/ver10/device/wsdl"
_MEDIA = "http://www.onvif.org/ver10/media/wsdl"
_SCHEMA = "http://www.onvif.org/ver10/schema"

_PROBE = f"""<?xml version="1.0" encoding="UTF-8"?>
<s:Envelope {_SOAP} xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"><s:Header>
<a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action>
<a:MessageID>%s</a:MessageID>
<a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>
</s:Header><s:Body><d:Probe xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery">
<d:Types xmlns:dn="http://www.onvif.org/ver10/network/wsdl">dn:NetworkVideoTransmitter</d:Types>
</d:Probe></s:Body></s:Envelope>"""

_TOKEN = f"""<s:Header><Security xmlns="{_WSS}wssecurity-secext-1.0.xsd"><UsernameToken>
<Username>%s</Username>
<Password Type="{_WSS}username-token-profile-1.0#PasswordDigest">%s</Password>
<Nonce EncodingType="{_WSS}soap-message-security-1.0#Base64Binary">%s</Nonce>
<Created xmlns="{_WSS}wssecurity-utility-1.0.xsd">%s</Created>
</UsernameToken></Security></s:Header>"""

_STREAM_URI = f"""<GetStreamUri xmlns="{_MEDIA}">
<StreamSetup><Stream xmlns="{_SCHEMA}">RTP-Unicast</Stream>
<Transport xmlns="{_SCHEMA}"><Protocol>RTSP</Protocol></Transport></StreamSetup>
<ProfileToken>%s</ProfileToken></GetStreamUri>"""


class Stream(msgspec.Struct, frozen=True):
    """What a camera streams, by its own words, with the size where it says one."""

    name: str
    address: str


class Camera(msgspec.Struct, frozen=True):
    """What answered, by its own words.

    Attributes:
        host: from which the answer came.
        address: to begin with, where no stream is known: the path has to be completed.
        service: where it is asked for its streams; empty if it names none of its own.
        problem: why not all of its streams are known, of one that was asked.
        sources: those that are read from this host already.
    """

    host: str
    address: str
    name: str = ""
    hardware: str = ""
    location: str = ""
    service: str = ""
    streams: tuple[Stream, ...] = ()
    problem: str = ""
    sources: tuple[str, ...] = ()


class _AnswerError(Exception):
    """What is wrong with an answer, in words."""


def find_cameras(user: str = "", password: str = "") -> list[Camera]:
    """Ask the local network which cameras are there, and with a user each for its streams.

    Raises:
        EnvironmentLacksError: there is no network, or the extra `webhook` is missing to ask them.
    """
    if user:
        require("webhook", "asking cameras for their streams", "httpx2")
    cameras = _probe()
    return asyncio.run(_ask_all(cameras, user, password)) if user and cameras else cameras


def read_match(data: bytes, question: str, host: str) -> Camera | None:
    """A host's answer to the question of this identity; None for whatever else it is."""
    try:
        root = _parse(data)
    except _AnswerError:
        return None
    match = root.find(".//{*}ProbeMatch")
    if match is None or _text(root, "RelatesTo") != question:
        return None
    said: dict[str, list[str]] = {}
    for scope in _text(match, "Scopes").split():
        if found := re.fullmatch(r"onvif://www\.onvif\.org/(\w+)/(.+)", scope):
            said.setdefault(found[1], []).append(unquote(found[2]))
    services = (url for url in _text(match, "XAddrs").split() if _is_at(host, url, "https?"))
    return Camera(
        host=host,
        address=f"rtsp://{host}/",
        name=_shown(", ".join(said.get("name", ()))),
        hardware=_shown(", ".join(said.get("hardware", ()))),
        location=_shown(", ".join(said.get("location", ()))),
        service=next(services, ""),
    )


def _probe() -> list[Camera]:
    """Ask twice, since datagrams are lost; by the order of hosts."""
    question, found = uuid.uuid4().urn, dict[str, Camera]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        for _ in range(2):
            _send(asking, (_PROBE % question).encode())
            for data, host in _received(asking, time.monotonic() + WAIT / 2):
                camera = read_match(data, question, host)
                if camera is not None and len(found) < CAMERAS:
                    found.setdefault(host, camera)
    return [found[host] for host in sorted(found, key=ipaddress.ip_address)]


def _send(asking: socket.socket, data: bytes) -> None:
    sent = False
    try:
        interfaces = [index for index, _ in socket.if_nameindex()]
    except OSError:  # they may not be listed here
        interfaces = [0]  # the one that the system takes
    for index in interfaces:
        chosen = struct.pack("=4s4si", socket.inet_aton(GROUP[0]), bytes(4), index)
        with contextlib.suppress(OSError):  # it is down, or has no address
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, chosen)
            asking.sendto(data, GROUP)
            sent = True
    if not sent:
        raise EnvironmentLacksError("no network interface can ask for cameras: is one up?")


def _received(asking: socket.socket, until: float) -> Iterator[tuple[bytes, str]]:
    while (left := until - time.monotonic()) > 0:
        asking.settimeout(left)
        try:
            data, (host, _) = asking.recvfrom(65536)
        except TimeoutError:
            return
        yield data, host


async def _ask_all(cameras: list[Camera], user: str, password: str) -> list[Camera]:
    import httpx2

    trust = ssl.create_default_context()
    async with httpx2.AsyncClient(timeout=None, trust_env=False, verify=trust) as client:
        asked = (_Interview(client, one, user, password).camera() for one in cameras)
        return list(await asyncio.gather(*asked))


class _Interview:
    """Asks one camera for its streams."""

    def __init__(
        self, client: httpx2.AsyncClient, camera: Camera, user: str, password: str
    ) -> None:
        import httpx2

        self._client, self._camera, self._user, self._password = client, camera, user, password
        self._auth = httpx2.DigestAuth(user, password)
        self._failures = (httpx2.HTTPError, OSError)
        self._ahead = 0.0
        self._streams: list[Stream] = []
        self._problem = ""

    async def camera(self) -> Camera:
        """The camera with its streams, and what was in the way of more."""
        try:
            await asyncio.wait_for(self._ask(), PATIENCE)
        except asyncio.TimeoutError:
            self._problem = "no reply in time"
        except _AnswerError as error:
            self._problem = str(error)
        except self._failures as error:
            self._problem = reason_of(error)
        except Exception:  # whatever a stranger's answer leads a library to
            self._problem = "its answer is not that of ONVIF"
        streams = tuple(self._streams)
        return msgspec.structs.replace(self._camera, streams=streams, problem=self._problem)

    async def _ask(self) -> None:
        host, service = self._camera.host, self._camera.service
        if not service:
            raise _AnswerError("it names no service at its own address: not asked for streams")
        with contextlib.suppress(_AnswerError, ValueError, OverflowError):
            # A token counts only by the camera's own clock, which anybody may ask for.
            root = await self._call(service, f'<GetSystemDateAndTime xmlns="{_DEVICE}"/>', "")
            utc = root.find(".//{*}UTCDateTime")
            parts = ("Year", "Month", "Day", "Hour", "Minute", "Second")
            self._ahead = (
                calendar.timegm(tuple(int(_text(utc, one)) for one in parts)) - time.time()
            )
        wanted = f'<GetCapabilities xmlns="{_DEVICE}"><Category>Media</Category></GetCapabilities>'
        media = _text((await self._call(service, wanted)).find(".//{*}Media"), "XAddr")
        if not _is_at(host, media, "https?"):
            raise _AnswerError("it names no media service at its own address: not asked further")
        profiles = _profiles(await self._call(media, f'<GetProfiles xmlns="{_MEDIA}"/>'))
        for token, name in profiles:
            try:
                address = _text(await self._call(media, _STREAM_URI % escape(token)), "Uri")
            except _AnswerError as error:
                self._problem = str(error)  # of this one; others may have an address
                continue
            if _is_at(host, address, "rtsps?"):
                self._streams.append(Stream(name, address))
            else:
                self._problem = "it names a stream that is not at its own address"

    async def _call(self, url: str, body: str, header: str | None = None) -> ElementTree.Element:
        """An answer, by HTTP digest where it is asked for; header: a token of the user if None."""
        header = self._token() if header is None else header
        text = f"<s:Envelope {_SOAP}>{header}<s:Body>{body}</s:Body></s:Envelope>"
        headers = {
            "Content-Type": "application/soap+xml; charset=utf-8",
            "Accept-Encoding": "identity",  # nothing grows here
            "Connection": "close",  # many cameras do anyway, without saying so
        }
        request = self._client.build_request("POST", url, content=text, headers=headers)
        steps = self._auth.auth_flow(request)
        request = next(steps)
        while True:
            reply = await self._client.send(request, stream=True)
            answer = b""
            async with contextlib.aclosing(reply):
                async for part in reply.aiter_raw():
                    answer += part
                    if len(answer) > BYTES:
                        raise _AnswerError("it answers more than is read")
            try:
                request = steps.send(reply)
            except StopIteration:
                break
        if reply.status_code == 401 or re.search(b"NotAuthorized|FailedAuthentication", answer):
            raise _AnswerError("it does not take this user and password")
        if reply.status_code != 200:
            raise _AnswerError(f"it answered {reply.status_code}")
        return _parse(answer)

    def _token(self) -> str:
        nonce = os.urandom(16)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self._ahead))
        digest = hashlib.sha1(nonce + created.encode() + self._password.encode()).digest()
        coded = (base64.b64encode(one).decode() for one in (digest, nonce))
        return _TOKEN % (escape(self._user), *coded, created)


def _profiles(root: ElementTree.Element) -> list[tuple[str, str]]:
    """Tokens and names of what a camera streams."""
    found = []
    for profile in root.findall(".//{*}Profiles")[:STREAMS]:
        token = profile.get("token", "")[:LETTERS]
        coded = profile.find(".//{*}VideoEncoderConfiguration/{*}Resolution")
        size = " × ".join(filter(None, (_text(coded, side) for side in ("Width", "Height"))))
        found.append((token, _shown(f"{_text(profile, 'Name') or token} {size}")))
    return found


def _parse(data: bytes) -> ElementTree.Element:
    """XML without DOCTYPE: so it has no entities to grow by, and none that are elsewhere."""
    text = data.decode("utf-8", "replace")  # as text, what is looked at is what is parsed
    if "<!DOCTYPE" in text:
        raise _AnswerError("its answer holds a DOCTYPE, which is not read")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        raise _AnswerError("its answer is not XML") from None


def _text(element: ElementTree.Element | None, tag: str) -> str:
    """Of the first such element within, of whatever namespace; empty if there is none."""
    found = "" if element is None else element.findtext(f".//{{*}}{tag}")
    return (found or "").strip()


def _shown(text: str) -> str:
    return printable(text)[:LETTERS].strip()


def _is_at(host: str, url: str, schemes: str) -> bool:
    """Whether an address is of this very host, and names no user."""
    form = rf"(?:{schemes})://{re.escape(host)}(?::[0-9]{{1,5}})?(?:/[!-~]*)?"
    return re.fullmatch(form, url) is not None
