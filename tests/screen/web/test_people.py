"""Who comes to the page, and what it offers them."""

from __future__ import annotations

import json

from dashboard_demo import DemoMonitor
from headless import DESKTOP, Browser
from pages import LIVE, SIZES, complaints, open_page, texts, too_wide
from telling import stream_event
from visits import TOKEN

from mpft_deploy.screen.tell.config import Http, User
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web import serve

AGENTS = {
    "Mozilla/5.0 (Linux; Android 10) Chrome/120.0.0.0 Safari/537.36": "Chrome 120 on Android",
    "Mozilla/5.0 (Macintosh; Mac OS X 10_15) Version/17.1 Safari/605.1": "Safari 17 on Mac OS",
    "Mozilla/5.0 (iPhone; CPU OS 17) Version/17.1 Mobile/15E148": "Safari 17 on iPhone",
    "Mozilla/5.0 (Windows NT 10.0) Chrome/120.0 Safari/537.36 Edg/121.0": "Edge 121 on Windows",
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/121.0": "Firefox 121 on Linux",
    "curl/8.5.0": "curl/8.5.0",
    "": "unknown browser",
}
"""What browsers call themselves, shortened; and what the page calls them."""


def log_in(browser: Browser, url: str, token: str, size: tuple[int, int] = DESKTOP) -> None:
    """By the form that a stranger gets."""
    browser.show(url, size)
    browser.write("#token", token)
    browser.tap("form button")


@SIZES
def test_logging_in(browser: Browser, monitor: DemoMonitor, size: tuple[int, int]) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN), Sinks())
    log_in(browser, server.url, "not-the-right-token", size)
    browser.wait_for("'refused' in document.documentElement.dataset")
    assert browser.ask("getComputedStyle(document.querySelector('.refused')).display") != "none"
    assert too_wide(browser) == []
    browser.write("#token", TOKEN)
    browser.tap("form button")
    browser.wait_for(LIVE)
    assert texts(browser, ".tile .name span") == list(monitor.sources)
    # Who is logged in, and who did what; and out again.
    browser.tap("nav [href='#manage']")
    browser.wait_for("document.querySelectorAll('#sessions .managed').length === 1")
    shown = browser.ask(f"{json.dumps(list(AGENTS))}.map(browserOf)")
    assert shown == list(AGENTS.values())
    browser.wait_for("document.querySelectorAll('#audit .audited').length === 1")
    assert texts(browser, "#audit b, #audit span") == ["admin", "logged in "]
    assert too_wide(browser) == []
    browser.tap("#sessions button")
    browser.wait_for("document.querySelector('#token') !== null")  # of itself, as it is told
    assert server.sinks.store.rows("SELECT count(*) FROM sessions") == [(0,)]
    server.sinks.close(1)


def test_whom_a_proxy_names_is_asked_for_nothing(browser: Browser, monitor: DemoMonitor) -> None:
    http = Http(
        address="127.0.0.1:0",
        users=(User(name="Ann", role="admin"),),
        trusted_proxy="127.0.0.1",
        user_header="X-User",
    )
    server = serve(monitor, http, Sinks())
    server.sinks.send(stream_event(1))
    browser.call("Network.setExtraHTTPHeaders", headers={"X-User": "Ann"})
    open_page(browser, server.url)
    browser.tap("#events .look")
    assert browser.ask("document.querySelector('#event .by').hidden")  # her name is known
    browser.tap("#event [value=confirmed]")
    browser.wait_for("document.querySelector('#events .state').textContent === 'confirmed'")
    assert server.sinks.store.events()[0].by == "Ann"
    browser.tap("nav [href='#manage']")
    browser.wait_for("document.querySelectorAll('#audit .audited').length === 1")
    assert texts(browser, "#audit b") == ["Ann"]
    # Nobody has logged in, so that nobody can log out.
    browser.wait_for("document.querySelector('.of-people').hidden")
    assert complaints(browser, server) == []
    browser.call("Network.setExtraHTTPHeaders", headers={})
    server.sinks.close(1)


def test_viewers_see_no_buttons(browser: Browser, monitor: DemoMonitor) -> None:
    viewer = User(name="Val", role="viewer", token="val-" + TOKEN)
    server = serve(monitor, Http(address="127.0.0.1:0", users=(viewer,)), Sinks())
    server.sinks.send(stream_event(1))
    log_in(browser, server.url, viewer.token)
    browser.wait_for(LIVE)
    browser.wait_for("document.querySelectorAll('#events .look').length === 1")
    browser.tap("#events .look")
    browser.wait_for("document.querySelector('#event').open")
    assert browser.ask("document.querySelector('#event .review').hidden")
    browser.press("y")
    assert server.sinks.store.events()[0].state == "open"
    server.sinks.close(1)
