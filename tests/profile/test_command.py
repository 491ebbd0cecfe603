"""`mpft profile` as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from command import MPFT, Run
from media import encoded, picture

from mpft_deploy.profile.records import Profile

Command = Callable[..., Run]
Mpft = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Command:
    def call(*arguments: object) -> Run:
        done = subprocess.run(
            [*MPFT, "profile", *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr
        return Run(done.returncode, done.stdout, done.stderr)

    return call


QUICK = ("--samples", 20, "--limit", 1)


def test_result_and_reports(bundle: Path, tmp_path: Path, run: Command) -> None:
    out, html = tmp_path / "r.json", tmp_path / "r.html"
    markdown, trace = tmp_path / "r.md", tmp_path / "r.trace"
    reports = ("--out", out, "--html", html, "--markdown", markdown, "--trace", trace)
    done = run(
        bundle, *QUICK, "--scenario", "all", "--batch", "2,3", "--layers", *reports, "--json"
    )
    assert done.code == 0, done.err
    printed = msgspec.json.decode(done.out, type=Profile)
    assert printed == msgspec.json.decode(out.read_bytes(), type=Profile)
    settings = [(one.scenario, one.views, one.batch) for one in printed.runs]
    assert settings == [
        ("single-stream", 1, 1),
        ("multi-stream", 4, 4),
        ("offline", 2, 2),
        ("offline", 3, 3),
    ]
    assert [stage.name for stage in printed.runs[0].stages] == ["kernel", "engine", "calibration"]
    assert sum(stage.share for stage in printed.runs[0].stages) == pytest.approx(1)
    assert printed.layers is not None
    assert printed.layers.roof is not None
    assert {layer.path[0] for layer in printed.layers.layers} >= {"block 0", "block 1", "head"}
    assert html.read_text().startswith("<!doctype html>")
    assert "offline, batch 3" in markdown.read_text()
    assert json.loads(trace.read_bytes())["traceEvents"]
    listed = run("history", tmp_path, "--json")
    assert listed.code == 0
    assert [line["setting"].split(",")[0] for line in listed.lines] == [
        one.scenario for one in printed.runs
    ]


def test_image_files_are_decoded(bundle: Path, tmp_path: Path, run: Command) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.jpg").write_bytes(encoded(picture(seed=seed), "JPEG"))
    done = run(bundle, *QUICK, "--images", tmp_path, "--json")
    assert done.code == 0
    [line] = done.lines
    stages = [stage["name"] for stage in line["runs"][0]["stages"]]
    assert stages == ["decode", "crop", "kernel", "engine", "calibration"]
    assert line["subject"]["image_count"] == 3
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert run(bundle, *QUICK, "--images", tmp_path).code == 1


def test_marks_a_run_while_another_process_burns_a_core(bundle: Path, run: Command) -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = run(bundle, "--samples", 20, "--limit", 2, "--slo", "p50<=10s", "--json")
    finally:
        burner.kill()
        burner.wait()
    [line] = done.lines
    [measured] = line["runs"]
    assert measured["state"] == "disturbed"
    assert "other processes used some cores" in measured["reasons"]
    assert all("other processes used" in block["disturbed"][0] for block in measured["blocks"])
    assert line["gates"][0]["verdict"] == "undecided"
    assert done.code == 1


def test_gates_decide_the_exit_code(bundle: Path, tmp_path: Path, run: Command) -> None:
    # The limits are far from any machine's latency, and a busy one is undecided, never wrong.
    far = run(bundle, *QUICK, "--slo", "p50<=100s", "--json").lines[0]["gates"][0]
    assert far["verdict"] in ("pass", "undecided")
    near = run(bundle, *QUICK, "--slo", "p50<=1us", "--json")
    assert near.lines[0]["gates"][0]["verdict"] in ("fail", "undecided")
    assert near.code == 1
    # A p99.99 takes 29,956 samples: more than a few seconds give, on any machine.
    few = run(bundle, *QUICK, "--slo", "p99.99<=100s", "--json")
    [gate] = few.lines[0]["gates"]
    assert (gate["verdict"], few.code) == ("undecided", 1)
    assert "disturbed" in gate["reason"] or gate["more"] > 10_000
    old = tmp_path / "old.json"
    assert run(bundle, *QUICK, "--out", old).code == 0
    compared = run(bundle, *QUICK, "--compare", old, "--fail", "p50:900%", "--json")
    assert compared.lines[0]["gates"][0]["verdict"] in ("pass", "undecided")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--slo", "fast"), "p99<=15ms"),
        (("--fail", "p50:5%"), "--compare"),
        (("--trace", "t.json"), "--layers"),
        (("--batch", "1,x"), "1,2,4"),
        (("--threads", "-1"), "1,2,4"),
        (("--threads", "1,3000"), "3000 threads are not possible"),
        (("--limit", "nan"), "no finite number"),
        (("--limit", "inf"), "no finite number"),
        (("--html", "/nowhere/at/all.html"), "folder that exists"),
    ],
)
def test_wrong_usage(bundle: Path, mpft: Mpft, arguments: tuple[str, ...], words: str) -> None:
    code, _, said = mpft("profile", bundle, *arguments)
    assert code == 2
    assert words in said


def test_bad_input(bundle: Path, tmp_path: Path, mpft: Mpft) -> None:
    (tmp_path / "old.json").write_text("{}")
    code, _, said = mpft("profile", bundle, *QUICK, "--compare", tmp_path / "old.json")
    assert code == 1
    assert "no result of mpft profile" in said
    assert mpft("profile", "history", tmp_path)[0] == 1
