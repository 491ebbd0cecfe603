"""Run a GStreamer pipeline that comes on standard input; a program of its own.

`ps` shows every user what a process was started with, passwords among it, so gst-launch-1.0 must
not be given them. Whichever Python has GStreamer's bindings runs this; it imports nothing of ours.
"""

from __future__ import annotations

import importlib
import sys

LACKS = 3
"""Exit code where the bindings are missing."""


def main() -> int:
    try:
        importlib.import_module("gi").require_version("Gst", "1.0")
        gst = importlib.import_module("gi.repository.Gst")
    except (ImportError, ValueError):
        return LACKS
    gst.init(None)
    if "--probe" in sys.argv:
        return 0
    try:
        pipeline = gst.parse_launch(sys.stdin.read())
    except Exception as error:  # GLib.Error, which only the bindings know
        print(f"ERROR: {getattr(error, 'message', error)}", file=sys.stderr)
        return 1
    pipeline.set_state(gst.State.PLAYING)
    wanted = gst.MessageType.ERROR | gst.MessageType.EOS
    message = pipeline.get_bus().timed_pop_filtered(gst.CLOCK_TIME_NONE, wanted)
    failed = message.type == gst.MessageType.ERROR
    if failed:
        print(f"ERROR: {message.parse_error()[0].message}", file=sys.stderr)
    pipeline.set_state(gst.State.NULL)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
