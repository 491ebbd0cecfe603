"""Which part of the recipe does what, on generators that training never saw.

    python examples/ablation.py probe MANIFEST BACKBONE WORK
    python examples/ablation.py run MANIFEST BACKBONE WORK [--only TEXT]
    python examples/ablation.py latency BACKBONE WORK
    python examples/ablation_tables.py WORK DOCS

Each learns from one set of the manifest's `train` split and is judged on the other set's `val`
images, as they are and resized, blurred or re-saved: neither its generators nor its kind of content
were learnt from. `probe` keeps a frozen
backbone's features after each block; `run` fine-tunes each variant, appends its logits to
WORK/logits.jsonl and goes on where it stopped; `latency` times one view; `ablation_tables.py` makes
tables and pictures of all, without a backbone.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np

if TYPE_CHECKING:
    from mpft_deploy.dataset import Sample
    from mpft_deploy.images import U8

SETS = ("faces", "sd1")
CELLS, MORE = 60, 128
MIXED = "smooth:{0}+textured:{0}"
KINDS = ("textured", "random", "smooth")
INFERENCE = ("all", *(f"{kind}:{CELLS}" for kind in KINDS))
DEPTHS = range(4, 13)
BLENDS = (1.0, 0.7, 0.5, 0.3, 0.0)
PROBED = ("all", f"textured:{CELLS}")
POOLS = {
    "class token": ([0], 1),
    "class + mean patch token": ([0, 1], 1),
    "class tokens of this and three blocks before": ([0], 4),
}
"""Which tokens (0 class, 1 mean patch), after how many blocks."""
PROBE_PENALTY = 0.1
TIMED = [(depth, CELLS) for depth in (4, 6, 9, 12)] + [(9, count) for count in (20, MORE, 196)]
TIMED += [(depth, 196) for depth in (8, 10, 12)]
VIEWS = 40
"""Timed for one figure of latency."""

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One recipe, and how it is finished and judged: every rule by each share and number of taps.

    rules: each has a head of its own.
    blends: how much of what was learnt stays; the frozen backbone makes up the rest.
    taps: after how many blocks, the last ones, the head reads the class token.
    """

    name: str
    settings: dict[str, Any]
    rules: tuple[str, ...]
    blends: tuple[float, ...] = (1.0, 0.5)
    taps: tuple[int, ...] = (4,)


def variant(
    train_keep: str,
    rules: tuple[str, ...],
    blends: tuple[float, ...] = (1.0, 0.5),
    taps: tuple[int, ...] = (4,),
    **changes: Any,
) -> Variant:
    """A variant named by its training rule and what else it changes."""
    changed = "".join(f", {name} {value}" for name, value in changes.items())
    return Variant(train_keep + changed, {"train_keep": train_keep, **changes}, rules, blends, taps)


FEW, MANY = (f"textured:{CELLS}", "all"), (f"textured:{MORE}", "all")
MIXTURE = MIXED.format(CELLS)
TAPS = (1, 2, 4, 6, 9)
VARIANTS = [
    variant("all", (*INFERENCE, f"textured:{MORE}"), taps=TAPS),
    variant(MIXTURE, INFERENCE, BLENDS),
    *(variant(f"{kind}:{CELLS}", INFERENCE) for kind in KINDS),
    *(variant(MIXED.format(count), (f"textured:{count}", "all")) for count in (20, MORE)),
    *(variant(MIXTURE, FEW, depth=depth) for depth in (4, 6, 12)),
    *(variant("all", MANY, taps=(1, 4, 6), depth=depth) for depth in (8, 10)),
    variant("all", FEW, (1.0, 0.5, 0.0), (1, 4, 6, 8, 12), depth=12),
    *(variant(f"{kind}:{CELLS}", FEW, (1.0,), fill="zero") for kind in KINDS),
    variant(MIXTURE, FEW, augment=0.0),
    variant(f"textured:{MORE}", (*FEW, f"textured:{MORE}")),
    variant(f"random:{MORE}+textured:{MORE}", (*FEW, f"textured:{MORE}")),
    variant("all", MANY, augment=1.0),
    *(variant("all", MANY, backbone_lr=rate) for rate in (1e-5, 4e-5)),
    *(variant("all", MANY, epochs=count) for count in (1, 4)),
    *(variant("all", MANY, layer_decay=decay) for decay in (0.6, 1.0)),
    variant("all", MANY, head_lr=1e-4),
    variant("all", MANY, dropout=0.5),
    variant("all", MANY, epochs=4, backbone_lr=4e-5),
]


