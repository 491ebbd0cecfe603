"""Reports of a result, and the result's own file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
import synthetic

from mpft_deploy.bundle import Device
from mpft_deploy.errors import InputError
from mpft_deploy.profile.events import read_events
from mpft_deploy.profile.flame import chrome_trace, icicle
from mpft_deploy.profile.history import read_history, rows
from mpft_deploy.profile.html import render_html
from mpft_deploy.profile.layers import fold
from mpft_deploy.profile.markdown import render_markdown
from mpft_deploy.profile.measure import Plan, measure_harness, measure_run
from mpft_deploy.profile.operators import Operator, OperatorTimes
from mpft_deploy.profile.records import (
    Environment,
    Gate,
    Layers,
    Profile,
    Roof,
    Subject,
    json_schema,
    read_profile,
)
from mpft_deploy.profile.work import Work
from mpft_deploy.screen.streams.records import FrameEvent

ROOT = Path(__file__).resolve().parents[2]


def layers() -> Layers:
    paths = [("embedding", "tokens"), ("block 0", "attention", "qkv"), ("block 0", "mlp", "c_fc")]
    operators = [Operator("/".join(path), path, "MatMul", 2.0) for path in paths]
    work = {paths[1]: Work(2_000_000, 100_000, "fp32"), paths[2]: Work(50_000, 900_000, "fp32")}
    times = OperatorTimes("a <profiler>", 5, 6.5, operators)
    return fold(times, work, Roof(gigabytes_per_second=1.0, gigaflops={"fp32": 2.0}))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    clock = synthetic.VirtualClock()
    machine = synthetic.Machine(tmp_path_factory.mktemp("machine"), clock)
    durations = iter(synthetic.realistic(0, 5000).tolist())
    run = measure_run(
        synthetic.workload(clock, durations),
        Plan(samples=400),
        machine.watch(),
        scenario="single-stream",
        batch=1,
        threads=2,
        clock=clock,
    )
    return Profile(
        kind="profile",
        version=1,
        created="2026-01-02T03:04:05+00:00",
        mpft_version="0",
        subject=Subject(
            name="<b>bundle</b>|",
            seal="0" * 64,
            engine_sha256="1" * 64,
            backend="onnxruntime",
            precision="int8",
            keep="textured:6",
            depth=2,
            images="golden crops",
            image_count=12,
        ),
        environment=Environment(
            device=Device(machine="m", system="s", processor="p"),
            cores=2,
            cpu_limit_cores=1.5,
            memory_limit_mb=None,
            governor=None,
            clock_mhz=None,
            load=0.1,
            kernel="6",
            python="3",
            versions={"numpy": "2"},
            commit="abc",
            gpus=[],
            unknown={"governor": "hidden"},
        ),
        harness=measure_harness(1, 10.0, clock),
        runs=[run],
        layers=layers(),
        gates=[Gate(gate="p99<=9ms", verdict="fail", reason="too slow")],
    )


VOID = ("meta", "br")


class Page(HTMLParser):
    """Checks that tags match, and collects what could ask a network."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "source", "use"):
            self.requests.append(tag)
        self.requests += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        before = len(self.open)
        self.handle_starttag(tag, attrs)
        del self.open[before:]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_html_is_whole_and_asks_nothing_of_a_network(profile: Profile) -> None:
    text = render_html(profile)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.requests == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert "<b>bundle</b>" not in text
    assert "&lt;b&gt;bundle&lt;/b&gt;" in text
    assert "The gate failed" in text
    for words in ("How long queries take", "Where the time goes", "Roofline", "block 0"):
        assert words in text


def test_html_marks_a_disturbed_run(profile: Profile) -> None:
    run = msgspec.structs.replace(profile.runs[0], state="disturbed", reasons=("a burner",))
    text = render_html(msgspec.structs.replace(profile, runs=[run], gates=[], layers=None))
    assert "DISTURBED: a burner" in text
    assert "The machine was busy" in text
    assert "Roofline" not in text


def test_markdown_has_gates_and_figures(profile: Profile) -> None:
    text = render_markdown(profile)
    assert (
        "golden crops (12), a view of each: mpft screen judges larger pictures by several" in text
    )
    assert "❌ **fail** `p99<=9ms`" in text
    assert "| p50 | 9." in text or "| p50 | 10." in text
    assert "block 0 / attention / qkv" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(bars) == 1


