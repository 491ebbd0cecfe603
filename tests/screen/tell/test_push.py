"""Web push, to a service and browsers that are real but for being here."""

from __future__ import annotations

import resource
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pushing import (
    CONTACT,
    Phone,
    PushService,
    base64url,
    decrypt,
    point_of,
    sender_of,
    serving,
    unbase64,
)
from starlette.datastructures import Headers
from telling import HandClock, eventually, source_event, stream_event

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.screen.tell import database
from mpft_deploy.screen.tell.config import Push, parse_tables
from mpft_deploy.screen.tell.deliver import PATIENCE
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.push import Device, PushSink, Subscription, encrypt
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web.devices import MOST, MOST_OF_USER, Devices
from mpft_deploy.screen.web.operations import MissingError, User

ADMIN = User("admin", "admin")

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long wait before a second attempt."""
    monkeypatch.setattr(PushSink, "first_wait", 0.05)


@pytest.fixture
def service() -> Iterator[PushService]:
    with serving() as one:
        yield one


class Node(Sinks):
    """A store that tells devices; in memory without a folder."""

    def __init__(self, folder: Path | None = None, **table: Any) -> None:
        super().__init__(store=Store(folder and folder / "screen.db"))
        self.clock = HandClock()
        config = Push(**{"contact": CONTACT, "local": True, "interval": 0, **table})
        self.devices = Devices(config, self, lambda name: True)
        self.key = self.devices.push_key()

    def add(self, phone: Phone, user: str = "ann") -> str:
        return self.subscribe(phone.subscription, user)

    def subscribe(self, subscription: object, user: str = "eve") -> str:
        body = msgspec.convert(subscription, Subscription)
        headers = Headers({"user-agent": "a browser"})
        number = self.devices.add_device(body, User(user, "viewer"), headers, self._note).id
        for sink in self:
            if isinstance(sink, PushSink):
                sink.clock = self.clock
        return number

    def there(self) -> list[Device]:
        return self.devices.devices(ADMIN)

    def drop(self, number: str) -> None:
        self.devices.remove_device(number, ADMIN, self._note)

    def attempt(self, number: str) -> None:
        self.devices.test_device(number, ADMIN, self._note)

    def stats(self) -> dict[str, int]:
        """Of all devices together."""
        total = Counter[str]()
        for sink in self:
            if isinstance(sink, PushSink):
                one = sink.stats()
                total += Counter(one.dropped)
                total.update(waiting=one.waiting, failures=one.failures, delivered=one.delivered)
        return {name: count for name, count in total.items() if count}

    def _note(self, action: str, thing: str) -> None:
        pass


def test_devices_of_nobody_end_no_start_on_a_full_disk(
    tmp_path: Path, service: PushService
) -> None:
    before = Node(tmp_path)
    before.add(Phone(service))
    before.close(1)
    store, nobody = Store(tmp_path / "screen.db"), (lambda name: False)
    config, limit = Push(contact=CONTACT), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        Devices(config, sinks := Sinks(store=store), nobody)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not any(isinstance(one, PushSink) for one in sinks)
    Devices(config, sinks, nobody)
    assert not store.rows("SELECT 1 FROM devices")
    store.close()


@pytest.fixture
def node() -> Iterator[Node]:
    one = Node()
    yield one
    one.close(1)


def test_the_reader_of_these_tests_reads_the_example_of_the_rfc() -> None:
    """RFC 8291, appendix A."""
    number = int.from_bytes(unbase64("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"), "big")
    body = unbase64(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS"
        "6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qu"
        "lcy4a-fN"
    )
    text = decrypt(
        body, ec.derive_private_key(number, ec.SECP256R1()), unbase64("BTBZMqHH6r4Tts7J_aSIgg")
    )
    assert text == b"When I grow up, I want to be a watermelon"


@given(st.binary(max_size=3900), st.binary(min_size=16, max_size=16))
def test_what_is_said_is_read(text: bytes, secret: bytes) -> None:
    assert decrypt(encrypt(text, point_of(KEY), secret), KEY, secret) == text


def test_a_verdict_arrives(service: PushService, node: Node) -> None:
    phone = Phone(service)
    node.add(phone)
    node.send(stream_event(1))
    for event in (stream_event(2, verdict="no sign"), source_event(3)):
        node.send(event)
    eventually(lambda: "waiting" not in node.stats())
    [said] = phone.told()
    assert said["title"] == "gate: generated"
    assert "GENERATED (was unsure: evidence" in said["body"]
    assert said["event"] == 1
    headers = phone.headers()
    assert headers["Content-Encoding"] == "aes128gcm"
    assert headers["TTL"] == "86400"
    assert headers["Urgency"] == "high"
    key, claims = sender_of(headers["Authorization"])
    assert key == node.key
    assert claims["aud"] == service.url
    assert claims["sub"] == CONTACT
    assert 0 < claims["exp"] - time.time() < 86400
    assert node.stats() == {"delivered": 1}


@given(name=st.text(min_size=1, max_size=3000))
def test_messages_are_short(name: str) -> None:
    """However long a name is, and whatever it is written in."""
    with serving() as service:
        node = Node()
        phone = Phone(service)
        node.add(phone)
        event = stream_event(1, source=name.encode("utf-8", "replace").decode())
        node.send(event)
        eventually(lambda: phone.told())
        node.close(1)
        assert phone.told()[0]["title"] == f"{event.source}: generated"[:100]


def test_what_is_left_out_does_not_show_that_a_service_works(service: PushService) -> None:
    """Or what waits for it would be refused, as if it alone were not taken."""
    node, phone = Node(interval=300), Phone(service)
    number = node.add(phone)
    node.send(stream_event(1, "yard"))
    eventually(phone.told)
    service.answers[phone.path] = 500
    node.send(stream_event(2, "gate"))
    node.send(stream_event(3, "yard"))  # too soon
    eventually(
        lambda: service.attempts[phone.path] > 1 + PATIENCE + 2 or node.stats().get("refused")
    )
    assert node.store.count_waiting(f"push {number}") == 1
    service.answers.clear()
    eventually(lambda: len(phone.told()) == 2)
    assert phone.told()[1]["title"] == "gate: generated"
    node.close(1)


def test_not_too_often_each_for_itself(service: PushService) -> None:
    node = Node(interval=300)
    phones = [Phone(service, name) for name in ("one", "two")]
    node.add(phones[0])
    node.send(stream_event(1))
    eventually(phones[0].told)
    node.add(phones[1])
    node.send(stream_event(2))
    eventually(lambda: phones[1].told() and "waiting" not in node.stats())
    assert [len(phone.told()) for phone in phones] == [1, 1]
    assert node.stats()["rate"] == 1
    node.clock.now += 301
    node.send(stream_event(3))
    eventually(lambda: len(phones[0].told()) == 2)
    assert phones[0].told()[1]["body"].endswith("1 more since the last notification: gate")
    node.close(1)


@pytest.mark.parametrize("status", [404, 410])
def test_dead_devices_go_and_block_nobody(
    service: PushService, node: Node, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    dead, away, well = (Phone(service, name) for name in ("dead", "away", "well"))
    for phone in (dead, away, well):
        node.add(phone)
    service.answers = {dead.path: status, away.path: 503}
    for number in range(1, 6):
        node.send(stream_event(number))
    eventually(lambda: len(well.told()) == 5)
    assert [said["event"] for said in well.told()] == [1, 2, 3, 4, 5]
    eventually(lambda: len(node.there()) == 2)
    assert service.attempts[dead.path] == 1
    assert node.store.rows("SELECT count(*) FROM devices") == [(2,)]
    eventually(lambda: service.attempts[away.path] > 1)
    assert node.stats()["waiting"] == 5
    service.answers = {}
    eventually(lambda: len(away.told()) == 5)
    assert [said["event"] for said in away.told()] == [1, 2, 3, 4, 5]
    assert not dead.told()
    assert "push 127.0.0.1: the subscription of ann has ended" in caplog.text
    for phone in (dead, away, well):  # whoever has an endpoint may send to it
        assert phone.path not in caplog.text
    assert node.failure is None


def test_an_event_that_is_sent_while_a_device_ends_is_not_tried(
    service: PushService, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Phone(service)
    node.add(gone)
    [sink] = [one for one in node if isinstance(one, PushSink)]
    forget = sink._forget

    def slowly(number: str) -> None:
        forget(number)
        node.store.add(stream_event(2), receivers=[sink.name])

    monkeypatch.setattr(sink, "_forget", slowly)
    service.answers[gone.path] = 410
    node.send(stream_event(1))
    eventually(lambda: not sink._task.is_alive())
    assert service.attempts[gone.path] == 1
    assert sink.stats().waiting == 0


def test_it_outlives_the_process(service: PushService, tmp_path: Path) -> None:
    phone = Phone(service)
    first = Node(tmp_path)
    first.add(phone)
    service.answers[phone.path] = 503
    first.send(stream_event(1))
    eventually(lambda: service.attempts[phone.path])
    first.close(0.1)
    file = tmp_path / "screen.push.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    service.answers.clear()
    second = Node(tmp_path)
    eventually(phone.told)
    [device] = second.there()
    assert (device.user, device.agent) == ("ann", "a browser")
    assert abs(device.since - time.time()) < 600
    assert sender_of(phone.headers()["Authorization"])[0] == first.key == second.key
    second.close(1)
    # Browsers refuse what another key signed, so devices go with it.
    file.unlink()
    third = Node(tmp_path)
    assert third.key != first.key
    assert third.there() == []
    third.close(1)
    file.write_text("no key")
    with pytest.raises(InputError, match=r"\[push\] .*screen.push.pem is no key of web push"):
        Node(tmp_path)


def test_a_removed_device_is_told_nothing(service: PushService, node: Node) -> None:
    phone = Phone(service)
    service.answers[phone.path] = 503
    number = node.add(phone)
    node.send(stream_event(1))
    eventually(lambda: service.attempts[phone.path])
    node.drop(number)
    with pytest.raises(MissingError):
        node.drop(number)
    assert node.there() == []
    assert node.store.count_waiting(f"push {number}") == 0
    service.answers.clear()
    node.add(phone)
    node.send(stream_event(2))
    eventually(phone.told)
    assert [said["event"] for said in phone.told()] == [2]


def test_added_again_it_is_one(service: PushService, node: Node) -> None:
    phone, again = Phone(service), Phone(service)  # of the same endpoint, with new keys
    assert node.add(phone) == node.add(again, "ben")
    node.send(stream_event(1))
    eventually(lambda: service.received[phone.path])
    assert len(again.told()) == 1
    assert [one.user for one in node.there()] == ["ben"]


def test_there_are_not_too_many(service: PushService, node: Node) -> None:
    for number in range(MOST):
        node.add(Phone(service, str(number)), f"user {number // MOST_OF_USER}")
    for user in ("user 0", "user 99"):
        with pytest.raises(UsageError, match="10 devices of a user, and 50 of all"):
            node.add(Phone(service, "more"), user)
    node.add(Phone(service, "7"), "user 0")  # is known
    node.drop(node.there()[0].id)
    with pytest.raises(UsageError):
        node.add(Phone(service, "more"), "user 4")
    assert len(node.there()) == MOST - 1


def test_a_test_says_what_came_of_it(service: PushService, node: Node) -> None:
    phone = Phone(service)
    node.add(phone)
    [device] = node.there()
    node.attempt(device.id)
    assert phone.told() == [
        {"title": "mpft screen", "body": "Verdicts come to this device.", "event": None}
    ]
    service.answers[phone.path] = 403
    with pytest.raises(UsageError, match=r"127.0.0.1 did not take it: it answered 403"):
        node.attempt(device.id)
    assert node.there() == [device]
    service.answers[phone.path] = 410
    with pytest.raises(UsageError, match="add this device again"):
        node.attempt(device.id)
    assert node.there() == []


def test_it_ends_while_somebody_tries_a_device(service: PushService, node: Node) -> None:
    phone = Phone(service)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as visitors:
        phone.endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        number = node.add(phone)
        trying = visitors.submit(node.attempt, number)
        with silent.accept()[0]:
            node.close(1)
            for tried in (trying, visitors.submit(node.attempt, number)):
                with pytest.raises(UsageError, match="did not take it: given up"):
                    tried.result()
    assert node.failure is None


GOOD = "https://push.example/send/1"
POINT = point_of(KEY)


def subscription(endpoint: str, key: bytes, secret: bytes) -> dict[str, object]:
    return {"endpoint": endpoint, "keys": {"p256dh": base64url(key), "auth": base64url(secret)}}


@pytest.mark.parametrize(
    ("endpoint", "key", "secret"),
    [
        *(
            (url, POINT, bytes(16))
            for url in (
                *("", "x", "ftp://push.example/", "http://push.example/", "https://", "https:///x"),
                *("https://user:secret@push.example/", "https://push.example:99999/"),
                *("https://push.example\r\nX: y/", "https://pu sh.example/", "https://é.example/"),
                *(
                    "https://localhost/",
                    "https://127.0.0.1/",
                    "https://[::1]/",
                    "https://10.0.0.1/",
                ),
                *("https://169.254.169.254/latest", "https://[fe80::1]/", "https://999.1.1.1/"),
                *("https://[::ffff:192.168.0.1]/", "https://[64:ff9b::a00:1]/", "file:///etc/x"),
                *("http://127.0.0.1:8080/", "https://push.example/\tx"),
            )
        ),
        (GOOD, b"", bytes(16)),
        (GOOD, b"\4" + bytes(64), bytes(16)),
        (GOOD, POINT[:-1], bytes(16)),
        (GOOD, POINT, bytes(15)),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),  # keys are another each time
)
def test_hostile_subscriptions_are_refused(endpoint: str, key: bytes, secret: bytes) -> None:
    node = Node(local=False)
    with pytest.raises(UsageError, match=r"endpoint: |keys: "):
        node.subscribe(subscription(endpoint, key, secret))
    assert node.there() == []
    assert node.store.rows("SELECT * FROM devices") == []
    node.close(1)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1"])
def test_names_of_local_addresses_are_not_connected_to(host: str) -> None:
    node = Node(local=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        endpoint = f"https://{host}:{listener.getsockname()[1]}/"
        number = node.subscribe(subscription(endpoint, POINT, bytes(16)))
        with pytest.raises(UsageError, match="it has no public address"):
            node.attempt(number)
        node.send(stream_event(1))
        eventually(lambda: "failures" in node.stats())
        with pytest.raises(BlockingIOError):
            listener.accept()
    node.close(0.1)


def test_a_store_of_version_2_gets_the_table(service: PushService, tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "screen.db")
    old.executescript(f"{database._VERSIONS[0]} PRAGMA user_version = 2;")
    old.close()
    for _ in range(2):
        node = Node(tmp_path)
        node.add(Phone(service))
        node.close(1)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({}, "contact: is missing"),
        ({"contact": "ops@example.org"}, "contact: write mailto:"),
        ({"contact": "mailto:ops@localhost"}, "contact: write mailto:"),
        ({"contact": "http://example.org"}, "contact: write mailto:"),
        ({"contact": CONTACT, "quiet": "7-8"}, "quiet: write from when"),
        ({"contact": CONTACT, "picture": True}, "picture: no such key"),
    ],
)
def test_mistakes_in_the_table(table: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tables({"push": table, "http": {}})
    assert f"[push] {why}" in str(caught.value)


def test_it_needs_the_page() -> None:
    push = {"contact": "https://example.org/ops"}
    assert parse_tables({"push": push, "http": {}}).push is not None
    with pytest.raises(UsageError, match=r"\[push\] contact: needs \[http\]"):
        parse_tables({"push": push})
