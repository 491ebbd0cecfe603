"""Devices that are notified: the API, the page, and the worker that shows notifications."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from dashboard_demo import DemoMonitor
from headless import DESKTOP, Browser
from pages import SIZES, too_wide
from pushing import CONTACT, Phone, PushService, serving, unbase64
from telling import eventually, stream_event
from visits import API, TOKEN, get

from mpft_deploy.screen.tell.config import Http, Push, User
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.push import PushSink
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard

PEOPLE = {"Ann": "ann-token-of-16-and-more", "Ben": "ben-token-of-16-and-more"}

OPEN = Http(address="127.0.0.1:0")

Serve = Callable[..., Dashboard]


@pytest.fixture
def service() -> Iterator[PushService]:
    with serving() as one:
        yield one


@pytest.fixture
def page(monitor: DemoMonitor, tmp_path: Path) -> Iterator[Serve]:
    """Serve with a store that stays from one call to the next."""
    running: list[Dashboard] = []

    def start(http: Http = OPEN, **table: Any) -> Dashboard:
        for one in running:
            one.sinks.close(1)
        sinks = Sinks(store=Store(tmp_path / "screen.db"))
        push = Push(**{"contact": CONTACT, "local": True, "interval": 0, **table})
        running[:] = [serve(monitor, http, sinks, push=push)]
        return running[0]

    yield start
    for one in running:
        one.sinks.close(1)


def users(server: Dashboard) -> list[str]:
    """Whose devices are notified."""
    return [one.device.user for one in server.sinks if isinstance(one, PushSink)]


def people(*names: str) -> Http:
    users = tuple(User(name=name, role="viewer", token=PEOPLE[name]) for name in names)
    return Http(address="127.0.0.1:0", token=TOKEN, users=users)


def ask(
    server: Dashboard, method: str, path: str, body: object = None, token: str = "", **headers: str
) -> tuple[int, Any]:
    if token:
        headers["Authorization"] = f"Bearer {token}"
    text = None if body is None else json.dumps(body)
    status, _, answer = get(server, f"{API}/push{path}", method, text, **headers)
    return status, json.loads(answer)


def test_each_has_own_devices_and_admins_all(page: Serve, service: PushService) -> None:
    server = page(people("Ann", "Ben"))
    phones = {name: Phone(service, name) for name in PEOPLE}
    made = {}
    for name, token in PEOPLE.items():
        body = phones[name].subscription
        status, made[name] = ask(server, "POST", "", body, token, User_Agent=f"{name}'s")
        assert status == 200
        assert made[name]["user"] == name
        assert made[name]["service"] == "127.0.0.1"
    for name, token in PEOPLE.items():
        _, own = ask(server, "GET", "", token=token)
        assert own == [made[name]]
        assert len(unbase64(ask(server, "GET", "/key", token=token)[1])) == 65
        secrets = (phones[name].endpoint, phones[name].subscription["keys"]["auth"])
        assert not any(secret in json.dumps(own) for secret in secrets)
    _, everybodys = ask(server, "GET", "", token=TOKEN)
    assert everybodys == list(made.values())
    bens = f"/{made['Ben']['id']}"
    for method, path in (("DELETE", bens), ("POST", bens + "/test"), ("DELETE", "/x")):
        assert ask(server, method, path, token=PEOPLE["Ann"])[0] == 404
    assert ask(server, "POST", bens + "/test", token=PEOPLE["Ben"])[0] == 200
    assert phones["Ben"].told()[0]["title"] == "mpft screen"
    server.sinks.send(stream_event(1))
    for phone in phones.values():
        eventually(lambda phone=phone: {"gate: generated"} <= {s["title"] for s in phone.told()})
    assert ask(server, "DELETE", bens, token=TOKEN)[0] == 200
    assert ask(server, "GET", "", token=PEOPLE["Ben"])[1] == []
    _, _, log = get(server, f"{API}/audit", Authorization=f"Bearer {TOKEN}")
    told = [(one["user"], one["action"], one["object"]) for one in json.loads(log)["entries"]]
    assert told == [
        ("admin", "had a device notified no more", "of Ben"),
        ("Ben", "tried to notify", "a device of Ben"),
        ("Ben", "had a device notified", "by 127.0.0.1"),
        ("Ann", "had a device notified", "by 127.0.0.1"),
    ]


def test_strangers_and_foreign_pages_add_nothing(page: Serve, service: PushService) -> None:
    server, body = page(people("Ann")), Phone(service).subscription
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/x"), ("POST", "/x/test")):
        assert ask(server, method, path, body)[0] == 401
    foreign = {"token": TOKEN, "Origin": "http://evil.example"}
    for method, path in (("POST", ""), ("DELETE", "/x"), ("POST", "/x/test")):
        assert ask(server, method, path, body, **foreign)[0] == 403
    assert users(server) == []


def test_subscriptions_that_are_none(page: Serve, service: PushService) -> None:
    server, good = page(local=False), Phone(service).subscription
    keys = good["keys"]
    far = {**good, "endpoint": "https://push.example/1"}
    for body in (
        *(None, [], {}, {"endpoint": far["endpoint"]}, {**far, "more": 1}, good),
        *({**far, "endpoint": value} for value in (1, "", f"https://push.example/{'x' * 1000}")),
        *(
            {**far, "keys": {**keys, "auth": value}}
            for value in ("", "é", "a!b", "A" * 41, "A" * 21)
        ),
        *({**far, "keys": {**keys, "p256dh": value}} for value in ("", "A", "A" * 87, "B" * 101)),
    ):
        status, said = ask(server, "POST", "", body)
        assert status == 400, body
        assert set(said) == {"error"}
    assert ask(server, "POST", "", {**far, "endpoint": "x" * 20_000})[0] == 413
    assert ask(server, "POST", "", far)[0] == 200


def test_a_test_that_fails_says_why(page: Serve, service: PushService) -> None:
    server, phone = page(), Phone(service)
    _, made = ask(server, "POST", "", phone.subscription)
    service.answers[phone.path] = 410
    status, said = ask(server, "POST", f"/{made['id']}/test")
    assert status == 400
    assert "add this device again" in said["error"]
    assert ask(server, "GET", "")[1] == []


def test_devices_end_with_their_users(page: Serve, service: PushService) -> None:
    server = page(people("Ann", "Ben"))
    for name, token in PEOPLE.items():
        ask(server, "POST", "", Phone(service, name).subscription, token)

    assert users(page(people("Ann", "Ben"))) == ["Ann", "Ben"]
    assert users(page(people("Ben"))) == ["Ben"]
    proxy = Http(address="127.0.0.1:0", trusted_proxy="127.0.0.1", user_header="X-User")
    assert users(page(proxy)) == ["Ben"]  # he may come by it
    assert users(page(OPEN)) == []


def test_without_push_the_page_says_nothing_of_it(server: Dashboard) -> None:
    assert json.loads(get(server, f"{API}/me")[2])["notifies"] is False
    assert get(server, f"{API}/push")[0] == 404


def test_the_page_can_stand_on_a_home_screen(locked: Dashboard) -> None:
    """A browser asks for the manifest without a cookie."""
    status, headers, body = get(locked, "/app.webmanifest")
    assert status == 200
    assert headers.get_content_type() == "application/manifest+json"
    assert json.loads(body)["display"] == "standalone"
    assert get(locked, "/worker.js")[0] == 401
    status, headers, _ = get(locked, "/worker.js", Authorization=f"Bearer {TOKEN}")
    assert headers.get_content_type() == "text/javascript"
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


# In the browser. A headless one has no push service: what `subscribe` would give comes from here.

STUB = """
{
  let made = null;
  PushManager.prototype.getSubscription = async () => made;
  PushManager.prototype.subscribe = async (options) => {
    window.subscribedWith = options;
    made = { toJSON: () => (%s), unsubscribe: async () => { made = null; return true; } };
    return made;
  };
}
"""


@contextlib.contextmanager
def injected(browser: Browser, script: str) -> Iterator[None]:
    """Pages that are opened meanwhile begin with a script."""
    one = browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        yield
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", **one)


def permit(browser: Browser, server: Dashboard, setting: str) -> None:
    browser.call(
        "Browser.setPermission",
        permission={"name": "notifications"},
        setting=setting,
        origin=server.url.rstrip("/"),
    )


def show(browser: Browser, server: Dashboard, size: tuple[int, int] = DESKTOP) -> None:
    browser.messages.clear()
    browser.show(server.url + "#manage", size)
    browser.wait_for("document.querySelector('#notified')?.textContent")


def text(browser: Browser, selector: str) -> str:
    return str(browser.ask(f"document.querySelector('{selector}').textContent"))


def in_worker(browser: Browser, server: Dashboard, script: str) -> None:
    """Run something in the page's service worker, and wait for what it promises."""
    from websockets.sync.client import connect

    with urlopen(f"http://127.0.0.1:{browser._port()}/json/list") as answer:
        targets = [one for one in json.load(answer) if one["url"] == f"{server.url}worker.js"]
    with connect(targets[0]["webSocketDebuggerUrl"], open_timeout=60) as link:
        asked = {"expression": script, "awaitPromise": True}
        link.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": asked}))
        answer = next(one for one in map(json.loads, link) if one.get("id") == 1)
    assert "exceptionDetails" not in answer["result"], answer


