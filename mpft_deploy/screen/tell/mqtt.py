"""States and events to an MQTT broker, with the discovery messages that Home Assistant reads."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.records import Event, FrameEvent, StreamEvent
from mpft_deploy.screen.tell.config import Mqtt
from mpft_deploy.screen.tell.discovery import entities, identity, slug
from mpft_deploy.screen.tell.stats import SinkStats, Worker

if TYPE_CHECKING:
    import paho.mqtt.client as paho

logger = logging.getLogger(__name__)

CAPACITY = 10_000
"""Events that wait for their turn."""

MAX_WAITING = 1000
"""Messages that wait in memory for the broker."""

PATIENCE = 5.0
"""Seconds that a broker which came back gets for what it missed, before it is told the states."""

QUEUE_FULL = 15
"""paho's MQTT_ERR_QUEUE_SIZE."""

BIRTH = "status"
"""Under the discovery prefix, where Home Assistant says "online" when it starts."""


class MqttSink:
    """Publishes with QoS 1; paho's own thread connects, reconnects and repeats.

    States are published while the broker is there, all of them when it comes back; events wait.

    Args:
        longest_wait: seconds between attempts to connect, at most; the first is 1.
    """

    name = "mqtt"

    def __init__(self, config: Mqtt, *, longest_wait: int = 15) -> None:
        client = _client(config)
        self._config, self._client = config, client
        self._states: dict[str, dict[str, Any]] = {}
        self._told: dict[str, float] = {}
        self._queued = self._acknowledged = self._failures = self._refused = 0
        self._bridge = f"{config.prefix}/availability"
        client.max_queued_messages_set(MAX_WAITING)
        client.reconnect_delay_set(1, longest_wait)
        client.will_set(self._bridge, "offline", qos=1, retain=True)
        client.on_connect = self._connected
        client.on_connect_fail = self._failed_to_connect
        client.on_disconnect = self._disconnected
        client.on_message = self._on_birth
        client.on_publish = self._published
        # None stands for "introduce yourself": to a broker or a Home Assistant without memory.
        self._worker: Worker[Event | None] = Worker(self.name, self._handle, CAPACITY)
        client.connect_async(config.host, config.port or (8883 if config.tls else 1883))
        client.loop_start()

    def send(self, event: Event) -> None:
        """Queue an event."""
        self._worker.put(event)

    def close(self, timeout: float) -> None:
        """Say goodbye, after what is queued."""
        deadline = time.monotonic() + timeout
        self._worker.close(timeout)
        if self._client.is_connected():
            self._publish(self._bridge, "offline", retain=True)
            self._wait_for_acknowledgements(deadline)
        self._client.disconnect()
        # The thread may sit in a name lookup or a connect; it is a daemon, so it is not waited for.
        threading.Thread(target=self._client.loop_stop, daemon=True).start()

    def stats(self) -> SinkStats:
        """Counts of messages; failures are of connections."""
        queue = self._worker.stats()
        dropped = {**queue.dropped, **({"broker": self._refused} if self._refused else {})}
        return SinkStats(
            delivered=self._acknowledged,
            failures=self._failures,
            dropped=dropped,
            waiting=queue.waiting + self._unacknowledged(),
        )

    # Called by the worker: every message comes from one thread, so a newer state never loses
    # against an older one.

    def _handle(self, event: Event | None) -> None:
        if event is None:
            # What an earlier connection left unacknowledged is repeated first.
            self._wait_for_acknowledgements(time.monotonic() + PATIENCE)
            self._publish(self._bridge, "online", retain=True)
            for source in self._states:
                self._introduce(source)
            return
        source = event.source
        new = source not in self._states
        state = self._states.setdefault(source, {"source": source, "verdict": "unsure"})
        before = (state["verdict"], state.get("state"))
        state.update(_changes(event))
        changed = (state["verdict"], state.get("state")) != before
        due = time.monotonic() - self._told.get(source, float("-inf")) >= self._config.interval
        if self._client.is_connected():
            if new:
                self._introduce(source)
            elif changed or due:
                self._tell_state(source)
        if not isinstance(event, FrameEvent):
            self._publish(
                self._topic(source, "event"), msgspec.json.encode(event).decode(), retain=False
            )

    def _introduce(self, source: str) -> None:
        if self._config.discovery_prefix:
            device = identity(self._config.prefix, source)
            for component, key, payload in entities(self._config.prefix, source):
                topic = f"{self._config.discovery_prefix}/{component}/{device}/{key}/config"
                self._publish(topic, msgspec.json.encode(payload).decode(), retain=True)
        self._tell_state(source)

    def _tell_state(self, source: str) -> None:
        state = self._states[source]
        self._told[source] = time.monotonic()
        live = state.get("state", "live") in ("live", "frozen")
        available = "online" if live else "offline"
        self._publish(self._topic(source, "availability"), available, retain=True)
        self._publish(
            self._topic(source, "state"), msgspec.json.encode(state).decode(), retain=True
        )

    def _topic(self, source: str, leaf: str) -> str:
        return f"{self._config.prefix}/{slug(source)}/{leaf}"

    def _publish(self, topic: str, payload: str, *, retain: bool) -> None:
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc == QUEUE_FULL:
            self._refused += 1
        else:
            self._queued += 1

    def _unacknowledged(self) -> int:
        return max(0, self._queued - self._acknowledged)

    def _wait_for_acknowledgements(self, deadline: float) -> None:
        while self._unacknowledged() and time.monotonic() < deadline:
            time.sleep(0.01)

    # Called by paho's thread.

    def _connected(
        self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._failures += 1
            logger.warning("mqtt %s: refused the connection: %s", self._config.host, reason)
            return
        logger.info("mqtt %s: connected", self._config.host)
        if self._config.discovery_prefix:
            client.subscribe(f"{self._config.discovery_prefix}/{BIRTH}", qos=1)
        self._worker.put(None)

    def _failed_to_connect(self, client: paho.Client, data: Any) -> None:
        if not self._failures:
            logger.warning("mqtt %s: cannot be reached; tried again", self._config.host)
        self._failures += 1

    def _disconnected(
        self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._failures += 1
            logger.warning("mqtt %s: the connection broke: %s", self._config.host, reason)

    def _on_birth(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        if message.payload == b"online" and not message.retain:
            self._worker.put(None)

    def _published(
        self, client: paho.Client, data: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        self._acknowledged += 1


def _client(config: Mqtt) -> paho.Client:
    """A client that trusts and logs in as configured."""
    try:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion
    except ModuleNotFoundError:
        raise EnvironmentLacksError(
            "[mqtt] needs paho-mqtt: pip install 'mpft-deploy[mqtt]'"
        ) from None
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    if config.user:
        client.username_pw_set(config.user, config.password() or None)
    if config.tls:
        try:
            client.tls_set(ca_certs=config.ca_file or None)
        except (OSError, ssl.SSLError, ValueError):
            raise InputError(
                f"[mqtt] ca_file: {display(config.ca_file)} is no readable PEM certificate"
            ) from None
    return client


def _changes(event: Event) -> dict[str, Any]:
    """What an event says of the state of its source."""
    if isinstance(event, FrameEvent):
        return {
            "verdict": event.stream_verdict,
            "evidence": round(event.evidence, 3),
            "probability": round(event.probability, 4),
            "frame_age_ms": round(event.age_ms, 1),
        }
    if isinstance(event, StreamEvent):
        return {"verdict": event.verdict, "evidence": round(event.evidence, 3)}
    return {"state": event.state, "reason": event.reason}
