"""Screening live streams: sources that stay alive, fair batches, and verdicts from many frames."""