SAID, STATE = (
    f"document.querySelector('#{name}').textContent" for name in ("notify-said", "notified")
)

SHOWN = """
navigator.serviceWorker.ready.then((worker) => worker.getNotifications())
  .then((all) => all.map(({ title, body, data, tag }) => ({ title, body, data, tag })))
"""


@SIZES
def test_notify_me_on_this_device(
    browser: Browser, page: Serve, service: PushService, size: tuple[int, int]
) -> None:
    server, phone = page(), Phone(service)
    permit(browser, server, "granted")
    with injected(browser, STUB % json.dumps({**phone.subscription, "expirationTime": None})):
        show(browser, server, size)
        assert text(browser, "#notified") == "Off: this device is not notified."
        assert browser.ask("document.querySelector('#try-notify').hidden")
        browser.tap("#notify")
        browser.wait_for(f"{STATE} === 'On: this device is notified.'")
        key = ask(server, "GET", "/key")[1]
        asked = browser.ask("window.subscribedWith")
        assert asked == {"userVisibleOnly": True, "applicationServerKey": key}
        [device] = ask(server, "GET", "")[1]
        assert "Chrome" in device["agent"]
        assert " on Linuxby" in text(browser, "#devices")  # not all that a browser calls itself
        assert text(browser, "#notify") == "Stop on this device"
        assert "by 127.0.0.1, since" in text(browser, "#devices li")
        assert too_wide(browser) == []
        browser.tap("#try-notify")
        browser.wait_for(f"{SAID} === 'It was sent.'")
        assert phone.told()[0]["body"] == "Verdicts come to this device."
        server.sinks.send(stream_event(1))
        eventually(lambda: len(phone.told()) == 2)
        assert phone.told()[1]["event"] == server.sinks.store.events()[0].id
        service.answers[phone.path] = 410  # it is told at once that this device is gone
        browser.tap("#try-notify")
        browser.wait_for(f"{SAID}.includes('add this device again')")
        browser.wait_for(f"{STATE} === 'Off: this device is not notified.'")
        browser.tap("#notify")
        browser.wait_for(f"{STATE} === 'On: this device is notified.'")
        browser.tap("#notify")
        browser.wait_for(f"{STATE} === 'Off: this device is not notified.'")
        assert users(server) == []
        assert text(browser, "#devices") == ""
    assert not [one for one in browser.messages if one["method"] == "Runtime.exceptionThrown"]


