"""A monitor with three sources, and servers of it: for everybody, and with a token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dashboard_demo import DemoMonitor, demo_sources
from visits import TOKEN

from mpft_deploy.screen.tell.config import Http
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard


@pytest.fixture(scope="module")
def monitor() -> DemoMonitor:
    one = DemoMonitor(demo_sources(3))
    one.step(1.7e9)
    return one


@pytest.fixture
def server(monitor: DemoMonitor) -> Iterator[Dashboard]:
    one = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    yield one
    one.sinks.close(1)


@pytest.fixture
def locked(monitor: DemoMonitor) -> Iterator[Dashboard]:
    one = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN), Sinks())
    yield one
    one.sinks.close(1)
