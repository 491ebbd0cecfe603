"""Addresses of sources: what they name, and how they are shown without their secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mpft_deploy.errors import UsageError
from mpft_deploy.files import printable

HIDDEN = "***"

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
PORTS |= {"hls+http": 80, "hls+https": 443}
"""Network schemes that are opened, with their ports; TCP all."""

TLS = ("rtsps", "https", "hls+https")
"""Those of them that show a certificate."""

CAMERAS = ("v4l2", "csi")
"""Local schemes that stand for one camera, which is read through a GStreamer pipeline."""

LOCAL = ("file", *CAMERAS, "gst", "pipe")

# Whatever else a query says may be a credential: there are as many names for one as cameras.
_SHOWN = frozenset(
    {"action", "bitrate", "camera", "cam", "ch", "channel", "channelno", "codec", "fps"}
    | {"framerate", "height", "id", "profile", "resolution", "size", "stream", "streamtype"}
    | {"subtype", "transport", "type", "unicast", "video", "width"}
)
_PLAIN = re.compile(r"[A-Za-z0-9x._-]{1,12}")
_PROPERTY = re.compile(
    r"(?i)([\w-]*(?:auth|cookie|header|key(?!frame|-int)|pass|pw|secret|token|user)[\w-]*)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s!]+)"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/{1,2}\S+")
_TOKEN = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9_\-]{16,}")
_SCHEME = re.compile(r"(?s)([A-Za-z][A-Za-z0-9+.\-]*):(.*)")


@dataclass(frozen=True)
class Address:
    """Where a source is.

    Attributes:
        scheme: of PORTS or LOCAL.
        raw: as given, credentials and all; kept out of `repr`.
        shown: the same without them: for logs, events, metrics, pages and errors.
        host, port: of a network address.
        rest: what follows the scheme: a path, a pipeline, a sensor's number.
        secrets: every secret part, as written and decoded.
    """

    scheme: str
    shown: str
    raw: str = field(repr=False)
    rest: str = field(repr=False)
    host: str = ""
    port: int = 0
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def network(self) -> bool:
        """Whether another machine may be at its end."""
        return self.scheme in PORTS


def parse(text: str) -> Address:
    """Read an address; a UsageError, free of secrets, if it is none.

    A text without a scheme is a path.
    """
    scheme, rest = _split(text)
    if scheme == "gst":
        return Address(scheme, redact(text), text, rest, secrets=tuple(_secrets(text)))
    if scheme in LOCAL:
        # %XX is a matter of addresses: without a scheme it is part of a name.
        path = rest if rest == text else unquote(rest.removeprefix("//"))
        if scheme in CAMERAS and re.search(r"[\s!]", path):
            raise UsageError(
                f"{redact(text)} names a camera with blanks or !: write a pipeline as gst:…"
            )
        return Address(scheme, redact(text), text, path)
    if scheme not in PORTS:
        known = ", ".join([*PORTS, *LOCAL])
        raise UsageError(f"{redact(text)}: scheme {scheme!r} is unknown; choose {known}")
    shown = redact(text)
    if any(ord(letter) < 33 or ord(letter) == 127 for letter in text):
        # In a request for it they would begin another line, or another request.
        raise UsageError(f"{shown} holds blanks or control characters: write them as %XX")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or PORTS[scheme]
    except ValueError:
        raise UsageError(
            f"{shown} is no address: write special characters in names and passwords as %XX"
        ) from None
    if not host:
        raise UsageError(f"{shown} names no host: write {scheme}://HOST/PATH")
    return Address(scheme, shown, text, rest, host, port, tuple(_secrets(text)))


def is_address(text: str) -> bool:
    """Whether a text is the address of a stream, rather than the path of a file."""
    scheme, rest = _split(text)
    if rest.startswith("//") and scheme not in LOCAL:
        return True  # of an unknown scheme `parse` says so; no file has such a name
    return scheme in LOCAL and _SCHEME.fullmatch(text) is not None


def redact(url: str) -> str:
    """An address without user, password and whatever in its path or query may be a secret.

    Of a GStreamer pipeline, without those of the addresses in it, and of elements' properties.
    """
    scheme, rest = _split(url)
    if scheme == "gst" or scheme in CAMERAS:  # who means a pipeline may write one there
        return printable(f"{scheme}:" + _PROPERTY.sub(rf"\1={HIDDEN}", redact_text(rest)))
    if not rest.startswith("/") or scheme == "file":
        return printable(url)
    # A careless password may hold "/" or "?": all before the last "@" goes.
    body = rest.lstrip("/")
    _, at, body = body.rpartition("@")
    body, hash_mark, _ = body.partition("#")
    body, question, query = body.partition("?")
    where, *segments = body.split("/")
    shown = "/".join([where, *map(_shown_segment, segments)])
    if question:
        shown += "?" + "&".join(map(_shown_pair, query.split("&")))
    user = HIDDEN + at if at else ""
    return printable(f"{scheme}://{user}{shown}" + (f"#{HIDDEN}" if hash_mark else ""))


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A message without the secrets of any address in it, nor any of the given ones.

    Args:
        secrets: of the configured sources; each is hidden wherever it stands.
    """
    text = _URL.sub(lambda found: redact(found[0]), text)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _split(text: str) -> tuple[str, str]:
    """Scheme in lower case, "file" if there is none, and what follows its colon."""
    found = _SCHEME.fullmatch(text)
    return (found[1].lower(), found[2]) if found else ("file", text)


def _shown_segment(segment: str) -> str:
    """Part of a path; some cameras take user=…&password=… there, others a key."""
    if "=" in segment:
        return "&".join(_shown_pair(pair) for pair in segment.split("&"))
    return HIDDEN if _TOKEN.fullmatch(segment) else segment


def _shown_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return pair if _PLAIN.fullmatch(pair) or not pair else HIDDEN
    harmless = name.lower() in _SHOWN and (_PLAIN.fullmatch(value) or not value)
    return f"{name}={value}" if harmless else f"{name}={HIDDEN}"


def _secrets(url: str) -> set[str]:
    """What `redact` hides, as written and decoded; too short ones would hide half a log."""
    scheme, rest = _split(url)
    if scheme == "gst":
        found = {value.strip("\"'") for _, value in _PROPERTY.findall(rest)}
        return found.union(*(_secrets(text.strip("\"'")) for text in _URL.findall(rest)))
    rest = rest.lstrip("/")
    login, _, body = rest.rpartition("@")
    found = {login, *login.split(":", 1)} if login else set()
    for part in re.split(r"[/?&#]", body)[1:]:
        name, equals, value = part.partition("=")
        secret = value if equals else name
        if secret and part not in _shown_segment(part):
            found.add(secret)
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= 4}
