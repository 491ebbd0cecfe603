"""What a stream's verdict promises, simulated: false alarms, misses, and what is found how soon.

    python examples/stream_promises.py measure
    python examples/stream_promises.py draw

Log odds of both classes are normal, calibrated, and as far apart as the detector's AUC says. A
share of their variance is an offset of the camera; the rest is a first-order autoregression with
some time constant, begun anew at each cut. What pictures of one scene are worth is asked of the
kernel: walls and textures with a sensor's noise. `measure` simulates all, without images, into
benchmarks/results and docs/streams.md; `draw` prints what it writes there. A quick version of the
promises is among the tests.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.detector_folder import read_spec
from mpft_deploy.files import write_atomic
from mpft_deploy.fitness import FLAT, bounded_crop, has_texture
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen.streams.baseline import Baseline, learn
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.runs import movement
from mpft_deploy.screen.streams.settings import DecisionSettings, seconds
from mpft_deploy.spec import Calibration, HeldOut, KeepRule

AUC = {0.760: 1.0, 0.841: 2.0, 0.921: 4.0, 0.958: 6.0}
"""Of single frames, with the distance of the classes' mean log odds that makes it."""

PICTURES = np.random.default_rng(0).integers(0, 1000, (64, 16)).astype(np.int32)
"""Texture scores of pictures of which no two are alike."""

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "mpft-vit-b16"
RESULT = ROOT / "benchmarks" / "results" / "stream_promises.json"
DOCS = ROOT / "docs" / "streams.md"
BEGIN, END = "<!-- promises: begin -->\n", "<!-- promises: end -->"

OFTEN = DecisionSettings(false_alarms="10h", misses="10h", patience="1m")
"""Promises that can be broken within the time that is simulated."""


@dataclass(frozen=True)
class Scenario:
    """A kind of stream.

    auc: of single frames.
    camera: share of the variance that is an offset of the camera.
    constant: time constant of the rest, in seconds.
    cut: seconds from one cut to the next; 0 for none.
    drift: log odds by which the exposure moves both ways within an hour.
    fps: frames a second that are judged.
    """

    auc: float = 0.921
    camera: float = 0.3
    constant: float = 10.0
    cut: float = 0.0
    drift: float = 0.0
    fps: float = 1.0

    @property
    def calibration(self) -> Calibration:
        """Of a detector that is just as good as it says, with a threshold for few false alarms."""
        distance = AUC[self.auc]
        held = HeldOut(
            separation=distance,
            error=math.sqrt(self.camera * distance),
            spread=self.spread,
            real=20,
            generated=20,
            images=1000,
        )
        return Calibration(threshold=0.766, unsure=(0.7, 0.8), held_out=held)

    @property
    def means(self) -> tuple[float, float]:
        """Of the log odds of real and of generated frames."""
        return -AUC[self.auc] / 2, AUC[self.auc] / 2

    @property
    def spread(self) -> float:
        """Standard deviation of the log odds of a camera's frames."""
        return math.sqrt((1 - self.camera) * AUC[self.auc])

    def offset(self, rng: np.random.Generator) -> float:
        """Of a camera."""
        return float(rng.normal(0, math.sqrt(self.camera * AUC[self.auc])))

    def log_odds(
        self, rng: np.random.Generator, generated: bool, offset: float, hours: float
    ) -> npt.NDArray[np.float64]:
        """Of the frames of one stream, f64 [n]."""
        count = int(hours * 3600 * self.fps)
        keep = math.exp(-1 / (self.fps * self.constant))
        steps = rng.normal(0, math.sqrt(1 - keep * keep), count)
        every = max(1, round(self.cut * self.fps)) if self.cut else count
        values, value = np.empty(count), 0.0
        for index, step in enumerate(steps.tolist()):
            value = rng.normal() if index % every == 0 else keep * value + step
            values[index] = value
        wave = self.drift * np.sin(
            2 * math.pi * (np.arange(count) / self.fps / 3600 + rng.random())
        )
        return self.means[generated] + offset + wave + self.spread * values


