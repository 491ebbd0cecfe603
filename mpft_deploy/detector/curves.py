"""Numbers of a run for TensorBoard, and for Weights & Biases where that is installed."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from mpft_deploy.errors import EnvironmentLacksError

FILES = "events.out.tfevents.*"


class Curves:
    """Written as they come, so that whoever looks sees the run as it is."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Begin to write into a folder, or go on after `step`: what came later is drawn no more."""
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{step}")
        began = SessionLog(status=SessionLog.START)
        self._write(Event(step=step + 1, session_log=began))
        self._wandb = _weights_and_biases(folder.parent, settings)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Draw numbers, by name, at a step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(Event(step=step, summary=Summary(value=values)))
        if self._wandb is not None:
            self._wandb.log(dict(numbers), step=step)

    def close(self) -> None:
        self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()


def _weights_and_biases(run: Path, settings: Mapping[str, Any]) -> Any:
    """A run there, as its environment variables say; offline where nobody is logged in."""
    if importlib.util.find_spec("wandb") is None:
        return None
    import wandb

    known = "WANDB_MODE" in os.environ or wandb.api.api_key is not None
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mpft"),
            name=run.stem,
            dir=run,
            config=dict(settings),
            mode=None if known else "offline",
        )
    except wandb.Error as error:
        raise EnvironmentLacksError(
            f"Weights & Biases did not begin a run ({error}): set WANDB_MODE to offline, or to "
            "disabled"
        ) from None
