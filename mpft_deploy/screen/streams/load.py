"""Noticing that a machine cannot judge every frame that it should."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mpft_deploy.screen.streams.tally import Tally

logger = logging.getLogger(__name__)

WINDOW = 5.0
"""Seconds over which frames are counted."""

OVERLOADED, RELIEVED = 0.10, 0.03
"""Shares of pictures lost for want of time: overload begins above one, ends below the other."""

REMIND = 60.0
"""Seconds until an overload that goes on is told again."""

CAUSES = ("overload", "superseded", "stale", "behind")
"""Of frames that a faster machine would have judged."""


class Load:
    """Tells when overload begins, goes on and ends; screening fewer frames is never silent.

    Attributes:
        reason: what is lost and what helps, in words; empty without overload.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._began: float | None = None
        self._told = 0.0
        self._before = (0, 0)

    def check(self, tallies: Iterable[Tally], now: float) -> None:
        """Look at all sources' counts; called a few times a second, now monotonic."""
        if self._began is not None and now - self._began < WINDOW:
            return
        lost = done = 0
        for tally in tallies:
            dropped = tally.dropped()
            lost += sum(dropped.get(cause, 0) for cause in CAUSES)
            done += tally.screened + tally.gated
        seconds = now - self._began if self._began is not None else 0.0
        new_lost, new_done = lost - self._before[0], done - self._before[1]
        new, first = new_lost + new_done, self._began is None
        if not first and new == 0 and seconds < REMIND:  # frames may come more seldom than windows
            return
        self._began, self._before = now, (lost, done)
        # Sources that went take their counts with them.
        if first or new_lost < 0 or new_done < 0:
            return
        share = new_lost / new if new else 0.0
        if share > OVERLOADED or (self.reason and share >= RELIEVED):
            begins = not self.reason
            self.reason = (
                f"{new_done / seconds:.1f} of {new / seconds:.1f} frames a second are judged, "
                "fewer of each source alike; use fewer sources, --decode keyframes or a lower "
                "rate, or a faster engine"
            )
            if begins or now - self._told >= REMIND:
                self._told = now
                logger.warning("overloaded: %s", self.reason)
        elif self.reason:
            self.reason = ""
            logger.warning("no longer overloaded: %.1f frames a second", new_done / seconds)
