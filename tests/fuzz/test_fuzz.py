"""Readers of foreign bytes, fuzzed for some seconds each from the kept corpus; see fuzz.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import CORPUS, NATIVE, names, unpack, why_not

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("MPFT_FUZZ_SECONDS", "20"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", names())
def test_no_fault(name: str, tmp_path: Path) -> None:
    if reason := why_not(name):
        pytest.skip(reason)
    command = [sys.executable, str(HERE / "fuzz.py"), name, "--seconds", f"{SECONDS:g}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said[-4000:]
    assert "stat::number_of_executed_units" in said


@pytest.mark.slow
def test_a_fault_is_found(tmp_path: Path) -> None:
    """A window decoder that reads past its row."""
    if reason := why_not(NATIVE):
        pytest.skip(reason)
    source = (HERE.parents[1] / "kernels" / "jpeg_window" / "window.hpp").read_text()
    broken = source.replace("std::size_t(left - first) * 3", "std::size_t(left) * 3")
    assert broken != source
    (tmp_path / "window.hpp").write_text(broken)
    command = ["clang++", "-std=c++17", "-O1", "-fsanitize=fuzzer,address", f"-I{tmp_path}"]
    command += [str(HERE / "jpeg_window.cpp"), "-ljpeg", "-o", str(tmp_path / "fuzzer")]
    subprocess.run(command, check=True)
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    unpack(NATIVE, seeds)
    done = subprocess.run(
        [str(tmp_path / "fuzzer"), "-max_total_time=60", str(seeds)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def test_every_target_keeps_a_corpus() -> None:
    assert {path.stem for path in CORPUS.glob("*.zip")} == set(names())
