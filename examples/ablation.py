"""Which part of the recipe does what, on generators that training never saw.

    python examples/ablation.py probe MANIFEST BACKBONE WORK
    python examples/ablation.py run MANIFEST BACKBONE WORK [--only TEXT]
    python examples/ablation.py draw WORK DOCS

Each learns from one set of the manifest's `train` split and is judged on the other set's `val`
images: neither its generators nor its kind of content were learnt from. `probe` keeps a frozen
backbone's features after each block; `run` fine-tunes each variant, appends its logits to
WORK/logits.jsonl and goes on where it stopped; `draw` makes tables and pictures of both, without a
backbone.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

SETS = ("faces", "sd1")
CELLS = 60
INFERENCE = ["all", *(f"{kind}:{CELLS}" for kind in ("textured", "random", "smooth"))]
MORE_CELLS = [f"textured:{count}" for count in (20, 40, 96, 128)]
PROBED = ("all", "textured:96", "textured:63")
POOLS = {"class token": [0], "class + mean patch token": [0, 1]}
DEPTHS = range(4, 13)
PROBE_PENALTY = 0.1
RESAMPLES = 1000

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One recipe; `settings` replace those of its objective."""

    name: str
    settings: dict[str, Any]
    rules: tuple[str, ...] = tuple(INFERENCE)


LABELS: dict[str, Any] = {"objective": "labels", "depth": 8, "epochs": 1}
FEATURES: dict[str, Any] = {
    "objective": "features", "depth": 8, "epochs": 2, "backbone_lr": 7e-5, "head_lr": 3e-4,
}  # fmt: skip


def variant(objective: dict[str, Any], rule: str, *more: str, **settings: Any) -> Variant:
    """A variant that is named by its objective, its training rule and what else it changes."""
    told = {**objective, "train_keep": rule, "keep": f"textured:{CELLS}", **settings}
    changed = "".join(f", {name} {value}" for name, value in settings.items())
    return Variant(f"{told['objective']}, {rule}{changed}", told, (*INFERENCE, *more))


VARIANTS = [
    variant(FEATURES, f"textured:{CELLS}", *MORE_CELLS),
    variant(LABELS, f"textured:{CELLS}"),
    variant(LABELS, f"smooth:{CELLS}"),
    variant(LABELS, f"random:{CELLS}"),
    variant(FEATURES, f"random:{CELLS}"),
    variant(LABELS, "all"),
    variant(FEATURES, f"smooth:{CELLS}"),
    variant(LABELS, f"smooth:{CELLS}", fill="zero"),
    variant(LABELS, f"textured:{CELLS}", augment=0.0),
    variant(LABELS, f"textured:{CELLS}", depth=12),
    variant(LABELS, f"textured:{CELLS}", depth=6),
    variant(FEATURES, f"textured:{CELLS}", depth=6),
]


class Lines:
    """Who is told how a run goes: nobody but the terminal, a line now and then."""

    def line(self, text: str) -> None:
        click.echo(f"  {text}")

    def step(self, done: int, total: int, loss: float) -> None:
        if done % 20 == 0 or done == total:
            click.echo(f"  step {done} of {total}, loss {loss:.3f}")


def run_one(variant: Variant, seed: int, manifest: Path, backbone: str, learnt: str) -> Records:
    """Train on one set, and give the logits of the other under each inference rule."""
    from mpft_deploy.dataset import find_samples
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.evaluate import image_logits
    from mpft_deploy.detector.loop import Images, Loop
    from mpft_deploy.detector.model import Detector
    from mpft_deploy.detector.run_folder import Progress, RunFolder
    from mpft_deploy.detector.settings import TrainSettings
    from mpft_deploy.detector.teacher import Teacher
    from mpft_deploy.spec import KeepRule

    settings = TrainSettings(backbone=backbone, seed=seed, **variant.settings)
    train = [one for one in find_samples([manifest], "train") if one.set == learnt]
    unseen = [one for one in find_samples([manifest], "val") if one.set != learnt]
    whole = load_backbone(backbone)
    depth, teaching = settings.blocks(whole.geometry), settings.teacher_blocks(whole.geometry)
    model = Detector.from_backbone(whole, depth, dropout=settings.dropout)
    teacher = Teacher(whole, teaching) if settings.objective == "features" else None
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "detector")
        run.start(overwrite=False)
        # Validation has its turn below, by more rules.
        images = Images(train, [unseen[0], unseen[-1]])
        loop = Loop(model, images, run, Progress(settings=settings, data={}), Lines(), teacher)
        loop.start()
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


