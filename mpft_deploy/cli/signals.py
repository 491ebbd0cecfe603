"""Ctrl-C, SIGTERM and SIGHUP: one way to be interrupted, for every command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

TYPE_CHECKING = False  # without importing typing, which takes its time
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask to stop; Windows has no SIGHUP."""


class Interrupted(BaseException):
    """A signal that asks to stop, raised where the main thread is.

    Attributes:
        exit_code: 128 and the signal's number, as shells report it.
        remark: what a person should know, which the command may set.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.exit_code = 128 + number
        self.remark = "nothing half-written was left behind"


def end_at_once() -> None:
    """From now on a signal ends the process without a word; so while nothing is begun."""
    _handle(_end)


def raise_interrupts() -> None:
    """From now on a signal raises `Interrupted`, and a second one ends the process at once."""
    sys.unraisablehook = _raise_again
    _handle(_raise)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Have something short come to its end: a signal that comes meanwhile is raised after it."""
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        end_at_once()
        came.append(number)

    numbers = [number for number in _stopping() if signal.getsignal(number) is _raise]
    for number in numbers:
        signal.signal(number, keep)
    try:
        yield
    finally:
        if came:
            raise Interrupted(came[0])
        for number in numbers:
            signal.signal(number, _raise)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Have an interruption say that the same command goes on from there."""
    try:
        yield
    except Interrupted as stop:
        stop.remark = "call the same command again to go on from here"
        raise


def _stopping() -> list[int]:
    return [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]


def _handle(action: Any) -> None:
    for number in _stopping():
        # Who started us in the background, or under nohup, had a signal ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, action)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    end_at_once()
    raise Interrupted(number)


def _raise_again(unraisable: Any) -> None:
    """Python drops what is raised in a finaliser or a callback: send that signal once more."""
    stop = unraisable.exc_value
    if isinstance(stop, Interrupted):
        import threading

        raise_interrupts()
        threading.Timer(0.01, os.kill, (os.getpid(), stop.number)).start()
    else:
        sys.__unraisablehook__(unraisable)
