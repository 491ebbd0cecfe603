"""Every benchmark in one run: `make bench`. Writes results/DEVICE-DATE.json and draws the page.

    python benchmarks/suite.py [--images FOLDER] [--quick]

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
from page import draw_page
from samples import write_crops
from turns import provenance

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.files import write_atomic
from mpft_deploy.profile.disturbance import Watch

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DETECTOR = HERE.parent / "models" / "mpft-vit-b16"
VIEWS = 60
LIMIT_SECONDS = 900
QUIET_SECONDS = 2.0


def commands(
    bundle: Path, chosen: Path | None, images: Path, out: Path, *, quick: bool
) -> dict[str, list[str]]:
    """The benchmarks by name, each writing NAME.json into `out`; `chosen` as main's --bundle."""
    every = {
        "pipeline": [
            str(DETECTOR),
            *(["--bundle", str(chosen)] if chosen else []),
            *(["--rounds", "3"] if quick else []),
        ],
        "first_verdict": [str(bundle), str(DETECTOR)],
        "repeat": [str(bundle)],
        "texture_patchify": ["--callgrind"] if shutil.which("valgrind") and not quick else [],
        "engines": [
            *(str(DETECTOR), str(images), "--bundle", str(chosen or bundle)),
            *("--views", str(10 if quick else VIEWS)),
        ],
    }
    return {
        name: [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", f"{out}/{name}.json"]
        for name, arguments in every.items()
    }


def export(bundle: Path) -> None:
    """The bundle that the demo builds."""
    command = [sys.executable, "-c", "from mpft_deploy.cli.main import export_main; export_main()"]
    command += [str(DETECTOR), str(bundle), "--precision", "int8", "--float-layers", "block0.*"]
    command += ["--budget", "flips<=10%"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


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
    return f"{name}-{record['cores']}core-{record['date']}.json"


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
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images for engines.")
@click.option(
    "--bundle",
    "chosen",
    type=click.Path(path_type=Path, exists=True),
    help="An engine that was chosen, such as the winner of mpft-export --target cpu.",
)
@click.option("--quick", is_flag=True, help="Only to see that everything runs; writes no result.")
def main(images: Path | None, chosen: Path | None, quick: bool) -> None:
    """Run every benchmark."""
    record: dict[str, Any] = {"benchmark": "suite", "version": 1, **provenance()}
    if reasons := disturbances():
        print(f"warning: this machine is not quiet: {'; '.join(reasons)}", file=sys.stderr)
    record["disturbed"] = reasons
    record["sections"], record["failures"] = {}, {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        bundle = scratch / "bundle"
        print("exporting the bundle", flush=True)
        export(bundle)
        load_engine(read_bundle(bundle))  # its self-test, if any, is not the first verdict's
        if images is None:
            images = scratch / "crops"
            images.mkdir()
            write_crops(DETECTOR, images)
        for part, command in commands(bundle, chosen, images, scratch, quick=quick).items():
            if failure := run(part, command):
                record["failures"][part] = failure
                print(f"error: {part} {failure}", file=sys.stderr)
            else:
                record["sections"][part] = json.loads((scratch / f"{part}.json").read_bytes())
    for part in record["sections"].values():
        for one in part.get("targets", []):
            print(f"{'met ' if one['met'] else 'LOST'}  {one['name']}: {one['value']:.3g}")
    if not quick:
        path = RESULTS / slug(record)
        write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())
        draw_page()
        print(f"written: {path} and docs/benchmarks.md")
    sys.exit(1 if record["failures"] else 0)


if __name__ == "__main__":
    main()