def read(work: Path) -> Records:
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


def unseen_aucs(records: Records, rng: np.random.Generator | None) -> list[float]:
    """AUC of each unseen generator against the reals of its set; resampled if `rng` is given."""
    from mpft_deploy.statistics import auc

    out = []
    for record in records:
        labels, logits = np.array(record["labels"]), np.array(record["logits"])
        names = np.array(record["generators"])
        for name in sorted(set(names[labels == 1])):
            groups = [np.flatnonzero(labels == 0), np.flatnonzero((labels == 1) & (names == name))]
            if rng is not None:
                groups = [rng.choice(group, len(group)) for group in groups]
            chosen = np.concatenate(groups)
            out.append(auc(labels[chosen], logits[chosen]) or 0.0)
    return out


def mean_auc(records: Records) -> tuple[float, float, float]:
    """Mean AUC over unseen generators, with the 95 % bootstrap interval over images."""
    rng = np.random.default_rng(0)
    resampled = [np.mean(unseen_aucs(records, rng)) for _ in range(RESAMPLES)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(np.mean(unseen_aucs(records, None))), float(low), float(high)


def grouped(work: Path) -> dict[tuple[str, str], Records]:
    """Finished runs by variant and inference rule; only those judged on both sets."""
    found: dict[tuple[str, str], Records] = defaultdict(list)
    for record in read(work):
        found[record["variant"], record["rule"]].append(record)
    return {
        key: records
        for key, records in found.items()
        if {one["learnt"] for one in records} == set(SETS)
    }


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Print Markdown."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def cell(figures: tuple[float, float, float]) -> str:
    """A mean with its interval."""
    value, low, high = figures
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True))
@click.argument("backbone")
@click.argument("work", type=click.Path(path_type=Path))
def probe(manifest: Path, backbone: str, work: Path) -> None:
    """Keep class token and mean patch token after each block of the frozen backbone."""
    import torch

    from mpft_deploy.dataset import find_samples
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.evaluate import centre_crops
    from mpft_deploy.detector.model import Detector, encode
    from mpft_deploy.spec import KeepRule

    work.mkdir(parents=True, exist_ok=True)
    whole = load_backbone(backbone)
    model = Detector.from_backbone(whole, whole.geometry.architecture.layers).eval()
    for split in ("train", "val"):
        samples = find_samples([manifest], split)
        for rule in PROBED:
            path = work / f"{split}_{rule.replace(':', '')}.npy"
            if path.exists():
                continue
            parts = []
            for crops in centre_crops(samples, whole.geometry.size):
                cut = encode(crops, whole.geometry.patch, KeepRule.parse(rule))
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    states = [one.float() for one in model.states(*cut)]
                pairs = [torch.stack([one[:, 0], one[:, 1:].mean(1)], 1) for one in states]
                parts.append(torch.stack(pairs, 1).numpy())
                click.echo(f"{split} {rule}: {len(parts) * len(crops)} of {len(samples)}")
            np.save(path, np.concatenate(parts))
    path = work / "probes.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    wanted = [(rule, name, b) for rule in PROBED for name in POOLS for b in DEPTHS]
    for rule, name, blocks in wanted[done:]:
        records = probe_records(manifest, work, rule, blocks, POOLS[name])
        with path.open("a") as file:
            told = {"rule": rule, "pool": name, "blocks": blocks, "records": records}
            file.write(json.dumps(told) + "\n")
        click.echo(f"probed {name}, {rule}, {blocks} blocks")


