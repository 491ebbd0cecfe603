"""What a stream's verdict promises, simulated: false alarms, misses, and what is found how soon.

    python examples/stream_promises.py [--streams 100] [--hours 2]

Log odds of both classes are normal, calibrated, and as far apart as the detector's AUC says. A
share of their variance is an offset of the camera; the rest is a first-order autoregression with
some time constant, begun anew at each cut. These are tables of docs/streams.md; a quick version of
them is among the tests.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from mpft_deploy.screen.streams.baseline import Baseline, learn
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.settings import DecisionSettings, seconds
from mpft_deploy.spec import Calibration, HeldOut

AUC = {0.760: 1.0, 0.841: 2.0, 0.921: 4.0, 0.958: 6.0}
"""Of single frames, with the distance of the classes' mean log odds that makes it."""

PICTURES = np.random.default_rng(0).integers(0, 1000, (64, 16)).astype(np.int32)
"""Texture scores of pictures of which no two are alike."""


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
            spread=math.sqrt((1 - self.camera) * distance),
            real=20,
            generated=20,
            images=1000,
        )
        return Calibration(threshold=0.766, unsure=(0.7, 0.8), held_out=held)

    def offset(self, rng: np.random.Generator) -> float:
        """Of a camera."""
        return float(rng.normal(0, math.sqrt(self.camera * AUC[self.auc])))

    def log_odds(
        self, rng: np.random.Generator, generated: bool, offset: float, hours: float
    ) -> npt.NDArray[np.float64]:
        """Of the frames of one stream, f64 [n]."""
        count, distance = int(hours * 3600 * self.fps), AUC[self.auc]
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
        mean = distance / 2 if generated else -distance / 2
        return mean + offset + wave + math.sqrt((1 - self.camera) * distance) * values


def verdicts(
    scenario: Scenario,
    log_odds: npt.NDArray[np.float64],
    settings: DecisionSettings,
    baseline: Baseline | None = None,
) -> Iterator[tuple[float, str]]:
    """Second and verdict of each change."""
    stream = StreamDecision(settings, scenario.calibration, baseline)
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
) -> dict[str, float]:
    """Alarms and misses of some streams, and what was found within their time."""
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
        "minutes": float(np.median(times)) / 60 if times else math.nan,
        "no sign": clear / streams,
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--hours", type=float, default=2.0)
    options = parser.parse_args()
    often = DecisionSettings(false_alarms="10h", misses="10h", patience="1m")
    size = {"streams": options.streams, "hours": options.hours}
    print("A false alarm in 10 hours at most, and a miss in 10 hours, patience 1 minute\n")
    print("| AUC | camera | time constant | cuts | false alarms (allowed) | misses (allowed) |")
    print("|---|---|---|---|---|---|")
    scenarios = [
        Scenario(auc, camera, constant)
        for auc, camera, constant in product((0.841, 0.958), (0.3, 0.6), (0.2, 10, 600))
    ]
    scenarios += [Scenario(0.921, 0.3, 10, cut=cut) for cut in (60, 10)]
    scenarios += [Scenario(0.921, 0.3, 10, drift=0.5)]
    for one in scenarios:
        row = count(one, often, **size)
        print(
            f"| {one.auc} | {one.camera:.0%} | {one.constant:g} s "
            f"| {f'each {one.cut:g} s' if one.cut else 'drift' if one.drift else 'none'} "
            f"| {row['alarms']} ({row['allowed']:.0f}) | {row['misses']} ({row['missable']:.0f}) |",
            flush=True,
        )
    print("\nDefaults: a false alarm a month, a miss a day, patience 10 minutes\n")
    print("| AUC | camera | time constant | taught | found (median) | real: no sign |")
    print("|---|---|---|---|---|---|")
    for auc, camera, constant, teach in product(AUC, (0.3,), (10,), (False, True)):
        one = Scenario(auc, camera, constant)
        row = count(one, DecisionSettings(), teach=teach, **size)
        print(
            f"| {auc} | {camera:.0%} | {constant} s | {'yes' if teach else 'no'} "
            f"| {row['found']:.0%} ({row['minutes']:.0f} min) | {row['no sign']:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
