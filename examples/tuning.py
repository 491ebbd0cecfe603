"""What else may be tried, while fine-tuning or with a frozen tower, on generators left out.

    python examples/tuning.py measure MANIFEST WORK PARQUET --backbone NAME@FILE --autoencoder FILE
    python examples/tuning.py record PARQUET --commit COMMIT
    python examples/tuning.py draw

Images, folds, views and steps are those of `hiding.py`, and so are WORK and what stands in it; all
is learnt from and judged by the cells that the detector is shipped with, but where cells are
hidden. `record` makes figures of the logits, and `draw` prints the table of docs/method.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import hiding
import left_out
import numpy as np
from hiding import BATCH, FROZEN, JUDGED, LEFT_OUT, STEPS, Array
from left_out import RESAMPLES, ROOT, interval, write_result

from mpft_deploy.images import read_picture

if TYPE_CHECKING:
    import torch
    from hiding import Seen

    from mpft_deploy.dataset import Sample
    from mpft_deploy.detector.backbone import Backbone
    from mpft_deploy.detector.model import Detector

RESULT = ROOT / "benchmarks" / "results" / "tuning.json"
PLAIN = "frozen"

MAKERS = ("autoencoder", "demo")
MORE_MAKERS = (*MAKERS, "several")
"""Of copies: the one that is given, the demo's of decoder.py, and those of decoders.py in turn."""


@dataclass(frozen=True)
class Way:
    """How is learnt.

    deep: in all eight blocks, not in the last three alone; by updates of some rank.
    hidden: by which rule cells are learnt from, and what becomes of the others: "drop" or "zero".
    rank: of updates of the matrices, which alone are learnt (LoRA); 0 for the weights themselves.
    near: what the mean square distance to the frozen features counts, in deviations of these.
    close: what the mean square distance of real images from their mean counts, likewise.
    pairs: what re-made copies of the real images of a batch count, as generated ones.
    makers: of these copies, one of them a batch.
    back: share of the frozen weights in the mean with the learnt ones that is judged, if any.
    """

    name: str
    deep: bool = False
    hidden: tuple[str, str] = (JUDGED, "drop")
    rank: int = 0
    near: float = 0.0
    close: float = 0.0
    pairs: float = 0.0
    makers: tuple[str, ...] = MAKERS
    back: float = 0.0

    @property
    def rate(self) -> float:
        """Learning rate."""
        return 2e-4 if self.rank else hiding.LEARNING_RATE


WAYS = (
    Way("last three blocks", back=0.5),
    Way("pairs with re-made copies", pairs=0.5),
    Way("pairs with copies by eight decoders", pairs=0.5, makers=MORE_MAKERS),
    Way("low rank, last three blocks", rank=8),
    Way("near the frozen features", near=1.0),
    Way("real images close together", close=0.3),
    Way("textured cells black", hidden=("smooth:127", "zero")),
    Way("low rank, all eight blocks", deep=True, rank=8),
)
BACK = "{}, halfway back"

DEEPER = tuple(
    (*blocks, rule)
    for blocks in ((6, 8), (7, 9), (6, 10))
    for rule in ("textured:114", "textured:127", JUDGED, "random:143", "all")
)
"""What a head reads of a frozen tower in place of CLIP's embeddings: the class token itself, after
which blocks, first and last, by which cells."""


@click.group()
def cli() -> None:
    """Measure and draw."""


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="As `mpft train` takes it.")
@click.option("--autoencoder", type=click.Path(path_type=Path), required=True, help="See taesd.py.")
def measure(manifest: Path, work: Path, parquet: Path, backbone: str, autoencoder: Path) -> None:
    """Fine-tune in each way in each fold, and write the logits of what was left out."""
    from mpft_deploy.detector.backbone import load_backbone

    work.mkdir(parents=True, exist_ok=True)
    samples, assigned, columns = hiding.draw_images(manifest)
    bench = Bench(samples, assigned, load_backbone(backbone), work, autoencoder)
    for way in (None, *WAYS):
        for fold in range(LEFT_OUT):
            features = {PLAIN: bench.begun} if way is None else bench.tuned(way, fold)
            for name, one in features.items():
                logits = columns.setdefault(f"{name}|0|0", np.empty(len(samples), np.float32))
                logits[assigned == fold] = hiding.judged(one, samples, assigned, fold)
            click.echo(f"{way.name if way else PLAIN}: fold {fold + 1} of {LEFT_OUT}")
    for one in DEEPER:
        features = bench.deeper(*one)
        logits = columns[f"{PLAIN}, {deep_name(*one)}|0|0"] = np.empty(len(samples), np.float32)
        for fold in range(LEFT_OUT):
            logits[assigned == fold] = hiding.judged(features, samples, assigned, fold)
        click.echo(deep_name(*one))
    hiding.write_columns(parquet, columns)


def deep_name(first: int, last: int, rule: str) -> str:
    """Of one of DEEPER."""
    return f"blocks {first} to {last}, {rule}"


def fast(seen: Seen, net: Detector, places: Array) -> torch.Tensor:
    """As `seen`, in bfloat16 where the processor has it, as `mpft train` computes."""
    import torch

    from mpft_deploy.detector.model import has_bf16

    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
        return seen(net, places)


