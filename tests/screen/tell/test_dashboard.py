"""The page in a real browser."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest
from dashboard_demo import DemoMonitor, DemoSource, demo_sources
from dashboard_screenshots import DESKTOP, PHONE, Browser, lived
from telling import stream_event

from mpft_deploy.screen.tell import serve
from mpft_deploy.screen.tell.config import Http
from mpft_deploy.screen.tell.server import Server

TOKEN = "a-token-of-more-than-16"
LIVE = "document.querySelector('#link')?.textContent === 'live'"


@pytest.fixture(scope="module")
def drawn() -> list[DemoSource]:
    sources = demo_sources(5)
    DemoMonitor(sources).step(1.7e9)
    return sources


@pytest.fixture
def monitor(drawn: list[DemoSource]) -> DemoMonitor:
    return DemoMonitor([dataclasses.replace(source) for source in drawn])


@pytest.fixture
def server(monitor: DemoMonitor) -> Iterator[Server]:
    one = serve(monitor, Http(address="127.0.0.1:0"))
    lived(monitor, one, 60)
    yield one
    one.close()


def complaints(browser: Browser, server: Server) -> list[str]:
    """Errors that this server's page made: exceptions, refused requests, rules broken."""
    found = []
    for message in browser.messages:
        if message["method"] == "Runtime.exceptionThrown":
            found.append(str(message["params"]))
        elif message["method"] == "Log.entryAdded":
            entry = message["params"]["entry"]
            ours = entry.get("url", server.url).startswith(server.url)  # not a page left before
            if entry["level"] == "error" and ours:
                found.append(f"{entry['text']} {entry.get('url', '')}")
    return found


def texts(browser: Browser, selector: str) -> list[str]:
    script = f"[...document.querySelectorAll('{selector}')].map(one => one.textContent)"
    return list(browser.ask(script))


def open_page(browser: Browser, url: str, size: tuple[int, int] = DESKTOP) -> None:
    browser.messages.clear()
    browser.show(url, size)
    browser.wait_for(LIVE)


def test_tiles_tell_what_the_monitor_says(
    browser: Browser, server: Server, monitor: DemoMonitor
) -> None:
    monitor.sources["Aisle 3" if "Aisle 3" in monitor.sources else "Pier 2"].reconnects = 3
    open_page(browser, server.url)
    assert texts(browser, ".tile .name span") == list(monitor.sources)
    verdicts = [source.verdict for source in monitor.sources.values()]
    assert texts(browser, ".tile .chip") == verdicts
    assert "generated" in verdicts
    assert texts(browser, "#summary span")[:2] == ["5 of 5 live", "1 generated"]
    assert "3" in texts(browser, ".tile .reconnects")
    browser.wait_for("document.querySelectorAll('.tile image').length >= 3")
    assert browser.ask("document.querySelector('.tile .curve').getAttribute('d').length") > 100
    assert browser.ask("document.title") == "(1) mpft screen"
    assert complaints(browser, server) == []


def test_it_follows_what_happens(browser: Browser, server: Server, monitor: DemoMonitor) -> None:
    open_page(browser, server.url)
    last = list(monitor.sources)[-1]
    server.send(monitor.change(last, "down", "connection refused", time.time()))
    browser.wait_for("document.querySelectorAll('.tile.broken').length === 1")
    assert "connection refused" in texts(browser, ".tile.broken .banner")[0]
    browser.wait_for("document.querySelector('#events li .why').textContent.includes('refused')")
    # When it is tried again counts down.
    banner = "document.querySelector('.broken .banner').textContent"
    for seconds in (3, 2):
        browser.wait_for(f"{banner}.includes('next try in {seconds}\u00a0s')")
    server.send(monitor.change(last, "live", "", time.time()))
    browser.wait_for("document.querySelectorAll('.tile.broken').length === 0")
    monitor.is_alive = False
    browser.wait_for("!document.querySelector('#notice').hidden")
    assert complaints(browser, server) == []


