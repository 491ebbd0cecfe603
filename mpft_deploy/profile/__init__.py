"""Latency, measured honestly."""
