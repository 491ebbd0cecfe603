"""That telling fails is said on the page, and what a receiver refused is sent again from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from dashboard_demo import DemoMonitor
from headless import Browser
from pages import SIZES, too_wide
from telling import Hook, Receiver, eventually, receiving, source_event, stream_event
from visits import API, TOKEN, get, log_in

from mpft_deploy.screen.tell.config import Http, Jsonl, User
from mpft_deploy.screen.tell.jsonl import JsonLines
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard

PLANTED = "Xq7PlantedPassword42"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def hook(receiver: Receiver) -> Hook:
    url = receiver.url.replace("//", f"//user:{PLANTED}@") + f"?key={PLANTED}"
    return Hook(None, url=url, timeout=5.0)


@pytest.fixture
def server(hook: Hook, monitor: DemoMonitor) -> Iterator[Dashboard]:
    yield serve(monitor, Http(address="127.0.0.1:0"), hook)
    hook.close(1)


NOTICE = "document.querySelector('#notice').textContent"


@SIZES
def test_it_is_said_and_sent_again(
    browser: Browser, server: Dashboard, hook: Hook, receiver: Receiver, size: tuple[int, int]
) -> None:
    browser.show(server.url + "#manage", size)
    browser.wait_for("document.querySelector('#link')?.textContent === 'live'")
    assert browser.ask("document.querySelector('.of-refused').hidden")
    receiver.mode = "fail"
    hook.send(stream_event(1))
    hook.send(source_event(2))
    where = f"webhook http://127.0.0.1:{receiver.port}"
    browser.wait_for(f"{NOTICE}.startsWith('{where}: it answered 500; events wait (2, since ')")
    receiver.mode = "refuse"
    browser.wait_for(f"{NOTICE}.includes('webhook refused 2 events: see Manage.')")
    # The list comes by itself; one is sent again, is refused again, is sent again, and arrives.
    rows = "document.querySelectorAll('#refused .managed')"
    browser.wait_for(f"{rows}.length === 2")
    assert "webhook: gate generated" in browser.ask(f"{rows}[1].textContent")
    assert "it answered 422" in browser.ask(f"{rows}[1].textContent")
    assert too_wide(browser) == []
    browser.ask(f"{rows}[0].remove()")
    browser.wait_for(f"{rows}.length === 2")
    again = "#refused [aria-label='Send again: event 1, webhook']"
    before = receiver.attempts
    browser.tap(again)
    eventually(lambda: receiver.attempts == before + 1)
    browser.wait_for(f"{rows}.length === 2")
    receiver.mode = "ok"
    browser.tap(again)
    eventually(lambda: receiver.ids() == ["e000001"])
    browser.wait_for(f"{NOTICE} === 'webhook refused 1 event: see Manage.'")
    browser.tap("#all-again")
    eventually(lambda: receiver.ids() == ["e000001", "s000002"])
    browser.wait_for("document.querySelector('#notice').hidden")
    assert browser.ask("document.querySelector('.of-refused').hidden")
    assert PLANTED not in browser.ask("document.documentElement.outerHTML")


def test_a_disk_that_cannot_be_written_is_said(
    browser: Browser, server: Dashboard, hook: Hook, tmp_path: Any
) -> None:
    lines = JsonLines(Jsonl(path=str(tmp_path / "events.jsonl")))
    hook.append(lines)
    browser.show(server.url)
    browser.wait_for("document.querySelector('#link')?.textContent === 'live'")
    (tmp_path / "events.jsonl").unlink()
    (tmp_path / "events.jsonl").mkdir()
    hook.store._db.execute("PRAGMA max_page_count = 1")
    for number in range(400):
        hook.send(stream_event(number, source="x" * 200))
    browser.wait_for(f"{NOTICE}.includes('jsonl: Is a directory; what it costs is counted (since')")
    browser.wait_for(f"{NOTICE}.includes('store memory: database or disk is full; events wait in')")
    hook.store._db.execute("PRAGMA max_page_count = 1000000")
    browser.wait_for(f"!{NOTICE}.includes('disk is full')")


def test_who_may_send_again_and_what_is_kept_of_it(
    hook: Hook, receiver: Receiver, monitor: DemoMonitor
) -> None:
    ann = User(name="Ann", role="reviewer", token="ann-" + TOKEN)
    server = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN, users=(ann,)), hook)
    admin = {"Authorization": f"Bearer {TOKEN}"}

    def ask(path: str, method: str = "POST", **headers: str) -> tuple[int, Any]:
        status, _, body = get(server, API + path, method, **(headers or admin))
        return status, json.loads(body)

    receiver.mode = "refuse"
    for number in range(3):
        hook.send(stream_event(number))
    eventually(lambda: hook.webhook.stats().refused == 3)
    assert hook.webhook.stats().waiting == 0
    hers = {"Authorization": f"Bearer {ann.token}"}
    for path, method in (("/refused", "GET"), ("/refused", "POST"), ("/refused", "DELETE")):
        assert ask(path, method, **hers)[0] == 403
        assert get(server, API + path, method)[0] == 401
    cookie = log_in(server, TOKEN).split(";")[0]
    assert ask("/refused", Cookie=cookie, Origin="https://evil.example")[0] == 403
    listed = ask("/refused", "GET")[1]
    assert [(one["event"], one["error"], one["attempts"]) for one in listed] == [
        (number, "it answered 422", 1) for number in (3, 2, 1)
    ]
    assert ask("/refused?receiver=mqtt")[0] == 404
    assert ask("/refused?receiver=webhook&event=99")[0] == 404
    assert {ask(f"/refused?event={wrong}")[0] for wrong in ("x", 2**70, -1)} == {400}
    assert ask("/refused?receiver=webhook&event=1", "DELETE") == (200, 1)
    receiver.mode = "ok"
    assert ask("/refused") == (200, 2)
    eventually(lambda: receiver.ids() == ["e000001", "e000002"])
    assert ask("/refused", "GET")[1] == []
    assert ask("/refused")[0] == 404
    assert len(hook.store.events()) == 3
    done = [
        (one["user"], one["action"], one["object"]) for one in ask("/audit", "GET")[1]["entries"]
    ]
    assert done[:2] == [
        ("admin", "sent again", "2 events to webhook"),
        ("admin", "gave up sending", "event 1 to webhook"),
    ]
    hook.close(1)


def test_what_is_sent_again_in_vain_holds_up_no_other(hook: Hook, receiver: Receiver) -> None:
    """An event on which the receiver fails gets one try, not as many as one that is new."""
    receiver.answers = {"e000000": 404}
    hook.store.add(stream_event(0), ["webhook"])
    hook.store.settle("webhook", 1, "it answered 404", 5)
    hook.store.rows("UPDATE deliveries SET due = 0")
    hook.send(stream_event(1))
    eventually(lambda: receiver.ids() == ["e000001"])
    assert hook.webhook.stats().refused == 1
    assert hook.webhook.stats().failures == 0
    hook.close(1)


def test_who_sends_again_waits_for_no_pause(
    hook: Hook, receiver: Receiver, server: Dashboard
) -> None:
    receiver.answers, receiver.pause = {"e000000": 422, "e000001": 503}, 200
    for number in range(2):
        hook.send(stream_event(number))
    eventually(lambda: hook.webhook.stats().failures == 1)
    [paused] = hook.store.waiting("webhook", 2)
    assert paused.due - hook.store.now() > 100
    receiver.answers = {}
    status, _, changed = get(server, API + "/refused", "POST")
    assert (status, json.loads(changed)) == (200, 1)
    eventually(lambda: receiver.ids() == ["e000000", "e000001"])
