"""Which part of a frozen detector does what, on generators and sources that are left out.

    python examples/folds.py measure RUN MANIFEST PARQUET
    python examples/folds.py record PARQUET DOCS
    python examples/folds.py draw

`measure` takes the features that `mpft train --epochs 0 --folds N --taps T` kept in RUN, fits the
heads of each variant anew and writes what each says of the images that it did not learn from;
`record` makes figures of these logits, into benchmarks/results, and a picture into DOCS, without
images or a backbone; `draw` prints the tables of docs/method.md.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from baselines import BASELINES, baselines

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "mpft-vit-b16"
RESULT = ROOT / "benchmarks" / "results" / "folds.json"

SEEDS = (0, 1, 2)
"""Of the folds."""

RESAMPLES = 2000
FALSE_ALARM = 0.03

Array = npt.NDArray[Any]
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """What is changed.

    blocks: whose class tokens the head reads, counted from the last that the features hold.
    embedded: whether it reads CLIP's embeddings of them in place of the tokens.
    learn: looks that it learns from.
    """

    name: str
    blocks: tuple[int, ...] = (-6, -5, -4, -3, -2, -1)
    embedded: bool = False
    learn: int = 4
    penalty: float = 0.003
    power: float = -0.5
    steadiness: float = 10


DEFAULT = "as shipped"
VARIANTS = (
    Variant(DEFAULT),
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


@click.group()
def cli() -> None:
    """Measure and draw."""


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="As `mpft train` takes it; its projection is read.")
@click.option("--stored", default="int6", show_default=True, help="As in training.")
@click.option("--folds", default=5, show_default=True)
def measure(
    run: Path, manifest: Path, parquet: Path, backbone: str, stored: str, folds: int
) -> None:
    """Fit the heads of every variant, and write their logits of what was left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mpft_deploy.dataset import drop_contradicting, drop_unreadable, find_samples
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.features import LOOKS
    from mpft_deploy.detector.folds import JUDGED, assign_folds, families, out_of_fold
    from mpft_deploy.detector.probe import at_most
    from mpft_deploy.files import write_atomic

    found = drop_contradicting(drop_unreadable(find_samples([manifest]), click.echo), click.echo)
    samples = at_most(found, 0)
    raw = np.fromfile(run / f"features.{stored}.raw", np.float32)
    tower = load_backbone(backbone)
    projection = tower.weights["proj"].numpy()
    features = raw.reshape(LOOKS, len(samples), -1, len(projection))
    columns: dict[str, Any] = {
        "path": [sample.path.name for sample in samples],
        "label": np.array([sample.label for sample in samples], np.int8),
        "group": [sample.generator or sample.set for sample in samples],
        "family": families(samples),
    }
    with manifest.open(newline="") as file:
        rows = {manifest.parent / row["path"]: row for row in csv.DictReader(file)}
    columns["kind"] = [rows[sample.path]["kind"] for sample in samples]
    others = baselines([rows[sample.path] for sample in samples], samples)
    for seed in SEEDS:
        assigned = assign_folds(samples, folds, seed)
        columns[f"fold {seed}"] = assigned
        left_out = partial(out_of_fold, samples=samples, folds=assigned)
        for one in VARIANTS:
            if -min(one.blocks) > features.shape[2]:
                continue
            read = features[:, :, list(one.blocks)]
            read = read @ projection if one.embedded else read
            read = read.reshape(LOOKS, len(samples), -1)
            logits = left_out(
                read,
                inverse_penalty=one.penalty,
                power=one.power,
                steadiness=one.steadiness,
                learn=one.learn,
            )
            for look, values in enumerate(logits[:JUDGED]):
                columns[f"{one.name}|{seed}|{look}"] = values
            click.echo(f"folds {seed}: {one.name}")
        for name, values in others.items():
            columns[f"{name}|{seed}|0"] = left_out(values[None], inverse_penalty=1.0)[0]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomic(parquet, buffer.getvalue())


@cli.command()
@click.argument("parquet", type=click.Path(path_type=Path))
@click.argument("docs", type=click.Path(path_type=Path))
@click.option("--commit", required=True, help="At which the logits were measured.")
def record(parquet: Path, docs: Path, commit: str) -> None:
    """Figures and a picture of logits."""
    figures = read_figures(parquet)
    command = "python examples/folds.py record docs/folds.parquet docs"
    write_result(RESULT, "folds", figures.all(), command, commit)
    figures.draw(docs / "images" / "folds.svg")


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


@cli.command()
def draw() -> None:
    """The tables."""
    found = json.loads(RESULT.read_bytes())
    head = "mean AUC over generators | against"
    click.echo(f"| variant | {head} as shipped | found | AUC, one view |\n|---|---|---|---|---|")
    for name, one in found["variants"].items():
        click.echo(f"| {name} | {_row(one)} | {one['one_view']:.3f} |")
    click.echo(f"\n| views, of two | {head} their mean | found |\n|---|---|---|---|")
    for name, one in found["views"].items():
        click.echo(f"| {name} | {_row(one)} |")
    click.echo(
        "\n| kind | real | called generated | unsure | by one view | generated | found | unsure | "
        "by one view |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, one in found["kinds"].items():
        cells = []
        for count, share in (("real", "called"), ("generated", "found")):
            shares = [one[how] for how in (share, f"unsure {count}", f"{share} by one view")]
            told = [f"{part['value']:.1%}" if part else "–" for part in shares]
            cells += [str(one[count]), *told]
        click.echo(f"| {name} | {' | '.join(cells)} |")


HOWS = {
    "one": "one",
    "mean": "mean of two",
    "max": "maximum",
    "min": "minimum",
}


def _row(one: Json) -> str:
    """AUC, gain and share found, with their intervals."""
    auc, gain = one["auc"], one["gain"]
    return (
        f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f}) | {gain['value']:+.3f} "
        f"({gain['low']:+.3f} to {gain['high']:+.3f}) | {one['found']:.0%}"
    )


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
        base = self.of(DEFAULT, "mean")
        variants = {}
        for name in [*names, *BASELINES]:
            one = self.of(name, "one")
            mine = self.of(name, "mean") if name in names else one
            variants[name] = {**_against(mine, base), "one_view": float(one[0, 0])}
        views = {text: _against(self.of(DEFAULT, how), base) for how, text in HOWS.items()}
        return {"variants": variants, "views": views, "kinds": self.at_threshold()}

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


if __name__ == "__main__":
    cli()