@dataclass(frozen=True)
class Shipped(Scenario):
    """The shipped detector, on cameras that scatter as groups do which it never saw.

    constant: time constant of a camera's frames, of which held-out images say nothing.
    """

    @property
    def calibration(self) -> Calibration:
        """Of its streams, for log odds in the place of its logits."""
        spec = read_spec(SHIPPED)
        return msgspec.structs.replace(spec.stream or spec.calibration, shift=0.0, scale=1.0)

    @property
    def held_out(self) -> HeldOut:
        """What it is worth on held-out images."""
        held = self.calibration.held_out
        assert held is not None, "the shipped detector was measured"
        return held

    @property
    def means(self) -> tuple[float, float]:
        """Of the log odds of real and of generated frames."""
        return -self.held_out.separation / 2, self.held_out.separation / 2

    @property
    def spread(self) -> float:
        """Of a camera's frames."""
        return self.held_out.spread

    def offset(self, rng: np.random.Generator) -> float:
        """Of a camera."""
        return float(rng.normal(0, self.held_out.error))


def verdicts(
    scenario: Scenario,
    log_odds: npt.NDArray[np.float64],
    settings: DecisionSettings,
    baseline: Baseline | None = None,
    regions: int = 1,
) -> Iterator[tuple[float, str]]:
    """Second and verdict of each change; regions: of its source, of which this is one."""
    stream = StreamDecision(settings, scenario.calibration, baseline, regions)
    for index, value in enumerate(log_odds.tolist()):
        for change in stream.add(value, PICTURES[index % 64], index / scenario.fps):
            yield index / scenario.fps, change.verdict


def taught(scenario: Scenario, rng: np.random.Generator, offset: float) -> Baseline:
    """What an hour of known-real frames of a camera teaches."""
    values = scenario.log_odds(rng, False, offset, 1.0)
    frames = [(index / scenario.fps, value) for index, value in enumerate(values.tolist())]
    return learn(frames, scenario.calibration, "simulated", 0.0)


