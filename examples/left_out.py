"""Figures of logits of images that were left out, with intervals over generators and sources."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from baselines import BASELINES

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "mpft-vit-b16"

SEEDS = (0, 1, 2)
"""Of the folds."""

RESAMPLES = 2000
FALSE_ALARM = 0.03

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Variant:
    """What is changed.

    blocks: whose class tokens the head reads, counted from the last that the features hold.
    embedded: whether it reads CLIP's embeddings of them in place of the tokens.
    learn: looks that it learns from, the last of LOOKS without colour.
    """

    name: str
    blocks: tuple[int, ...] = (-6, -5, -4, -3, -2, -1)
    embedded: bool = False
    learn: int = 4
    penalty: float = 0.003
    power: float = -0.5
    steadiness: float = 10


DEFAULT, BASE = "as shipped", "coloured views alone"
"""The detector, and what all others differ from in one thing."""

GREY = "{}, of views without colour"
"""Logits of DEFAULT and BASE."""

VARIANTS = (
    Variant(DEFAULT, learn=5),
    Variant(BASE),
    Variant("CLIP's embeddings", embedded=True),
    Variant("CLIP's embeddings, blocks 6 to 8", (-3, -2, -1), embedded=True),
    Variant("block 8 alone", (-1,)),
    Variant("block 7 alone", (-2,)),
    Variant("block 6 alone", (-3,)),
    Variant("block 5 alone", (-4,)),
    Variant("blocks 6 to 8", (-3, -2, -1)),
    Variant("blocks 5 to 8", (-4, -3, -2, -1)),
    Variant("blocks 1 to 8", (-8, -7, -6, -5, -4, -3, -2, -1)),
    Variant("one look", learn=1),
    Variant("two looks", learn=2),
    Variant("penalty 10 times", penalty=0.0003),
    Variant("penalty 3 times", penalty=0.001),
    Variant("penalty a third", penalty=0.01),
    Variant("views may differ", steadiness=0.0),
    Variant("views may differ a third as much", steadiness=30.0),
    Variant("views may differ 3 times as much", steadiness=3.0),
    Variant("images count alike", power=0.0),
    Variant("groups count alike", power=-1.0),
)

HOWS = {
    "one": "one",
    "mean": "mean of two",
    "max": "maximum",
    "min": "minimum",
}


def read_figures(
    parquet: Path, resamples: int = RESAMPLES, seeds: Sequence[int] = SEEDS
) -> Figures:
    """Of the logits in a file."""
    import pyarrow.parquet as pq

    table = pq.read_table(parquet)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return Figures(columns, resamples, seeds)


def write_result(
    path: Path, name: str, found: Mapping[str, Any], command: str, commit: str
) -> None:
    """Figures with what they are of; the weights are those that are shipped now."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from records import write_record
    from turns import shipped

    known = {"benchmark": name, "commit": commit, **shipped(), "command": command}
    write_record(path, {**known, **found})


def interval(values: Array) -> dict[str, float]:
    """A figure and 95 % of its resamples, of f64 [resamples + 1], the first the figure itself."""
    low, high = np.nanquantile(values[1:] if len(values) > 1 else values, (0.025, 0.975))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


