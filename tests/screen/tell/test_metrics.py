"""Metrics as Prometheus reads them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dashboard_demo import DemoMonitor, demo_sources
from dashboard_demo import region as demo_region
from msgspec import structs
from telling import frame_event, source_event, stream_event

from mpft_deploy.screen.streams.records import SourceStatus
from mpft_deploy.screen.tell.config import Http, Jsonl, TellConfig
from mpft_deploy.screen.tell.jsonl import JsonLines
from mpft_deploy.screen.tell.metrics import Metrics, PrometheusMetrics, open_metrics

parser = pytest.importorskip("prometheus_client.parser")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: bytes) -> Samples:
    """Name and labels → value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_without_http_nothing_is_kept() -> None:
    metrics = open_metrics(TellConfig())
    assert type(metrics) is Metrics
    metrics.observe_stage("engine", 0.1)
    metrics.observe_batch(3)
    assert isinstance(open_metrics(TellConfig(http=Http())), PrometheusMetrics)


def test_everything_is_there_once(tmp_path: Path) -> None:
    monitor = DemoMonitor(demo_sources(3))
    monitor.step(1.7e9)
    last = list(monitor.sources)[-1]
    monitor.sources[last].dropped = {"decoder error": 7}
    monitor.sources[last].reconnects = 2
    monitor.change(last, "down", "connection refused", 1.7e9)
    sink = JsonLines(Jsonl(path=str(tmp_path / "events.jsonl")))
    metrics = PrometheusMetrics()
    metrics.watch(monitor, [sink], {"backend": "onnxruntime", "precision": "int8"})
    metrics.observe_stage("engine", 0.02)
    metrics.observe_stage("engine", 0.3)
    metrics.observe_batch(4)
    for event in (frame_event(1), frame_event(2), stream_event(3), source_event(4)):
        metrics.observe_event(event)
        sink.send(event)
    sink.close(2)
    found = samples(metrics.text())
    for status in monitor.statuses():
        for name in ("received", "screened", "gated"):
            count = value(found, f"mpft_frames_{name}_total", source=status.source)
            assert count == getattr(status, name)
    assert value(found, "mpft_frames_dropped_total", source=last, cause="decoder error") == 7
    assert value(found, "mpft_reconnects_total", source=last) == 2
    assert value(found, "mpft_source_state", source=last, state="down") == 1
    assert value(found, "mpft_source_state", source=last, state="live") == 0
    assert value(found, "mpft_stage_seconds_count", stage="engine") == 2
    assert value(found, "mpft_stage_seconds_bucket", stage="engine", le="0.025") == 1
    assert value(found, "mpft_batch_frames_sum") == 4
    assert value(found, "mpft_frame_age_at_verdict_seconds_count") == 2
    assert value(found, "mpft_frame_age_at_verdict_seconds_bucket", le="0.1") == 0
    assert value(found, "mpft_frame_age_at_verdict_seconds_bucket", le="0.2") == 2
    assert value(found, "mpft_verdicts_total", source="gate", verdict="real") == 2
    assert value(found, "mpft_stream_verdicts_total", source="gate", verdict="generated") == 1
    assert value(found, "mpft_sink_delivered_total", sink="jsonl") == 4
    assert value(found, "mpft_sink_waiting", sink="jsonl") == 0
    assert value(found, "mpft_sink_disk_bytes", sink="jsonl") > 0
    assert value(found, "mpft_alive") == value(found, "mpft_ready") == 1
    info = [dict(labels) for name, labels in found if name == "mpft_engine_info"]
    assert info[0]["backend"] == "onnxruntime"


def test_two_screeners_in_one_process_count_apart() -> None:
    one, other = PrometheusMetrics(), PrometheusMetrics()
    one.observe_batch(5)
    assert value(samples(one.text()), "mpft_batch_frames_count") == 1
    assert value(samples(other.text()), "mpft_batch_frames_count") == 0


