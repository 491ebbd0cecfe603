"""From images and frames to verdicts: sources yield frames, the screener judges, reports show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpft_deploy.screen.screener import Judgement, Screener

__all__ = ["Judgement", "Screener"]


def __getattr__(name: str) -> Any:
    """Load the screener when it is asked for: addresses are read without it, at every start."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mpft_deploy.screen import screener

    return getattr(screener, name)