class Figures:
    """Figures of logits, with a bootstrap over generators and sources, not images."""

    def __init__(
        self,
        columns: dict[str, Array],
        resamples: int = RESAMPLES,
        seeds: Sequence[int] = SEEDS,
    ) -> None:
        self._columns, self._seeds = columns, seeds
        label, group = columns["label"], columns["group"]
        self.count = len(label)
        self._real, self._generated = (
            [
                np.flatnonzero((label == k) & (group == name))
                for name in np.unique(group[label == k])
            ]
            for k in (0, 1)
        )
        rng = np.random.default_rng(0)
        self._draws = [
            np.vstack(
                [np.ones(len(groups)), rng.multinomial(len(groups), [1 / len(groups)] * len(groups),
                 resamples)]
            )
            for groups in (self._real, self._generated)
        ]  # fmt: skip

    def all(self) -> dict[str, Any]:
        """What is shown: of variants, of views of the shipped one, and of kinds of images."""
        names = [one.name for one in VARIANTS if f"{one.name}|0|0" in self._columns]
        base = self.of(BASE, "mean")
        variants = {}
        for name in [*names, *BASELINES]:
            one = self.of(name, "one")
            mine = self.of(name, "mean") if name in names else one
            variants[name] = {**_against(mine, base), "one_view": float(one[0, 0])}
        both = self.of(DEFAULT, "mean")
        views = {text: _against(self.of(DEFAULT, how), both) for how, text in HOWS.items()}
        grey = {name: self.grey(name) for name in (DEFAULT, BASE)}
        return {"variants": variants, "grey": grey, "views": views, "kinds": self.at_threshold()}

    def grey(self, name: str) -> dict[str, Any]:
        """Of one view without colour: AUC, and what passes the threshold that FALSE_ALARM of views
        in colour pass, sources and generators alike; each with 95 %."""
        passed = np.zeros((2, len(self._draws[0])))
        grey = GREY.format(name)
        for coloured, values in zip(
            self.logits(name, "one"), self.logits(grey, "one"), strict=True
        ):
            tried = np.sort(coloured)
            alarms = np.mean([(coloured[own, None] >= tried).mean(0) for own in self._real], 0)
            threshold = tried[np.argmax(alarms <= FALSE_ALARM)]
            for label, groups in enumerate((self._real, self._generated)):
                shares = np.array([(values[own] >= threshold).mean() for own in groups])
                draws = self._draws[label]
                passed[label] += draws @ shares / draws.sum(1) / len(self._seeds)
        auc = interval(self.of(grey, "one")[:, 0])
        return {"auc": auc, "called": interval(passed[0]), "found": interval(passed[1])}

    def logits(self, name: str, how: str) -> list[Array]:
        """Of each seed that was measured, f32 [n]."""
        out = []
        for seed in self._seeds:
            if f"{name}|{seed}|0" not in self._columns:
                continue
            looks = [self._columns.get(f"{name}|{seed}|{look}") for look in range(2)]
            there = np.stack([look for look in looks if look is not None])
            out.append(there[0] if how == "one" else getattr(np, how)(there, axis=0))
        return out

    def of(self, name: str, how: str) -> Array:
        """f64 [resamples + 1, 2]: mean AUC over generators, and share found at FALSE_ALARM.

        Real sources count alike, whatever their size; both are means over the seeds of folds.
        """
        total = np.zeros((len(self._draws[0]), 2))
        of_seeds = self.logits(name, how)
        for logits in of_seeds:
            # How much of each source lies below an image: one half of what equals it.
            below = np.stack([_below(np.sort(logits[own]), logits) for own in self._real])
            place = np.stack([below[:, own].mean(1) for own in self._generated])  # [G, R]
            real, made = self._draws
            weights = made / made.sum(1, keepdims=True)
            total[:, 0] += np.einsum("bg,gr,br->b", weights, place, real / real.sum(1)[:, None])
            tried = np.quantile(logits, np.linspace(0.5, 0.9999, 400))
            alarms = np.stack([(logits[own, None] >= tried).mean(0) for own in self._real])
            found = np.stack([(logits[own, None] >= tried).mean(0) for own in self._generated])
            share = real @ alarms / real.sum(1)[:, None]
            at = np.argmax(share <= FALSE_ALARM, axis=1)
            total[:, 1] += np.take_along_axis(weights @ found, at[:, None], 1)[:, 0]
        return total / len(of_seeds)

    def at_threshold(self) -> dict[str, Any]:
        """By kind, what is called generated and what unsure, by the folds that this is set by.

        Of the real ones the share of images, of the generated ones the mean over generators.
        """
        from mpft_deploy.detector_folder import read_spec
        from mpft_deploy.evaluate.predictions import probabilities

        spec = read_spec(SHIPPED)
        assert spec.stream is not None
        kind = self._columns["kind"]
        verdicts: dict[str, dict[str, Array]] = {}
        for by, how, calibration in (
            ("", "mean", spec.calibration),
            (" by one view", "one", spec.stream),
        ):
            chances, (low, high) = (
                probabilities(calibration, self.logits(DEFAULT, how)[0]), calibration.unsure
            )  # fmt: skip
            called = chances >= calibration.threshold
            verdicts[by] = {"called": called, "unsure": (low < chances) & (chances < high)}
        out: dict[str, Any] = {}
        for name in [*np.unique(kind), "all"]:
            one = out[str(name)] = {}
            for label, count, called_so in ((0, "real", "called"), (1, "generated", "found")):
                groups = (self._real, self._generated)[label]
                own = [group[(kind[group] == name) | (name == "all")] for group in groups]
                sizes = np.array([len(group) for group in own])
                one[count] = int(sizes.sum())
                draws = self._draws[label] * (sizes if label == 0 else sizes > 0)
                for by, told in verdicts.items():
                    for share, passed in ((called_so, "called"), (f"unsure {count}", "unsure")):
                        shares = np.array(
                            [told[passed][group].mean() if len(group) else 0 for group in own]
                        )
                        with np.errstate(invalid="ignore"):  # a resample without any of that kind
                            drawn = draws @ shares / draws.sum(1)
                        one[share + by] = interval(drawn) if sizes.any() else None
        return out

    def draw(self, path: Path) -> None:
        """Each generator's AUC and each source's false alarms, as dots."""
        import matplotlib
        from matplotlib.figure import Figure

        from mpft_deploy.files import write_atomic

        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "folds"})

        logits = np.mean(self.logits(DEFAULT, "mean"), 0)
        real = np.concatenate(self._real)
        threshold = np.quantile(logits[real], 1 - FALSE_ALARM)
        figure = Figure(figsize=(7.5, 10), layout="constrained")
        made, false = figure.subplots(1, 2)
        group = self._columns["group"]
        places = [(_below(np.sort(logits[real]), logits[own]).mean(), len(own), group[own[0]])
                  for own in self._generated]  # fmt: skip
        alarms = [
            ((logits[own] >= threshold).mean(), len(own), group[own[0]]) for own in self._real
        ]
        for axis, dots, text in (
            (made, sorted(places), "AUC of a generator that was left out"),
            (false, sorted(alarms, reverse=True), f"called generated at {FALSE_ALARM:.0%} of all"),
        ):
            values, sizes, names = zip(*dots, strict=True)
            axis.scatter(values, range(len(dots)), s=4 + np.array(sizes) / 2, color="#3b6ea5")
            axis.set_yticks(range(len(dots)), names, fontsize=5.5)
            axis.set_ylim(-1, len(dots))
            axis.grid(axis="x", color="0.9")
            axis.set_xlabel(text)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        write_atomic(path, buffer.getvalue())


def _against(mine: Array, base: Array) -> dict[str, Any]:
    """AUC and its gain over another, with intervals, and the share found, of resampled figures."""
    gain = interval(mine[:, 0] - base[:, 0])
    return {"auc": interval(mine[:, 0]), "gain": gain, "found": float(mine[0, 1])}


def _below(ordered: Array, values: Array) -> Array:
    """Share of ordered values below each of others; one half of those that equal it."""
    left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((left + right) / (2 * len(ordered)))
