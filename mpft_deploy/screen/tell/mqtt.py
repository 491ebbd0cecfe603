"""States and events to an MQTT broker, with the discovery messages that Home Assistant reads."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.extras import require
from mpft_deploy.files import display, printable
from mpft_deploy.screen.streams.areas import stream_name
from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    SourceEvent,
    SourceStatus,
    StreamEvent,
    StreamStatus,
)
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Mqtt
from mpft_deploy.screen.tell.discovery import device, identity, slug
from mpft_deploy.screen.tell.stats import Counted, SinkStats, Worker
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.tell.table import read_secret

if TYPE_CHECKING:
    import paho.mqtt.client as paho

logger = logging.getLogger(__name__)

CAPACITY = 10_000
"""Events that wait for their turn."""

MAX_WAITING = 1000
"""Messages that wait in memory for the broker."""

LONGEST_WAIT = 15
"""Seconds between attempts to connect, at most; the first is 1."""

LOOK = 1.0
"""Seconds between two looks at the states."""

PATIENCE = 5.0
"""Seconds that a broker which came back gets for what it missed, before it is told the states."""

PICTURE_SECONDS = 5.0
"""How long the picture of an event is waited for, which another thread writes."""

QUEUE_FULL = 15
"""paho's MQTT_ERR_QUEUE_SIZE."""


State = dict[str, Any]
"""What is told of a source or a region."""

UNTOLD: tuple[State, float] = {}, float("-inf")


