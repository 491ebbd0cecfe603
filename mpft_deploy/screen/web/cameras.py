"""Cameras of the local network, for the page."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Annotated

import msgspec

from mpft_deploy.errors import MpftError
from mpft_deploy.screen.onvif import Camera, find_cameras
from mpft_deploy.screen.streams.address import parse
from mpft_deploy.screen.web.operations import Note, at_most, operation

if TYPE_CHECKING:
    from mpft_deploy.screen.manage import Manager


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of cameras; without a user none is asked for its streams. Kept and told nowhere."""

    user: Annotated[str, msgspec.Meta(max_length=100)] = ""
    password: Annotated[str, msgspec.Meta(max_length=200)] = ""

    def __repr__(self) -> str:
        return "Login()"


class Cameras:
    """Finds them, and knows which are sources already."""

    def __init__(self, manager: Manager) -> None:
        self._manager, self._looking = manager, threading.Lock()

    @operation("POST", "/sources/discover", role="admin")
    def discover(self, body: Login, note: Note) -> list[Camera]:
        """Ask the local network for ONVIF cameras, for two seconds, and each for its streams.

        Only with a user they are asked for streams, which may take ten seconds more.

        Raises:
            UsageError: somebody else is looking.
        """
        with at_most(self._looking, "cameras are being looked for already: wait a few seconds"):
            note("looked for cameras", "and asked them for their streams" if body.user else "")
            found = find_cameras(body.user, body.password)
        sources: dict[str, list[str]] = {}
        for one in self._manager.sources():
            with contextlib.suppress(MpftError):  # one that could not be added
                sources.setdefault(parse(one.address).host, []).append(one.source)
        return [
            msgspec.structs.replace(one, sources=tuple(sources.get(one.host, ()))) for one in found
        ]