def from_views(patches: Array, positions: Array, net: Detector, places: Array) -> torch.Tensor:
    """What the head reads of some images, f32 [n, F], by all blocks."""
    import torch

    return net.features(torch.from_numpy(patches[places]), torch.from_numpy(positions[places]))


class Bench:
    """The images as the blocks are given them, and towers that learn from them."""

    def __init__(
        self,
        samples: Sequence[Sample],
        assigned: Array,
        tower: Backbone,
        work: Path,
        autoencoder: Path,
    ) -> None:
        self._samples, self._assigned, self._tower = samples, assigned, tower
        self._labels = np.array([sample.label for sample in samples])
        self._real = np.flatnonzero(self._labels == 0)
        self._work, self._autoencoder = work, autoencoder
        self._whole: tuple[Array, Array] | None = None
        self._net = hiding.detector(tower).eval()
        self.begun: Array = self._kept("begun", lambda: self._read(self._net, self.seen()))
        """What the head reads of the frozen tower."""

    def tuned(self, way: Way, fold: int) -> dict[str, Array]:
        """By name, what the head reads of all images after learning from the other folds."""
        from mpft_deploy.detector.lora import merged

        shares = {way.name: 0.0} | ({BACK.format(way.name): way.back} if way.back else {})

        def learn() -> Array:
            state = merged(self._learnt(way, fold).visual)
            frozen = self._net.visual.state_dict()
            tuned = hiding.detector(self._tower).eval()
            out = []
            for share in shares.values():
                mixed = {name: state[name].lerp(frozen[name], share) for name in frozen}
                tuned.visual.load_state_dict(mixed)
                out.append(self._read(tuned, self.seen(deep=way.deep)))
            return np.stack(out)

        made = self._kept(f"{way.name.replace(' ', '-').replace(',', '')}-{fold}", learn)
        return dict(zip(shares, made, strict=True))

    def deeper(self, first: int, last: int, rule: str) -> Array:
        """The frozen tower's class token after some blocks."""
        from mpft_deploy.detector.model import Detector

        def read() -> Array:
            net = Detector.from_backbone(self._tower, last, taps=last - first + 1).eval()
            return self._read(net, self.seen(rule))

        return self._kept(f"token-{first}-{last}-{rule.replace(':', '-')}", read)

    def seen(self, rule: str = JUDGED, fill: str = "drop", *, deep: bool = False) -> Seen:
        """How a head's features come from images."""
        if not deep:
            return partial(fast, partial(hiding.from_states, self._states(rule, fill)))
        if self._whole is None:
            self._whole = self._views(rule, fill)
        return partial(fast, partial(from_views, *self._whole))

    def _learnt(self, way: Way, fold: int) -> Detector:
        import torch

        from mpft_deploy.detector.lora import adapt

        seen = self.seen(*way.hidden, deep=way.deep)
        own = self.begun if way.hidden[0] == JUDGED else self._read(self._net, seen)
        last = own[:, -self._net.visual.output_dim :]
        learner, others, weights = hiding.begin(
            self._tower, last, self._samples, self._assigned, fold
        )
        torch.manual_seed(fold)
        if way.rank:
            adapt(learner.visual, way.rank)
        else:
            hiding.thaw(learner, FROZEN)
        loss = partial(self._loss, way, seen, weights, last)
        hiding.tune(learner, loss, others, self._labels[others], fold, way.rate)
        return learner.eval()

    def _loss(
        self,
        way: Way,
        seen: Seen,
        weights: Array,
        last: Array,
        model: Detector,
        chosen: Array,
        step: int,
    ) -> torch.Tensor:
        import torch

        features, labels = seen(model, chosen), self._labels[chosen]
        counts = weights[chosen]
        if way.pairs:
            real = chosen[labels == 0]
            kind = np.random.default_rng(step).integers(len(way.makers))
            copied = np.searchsorted(self._real, real)
            copies = partial(hiding.from_states, self._copies(way.makers[kind]))
            features = torch.cat([features, fast(copies, model, copied)])
            labels = np.concatenate([labels, np.ones(len(real))])
            counts = np.concatenate([counts, way.pairs * weights[real]])
        loss = hiding.cross_entropy(model.judge(features), labels, counts)
        scale = torch.from_numpy(last.std(0) + 1e-3)
        if way.near:
            before = torch.from_numpy(last[chosen])
            loss = loss + way.near * ((features - before) / scale).square().mean()
        if way.close:
            middle = torch.from_numpy(last[self._labels == 0].mean(0))
            real = features[torch.from_numpy(labels == 0)]
            loss = loss + way.close * ((real - middle) / scale).square().mean()
        return loss

    def _states(self, rule: str, fill: str) -> Array:
        """What the frozen blocks give of a view of each image, f16 [n, K + 1, W]."""
        name = f"states-{rule.replace(':', '-')}" + ("-zero" if fill == "zero" else "")
        return self._kept(name, lambda: self._first_blocks(*self._views(rule, fill)))

    def _copies(self, maker: str) -> Array:
        """The same of views of real images that were re-made, before they were disturbed."""
        return self._kept(
            f"copies-{maker}",
            lambda: self._first_blocks(*self._encode(self._remade(maker), self._real, JUDGED)),
        )

    def _remade(self, maker: str) -> list[Sample]:
        """The images with the real ones re-made, in files of their own."""
        from PIL import Image

        makes = self._makers(maker)
        folder, made = self._work / maker, list(self._samples)
        folder.mkdir(exist_ok=True)
        for number, place in enumerate(self._real):
            path = folder / f"{place}.png"
            if not path.exists():
                pixels = makes[number % len(makes)](_pixels(made[place]))
                partial_path = path.with_suffix(".part")
                Image.fromarray(pixels).save(partial_path, "PNG", compress_level=1)
                partial_path.rename(path)
            made[place] = replace(made[place], path=path)
            if number % 100 == 0:
                click.echo(f"{maker}: {number} of {len(self._real)} re-made", err=True)
        return made

    def _makers(self, maker: str) -> Sequence[Callable[[Array], Array]]:
        """What re-makes pictures u8 [H, W, 3], one after the other."""
        if maker == "several":
            from decoders import makers

            real = [self._samples[place] for place in self._real]
            return makers(self._work / "decoders", lambda: [_pixels(one) for one in real])
        if maker == "demo":
            from decoder import remake

            return [remake]
        from taesd import Autoencoder

        return [Autoencoder(self._autoencoder)]

    def _views(self, rule: str, fill: str) -> tuple[Array, Array]:
        """A disturbed view of each image, as `encode` gives them."""
        return self._encode(self._samples, range(len(self._samples)), rule, fill)

    def _encode(
        self, samples: Sequence[Sample], places: Sequence[int], rule: str, fill: str = "drop"
    ) -> tuple[Array, Array]:
        from mpft_deploy.detector.batches import disturbed_crops
        from mpft_deploy.detector.model import encode
        from mpft_deploy.spec import KeepRule

        size, patch = self._tower.geometry.size, self._tower.geometry.patch
        keep, zero = KeepRule.parse(rule), fill == "zero"
        parts = [
            encode(crops, patch, keep, zero_fill=zero)
            for crops in disturbed_crops(samples, size, 0, 0, places)
        ]
        patches, positions = zip(*parts, strict=True)
        return np.concatenate(patches), np.concatenate(positions)

    def _first_blocks(self, patches: Array, positions: Array) -> Array:
        import torch

        parts = []
        for first in range(0, len(patches), BATCH):
            encoded = (torch.from_numpy(one[first : first + BATCH]) for one in (patches, positions))
            with torch.inference_mode():
                parts.append(self._net.tokens(*encoded, FROZEN).numpy().astype(np.float16))
        return np.concatenate(parts)

    def _read(self, net: Detector, seen: Seen) -> Array:
        return hiding.read(net, seen, len(self._samples))

    def _kept(self, name: str, make: Callable[[], Array]) -> Array:
        """From a file of that name, which is made if it is not there."""
        path = self._work / f"{name}.npy"
        if not path.exists():
            hiding.save(path, make())
        return np.load(path, mmap_mode="r")


