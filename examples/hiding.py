"""Which cells to hide while fine-tuning on native pixels, on generators that are left out.

    python examples/hiding.py measure MANIFEST WORK PARQUET --backbone NAME@FILE
    python examples/hiding.py record PARQUET --commit COMMIT
    python examples/hiding.py draw

The question of MPFT. For each rule of TUNED, each of its seeds and each of LEFT_OUT folds the last
blocks of the tower learn from the cells that the rule keeps, one disturbed view of each image; then
the head is fitted anew, and judges the left-out images, by the cells that the detector is shipped
with (JUDGED). Beside it stands the frozen tower by the cells of each of RULES. The first blocks
stay as they are, so that what they give is computed once: into WORK, which an interrupted run goes
on with. `record` makes figures of the logits, and `draw` prints the table of docs/method.md.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import left_out
import numpy as np
import numpy.typing as npt
from left_out import RESAMPLES, ROOT, interval, write_result

if TYPE_CHECKING:
    import torch

    from mpft_deploy.dataset import Sample
    from mpft_deploy.detector.backbone import Backbone
    from mpft_deploy.detector.model import Detector

    Seen = Callable[[Detector, npt.NDArray[Any]], torch.Tensor]
    """What a head reads of some images, f32 [n, F]."""

RESULT = ROOT / "benchmarks" / "results" / "hiding.json"
JUDGED = "textured:143"
RULES = {
    "smooth:64": "the textured ones",
    "textured:64": "the smooth ones",
    "random:64": "any",
    "smooth:127": "the most textured ones",
    "textured:127": "the smoothest ones",
    "all": "none",
    JUDGED: "few, smooth ones",
}
"""Cells that are kept, of 196; of that, which are hidden."""

TUNED = ("smooth:64", "textured:64", "random:64", "all", "smooth:127", "textured:127")
"""What the tower is fine-tuned on."""

AGAINST = {
    "smooth:64": ("textured:64", "random:64", "all"),
    "smooth:127": ("textured:127", "all"),
}
"""What hides texture, and what it is held against."""

SEEDS = (0, 1)
"""Of fine-tuning."""

DEPTH, TAPS, FROZEN = 8, 3, 5
"""Blocks of the detector, those that its head reads, and those that do not learn."""

INVERSE_PENALTY = 0.003
"""Of heads, see `Probe.fit`."""

FOLDS, LEFT_OUT = 3, 2
"""Folds, and how many of them are left out in turn: of the images of others nothing is said."""

IMAGES, STEPS, BATCH = 2000, 84, 32
LEARNING_RATE = 2e-5

Array = npt.NDArray[Any]


@click.group()
def cli() -> None:
    """Measure and draw."""


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="As `mpft train` takes it.")
def measure(manifest: Path, work: Path, parquet: Path, backbone: str) -> None:
    """Fine-tune by each rule in each fold, and write the logits of what was left out."""
    from mpft_deploy.detector.backbone import load_backbone

    work.mkdir(parents=True, exist_ok=True)
    samples, assigned, columns = draw_images(manifest)
    labels = columns["label"]
    tower = load_backbone(backbone)
    net = detector(tower).eval()
    states = first_blocks(net, samples, work)
    begun: dict[str, Array] = {}
    for seed, rule in product(SEEDS, TUNED):
        logits = columns[f"tuned, {rule}|{seed}|0"] = np.empty(len(samples), np.float32)
        seen = partial(from_states, states[rule])
        for fold in range(LEFT_OUT):
            kept = work / f"tuned-{rule.replace(':', '-')}-{seed}-{fold}.npy"
            if not kept.exists():
                if rule not in begun:
                    plain = detector(tower, taps=1).eval()
                    begun[rule] = read(plain, seen, len(samples))
                learner, others, weights = begin(tower, begun[rule], samples, assigned, fold)
                thaw(learner, FROZEN)
                loss = partial(plain_loss, seen, labels, weights)
                tune(learner, loss, others, labels[others], seed * FOLDS + fold)
                tuned = detector(tower).eval()
                tuned.visual.load_state_dict(learner.visual.state_dict())
                save(kept, read(tuned, partial(from_states, states[JUDGED]), len(samples)))
            logits[assigned == fold] = judged(np.load(kept), samples, assigned, fold)
            click.echo(f"{rule}: seed {seed}, fold {fold + 1} of {LEFT_OUT}")
    for rule in RULES:
        features = read(net, partial(from_states, states[rule]), len(samples))
        logits = columns[f"frozen, {rule}|0|0"] = np.empty(len(samples), np.float32)
        for fold in range(LEFT_OUT):
            logits[assigned == fold] = judged(features, samples, assigned, fold)
    write_columns(parquet, columns)


def detector(tower: Backbone, taps: int = TAPS) -> Detector:
    """One whose head reads CLIP's embeddings of the class token, as the shipped one's did when this
    was asked."""
    from mpft_deploy.detector.model import Detector

    return Detector.from_backbone(tower, DEPTH, taps=taps, feature="plain")


def first_blocks(net: Detector, samples: Sequence[Sample], work: Path) -> dict[str, Array]:
    """What frozen blocks give of one disturbed view of each image: by rule f16 [n, K + 1, W]."""
    import torch

    from mpft_deploy.detector.batches import disturbed_crops
    from mpft_deploy.detector.model import encode
    from mpft_deploy.spec import KeepRule

    kept = {rule: work / f"states-{rule.replace(':', '-')}.npy" for rule in RULES}
    if not all(path.exists() for path in kept.values()):
        parts: dict[str, list[Array]] = {rule: [] for rule in RULES}
        for crops in disturbed_crops(samples, net.tower.size, 0, 0):
            for rule in RULES:
                encoded = encode(crops, net.tower.patch, KeepRule.parse(rule))
                with torch.inference_mode():
                    tokens = net.tokens(*encoded, FROZEN)
                parts[rule].append(tokens.numpy().astype(np.float16))
            click.echo(f"{sum(map(len, parts[JUDGED]))} of {len(samples)} views", err=True)
        for rule, path in kept.items():
            save(path, np.concatenate(parts[rule]))
    return {rule: np.load(path, mmap_mode="r") for rule, path in kept.items()}


def save(path: Path, array: Array) -> None:
    """Write a file of WORK, whole or not at all."""
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.rename(path)


def draw_images(manifest: Path) -> tuple[list[Sample], Array, dict[str, Any]]:
    """IMAGES of a manifest, the fold of each, and the columns of a table that say what they are."""
    from mpft_deploy.dataset import drop_contradicting, drop_unreadable, find_samples
    from mpft_deploy.detector.folds import assign_folds

    found = drop_contradicting(drop_unreadable(find_samples([manifest]), click.echo), click.echo)
    drawn = np.random.default_rng(0).permutation(len(found))[:IMAGES]
    samples = [found[place] for place in np.sort(drawn)]
    assigned = assign_folds(samples, FOLDS, 0)
    columns = {
        "path": [sample.path.name for sample in samples],
        "label": np.array([sample.label for sample in samples], np.int8),
        "group": [sample.generator or sample.set for sample in samples],
        "fold 0": assigned,
    }
    return samples, assigned, columns


def write_columns(parquet: Path, columns: Mapping[str, Any]) -> None:
    """Those of the images that were left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mpft_deploy.files import write_atomic

    buffer, judged_ones = io.BytesIO(), pa.array(columns["fold 0"] < LEFT_OUT)
    pq.write_table(pa.table(dict(columns)).filter(judged_ones), buffer, compression="zstd")
    write_atomic(parquet, buffer.getvalue())


