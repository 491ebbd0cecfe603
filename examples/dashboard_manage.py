"""What the dashboard's pictures show of its management: made-up settings, cameras and receivers."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from urllib.request import Request, urlopen

from mpft_deploy.screen.manage import Managed
from mpft_deploy.screen.onvif import Camera, Stream
from mpft_deploy.screen.streams.records import Event, StreamEvent
from mpft_deploy.screen.teach import Lesson
from mpft_deploy.screen.tell.deliver import Answer, Deliverer
from mpft_deploy.screen.tell.store import Delivery, Store
from mpft_deploy.screen.web.operations import operation

ANN = {"X-User": "Ann"}
"""As a proxy tells who she is."""

CAMERAS = [
    Camera("10.0.4.31", "rtsp://10.0.4.31/", "Gate east", "DS-2CD2047", "yard", sources=("Gate",)),
    Camera(
        "10.0.4.32",
        "rtsp://10.0.4.32/",
        "Gate west",
        "P3245-V",
        "yard",
        streams=(
            Stream("Main 2560 × 1440", "rtsp://10.0.4.32/live?channel=1"),
            Stream("Sub 640 × 360", "rtsp://10.0.4.32/live?channel=2"),
        ),
    ),
]

BROWSERS = {
    "https://fcm.googleapis.com/demo": "Mozilla/5.0 (Linux; Android 16; K) Chrome/142.0 Mobile",
    "https://updates.push.services.mozilla.com/demo": "Mozilla/5.0 (X11; Linux) Firefox/145.0",
}
"""Where they would be told, and what they call themselves."""


def with_device(url: str) -> str:
    """Have two browsers notified; the script by which a page takes itself for the first of them.

    There is nothing that they would be told.
    """
    ask = f"{url}api/v1/push"
    with urlopen(Request(f"{ask}/key", headers=ANN)) as answer:
        keys = {"p256dh": json.load(answer), "auth": 22 * "A"}
    devices = []
    for endpoint, agent in BROWSERS.items():
        body = json.dumps({"endpoint": endpoint, "keys": keys}).encode()
        with urlopen(Request(ask, body, {**ANN, "User-Agent": agent})) as answer:
            devices.append(json.load(answer)["id"])
    return f"""
        localStorage.setItem("device", "{devices[0]}");
        ServiceWorkerContainer.prototype.getRegistration = async () =>
          ({{ pushManager: {{ getSubscription: async () => ({{}}) }} }});
        Object.defineProperty(Notification, "permission", {{ value: "granted" }});
    """


class DemoManager:
    """Settings of sources, one of which is being taught, and one paused."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = list(names)

    def groups(self) -> dict[str, str]:
        """None is in one."""
        return {}

    @operation("GET", "/sources/settings", role="admin")
    def sources(self) -> list[Managed]:
        """As a configuration and a store would say."""
        lesson, added, paused = self._names
        address = "rtsp://***@10.0.4.{}:554/stream1".format
        return [
            Managed(
                *(lesson, address(12), "file"),
                paused=False,
                lesson=Lesson(minutes=60, left=1260, seconds=2274),
            ),
            Managed(added, address(31), "store", paused=False, taught=time.time() - 9e5),
            Managed(paused, address(33), "store", paused=True, hours=("mon-fri 06:00-20:00",)),
        ]


class DemoReceiver(Deliverer):
    """Refuses verdicts that it is told of first, and fails at all further ones."""

    first_wait = 60.0

    def __init__(self, store: Store) -> None:
        self.refuses = 3
        super().__init__("webhook", "webhook https://hooks.example.org", store)

    def wants(self, event: Event) -> bool:
        return isinstance(event, StreamEvent)

    def attempt(self, delivery: Delivery) -> Answer:
        self.refuses -= 1
        return (
            Answer(422, "it answered 422") if self.refuses >= 0 else Answer(503, "it answered 503")
        )