def test_result_is_read_back_and_others_are_refused(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(msgspec.json.encode(profile))
    assert read_profile(path) == profile
    [key] = re.findall(rb'"latency_ms":{"min"', path.read_bytes())[:1]
    lacking = path.read_bytes().replace(key, key.replace(b"min", b"least"), 1)
    [run] = profile.runs
    altered = [
        msgspec.json.encode(profile).replace(*map(msgspec.json.encode, pair), 1)
        for pair in (
            (run.sample_ms, run.sample_ms[1:]),
            (run.sample_block, [len(run.blocks), *run.sample_block[1:]]),
            (run.sample_ms, [0.0 for _ in run.sample_ms]),
        )
    ]
    others = (b"{}", b"[]", b"\xff", b'{"kind": "profile", "version": 1}', lacking)
    for content in (*others, *altered):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"result\.json"):
            read_profile(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_profile(tmp_path / "absent.json")


def test_published_schema_is_current() -> None:
    published = ROOT / "docs" / "profile.schema.json"
    assert published.read_bytes() == json_schema(), (
        "write it again: python -c 'import sys; from mpft_deploy.profile.records import "
        "json_schema; sys.stdout.buffer.write(json_schema())' > docs/profile.schema.json"
    )


def test_history_is_in_order_with_changes(profile: Profile, tmp_path: Path) -> None:
    slower = [2 * ms for ms in profile.runs[0].sample_ms]
    figures = {
        name: msgspec.structs.replace(one, value=None if one.value is None else 2 * one.value)
        for name, one in profile.runs[0].latency_ms.items()
    }
    run = msgspec.structs.replace(profile.runs[0], sample_ms=slower, latency_ms=figures)
    later = msgspec.structs.replace(profile, runs=[run], created="2026-02-02T00:00:00+00:00")
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(later))
    (tmp_path / "b.json").write_bytes(msgspec.json.encode(profile))
    (tmp_path / "other.json").write_text('{"kind": "else"}')
    (tmp_path / "damaged.json").write_text('{"kind": "profile"}')
    entries, failures = read_history(tmp_path)
    first, second = rows(entries)
    assert (first.change, second.change) == (None, pytest.approx(1.0))
    assert [Path(row.file).name for row in (first, second)] == ["b.json", "a.json"]
    assert len(failures) == 1
    with pytest.raises(InputError, match="no result"):
        read_history(ROOT / "docs")


def test_icicle_widths_add_up_and_escape_names() -> None:
    found = layers()
    widths = [float(w) for w in re.findall(r'y="24" width="([\d.]+)"', icicle(found))]
    assert len(widths) == 3  # embedding, block 0, not attributed
    assert sum(widths) == pytest.approx(1000, abs=3)
    assert found.unattributed_ms == pytest.approx(0.5)


def test_roofline_says_what_bounds_a_layer() -> None:
    _, qkv, c_fc = layers().layers
    assert (qkv.bound, c_fc.bound) == ("arithmetic", "memory")
    # 2 Mflop at 2 GFLOP/s take 1 ms, and it took 2.
    assert qkv.attained == pytest.approx(0.5)
    assert c_fc.attained == pytest.approx(0.45)


def test_trace_nests_places() -> None:
    events = json.loads(chrome_trace(layers()))["traceEvents"]
    by_name = {event["name"]: event for event in events}
    block, part = by_name["block 0"], by_name["qkv"]
    assert block["ts"] <= part["ts"]
    assert part["ts"] + part["dur"] <= block["ts"] + block["dur"] + 1e-6
    assert block["dur"] == pytest.approx(4000)


def event(source: str, age: float) -> bytes:
    return msgspec.json.encode(
        FrameEvent(
            id="1",
            source=source,
            time=1.0,
            captured=0.5,
            age_ms=age,
            verdict="real",
            probability=0.1,
            logit=-1.0,
            stream_verdict="no sign",
            evidence=-1.0,
        )
    )


def test_streams_from_capture_to_verdict() -> None:
    lines = [event("door", 20 + n % 3) for n in range(60)] + [event("gate", 50.0)] * 20
    lines.insert(3, b'{"event": "source", "id": "2", "source": "door"}')
    door, gate = read_events(lines, "events")
    assert (door.source, door.frames, gate.frames) == ("door", 60, 20)
    assert door.latency_ms["p50"].value == pytest.approx(21)
    assert gate.latency_ms["p99"].value is None
    [once] = read_events([event("door", 5.0)], "events")
    assert {one.why for one in once.latency_ms.values()} == {
        f"too few samples: 1, needs {count}" for count in (5, 10, 29, 299, 2995)
    }
    for bad in ([b"no json"], [b'{"event": "frame"}'], []):
        with pytest.raises(InputError, match="events"):
            read_events(bad, "events")
