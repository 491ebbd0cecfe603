"""Runs of a tiny model: begun, listened to, and what they left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import msgspec
import numpy as np

from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.recipe import Recipe
from mpft_deploy.detector.settings import IDLE, TrainSettings
from mpft_deploy.detector.train import Trained, train

STEPS = 12  # 24 images, batches of 8, 4 epochs


def without_epochs(settings: TrainSettings) -> TrainSettings:
    """The settings of a run that leaves the backbone frozen, the others alike."""
    idle = {name: getattr(Recipe, name) for name in IDLE["epochs"]}
    return msgspec.structs.replace(settings, epochs=0, **idle)


class Listener:
    """Keeps what a run tells, and does something after a step."""

    def __init__(self, at: int = 0, act: object = None) -> None:
        self.lines: list[str] = []
        self.losses: dict[int, str] = {}
        self.at, self.act = at, act
        self.total = STEPS

    def line(self, text: str) -> None:
        self.lines.append(text)

    def step(self, done: int, total: int, text: str) -> None:
        if text == "views":
            return
        assert total == self.total
        self.losses[done] = text
        if done == self.at and callable(self.act):
            self.act()


def go(
    world: Path,
    out: Path,
    settings: TrainSettings,
    listener: Listener | None = None,
    **options: object,
) -> Trained:
    return train(
        [world / "train"], [world / "val"], out, settings, listener or Listener(), **options,
    )  # type: ignore[arg-type]  # fmt: skip


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def events(out: Path) -> list[dict[str, object]]:
    log = out.with_name(out.name + ".run") / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def weights(out: Path) -> dict[str, np.ndarray]:
    return Detector.from_folder(out)[0].weights()
