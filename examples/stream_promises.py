"""What a stream's verdict promises, simulated: false alarms, misses, and what is found how soon.

    python examples/stream_promises.py [--streams 100] [--hours 2] [--days 7]

Log odds of both classes are normal, calibrated, and as far apart as the detector's AUC says. A
share of their variance is an offset of the camera; the rest is a first-order autoregression with
some time constant, begun anew at each cut. What pictures of one scene are worth is asked of the
kernel: walls and textures with a sensor's noise. These are tables of docs/streams.md; a quick
version of the promises is among the tests.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpft_deploy.detector_folder import read_spec
from mpft_deploy.fitness import FLAT, bounded_crop, has_texture
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen.streams.baseline import Baseline, learn
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.novelty import movement
from mpft_deploy.screen.streams.settings import DecisionSettings, seconds
from mpft_deploy.spec import Calibration, HeldOut, KeepRule

AUC = {0.760: 1.0, 0.841: 2.0, 0.921: 4.0, 0.958: 6.0}
"""Of single frames, with the distance of the classes' mean log odds that makes it."""

PICTURES = np.random.default_rng(0).integers(0, 1000, (64, 16)).astype(np.int32)
"""Texture scores of pictures of which no two are alike."""

SHIPPED = Path(__file__).parents[1] / "models" / "mpft-vit-b16"

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
        """Of its streams."""
        spec = read_spec(SHIPPED)
        return spec.stream or spec.calibration

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


KINDS = (
    *(Scenario(camera=0.0, constant=constant) for constant in (0.2, 1, 3, 10, 30)),
    *(Scenario(camera=camera, constant=0.2) for camera in (0.1, 0.3, 0.6)),
    *(Scenario(camera=0.3, constant=constant) for constant in (10, 600)),
    Scenario(camera=0.6, constant=600),
    *(Scenario(cut=cut) for cut in (60, 10)),
    Scenario(drift=0.5),
)
"""Of streams for which the promises are tried, each with all AUC."""


def promises(streams: int, hours: float) -> None:
    """Print the false alarms and misses of all kinds of streams."""
    allowed = streams * hours * 3600 / seconds(OFTEN.misses)
    print("A false alarm and a miss in 10 hours at most, patience 1 minute, a frame each 2 s:")
    print(f"how many of each there were; {allowed:g} of each are allowed in a cell\n")
    print(f"| camera | time constant | cuts | {' | '.join(f'AUC {auc}' for auc in AUC)} |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        cuts = f"each {kind.cut:g} s" if kind.cut else "drift" if kind.drift else "none"
        cells = []
        for auc in AUC:
            told = count(replace(kind, auc=auc, fps=0.5), OFTEN, streams=streams, hours=hours)
            cells.append(f"{told['alarms']}, {told['misses']}")
        print(
            f"| {kind.camera:.0%} | {kind.constant:g} s | {cuts} | {' | '.join(cells)} |",
            flush=True,
        )


def long(days: int) -> None:
    """Print the false alarms of streams that go on for days."""
    allowed = days * 86400 / seconds(OFTEN.false_alarms)
    print(f"\nFalse alarms in {days} days of one real stream; {allowed:g} are allowed\n")
    for auc in AUC:
        one = Scenario(auc, camera=0.0, constant=0.2, fps=0.5)
        odds = one.log_odds(np.random.default_rng(0), False, 0.0, 24.0 * days)
        told = [verdict for _, verdict in verdicts(one, odds, OFTEN)]
        print(f"AUC {auc}: {told.count('generated')}", flush=True)


def power(streams: int, hours: float) -> None:
    """Print what is found at the defaults, and how soon."""
    print("\nDefaults: a false alarm a month, a miss a day, patience 10 minutes\n")
    print("| detector | camera | generated: found (median) | no sign | real: generated | no sign |")
    print("|---|---|---|---|---|---|")
    detectors: dict[str, Scenario] = {f"AUC {auc}": Scenario(auc) for auc in AUC}
    detectors |= {f"shipped, {s:g} s": Shipped(constant=s) for s in (1.0, 10.0)}
    for (name, one), teach in product(detectors.items(), (False, True)):
        told = count(one, DecisionSettings(), streams=streams, hours=hours, teach=teach)
        print(
            f"| {name} | {'taught' if teach else 'not taught'} | {told['found']:.0%} "
            f"({told['minutes']:.0f} min) | {told['misses']} | {told['alarms']} "
            f"| {told['no sign']:.0%} |",
            flush=True,
        )


def noise() -> None:
    """Print what a picture that stays is worth, whatever its sensor adds to it."""
    print("\nAn hour of one picture, called generated by a detector of AUC 0.958\n")
    print("| picture | noise | moves by | judged | independent frames | verdicts |")
    print("|---|---|---|---|---|---|")
    for (name, picture), levels in product(scenes().items(), (0, 1, 4, 8, 16)):
        moved, judged, worth, told = still(picture, levels)
        print(f"| {name} | {levels} | {moved:.3f} | {judged:.0%} | {worth:.1f} | {told} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--days", type=int, default=7)
    options = parser.parse_args()
    promises(options.streams, options.hours)
    long(options.days)
    power(options.streams, options.hours)
    noise()


if __name__ == "__main__":
    main()
