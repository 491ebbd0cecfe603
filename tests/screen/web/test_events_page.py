"""Events on the page: filters, review, snapshots and the data set of what was reviewed."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_demo import HEIGHT, LOOKED_AT, WIDTH, DemoMonitor, open_demo
from headless import PHONE, Browser
from pages import SIZES, complaints, open_page, texts, too_wide
from telling import eventually, source_event, stream_event

from mpft_deploy.screen.tell.config import Http
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard


def choose(browser: Browser, **values: str) -> None:
    """As by lists and calendars, which no test can open."""
    for name, value in values.items():
        browser.ask(f"document.querySelector('#filters [name={name}]').value = '{value}'")
    browser.ask("document.querySelector('#filters').dispatchEvent(new Event('input'))")


VERDICTS = "document.querySelectorAll('#all-events .look').length"


@pytest.fixture
def reviewed(monitor: DemoMonitor) -> Iterator[Dashboard]:
    """With 120 verdicts, newest last."""
    one = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    for number in range(120):
        one.sinks.send(stream_event(number, source="Main street"))
        one.sinks.send(source_event(number))
    yield one
    one.sinks.close(1)


def test_an_event_is_reviewed_in_two_strokes(browser: Browser, reviewed: Dashboard) -> None:
    open_page(browser, reviewed.url + "#events")
    browser.wait_for(f"{VERDICTS} === 25")  # of a page of 50 events
    browser.press("j")
    said = browser.ask("document.activeElement.getAttribute('aria-label')")
    assert said.startswith("Main street: generated, ")
    assert said.endswith("open; review")
    browser.press("y")
    # The next one is the current one now.
    browser.wait_for("document.querySelector('#all-events .state').textContent === 'confirmed'")
    browser.wait_for("current === listed[3].id")
    browser.press("n")
    browser.wait_for("document.querySelector('#precision').textContent.startsWith('50')")
    states = [stored.state for stored in reviewed.sinks.store.events(verdict="generated", limit=3)]
    assert states == ["confirmed", "dismissed", "open"]
    assert texts(browser, "#precision")[0].endswith("118 open")
    # Somebody else's review appears by itself.
    number = reviewed.sinks.store.events(verdict="generated", limit=3)[2].id
    browser.ask(
        f"call('/events/{number}/review', {{}}, {{method: 'PUT', body: "
        "JSON.stringify({state: 'unclear'})})"
    )
    browser.wait_for("document.querySelector('#precision').textContent.includes('1 unclear')")
    # What is left to do is one click away.
    browser.tap("#precision button")
    browser.wait_for("listed.length === 50 && listed.every((one) => one.state === 'open')")
    assert complaints(browser, reviewed) == []


@SIZES
def test_a_note_is_kept_with_who_wrote_it(
    browser: Browser, reviewed: Dashboard, size: tuple[int, int]
) -> None:
    open_page(browser, reviewed.url + "#events", size)
    browser.wait_for(f"{VERDICTS} === 25")
    if size == PHONE:
        browser.tap("#all-events .look")
        browser.write("#event [name=by]", "Ann")
        browser.write("#event [name=note]", "ynm")
        assert too_wide(browser) == []
        browser.tap("#event [value=dismissed]")
    else:
        browser.press("j")
        browser.press("Enter")
        browser.write("#event [name=by]", "Ann")
        browser.press("Enter")
        browser.press("e")
        for key in "ynm":  # is text there
            browser.press(key)
        browser.press("Enter")
        browser.press("n")
    browser.wait_for("document.querySelector('#all-events .note')?.textContent === 'ynm'")
    browser.wait_for("document.querySelector('#event').open && current === listed[3].id")
    [stored] = reviewed.sinks.store.events(state="dismissed")
    assert (stored.note, stored.by) == ("ynm", "Ann")
    # What cannot be done is said.
    browser.ask("current = 999999; say('confirmed')")
    notice = "document.querySelector('#notice').textContent"
    browser.wait_for(f"{notice} === 'Not done: there is no such verdict to review.'")


@SIZES
def test_a_note_beside_the_tiles_is_kept_without_an_answer(
    browser: Browser, reviewed: Dashboard, size: tuple[int, int]
) -> None:
    open_page(browser, reviewed.url, size)
    browser.tap("#events .look")
    newest = browser.ask("current")
    browser.tap("#event .next")  # of events that were not listed yet
    browser.wait_for(f"current === {newest - 2}")
    browser.tap("#event .previous")
    browser.wait_for(f"current === {newest}")
    browser.write("#event [name=note]", "a poster")
    if size == PHONE:
        browser.tap("#event .close")
    else:
        browser.press("Escape")
    browser.wait_for("document.querySelector('#events .note')?.textContent === 'a poster'")
    [stored] = [one for one in reviewed.sinks.store.events() if one.note]
    assert (stored.state, stored.note) == ("open", "a poster")


@SIZES
def test_frames_that_decided_are_shown_and_exported(
    browser: Browser, monitor: DemoMonitor, tmp_path: Path, size: tuple[int, int]
) -> None:
    server, sinks = open_demo(monitor, tmp_path / "shots")
    shots = sinks.snapshots
    assert shots is not None
    seen: dict[str, Any] = {
        "source": "Main street",
        "size": (HEIGHT, WIDTH),
        "looked_at": LOOKED_AT,
    }
    seen["package"] = "20231114T221320Z-generated-main-street-1.zip"
    for number in range(3):
        sinks.send(stream_event(number, **seen))
    sinks.send(stream_event(3, **{**seen, "source": "Pier 2"}))
    shots.close(10)
    lost, kept, old, other = sinks.store.events()[::-1]
    for stored in (kept, old, other):
        sinks.store.review(stored.id, "dismissed", "", "Ann", 1.7e9)
    shots.delete(str(old.snapshot))
    sinks.store.rows("UPDATE events SET package = NULL")  # as when packages are deleted
    fetched = (
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('/snapshots/'))"
        ".map((one) => one.responseStatus)"
    )
    open_page(browser, server.url + "#events", size)
    browser.wait_for("document.querySelectorAll('#all-events .thumb image').length === 3")
    row = "#all-events .event[data-number='{}'] {}".format
    assert not browser.ask(f'document.querySelector("{row(old.id, ".thumb")}")')
    browser.tap(row(kept.id, ".look"))
    assert texts(browser, "#event .seen")[0].startswith("The detector looked at the framed 5.4")
    picture = "document.querySelector('#event figure').checkVisibility()"
    assert browser.ask(picture)
    assert too_wide(browser) == []
    browser.tap("#event .close")
    browser.tap(row(old.id, ".look"))
    assert not browser.ask(picture)
    assert "is kept no longer" in texts(browser, "#event .facts")[0]
    browser.tap("#event .close")
    assert complaints(browser, server) == []
    assert set(browser.ask(fetched)) == {200}
    (shots.folder / str(lost.snapshot)).unlink()  # by somebody else
    browser.tap(row(lost.id, ".look"))
    browser.wait_for(f"!{picture}")
    browser.tap("#event .close")
    # Reviewed frames of what is chosen are downloaded.
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    choose(browser, source="Main street")
    browser.tap("#export")
    eventually(lambda: zipfile.is_zipfile(tmp_path / "reviewed.zip"))
    with zipfile.ZipFile(tmp_path / "reviewed.zip") as archive:
        assert archive.namelist() == [f"images/{kept.snapshot}", "manifest.csv"]
    sinks.close(1)


def test_thousands_are_paged_and_filtered(browser: Browser, reviewed: Dashboard) -> None:
    open_page(browser, reviewed.url + "#events")
    browser.wait_for(f"{VERDICTS} === 25")
    for _ in range(30):  # over the end of the page
        browser.press("j")
    browser.wait_for(f"{VERDICTS} === 50")
    while not browser.ask("document.querySelector('#more').hidden"):
        browser.tap("#more")
        time.sleep(0.1)
    browser.wait_for(f"{VERDICTS} === 120")
    assert browser.ask("new Set(listed.map(one => one.id)).size") == 240
    choose(browser, verdict="no sign")
    browser.wait_for("!document.querySelector('#none-listed').hidden")
    assert complaints(browser, reviewed) == []


@SIZES
def test_events_are_chosen_by_source_and_date(
    browser: Browser, monitor: DemoMonitor, size: tuple[int, int]
) -> None:
    """Of sources that are no more, too; and what is said of precision is of what is chosen."""
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    noon = [time.mktime((2026, 3, day, 12, 0, 0, 0, 0, -1)) for day in (1, 2, 3)]
    for number, when in enumerate(noon):
        server.sinks.send(stream_event(number, source="sold camera", time=when))
        server.sinks.send(stream_event(9 + number, source="Main street", time=when))
        state = "confirmed" if number else "dismissed"
        server.sinks.store.review(2 * number + 1, state, "", "", when)
    open_page(browser, server.url + "#events", size)
    options = (
        "[...document.querySelector('#filters [name=source]').options].map((one) => one.value)"
    )
    browser.wait_for(f"{options}.length === 3")
    assert browser.ask(options) == ["", "Main street", "sold camera"]

    assert too_wide(browser) == []
    choose(browser, source="sold camera")
    browser.wait_for(
        "listed.length === 3 && listed.every((one) => one.event.source === 'sold camera')"
    )
    said = "document.querySelector('#precision').textContent"
    browser.wait_for(f"{said}.startsWith('67\u00a0% of 3 reviewed')")
    choose(browser, since="2026-03-02", until="2026-03-02")
    browser.wait_for("listed.length === 1")
    assert browser.ask("listed[0].event.time") == noon[1]
    browser.wait_for(f"{said}.startsWith('100\u00a0% of 1 reviewed')")
    choose(browser, since="", until="2026-03-01")
    browser.wait_for(f"{said}.startsWith('0\u00a0% of 1 reviewed')")
    choose(browser, source="", until="")
    browser.wait_for("listed.length === 6")
    assert browser.ask(f"{said}.endsWith('3 open')")
    assert complaints(browser, server) == []
    server.sinks.close(1)