def count(
    scenario: Scenario,
    settings: DecisionSettings,
    *,
    streams: int,
    hours: float,
    teach: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Alarms and misses of some streams, and what was found within their time, with the median of
    the minutes that it took (None if nothing was)."""
    rng = np.random.default_rng(seed)
    alarms = misses = found = clear = 0
    times = []
    for _ in range(streams):
        offset = scenario.offset(rng)
        baseline = taught(scenario, rng, offset) if teach else None
        real = scenario.log_odds(rng, False, offset, hours)
        generated = scenario.log_odds(rng, True, offset, hours)
        told = [verdict for _, verdict in verdicts(scenario, real, settings, baseline)]
        alarms += told.count("generated")
        clear += "no sign" in told
        changes = list(verdicts(scenario, generated, settings, baseline))
        misses += [verdict for _, verdict in changes].count("no sign")
        first = [when for when, verdict in changes if verdict == "generated"]
        found += bool(first)
        times += first[:1]
    return {
        "alarms": alarms,
        "allowed": streams * hours * 3600 / seconds(settings.false_alarms),
        "misses": misses,
        "missable": streams * hours * 3600 / seconds(settings.misses),
        "found": found / streams,
        "minutes": float(np.median(times)) / 60 if times else None,
        "no sign": clear / streams,
    }


def scenes() -> dict[str, npt.NDArray[np.float64]]:
    """Pictures f64 [224, 224, 3] of what does not move."""
    blocks = np.random.default_rng(0).integers(40, 216, (28, 28, 3))
    return {
        "grey wall": np.full((224, 224, 3), 120.0),
        "lit wall": np.broadcast_to(np.linspace(60, 200, 224)[:, None], (224, 224, 3)),
        "covered lens": np.full((224, 224, 3), 2.0),
        "textured scene": np.kron(blocks, np.ones((8, 8, 1))),
    }


def still(
    picture: npt.NDArray[np.float64], noise: float, length: int = 3600
) -> tuple[float, float, float, list[str]]:
    """A picture that stays, with a sensor's noise, and that the detector calls generated.

    Args:
        picture: f64 [224, 224, 3].
        noise: standard deviation in grey levels.
        length: seconds.

    Returns:
        How far two of its frames move apart at most, the share of frames that are judged, the
        independent frames that they are worth at most, and the verdicts of the stream.
    """
    rng, crop = np.random.default_rng(0), bounded_crop(224)
    noisy = picture + rng.normal(0, noise, (32, *picture.shape))
    frames = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    scores = texture_patchify(frames, 16, KeepRule("all")).scores
    judged = has_texture(crop, frames, scores, 16)
    moved = max(movement(one, other) for one, other in pairwise(scores))
    stream = StreamDecision(OFTEN, Scenario(0.958).calibration)
    told, worth = [], 0.0
    for index, value in enumerate(rng.normal(3, 2, length).tolist()):
        reason = "" if judged[index % 32] else FLAT
        told += stream.add(value, scores[index % 32], float(index), reason)
        worth = max(worth, stream.independent)
    return moved, float(judged.mean()), worth, [one.verdict for one in told]


LONGER = 8
"""Times as long, for what takes longer to be found."""

KINDS = (
    *(Scenario(camera=0.0, constant=constant) for constant in (0.2, 1, 3, 10, 30)),
    *(Scenario(camera=camera, constant=0.2) for camera in (0.1, 0.3, 0.6)),
    *(Scenario(camera=0.3, constant=constant) for constant in (10, 600)),
    Scenario(camera=0.6, constant=600),
    *(Scenario(cut=cut) for cut in (60, 10)),
    Scenario(drift=0.5),
)
"""Of streams for which the promises are tried, each with all AUC."""


def promise(kind: Scenario, streams: int, hours: float) -> dict[str, Any]:
    """False alarms and misses of a kind of streams, a frame each 2 s."""
    told = {
        auc: count(replace(kind, auc=auc, fps=0.5), OFTEN, streams=streams, hours=hours)
        for auc in AUC
    }
    cells = {f"{auc:.3f}": [one["alarms"], one["misses"]] for auc, one in told.items()}
    return {
        "camera": kind.camera,
        "constant": kind.constant,
        "cut": kind.cut,
        "drift": kind.drift,
        "alarms and misses": cells,
    }


def long(auc: float, days: int) -> int:
    """False alarms of a real stream of independent frames that goes on for days."""
    one = Scenario(auc, camera=0.0, constant=0.2, fps=0.5)
    odds = one.log_odds(np.random.default_rng(0), False, 0.0, 24.0 * days)
    return [verdict for _, verdict in verdicts(one, odds, OFTEN)].count("generated")


def power(one: Scenario, hours: float, teach: bool, streams: int) -> dict[str, Any]:
    """What is found at the defaults, and how soon."""
    shipped = isinstance(one, Shipped)
    return {
        "detector": f"shipped, {one.constant:g} s" if shipped else f"AUC {one.auc:.3f}",
        "taught": teach,
        "hours": hours,
        **count(one, DecisionSettings(), streams=streams, hours=hours, teach=teach),
    }


def noise() -> Iterator[dict[str, Any]]:
    """What a picture that stays is worth, whatever its sensor adds to it."""
    for (name, picture), levels in product(scenes().items(), (0, 1, 4, 8, 16)):
        moved, judged, worth, told = still(picture, levels)
        yield {
            "picture": name,
            "noise": levels,
            "moves by": moved,
            "judged": judged,
            "independent frames": worth,
            "verdicts": told,
        }


@click.group()
def cli() -> None:
    """Simulate and draw."""


@cli.command()
@click.option("--streams", default=20, show_default=True, help="Of each class and kind.")
@click.option("--hours", default=0.5, show_default=True, help="That each goes on.")
@click.option("--days", default=3, show_default=True, help="Of the streams that go on for days.")
def measure(streams: int, hours: float, days: int) -> None:
    """Simulate all of it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from records import write_record
    from turns import provenance, shipped

    found = [(Scenario(auc), hours) for auc in reversed(AUC)]
    found += [(Shipped(constant=s), time) for s in (1.0, 10.0) for time in (hours, LONGER * hours)]
    with ProcessPoolExecutor() as pool:
        rows = [
            pool.submit(power, one, length, teach, streams)
            for (one, length), teach in product(found, (True, False))
        ]
        kinds = [pool.submit(promise, kind, streams, hours) for kind in KINDS]
        alarms = {f"{auc:.3f}": pool.submit(long, auc, days) for auc in AUC}
        pictures = list(noise())
    record = {
        "benchmark": "stream_promises",
        **provenance(),
        **shipped(),
        "streams": streams,
        "hours": hours,
        "days": days,
        "held_out": msgspec.to_builtins(Shipped().held_out),
        "allowed": streams * hours * 3600 / seconds(OFTEN.false_alarms),
        "promises": [one.result() for one in kinds],
        "allowed in days": days * 86400 / seconds(OFTEN.false_alarms),
        "alarms in days": {auc: one.result() for auc, one in alarms.items()},
        "power": [one.result() for one in rows],
        "still pictures": pictures,
    }
    write_record(RESULT, record)
    head, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    write_atomic(DOCS, f"{head}{BEGIN}{section(record)}{END}{tail}".encode())


@cli.command()
def draw() -> None:
    """What the page says of the result."""
    print(section(json.loads(RESULT.read_bytes())))


def section(record: Mapping[str, Any]) -> str:
    """The tables, and what they are of."""
    streams, hours = record["streams"], record["hours"]
    auc = list(record["alarms in days"])
    lines = [
        f"A frame each 2 s, {streams} real and {streams} generated streams of {hours:g} hours in "
        "each cell. Promised: a false alarm and a miss in 10 hours at most (patience 1 minute), "
        f"{record['allowed']:g} of each in a cell. Each cell says how many false alarms and misses "
        "there were:\n",
        f"| camera | time constant | cuts | {' | '.join(f'AUC {one}' for one in auc)} |",
        "|" + "---|" * (3 + len(auc)),
    ]
    for one in record["promises"]:
        cuts = f"each {one['cut']:g} s" if one["cut"] else "none"
        cuts = f"drift of ± {one['drift']:g} in an hour" if one["drift"] else cuts
        cells = " | ".join("{}, {}".format(*cell) for cell in one["alarms and misses"].values())
        lines.append(f"| {100 * one['camera']:.0f} % | {one['constant']:g} s | {cuts} | {cells} |")
    alarms = ", ".join(f"{count} at AUC {auc}" for auc, count in record["alarms in days"].items())
    lines += [
        f"\nDays: false alarms of a real stream of independent frames, each 2 s and without an "
        f"offset, in {record['days']} days: {alarms}; {record['allowed in days']:.1f} are allowed.",
        "\nWhat is found at the defaults, a frame a second. Detectors of some AUC have a camera's "
        "share of 30 % and frames that are correlated over 10 s; the shipped one is as it was "
        "measured on held-out images, with frames that are correlated over as long as is said. "
        f"{streams} real and {streams} generated streams of the same cameras in a row; behind the "
        "share of generated streams that were found stands the median of the minutes that it took; "
        "wrong are false alarms and misses:\n",
        "| detector | camera | hours | generated: found | real: no sign | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for one in record["power"]:
        soon = "" if one["minutes"] is None else f", after {one['minutes']:.0f} minutes"
        lines.append(
            f"| {one['detector']} | {'taught' if one['taught'] else 'not taught'} "
            f"| {one['hours']:g} | {100 * one['found']:.0f} %{soon} "
            f"| {100 * one['no sign']:.0f} % | {one['alarms']}, {one['misses']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cli()
