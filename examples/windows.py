"""What views of a large picture are worth, and what re-encoding costs, on images never learnt from.

    python examples/windows.py measure RUN MANIFEST LARGE PARQUET --backbone NAME@FILE
    python examples/windows.py record PARQUET
    python examples/windows.py draw

RUN is what `mpft train MANIFEST --epochs 0 --folds N` kept. Each image of LARGE is judged by a head
that learnt from the features of no family that the image belongs to, in the tower with the
detector's rounded weights; `record` makes figures of these logits, into benchmarks/results, and
`draw` prints the tables of docs/method.md.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from left_out import ROOT, SHIPPED, interval, write_result

RESULT = ROOT / "benchmarks" / "results" / "windows.json"
KEPT = 143
STORED = "int6"
RESAMPLES = 1000

POLICIES = ("centre", "three")
PROTOCOLS = (
    "aligned", "jpeg-60", "resize-0.5", "h264-2-mbit", "noise-3", "sharpen-60", "colour-0",
)  # fmt: skip
"""Of mpft_deploy.evaluate.protocols; the first is what the others are held against."""

Array = npt.NDArray[Any]


@click.group()
def cli() -> None:
    """Measure and draw."""


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("large", type=click.Path(path_type=Path))
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="As `mpft train` takes it.")
@click.option("--folds", default=5, show_default=True)
def measure(
    run: Path, manifest: Path, large: Path, parquet: Path, backbone: str, folds: int
) -> None:
    """Judge every large image by each policy, as it is and as it may arrive."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mpft_deploy.dataset import (
        drop_contradicting,
        drop_unreadable,
        find_samples,
    )
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.batches import Masking
    from mpft_deploy.detector.features import LOOKS, features_of
    from mpft_deploy.detector.folds import assign_folds, families, fit_on_looks
    from mpft_deploy.detector.model import Detector
    from mpft_deploy.detector.probe import at_most
    from mpft_deploy.evaluate.protocols import changed_frames
    from mpft_deploy.files import sha256, write_atomic
    from mpft_deploy.images import decode_image
    from mpft_deploy.spec import KeepRule
    from mpft_deploy.views import views

    found = drop_contradicting(drop_unreadable(find_samples([manifest]), click.echo), click.echo)
    learnt = at_most(found, 0)
    features = np.fromfile(run / f"features.{STORED}.raw", np.float32)
    features = features.reshape(LOOKS, len(learnt), -1)
    assigned = assign_folds(learnt, folds, 0)
    heads = [
        fit_on_looks(
            features[:, assigned != fold],
            [one for one, other in zip(learnt, assigned != fold, strict=True) if other],
        )
        for fold in range(folds)
    ]
    samples = find_samples([large])
    kin = families([*learnt, *samples])
    fold_of = dict(zip(kin.tolist(), assigned.tolist(), strict=False))
    tower = load_backbone(backbone)
    width = tower.geometry.architecture.width
    net = Detector.from_backbone(tower, 8, taps=features.shape[2] // width)
    net.round_tower(STORED)
    masking = Masking((KeepRule("textured", KEPT),), False, 16, 224)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("path", "label", "group", "protocol", "policy", "logit")
    }
    for number, (sample, family) in enumerate(zip(samples, kin[len(learnt) :], strict=True)):
        # A family that none of the heads learnt from is judged by the first.
        head = heads[fold_of.get(int(family), 0)]
        frames = changed_frames(
            decode_image(sample.path), PROTOCOLS, sha256(sample.path.read_bytes())
        )
        for protocol, frame in zip(PROTOCOLS, frames, strict=True):
            for policy in POLICIES:
                seen = views(frame, 224, policy)  # type: ignore[arg-type]
                [read] = features_of(net, [seen], masking, seed=0, bf16=False)
                values = (
                    sample.path.name, sample.label, sample.generator or sample.set, protocol,
                    policy, float(head.logits(read).mean()),
                )  # fmt: skip
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        click.echo(f"{number + 1} of {len(samples)}: {sample.path.name}", err=True)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomic(parquet, buffer.getvalue())


