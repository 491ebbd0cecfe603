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
def stop_signals() -> Generator[Callable[[], bool], None, None]:
    """Yields what tells whether SIGINT or SIGTERM came, neither of which stops anything itself.

    A second signal acts at once, as it would without this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    requested = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        requested.set()
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, request)
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