def judged(features: Array, samples: Sequence[Sample], assigned: Array, fold: int) -> Array:
    """Logits f32 of the fold, by a head of the others."""
    from mpft_deploy.detector.folds import fit_on_looks

    others = np.flatnonzero(assigned != fold)
    kept = [samples[place] for place in others]
    head = fit_on_looks(features[None, others], kept, INVERSE_PENALTY)
    return head.logits(features[assigned == fold])


def from_states(states: Array, net: Detector, places: Array) -> torch.Tensor:
    """What the head reads of some images, f32 [n, F], from what the frozen blocks gave."""
    import torch

    return net.features_from(torch.from_numpy(states[places].astype(np.float32)), FROZEN)


def read(net: Detector, seen: Seen, count: int) -> Array:
    """What the head reads of all images, f32 [count, F]."""
    import torch

    with torch.inference_mode():
        parts = [
            seen(net, places).numpy()
            for places in np.split(np.arange(count), range(BATCH, count, BATCH))
        ]
    return np.concatenate(parts)


def begin(
    tower: Backbone, begun: Array, samples: Sequence[Sample], assigned: Array, fold: int
) -> tuple[Detector, Array, Array]:
    """What is to be fine-tuned, with a fitted head; the places of the images of other folds, and
    what each image counts, f64 [n].

    Args:
        begun: what that head reads of all images before.
    """
    from mpft_deploy.detector.probe import Probe, sample_weights

    others, weights = np.flatnonzero(assigned != fold), np.zeros(len(samples))
    kept = [samples[place] for place in others]
    weights[others] = sample_weights(kept)
    learner = detector(tower, taps=1)
    labels = [sample.label for sample in kept]
    Probe.fit(begun[None, others], labels, weights[others], INVERSE_PENALTY).put_into(learner)
    return learner, others, weights


