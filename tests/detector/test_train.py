"""Whole runs of a tiny model: results, interruption, resumption, full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from telling import fill
from training import STEPS, Listener, events, go, interrupt, weights, without_epochs

from mpft_deploy.bundle import Device
from mpft_deploy.dataset import Sample, find_samples
from mpft_deploy.detector.backbone import load_backbone
from mpft_deploy.detector.evaluate import crop_logits, image_logits
from mpft_deploy.detector.model import Detector, has_bf16
from mpft_deploy.detector.probe import sample_weights
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.detector.train import InterruptedRunError, train
from mpft_deploy.detector_folder import WEIGHTS, read_detector, write_detector
from mpft_deploy.errors import EnvironmentLacksError, GateError, InputError, UsageError
from mpft_deploy.evaluate.scores import score
from mpft_deploy.files import sha256


@pytest.mark.parametrize(
    ("stored", "golden"),
    [("int8", "synthetic"), ("int6", "validation"), ("float32", "validation")],
)
def test_run_gives_a_detector_that_proves_itself(
    stored: str, golden: str, world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    out = tmp_path / "detector"
    listener = Listener()
    trained = go(world, out, settings, listener, stored=stored, golden=golden)
    assert trained.validation.auc is not None
    assert trained.validation.auc > 0.95
    assert list(listener.losses) == list(range(1, STEPS + 1))

    model, folder = Detector.from_folder(out)
    spec = folder.spec
    # The stored weights give the golden logits, the calibration and the score.
    logits = crop_logits(model, folder.golden.crops, spec.keep_rule)
    np.testing.assert_allclose(logits, folder.golden.logits, atol=1e-5)
    assert len(logits) == (20 if golden == "validation" else 32)
    samples = find_samples([world / "val"])
    [again] = image_logits(model, samples, [spec.keep_rule])
    labels = [sample.label for sample in samples]
    assert score(labels, again, -spec.calibration.shift) == trained.validation
    probability = spec.calibration.probability(float(again[0]))
    assert 0 < probability < 1

    assert (spec.depth, spec.keep, spec.train_keep) == (2, "textured:7", "smooth:6")
    card = folder.card
    assert "our reconstruction" in card
    assert "| train | colours | 12 | 12 |" in card
    text = (out / "detector.json").read_text() + card
    assert str(tmp_path.parent) not in text  # no folder of this machine
    assert ((out / WEIGHTS).stat().st_size < 200_000) == (stored != "float32")
    run_folder = tmp_path / "detector.run"
    [curves] = (run_folder / "tensorboard").iterdir()
    drawn = curves.read_bytes()
    assert drawn.count(b"step/loss") == STEPS
    assert drawn.count(b"epoch/auc") == 4
    assert [event["event"] for event in events(out)].count("epoch") == 4


@pytest.mark.parametrize(("taps", "blend"), [(1, 1), (2, 0.5)])
def test_interrupted_run_goes_on_as_if_nothing_had_happened(
    world: Path, settings: TrainSettings, tmp_path: Path, taps: int, blend: float
) -> None:
    settings = msgspec.structs.replace(settings, taps=taps, blend=blend)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    heard = Listener()
    go(world, whole, settings, heard)
    heard_in_parts: dict[int, str] = {}
    for at in (2, 6, 9):
        listener = Listener(at, interrupt)
        with pytest.raises(InterruptedRunError, match=f"step {at} of {STEPS}.*--resume"):
            go(world, parts, settings, listener, resume=at > 2)
        assert not parts.exists()
        heard_in_parts |= listener.losses
    last = Listener()
    go(world, parts, settings, last, resume=True)
    assert heard_in_parts | last.losses == heard.losses
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(value, weights(parts)[name], err_msg=name)
    assert [(e["event"], e["step"]) for e in events(parts)] == [
        (e["event"], e["step"]) for e in events(whole)
    ]


def test_same_seed_same_detector_and_another_seed_another(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        go(world, tmp_path / name, msgspec.structs.replace(settings, seed=seed, fill="zero"))
    seals = {name: sha256((tmp_path / name / WEIGHTS).read_bytes()) for name in "abc"}
    assert seals["a"] == seals["b"] != seals["c"]


def test_a_blend_lies_between_the_backbone_and_what_was_learnt(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    learnt, half, frozen = (
        go(world, tmp_path / str(share), msgspec.structs.replace(settings, blend=share))
        for share in (1.0, 0.5, 0.0)
    )
    assert min(one.validation.auc or 0 for one in (learnt, half, frozen)) > 0.9
    assert "0.5 of the frozen tower" in Detector.from_folder(half.path)[1].card
    backbone = load_backbone(settings.backbone).weights
    every = [weights(one.path) for one in (learnt, half, frozen)]
    for name in backbone.keys() & every[0].keys():
        start, (a, b, c) = backbone[name].numpy(), (one[name] for one in every)
        np.testing.assert_array_equal(c, start, err_msg=name)
        np.testing.assert_allclose(b, (a + start) / 2, atol=1e-6, err_msg=name)
    key = "transformer.resblocks.1.mlp.c_proj.weight"
    assert np.abs(every[0][key] - backbone[key].numpy()).max() > 1e-4


def test_without_epochs_the_backbone_stays_and_the_head_is_fitted(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(without_epochs(settings), augment=0.5)
    frozen = go(world, tmp_path / "frozen", settings)
    assert (frozen.validation.auc or 0) > 0.9
    assert frozen.epochs == ()
    backbone = load_backbone(settings.backbone).weights
    stored = weights(frozen.path)
    for name in backbone.keys() & stored.keys():
        np.testing.assert_array_equal(stored[name], backbone[name].numpy(), err_msg=name)
    assert np.abs(stored["head.weight"]).max() > 0
    assert "tower, frozen" in Detector.from_folder(frozen.path)[1].card


def test_a_run_of_a_frozen_backbone_goes_on_without_its_file(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    """The checkpoint has its weights, and nothing is blended with them."""
    name, _, source = settings.backbone.partition("@")
    own = shutil.copy(source, tmp_path / "own.safetensors")
    settings = msgspec.structs.replace(without_epochs(settings), backbone=f"{name}@{own}")

    class AtHead(Listener):
        def line(self, text: str) -> None:
            if text.startswith("fitting the head"):
                interrupt()

    with pytest.raises(InterruptedRunError, match="--resume"):
        go(world, tmp_path / "frozen", settings, AtHead())
    Path(own).unlink()
    assert (go(world, tmp_path / "frozen", settings, resume=True).validation.auc or 0) > 0.9


def test_a_group_counts_by_the_root_of_its_images_and_classes_alike() -> None:
    def images(label: int, generator: str, count: int) -> list[Sample]:
        return [Sample(Path(f"{generator}{i}"), label, "set", generator) for i in range(count)]

    samples = [*images(0, "a", 1), *images(0, "b", 16), *images(1, "a", 4), *images(1, "c", 9)]
    weights_ = sample_weights(samples)
    real, generated = weights_[:17], weights_[17:]
    assert real.sum() == pytest.approx(15)
    assert generated.sum() == pytest.approx(15)
    assert real[1:].sum() == pytest.approx(4 * real[0])
    assert generated[4:].sum() == pytest.approx(1.5 * generated[:4].sum())


def test_interrupting_the_blend_does_not_blend_twice(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings, blend=0.5)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go(world, whole, settings)

    class AtBlend(Listener):
        def line(self, text: str) -> None:
            if text.startswith("blending"):
                interrupt()

    with pytest.raises(InterruptedRunError, match="--resume"):
        go(world, parts, settings, AtBlend())
    go(world, parts, settings, resume=True)
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(value, weights(parts)[name], err_msg=name)


def test_resume_names_what_differs(world: Path, settings: TrainSettings, tmp_path: Path) -> None:
    out = tmp_path / "detector"
    with pytest.raises(UsageError, match="nothing to resume"):
        go(world, out, settings, resume=True)
    with pytest.raises(InterruptedRunError):
        go(world, out, settings, Listener(1, interrupt))
    with pytest.raises(UsageError, match="pass --resume"):
        go(world, out, settings)
    other = msgspec.structs.replace(settings, head_lr=0.5)
    with pytest.raises(UsageError, match=r"head_lr: 0\.01, now 0\.5"):
        go(world, out, other, resume=True)
    with pytest.raises(UsageError, match="validation images are not those"):
        train([world / "val"], [world / "train"], out, settings, Listener(), resume=True)
    checkpoint = tmp_path / "detector.run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged"):
        go(world, out, settings, resume=True)


def test_divergence_stops_with_advice(world: Path, settings: TrainSettings, tmp_path: Path) -> None:
    wild = msgspec.structs.replace(settings, head_lr=1e38, backbone_lr=1e38)
    with pytest.raises(GateError, match="lower --backbone-lr"):
        go(world, tmp_path / "detector", wild)
    assert not (tmp_path / "detector").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB: room for the first checkpoint, not for one with moments."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_full_disk_keeps_the_last_checkpoint(
    world: Path, settings: TrainSettings, small_disk: Path
) -> None:
    out = small_disk / "detector"
    with pytest.raises(EnvironmentLacksError, match="disk is full"):
        go(world, out, settings)
    assert not out.exists()
    assert sorted(path.name for path in (small_disk / "detector.run").iterdir()) == [
        "checkpoint.safetensors", "log.jsonl", "tensorboard",
    ]  # fmt: skip
    with pytest.raises(EnvironmentLacksError, match="disk is full"):
        go(world, out, settings, resume=True)


def test_a_disk_without_room_for_the_weights_is_told(detector: Path, small_disk: Path) -> None:
    folder, ballast = read_detector(detector), fill(small_disk)
    os.truncate(ballast, ballast.stat().st_size - 16384)
    with pytest.raises(EnvironmentLacksError, match="disk is full"):
        write_detector(small_disk / "out", folder.spec, folder.weights, folder.golden, "card")
    assert list(small_disk.iterdir()) == [ballast]


def test_the_device_chooses_the_precision_and_the_run_records_it(
    world: Path, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = msgspec.structs.replace(settings, precision="auto", epochs=1)
    out, told = tmp_path / "detector", Listener(1, interrupt)
    told.total = 3
    able = "has bf16" if has_bf16(torch.device("cpu")) else "has no bf16"
    with pytest.raises(InterruptedRunError):
        go(world, out, auto, told)
    [line] = [line for line in told.lines if line.startswith("matmuls in")]
    assert able in line
    # Elsewhere the same command goes on as it began.
    other = "has no bf16" if able == "has bf16" else "has bf16"
    monkeypatch.setattr("mpft_deploy.detector.train.has_bf16", lambda device: other == "has bf16")
    told = Listener()
    told.total = 3
    go(world, out, auto, told, resume=True)
    [line] = [line for line in told.lines if line.startswith("matmuls in")]
    assert other in line
    recorded = Detector.from_folder(out)[1].spec.training["settings"]["precision"]
    assert recorded == ("bf16" if able == "has bf16" else "f32")


@pytest.mark.parametrize(
    ("instructions", "able"),
    [
        ((), False),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), False),
        (("avx512_bf16",), True),
        (("amx_bf16",), True),
        (("asimddp", "bf16"), True),
    ],
)
def test_bf16_is_for_processors_with_instructions_for_it(
    instructions: tuple[str, ...], able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = msgspec.structs.replace(Device.here(), instructions=instructions)
    monkeypatch.setattr(Device, "here", lambda: device)
    assert has_bf16(torch.device("cpu")) == able