def _pixels(sample: Sample) -> Array:
    return np.ascontiguousarray(read_picture(sample.path).pixels)


@cli.command()
@click.argument("parquet", type=click.Path(path_type=Path))
@click.option("--commit", required=True, help="At which the logits were measured.")
def record(parquet: Path, commit: str) -> None:
    """Figures of logits."""
    command = "python examples/tuning.py record docs/tuning.parquet"
    write_result(RESULT, "tuning", read_figures(parquet), command, commit)


def read_figures(parquet: Path, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Of ways: AUC, and against the frozen tower."""
    figures = left_out.read_figures(parquet, resamples, seeds=(0,))
    base = figures.of(PLAIN, "one")[:, 0]
    ways: dict[str, Any] = {}
    for way in WAYS:
        for name in (way.name, BACK.format(way.name)) if way.back else (way.name,):
            mine = figures.of(name, "one")[:, 0]
            ways[name] = {"auc": interval(mine), "gain": interval(mine - base)}
    deeper = {}
    for one in DEEPER:
        mine = figures.of(f"{PLAIN}, {deep_name(*one)}", "one")[:, 0]
        deeper[deep_name(*one)] = {"auc": interval(mine), "gain": interval(mine - base)}
    return {
        "images": figures.count,
        "folds": LEFT_OUT,
        "steps": STEPS,
        PLAIN: interval(base),
        "ways": ways,
        "deeper": deeper,
    }


@cli.command()
def draw() -> None:
    """The tables."""
    found = json.loads(RESULT.read_bytes())
    click.echo("| fine-tuned | AUC over generators | against frozen |\n|---|---|---|")
    for name, one in found["ways"].items():
        click.echo(f"| {name} | {hiding.cell(one)} |")
    click.echo("\n| class token after | AUC over generators | against frozen |\n|---|---|---|")
    for name, one in found["deeper"].items():
        click.echo(f"| {name} | {hiding.cell(one)} |")


if __name__ == "__main__":
    cli()
