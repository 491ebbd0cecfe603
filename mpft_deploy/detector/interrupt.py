"""Signals that ask a run to stop, heard only where stopping is safe."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType


class StopRequestedError(Exception):
    """A signal came; raised only where the state is that of a whole number of steps."""


@contextlib.contextmanager
def stop_signals() -> Generator[Callable[[], None], None, None]:
    """Turn SIGINT and SIGTERM into a StopRequestedError at the next call of what is yielded.

    A second signal acts at once, as it would without this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may handle signals
        return
    requested = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        requested.set()
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    def check() -> None:
        if requested.is_set():
            raise StopRequestedError

    for number in before:
        signal.signal(number, request)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
