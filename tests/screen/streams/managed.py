"""A service that is managed by its page: a watch, its store, and what asks its API."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpft_deploy.screen.manage import Manager
from mpft_deploy.screen.streams.config import read_config
from mpft_deploy.screen.teach import Teacher
from mpft_deploy.screen.tell.config import Http
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard
from mpft_deploy.spec import Calibration

SECRET = "Pl4nted-S3cret"
CAMERA = {"name": "dock", "address": f"rtsp://viewer:{SECRET}@192.0.2.9/live?key={SECRET}x"}
AREAS = {
    "regions": [{"name": "top", "box": [0, 0, 1, 0.7]}, {"name": "wall", "box": [0, 0.3, 1, 0.7]}],
    "masks": [[0, 0, 0.2, 0.1]],
}
TOML = """
[defaults]
gate = 0
[http]
address = "127.0.0.1:0"
[[source]]
name = "hall"
address = "rtsp://192.0.2.8/live"
"""


class Service:
    """A watch, the store beside its configuration, and the page; as the command puts them."""

    def __init__(self, watching: Callable[..., Any], path: Path) -> None:
        self.path = path
        self.config = read_config(path, {})
        self.running = watching(config=self.config)
        self.store = Store(path.with_suffix(".db"))
        self.secrets: set[str] = set()
        self.teacher = Teacher(Calibration(), "b" * 64, self.store)
        self.manager = Manager(
            self.running.watch, self.config, self.store, self.teacher, self.secrets
        )
        self.page: Dashboard | None = None

    def serve(self, http: Http) -> Dashboard:
        self.page = serve(self.running.watch, http, Sinks(store=self.store), manager=self.manager)
        return self.page

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        """Status and answer of the API."""
        assert self.page is not None
        link = http.client.HTTPConnection(self.page.url.split("/")[2], timeout=60)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        link.request(method, "/api/v1" + path, text, headers)
        answer = link.getresponse()
        said = answer.read().decode()
        link.close()
        assert SECRET not in said
        return answer.status, json.loads(said)

    def states(self) -> dict[str, str]:
        return {one.source: one.state for one in self.running.watch.statuses()}

    def close(self) -> None:
        self.running.watch.stop()
        if self.page is not None:
            self.page.sinks.close(1)
        self.store.close()


def decisions(one: Service) -> list[Any]:
    return [c.streams[0].decision for c in one.running.watch.scheduler.channels]
