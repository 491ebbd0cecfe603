"""Watching a stream from a program: events as they come.

python examples/watch_stream.py BUNDLE rtsp://camera/stream
"""

from __future__ import annotations

import contextlib
import sys

from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.records import FrameEvent, SourceEvent, StreamEvent


def main(bundle: str, address: str) -> None:
    """Print what happens, until the stream has ended, or Ctrl-C."""
    for event in Screener.open(bundle).watch(address, decode=5.0):
        if isinstance(event, FrameEvent):
            print(f"{event.verdict} ({event.probability:.2f}), {event.age_ms:.0f} ms old")
        elif isinstance(event, StreamEvent):
            print(f"the stream is {event.verdict} now, it was {event.previous}: {event.reason}")
        elif isinstance(event, SourceEvent):
            print(f"{event.source} is {event.state} {event.reason}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
