"""A real MQTT broker that tests stop and start, and a subscriber that keeps what it hears."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from telling import eventually, free_port

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
PASSWORD = "a-broker-password"


def require_broker() -> None:
    """Skip where mosquitto or its client is missing."""
    pytest.importorskip("paho.mqtt.client")
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto")


class Broker:
    """Mosquitto on a free port; what it retained is lost when it stops."""

    def __init__(self, folder: Path, *, login: bool = False) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "log_dest none"]
        if login:
            passwords = folder / "passwords"
            passwords.touch(mode=0o600)
            tool = shutil.which("mosquitto_passwd") or "mosquitto_passwd"
            command = [tool, "-b", str(passwords), "screener", PASSWORD]
            subprocess.run(command, check=True, capture_output=True)
            lines += [f"password_file {passwords}", "allow_anonymous false", "user root"]
        else:
            lines += ["allow_anonymous true"]
        self._config.write_text("\n".join(lines) + "\n")
        self.up()

    def up(self) -> None:
        """Start, and wait until it listens."""
        self._process = subprocess.Popen(
            [str(PROGRAM), "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._listens)

    def down(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Stop."""
        self._process.send_signal(how)
        self._process.wait(10)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Subscriber:
    """Subscribes to all topics.

    Attributes:
        messages: topic and text of each, in order.
        latest: text of the last message of a topic.
    """

    def __init__(self, port: int, login: tuple[str, str] | None = None) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, str]] = []
        self.latest: dict[str, str] = {}
        self._ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        if login:
            self.client.username_pw_set(*login)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._keep
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(10)

    def _keep(self, client: Any, data: Any, message: Any) -> None:
        text = message.payload.decode("utf-8", "replace")
        self.messages.append((message.topic, text))
        self.latest[message.topic] = text

    def ids(self, topic: str) -> list[str]:
        """Of the events of a topic."""
        return [json.loads(text)["id"] for name, text in self.messages if name == topic]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
