"""Which part of the recipe does what, on generators that training never saw.

    python examples/ablation.py run MANIFEST BACKBONE WORK [--only TEXT]
    python examples/ablation.py draw WORK DOCS

Each run learns from one set of the manifest's `train` split and is judged on the other set's `val`
images: neither its generators nor its kind of content were learnt from. `run` appends the logits
of each to WORK/logits.jsonl and goes on where it stopped; `draw` makes tables and pictures of them
without a model.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

SETS = ("faces", "sd1")
CELLS = 64
MIXED = f"textured:{CELLS}+random:{CELLS}"
INFERENCE = ["all", *(f"{kind}:{CELLS}" for kind in ("textured", "random", "smooth"))]
MORE_CELLS = [f"textured:{count}" for count in (16, 32, 48, 96, 128)]
RESAMPLES = 2000


@dataclass(frozen=True)
class Variant:
    """One recipe; `settings` replace those of BASE, and no epochs mean a frozen backbone."""

    name: str
    table: str
    settings: dict[str, Any]
    rules: tuple[str, ...] = tuple(INFERENCE)


BASE: dict[str, Any] = {"depth": 8, "train_keep": MIXED, "keep": f"textured:{CELLS}", "epochs": 1}
VARIANTS = [
    Variant(f"{MIXED}", "rule", {}, (*INFERENCE, *MORE_CELLS)),
    Variant(f"textured:{CELLS}", "rule", {"train_keep": f"textured:{CELLS}"}),
    Variant(f"smooth:{CELLS}", "rule", {"train_keep": f"smooth:{CELLS}"}),
    Variant(f"random:{CELLS}", "rule", {"train_keep": f"random:{CELLS}"}),
    Variant("frozen, all", "rule", {"train_keep": "all", "epochs": 0}),
    Variant("all", "rule", {"train_keep": "all"}),
    Variant("no augmentation", "recipe", {"augment": 0.0}),
    Variant("two epochs", "recipe", {"epochs": 2}),
    Variant("rate 3e-5", "recipe", {"backbone_lr": 3e-5}),
    Variant("depth 6", "depth", {"depth": 6}),
    Variant("depth 10", "depth", {"depth": 10}),
    Variant("depth 12", "depth", {"depth": 12}),
    Variant(f"smooth:{CELLS}, zeroed", "fill", {"train_keep": f"smooth:{CELLS}", "fill": "zero"}),
]


class Lines:
    """Who is told how a run goes: nobody but the terminal, a line now and then."""

    def line(self, text: str) -> None:
        click.echo(f"  {text}")

    def step(self, done: int, total: int, loss: float) -> None:
        if done % 20 == 0 or done == total:
            click.echo(f"  step {done} of {total}, loss {loss:.3f}")


def run_one(
    variant: Variant, seed: int, manifest: Path, backbone: str, learnt: str
) -> list[dict[str, Any]]:
    """Train on one set, and give the logits of the other under each inference rule."""
    from mpft_deploy.dataset import find_samples
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.evaluate import image_logits
    from mpft_deploy.detector.loop import Images, Loop
    from mpft_deploy.detector.model import Detector
    from mpft_deploy.detector.run_folder import Progress, RunFolder
    from mpft_deploy.detector.settings import TrainSettings
    from mpft_deploy.spec import KeepRule

    told = {**BASE, **variant.settings, "seed": seed}
    epochs = told.pop("epochs")
    settings = TrainSettings(backbone=backbone, epochs=max(1, epochs), **told)
    train = [one for one in find_samples([manifest], "train") if one.set == learnt]
    unseen = [one for one in find_samples([manifest], "val") if one.set != learnt]
    model = Detector.from_backbone(
        load_backbone(backbone), settings.depth or 12, dropout=settings.dropout
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "detector")
        run.start(overwrite=False)
        # Validation has its turn below, by more rules.
        images = Images(train, [unseen[0], unseen[-1]])
        loop = Loop(model, images, run, Progress(settings=settings, data={}), Lines())
        loop.start()
        if epochs:
            loop.run(lambda: None)
    rules = [KeepRule.parse(rule) for rule in variant.rules]
    logits = image_logits(model, unseen, rules, bf16=True)
    return [
        {
            "variant": variant.name,
            "seed": seed,
            "learnt": learnt,
            "rule": rule,
            "labels": [one.label for one in unseen],
            "generators": [one.generator for one in unseen],
            "logits": [round(float(value), 4) for value in values],
        }
        for rule, values in zip(variant.rules, logits, strict=True)
    ]


def read(work: Path) -> list[dict[str, Any]]:
    """All finished runs, one record for each inference rule."""
    path = work / "logits.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@click.group()
def main() -> None:
    """Ablate the recipe."""


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True))
@click.argument("backbone")
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--only", default="", help="Runs whose name holds this.")
@click.option("--seeds", default=1, show_default=True)
def run(manifest: Path, backbone: str, work: Path, only: str, seeds: int) -> None:
    """Train and judge every variant that is not done yet."""
    work.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for variant in VARIANTS:
            if only not in variant.name:
                continue
            done = {(one["variant"], one["seed"], one["learnt"]) for one in read(work)}
            for learnt in SETS:
                if (variant.name, seed, learnt) in done:
                    continue
                click.echo(f"{variant.name}, seed {seed}, learning from {learnt}")
                records = run_one(variant, seed, manifest, backbone, learnt)
                with (work / "logits.jsonl").open("a") as file:
                    file.writelines(json.dumps(one) + "\n" for one in records)


def unseen_aucs(records: list[dict[str, Any]], rng: np.random.Generator | None) -> list[float]:
    """AUC of each unseen generator against the reals of its set; resampled if `rng` is given."""
    from sklearn.metrics import roc_auc_score

    out = []
    for record in records:
        labels, logits = np.array(record["labels"]), np.array(record["logits"])
        names = np.array(record["generators"])
        for name in sorted(set(names[labels == 1])):
            groups = [np.flatnonzero(labels == 0), np.flatnonzero((labels == 1) & (names == name))]
            if rng is not None:
                groups = [rng.choice(group, len(group)) for group in groups]
            chosen = np.concatenate(groups)
            out.append(float(roc_auc_score(labels[chosen], logits[chosen])))
    return out


def mean_auc(records: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Mean AUC over unseen generators, with the 95 % bootstrap interval over images."""
    rng = np.random.default_rng(0)
    resampled = [np.mean(unseen_aucs(records, rng)) for _ in range(RESAMPLES)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(np.mean(unseen_aucs(records, None))), float(low), float(high)


def grouped(work: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Finished runs by variant and inference rule; only those judged on both sets."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in read(work):
        found[record["variant"], record["rule"]].append(record)
    return {
        key: records
        for key, records in found.items()
        if {one["learnt"] for one in records} == set(SETS)
    }


def rows(work: Path, tables: tuple[str, ...]) -> Iterator[list[str]]:
    """A row for each finished variant of some tables: its name, and a cell for each rule."""
    found = grouped(work)
    for variant in VARIANTS:
        if variant.table not in tables or (variant.name, INFERENCE[0]) not in found:
            continue
        cells = []
        for rule in INFERENCE:
            value, low, high = mean_auc(found[variant.name, rule])
            cells.append(f"{value:.3f} ({low:.3f}–{high:.3f})")
        seeds = len({one["seed"] for one in found[variant.name, INFERENCE[0]]})
        yield [variant.name, str(seeds), *cells]


@main.command()
@click.argument("work", type=click.Path(path_type=Path, exists=True))
@click.argument("docs", type=click.Path(path_type=Path))
def draw(work: Path, docs: Path) -> None:
    """Print the tables as Markdown, and draw accuracy against the cells kept."""
    head = ["trained with", "seeds", *(f"judged on {rule}" for rule in INFERENCE)]
    for title, tables in (
        ("Training rule", ("rule",)),
        ("Depth, fill and recipe", ("depth", "fill", "recipe")),
    ):
        print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for row in rows(work, tables):
            print(f"| {' | '.join(row)} |")
    found = grouped(work)
    curve = []
    for (name, rule), records in found.items():
        if name == MIXED and rule.startswith(("textured", "all")):
            count = 196 if rule == "all" else int(rule.partition(":")[2])
            curve.append((count, *mean_auc(records)))
    if curve:
        plot(sorted(curve), docs / "images" / "accuracy-by-cells.svg")


def plot(curve: list[tuple[int, float, float, float]], path: Path) -> None:
    """Mean AUC against the number of cells kept."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    counts, values, low, high = (np.array(column) for column in zip(*curve, strict=True))
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.fill_between(counts, low, high, alpha=0.2, linewidth=0)
    axes.plot(counts, values, marker="o")
    axes.set(xlabel="most textured cells kept, of 196", ylabel="mean AUC, unseen generators")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
