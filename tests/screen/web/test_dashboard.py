"""The page in a real browser."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from dashboard_demo import DemoMonitor, DemoSource, demo_sources, region
from dashboard_screenshots import lived
from headless import DESKTOP, PHONE, Browser
from msgspec import structs
from pages import LIVE, SIZES, complaints, open_page, texts, too_wide
from telling import eventually, frame_event, stream_event

from mpft_deploy.screen.streams.records import SourceStatus
from mpft_deploy.screen.tell.config import Http, Live
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard


@pytest.fixture(scope="module")
def drawn() -> list[DemoSource]:
    sources = demo_sources(5)
    DemoMonitor(sources).step(1.7e9)
    return sources


@pytest.fixture
def monitor(drawn: list[DemoSource]) -> DemoMonitor:
    return DemoMonitor([dataclasses.replace(source) for source in drawn])


@pytest.fixture
def server(monitor: DemoMonitor) -> Iterator[Dashboard]:
    one = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    lived(monitor, one.sinks, 60)
    yield one
    one.sinks.close(1)


def test_tiles_tell_what_the_monitor_says(
    browser: Browser, server: Dashboard, monitor: DemoMonitor
) -> None:
    monitor.sources["Aisle 3" if "Aisle 3" in monitor.sources else "Pier 2"].reconnects = 3
    open_page(browser, server.url)
    assert texts(browser, ".tile .name span") == list(monitor.sources)
    verdicts = [source.verdict for source in monitor.sources.values()]
    looking = ["looking…" if verdict == "unsure" else verdict for verdict in verdicts]
    assert texts(browser, ".tile .chip") == looking
    assert "generated" in verdicts
    assert texts(browser, "#summary span")[:2] == ["5 of 5 live", "1 generated"]
    assert "3" in texts(browser, ".tile .reconnects")
    browser.wait_for("document.querySelectorAll('.tile image').length >= 3")
    assert texts(browser, ".tile .share")[0] == "looks at 5.4\u00a0%"
    assert "independent looks" in texts(browser, ".tile .rests")[0]
    # Where the evidence stands between the two thresholds, from left to right.
    left = "[...document.querySelectorAll('.tile {}')].map(one => parseFloat(one.style.left))"
    low, high, now = (browser.ask(left.format(f".{name}")) for name in ("low", "high", "now"))
    for verdict, *marks in zip(verdicts, low, now, high, strict=True):
        if verdict == "unsure":
            assert marks == sorted(marks)
        else:
            assert (marks[1] < 50) == (verdict == "no sign")
    assert browser.ask("document.title") == "(1) mpft screen"
    assert complaints(browser, server) == []


def test_it_follows_what_happens(browser: Browser, server: Dashboard, monitor: DemoMonitor) -> None:
    open_page(browser, server.url)
    last = list(monitor.sources)[-1]
    server.sinks.send(monitor.change(last, "down", "connection refused", time.time()))
    browser.wait_for("document.querySelectorAll('.tile.broken').length === 1")
    assert "connection refused" in texts(browser, ".tile.broken .banner")[0]
    browser.wait_for("document.querySelector('#events li .why').textContent.includes('refused')")
    # When it is tried again counts down.
    banner = "document.querySelector('.broken .banner').textContent"
    for seconds in (3, 2):
        browser.wait_for(f"{banner}.includes('next try in {seconds}\u00a0s')")
    server.sinks.send(monitor.change(last, "live", "", time.time()))
    browser.wait_for("document.querySelectorAll('.tile.broken').length === 0")
    notice = "document.querySelector('#notice').textContent"
    monitor.overload = "3.1 of 8.0 frames a second are judged"
    browser.wait_for(f"{notice}.includes('too slow for its sources: 3.1 of 8.0')")
    monitor.overload = ""
    browser.wait_for("document.querySelector('#notice').hidden")
    monitor.is_alive = False
    browser.wait_for(f"{notice}.includes('stopped judging')")
    assert complaints(browser, server) == []


def test_what_a_camera_was_taught_is_said(browser: Browser, drawn: list[DemoSource]) -> None:
    class Taught(DemoMonitor):
        """One camera that drifted, and one that was never taught."""

        def statuses(self) -> list[SourceStatus]:
            one, other = super().statuses()
            drifted = structs.replace(one, verdict="unsure", looking=True, drifted=True)
            return [drifted, structs.replace(other, reach=2.0)]

    monitor = Taught([dataclasses.replace(source) for source in drawn[:2]])
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    name = drawn[0].name
    drift = stream_event(1, source=name, verdict="unsure", previous="no sign", reason="drift")
    server.sinks.send(drift)
    open_page(browser, server.url)
    rests = texts(browser, ".tile .rests")
    assert "camera drifted" in rests[0]
    assert "camera not taught" in rests[1]
    browser.wait_for("document.querySelectorAll('#events .why').length === 1")
    assert (
        "the camera does not show what it was taught by: teach it again"
        in texts(browser, "#events .why")[0]
    )
    browser.ask(f"openDetail('{name}')")
    assert "teach it again (Manage, or mpft calibrate --camera)" in texts(browser, ".facts")[0]
    assert complaints(browser, server) == []
    server.sinks.close(1)


def test_what_matters_is_said_aloud_once(
    browser: Browser, server: Dashboard, monitor: DemoMonitor
) -> None:
    open_page(browser, server.url)
    browser.ask(
        "window.aloud = []; new MutationObserver(() => aloud.push($('#news').textContent))"
        ".observe($('#news'), {childList: true, characterData: true, subtree: true})"
    )
    # No other region speaks that is drawn anew each second.
    spoken = "[...document.querySelectorAll('[role=status], [role=alert], [aria-live]')]"
    assert browser.ask(f"{spoken}.every((one) => !one.contains($('#summary')))")
    [urgent] = [one for one in monitor.statuses() if one.verdict == "generated"]
    generated = f"Generated: {urgent.source}. "
    assert texts(browser, "#news") == [generated]
    before = browser.ask("$('#summary').textContent")
    for number in (1, 2, 3):  # as often as numbers change, nothing is said again
        monitor.overload = f"{number}.5 of 8.0 frames a second are judged"
        monitor.sources[urgent.source].age = 5000.0 * number
        browser.wait_for(f"$('#notice').textContent.includes('{number}.5 of')")
    assert browser.ask("$('#summary').textContent") != before
    monitor.overload = ""
    last = list(monitor.sources)[-1]
    server.sinks.send(monitor.change(last, "down", "connection refused", time.time()))
    browser.wait_for(f"$('#news').textContent === '{generated}Faults: {last}. '")
    heard = [text for text in browser.ask("aloud") if text != generated]
    assert heard[0].endswith(
        "This machine is too slow for its sources: 1.5 of 8.0 frames a second are judged."
    )
    assert heard[1:] == [f"{generated}Faults: {last}. "]


def test_the_cells_are_drawn_on_demand(browser: Browser, server: Dashboard) -> None:
    open_page(browser, server.url)
    browser.wait_for("document.querySelectorAll('.tile image').length >= 3")
    assert browser.ask("document.querySelectorAll('.tile .unseen').length") == 0
    window = "document.querySelector('.tile .window').getAttribute('d')"
    assert browser.ask(window) == "M528 248h224v224h-224z"  # what is judged is always drawn
    browser.press("c")
    browser.wait_for("document.querySelectorAll('.tile .unseen').length >= 3")
    path = "document.querySelector('.tile .unseen').getAttribute('d')"
    assert browser.ask(f"{path}.split('M').length - 1") == 1 + 96  # the frame and its holes
    assert browser.ask("document.querySelector('#cells').getAttribute('aria-pressed')") == "true"
    browser.press("c")
    browser.wait_for("document.querySelectorAll('.tile .unseen').length === 0")


def test_a_display_on_a_wall_is_told_by_the_address_what_to_show(
    browser: Browser, server: Dashboard, monitor: DemoMonitor
) -> None:
    open_page(browser, server.url + "#cells&urgent")
    browser.wait_for("document.querySelectorAll('.tile .unseen').length >= 3")
    assert texts(browser, ".tile .name span")[0] == "Video call 1"
    pressed = (
        "[...document.querySelectorAll('#choices [aria-pressed]')].map((one) => one.ariaPressed)"
    )
    assert browser.ask(pressed) == ["true", "true"]
    # A page that is open follows, too.
    browser.ask("location.hash = 'source=Main+street'")
    browser.wait_for("document.querySelector('#detail').open")
    assert texts(browser, "#detail-name") == ["Main street"]
    browser.press("Escape")
    [number] = [one.id for one in server.sinks.store.events(verdict="generated")]
    browser.ask(f"location.hash = 'event={number}'")
    browser.wait_for("document.querySelector('#event').open")
    assert texts(browser, "#event-name") == ["Video call 1"]
    assert complaints(browser, server) == []


def test_the_evidence_of_regions_is_drawn_from_the_past_on(
    browser: Browser, server: Dashboard, monitor: DemoMonitor
) -> None:
    box = (0.0, 0.0, 0.5, 0.5)
    wall, door = (region(name, box, "unsure", 1.0) for name in ("wall", "door"))
    monitor.sources["Main street"].regions = (wall, door)
    for second in range(30):
        for name, evidence in (("wall", 2.0), ("door", -1.0)):
            seen = {"region": name, "time": 1.7e9 + second, "evidence": evidence}
            server.board.note(frame_event(second, "Main street", **seen))
    open_page(browser, server.url + "#source=Main+street")
    browser.wait_for("detailed?.history.length >= 30")
    assert browser.ask("detailed.history[0]") == [1.7e9, 2.0, 0.125]
    curve = "document.querySelector('#detail .line .curve').getAttribute('d').split('L').length"
    assert browser.ask(curve) >= 30


def test_everything_works_by_keyboard(
    browser: Browser, server: Dashboard, monitor: DemoMonitor
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
    browser.wait_for("document.querySelectorAll('#detail figure image').length === 2")
    assert texts(browser, "#detail .seen") == ["5.4\u00a0% of the picture, 96 cells"]
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
    browser: Browser, server: Dashboard, monitor: DemoMonitor, size: tuple[int, int]
) -> None:
    open_page(browser, server.url, size)
    browser.wait_for("document.querySelectorAll('.tile image').length > 0")
    assert too_wide(browser) == []
    browser.tap(".tile .screen")
    browser.wait_for("document.querySelectorAll('#detail figure image').length === 2")
    assert too_wide(browser) == []
    browser.tap("#detail .next")
    browser.wait_for(
        f"document.querySelector('#detail-name').textContent === '{list(monitor.sources)[1]}'"
    )
    browser.tap("#detail .close")
    browser.tap("nav [href='#events']")
    browser.wait_for("document.querySelectorAll('#all-events .look').length > 0")
    assert too_wide(browser) == []
    browser.tap("#all-events .look")
    browser.wait_for("document.querySelector('#event').open")
    assert too_wide(browser) == []
    browser.tap("#event .close")
    browser.wait_for("!document.querySelector('#event').open")
    # A word without blanks that is wider than the page is seen, or this could not fail.
    browser.ask("document.querySelector('#precision').textContent = 'W'.repeat(200)")
    assert too_wide(browser)


def test_names_are_text_and_nothing_else(browser: Browser, drawn: list[DemoSource]) -> None:
    """Names come from a file, reasons from a camera: neither may write into the page."""
    evil = "<img src=x onerror=alert(1)>&amp;"
    monitor = DemoMonitor([dataclasses.replace(drawn[0], name=evil)])
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    lived(monitor, server.sinks, 2)
    server.sinks.send(monitor.change(evil, "down", "<b>bold</b>", time.time()))
    server.sinks.send(stream_event(1, source=evil))
    open_page(browser, server.url)
    browser.wait_for("document.querySelectorAll('#events li').length === 2")
    assert texts(browser, ".tile .name span") == [evil]
    number = server.sinks.store.events()[0].id
    server.sinks.store.review(number, "dismissed", evil, evil, 1.7e9)
    browser.ask("refreshEvents()")
    browser.wait_for("document.querySelectorAll('#events .note').length === 1")
    assert texts(browser, "#events .note") == [evil]
    assert "<b>bold</b>" in texts(browser, ".banner")[0]
    assert browser.ask("document.querySelectorAll('main img, .banner b b, .note *').length") == 0
    browser.wait_for("document.querySelectorAll('.tile image').length === 1")
    assert complaints(browser, server) == []
    server.sinks.close(1)


@SIZES
def test_a_stream_is_watched_where_another_server_shows_it(
    browser: Browser, monitor: DemoMonitor, size: tuple[int, int]
) -> None:
    asked = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
    live = Live(url=f"http://127.0.0.1:{other.server_port}/stream.html?src={{source}}")
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks(), live=live)
    lived(monitor, server.sinks, 2)
    open_page(browser, server.url + "#source=Main+street", size)
    browser.wait_for("document.querySelector('#detail').open")
    assert not browser.ask("document.querySelector('#detail iframe')")
    browser.tap("#detail .watch")
    eventually(lambda: asked)
    assert asked == ["/stream.html?src=Main%20street"]
    assert browser.ask("document.querySelector('.elsewhere').href").endswith(asked[0])
    assert too_wide(browser) == []
    assert complaints(browser, server) == []
    # Any other server is refused by the policy, and with the next source the frame is gone.
    browser.ask("document.querySelector('#detail iframe').src = 'http://localhost:1/'")
    browser.wait_for("document.querySelector('#detail .watch').ariaPressed === 'true'")
    eventually(lambda: [one for one in complaints(browser, server) if "frame-src" in one])
    browser.tap("#detail .next")
    browser.wait_for("document.querySelector('#detail iframe') === null")
    server.sinks.close(1)
    other.shutdown()


def test_a_server_that_goes_away_is_said_and_comes_back(
    browser: Browser, monitor: DemoMonitor
) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    lived(monitor, server.sinks, 2)
    open_page(browser, server.url)
    address = server.url.removeprefix("http://").rstrip("/")
    server.sinks.close(1)
    browser.wait_for("document.querySelector('#link').textContent === 'no connection'")
    assert browser.ask("document.body.classList.contains('stale')")
    server = serve(monitor, Http(address=address), Sinks())
    server.sinks.send(stream_event(77))
    browser.wait_for(LIVE)
    browser.wait_for("document.querySelectorAll('#events li').length >= 1")
    server.sinks.close(1)
