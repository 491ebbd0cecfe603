"""The GPU suite walks all its sections on a simulated device, and finds a difference there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import simulated_gpu

from mpft_deploy import kernels
from mpft_deploy.engine.cuda import facts
from mpft_deploy.errors import EnvironmentLacksError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_suite")


def test_a_dry_run_walks_every_section_and_is_drawn(
    suite: ModuleType, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated_gpu.install(monkeypatch)
    output = tmp_path / "gpu-simulated-2026-01-01.json"
    code = suite.run(detector, output, dry=True)
    record: dict[str, Any] = json.loads(output.read_text())
    assert record["failures"] == {}
    assert (code, record["sections"]["equality"]["different"]) == (0, [])
    sections = importlib.import_module("gpu_sections")
    assert list(record["sections"]) == list(sections.SECTIONS)
    assert record["sections"]["tensorrt"] == {"not_measured": "dry run"}
    assert {row["batch"] for row in record["sections"]["stages"]} == {1, 2, 3}
    assert {row["batch"] for row in record["sections"]["peers"]["rows"]} == {1, 2, 3}
    assert record["gpu"]["gpu"] == "Orin"
    names = [one["name"] for one in record["targets"]]
    assert names[0] == "host frame to verdict, batch 1, p50"
    assert "of compiled, all tokens" in names
    page = importlib.import_module("page")
    text = page.pages(tmp_path)["benchmarks.md"]
    assert "GPUs: not measured" in text, "a dry run is no measurement"
    output.write_text(json.dumps({**record, "dry": False}))
    text = page.pages(tmp_path)["benchmarks.md"]
    assert "## Orin" in text
    assert "| device view to logit | wide | 2 |" in text
    assert "TensorRT, float16: not measured: dry run" in text
    record["sections"]["peers"]["different"] = ["PyTorch: a logit"]
    record["failures"] = {"soak": "no time was left", "peers": "told in its place"}
    output.write_text(json.dumps({**record, "dry": False}))
    text = page.pages(tmp_path)["benchmarks.md"]
    assert "- PyTorch: a logit\n" in text
    assert "**soak was not measured**: no time was left." in text
    assert "told in its place" not in text, "it was measured"


def test_a_difference_in_a_bit_is_found(
    suite: ModuleType, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = simulated_gpu.install(monkeypatch)
    sections = importlib.import_module("gpu_sections")
    monkeypatch.setattr(sections, "SECTIONS", {"equality": sections.equality})
    make = gpu.kernels.mpft_encoder_make

    def mutant(*arguments: Any) -> int:
        status: int = make(*arguments)
        encoder = gpu.kernels.encoders[arguments[-1]._obj.value]
        run = encoder.logits
        encoder.logits = lambda *inputs: np.nextafter(  # type: ignore[method-assign]
            run(*inputs), np.float32(np.inf)
        )
        return status

    gpu.kernels.mpft_encoder_make = mutant
    output = tmp_path / "result.json"
    assert suite.run(detector, output, dry=True) == 1
    found = json.loads(output.read_text())["sections"]["equality"]["different"]
    assert [line.partition(":")[0] for line in found[:4]] == [
        *("logits wide", "logits wide", "logits narrow", "logits narrow")
    ]
    assert sum("on the device" in line for line in found) == 3


def test_a_section_that_dies_or_hangs_is_told(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program := tmp_path / "python").write_text("#!/bin/sh\necho a fault >&2; kill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert suite._apart("latency", tmp_path / "out") == "ended with code -9: a fault"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(suite, "SECONDS", time.perf_counter() - suite.BEGIN + 0.3)
    assert suite._apart("latency", tmp_path / "out") == "no time was left"


def test_a_section_that_fails_is_no_fault_of_the_next(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by the command that another process of the suite runs."""
    sections = importlib.import_module("gpu_sections")
    output = tmp_path / "result.json"

    def fail(bench: object) -> dict[str, Any]:
        raise RuntimeError("a fault")

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            try:
                code, told = suite.main(), ""
            except SystemExit as error:
                code, told = 1, str(error)
        return subprocess.CompletedProcess(command, code, "", told)

    stubs = {"first": fail, "second": lambda bench: {"different": ["a bit"]}, "third": lambda _: {}}
    monkeypatch.setattr(sections, "SECTIONS", stubs)
    monkeypatch.setattr(sections, "targets", lambda found: [])
    monkeypatch.setattr(importlib.import_module("gpu_bench"), "Bench", lambda *_: None)
    monkeypatch.setattr(
        suite, "subprocess", types.SimpleNamespace(**{**vars(subprocess), "run": run})
    )
    monkeypatch.setattr(kernels, "__path__", kernels.__path__)
    simulated_gpu.install(monkeypatch)
    assert suite.run(suite.ROOT / "models" / "mpft-vit-b16", output, dry=False) == 1
    record = json.loads(output.read_text())
    assert record["failures"] == {"first": "ended with code 1: RuntimeError: a fault"}
    assert list(record["sections"]) == ["second", "third"]


def test_without_a_gpu_it_says_so() -> None:
    try:
        facts()
    except EnvironmentLacksError as error:
        reason = str(error)
    else:
        pytest.skip("there is a CUDA device here")
    command = [sys.executable, str(BENCHMARKS / "gpu_suite.py")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 3
    assert run.stderr == f"gpu-suite: {reason}\n"
