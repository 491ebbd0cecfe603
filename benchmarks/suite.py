"""Every benchmark in one run: `make bench`. Writes results/DEVICE-DATE.json and draws the page.

    python benchmarks/suite.py BUNDLE [--images FOLDER] [--quick]

BUNDLE is one of the shipped detector, such as `make build/bundle/bundle.json` builds.

One that fails is told and the others still run; the exit code is then 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from page import DOCS, RESULTS, decisive, draw_page
from records import write_record
from samples import write_crops
from turns import measured, provenance

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.profile.disturbance import Watch

HERE = Path(__file__).resolve().parent
QUICK = HERE.parent / "build" / "quick"
DETECTOR = HERE.parent / "models" / "mpft-vit-b16"
VIEWS = 30  # p90 takes 29
LIMIT_SECONDS = 1200
QUIET_SECONDS = 2.0


def commands(bundle: Path, images: Path, out: Path, *, quick: bool) -> dict[str, list[str]]:
    """The benchmarks by name, each writing NAME.json into `out`."""
    every = {
        "pipeline": [str(DETECTOR), str(bundle), *(["--rounds", "3"] if quick else [])],
        "first_verdict": [str(bundle), str(DETECTOR)],
        "repeat": [str(bundle)],
        "texture_patchify": ["--callgrind"] if shutil.which("valgrind") and not quick else [],
        "encoder": [str(DETECTOR), *(["--rounds", "2"] if quick else ["--profile"])],
        "keeps": [str(DETECTOR), *(["--rounds", "3"] if quick else [])],
        "engines": [
            *(str(DETECTOR), str(images), str(bundle)),
            *("--views", str(10 if quick else VIEWS)),
        ],
    }
    return {
        name: [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", f"{out}/{name}.json"]
        for name, arguments in every.items()
    }


def disturbances() -> list[str]:
    """What else goes on here, over QUIET_SECONDS in which this process does nothing."""
    watch = Watch(threads=10**6)
    before = watch.look()
    time.sleep(QUIET_SECONDS)
    return list(watch.between(before, watch.look()).disturbed)


def slug(record: dict[str, Any]) -> str:
    """A file name of device and date."""
    words = re.sub(r"\(.*?\)|processor|cpu|@.*", "", record["device"]["processor"].lower())
    name = "-".join(re.findall(r"[a-z0-9]+", words)) or "unknown"
    parts = [name, decisive(record).lower(), f"{record['cores']}core", record["date"]]
    return "-".join(filter(None, parts)) + ".json"


def run(name: str, command: list[str]) -> str:
    """Run one benchmark, its output passed on; "" or why there is no result."""
    print(f"\n== {name}", flush=True)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"took longer than {LIMIT_SECONDS} s"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it, and whatever it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"ended with exit code {code}" if code else ""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images for engines.")
@click.option("--quick", is_flag=True, help="Few samples, into build/quick: do all parts run?")
def main(bundle: Path, images: Path | None, quick: bool) -> None:
    """Run every benchmark on BUNDLE and its peers."""
    record: dict[str, Any] = {"benchmark": "suite", "version": 1, **provenance()}
    record |= measured(bundle)
    if reasons := disturbances():
        print(f"warning: this machine is not quiet: {'; '.join(reasons)}", file=sys.stderr)
    record["disturbed"] = reasons
    record["sections"], record["failures"], record["seconds"] = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        load_engine(read_bundle(bundle))  # its self-test, if any, is not the first verdict's
        if images is None:
            images = scratch / "crops"
            images.mkdir()
            write_crops(DETECTOR, images)
        for part, command in commands(bundle, images, scratch, quick=quick).items():
            begin = time.perf_counter()
            failure = run(part, command)
            record["seconds"][part] = round(time.perf_counter() - begin)
            if failure:
                record["failures"][part] = failure
                print(f"error: {part} {failure}", file=sys.stderr)
            else:
                record["sections"][part] = json.loads((scratch / f"{part}.json").read_bytes())
    for part in record["sections"].values():
        for one in part.get("targets", []):
            print(f"{'met ' if one['met'] else 'LOST'}  {one['name']}: {one['value']:.3g}")
    results, docs = (QUICK / "results", QUICK / "docs") if quick else (RESULTS, DOCS)
    results.mkdir(parents=True, exist_ok=True)
    path = results / slug(record)
    write_record(path, record)
    draw_page(results, docs)
    print(f"written: {path} and {docs / 'benchmarks.md'}")
    sys.exit(1 if record["failures"] else 0)


if __name__ == "__main__":
    main()
