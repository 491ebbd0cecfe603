"""Devices that are notified, by page and API: each user's own, and for admins all."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import msgspec
from starlette.datastructures import Headers

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.files import sha256
from mpft_deploy.screen.tell.config import Push
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.push import GONE, Device, PushSink, Sender, Subscription
from mpft_deploy.screen.web.access import LONGEST_AGENT
from mpft_deploy.screen.web.operations import MissingError, Note, User, at_most, operation

MOST_OF_USER, MOST = 10, 50
"""Devices of a user, and of all; each has a thread."""


class Devices:
    """Those in the store: each is one of the sinks, so that none waits for another.

    Args:
        may_be: whether there is a user of that name; devices of others end.

    Raises:
        InputError: the key of web push cannot be read.
        EnvironmentLacksError: it cannot be written.
    """

    def __init__(
        self,
        config: Push,
        sinks: Sinks,
        may_be: Callable[[str], bool],
    ) -> None:
        self._config, self._sinks, self._store = config, sinks, sinks.store
        self._lock, self._trying = threading.RLock(), threading.Lock()
        path = self._store.path
        self.sender = Sender(path and path.with_suffix(".push.pem"))
        for *row, kept in self._store.rows("SELECT * FROM devices ORDER BY since"):
            device = Device(*row)
            if self.sender.new or not may_be(device.user):  # it subscribed to another key
                with contextlib.suppress(EnvironmentLacksError):  # the disk is full: the next start
                    self._forget(device.id)
            else:
                self._start(device, msgspec.json.decode(kept, type=Subscription))

    @operation("GET", "/push")
    def devices(self, user: User) -> list[Device]:
        """Devices that are notified of verdicts, oldest first: one's own, and for admins all."""
        told = [one.device for one in self._told().values()]
        return [one for one in told if user.role == "admin" or one.user == user.name]

    @operation("GET", "/push/key")
    def push_key(self) -> str:
        """What a browser is to subscribe with: `applicationServerKey`."""
        return self.sender.public

    @operation("POST", "/push")
    def add_device(self, body: Subscription, user: User, headers: Headers, note: Note) -> Device:
        """Notify a device from now on, by what its browser subscribed to."""
        body.check(local=self._config.local)
        number, agent = sha256(body.endpoint.encode())[:16], headers.get("user-agent", "")
        device = Device(number, user.name, time.time(), agent[:LONGEST_AGENT], body.service)
        with self._lock:
            others = [one.device.user for one in self._told().values() if one.device.id != number]
            if others.count(user.name) >= MOST_OF_USER or len(others) >= MOST:
                most = f"{MOST_OF_USER} devices of a user, and {MOST} of all"
                raise UsageError(f"{most} are notified at most: remove one")
            self._remove(number)
            self._start(device, body)
            row = (*msgspec.structs.astuple(device), msgspec.json.encode(body))
            try:
                self._store.rows("INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?)", *row)
            except EnvironmentLacksError:
                self._remove(number)
                raise
        note("had a device notified", f"by {device.service}")
        return device

    @operation("DELETE", "/push/{id}")
    def remove_device(self, id: str, user: User, note: Note) -> None:
        """Notify a device no more."""
        device = self._find(id, user).device
        self._remove(id)
        note("had a device notified no more", f"of {device.user or 'somebody'}")

    @operation("POST", "/push/{id}/test")
    def test_device(self, id: str, user: User, note: Note) -> None:
        """Send a device a notification now."""
        found = self._find(id, user)
        note("tried to notify", f"a device of {found.device.user or 'somebody'}")
        with at_most(self._trying, "another device is being tried: do it again in a moment"):
            answer = found.say("mpft screen", "Verdicts come to this device.", None)
        if answer.status in GONE:
            self._remove(id)
            raise UsageError("the browser has ended its subscription: add this device again")
        if not 200 <= answer.status < 300:
            raise UsageError(f"{found.device.service} did not take it: {answer.reason}")

    def _find(self, id: str, user: User) -> PushSink:
        found = self._told().get(id)
        if found is None or found.device not in self.devices(user):
            raise MissingError("there is no such device of yours")
        return found

    def _told(self) -> dict[str, PushSink]:
        """By their numbers, oldest first."""
        return {one.device.id: one for one in self._sinks if isinstance(one, PushSink)}

    def _start(self, device: Device, subscription: Subscription) -> None:
        given = (self.sender, self._forget, self._config, self._store)
        self._sinks.append(PushSink(device, subscription, *given))

    def _remove(self, number: str) -> None:
        if (found := self._forget(number)) is not None:
            found.close(0)

    def _forget(self, number: str) -> PushSink | None:
        """Keep nothing of a device, nor what waits for it; its thread has still to end."""
        with self._lock:
            self._store.rows("DELETE FROM devices WHERE id = ?", number)
            found = self._told().get(number)
            if found is not None:
                self._sinks.remove(found)
            for new in ("", "new_"):
                self._store.rows(
                    f"DELETE FROM {new}deliveries WHERE receiver = ?", f"push {number}"
                )
        return found
