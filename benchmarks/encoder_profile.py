"""Where the network in integers spends its time, and how many instructions a view takes.

    python benchmarks/encoder_profile.py DETECTOR [--json OUT]

Instructions are counted by valgrind, one thread and one view, so they are the same on a busy
machine. Shares of the time are perf's. Both run a driver that is built here, of each version that
this processor has; valgrind knows no AVX-512.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from records import write_record
from turns import measured, provenance

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.kernels import Patches, texture_patchify
from mpft_deploy.kernels.encoder import VERSIONS, make_network
from mpft_deploy.kernels.encoder.packing import Packed, pack, unpack

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kernels"))

import native_library  # noqa: E402  # lies with the tests that use it too
from encoder_cases import Case  # noqa: E402

WIDE = {"narrow": (), "wide": ("qkv", "out", "fc", "proj")}


def profile(packed: Mapping[str, Packed], cut: Patches, work: Path) -> dict[str, Any]:
    """Shares of the time, by perf, and instructions of a view, by callgrind, of one thread."""
    project = ROOT / "tests" / "kernels" / "encoder" / "native"
    flags = {"CMAKE_BUILD_TYPE": "Release", "CMAKE_CXX_FLAGS": "-g"}
    driver = native_library.build(work / "driver", "driver", project, **flags) / "driver"
    found: dict[str, Any] = {}
    for name, network in packed.items():
        views = {count: (cut.patches[:count], cut.positions[:count]) for count in (1, 8)}
        cases = {
            count: Case(unpack(network), *cells, 1, np.zeros(0, np.float32)).packed()
            for count, cells in views.items()
        }
        compiled = (one for one in VERSIONS if one.device == "cpu" and one.name != "numpy")
        for version in (one for one in compiled if one.why_not() is None):
            row: dict[str, Any] = {}
            if shutil.which("perf") and version.name != "scalar":
                row["shares"] = shares(driver, version.name, cases[8], work)
            if shutil.which("valgrind") and version.name != "avx512":
                row["instructions"] = instructions(driver, version.name, cases[1])
            found[f"{name}, {version.name}"] = row
            print(f"profile of {name}, {version.name}: {row}", flush=True)
    return found


def shares(driver: Path, version: str, case: bytes, work: Path) -> dict[str, float]:
    """Of the time of a forward pass: matmuls, attention, and all else."""
    data = work / "perf.data"
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-o", data, driver, version]
    subprocess.run(record, input=case, capture_output=True, check=True)
    report = ["perf", "report", "-i", data, "--stdio", "-q", "--no-children", "-F", "overhead,sym"]
    listing = subprocess.run(report, capture_output=True, text=True, check=True).stdout
    sums = {"matmuls": 0.0, "attention": 0.0, "else": 0.0}
    for line in listing.splitlines():
        if "mpft::encoder" not in line or "Reading" in line:
            continue  # reading the case, and preparing
        part = "matmuls" if "tile" in line else "attention" if "attend" in line else "else"
        sums[part] += float(line.split("%")[0])
    total = sum(sums.values())
    return {part: value / total for part, value in sums.items()}


def instructions(driver: Path, version: str, case: bytes) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    toggle = "--toggle-collect=mpft::encoder::Pool::run(*"
    done = subprocess.run([*command, toggle, driver, version], input=case, capture_output=True)
    collected = re.search(rb"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or collected is None:
        sys.exit(f"FAILED: callgrind on {version}:\n{done.stderr.decode()}")
    return int(collected[1])


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(detector: Path, json_path: Path | None) -> None:
    """Profile DETECTOR's network in integers."""
    folder = read_detector(detector)
    spec, crops = folder.spec, folder.golden.crops[:8]
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    packed = {
        name: pack(make_network(spec, folder.stored, wide=wide)) for name, wide in WIDE.items()
    }
    with tempfile.TemporaryDirectory() as work:
        profiles = profile(packed, cut, Path(work))
    if json_path is not None:
        what = {"benchmark": "encoder-profile", "cells": cut.positions.shape[1]}
        record = {**what, **provenance(), **measured(detector), "profiles": profiles}
        write_record(json_path, record)


if __name__ == "__main__":
    main()
