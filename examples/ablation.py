"""Which part of the recipe does what, on generators that training never saw.

    python examples/ablation.py probe MANIFEST BACKBONE WORK
    python examples/ablation.py run MANIFEST BACKBONE WORK [--only TEXT]
    python examples/ablation.py latency BACKBONE WORK
    python examples/ablation_tables.py WORK DOCS

Each learns from one set of the manifest's `train` split and is judged on the other set's `val`
images: neither its generators nor its kind of content were learnt from. `probe` keeps a frozen
backbone's features after each block; `run` fine-tunes each variant, appends its logits to
WORK/logits.jsonl and goes on where it stopped; `latency` times one view; `ablation_tables.py` makes
tables and pictures of all, without a backbone.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

SETS = ("faces", "sd1")
CELLS = 60
MIXED = "smooth:{0}+textured:{0}"
INFERENCE = ("all", *(f"{kind}:{CELLS}" for kind in ("textured", "random", "smooth")))
FEWER, MORE = (20,), (128,)
DEPTHS = range(4, 13)
TRAINED_DEPTHS = (4, 6, 9, 12)
BLENDS = (1.0, 0.7, 0.5, 0.3, 0.0)
PROBED = ("all", f"textured:{CELLS}")
POOLS = {
    "class token": ([0], 1),
    "class + mean patch token": ([0, 1], 1),
    "class tokens of this and three blocks before": ([0], 4),
}
"""Which tokens (0 class, 1 mean patch), after how many blocks."""
PROBE_PENALTY = 0.1
VIEWS = 40
"""Timed for one figure of latency."""

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One recipe: its settings, the rules it is judged by, and how much of what was learnt stays.

    Of each share in `blends` but 1, the frozen backbone makes up the rest; the name tells which.
    """

    name: str
    settings: dict[str, Any]
    rules: tuple[str, ...] = INFERENCE
    blends: tuple[float, ...] = (1.0,)


def variant(rule: str, blends: tuple[float, ...] = (1.0,), **changes: Any) -> Variant:
    """A variant of the default recipe, named by its training rule and what else it changes."""
    told = {"train_keep": rule, "keep": f"textured:{CELLS}", **changes}
    changed = "".join(f", {name} {value}" for name, value in changes.items())
    return Variant(f"{rule}{changed}", told, INFERENCE, blends)


def at_cells(count: int) -> Variant:
    """The mixture with other numbers of cells, judged by these too."""
    rule = MIXED.format(count)
    own = (f"textured:{count}", "all")
    return Variant(rule, {"train_keep": rule, "keep": own[0]}, own)


VARIANTS = [
    variant(f"textured:{CELLS}", (1.0, 0.5)),
    variant(MIXED.format(CELLS), BLENDS),
    *(variant(f"{kind}:{CELLS}") for kind in ("smooth", "random")),
    variant(MIXED.format(CELLS), taps=1),
    *(at_cells(count) for count in (*FEWER, *MORE)),
    *(variant(MIXED.format(CELLS), depth=depth) for depth in TRAINED_DEPTHS if depth != 9),
    variant("all"),
    *(variant(f"{kind}:{CELLS}", fill="zero") for kind in ("textured", "smooth", "random")),
    variant(MIXED.format(CELLS), augment=0.0),
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
    from mpft_deploy.spec import KeepRule

    settings = TrainSettings(backbone=backbone, seed=seed, **variant.settings)
    train = [one for one in find_samples([manifest], "train") if one.set == learnt]
    unseen = [one for one in find_samples([manifest], "val") if one.set != learnt]
    whole = load_backbone(backbone)
    depth = settings.blocks(whole.geometry)
    model = Detector.from_backbone(whole, depth, dropout=settings.dropout)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "detector")
        run.start(overwrite=False)
        # Validation has its turn below, by more rules.
        images = Images(train, [next(o for o in unseen if o.label == kind) for kind in (0, 1)])
        loop = Loop(model, images, run, Progress(settings=settings, data={}), Lines())
        loop.start()
        loop.run(lambda: None)
        rules = [KeepRule.parse(rule) for rule in variant.rules]
        records = []
        for blend in variant.blends:
            loop.settings = msgspec.structs.replace(settings, blend=blend)
            finished = loop.finished(whole, lambda: None)
            logits = image_logits(finished, unseen, rules, bf16=True)
            records += [
                {
                    "variant": variant.name if blend == 1 else f"{variant.name}, blend {blend:g}",
                    "seed": seed,
                    "learnt": learnt,
                    "rule": rule,
                    "labels": [one.label for one in unseen],
                    "generators": [one.generator for one in unseen],
                    "logits": [round(float(value), 4) for value in values],
                }
                for rule, values in zip(variant.rules, logits, strict=True)
            ]
    return records


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
                began = time.monotonic()
                records = run_one(variant, seed, manifest, backbone, learnt)
                click.echo(f"  {time.monotonic() - began:.0f} s")
                with (work / "logits.jsonl").open("a") as file:
                    file.writelines(json.dumps(one) + "\n" for one in records)


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
        records = probe_records(manifest, work, rule, blocks, *POOLS[name])
        with path.open("a") as file:
            told = {"rule": rule, "pool": name, "blocks": blocks, "records": records}
            file.write(json.dumps(told) + "\n")
        click.echo(f"probed {name}, {rule}, {blocks} blocks")


def probe_records(
    manifest: Path, work: Path, rule: str, blocks: int, parts: list[int], taps: int
) -> Records:
    """Logits of a linear probe of some tokens after the last `taps` of that many blocks."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from mpft_deploy.dataset import find_samples

    samples = {split: find_samples([manifest], split) for split in ("train", "val")}
    features = {}
    for split, found in samples.items():
        kept = np.load(work / f"{split}_{rule.replace(':', '')}.npy", mmap_mode="r")
        features[split] = np.asarray(kept[:, blocks - taps : blocks, parts]).reshape(len(found), -1)
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
@click.argument("backbone")
@click.argument("work", type=click.Path(path_type=Path))
def latency(backbone: str, work: Path) -> None:
    """Time one view by blocks and by cells kept: PyTorch in float32, random cells."""
    import torch

    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.model import Detector, encode
    from mpft_deploy.spec import KeepRule

    whole = load_backbone(backbone)
    view = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    wanted = [(depth, CELLS) for depth in TRAINED_DEPTHS]
    wanted += [(9, count) for count in (*FEWER, *MORE, whole.geometry.cells)]
    ms = {}
    for depth, cells in wanted:
        model = Detector.from_backbone(whole, depth).eval()
        cut = encode(view, whole.geometry.patch, KeepRule.parse(f"random:{cells}"))
        times = []
        with torch.inference_mode():
            for _ in range(VIEWS + 5):
                began = time.perf_counter()
                model(*cut)
                times.append(time.perf_counter() - began)
        ms[f"{depth},{cells}"] = round(float(np.median(times[5:])) * 1e3, 2)
        click.echo(f"{depth} blocks, {cells} cells: {ms[f'{depth},{cells}']} ms")
    work.mkdir(parents=True, exist_ok=True)
    told = {"threads": torch.get_num_threads(), "ms": ms}
    (work / "latency.json").write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