def test_a_source_that_is_removed_leaves_no_series() -> None:
    monitor = DemoMonitor(demo_sources(1, generated=0, down=0))
    metrics = PrometheusMetrics()
    metrics.watch(monitor, [], {})
    for source in ("gone", "stays"):
        for event in (frame_event(1, source), frame_event(2, source, verdict="unsure")):
            metrics.observe_event(event)
        metrics.observe_event(stream_event(3, source))
    before = samples(metrics.text())
    metrics.observe_event(source_event(4, "gone", state="removed", previous="live"))
    after = samples(metrics.text())
    gone = {key for key in before if ("source", "gone") in key[1]}
    assert {name.removesuffix("_created").removesuffix("_total") for name, _ in gone} == {
        "mpft_verdicts",
        "mpft_stream_verdicts",
    }
    assert before.keys() - after.keys() == gone
    metrics.observe_event(frame_event(5, "gone"))  # another of that name
    assert value(samples(metrics.text()), "mpft_verdicts_total", source="gone", verdict="real") == 1


def test_regions_have_series_of_their_own() -> None:
    metrics = PrometheusMetrics()
    for region in ("left", "right"):
        metrics.observe_event(frame_event(1, region=region))
        metrics.observe_event(stream_event(2, region=region))
    metrics.observe_event(source_event(3, region="left", state="removed", previous="live"))
    found = samples(metrics.text())
    labels = {"source": "gate/right", "verdict": "generated"}
    assert value(found, "mpft_stream_verdicts_total", **labels) == 1
    assert not [key for key in found if ("source", "gate/left") in key[1]]


def test_drift_shows_for_each_stream() -> None:
    class Drifting(DemoMonitor):
        def statuses(self) -> list[SourceStatus]:
            [one] = super().statuses()
            left = structs.replace(demo_region("left", (0, 0, 0.5, 1), "unsure", 0.0), drifted=True)
            return [structs.replace(one, source="gate", regions=(left,))]

    metrics = PrometheusMetrics()
    metrics.watch(Drifting(demo_sources(1, generated=0, down=0)), [], {})
    found = samples(metrics.text())
    assert value(found, "mpft_drifted", source="gate") == 0
    assert value(found, "mpft_drifted", source="gate/left") == 1


def test_events_that_were_lost_show() -> None:
    class Losing(DemoMonitor):
        lost_events = 7  # type: ignore[assignment]

    metrics = PrometheusMetrics()
    metrics.watch(Losing(demo_sources(1, generated=0, down=0)), [], {})
    assert value(samples(metrics.text()), "mpft_events_lost_total") == 7


MONITORING = Path(__file__).resolve().parents[3] / "deploy" / "monitoring"


def expressions() -> list[str]:
    """Of the alert rules and of the dashboard, with its variables filled in."""
    yaml = pytest.importorskip("yaml")
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    board = json.loads((MONITORING / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found = [rule["expr"] for rule in group["rules"]] + queries
    assert len(found) > 20
    return [re.sub(r"\$(instance|source)\b", ".*", one) for one in found]


def test_alerts_and_dashboard_ask_for_what_there_is(tmp_path: Path) -> None:
    monitor = DemoMonitor(demo_sources(2))
    monitor.step(1.7e9)
    next(iter(monitor.sources.values())).dropped = {"overload": 7}
    lossy = JsonLines(Jsonl(path=str(tmp_path / "events.jsonl")))
    lossy.close(1)
    lossy.send(source_event(1))  # is counted as lost
    metrics = PrometheusMetrics()
    metrics.watch(monitor, [lossy], {})
    for event in (frame_event(1), stream_event(2)):
        metrics.observe_event(event)
    metrics.observe_stage("engine", 0.1)
    exported: dict[str, set[str]] = {}
    for name, labels in samples(metrics.text()):
        exported.setdefault(name, {"instance", "job"}).update(dict(labels))
    for text in expressions():
        selectors = re.findall(r"(mpft_\w+)(?:\{(.*?)\})?", text)
        assert selectors or text.startswith("up{"), text
        for name, matchers in selectors:
            assert name in exported, text
            assert set(re.findall(r"(\w+)(?:=|!)", matchers)) <= exported[name], text
        grouped = re.findall(r"by \((.*?)\)", text)
        names = {label for labels in grouped for label in labels.split(", ")}
        assert names <= set().union(*(exported[name] for name, _ in selectors)), text


def test_prometheus_finds_nothing_wrong(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    rules = [{"record": f"r{number}", "expr": one} for number, one in enumerate(expressions())]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    for path in (MONITORING / "alerts.yml", tmp_path / "rules.json"):
        done = subprocess.run(
            [promtool, "check", "rules", str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
