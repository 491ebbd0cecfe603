"""What is found of streams, by logits alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mpft_deploy.evaluate import streams
from mpft_deploy.evaluate.predictions import Header, Predictions, make_table, write_predictions
from mpft_deploy.evaluate.report import write_results
from mpft_deploy.evaluate.streams import PROMISES, SPANS, Streams, simulate
from mpft_deploy.spec import Calibration, HeldOut

IMAGES, GROUPS = 400, 10


def predicted(separation: float, error: float, **changed: Any) -> Predictions:
    """Images whose groups are off by `error`, and which a calibration knows to be so."""
    rng = np.random.default_rng(0)
    labels, group = np.arange(IMAGES) % 2, np.arange(IMAGES) // 2 % GROUPS
    offsets = rng.normal(0, error, (2, GROUPS))
    logits = (labels - 0.5) * separation + offsets[labels, group] + rng.normal(0, 1, IMAGES)
    held = HeldOut(
        separation=separation, error=error, spread=1.0, real=10, generated=10, images=IMAGES
    )
    header = Header(
        version=5,
        model="made up",
        calibration=Calibration(held_out=held),
        calibrated_keep="all",
        keeps=["all"],
        protocols=["raw", "jpeg-60", "h264-2-mbit"],
        images=IMAGES,
        key="",
        views="moving",
    )
    header = msgspec.structs.replace(header, **changed)
    columns: dict[str, list[Any]] = {name: [] for name in make_columns()}
    for protocol in header.protocols:
        for number in range(IMAGES):
            row = make_columns() | {
                "sha256": f"{number:064x}",
                "path": f"{number}.png",
                "label": int(labels[number]),
                "set": "set",
                "generator": f"maker {group[number]}" if labels[number] else "",
                "source": f"source {group[number]}",
                "protocol": protocol,
                "keep": "all",
                "logit": float(logits[number]),
                "probability": 0.5,
            }
            for name, value in row.items():
                columns[name].append(value)
    return Predictions(header, make_table(columns))


def make_columns() -> dict[str, Any]:
    """An empty row."""
    numbers = dict.fromkeys(("width", "height", "bytes", "quality", "shrink"), 1)
    return {
        **dict.fromkeys(("sha256", "pixels", "path"), ""),
        "label": 0,
        **dict.fromkeys(("set", "generator", "source", "protocol", "keep", "reason"), ""),
        "logit": 0.0,
        "probability": 0.5,
        **numbers,
        "format": "PNG",
    }


def by(found: list[Streams]) -> dict[tuple[str, str, str], Streams]:
    return {(one.protocol, one.promise, one.span): one for one in found}


def test_what_is_found_falls_with_what_is_promised() -> None:
    found = simulate(predicted(separation=5.0, error=0.8))
    told = by(found)
    assert {one.protocol for one in found} == {"raw", "h264-2-mbit"}
    for span in SPANS:
        shares = [told["raw", promise, span].found for promise in PROMISES]
        assert shares == sorted(shares, reverse=True)
        alarms = [told["raw", promise, span].alarmed for promise in PROMISES]
        assert alarms == sorted(alarms, reverse=True)
        assert alarms[-1] == 0.0
    # An hour takes less evidence than a month, ten minutes give more than 30 seconds.
    assert told["raw", "1h", "10m"].found == 1.0
    assert told["raw", "30d", "10m"].found > told["raw", "30d", "30s"].found
    assert 0.0 < told["raw", "30d", "10m"].found < 1.0


def test_groups_that_are_off_cannot_be_outwaited() -> None:
    lines: list[str] = []
    told = by(simulate(predicted(separation=3.0, error=1.2, protocols=["raw"]), lines.append))
    assert lines == ["streams by protocol raw, 1 of 1"]
    assert told["raw", "30d", "10m"].found == 0.0


@pytest.mark.parametrize("changed", [{"views": "three"}, {"calibration": Calibration()}])
def test_nothing_is_said_of_other_views_or_without_a_measure(changed: dict[str, Any]) -> None:
    assert simulate(predicted(separation=5.0, error=0.8, **changed)) == []


def test_it_is_in_every_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS", 8)
    predictions = predicted(separation=5.0, error=0.8, protocols=["raw", "aligned"])
    write_predictions(tmp_path / "predictions.parquet", predictions.header, [predictions.table])
    _, returned, tables = write_results(predictions, tmp_path, tmp_path)
    shown = next(table for table in tables if table.title == "Streams, keep all")
    assert shown.brief
    assert [row[:2] for row in shown.rows] == [
        [protocol, promise] for protocol in ("raw", "aligned") for promise in PROMISES
    ]
    assert shown.rows[0][4] == "100.0"
    assert "## Streams, keep all" in (tmp_path / "tables.md").read_text()
    assert "Streams, keep all" in (tmp_path / "report.html").read_text()
    written = json.loads((tmp_path / "metrics.json").read_bytes())["streams"]
    assert msgspec.convert(written, list[Streams]) == simulate(predictions) == returned
