"""The folder of a training run, `OUT.run` beside the detector: checkpoint, log and curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from mpft_deploy.detector.curves import FILES, Curves
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.evaluate.scores import Score
from mpft_deploy.files import display, explain_unwritable, write_atomic
from mpft_deploy.spec import MALFORMED, Record, convert_record
from mpft_deploy.standing import marked_folder
from mpft_deploy.weights import Stored

CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.jsonl", "tensorboard"
FOLDS = "folds.parquet"
FEATURES = {stored: f"features.{stored}.raw" for stored in get_args(Stored)}
NAMES = (FOLDS, *FEATURES.values(), LOG, CHECKPOINT)
OUTPUT = marked_folder(
    "a training run",
    {CHECKPOINT: b'{"__metadata__":{"progress":', LOG: b'{"event":'},
    (*NAMES, CURVES),
)

Tensors = Mapping[str, npt.NDArray[np.generic]]


class EpochReport(Record, frozen=True):
    """An epoch's end.

    All of the model in training, before it is blended and its head fitted anew.
    loss: mean training loss of the epoch. validation: under the inference rule, logits cut at 0.
    train_rule_auc, all_cells_auc: AUC on validation under the training rule and with all cells.
    """

    epoch: int
    loss: float
    validation: Score
    train_rule_auc: float
    all_cells_auc: float


class Progress(Record, frozen=True):
    """How far a run has come: steps done, epochs reported, seconds spent in steps."""

    settings: TrainSettings
    data: dict[str, str]
    step: int = 0
    seconds: float = 0.0
    epochs: tuple[EpochReport, ...] = ()


class RunFolder:
    """Reads and writes a run's files; each is whole or absent, apart from the growing log."""

    def __init__(self, out: Path) -> None:
        """Args: out, where the detector shall stand."""
        whole = out.absolute()  # "." has no name of its own
        self.path = whole.with_name(whole.name + ".run")
        self.events: list[dict[str, Any]] = []
        self._curves: Curves | None = None

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """A UsageError unless a run may begin here, or go on; changes nothing."""
        there = (self.path / CHECKPOINT).exists()
        if resume and not there:
            raise UsageError(f"nothing to resume: {display(self.path / CHECKPOINT)} does not exist")
        if there and not (resume or overwrite):
            raise UsageError(
                f"{display(self.path)} holds a run: pass --resume to go on with it, "
                "or --overwrite to begin anew"
            )

    def start(self) -> None:
        """Begin an empty run, in place of one that is there."""
        with explain_unwritable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for name in NAMES:  # it is a run to the last
                (self.path / name).unlink(missing_ok=True)
            for events in (self.path / CURVES).glob(FILES):
                events.unlink()

    def draw(self, progress: Progress) -> None:
        """From here on, draw what is logged."""
        with explain_unwritable(self.path / CURVES):
            settings = msgspec.to_builtins(progress.settings)
            self._curves = Curves(self.path / CURVES, settings, progress.step)

    def close(self) -> None:
        """Nothing more is drawn."""
        if self._curves is not None:
            with explain_unwritable(self.path / CURVES):
                self._curves.close()

    def features(self, stored: Stored) -> Path:
        """Where the features of weights that are rounded so are kept."""
        return self.path / FEATURES[stored]

    def save(self, progress: Progress, tensors: Tensors) -> None:
        """Write the checkpoint; the one before stays until this one is whole."""
        metadata = {"progress": msgspec.json.encode(progress).decode()}
        write_atomic(self.path / CHECKPOINT, safetensors.numpy.save(dict(tensors), metadata))

    def load(self) -> tuple[Progress, Tensors]:
        """Read the checkpoint, and the log up to it.

        Raises:
            InputError: the checkpoint is damaged or from another version.
        """
        path = self.path / CHECKPOINT
        try:
            with safetensors.safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            payload = msgspec.json.decode(metadata["progress"])
        except (*MALFORMED, safetensors.SafetensorError, KeyError, OSError) as error:
            raise InputError(
                f"{display(path)} is damaged ({error}); begin anew with --overwrite"
            ) from None
        progress: Progress = convert_record(payload, Progress, display(path))
        self._restore_log(progress)
        return progress, tensors

    def log(self, event: str, **fields: Any) -> None:
        """Append a line to the log, and its numbers to the curves."""
        entry = {"event": event, **fields}
        self.events.append(entry)
        with explain_unwritable(self.path / LOG), (self.path / LOG).open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self._curves is None:
            return
        numbers = {
            f"{event}/{name}": value
            for name, value in fields.items()
            if name not in ("step", "epoch") and value is not None
        }
        with explain_unwritable(self.path / CURVES):
            self._curves.add(fields["step"], numbers)

    def _restore_log(self, progress: Progress) -> None:
        """Drop the events after the checkpoint: they will come again."""
        path = self.path / LOG
        done = len(progress.epochs)
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the run was cut off
            late = event["epoch"] > done if event["event"] == "epoch" else False
            if event["step"] <= progress.step and not late:
                self.events.append(event)
        lines = "".join(json.dumps(event) + "\n" for event in self.events)
        write_atomic(path, lines.encode())
