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

import msgspec

from mpft_deploy import __version__
from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.records import Event
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Webhook
from mpft_deploy.screen.tell.pending import Delivery
from mpft_deploy.screen.tell.post import Answer, Poster
from mpft_deploy.screen.tell.stats import SinkStats, Trouble, kind
from mpft_deploy.screen.tell.store import Store

logger = logging.getLogger(__name__)

REFUSALS = frozenset({400, 413, 415, 422})
"""Replies to an event that no repetition will make welcome."""

BUSY = frozenset({0, 408, 425, 429, 502, 503, 504})
"""Replies that speak of the receiver, not of the event; 0 stands for none."""

PATIENCE = 5
"""Times that an event is tried alone. Then those behind it are tried too: if one of them is taken,
the receiver works, and it is the event that it cannot take."""

PROBES = 8
"""Events that are tried in one go, at most."""

MIN_KEY = 16
"""Bytes that a signing key has at least: fewer can be guessed."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0
"""Seconds between attempts: doubled each time, and shortened by up to a half at random."""

ABORT_SECONDS = 2.0
"""How long closing waits for the thread to notice that its request was cut, on a busy machine."""


class _Identity(msgspec.Struct):
    """What is read of an event that is sent."""

    id: str


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
    """Posts what waits for it in the store, from a thread of its own."""

    name = "webhook"

    def __init__(self, config: Webhook, store: Store, *, first_wait: float = FIRST_WAIT) -> None:
        self._keys = [signing_key(text) for text in config.signing_keys()]
        self._events, self._store, self._first_wait = config.events, store, first_wait
        self._poster = Poster(config.url, config.timeout)
        self._trouble, self._refusing = Trouble(logger), Trouble(logger)
        self._closing, self._news = threading.Event(), threading.Event()
        self._tried: Counter[int] = Counter()
        self._delivered = self._failures = self._in_row = self._refused = 0
        store.receivers.append(self)
        self._task = Task("webhook", self._run)
        self._task.start()

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._task.failure

    def wants(self, event: Event) -> bool:
        """Whether it is to be sent this."""
        return kind(event) in self._events

    def send(self, event: Event) -> None:
        """Look into the store, which has the event by now."""
        self._news.set()

    def close(self, timeout: float) -> None:
        """Deliver what waits, unless the receiver is down; the rest stays in the store."""
        self._closing.set()
        self._news.set()
        self._task.join(timeout)
        if self._task.is_alive():
            self._poster.abort()
            self._task.join(ABORT_SECONDS)

    def stats(self) -> SinkStats:
        """Counts of events."""
        return SinkStats(
            delivered=self._delivered,
            failures=self._failures,
            dropped={"refused": self._refused} if self._refused else {},
            waiting=self._store.count_waiting(self.name),
        )

    def _run(self) -> None:
        while True:
            self._news.clear()
            if waiting := self._store.waiting(self.name, PROBES):
                if (wait := self._deliver(waiting)) and self._closing.wait(wait):
                    break
            elif self._closing.is_set():
                break
            else:
                self._news.wait()
        self._poster.close()

    def _deliver(self, waiting: list[Delivery]) -> float:
        """Have the first taken or refused; the seconds to wait before the next attempt."""
        failed: list[Delivery] = []
        for delivery in waiting:
            answer = self._post(delivery)
            if self._settled(delivery, answer):
                # Once more, since it may work only now: order matters less than loss.
                for poisoned in failed:
                    again = self._post(poisoned)
                    if not self._settled(poisoned, again) and again.status not in BUSY:
                        self._refuse(poisoned, again.reason)
                return 0
            failed.append(delivery)
            self._tried[delivery.event] += 1
            if answer.status in BUSY or self._tried[delivery.event] < PATIENCE:
                break
        if not self._closing.is_set():
            self._trouble.begin(f"webhook {self._poster.where}: {answer.reason}; events wait")
        longest: float = min(LONGEST_WAIT, self._first_wait * 2 ** min(self._in_row, 20))
        self._in_row += 1
        self._failures += 1
        return max(answer.pause, longest * random.uniform(0.5, 1.0))

    def _settled(self, delivery: Delivery, answer: Answer) -> bool:
        """Whether this is the end of a delivery: it was taken, or refused."""
        if 200 <= answer.status < 300:
            self._trouble.end(f"webhook {self._poster.where}: receives again")
            self._delivered += 1
            self._in_row = 0
            self._done(delivery, None)
        elif answer.status in REFUSALS:
            self._refuse(delivery, answer.reason)
        else:
            return False
        return True

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self._refusing.begin(f"webhook {self._poster.where}: an event is not taken: {reason}")
        self._refused += 1
        self._done(delivery, reason)

    def _done(self, delivery: Delivery, error: str | None) -> None:
        self._tried.pop(delivery.event, None)
        self._store.settle(self.name, delivery.event, error)

    def _post(self, delivery: Delivery) -> Answer:
        try:
            identity = msgspec.json.decode(delivery.body, type=_Identity).id
            timestamp = int(time.time())
            headers = {
                "Content-Type": "application/json",
                "User-Agent": f"mpft-deploy/{__version__}",
                "webhook-id": identity,
                "webhook-timestamp": str(timestamp),
            }
            if self._keys:
                signed = [signature(key, identity, timestamp, delivery.body) for key in self._keys]
                headers["webhook-signature"] = " ".join(signed)
            return self._poster.post(delivery.body, headers)
        except ValueError as error:
            return Answer(400, f"it cannot be sent: {type(error).__name__}")
        except Exception as error:  # no event may end this thread
            return Answer(500, f"{type(error).__name__} while it was sent")
