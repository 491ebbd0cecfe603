"""What tests ask of the page in a browser."""

from __future__ import annotations

import pytest
from headless import DESKTOP, PHONE, Browser

from mpft_deploy.screen.web.server import Dashboard

SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])

LIVE = "document.querySelector('#link')?.textContent === 'live'"

BEYOND = """
[...document.querySelectorAll('body, main *, header *, dialog[open] *, #notice')]
  .filter((one) => one.checkVisibility() && !one.closest('svg svg, svg > *'))
  .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map((one) => one.outerHTML.slice(0, 200))
"""
"""Elements that reach over the right edge, also those of which it is cut off."""


def open_page(browser: Browser, url: str, size: tuple[int, int] = DESKTOP) -> None:
    """Open the page, and wait until it follows what happens."""
    browser.messages.clear()
    browser.show(url, size)
    browser.wait_for(LIVE)


def texts(browser: Browser, selector: str) -> list[str]:
    """Of all that are like that, in order."""
    script = f"[...document.querySelectorAll('{selector}')].map(one => one.textContent)"
    return list(browser.ask(script))


def complaints(browser: Browser, server: Dashboard) -> list[str]:
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


def too_wide(browser: Browser) -> list[str]:
    """What makes the page scroll sideways, or is cut off at its right; none if nothing does."""
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    return list(browser.ask(BEYOND)) + ["the page"] * browser.ask(wide)
