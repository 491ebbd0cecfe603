"""What only a look into the loop shows: that it learns what it is told, at the rates it is told.

After training the head is fitted anew, so a finished detector is good on easy images even if every
step led away from them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from mpft_deploy.dataset import find_samples
from mpft_deploy.detector.backbone import load_backbone
from mpft_deploy.detector.evaluate import image_logits
from mpft_deploy.detector.loop import Images, Loop, one_cycle
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.run_folder import Progress, RunFolder
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.evaluate.scores import score
from mpft_deploy.spec import KeepRule

DEPTH = 2


class Listener:
    def __init__(self) -> None:
        self.losses: list[float] = []

    def line(self, text: str) -> None: ...

    def step(self, done: int, total: int, text: str) -> None:
        self.losses.append(float(text.removeprefix("loss ")))


def go_on() -> None: ...


def one_step(loop: Loop) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(stop)


@pytest.fixture
def loop(world: Path, tiny_backbone: str, tmp_path: Path) -> Loop:
    """At its beginning, from a probe."""
    settings = TrainSettings(
        backbone=tiny_backbone, train_keep="all", keep="textured:7", epochs=1, batch=2, seed=3,
        backbone_lr=1e-3, head_lr=3e-2, layer_decay=0.5, dropout=0.0, augment=0.0, precision="f32",
    )  # fmt: skip
    images = Images(find_samples([world / "train"]), find_samples([world / "val"]))
    run = RunFolder(tmp_path / "detector")
    run.start()
    model = Detector.from_backbone(load_backbone(tiny_backbone), DEPTH)
    made = Loop(model, images, run, Progress(settings=settings, data={}), Listener())
    made.start()
    return made


def auc(loop: Loop) -> float:
    [logits] = image_logits(loop.model, loop.images.val, [KeepRule("all")])
    return score([sample.label for sample in loop.images.val], logits).auc or 0.0


def test_a_head_of_the_wrong_sign_is_unlearnt(loop: Loop) -> None:
    with torch.no_grad():
        loop.model.head.weight.neg_()
        loop.model.head.bias.neg_()
    assert auc(loop) < 0.1
    loop.run(go_on)
    assert auc(loop) > 0.9
    losses = loop.reporter.losses
    assert losses[0] > 0.7 > 0.5 > max(losses[-2:])
    [epoch] = loop.progress.epochs
    assert epoch.validation.auc is not None
    assert epoch.validation.auc > 0.9


def test_every_block_moves_at_its_own_rate(loop: Loop) -> None:
    """The first step of Adam moves each weight by its rate, whatever the gradient's size."""
    before = {name: value.clone() for name, value in loop.model.named_parameters()}
    settings = loop.settings
    one_step(loop)
    ages = {
        "visual.proj": 0,
        "visual.transformer.resblocks.1.mlp.c_fc.bias": 1,
        "visual.transformer.resblocks.0.mlp.c_fc.bias": 2,
        "visual.ln_pre.bias": 3,
        "visual.class_embedding": 3,
    }
    rates = {
        **{name: settings.backbone_lr * settings.layer_decay**age for name, age in ages.items()},
        "head.weight": settings.head_lr,
    }
    after = dict(loop.model.named_parameters())
    for name, rate in rates.items():
        moved = (after[name] - before[name]).abs().max().item()
        # Weight decay, 1 % of the rate times the weight, is the rest.
        assert moved == pytest.approx(rate * one_cycle(0), rel=0.05), name


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("f32", torch.float32)])
def test_the_precision_is_that_of_the_matmuls(
    loop: Loop, precision: str, kind: torch.dtype
) -> None:
    settings = msgspec.structs.replace(loop.settings, precision=precision)
    progress = msgspec.structs.replace(loop.progress, settings=settings)
    kinds = set()
    block = loop.model.visual.transformer.resblocks[0].mlp.c_fc
    block.register_forward_hook(
        lambda module, given, out: kinds.add(out.dtype)  # an update of a set gives None
    )
    one_step(Loop(loop.model, loop.images, loop.run_folder, progress, Listener()))
    assert kinds == {kind}
