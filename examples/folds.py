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
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from baselines import baselines
from left_out import BASE, DEFAULT, GREY, ROOT, SEEDS, VARIANTS, read_figures, write_result

RESULT = ROOT / "benchmarks" / "results" / "folds.json"

Json = Mapping[str, Any]


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
            if one.name in (DEFAULT, BASE):
                columns[f"{GREY.format(one.name)}|{seed}|0"] = logits[-1]
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


@cli.command()
def draw() -> None:
    """The tables."""
    found = json.loads(RESULT.read_bytes())
    head = "mean AUC over generators | against"
    click.echo(f"| variant | {head} {BASE} | found | AUC, one view |\n|---|---|---|---|---|")
    for name, one in found["variants"].items():
        click.echo(f"| {name} | {_row(one)} | {one['one_view']:.3f} |")
    click.echo("\n| a view without colour | AUC | called generated | found |\n|---|---|---|---|")
    for name, one in found["grey"].items():
        auc = "{value:.3f} ({low:.3f}–{high:.3f})".format(**one["auc"])
        shares = (
            "{value:.1%} ({low:.1%}–{high:.1%})".format(**one[key]) for key in ("called", "found")
        )
        click.echo(f"| {name} | {auc} | {' | '.join(shares)} |")
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


def _row(one: Json) -> str:
    """AUC, gain and share found, with their intervals."""
    auc, gain = one["auc"], one["gain"]
    return (
        f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f}) | {gain['value']:+.3f} "
        f"({gain['low']:+.3f} to {gain['high']:+.3f}) | {one['found']:.0%}"
    )


if __name__ == "__main__":
    cli()
