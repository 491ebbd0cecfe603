"""docs/telling.md is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from dashboard_demo import DemoMonitor, demo_sources
from PIL import Image
from telling import Hook, eventually, receiving, stream_event

from mpft_deploy.screen.tell.config import TABLES, TellConfig, parse_tables
from mpft_deploy.screen.tell.table import table_in

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEXT = (DOCS / "telling.md").read_text()


@pytest.mark.parametrize("secret", ["any text as a secret", "whsec_AAECAwQFBgcICQoLDA0ODw=="])
def test_the_snippet_verifies_what_is_sent_and_nothing_else(secret: str) -> None:
    found = re.search(r"<!-- tested: verify -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    verify = names["verify"]
    with receiving() as receiver:
        sink = Hook(receiver, secret=secret)
        sink.send(stream_event(1))
        eventually(lambda: receiver.received)
        sink.close(1)
    headers, body = receiver.received[0]
    assert verify(secret, headers, body)
    assert not verify(secret + "x" if secret[0] == "a" else "whsec_AAEC", headers, body)
    assert not verify(secret, headers, body.replace(b"generated", b"real"))
    assert not verify(secret, {**headers, "webhook-id": "e000002"}, body)
    older = str(int(headers["webhook-timestamp"]) - 301)
    assert not verify(secret, {**headers, "webhook-timestamp": older}, body)


def test_the_configuration_at_the_top_is_read() -> None:
    tomllib = pytest.importorskip("tomllib")
    found = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    config = parse_tables(tomllib.loads(found[1]))
    assert None not in (config.webhook, config.mqtt, config.snapshots, config.jsonl, config.http)


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_described(table: str) -> None:
    sections = re.split(r"^##+ ", TEXT, flags=re.MULTILINE)
    section = next(one for one in sections if f"`[{table}]`" in one.partition("\n")[0])
    kind = table_in(get_type_hints(TellConfig)[table])
    assert kind is not None
    for key in kind.__struct_fields__:
        assert f"`{key}`" in section


def test_every_metric_is_described() -> None:
    from mpft_deploy.screen.tell.metrics import PrometheusMetrics

    metrics = PrometheusMetrics()
    metrics.watch(DemoMonitor(demo_sources(1, generated=0, down=0)), [], {})
    names = set(re.findall(r"^# TYPE (\w+)", metrics.text().decode(), re.MULTILINE))
    section = TEXT.split("## Metrics")[1].split("## Security")[0]
    for name in names:
        if name.endswith("_created"):
            continue
        short = name.removesuffix("_total").rpartition("_")[2]
        assert name in section or f"`_{short}_`" in section, name


def test_pictures_are_there_and_small() -> None:
    names = re.findall(r"\(images/([\w-]+\.png)\)", TEXT)
    assert len(names) >= 7
    for name in names:
        assert (DOCS / "images" / name).stat().st_size < 150_000
        with Image.open(DOCS / "images" / name) as image:
            assert image.size in ((1280, 800), (390, 844))
