"""Contestants that take turns, A B A B, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpft_deploy.bundle import Device
from mpft_deploy.cores import available_cores
from mpft_deploy.profile.percentiles import intervals
from mpft_deploy.weights import decode

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "mpft-vit-b16"

PAUSE_SECONDS = 0.1
"""Between turns: an engine's threads spin for a while and would take the next one's cores."""

WARM_UP = 2


def take_turns(
    runs: Mapping[str, Callable[[Any], object]],
    inputs: Sequence[Any],
    *,
    rounds: int,
    turn: int,
) -> dict[str, list[float]]:
    """Milliseconds of each run on each of its inputs, in the order in which they were timed.

    Args:
        runs: by name; each is warmed up at the start of every turn.
        inputs: rotated, the same ones for all in a round.
        rounds: turns that each has.
        turn: queries in a turn.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    try:
        for round_ in range(rounds):
            chosen = [inputs[(round_ * turn + index) % len(inputs)] for index in range(turn)]
            for name, run in runs.items():
                time.sleep(PAUSE_SECONDS)
                for one in chosen[:WARM_UP]:
                    run(one)
                for one in chosen:
                    start = time.perf_counter_ns()
                    run(one)
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
    finally:
        gc.enable()
    return times


def figures(milliseconds: Sequence[float]) -> dict[str, Any]:
    """Percentiles with 95 % intervals, and the mean."""
    found = intervals(np.array(milliseconds), (50, 90))
    return {
        name: {"value": one.value, "low": one.low, "high": one.high}
        for name, one in found.items()
        if name != "sd"
    } | {"samples": len(milliseconds)}


def provenance() -> dict[str, Any]:
    """Device, cores, commit, day and command: what every result carries."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # of git, as on a machine that was lent for an hour
        commit = ""
    return {
        "device": msgspec.to_builtins(Device.here()),
        "cores": available_cores(),
        "commit": commit,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": shlex.join(["python", *map(_portable, sys.argv)]),
    }


def _portable(word: str) -> str:
    """A word of a command without where this checkout and the system's temporary folder are."""
    path = Path(word)
    for place in (ROOT, Path(tempfile.gettempdir())):
        if path.is_relative_to(place):
            parts = path.relative_to(place).parts
            return "/".join(parts if place == ROOT else parts[-1:])
    return word


def shipped() -> dict[str, str]:
    """What a result is of: the shipped detector's seal, and the hash of its weights, which a new
    card or calibration leaves as it is; and of its tower's alone, which decide of time and memory
    and are left as they are by a new head."""
    manifest = json.loads((SHIPPED / "detector.json").read_bytes())
    weights = manifest["files"]["weights.safetensors"]
    return {"detector": manifest["seal"], "weights": weights, "tower": tower(SHIPPED)}


@functools.cache
def tower(folder: Path) -> str:
    """Hash of a detector's blocks and of what stands before them."""
    digest = hashlib.sha256()
    stored = decode((folder / "weights.safetensors").read_bytes(), str(folder))
    for name in sorted(stored):
        if not name.startswith(("head.", "proj", "ln_post.")):
            digest.update(name.encode() + stored[name].tobytes())
    return digest.hexdigest()


def measured(folder: Path) -> dict[str, str]:
    """The same of any detector, or of the one that a bundle was made of, which names its seal."""
    ours, bundle = shipped(), folder / "bundle.json"
    manifest = json.loads((bundle if bundle.exists() else folder / "detector.json").read_bytes())
    seal = manifest["sources"]["detector_seal"] if bundle.exists() else manifest["seal"]
    return (
        ours
        if seal == ours["detector"]
        else {"detector": seal, "weights": "others", "tower": "others"}
    )


def target(
    name: str, value: float, limit: float, unit: str, *, at_least: bool, why: str = ""
) -> dict[str, Any]:
    """A figure beside the limit that it should keep, and why it does not, where that is known."""
    met = value >= limit if at_least else value <= limit
    sign = "≥" if at_least else "≤"
    print(f"{'met ' if met else 'LOST'}  {name}: {value:.3g} {unit}, {sign} {limit:g} {unit}")
    return {
        "name": name,
        "value": value,
        "limit": limit,
        "unit": unit,
        "at_least": at_least,
        "met": met,
        "why": "" if met else why,
    }