def plain_loss(
    seen: Seen, labels: Array, weights: Array, model: Detector, chosen: Array, step: int
) -> torch.Tensor:
    """Cross entropy of the chosen images, each with what it counts."""
    return cross_entropy(model.judge(seen(model, chosen)), labels[chosen], weights[chosen])


def cross_entropy(logits: torch.Tensor, labels: Array, weights: Array) -> torch.Tensor:
    """Of logits f32 [n], with what each counts."""
    import torch
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(labels).float(), torch.from_numpy(weights).float()
    )


def thaw(model: Detector, frozen: int) -> None:
    """Let all blocks but the first ones learn, and what stands after the last."""
    for name, parameter in model.visual.named_parameters():
        parts = name.split(".")
        late = "resblocks" in parts and int(parts[2]) >= frozen
        parameter.requires_grad_(late or name in ("ln_post.weight", "proj"))


def tune(
    model: Detector,
    loss: Callable[[Detector, Array, int], torch.Tensor],
    places: Array,
    labels: Array,
    seed: int,
    rate: float = LEARNING_RATE,
) -> None:
    """Fine-tune what may learn, and the fitted head, as `mpft train` does.

    Args:
        loss: of a model, images and a step.
        places: of the images that are learnt from, i64 [n].
        labels: of these, [n].
    """
    import torch

    from mpft_deploy.detector.batches import BalancedOrder
    from mpft_deploy.detector.loop import CLIP_NORM
    from mpft_deploy.detector.optimiser import Tower, optimise, schedule
    from mpft_deploy.detector.settings import TrainSettings

    torch.manual_seed(seed)
    optimiser = optimise(Tower(model), model.head, TrainSettings(epochs=1, backbone_lr=rate))
    rates = schedule(optimiser, STEPS)
    order = BalancedOrder(labels.tolist(), BATCH, seed, range(len(labels)))
    model.train()
    for step in range(STEPS):
        rates.step_update(step + 1)
        value = loss(model, places[order.indices(step)], step)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimiser.step()
        click.echo(f"step {step + 1} of {STEPS}: loss {float(value.detach()):.3f}", err=True)


@cli.command()
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--commit", required=True, help="At which the logits were measured.")
def record(parquet: Path, commit: str) -> None:
    """Figures of logits."""
    command = "python examples/hiding.py record docs/hiding.parquet"
    write_result(RESULT, "hiding", read_figures(parquet), command, commit)


def read_figures(parquet: Path, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Of rules: AUC frozen, by their own cells, and tuned on these, by JUDGED; against JUDGED.

    What is tuned with several seeds has their mean, and each of them.
    """
    figures = left_out.read_figures(parquet, resamples, SEEDS)
    base = figures.of(f"frozen, {JUDGED}", "one")[:, 0]
    rules: dict[str, Any] = {}
    for rule in RULES:
        rules[rule] = {}
        for state in ("frozen", "tuned") if rule in TUNED else ("frozen",):
            mine = figures.of(f"{state}, {rule}", "one")[:, 0]
            rules[rule][state] = {"auc": interval(mine), "gain": interval(mine - base)}
        for seed in SEEDS if rule in TUNED else ():
            alone = left_out.read_figures(parquet, 0, seeds=(seed,))
            rules[rule]["tuned"][f"seed {seed}"] = alone.of(f"tuned, {rule}", "one")[0, 0]
    tuned = {rule: figures.of(f"tuned, {rule}", "one")[:, 0] for rule in TUNED}
    return {
        "images": figures.count,
        "folds": LEFT_OUT,
        "steps": STEPS,
        "rules": rules,
        "hiding textured cells": {
            f"{hidden} against {other}": interval(tuned[hidden] - tuned[other])
            for hidden, others in AGAINST.items()
            for other in others
        },
    }


@cli.command()
def draw() -> None:
    """The table."""
    found = json.loads(RESULT.read_bytes())
    click.echo(
        "| cells kept | hidden | frozen, by these cells | against textured:143 "
        "| fine-tuned on these, judged by textured:143 | against frozen |\n"
        "|---|---|---|---|---|---|"
    )
    for rule, one in found["rules"].items():
        cells = [cell(one[state]) if state in one else "– | –" for state in ("frozen", "tuned")]
        click.echo(f"| {rule} | {RULES[rule]} | {' | '.join(cells)} |")


def cell(one: Mapping[str, Mapping[str, float]]) -> str:
    """AUC and gain of a row, with their intervals."""
    auc, gain = one["auc"], one["gain"]
    return (
        f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f}) | {gain['value']:+.3f} "
        f"({gain['low']:+.3f} to {gain['high']:+.3f})"
    )


if __name__ == "__main__":
    cli()
