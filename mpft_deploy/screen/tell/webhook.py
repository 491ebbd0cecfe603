"""Events posted to a receiver of one's own: signed, in order, at least once.

Headers and signature are those of Standard Webhooks (https://www.standardwebhooks.com), for which
there are libraries in most languages; `docs/telling.md` verifies one without.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import random
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec

from mpft_deploy import __version__
from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.records import Event
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Webhook, state_folder
from mpft_deploy.screen.tell.post import DeliveryError, Poster
from mpft_deploy.screen.tell.spool import Spool
from mpft_deploy.screen.tell.stats import SinkStats, Trouble, kind

logger = logging.getLogger(__name__)

REFUSALS = frozenset({400, 413, 415, 422})
"""Replies to an event that no repetition will make welcome; any other failure may pass."""

MIN_KEY = 16
"""Bytes that a signing key has at least: fewer can be guessed."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0
"""Seconds between attempts: doubled each time, and shortened by up to a half at random."""

ABORT_SECONDS = 2.0
"""How long closing waits for the thread to notice that its request was cut, on a busy machine."""


def signature(key: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over `ID.TIMESTAMP.BODY`, as the header has it: "v1," and base64."""
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signing_key(text: bytes) -> bytes:
    """A key as configured: `whsec_` and base64, or any other text for its own bytes."""
    key = text
    if text.startswith(b"whsec_"):
        try:
            key = base64.b64decode(text.removeprefix(b"whsec_"), validate=True)
        except binascii.Error:
            raise UsageError("[webhook] secret: what follows whsec_ is not base64") from None
    if len(key) < MIN_KEY:
        raise UsageError(
            f"[webhook] secret: the key has {len(key)} bytes and needs {MIN_KEY} or more; "
            "docs/telling.md shows how to make one"
        )
    return key


class WebhookSink:
    """Spools events and posts them from a thread of its own."""

    name = "webhook"

    def __init__(self, config: Webhook, *, first_wait: float = FIRST_WAIT) -> None:
        key = config.key()
        self._key = None if key is None else signing_key(key)
        self._events, self._first_wait = config.events, first_wait
        self._poster = Poster(config.url, config.timeout)
        folder = Path(config.spool) if config.spool else state_folder("webhook")
        self._spool = Spool(folder, config.spool_bytes)
        self._trouble, self._closing = Trouble(logger), threading.Event()
        self._delivered = self._failures = self._in_row = 0
        self._refused: Counter[str] = Counter()
        self._task = Task("webhook", self._run)
        self._task.start()

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._task.failure

    def send(self, event: Event) -> None:
        """Spool an event; it survives this process from then on."""
        if kind(event) in self._events and not self._closing.is_set():
            self._spool.append(msgspec.json.encode(event))

    def close(self, timeout: float) -> None:
        """Deliver what is spooled, unless the receiver is down; the rest stays on disk."""
        self._closing.set()
        self._spool.wake()
        self._task.join(timeout)
        if self._task.is_alive():
            self._poster.abort()
            self._task.join(ABORT_SECONDS)
        self._spool.close()

    def stats(self) -> SinkStats:
        """Counts of events."""
        waiting, size = self._spool.waiting()
        return SinkStats(
            delivered=self._delivered,
            failures=self._failures,
            dropped=dict(self._spool.dropped + self._refused),
            waiting=waiting,
            disk_bytes=size,
        )

    def _run(self) -> None:
        while True:
            body = self._spool.peek()
            if body is not None:
                wait = self._deliver(body)
                if wait == 0:
                    self._spool.advance()
                    continue
                self._spool.release()
                if self._closing.wait(wait):
                    break
            elif self._closing.is_set():
                break
            else:
                self._spool.wait(1.0)
        self._poster.close()

    def _deliver(self, body: bytes) -> float:
        """Post an event once; 0 if that is done with, else the seconds to wait before the next."""
        try:
            identity = str(msgspec.json.decode(body)["id"])
        except (msgspec.DecodeError, KeyError, TypeError):  # a line of someone else's making
            self._refused["damaged"] += 1
            return 0
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"mpft-deploy/{__version__}",
            "webhook-id": identity,
            "webhook-timestamp": str(timestamp),
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, identity, timestamp, body)
        try:
            reply = self._poster.post(body, headers)
        except DeliveryError as error:
            return self._failed(str(error), 0)
        if 200 <= reply.status < 300:
            self._trouble.end(f"webhook {self._poster.where}: receives again")
            self._in_row = 0
            self._delivered += 1
            return 0
        if reply.status in REFUSALS:
            logger.warning("webhook %s: refused an event: %d", self._poster.where, reply.status)
            self._refused["refused"] += 1
            return 0
        return self._failed(f"it answered {reply.status}", reply.retry_after)

    def _failed(self, reason: str, at_least: float) -> float:
        if not self._closing.is_set():
            self._trouble.begin(f"webhook {self._poster.where}: {reason}; events wait on disk")
        longest = min(LONGEST_WAIT, self._first_wait * 2 ** min(self._in_row, 20))
        self._in_row += 1
        self._failures += 1
        jittered: float = longest * random.uniform(0.5, 1.0)
        return max(at_least, jittered)
