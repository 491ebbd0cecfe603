"""Logs of a service: plain lines or JSON lines on standard error, free of secrets."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection

from mpft_deploy.screen.streams.address import redact_text


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool, secrets: Callable[[], Collection[str]]) -> None:
        super().__init__()
        self._json, self._secrets = as_json, secrets

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows in plain logs and is a field in JSON."""
        message = redact_text(record.getMessage(), self._secrets())
        trace = ""
        if record.exc_info:
            trace = redact_text(self.formatException(record.exc_info), self._secrets())
        if self._json:
            entry = {"time": record.created, "level": record.levelname.lower()}
            entry |= {"logger": record.name, "message": message}
            return json.dumps({**entry, "trace": trace} if trace else entry)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{when} {record.levelname.lower()}: {message}" + (f"\n{trace}" if trace else "")


def set_up_logging(*, as_json: bool, secrets: Callable[[], Collection[str]]) -> None:
    """Log from level INFO on to standard error, what ends threads of libraries as well.

    Args:
        secrets: asked for each line, since a configuration may be read anew.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json, secrets))
    root = logging.getLogger("mpft_deploy")
    root.handlers, root.propagate = [handler], False
    root.setLevel(logging.INFO)

    def failed(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = args.thread.name if args.thread is not None else "?"
            root.error("the thread %s failed", name, exc_info=args.exc_value)

    threading.excepthook = failed
