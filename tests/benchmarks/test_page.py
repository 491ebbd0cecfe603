"""The benchmark page is what the committed results give."""

from __future__ import annotations

import importlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("page")


def test_the_committed_page_is_drawn_from_the_committed_results(page: ModuleType) -> None:
    assert page.stale() == []


def row(name: str, p50: float) -> dict[str, object]:
    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 1, "high": value + 1}

    return {"name": name, "ms": {"p50": figure(p50), "p90": figure(2 * p50)}}


def suite(date: str, p50: float) -> dict[str, object]:
    target = {"name": "faster <than> peer", "value": 9.5, "limit": 8, "unit": "×", "why": ""}
    return {
        "benchmark": "suite",
        "version": 1,
        "device": {
            "processor": "Some CPU",
            "machine": "x86_64",
            "system": "Linux",
            "instructions": ["avx2", "avx512_vnni"],
        },
        "cores": 2,
        "commit": "abc",
        "weights": "0",
        "date": date,
        "disturbed": [],
        "failures": {"texture_patchify": "ended with exit code 1"},
        "sections": {
            "pipeline": {
                "threads": 2,
                "jpeg": "1080p",
                "rows": [row("all of *.c", 2 * p50), row("peer", 100)],
                "waterfall": [
                    {"step": "torch", "ms": 6 * p50},
                    {"step": "fewer <tokens>", "ms": 40},
                    {"step": "slower", "ms": 45},
                ],
                "decode": {"rows": [], "targets": [], "why_not": "no compiler"},
                "targets": [{**target, "at_least": True, "met": True}],
            },
            "keeps": {
                "threads": 2,
                "own": "textured:60",
                "float_layers": ["*.mlp.c_proj"],
                "rows": [
                    {"keep": keep, "ms": {"a fp32": row("", ms)["ms"], "b int8": row("", 5)["ms"]}}
                    for keep, ms in (("textured:60", 12), ("all", 40))
                ],
            },
            "engines": {
                "views": 60,
                "left_out": ["OpenVINO bf16: not here"],
                "ratios": [{"name": "of eager", "ratio": 5.0, "target": 15.0}],
                "results": [
                    {"name": "eager", "ms": {"p50": 60.0, "p90": 70.0}, "flips": None},
                    {"name": "few", "ms": {"p50": 30.0}, "flips": None},
                    {"name": "int8", "ms": {"p50": 12.0, "p90": 13.0}, "flips": 3, "size_mb": 67.1},
                ],
            },
        },
    }


def test_page_of_a_result(page: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "some-2core-2026-01-01.json").write_text(json.dumps(suite("2026-01-01", 50.0)))
    (results / "some-2core-2026-02-01.json").write_text(json.dumps(suite("2026-02-01", 10.0)))
    (results / "other.json").write_text('{"benchmark": "else"}')
    files = page.pages(results)
    assert set(files) == {"benchmarks.md", "images/benchmarks-some-2core.svg"}
    text = files["benchmarks.md"]
    assert "2026-02-01" in text
    assert "x86_64 with avx2, avx512_vnni, Linux" in text
    assert "2026-01-01" not in text
    assert "| peer | 100.00 (99.00 to 101.00) | 200.00 | 5.00 × |" in text
    assert "| all of \\*.c | 20.00 (19.00 to 21.00) | 40.00 | 1.00 × |" in text
    assert "| fewer <tokens> | 40.0 | 1.50 × | 1.50 × |" in text
    assert "| int8 | 12.00 | 13.00 | 5.0 × | 67 | 3 |" in text
    assert "| few | 30.00 | – | 2.0 × |" in text
    assert "of eager | 5 × | ≥ 15 × | **missed** |" in text
    assert "| faster <than> peer | 9.5 × | ≥ 8 × | met |" in text
    assert "| `textured:60` (the detector's own) | 12.00 | 5.00 |" in text
    assert "| `all` | 40.00 | 5.00 |" in text
    assert "Not measured: OpenVINO bf16: not here" in text
    assert "Not measured: no compiler" in text
    assert "texture_patchify was not measured" in text
    picture = ET.fromstring(files["images/benchmarks-some-2core.svg"])
    bars = [bar for bar in picture.iter() if bar.tag.endswith("rect")]
    assert [bar.get("class") for bar in bars] == ["base", "gain", "cost"]
    ends = [float(bar.get("x", "")) + float(bar.get("width", "")) for bar in bars]
    begins = [float(bar.get("x", "")) for bar in bars]
    assert ends[1] == pytest.approx(ends[0], abs=0.2)  # each goes on from the one above
    assert begins[2] == pytest.approx(begins[1], abs=0.2)
    page.draw_page(results, tmp_path / "docs")
    assert page.stale(results, tmp_path / "docs") == []
    (tmp_path / "docs" / "benchmarks.md").write_text(text.replace("12.00", "11.00"))
    assert page.stale(results, tmp_path / "docs") == ["benchmarks.md"]


def test_page_of_the_encoder_alone(page: ModuleType, tmp_path: Path) -> None:
    def times(p50: float) -> dict[str, object]:
        return {"p50": {"value": p50, "low": p50 - 1, "high": p50 + 1}}

    common = ("device", "cores", "commit", "weights", "date")
    record = {
        **{key: suite("2026-03-01", 1)[key] for key in common},
        "benchmark": "encoder",
        "threads": 2,
        "cells": 143,
        "errors": {"wide": {"mean": 0.0009, "largest": 0.0028}},
        "ms": {"wide": times(20), "peer": times(30)},
        "targets": [
            {"name": "batch", "value": 4, "limit": 3.5, "unit": "views", "at_least": False,
             "met": False, "why": "each alone"},
        ],
    }  # fmt: skip
    (tmp_path / "encoder-some-2core-2026-03-01.json").write_text(json.dumps(record))
    files = page.pages(tmp_path)
    text = files["benchmarks.md"]
    assert "| wide | 20.00 (19.00 to 21.00) | 1.00 × | 0.0009 | 0.0028 |" in text
    assert "| peer | 30.00 (29.00 to 31.00) | 1.50 × | – | – |" in text
    assert "| batch | 4 views | ≤ 3.5 views | **missed** |" in text
    assert "- batch: each alone." in text
    assert "quiet" not in text
    assert list(files) == ["benchmarks.md"]
    (tmp_path / "some-2core-2026-02-01.json").write_text(json.dumps(suite("2026-02-01", 10.0)))
    text = page.pages(tmp_path)["benchmarks.md"]
    assert "each alone" not in text  # a suite of the device has it
    assert "2026-02-01" in text


def test_page_without_results(page: ModuleType, tmp_path: Path) -> None:
    assert "run `make bench`" in page.pages(tmp_path)["benchmarks.md"]
