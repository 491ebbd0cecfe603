"""How long to wait before the next attempt, and whether a server answers again."""

from __future__ import annotations

import random
import socket
import ssl

from mpft_deploy.screen.streams.address import Address


class Backoff:
    """Delays that double from `first` to `longest`, each a little off, so that sources spread.

    Args:
        first, longest: in seconds.
        jitter: each delay is multiplied by a number from 1 − jitter to 1.
    """

    def __init__(
        self,
        first: float = 1.0,
        longest: float = 60.0,
        jitter: float = 0.25,
        rng: random.Random | None = None,
    ) -> None:
        self._first, self._longest, self._jitter = first, longest, jitter
        self._rng = rng or random.Random()
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        # 2**30 s is beyond any cap, and no float overflows on the way.
        delay: float = min(self._longest, self._first * 2 ** min(self._failures, 30))
        self._failures += 1
        return delay * (1 - self._jitter * self._rng.random())

    def reset(self) -> None:
        """Start again from `first`."""
        self._failures = 0


def answers(address: Address, timeout: float = 1.0) -> bool:
    """Whether a server answers at an address, at the price of one request of its protocol.

    A process that is stopped still takes connections, in its kernel; so it is asked something.
    A server that speaks another dialect than expected counts once it sends anything at all.
    """
    host = address.host
    request = f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    if address.scheme.startswith("rtsp"):
        request = f"OPTIONS rtsp://{host}:{address.port}/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    try:
        with socket.create_connection((host, address.port), timeout) as connection:
            if address.scheme == "rtmp":  # it speaks in binary; the connection must do
                return True
            connection.settimeout(timeout)
            if address.scheme in ("https", "hls+https", "rtsps"):
                # Nothing secret is sent, and the certificate is judged by the real connection.
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                with context.wrap_socket(connection, server_hostname=host) as wrapped:
                    wrapped.sendall(request.encode())
                    return bool(wrapped.recv(1))
            connection.sendall(request.encode())
            return bool(connection.recv(1))
    except (OSError, ValueError):
        return False