@cli.command()
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--commit", required=True, help="At which the logits were measured.")
def record(parquet: Path, commit: str) -> None:
    """Figures of logits."""
    command = "python examples/windows.py record docs/windows.parquet"
    write_result(RESULT, "windows", read_figures(parquet), command, commit)


def read_figures(parquet: Path, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Counts, and by protocol and policy AUC, what re-encoding costs of it, and what passes."""
    import pyarrow.parquet as pq

    table = pq.read_table(parquet)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    first = {policy: Logits(columns, PROTOCOLS[0], policy) for policy in POLICIES}
    protocols: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        protocols[protocol] = {}
        for policy in POLICIES:
            one = Logits(columns, protocol, policy)
            protocols[protocol][policy] = {
                "auc": one.auc(one.all),
                "cost": against(first[policy], one, resamples),
                **one.at_threshold(policy == "centre"),
            }
    against_three = {
        policy: against(first[policy], first["three"], resamples) for policy in POLICIES
    }
    label = first["three"].label
    return {
        "real": int((label == 0).sum()),
        "generated": int((label == 1).sum()),
        "against three": against_three,
        "protocols": protocols,
    }


@cli.command()
def draw() -> None:
    """The tables."""
    found = json.loads(RESULT.read_bytes())
    click.echo("| views | AUC | against three |\n|---|---|---|")
    for policy, gain in found["against three"].items():
        auc = found["protocols"][PROTOCOLS[0]][policy]["auc"]
        click.echo(f"| {policy} | {auc:.3f} | {_signed(gain)} |")
    click.echo(
        "\n| as it arrives | one view: AUC | cost | called generated | found | "
        "three: AUC | cost | called generated | found |\n" + "|---" * 9 + "|"
    )
    for protocol, policies in found["protocols"].items():
        cells = [
            f"{one['auc']:.3f} | {_signed(one['cost'])} | {one['called']['value']:.1%} | "
            f"{one['found']['value']:.0%}"
            for one in policies.values()
        ]
        click.echo(f"| {protocol} | {' | '.join(cells)} |")


def _signed(one: dict[str, float]) -> str:
    return f"{one['value']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"


class Logits:
    """Of all images under one protocol and policy, in the order of their names."""

    def __init__(self, columns: dict[str, Array], protocol: str, policy: str) -> None:
        rows = (columns["protocol"] == protocol) & (columns["policy"] == policy)
        order = np.flatnonzero(rows)[np.argsort(columns["path"][rows], kind="stable")]
        self.label, self.logit = columns["label"][order], columns["logit"][order]
        self.all = np.arange(len(order))
        names = columns["group"][order]
        self.groups = [
            [np.flatnonzero((self.label == k) & (names == name))
             for name in np.unique(names[self.label == k])]
            for k in (0, 1)
        ]  # fmt: skip

    def auc(self, chosen: Array) -> float:
        """Of the images of these numbers."""
        from mpft_deploy.statistics import auc

        return auc(self.label[chosen], self.logit[chosen])

    def at_threshold(self, stream: bool) -> dict[str, dict[str, float]]:
        """Shares of real and of generated images from the shipped threshold on, with 95 % of the
        exact interval over images."""
        from mpft_deploy.detector_folder import read_spec
        from mpft_deploy.statistics import share_bounds

        spec = read_spec(SHIPPED)
        calibration = (spec.stream if stream else None) or spec.calibration
        called = self.logit >= calibration.logit_threshold
        out = {}
        for label, name in enumerate(("called", "found")):
            own = called[self.label == label]
            low, high = share_bounds(int(own.sum()), len(own), 0.975)
            out[name] = {"value": float(own.mean()), "low": low, "high": high}
        return out


def against(one: Logits, other: Logits, resamples: int) -> dict[str, float]:
    """How much higher AUC is, with 95 % of a bootstrap over generators and sources."""
    rng = np.random.default_rng(0)
    gains = [one.auc(one.all) - other.auc(one.all)]
    for _ in range(resamples):
        drawn = np.concatenate(
            [own[k] for own in one.groups for k in rng.integers(len(own), size=len(own))]
        )
        gains.append(one.auc(drawn) - other.auc(drawn))
    return interval(np.array(gains))


if __name__ == "__main__":
    cli()
