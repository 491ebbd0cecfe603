"""Runs of several processes against the same runs of one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest
import torch
from torch import distributed
from training import without_epochs

from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.processes import Processes, threads
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.detector.train import train
from mpft_deploy.errors import EnvironmentLacksError, UsageError

T = TypeVar("T")

SCRIPT = """
import sys, open_clip, torch
from mpft_deploy.cli.main import cli, run
open_clip.add_model_config(sys.argv[1])
torch.distributed.init_process_group("gloo")
for arguments in " ".join(sys.argv[2:]).split(" ; "):
    if code := run(cli, "mpft", arguments.split()):
        sys.exit(code)
"""


class Quiet:
    def __init__(self, at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.at, self.act = at, act

    def line(self, text: str) -> None: ...

    def step(self, done: int, total: int, text: str) -> None:
        if done == self.at:
            self.act()


def weights(out: Path) -> dict[str, np.ndarray]:
    return Detector.from_folder(out)[0].weights()


def options(settings: TrainSettings) -> list[str]:
    """The settings as the command takes them."""
    told = {k: v for k, v in msgspec.to_builtins(settings).items() if v is not None}
    return [word for k, v in told.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def events(out: Path) -> list[dict[str, float]]:
    log = out.with_name(out.name + ".run") / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What a second process finds in its environment; this one is the first, as by torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": port}  # fmt: skip
    before = torch.get_num_threads()
    for name, value in {**common, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    yield {**os.environ, **common, "RANK": "1"}
    torch.set_num_threads(before)


def test_two_processes_learn_what_one_learns_and_one_goes_on_where_the_other_is_killed(
    world: Path, tiny_config: Path, tiny_backbone: str, tmp_path: Path,
    joined: dict[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tuned = TrainSettings(
        backbone=tiny_backbone, train_keep="smooth:6+random:6", keep="textured:7", depth=2, taps=1,
        epochs=2, batch=7, backbone_lr=1e-3, head_lr=1e-2, seed=3, augment=0.3, precision="f32",
        ema=0.5,
    )  # fmt: skip
    frozen = msgspec.structs.replace(without_epochs(tuned), taps=2)
    data = ([world / "train"], [world / "val"])
    script, shared, parts = (tmp_path / name for name in ("run.py", "shared", "parts"))
    script.write_text(SCRIPT)
    ours = ["train", str(world / "train"), "--val", str(world / "val")]
    other = subprocess.Popen(
        [sys.executable, str(script), str(tiny_config), *ours, "--out", str(shared),
         *options(frozen), ";", *ours, "--out", str(parts), *options(tuned), "--micro-batch", "3"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=joined,
    )  # fmt: skip
    distributed.init_process_group("gloo", timeout=timedelta(minutes=4))
    together = train(*data, shared, frozen, Quiet())
    # After the first epoch's checkpoint, in the middle of the second. Of the batch of 7 one process
    # has 4 images, in two parts, and the other 3, in one.
    with pytest.raises(EnvironmentLacksError, match=r"process 0 of 2 lost the others .*--resume"):
        train(*data, parts, tuned, Quiet(6, other.kill), micro_batch=3)
    assert other.communicate(timeout=60)[0] == ""  # it tells nothing twice
    distributed.destroy_process_group()
    monkeypatch.delenv("WORLD_SIZE")

    train(*data, parts, tuned, Quiet(), resume=True)
    alone = train(*data, tmp_path / "frozen", frozen, Quiet())
    assert together.validation == alone.validation
    train(*data, tmp_path / "tuned", tuned, Quiet())
    for name, other_name in (("frozen", shared), ("tuned", parts)):
        got = weights(other_name)
        for key, value in weights(tmp_path / name).items():
            np.testing.assert_allclose(got[key], value, atol=2e-4, rtol=1e-3, err_msg=key)
    assert [e["step"] for e in events(parts)] == [e["step"] for e in events(tmp_path / "tuned")]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_shares_are_all_of_a_batch_and_even(count: int) -> None:
    for batch in (1, 7, 32):
        shares = [Processes(rank, count).share(batch) for rank in range(count)]
        assert [place for share in shares for place in share] == list(range(batch))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        owned = [Processes(rank, count).own(range(100), 8) for rank in range(count)]
        assert sorted(one for own in owned for one in own) == list(range(100))


def test_loading_threads_are_shared_by_the_processes_of_a_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpft_deploy.detector.processes.available_cores", lambda: 16)
    assert threads() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert threads() == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert threads() == 1


def test_a_batch_without_an_image_for_each_process_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def join(device: str) -> Iterator[Processes]:
        yield Crowd(0, 9)

    class Crowd(Processes):
        def from_first(self, make: Callable[[], T]) -> T:
            return make()

    monkeypatch.setattr(Processes, "join", join)
    with pytest.raises(UsageError, match=r"batch of 7 .* 9 processes"):
        train([world], [world], tmp_path / "d", TrainSettings(epochs=1, batch=7), Quiet())