def test_a_message_is_shown_and_opens_its_event(browser: Browser, page: Serve) -> None:
    server = page()
    server.sinks.send(stream_event(1))
    permit(browser, server, "granted")
    show(browser, server)
    browser.ask("navigator.serviceWorker.register('/worker.js')")
    browser.wait_for("navigator.serviceWorker.controller?.state === 'activated'")
    browser.call("ServiceWorker.enable")
    browser.call("BackgroundService.startObserving", service="notifications")
    browser.call("BackgroundService.setRecording", service="notifications", shouldRecord=True)
    found: list[dict[str, Any]] = []

    def registered() -> list[dict[str, Any]]:
        browser.ask("1")  # for messages to come
        for one in browser.messages:
            if one["method"] == "ServiceWorker.workerRegistrationUpdated":
                found.extend(one["params"]["registrations"])
        return [one for one in found if one["scopeURL"] == server.url]

    eventually(registered)
    said = {"title": "gate: generated", "body": "<b>a</b>", "event": 1}
    for data in (json.dumps(said), json.dumps(said), ""):
        browser.call(
            "ServiceWorker.deliverPushMessage",
            origin=server.url.rstrip("/"),
            registrationId=registered()[0]["registrationId"],
            data=data,
        )
    wanted = {"title": "gate: generated", "body": "<b>a</b>", "data": 1, "tag": "event 1"}

    def shown() -> list[dict[str, Any]]:
        given = {"expression": SHOWN, "awaitPromise": True, "returnByValue": True}
        return list(browser.call("Runtime.evaluate", **given)["result"]["value"])

    def displayed() -> int:
        browser.ask("1")
        events = [one["params"].get("backgroundServiceEvent") for one in browser.messages]
        return [one["eventName"] for one in events if one].count("Notification displayed")

    # Whoever asks for them before they are displayed has the browser take them for closed.
    eventually(lambda: displayed() == 3)
    assert len(shown()) == 2
    assert wanted in shown()
    # Pressed: the page that is open shows the event.
    in_worker(
        browser,
        server,
        "registration.getNotifications({ tag: 'event 1' }).then(([notification]) => "
        "dispatchEvent(new NotificationEvent('notificationclick', { notification })))",
    )
    browser.wait_for("document.querySelector('#event').open")
    assert text(browser, "#event-name") == "gate"
    eventually(lambda: len(shown()) == 1)


@pytest.mark.parametrize(
    ("script", "setting", "words"),
    [
        (
            "Object.defineProperty(window, 'isSecureContext', { value: false })",
            "granted",
            "on https",
        ),
        ("delete window.PushManager", "granted", "cannot be notified"),
        ("", "denied", "blocks notifications"),
    ],
)
def test_what_hinders_is_said(
    browser: Browser, page: Serve, script: str, setting: str, words: str
) -> None:
    server = page()
    permit(browser, server, setting)
    with injected(browser, script):
        show(browser, server)
    assert words in text(browser, "#notified")
    assert browser.ask("document.querySelector('#notify').hidden")
    assert browser.ask("document.querySelector('#try-notify').hidden")


def test_a_browser_that_refuses_says_so(browser: Browser, page: Serve) -> None:
    server = page()
    permit(browser, server, "granted")
    why = "PushManager.prototype.subscribe = async () => { throw new Error('no push service'); }"
    with injected(browser, why):
        show(browser, server)
        browser.tap("#notify")
        browser.wait_for(f"{SAID} === 'no push service'")
    assert text(browser, "#notified") == "Off: this device is not notified."
    assert users(server) == []