class MqttSink(Counted):
    """Publishes with QoS 1; paho's own thread connects, reconnects and repeats.

    States are published while the broker is there, all of them when it comes back; events wait.
    What the broker retains of sources that are no more is taken back.

    Args:
        store: remembers what a broker was told of.
        statuses: of those that are screened now; None as long as these are not known.
        folder: where snapshots are; None where there are none.
    """

    def __init__(
        self,
        config: Mqtt,
        store: Store,
        statuses: Callable[[], Sequence[SourceStatus] | None],
        folder: Path | None = None,
    ) -> None:
        super().__init__("mqtt", logger)
        client = _client(config)
        self._config, self._client, self._statuses = config, client, statuses
        self._store, self._folder = store, folder
        self._pictures: dict[str, tuple[Path, float]] = {}  # to be told of, and until when
        self._told: dict[str, tuple[State, float]] = {}  # what, and when
        self._gone: set[str] = set()  # to be taken back, though there may be others of their names
        self._queued, self._closing = 0, False
        self._bridge = f"{config.prefix}/availability"
        client.max_queued_messages_set(MAX_WAITING)
        client.reconnect_delay_set(1, LONGEST_WAIT)
        client.will_set(self._bridge, "offline", qos=1, retain=True)
        client.on_connect = self._connected
        client.on_connect_fail = self._failed_to_connect
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        # None stands for a broker that is there again.
        self._worker: Worker[StreamEvent | SourceEvent | None] = Worker(
            self.name, self._handle, CAPACITY, idle=self._look, period=LOOK
        )
        client.connect_async(config.host, config.port or (8883 if config.tls else 1883))
        client.loop_start()

    @property
    def failure(self) -> BaseException | None:
        """As of any sink; paho's thread tells of its end only by being gone."""
        if self._client._thread is None and not self._closing:
            return RuntimeError("the thread of the MQTT client failed")
        return self._worker.failure

    def send(self, event: Event) -> None:
        """Queue an event; verdicts of frames show in the states."""
        if not isinstance(event, FrameEvent):
            self._worker.put(event)

    def close(self, timeout: float) -> None:
        """Say goodbye, after what is queued."""
        deadline = time.monotonic() + timeout
        self._closing = True
        self._worker.close(timeout)
        if self._client.is_connected():
            self._publish(self._bridge, "offline")
            self._wait_for_acknowledgements(deadline)
        self._client.disconnect()
        # The thread may sit in a name lookup or a connect; it is a daemon, so it is not waited for.
        Task("mqtt-stop", self._client.loop_stop).start()

    def stats(self) -> SinkStats:
        """Counts of messages; failures are of connections."""
        queue, own = self._worker.stats(), super().stats()
        waiting = queue.waiting + self._unacknowledged()
        dropped = {**queue.dropped, **own.dropped}
        return msgspec.structs.replace(own, waiting=waiting, dropped=dropped)

    # Called by the worker: every message comes from one thread, so a newer state never loses
    # against an older one.

    def _handle(self, event: StreamEvent | SourceEvent | None) -> None:
        if event is None:
            # What an earlier connection left unacknowledged is repeated first.
            self._wait_for_acknowledgements(time.monotonic() + PATIENCE)
            self._publish(self._bridge, "online")
            # More than the store has, where its disk was full.
            self._told = dict.fromkeys([*self._told, *self._store.settings("mqtt")], UNTOLD)
        else:
            self._tell(event)
        self._look()

    def _tell(self, event: StreamEvent | SourceEvent) -> None:
        if isinstance(event, SourceEvent) and event.state == "removed":
            self._gone.add(event.stream)
        if self._folder is not None and isinstance(event, StreamEvent) and event.snapshot:
            awaited = self._folder / event.snapshot, time.monotonic() + PICTURE_SECONDS
            self._pictures |= dict.fromkeys((event.source, event.stream), awaited)
        topic = self._topic(event.source, "event")
        self._publish(topic, msgspec.json.encode(event), retain=False)

    def _look(self) -> None:
        """Tell the states that changed or are due, and pictures that are there by now."""
        statuses = self._statuses()
        if statuses is None or not self._client.is_connected():
            return
        now, states = time.monotonic(), _states(statuses)
        for name in self._told.keys() & self._gone | self._told.keys() - states.keys():
            logger.info("mqtt: %s is no more, and is taken back", printable(name))
            self._take_back(name)
        self._gone.clear()
        for name, state in states.items():
            before, when = self._told.get(name, UNTOLD)
            if not before:
                self._introduce(name, region="part_of" in state)
            turned = any(state[key] != before.get(key) for key in ("verdict", "state", "reason"))
            if turned or (state != before and now - when >= self._config.interval):
                self._tell_state(name, state)
        for name, (path, end) in list(self._pictures.items()):
            if path.exists() or now > end:
                del self._pictures[name]
                with contextlib.suppress(OSError):  # the disk was full, or it grew too old
                    picture = path.read_bytes()
                    self._publish(self._topic(name, "picture"), picture)

    def _take_back(self, source: str) -> None:
        """Have the broker and Home Assistant forget a source: retained messages without content."""
        del self._told[source]
        self._pictures.pop(source, None)
        self._publish_device(source, b"")
        for leaf in ("picture", "availability", "state"):
            self._publish(self._topic(source, leaf), b"")
        self._remember(source, None)

    def _introduce(self, source: str, *, region: bool) -> None:
        self._remember(source, b"")
        pictures = self._folder is not None
        message = device(self._config.prefix, source, region=region, pictures=pictures)
        self._publish_device(source, msgspec.json.encode(message))

    def _remember(self, source: str, told: bytes | None) -> None:
        with contextlib.suppress(EnvironmentLacksError):  # the disk is full: of this run it knows
            self._store.set_setting(source, "mqtt", told)

    def _publish_device(self, source: str, message: bytes) -> None:
        if prefix := self._config.discovery_prefix:
            topic = f"{prefix}/device/{identity(self._config.prefix, source)}/config"
            self._publish(topic, message)

    def _tell_state(self, source: str, state: State) -> None:
        self._told[source] = state, time.monotonic()
        available = "online" if state["state"] in ("live", "frozen") else "offline"
        self._publish(self._topic(source, "availability"), available)
        self._publish(self._topic(source, "state"), msgspec.json.encode(state))

    def _topic(self, source: str, leaf: str) -> str:
        return f"{self._config.prefix}/{slug(source)}/{leaf}"

    def _publish(self, topic: str, payload: str | bytes, *, retain: bool = True) -> None:
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc == QUEUE_FULL:
            self.dropped["broker"] += 1
        else:
            self._queued += 1

    def _unacknowledged(self) -> int:
        return max(0, self._queued - self._delivered)

    def _wait_for_acknowledgements(self, deadline: float) -> None:
        while self._unacknowledged() and time.monotonic() < deadline:
            time.sleep(0.01)

    # Called by paho's thread.

    def _connected(
        self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._fail(f"refused the connection: {reason}")
            return
        logger.info("mqtt %s: connected", self._config.host)
        self._trouble.end(f"mqtt {self._config.host}: works again")
        self._worker.put(None)

    def _failed_to_connect(self, *_: Any) -> None:
        self._fail("cannot be reached; tried again")

    def _disconnected(
        self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._fail(f"the connection broke: {reason}")

    def _fail(self, why: str) -> None:
        self._failures += 1
        self._trouble.begin(f"mqtt {self._config.host}: {why}")

    def _published(self, *_: Any) -> None:
        self._delivered += 1


def _client(config: Mqtt) -> paho.Client:
    """A client that trusts and logs in as configured."""
    require("mqtt", "[mqtt]", "paho")
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    if config.user:
        password = read_secret("mqtt", "password", "", config.password_file)
        client.username_pw_set(config.user, password or None)
    if config.tls:
        try:
            client.tls_set(ca_certs=config.ca_file or None)
        except (OSError, ssl.SSLError, ValueError):
            raise InputError(
                f"[mqtt] ca_file: {display(config.ca_file)} is no readable PEM certificate"
            ) from None
    return client


def _states(statuses: Sequence[SourceStatus]) -> dict[str, State]:
    """Of sources and regions, by name; a region is as live as its source."""
    states: dict[str, State] = {}
    for status in statuses:
        age = None if status.frame_age_ms is None else round(status.frame_age_ms, 1)
        shared = {"state": status.state, "reason": status.reason, "frame_age_ms": age}
        states[status.source] = {"source": status.source, **shared, **_decided(status)}
        for region in status.regions:
            name = stream_name(status.source, region.region)
            part = {"source": name, "part_of": status.source}
            states[name] = {**part, **shared, **_decided(region)}
    return {name: {k: v for k, v in one.items() if v is not None} for name, one in states.items()}


def _decided(status: StreamStatus) -> State:
    probability = None if status.probability is None else round(status.probability, 4)
    evidence = round(status.evidence, 3)
    return {"verdict": status.verdict, "evidence": evidence, "probability": probability}
