"""From images and frames to verdicts: sources yield frames, the screener judges, reports show."""

from mpft_deploy.screen.screener import Judgement, Screener

__all__ = ["Judgement", "Screener"]