def test_the_cells_are_drawn_on_demand(browser: Browser, server: Server) -> None:
    open_page(browser, server.url)
    browser.wait_for("document.querySelectorAll('.tile image').length >= 3")
    assert browser.ask("document.querySelectorAll('.tile .unseen').length") == 0
    browser.press("c")
    browser.wait_for("document.querySelectorAll('.tile .unseen').length >= 3")
    path = "document.querySelector('.tile .unseen').getAttribute('d')"
    assert browser.ask(f"{path}.split('M').length - 1") == 1 + 96  # the frame and its holes
    assert browser.ask("document.querySelector('#cells').getAttribute('aria-pressed')") == "true"
    browser.press("c")
    browser.wait_for("document.querySelectorAll('.tile .unseen').length === 0")


def test_everything_works_by_keyboard(
    browser: Browser, server: Server, monitor: DemoMonitor
) -> None:
    open_page(browser, server.url)
    names = list(monitor.sources)
    for _ in range(8):
        browser.press("Tab")
        if browser.ask("document.activeElement.className") == "screen":
            break
    browser.press("Enter")
    browser.wait_for("document.querySelector('#detail').open")
    assert texts(browser, "#detail-name") == [names[0]]
    browser.wait_for("document.querySelectorAll('#detail image').length === 2")
    assert texts(browser, "#detail .seen") == ["96 cells"]
    browser.press("ArrowRight")
    assert texts(browser, "#detail-name") == [names[1]]
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert texts(browser, "#detail-name") == [names[-1]]
    assert "rtsp://***@" in texts(browser, "#detail .facts")[0]
    browser.press("Escape")
    browser.wait_for("!document.querySelector('#detail').open")
    browser.press("u")
    browser.wait_for("document.querySelector('.tile').classList.contains('generated')")
    assert complaints(browser, server) == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640)])
def test_nothing_is_wider_than_the_window(
    browser: Browser, server: Server, size: tuple[int, int]
) -> None:
    open_page(browser, server.url, size)
    assert browser.ask("document.documentElement.scrollWidth") <= size[0]
    browser.ask("openDetail('Main street')")
    browser.wait_for("document.querySelector('#detail').open")
    inner = "document.querySelector('#detail').scrollWidth"
    assert browser.ask(inner) <= size[0]


def test_names_are_text_and_nothing_else(browser: Browser, drawn: list[DemoSource]) -> None:
    """Names come from a file, reasons from a camera: neither may write into the page."""
    evil = "<img src=x onerror=alert(1)>&amp;"
    monitor = DemoMonitor([dataclasses.replace(drawn[0], name=evil)])
    server = serve(monitor, Http(address="127.0.0.1:0"))
    lived(monitor, server, 2)
    server.send(monitor.change(evil, "down", "<b>bold</b>", time.time()))
    server.send(stream_event(1, source=evil))
    open_page(browser, server.url)
    browser.wait_for("document.querySelectorAll('#events li').length === 2")
    assert texts(browser, ".tile .name span") == [evil]
    assert "<b>bold</b>" in texts(browser, ".banner")[0]
    assert browser.ask("document.querySelectorAll('main img, .banner b b').length") == 0
    browser.wait_for("document.querySelectorAll('.tile image').length === 1")
    assert complaints(browser, server) == []
    server.close()


def test_logging_in(browser: Browser, monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN))
    browser.show(server.url)
    form = "document.querySelector('#token')"
    browser.wait_for(f"{form} !== null")
    browser.ask(f"{form}.value = 'not-the-right-token'; document.forms[0].requestSubmit()")
    browser.wait_for("'refused' in document.documentElement.dataset")
    assert browser.ask("getComputedStyle(document.querySelector('.refused')).display") != "none"
    browser.ask(f"{form}.value = '{TOKEN}'; document.forms[0].requestSubmit()")
    browser.wait_for(LIVE)
    assert texts(browser, ".tile .name span") == list(monitor.sources)
    server.close()


def test_a_server_that_goes_away_is_said_and_comes_back(
    browser: Browser, monitor: DemoMonitor
) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0"))
    lived(monitor, server, 2)
    open_page(browser, server.url)
    address = server.url.removeprefix("http://").rstrip("/")
    server.close()
    browser.wait_for("document.querySelector('#link').textContent === 'no connection'")
    assert browser.ask("document.body.classList.contains('stale')")
    server = serve(monitor, Http(address=address))
    server.send(stream_event(77))
    browser.wait_for(LIVE)
    browser.wait_for("document.querySelectorAll('#events li').length >= 1")
    server.close()
