"""The processes of a run: one, or as many as `torchrun` starts, on any number of machines.

PyTorch's own collectives, and nothing above them: what a step averages over is the whole batch, so
all that has to travel are features, gradients and a few decisions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from mpft_deploy.cores import available_cores
from mpft_deploy.detector.model import choose_device
from mpft_deploy.errors import EnvironmentLacksError, InputError, MpftError, UsageError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long the others wait while the first fits a head or looks for bad images."""


def is_first() -> bool:
    """Whether this process is the one that tells and writes: of several, that of rank 0."""
    return os.environ.get("RANK", "0") == "0"


def threads() -> int:
    """Threads for each process of this machine, at least 1: together as many as it has cores."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True)
class Processes:
    """This process among those of a run; without others, nothing here costs anything.

    What is called on one must be called on all, in the same order.

    Attributes:
        rank: its number; 0 is the first, which tells and writes.
        count: how many there are.
        device: its own.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    @contextlib.contextmanager
    def join(cls, device: str) -> Iterator[Processes]:
        """Meet the others, if `torchrun` or its like started any.

        Args:
            device: `auto`, `cpu`, or `cuda`, of which each process takes one of its machine's.

        Raises:
            UsageError: the device cannot be used, or there are not enough of it.
            EnvironmentLacksError: another process ended, or cannot be met.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            yield cls(device=choose_device(device))
            return
        rank = int(os.environ.get("RANK", "0"))
        try:
            own = _own_device(device)
            started = not distributed.is_initialized()
            if started:
                backend = "nccl" if own.type == "cuda" else "gloo"
                distributed.init_process_group(backend, timeout=PATIENCE)
            if own.type == "cpu":
                torch.set_num_threads(threads())
            yield cls(rank, count, own)
            if started:
                distributed.destroy_process_group()
        except (InputError, EnvironmentLacksError) as error:  # its own files, its own machine
            if rank:
                raise type(error)(f"process {rank} of {count}: {error}") from None
            raise
        except MpftError as error:  # of all alike: the first tells it
            if rank:
                raise SystemExit(error.exit_code) from None
            raise
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            raise EnvironmentLacksError(
                f"process {rank} of {count} lost the others ({str(error).splitlines()[0]}): see "
                "what they said, and go on with --resume"
            ) from None

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first process, on all; where it fails, all end."""
        if self.count == 1:
            return make()
        failure: Exception | None = None
        told: list[Any] = [None, 0]
        if self.first:
            try:
                told[0] = make()
            except Exception as error:
                failure, told[1] = error, getattr(error, "exit_code", 1)
        distributed.broadcast_object_list(told, device=self.device)
        if failure is not None:
            raise failure
        if told[1]:
            raise SystemExit(told[1])
        return cast(T, told[0])

    def any(self, value: bool) -> bool:
        """Whether it is so on any process."""
        return bool(self.sum(torch.tensor(int(value), device=self.device)))

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place; the same bits on each."""
        if self.count > 1:
            distributed.all_reduce(value)
        return value

    def align(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the first one's values, in place."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def share(self, count: int) -> range:
        """Which of `count` things are this process's: as many as the others', or one more."""
        return range(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def own(self, items: Sequence[T], batch: int) -> list[T]:
        """The items whose batches are this process's turn; see `in_turns`."""
        return [item for at, item in enumerate(items) if at // batch % self.count == self.rank]

    def in_turns(self, made: Iterator[T], turns: int) -> Iterator[T]:
        """What all processes make of batches, to all, in the batches' order.

        Args:
            made: this process's, of batch `rank` and of each `count`-th after it.
            turns: batches of all processes together.
        """
        if self.count == 1:
            yield from made
            return
        for turn in range(0, turns, self.count):
            parts: list[Any] = [None] * self.count
            distributed.all_gather_object(parts, next(made, None))
            yield from parts[: turns - turn]


ALONE = Processes()


def _own_device(name: str) -> torch.device:
    """The device of one of several processes on a machine."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    device = choose_device(name)
    if device.type != "cuda":
        return device
    if ":" in name:
        raise UsageError(f"--device {name} is one device: of several processes each takes its own")
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if wanted > there:
        raise UsageError(
            f"{wanted} processes on a machine with {there} GPUs: start as many as it has "
            "(torchrun --nproc-per-node), or pass --device cpu"
        )
    own = torch.device("cuda", number)
    torch.cuda.set_device(own)
    return own
