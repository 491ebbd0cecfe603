"""`mpft train`: a detector from a CLIP backbone, frozen or fine-tuned."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from mpft_deploy.cli.console import parse_share
from mpft_deploy.cli.options import PATH, Number
from mpft_deploy.cli.standard import is_terminal
from mpft_deploy.detector.recipe import Recipe

PLAIN_SECONDS = 15.0
"""How often a step is reported where there is no terminal."""


def setting(
    name: str, text: str, kind: click.ParamType[Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for one of `TrainSettings`, with its default."""
    default = getattr(Recipe, name.removeprefix("--").replace("-", "_"))
    return click.option(name, type=kind, default=default, show_default=True, help=text)


@click.command()
@click.argument("data", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="Detector folder.")
@click.option(
    "--val",
    multiple=True,
    type=PATH,
    help="Images to validate and calibrate on. Default: split `val` of DATA.",
)
@setting("--backbone", "NAME[@SOURCE]: an open_clip model, and a tag of it or a file of weights.")
@setting(
    "--train-keep",
    "Cells kept while fine-tuning: smooth:K, textured:K, random:K or all; several by `+`.",
)
@setting("--keep", "Cells kept at inference.")
@setting(
    "--fill",
    "While fine-tuning, drop the other cells or zero their pixels.",
    click.Choice(["drop", "zero"]),
)
@setting("--depth", "Use the first D blocks. Default: two thirds.", click.IntRange(1))
@setting(
    "--taps",
    "Read the class token after each of the last T of them. Default: three quarters.",
    click.IntRange(1),
)
@setting("--epochs", "Passes over the images; 0 leaves the backbone frozen.", click.IntRange(0))
@setting("--batch", "Images a step, of all processes together.", click.IntRange(2))
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    help="Images that a process runs at a time, for less memory.  [default: its share of a step]",
)
@setting("--backbone-lr", "Highest learning rate of the backbone.", Number(0))
@setting("--head-lr", "Highest learning rate of the head.", Number(0, min_open=True))
@setting(
    "--layer-decay",
    "Factor of the backbone's rate from each block to the one before it.",
    Number(0, 1, min_open=True),
)
@setting(
    "--lora",
    "Fine-tune updates of this rank in place of the backbone's matrices.  0: all of it.",
    click.IntRange(0),
)
@setting(
    "--ema",
    "Keep a moving average of the weights, this share of itself at each step.  0: none.",
    Number(0, 1, max_open=True),
)
@setting(
    "--augment",
    "Share of training images that are resized, blurred or re-saved, of both classes.",
    Number(0, 1),
)
@setting(
    "--dropout",
    "Share of what the head reads that is zeroed while fine-tuning.",
    Number(0, 1, max_open=True),
)
@setting(
    "--blend",
    "Share of the fine-tuned weights in those that are kept; the rest are the backbone's.",
    Number(0, 1),
)
@setting(
    "--folds",
    "Leave out each of N parts of DATA in turn, whole generators and sources, in place of --val; "
    "with --epochs 0.",
    click.IntRange(0),
)
@click.option(
    "--false-alarm",
    metavar="SHARE",
    type=str,
    default=Recipe.false_alarm,
    show_default=True,
    callback=parse_share,
    help="With --folds: call at most this share of an average source's real images generated.",
)
@setting("--seed", "Decides order, crops and all else that is drawn.", click.IntRange(0, 2**32 - 1))
@setting(
    "--precision",
    "Of matmuls while fine-tuning; auto: bf16 where the device has it. Weights, calibration and "
    "golden logits are float32.",
    click.Choice(["auto", "bf16", "f32"]),
)
@click.option(
    "--stored",
    type=click.Choice(["float32", "int8", "int6"]),
    default="float32",
    show_default=True,
    help="How matrices are stored, with one scale a row; what is measured belongs to them so.",
)
@click.option(
    "--golden",
    type=click.Choice(["validation", "synthetic"]),
    default="validation",
    show_default=True,
    help="Crops that prove engines; synthetic ones hold nobody's images.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT.run.")
@click.option("--overwrite", is_flag=True, help="Replace a detector or run that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    data: tuple[Path, ...],
    out: Path,
    val: tuple[Path, ...],
    stored: Any,
    golden: Any,
    device: str,
    micro_batch: int | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a detector on DATA: real and generated images.

    The backbone stays frozen and its head is taught, unless --epochs fine-tunes it, without which
    options of fine-tuning, such as rates and --batch, are refused. With --folds images of all
    splits are learnt from.

    DATA are folders, CSV manifests, Parquet files, WebDataset's shards, or folders that Hugging
    Face's save_to_disk wrote. Folders may be laid out as 0_real and 1_fake, real and fake, or
    nature and ai, at any depth; what is not understood is an error. Images that both classes have,
    or training and validation, as the same file or a copy, are left out.
    Checkpoint, log and curves stay in OUT.run; an interrupted run goes on with --resume.

    On several GPUs or machines: torchrun --nproc-per-node 8 --no-python mpft train ….
    """
    from mpft_deploy.detector import require_train_extra

    require_train_extra()
    import msgspec

    from mpft_deploy.detector.processes import is_first
    from mpft_deploy.detector.settings import TrainSettings
    from mpft_deploy.detector.train import train

    with _progress() if is_first() else _Silent() as reporter:
        trained = train(
            data,
            val or (() if settings["folds"] else data),
            out,
            TrainSettings(**settings),
            reporter,
            resume=resume,
            overwrite=overwrite,
            stored=stored,
            golden=golden,
            device=device,
            micro_batch=micro_batch,
        )
    if not is_first():
        return
    validation = trained.validation
    if as_json:
        result = {
            "detector": str(out),
            "validation": msgspec.to_builtins(validation),
            "calibration": msgspec.to_builtins(trained.calibration),
            "epochs": msgspec.to_builtins(trained.epochs),
            "step_seconds": round(trained.step_seconds, 3),
        }
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{out}: validation AUC {validation.auc:.4f}, balanced accuracy "
        f"{validation.balanced_accuracy:.3f}; {trained.step_seconds:.2f} s a step"
    )


def _progress() -> _Bar | _Lines:
    return _Bar() if is_terminal(sys.stderr) else _Lines()


class _Silent:
    """Of the processes of a run, all but one say nothing."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def line(self, text: str) -> None: ...

    def step(self, done: int, total: int, text: str) -> None: ...


class _Lines:
    """Progress as plain lines on stderr, for logs."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._first, self._total = 0, 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def line(self, text: str) -> None:
        click.echo(text, err=True)

    def step(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if total != self._total:  # other work has begun
            self._first, self._total, self._began = done, total, now
        if now - self._told < PLAIN_SECONDS and done < total:
            return
        self._told = now
        text = f"{done}/{total} {text}"
        if done > self._first:
            left = (now - self._began) / (done - self._first) * (total - done)
            text += f", {left / 60:.1f} minutes left"
        self.line(text)


class _Bar:
    """Progress as a bar with the time left, for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: Any = None
        self._total = 0

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, done: int, total: int, text: str) -> None:
        if total != self._total:  # other work has begun
            # Steps of an earlier session must not enter the speed that the time left goes by.
            self._task = self._bar.add_task("", total=total, completed=done - 1)
            self._total = total
        self._bar.update(self._task, completed=done, description=text)
