"""Events in words, for people."""

from __future__ import annotations

import sys
import time

from mpft_deploy.files import printable
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.screen.tell.stats import Worker


class TextSink(Worker[str]):
    """Changes of verdicts and states, a line each, on standard output."""

    def __init__(self) -> None:
        super().__init__("text", self._print, 1000)

    def send(self, event: Event) -> None:
        """Queue a line."""
        if not isinstance(event, FrameEvent):
            self.put(line(event))

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def line(event: StreamEvent | SourceEvent) -> str:
    """When, of what, and what happened."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    if isinstance(event, StreamEvent):
        of = " of generation found" if event.verdict == "no sign" else ""
        what = (
            f"{event.verdict.upper()}{of} (was {event.previous}: {event.reason}; "
            f"evidence {event.evidence:+.1f} from {event.frames} frames, "
            f"worth {event.independent:.1f} independent ones)"
        )
        if event.reason == "drift":
            what += "; the camera does not show what it was taught by: teach it again"
    else:
        what = event.state + (f": {event.reason}" if event.reason else "")
        if event.retry_in is not None:
            what += f"; trying again in {event.retry_in:.0f} s"
    return printable(f"{when}  {event.stream}  {what}")