def probe_records(manifest: Path, work: Path, rule: str, blocks: int, parts: list[int]) -> Records:
    """Logits of a linear probe after some blocks; parts: 0 class token, 1 mean patch token."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from mpft_deploy.dataset import find_samples

    samples = {split: find_samples([manifest], split) for split in ("train", "val")}
    features = {}
    for split, found in samples.items():
        kept = np.load(work / f"{split}_{rule.replace(':', '')}.npy", mmap_mode="r")
        features[split] = np.asarray(kept[:, blocks - 1, parts]).reshape(len(found), -1)
    out = []
    for learnt in SETS:
        which = np.array([one.set == learnt for one in samples["train"]])
        labels = np.array([one.label for one in samples["train"]])
        fit = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=PROBE_PENALTY, class_weight="balanced", max_iter=3000),
        ).fit(features["train"][which], labels[which])
        unseen = np.array([one.set != learnt for one in samples["val"]])
        chosen = [one for one in samples["val"] if one.set != learnt]
        out.append(
            {
                "learnt": learnt,
                "labels": [one.label for one in chosen],
                "generators": [one.generator for one in chosen],
                "logits": fit.decision_function(features["val"][unseen]).tolist(),
            }
        )
    return out


@main.command()
@click.argument("work", type=click.Path(path_type=Path, exists=True))
@click.argument("docs", type=click.Path(path_type=Path))
def draw(work: Path, docs: Path) -> None:
    """Print the tables as Markdown, and draw accuracy against depth and against the cells kept."""
    found = grouped(work)
    table(
        ["fine-tuned on", "seeds", *(f"judged on {rule}" for rule in INFERENCE)],
        (
            [
                one.name,
                str(len({record["seed"] for record in found[one.name, INFERENCE[0]]})),
                *(cell(mean_auc(found[one.name, rule])) for rule in INFERENCE),
            ]
            for one in VARIANTS
            if (one.name, INFERENCE[0]) in found
        ),
    )
    kept = VARIANTS[0].name
    cells = {
        196 if rule == "all" else int(rule.partition(":")[2]): mean_auc(records)
        for (name, rule), records in found.items()
        if name == kept and rule.startswith(("textured", "all"))
    }
    if cells:
        plot(
            {kept: cells}, "most textured cells kept, of 196", docs / "images" / "auc-by-cells.svg"
        )

    path = work / "probes.jsonl"
    curves: dict[str, dict[int, tuple[float, float, float]]] = defaultdict(dict)
    for line in path.read_text().splitlines() if path.exists() else ():
        one = json.loads(line)
        curves[f"{one['pool']}, {one['rule']}"][one["blocks"]] = mean_auc(one["records"])
    table(
        ["frozen, probe of", *(f"{blocks} blocks" for blocks in DEPTHS)],
        ([name, *(f"{curve[b][0]:.3f}" for b in DEPTHS)] for name, curve in curves.items()),
    )
    if curves:
        plot(dict(curves), "blocks of the frozen backbone", docs / "images" / "auc-by-depth.svg")


def plot(curves: dict[str, dict[int, tuple[float, float, float]]], what: str, path: Path) -> None:
    """Mean AUC against a number, a line with its interval for each curve."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in curves.items():
        steps = sorted(curve)
        values, low, high = (
            np.array(column) for column in zip(*(curve[step] for step in steps), strict=True)
        )
        [line] = axes.plot(steps, values, marker="o", label=name)
        if len(curves) == 1:
            axes.fill_between(steps, low, high, alpha=0.2, linewidth=0, color=line.get_color())
    axes.set(xlabel=what, ylabel="mean AUC, unseen generators")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
