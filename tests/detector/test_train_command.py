"""`mpft train` as a person runs it: what it refuses at the start, Ctrl-C, what it leaves out."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from PIL import Image
from training import Listener, go, interrupt, without_epochs

from mpft_deploy.cli.main import cli, run
from mpft_deploy.cli.train import _Bar, _Lines
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.detector.train import InterruptedRunError, train
from mpft_deploy.detector_folder import read_spec
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.extras import how_to_install

SCRIPT = """
import sys, open_clip
from mpft_deploy.cli.main import cli, run
from mpft_deploy.cli.train import command
open_clip.add_model_config(sys.argv[1])
sys.exit(run(cli, "mpft", sys.argv[2:]))
"""


def arguments(world: Path, out: Path, backbone: str) -> list[str]:
    return [
        "train", str(world / "train"), "--val", str(world / "val"), "--out", str(out),
        "--backbone", backbone, "--train-keep", "smooth:6", "--keep", "textured:7", "--depth", "2",
        "--taps", "1", "--blend", "1", "--batch", "8", "--backbone-lr", "1e-3", "--seed", "3",
        "--precision", "f32", "--epochs", "4",
    ]  # fmt: skip


def test_ctrl_c_in_a_terminal_and_resume(
    world: Path, tiny_config: Path, tiny_backbone: str, tmp_path: Path
) -> None:
    out = tmp_path / "detector"
    many = [*arguments(world, out, tiny_backbone), "--epochs", "2000"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tiny_config), *many],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "detector.run" / "log.jsonl"
    while not (log.exists() and log.read_text().count('"step"') > 3):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.run"]
    assert "checkpoint.safetensors" in {path.name for path in (tmp_path / "detector.run").iterdir()}


def test_command_line(
    world: Path, tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "detector"
    usual = arguments(world, out, tiny_backbone)
    assert run(cli, "mpft", [*usual, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["validation"]["auc"] > 0.95
    assert run(cli, "mpft", usual) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_time_left_is_of_the_work_that_is_going_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Views that the head is fitted on went by the speed of the steps before them."""
    now = [0.0]
    monkeypatch.setattr("mpft_deploy.cli.train.time", SimpleNamespace(monotonic=lambda: now[0]))
    for reporter in (_Lines(), _Bar()):
        for done, total, seconds in ((1, 2, 3600), (2, 2, 3600), (32, 128, 60), (64, 128, 60)):
            now[0] += seconds
            reporter.step(done, total, "views")
    assert capsys.readouterr().err.splitlines()[-1] == "64/128 views, 2.0 minutes left"
    assert [(task.completed, task.total) for task in reporter._bar.tasks] == [(2, 2), (64, 128)]


def test_missing_extra_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mpft_deploy.detector.NEEDS", ("torch", "mpft_no_such_package"))
    assert run(cli, "mpft", ["train", str(tmp_path), "--out", str(tmp_path / "d")]) == 3
    assert how_to_install("train") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "code", "told"),
    [
        (["--train-keep", "smoothest:6"], 2, "smooth:K"),
        (["--keep", "textured:17"], 2, "only 16 cells"),
        (["--depth", "4"], 2, "1 to 3 blocks"),
        (["--epochs", "-1"], 2, "--epochs"),
        (
            ["--epochs", "0", "--ema", "0.9"],
            2,
            "--train-keep, --batch, --backbone-lr, --ema, --blend: without effect without --epochs",
        ),
        (["--fill", "blur"], 2, "--fill"),
        (["--device", "abacus"], 2, "abacus"),
        (["--val", "nowhere"], 1, "nowhere"),
        (["--backbone", "mpft-tiny@nowhere.safetensors"], 1, "nowhere.safetensors: no such file"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    extra: list[str], code: int, told: str, world: Path, tiny_backbone: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "detector"
    assert run(cli, "mpft", [*arguments(world, out, tiny_backbone), *extra]) == code
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "without"),
    [
        *((f"--{name} 0.3", "epochs") for name in ("head-lr", "layer-decay", "dropout", "blend")),
        ("--lora 2", "epochs"),
        ("--fill zero", "epochs"),
        ("--micro-batch 4", "epochs"),
        ("--false-alarm 5%", "folds"),
        ("--epochs 1 --false-alarm 5%", "folds"),
    ],
)
def test_what_would_do_nothing_is_refused(
    options: str, without: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "detector"
    given = ["train", str(world / "train"), "--val", str(world / "val"), "--out", str(out)]
    assert run(cli, "mpft", [*given, *options.split()]) == 2
    name = options.split()[-2]
    assert f"{name}: without effect without --{without}:" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_images_are_decoded_last(
    world: Path, tiny_backbone: str, settings: TrainSettings, tmp_path: Path
) -> None:
    """None of these can be decoded, so whatever is told was found before that."""
    for split in ("train", "val"):
        for name in ("0_real", "1_fake"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            (folder / f"{split}.png").write_bytes(b"no image")
    data, out = tmp_path / "data", tmp_path / "detector"
    nowhere = msgspec.structs.replace(settings, backbone="mpft-tiny@nowhere.safetensors")
    with pytest.raises(InputError, match="no such file"):
        go(data, out, nowhere)
    (tmp_path / "detector.run").write_text("a file where the run should stand")
    with pytest.raises((OSError, UsageError, EnvironmentLacksError), match=r"detector\.run"):
        go(data, out, settings)
    (tmp_path / "detector.run").unlink()
    with pytest.raises(InputError, match="2 of 2 images cannot be read"):
        go(data, out, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_copies_in_training_and_validation_are_left_out_of_training(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(world, data)
    for index in range(90):  # so that one copy is no more than a slip
        pixels = np.random.default_rng(index).integers(0, 255, (70, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"val/colours/0_real/more{index}.png")
    copied = data / "val/colours/0_real/more0.png"
    shutil.copy(copied, data / "train/colours/0_real/again.png")
    told = Listener(1, interrupt)
    with pytest.raises(InterruptedRunError):
        go(data, tmp_path / "detector", settings, told)
    assert any("1 of 110 validation images" in line for line in told.lines)
    assert "24 images to learn from, 110 to validate on" in told.lines


def test_training_on_the_validation_images_is_refused(
    world: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--val"):
        train([world / "train"], [world / "train"], tmp_path / "d", settings, Listener())


def test_no_more_than_some_images_are_looked_at_before_the_first_step(
    world: Path, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that teach the head and those that are validated on; the others come when they come."""
    monkeypatch.setattr("mpft_deploy.detector.probe.MOST", 6)
    monkeypatch.setattr("mpft_deploy.detector.train.MOST", 6)
    told = Listener(1, interrupt)
    with pytest.raises(InterruptedRunError):
        go(world, tmp_path / "detector", settings, told)
    assert "decoding 12 images, to find bad ones and copies" in told.lines
    assert "24 images to learn from, the head from 6 of them, 6 of 20 to validate on" in told.lines
    go(world, tmp_path / "frozen", without_epochs(settings))
    [learnt] = read_spec(tmp_path / "frozen").training["train"].values()
    assert sum(learnt.values()) == 6  # of a frozen backbone these are all
