"""What only a look into the loop shows: that it learns what it is told, at the rates it is told.

After training the head is fitted anew, so a finished detector is good on easy images even if every
step led away from them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch.nn import functional

from mpft_deploy.dataset import find_samples
from mpft_deploy.detector.backbone import load_backbone
from mpft_deploy.detector.batches import training_batches
from mpft_deploy.detector.evaluate import image_logits
from mpft_deploy.detector.loop import Images, Loop
from mpft_deploy.detector.lora import MATRICES, merged
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
    train = find_samples([world / "train"])
    images = Images(train, find_samples([world / "val"]), train)
    run = RunFolder(tmp_path / "detector")
    run.start()
    model = Detector.from_backbone(load_backbone(tiny_backbone), DEPTH)
    made = Loop(model, images, run, Progress(settings=settings, data={}), Listener())
    made.start()
    return made


def copy_of(loop: Loop, **options: object) -> Loop:
    """Another loop from where one stands."""
    model = Detector.from_backbone(load_backbone(loop.settings.backbone), DEPTH)
    made = Loop(model, loop.images, loop.run_folder, loop.progress, Listener(), **options)  # type: ignore[arg-type]
    made.restore({name: value.numpy().copy() for name, value in loop._state().items()})
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
    warm_up = 4  # three tenths of twelve steps
    for name, rate in rates.items():
        moved = (after[name] - before[name]).abs().max().item()
        # Weight decay, 1 % of the rate times the weight, is the rest.
        assert moved == pytest.approx(rate / warm_up, rel=0.05), name


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_every_weight_goes_down_the_gradient_of_the_loss(
    loop: Loop, micro_batch: int | None
) -> None:
    settings = msgspec.structs.replace(loop.settings, batch=8)
    loop.progress = msgspec.structs.replace(loop.progress, settings=settings)
    stepped = copy_of(loop, micro_batch=micro_batch)
    model = Detector.from_backbone(load_backbone(settings.backbone), DEPTH)
    model.load_state_dict(stepped.model.state_dict())
    batch = next(
        training_batches(stepped.images.train, stepped.masking, batch=8, seed=3, first=0, stop=1)
    )
    logits = model.train()(batch.patches, batch.positions)
    functional.binary_cross_entropy_with_logits(logits, batch.labels).backward()
    one_step(stepped)
    after = dict(stepped.model.named_parameters())
    for name, before in model.named_parameters():
        assert before.grad is not None
        moved, clear = after[name] - before, before.grad.abs() > 1e-5
        if after[name].requires_grad:
            assert clear.any(), name
            assert (moved * before.grad)[clear].max() < 0, name


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


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_parts_of_a_batch_teach_what_the_whole_teaches(loop: Loop, micro_batch: int) -> None:
    """Statistics, dropout and loss are those of the batch, whatever the parts are."""
    settings = msgspec.structs.replace(loop.settings, batch=8, dropout=0.3, train_keep="smooth:6")
    loop.progress = msgspec.structs.replace(loop.progress, settings=settings)
    whole, parts = copy_of(loop), copy_of(loop, micro_batch=micro_batch)
    for one in (whole, parts):
        one.run(go_on)
    assert parts.reporter.losses == pytest.approx(whole.reporter.losses, abs=2e-3)  # of 3 places
    start, got = loop.model.state_dict(), parts.model.state_dict()
    rate = settings.backbone_lr
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(got[name], value, atol=0.02 * rate, rtol=1e-4)
        if value.ndim > 1:
            assert (value - start[name]).abs().max() > 0.1 * rate, name


def test_rates_rise_and_then_fall(loop: Loop) -> None:
    rates = []
    for step in range(1, loop.total + 1):
        loop.schedule.step_update(step)
        rates.append(loop.optimiser.param_groups[-1]["lr"] / loop.settings.head_lr)
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(1)
    assert top == 3  # after three tenths of twelve steps
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_low_rank_updates_are_all_that_is_learnt(loop: Loop) -> None:
    settings = msgspec.structs.replace(loop.settings, lora=2, ema=0.5, taps=1)
    loop.progress = msgspec.structs.replace(loop.progress, settings=settings)
    adapted = Loop(loop.model, loop.images, loop.run_folder, loop.progress, Listener())
    before = {k: v.clone() for k, v in load_backbone(settings.backbone).weights.items()}
    adapted.run(go_on)
    learnt = merged(loop.model.visual)
    averaged = adapted.finished(None, "float32", go_on).model.visual.state_dict()
    assert learnt.keys() == averaged.keys() <= before.keys()
    for name, weight in learnt.items():
        change = weight - before[name]
        if name.endswith(MATRICES):
            assert int(torch.linalg.matrix_rank(change, atol=1e-6)) in (1, 2), name
            # The average lags behind, on the way.
            lag = (averaged[name] - before[name]).norm() / change.norm()
            assert 0.3 < lag < 1, name
        else:
            assert not change.any(), name
