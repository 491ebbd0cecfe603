"""The tables that say whom to tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.errors import InputError, MpftError, UsageError
from mpft_deploy.screen.tell.config import TABLES, Http, Live, TellConfig, User, parse_tables
from mpft_deploy.screen.tell.table import read_secret

PASSWORD = "correct-horse-battery"


def test_nothing_is_told_by_default() -> None:
    assert parse_tables({}) == TellConfig()


def test_every_table_reads_its_keys() -> None:
    config = parse_tables(
        {
            "webhook": {"url": "https://example.org/hook", "timeout": 3},
            "mqtt": {"host": "broker", "tls": True},
            "snapshots": {"folder": "shots", "when": ["generated", "unsure"]},
            "jsonl": {"path": "events.jsonl", "events": ["stream"]},
            "http": {"address": "[::1]:0"},
        }
    )
    assert config.webhook is not None
    assert config.jsonl.events == ("stream",)
    assert config.http is not None
    assert config.http.bind() == ("::1", 0)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"webhook": {}}, "[webhook] url: is missing"),
        ({"webhook": {"url": "ftp://x"}}, "[webhook] url:"),
        ({"webhook": {"url": "http://x:port/"}}, "[webhook] url:"),
        (
            {"webhook": {"url": "http://x", "secert": "y"}},
            "[webhook] secert: no such key; did you mean secret?",
        ),
        ({"jsonl": {"events": ["frames"]}}, "[jsonl] events"),
        ({"jsonl": {"events": []}}, "[jsonl] events:"),
        ({"webhook": {"url": "http://x", "secret": "a", "secret_file": "b"}}, "[webhook] secret:"),
        ({"webhook": {"url": "http://a..b/x"}}, "[webhook] url:"),
        ({"webhook": {"url": "http://.example/x"}}, "[webhook] url:"),
        ({"webhook": {"url": "http://two words/x"}}, "[webhook] url:"),
        ({"store": {"max_bytes": 1}}, "[store] max_bytes:"),
        ({"store": {"max_age_days": 0}}, "[store] max_age_days:"),
        ({"store": {"days": {"source": -1}}}, "[store] days[...]: Expected"),
        ({"store": {"days": {"real": 3}}}, "[store] days"),
        ({"webhook": {"url": "http://x", "timeout": 0}}, "[webhook] timeout:"),
        ({"mqtt": {"host": ""}}, "[mqtt] host:"),
        ({"mqtt": {"host": "a" * 70 + ".lan"}}, "[mqtt] host:"),
        ({"mqtt": {"host": ".lan"}}, "[mqtt] host:"),
        ({"mqtt": {"host": "two words"}}, "[mqtt] host:"),
        ({"mqtt": {"host": "broker:1883"}}, "[mqtt] host: name a host alone"),
        ({"mqtt": {"host": "b", "port": 70000}}, "[mqtt] port:"),
        ({"mqtt": {"host": "b", "password_file": "p"}}, "[mqtt] user:"),
        ({"mqtt": {"host": "b", "prefix": "a/#"}}, "[mqtt] prefix:"),
        ({"mqtt": {"host": "b", "prefix": 70000 * "a"}}, "[mqtt] prefix:"),
        ({"mqtt": {"host": "b", "ca_file": "p"}}, "[mqtt] ca_file:"),
        ({"snapshots": {"folder": "f", "when": ["fake"]}}, "[snapshots] when"),
        ({"snapshots": {"folder": "f", "max_bytes": 1}}, "[snapshots] max_bytes:"),
        ({"jsonl": {"keep": -1}}, "[jsonl] keep:"),
        ({"http": {"address": "8088"}}, "[http] address:"),
        ({"http": {"address": "127.0.0.1:99999"}}, "[http] address:"),
        ({"http": {"address": "0.0.0.0:8088"}}, "[http] address:"),
        ({"http": {"address": "example.org:8088"}}, "[http] address:"),
        ({"http": {"token": "short"}}, "[http] token:"),
        ({"http": 3}, "[http]: Expected"),
        ({"http": {"nodes": [{"name": "a"}]}}, "[http] nodes[0].url: is missing"),
        ({"http": {"nodes": [{"name": "a", "url": "http://u:p@x"}]}}, "[http.nodes] url:"),
        (
            {"http": {"nodes": [{"name": "a", "url": "http://x", "tokn": "y"}]}},
            "[http] nodes[0].tokn: no such key; did you mean token?",
        ),
        (
            {"http": {"nodes": [{"name": "a", "url": "http://x"}] * 2}},
            "[http.nodes] name: give each its own",
        ),
        (
            {"http": {"users": [{"who": "Ann"}]}},
            "[http] users[0].who: no such key; there are name, ",
        ),
        ({"live": {}}, "[live] url: is missing"),
        ({"live": {"url": "ftp://nvr/x"}}, "[live] url:"),
        ({"live": {"url": "http:///x"}}, "[live] url:"),
        ({"live": {"url": "http://u:p@nvr/x"}}, "[live] url:"),
        ({"live": {"url": "http://nvr;script-src *@b/x"}}, "[live] url:"),
        ({"live": {"url": "http://nvr; script-src */x"}}, "[live] url:"),
        ({"live": {"url": "http://nvr:99999/x"}}, "[live] url:"),
        ({"live": {"url": "http://{source}.lan/x"}}, "[live] url:"),
        ({"live": {"url": "http://nvr/{name}"}}, "[live] url: only {source}"),
    ],
)
def test_errors_name_table_and_key(tables: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tables(tables)
    assert str(caught.value).startswith(named)


def test_a_live_page_is_of_one_origin_and_names_the_source() -> None:
    live = Live(url="http://[::1]:1984/stream.html?src={source}#x")
    assert live.origin == "http://[::1]:1984"
    assert live.page('a/b&c "d"') == "http://[::1]:1984/stream.html?src=a%2Fb%26c%20%22d%22#x"


def test_secrets_do_not_show() -> None:
    config = parse_tables(
        {
            "webhook": {"url": f"https://u:{PASSWORD}@x/{PASSWORD}", "secret": PASSWORD},
            "http": {"address": "0.0.0.0:1", "token": PASSWORD},
        }
    )
    assert PASSWORD not in repr(config)
    assert PASSWORD not in str(config)


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{PASSWORD}\n")
    http = Http(address="0.0.0.0:0", token_file=str(file))
    assert http.tokens() == {PASSWORD: ("admin", "admin")}
    ann = User(name="Ann", role="viewer", token="another-" + PASSWORD)
    assert Http(address="0.0.0.0:0", users=(ann,)).tokens() == {ann.token: ("Ann", "viewer")}
    with pytest.raises(UsageError, match="Ann: has somebody else's token"):
        Http(token=ann.token, users=(ann,)).tokens()
    file.write_text("short\n")
    with pytest.raises(UsageError, match="token_file"):
        Http(token_file=str(file)).tokens()
    file.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_secret("http", "token", "", str(file))
    with pytest.raises(InputError, match="cannot be read"):
        read_secret("http", "token", "", str(tmp_path / "absent"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(["url", "host", "folder", "address", "events", "when", "port"]) | st.text()


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(TABLES), st.dictionaries(KEYS, VALUES, max_size=4), max_size=3)
)
def test_any_table_is_read_or_refused_with_a_reason(tables: dict[str, object]) -> None:
    try:
        parse_tables(tables)
    except MpftError as error:
        message = str(error)
        assert message.isprintable()