class Lines:
    """Who is told how a run goes: nobody but the terminal, a line now and then."""

    def line(self, text: str) -> None:
        click.echo(f"  {text}")

    def step(self, done: int, total: int, loss: float) -> None:
        if done % 20 == 0 or done == total:
            click.echo(f"  step {done} of {total}, loss {loss:.3f}")


def arriving(samples: list[Sample], size: int) -> Iterator[U8]:
    """Centre views u8 [1, size, size, 3] of images that were resized or blurred, and re-saved."""
    from mpft_deploy.detector.batches import disturb
    from mpft_deploy.images import decode_image
    from mpft_deploy.views import views

    for place, sample in enumerate(samples):
        rng = np.random.default_rng((99, 7, place))
        yield views(disturb(decode_image(sample.path), rng, 1.0), size)


def run_one(
    variant: Variant, seed: int, manifest: Path, backbone: str, learnt: str, device: str
) -> Records:
    """Train on one set; logits of the other's images, as they are and as they may arrive."""
    from mpft_deploy.dataset import find_samples
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.evaluate import centre_crops, crop_logits
    from mpft_deploy.detector.loop import Images, Loop
    from mpft_deploy.detector.model import Detector, choose_device
    from mpft_deploy.detector.run_folder import Progress, RunFolder
    from mpft_deploy.detector.settings import TrainSettings
    from mpft_deploy.spec import KeepRule

    # Validation has its turn below, by more rules.
    told = {**variant.settings, "keep": variant.rules[0]}
    settings = TrainSettings(backbone=backbone, seed=seed, **told)
    train = [one for one in find_samples([manifest], "train") if one.set == learnt]
    unseen = [one for one in find_samples([manifest], "val") if one.set != learnt]
    whole = load_backbone(backbone)
    size = whole.geometry.size
    judged = {
        False: np.concatenate(list(centre_crops(unseen, size))),
        True: np.concatenate(list(arriving(unseen, size))),
    }
    depth = settings.blocks(whole.geometry)
    model = Detector.from_backbone(whole, depth, dropout=settings.dropout)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "detector")
        run.start(overwrite=False)
        images = Images(train, [next(o for o in unseen if o.label == kind) for kind in (0, 1)])
        progress = Progress(settings=settings, data={})
        loop = Loop(model.to(choose_device(device)), images, run, progress, Lines())
        loop.start()
        loop.run(lambda: None)
        records = []
        for blend, rule, taps in product(variant.blends, variant.rules, variant.taps):
            loop.settings = msgspec.structs.replace(settings, blend=blend, keep=rule, taps=taps)
            finished = loop.finished(whole, lambda: None).eval()
            for changed, crops in judged.items():
                logits = crop_logits(finished, crops, KeepRule.parse(rule), bf16=True)
                records.append(
                    {
                        "variant": variant.name,
                        "seed": seed,
                        "learnt": learnt,
                        "rule": rule,
                        "blend": blend,
                        "taps": taps,
                        "changed": changed,
                        "labels": [one.label for one in unseen],
                        "generators": [one.generator for one in unseen],
                        "logits": [round(float(value), 4) for value in logits],
                    }
                )
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
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def run(manifest: Path, backbone: str, work: Path, only: str, seeds: int, device: str) -> None:
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
                records = run_one(variant, seed, manifest, backbone, learnt, device)
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
    ms = {}
    for depth, cells in TIMED:
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
