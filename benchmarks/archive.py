"""An archive of many files: killed, resumed, a worker lost; beside `mpft screen` on a folder.

    python benchmarks/archive.py BUNDLE DETECTOR [--files 10000] [--json OUT]

Needs the extra `ray`. Drawn JPEGs of 640 × 480 have many names each; of each file the centre is
judged. What is compared is CPU seconds of a file, which other work on the machine changes little:
with a tiny detector, what everything but the network takes.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from records import write_record
from samples import mosaic
from soak import slope
from turns import measured, provenance

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.profile import system

DISTINCT, WATCH_SECONDS = 200, 1.0
SCREEN = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()", "screen"]
OPTIONS = ("--views", "centre")


class Look(NamedTuple):
    """One process: the one that began it, its name, CPU seconds, and MB that are its own."""

    parent: int
    name: str
    seconds: float
    megabytes: float


class Tree:
    """A command and all that it started."""

    def __init__(self, *command: object, rows: Callable[[], int] = lambda: 0) -> None:
        self._rows = rows
        self._begin = time.monotonic()
        self._seconds: dict[int, float] = {}
        self.samples: list[dict[str, float]] = []
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def look(self) -> dict[int, Look]:
        """Its processes by id, which also become a sample."""
        all_ = dict(_processes())
        found = {self.process.pid}
        while more := {pid for pid, one in all_.items() if one.parent in found} - found:
            found |= more
        mine = {pid: all_[pid] for pid in found if pid in all_}
        self._seconds |= {pid: one.seconds for pid, one in mine.items()}
        memory = sum(one.megabytes for one in mine.values())
        now = {"time": time.monotonic(), "memory_mb": memory, "rows": self._rows()}
        self.samples.append(now)
        return mine

    def until(self, rows: float = math.inf) -> dict[int, Look]:
        """Watch until there are so many rows, or the command ends; its processes then."""
        while True:
            mine = self.look()
            if self.samples[-1]["rows"] >= rows:
                return mine
            if self.process.poll() is not None:
                self.ended()
                return mine
            time.sleep(WATCH_SECONDS)

    def ended(self) -> dict[str, Any]:
        """What it took, after its end."""
        assert self.process.stderr is not None
        told = self.process.stderr.read().decode(errors="replace")
        if self.process.returncode not in (0, -signal.SIGKILL):
            raise click.ClickException(f"exit code {self.process.returncode}: {told}")
        return {
            "seconds": time.monotonic() - self._begin,
            "cpu_seconds": sum(self._seconds.values()),
        }


def _processes() -> Iterator[tuple[int, Look]]:
    for path in Path("/proc").glob("[0-9]*"):
        stat, smaps = (system.read_text(path / name) for name in ("stat", "smaps_rollup"))
        if not stat:
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        shares = [int(line.split()[1]) for line in (smaps or "").splitlines() if line[:4] == "Pss:"]
        ticks = int(fields[11]) + int(fields[12])
        seconds = ticks / system.ticks_per_second()
        yield int(path.name), Look(int(fields[1]), name, seconds, sum(shares) * 1024 / 1e6)


def write_files(folder: Path, detector: Path, count: int) -> None:
    """So many names of DISTINCT pictures, a thousand in a folder."""
    crops = read_detector(detector).golden.crops
    for index in range(count):
        place = folder / f"{index // 1000:03}"
        place.mkdir(exist_ok=True)
        path, first = place / f"{index:08}.jpg", folder / "000" / f"{index % DISTINCT:08}.jpg"
        if index < DISTINCT:
            Image.fromarray(mosaic(crops, index)[:480, :640]).save(path, "JPEG", quality=90)
        else:
            os.link(first, path)


def written(results: Path) -> int:
    """How many rows there are."""
    return sum(pq.read_metadata(path).num_rows for path in results.glob("part-*.parquet"))


def archive(folder: Path, results: Path, bundle: Path, count: int) -> dict[str, Any]:
    """Kill a run at a fifth, go on, kill a worker at two fifths, and count rows.

    Memory is that of the second half.
    """
    command = [*SCREEN, "--archive", folder, "--out", results, "--bundle", bundle, *OPTIONS]
    first = Tree(*command, rows=lambda: written(results))
    first.until(count / 5)
    first.process.kill()
    first.process.wait()
    kept = written(results)
    second = Tree(*command, rows=lambda: written(results))
    workers = second.until(2 * count / 5)
    victim = max(
        (pid for pid, one in workers.items() if one.name.startswith("ray::Judge")),
        key=lambda pid: workers[pid].seconds,
    )
    os.kill(victim, signal.SIGKILL)
    second.until()
    tables = [pq.read_table(path) for path in results.glob("part-*.parquet")]
    paths = [path for table in tables for path in table["path"].to_pylist()]
    errors = sum(bool(error) for table in tables for error in table["error"].to_pylist())
    parts = [first.ended(), second.ended()]
    half = [one for one in second.samples if count / 2 <= one["rows"] < count]
    return {
        "rows": len(paths),
        "files": len(set(paths)),
        "errors": errors,
        "kept_when_killed": kept,
        "runs": parts,
        "cpu_ms_per_file": 1000 * sum(one["cpu_seconds"] for one in parts) / count,
        "memory_mb": float(np.median([one["memory_mb"] for one in half])),
        "memory_mb_per_hour": slope(half, "memory_mb"),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("detector", type=click.Path(path_type=Path, exists=True))
@click.option("--files", default=10_000, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(bundle: Path, detector: Path, files: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, results = Path(name, "files"), Path(name, "results")
        folder.mkdir()
        write_files(folder, detector, files)
        plain = Tree(*SCREEN, folder / "000", "--bundle", bundle, "--json", *OPTIONS)
        plain.until()
        some = len(list((folder / "000").iterdir()))
        took = plain.ended()
        found = archive(folder, results, bundle, files)
    ratio = found["cpu_ms_per_file"] / (1000 * took["cpu_seconds"] / some)
    record = {
        "benchmark": "archive",
        **provenance(),
        **measured(bundle),
        "requested": files,
        "folder": {"files": some, "cpu_ms_per_file": 1000 * took["cpu_seconds"] / some, **took},
        "archive": found,
        "cpu_ratio": ratio,
    }
    click.echo(f"{found['files']} files, {found['rows']} rows, {found['errors']} errors")
    click.echo(f"CPU of a file: {found['cpu_ms_per_file']:.1f} ms, {ratio:.2f} of a folder's")
    click.echo(f"memory: {found['memory_mb_per_hour']:+.1f} MB an hour")
    if out is not None:
        write_record(out, record)
    if found["rows"] != files or found["files"] != files:
        raise click.ClickException("a file has no row, or two")


if __name__ == "__main__":
    main()
