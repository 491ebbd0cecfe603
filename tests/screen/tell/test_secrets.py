"""A password that was planted everywhere shows nowhere."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from dashboard_demo import DemoMonitor, demo_sources
from telling import eventually, everything, frame_event, receiving, source_event, stream_event

from mpft_deploy.errors import MpftError
from mpft_deploy.screen.tell.config import parse_tables
from mpft_deploy.screen.tell.fanout import open_sinks
from mpft_deploy.screen.tell.metrics import open_metrics
from mpft_deploy.screen.web import serve

PLANTED = "Xq7PlantedPassword42"

PATHS = [
    *("/", "/login", "/livez", "/metrics", "/api/v1/sources", "/api/v1/history", "/api/v1/events"),
    *("/api/v1/picture?source=Main+street", "/api/v1/nothing", f"/api/v1/sources?token={PLANTED}"),
]


def test_nothing_that_is_written_holds_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    monitor = DemoMonitor(demo_sources(1, generated=0, down=0))
    monitor.step(1.7e9)
    said: list[bytes] = []
    secret = tmp_path / "private" / "password"
    secret.parent.mkdir()
    secret.write_text(PLANTED)
    out = tmp_path / "out"
    out.mkdir()
    with receiving() as receiver:
        url = f"http://user:{PLANTED}@127.0.0.1:{receiver.port}/{PLANTED}?key={PLANTED}#{PLANTED}"
        config = parse_tables(
            {
                "store": {"path": str(out / "screen.db")},
                "webhook": {"url": url, "secret": PLANTED},
                "mqtt": {
                    "host": "127.0.0.1",
                    "port": 1,
                    "user": "screener",
                    "password_file": str(secret),
                },
                "snapshots": {"folder": str(out / "shots")},
                "jsonl": {"path": str(out / "events.jsonl")},
                "http": {"address": "127.0.0.1:0", "token": PLANTED},
            }
        )
        said.append(repr(config).encode())
        assert config.http is not None
        sinks = open_sinks(config, lambda event: monitor.picture(event.source), monitor.statuses)
        server = serve(monitor, config.http, sinks, metrics=open_metrics(config))
        for mode in ("fail", "reset", "refuse", "ok"):
            receiver.mode = mode  # type: ignore[assignment]
            before = receiver.attempts
            sinks.send(source_event(1, source="Main street"))
            sinks.send(frame_event(2, source="Main street"))
            sinks.send(stream_event(3, source="Main street"))
            eventually(lambda before=before: receiver.attempts > before)
        receiver.down()
        sinks.send(stream_event(4, source="Main street"))
        for token in ("", "wrong", PLANTED):
            said += [
                everything(server.url, method, path, token)
                for path in PATHS
                for method in ("GET", "HEAD", "POST")
            ]
        eventually(lambda: any("events wait" in r.message for r in caplog.records))
        eventually(lambda: any("mqtt" in r.message for r in caplog.records))
        sinks.close(2)
    assert len(receiver.received) >= 1  # the receiver itself was told the password, of course
    said += [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert any(path.suffix == ".jpg" for path in out.rglob("*"))
    said += [record.getMessage().encode() for record in caplog.records]
    said += [text.encode() for text in capfd.readouterr()]
    assert [text for text in said if PLANTED.encode() in text] == []


@pytest.mark.parametrize(
    "table",
    [
        {"webhook": {"url": f"ftp://user:{PLANTED}@host/{PLANTED}"}},
        {"webhook": {"url": f"http://user:{PLANTED}@host:port/{PLANTED}"}},
        {"webhook": {"url": f"http://[{PLANTED}/"}},
        {"webhook": {"url": "http://host", "secret": PLANTED, "secret_file": "x"}},
        {"webhook": {"url": "http://host", "secret": [PLANTED]}},
        {"http": {"token": PLANTED[:10]}},
        {"http": {"token": PLANTED, "token_file": "x"}},
        {"mqtt": {"host": "h", "password": PLANTED}},
    ],
)
def test_no_error_repeats_it(table: dict[str, object]) -> None:
    with pytest.raises(MpftError) as caught:
        parse_tables(table)
    assert PLANTED[:10] not in str(caught.value)


def test_a_certificate_that_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS to a server with a certificate of its own making: refused, and said without the path."""
    import ssl
    import subprocess
    import threading

    from telling import Hook, free_port

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    import socket

    port = free_port()
    listener = socket.create_server(("127.0.0.1", port))

    def answer() -> None:
        try:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True):
                pass
        except OSError:
            pass

    thread = threading.Thread(target=answer)
    thread.start()
    url = f"https://user:{PLANTED}@localhost:{port}/{PLANTED}"
    sink = Hook(None, url=url)
    sink.send(stream_event(1))
    eventually(lambda: sink.stats().failures == 1)
    sink.close(1)
    thread.join()
    listener.close()
    assert "certificate is not trusted" in caplog.text
    assert PLANTED not in caplog.text
