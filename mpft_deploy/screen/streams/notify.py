"""Telling systemd how the service is: its notification protocol, a datagram a message."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Sends to the socket in NOTIFY_SOCKET; does nothing where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._every = float(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 2
        self._next = 0.0

    def send(self, message: str) -> None:
        """Send a message such as READY=1; a service manager that is gone is no trouble."""
        if not self._address:
            return
        # A leading @ stands for the zero byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(message.encode(), address)
        except OSError:
            pass

    def alive(self) -> None:
        """Feed the watchdog, twice as often as it asks for."""
        now = time.monotonic()
        if self._every and now >= self._next:
            self._next = now + self._every
            self.send("WATCHDOG=1")
